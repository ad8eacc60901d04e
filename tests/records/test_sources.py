"""Files and databases: what can be wrong with one is told in one line, without any of its values."""

import datetime
import gzip
import os
import threading
import uuid

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet
import pytest
import sqlalchemy as sql

from protocol.errors import RecordsError
from records.dataset import load_records
from records.schema import Schema
from records.sources import open_source
from records.sources.sql import arrow_array

SECRET = "Xanthippe"  # noqa: S105 -- stands for a value of a record
COLUMNS = [
    {"name": "age", "kind": "integer", "lower": 0, "upper": 99, "missing": True},
    {"name": "ward", "kind": "categorical", "categories": ["a", "b", "None", "ü", "x,y", "two\nlines"]},
]
GOOD = "age,ward\n1,a\n2,b\n"


def _schema(**keys):
    return Schema.from_mapping({"columns": COLUMNS, **keys})


def _codes(tmp_path, content, name="records.csv", **keys):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_records(path, schema=_schema(**keys)).codes.tolist()


EXPECTED = [[1, 0], [2, 1]]


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (GOOD, {}),
        ("\ufeff" + GOOD, {}),
        (GOOD.replace("\n", "\r\n"), {}),
        (GOOD.replace("\n", "\r"), {}),
        (GOOD.rstrip("\n"), {}),
        (GOOD + "\n\n", {}),
        ("\n" + GOOD, {}),
        (" age , ward \n 1 , a \n2,b\n", {}),
        ('"age","ward"\n"1","a"\n2,"b"\n', {}),
        (GOOD.replace(",", ";"), {"format": {"separator": ";"}}),
        (GOOD.replace(",", "\t"), {"format": {"separator": "\t"}}),
        ("made on Monday\nby hand\n" + GOOD, {"format": {"skip_rows": 2}}),
        ("|remark\n|another\n" + GOOD, {"format": {"comment": "|"}}),
        ("1,a\n2,b\n", {"format": {"header": False, "names": ["age", "ward"]}}),
        ("\ufeff1,a\n2,b\n", {"format": {"header": False, "names": ["age", "ward"]}}),
        ("|x\n1,a\n2,b\n", {"format": {"header": False, "names": ["age", "ward"], "comment": "|"}}),
        ("ward,note,age\na,Xanthippe,1\nb,,2\n", {"drop": ["note"]}),
    ],
)
def test_a_file_in_many_forms(tmp_path, content, keys):
    assert _codes(tmp_path, content, **keys) == EXPECTED


@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.txt", "r.data", "r.test", "R.CSV"])
def test_endings_of_text_files(tmp_path, name):
    assert _codes(tmp_path, GOOD, name=name) == EXPECTED


def test_a_compressed_file(tmp_path):
    assert _codes(tmp_path, gzip.compress(GOOD.encode()), name="records.csv.gz") == EXPECTED


def test_quotes_hide_separators_and_line_ends(tmp_path):
    assert _codes(tmp_path, 'age,ward\n1,"x,y"\n2,"two\nlines"\n') == [[1, 4], [2, 5]]
    assert _codes(tmp_path, "age;ward\n1;x,y\n2;a\n", format={"separator": ";", "quote": ""}) == [
        [1, 4],
        [2, 0],
    ]


def test_an_open_quotation_mark_is_found_even_where_the_last_column_is_dropped(tmp_path):
    with pytest.raises(RecordsError, match="never closed"):
        _codes(tmp_path, f'age,ward,note\n1,a,"{SECRET}\n2,b,x\n', drop=["note"])
    closed = f'age,ward,note\n1,a,x\n2,b,"{SECRET}\n two lines"\n'
    assert _codes(tmp_path, closed, drop=["note"]) == EXPECTED


def test_none_is_a_category_and_an_empty_field_is_missing(tmp_path):
    assert _codes(tmp_path, "age,ward\n,None\n") == [[100, 2]]


def test_one_record_is_enough(tmp_path):
    assert _codes(tmp_path, "age,ward\n7,a") == [[7, 0]]


def test_latin_text_is_read_when_the_schema_says_so(tmp_path):
    assert _codes(tmp_path, "age,ward\n1,ü\n".encode("latin-1"), format={"encoding": "latin-1"}) == [[1, 3]]


def test_a_file_of_many_blocks(tmp_path):
    rows = 600_000
    codes = _codes(tmp_path, "age,ward\n" + "1,a\n2,b\n" * (rows // 2) + "3,None\n")
    assert len(codes) == rows + 1
    assert codes[-1] == [3, 2]
    assert codes[0] == [1, 0]


@pytest.mark.parametrize(
    ("content", "problem", "remedy"),
    [
        ("", "the file is empty", "file with records"),
        ("\n \n", "the file is empty", "file with records"),
        ("age,ward\n", "holds no records", "record"),
        ("age,ward", "holds no records", "record"),
        (GOOD.replace(",", ";"), "separator ',' does not occur", 'separator = ";"'),
        (GOOD.replace(",", "\t"), "separator ',' does not occur", r'separator = "\t"'),
        (GOOD + f"3\n4,a,{SECRET}\n", "2 rows have another number of fields than 2", "Mend these rows"),
        (f'age,ward\n1,"{SECRET}\n2,b\n', "opened and never closed", "quote"),
        (b"age,ward\n1,\xfc\n", "the text is not utf-8", "latin-1"),
        (b"\xfcage,ward\n1,a\n", "the text is not utf-8", "latin-1"),
        (GOOD.encode("utf-16"), "the text is not utf-8", "encoding"),
        ("age,age\n1,2\n", "same name", "Rename"),
        (f"1,{SECRET}\n2,b\n", "only 0 of 2 columns", "header = false"),
        ("age,ward,email\n1,a,x\n", "column email: looks like an identifier", "drop"),
        ("age\n1\n", "column ward: is not there", "schema"),
        (f"age,ward\n{SECRET},a\n1,b\n", "column age: 1 of 2 rows are not numbers", "missing_values"),
        (f"age,ward\n1,{SECRET}\n1,b\n", "column ward: 1 of 2 rows hold a category", "alias"),
    ],
)
def test_a_bad_file_is_told_in_one_line_without_a_value(tmp_path, content, problem, remedy):
    with pytest.raises(RecordsError) as caught:
        _codes(tmp_path, content)
    text = str(caught.value)
    assert text.startswith("records.csv: ")
    assert problem in text
    assert remedy in caught.value.remedy
    assert "\n" not in text
    assert SECRET not in text
    assert caught.value.__cause__ is None  # a chained error of Arrow's would print values


def test_the_reader_beneath_would_have_told_the_value(tmp_path):
    """The broken twin of the test above: passing on Arrow's message leaks, so that test can fail."""
    path = tmp_path / "records.csv"
    path.write_text(GOOD + f"3,a,{SECRET}\n", encoding="utf-8")
    with pytest.raises(pa.ArrowInvalid, match=SECRET):
        arrow_csv.read_csv(path)


def test_a_bare_file_with_the_wrong_separator(tmp_path):
    with pytest.raises(RecordsError, match="separator ',' does not occur"):
        _codes(tmp_path, "1;a\n2;b\n", format={"header": False, "names": ["age", "ward"]})


def test_a_blank_in_a_columns_name_is_not_taken_for_the_separator(tmp_path):
    with pytest.raises(RecordsError, match='separator = ";"'):
        _codes(tmp_path, "mean radius in mm;mean area in mm\n1;2\n")


def test_a_failed_reader_is_gone_before_its_failure_is_told(tmp_path, monkeypatch):
    """Arrow's thread lets go of the reader a moment later; were Python gone by then, the process would abort."""
    held = []

    def slow(*_, parse_options, **__):
        held.append(parse_options.invalid_row_handler)
        del parse_options  # which the error's traceback would hold, as that of compiled code does not
        threading.Timer(0.3, held.clear).start()
        raise pa.ArrowInvalid("Empty CSV file")

    monkeypatch.setattr(arrow_csv, "open_csv", slow)
    with pytest.raises(RecordsError, match="holds no records"):
        _codes(tmp_path, "age,ward\n")
    assert held == []


@pytest.mark.parametrize("name", ["records.csv", "records.parquet"])
def test_a_file_that_this_account_may_not_read(tmp_path, monkeypatch, name):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pa, "input_stream", refuse)
    monkeypatch.setattr(parquet, "ParquetFile", refuse)
    with pytest.raises(RecordsError, match="may not read") as caught:
        _codes(tmp_path, GOOD, name=name)
    assert str(tmp_path / name) in caught.value.remedy
    assert "separator" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(RecordsError, match="is a folder"):
        open_source(tmp_path, schema=_schema())


def test_names_of_columns_without_records(tmp_path):
    (tmp_path / "records.csv").write_text("age,ward\n")
    parquet.write_table(pa.table({"age": [1], "ward": ["a"]}), tmp_path / "records.parquet")
    engine = sql.create_engine(f"sqlite:///{tmp_path / 'records.db'}")
    with engine.begin() as connection:
        connection.execute(sql.text("CREATE TABLE visits (age INTEGER, ward TEXT)"))
    engine.dispose()
    for place in (
        tmp_path / "records.csv",
        tmp_path / "records.parquet",
        f"sqlite:///{tmp_path / 'records.db'}#visits",
    ):
        assert open_source(place, schema=_schema()).column_names() == ("age", "ward")
    with pytest.raises(RecordsError, match="the database refused"):
        open_source(f"sqlite:///{tmp_path / 'records.db'}#stays", schema=_schema()).column_names()


def test_a_file_that_is_not_what_its_ending_says(tmp_path):
    with pytest.raises(RecordsError, match="cannot be read as Parquet"):
        _codes(tmp_path, GOOD, name="records.parquet")
    with pytest.raises(RecordsError, match="cannot be read as separated text|is not utf-8"):
        _codes(tmp_path, GOOD, name="records.csv.gz")
    cut = gzip.compress((GOOD + "3,a\n" * 50_000).encode())[:-20]
    with pytest.raises(RecordsError, match="cannot be read as separated text"):
        _codes(tmp_path, cut, name="records.csv.gz")
    with pytest.raises(RecordsError, match="files of this kind cannot be read"):
        _codes(tmp_path, GOOD, name="records.xlsx")
    with pytest.raises(RecordsError, match="there is no such file"):
        open_source(tmp_path / "absent.csv", schema=_schema())


def test_parquet_keeps_its_types_and_dropped_columns_are_not_read(tmp_path):
    path = tmp_path / "records.parquet"
    table = pa.table({
        "age": pa.array([1.0, None]),
        "ward": pa.array(["a", "None"]).dictionary_encode(),
        "note": [SECRET, SECRET],
    })  # fmt: skip
    parquet.write_table(table, path)
    schema = _schema(drop=["note"])
    assert load_records(path, schema=schema).codes.tolist() == [[1, 0], [100, 2]]
    assert all("note" not in batch.schema.names for batch in open_source(path, schema=schema).batches())
    with pytest.raises(RecordsError, match="column note"):
        load_records(path, schema=_schema())


def test_an_empty_parquet_file(tmp_path):
    parquet.write_table(
        pa.table({"age": pa.array([], pa.int64()), "ward": pa.array([], pa.string())}), tmp_path / "e.pq"
    )
    with pytest.raises(RecordsError, match="holds no records"):
        load_records(tmp_path / "e.pq", schema=_schema())


def _fill(url, rows):
    engine = sql.create_engine(url)
    table = sql.Table(
        "visits",
        sql.MetaData(),
        sql.Column("age", sql.Integer),
        sql.Column("ward", sql.Text),
        sql.Column("note", sql.Text),
    )
    with engine.begin() as connection:
        table.drop(connection, checkfirst=True)
        table.create(connection)
        connection.execute(table.insert(), [{"age": age, "ward": ward, "note": SECRET} for age, ward in rows])
    engine.dispose()


def check_database(url):
    schema = _schema(drop=["note"])
    _fill(url, [(1, "a"), (None, "None")])
    assert load_records(f"{url}#visits", schema=schema).codes.tolist() == [[1, 0], [100, 2]]
    query = "#".join([url, "SELECT ward, age + 1 AS age FROM visits WHERE age IS NOT NULL"])
    assert load_records(query, schema=schema).codes.tolist() == [[2, 0]]
    _fill(url, [(index % 100, "b") for index in range(45_000)])
    source = open_source(f"{url}#visits", schema=schema)
    assert len(list(source.batches())) == 3  # streamed in blocks
    assert load_records(f"{url}#visits", schema=schema).codes[:, 0].tolist() == [index % 100 for index in range(45_000)]
    _fill(url, [(1, SECRET)])
    for location, problem in [
        (f"{url}#visits", "column ward: 1 of 1 rows hold a category"),
        (f"{url}#absent", "the database refused"),
        ("#".join([url, f"select {SECRET}"]), "the database refused"),
        (url, "no table is named"),
    ]:
        with pytest.raises(RecordsError, match=problem) as caught:
            load_records(location, schema=schema)
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_sqlite(tmp_path):
    check_database(f"sqlite:///{tmp_path / 'hospital.db'}")


def test_sqlite_columns_of_several_types_are_read_as_text(tmp_path):
    url = f"sqlite:///{tmp_path / 'hospital.db'}"
    _fill(url, [(1, "a")])
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sql.text("INSERT INTO visits VALUES ('2', 'b', NULL), (' ', 'a', NULL)"))
    engine.dispose()
    assert load_records(f"{url}#visits", schema=_schema(drop=["note"])).codes.tolist() == [
        [1, 0],
        [2, 1],
        [100, 0],
    ]


def test_a_sqlite_file_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(RecordsError, match="no such file"):
        load_records(f"sqlite:///{tmp_path / 'absent.db'}#visits", schema=_schema())
    assert not (tmp_path / "absent.db").exists()


def test_a_database_password_is_never_shown():
    location = f"postgresql+nodriver://ann:{SECRET}@host/db#visits"
    source = open_source(location, schema=_schema())
    assert SECRET not in source.name
    with pytest.raises(RecordsError, match="no driver") as caught:
        list(source.batches())
    assert SECRET not in str(caught.value)
    with pytest.raises(RecordsError, match="not a URL"):
        list(open_source("://#visits", schema=_schema()).batches())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1, "2", None), ["1", "2", None]),
        ((uuid.UUID(int=7), None), ["00000000-0000-0000-0000-000000000007", None]),
        ((2**70, 1), [str(2**70), "1"]),
        ((1, None), [1, None]),
        ((datetime.date(2020, 1, 2),), [datetime.date(2020, 1, 2)]),
    ],
)
def test_values_that_arrow_cannot_hold_together_become_texts(values, expected):
    assert arrow_array(values).to_pylist() == expected


@pytest.mark.skipif("CLOISTER_POSTGRES_URL" not in os.environ, reason="CLOISTER_POSTGRES_URL names no test database")
def test_postgresql():
    check_database(os.environ["CLOISTER_POSTGRES_URL"])
