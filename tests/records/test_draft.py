"""A draft loads its own file, says what came from the records, and leaves identifiers out."""

import datetime
import sqlite3

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet
import pytest

from protocol.errors import RecordsError
from records.dataset import load_records
from records.draft import CONFIRM, draft_schema
from records.schema import Kind, Schema

ROWS = 400


def _table():
    generator = np.random.default_rng(0)
    zeros = generator.random(ROWS) < 0.5
    first = datetime.date(2020, 3, 4)
    return pa.table({
        "patient_id": [f"P{index % 150:05d}" for index in range(ROWS)],
        "email": [f"p{index}@example.org" for index in range(ROWS)],
        "remark": [f"slept {index} hours and felt well" for index in range(ROWS)],
        "serial": [str(10_000 + 7 * index) for index in range(ROWS)],
        "age": generator.integers(18, 91, ROWS).astype(str),
        "cost": np.where(zeros, 0, generator.lognormal(6, 2, ROWS).round(2)),
        "weight": np.where(generator.random(ROWS) < 0.1, "?", generator.integers(300, 999, ROWS) / 10),
        "ward": generator.choice(["north", "south", "None"], ROWS, p=[0.5, 0.4, 0.1]),
        "job": np.where(np.arange(ROWS) < 2, "mayor", generator.choice(["clerk", "cook"], ROWS)),
        "ill": generator.choice(["yes", "no"], ROWS),
        "seen": [f"{first + datetime.timedelta(days=index % 90):%d/%m/%Y}" for index in range(ROWS)],
        "always": ["same"] * ROWS,
        "nothing": [""] * ROWS,
        "town": [f"town {index % 120}" for index in range(ROWS)],
    })  # fmt: skip


def _draft(path, tmp_path):
    text = draft_schema(path)
    target = tmp_path / "draft.toml"
    target.write_text(text, encoding="utf-8")
    schema = Schema.from_toml(target)
    return text, schema, load_records(path, schema=schema)


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "records.csv"
    arrow_csv.write_csv(_table(), path)
    return path


def test_a_draft_loads_its_own_file(csv_file, tmp_path):
    text, schema, records = _draft(csv_file, tmp_path)
    assert len(records) == ROWS
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {
        "age": Kind.INTEGER,
        "cost": Kind.CONTINUOUS,
        "weight": Kind.CONTINUOUS,
        "ward": Kind.CATEGORICAL,
        "job": Kind.CATEGORICAL,
        "ill": Kind.BOOLEAN,
        "seen": Kind.DATE,
    }
    assert schema.column("ward").categories == ("None", "north", "south")
    assert schema.column("seen").format == "%d/%m/%Y"
    assert schema.column("weight").missing_values == ("?",)
    assert schema.column("cost").points == (0.0,)
    assert text.startswith("# A draft of a schema")


def test_identifiers_and_what_cannot_be_learnt_are_dropped_with_a_reason(csv_file, tmp_path):
    text, schema, _ = _draft(csv_file, tmp_path)
    assert set(schema.drop) == {"patient_id", "email", "remark", "serial", "always", "nothing", "town"}
    assert '# person = "patient_id"' in text
    assert '# person = "email"' not in text
    for reason in (
        "reads like an identifier",
        "free text",
        "all different",
        "one value only",
        "always missing",
    ):
        assert reason in text
    assert '"town",  # free text, or too many categories' in text


def test_a_rare_category_is_not_named(csv_file, tmp_path):
    text, schema, _ = _draft(csv_file, tmp_path)
    assert "mayor" not in text
    assert schema.column("job").other


def test_every_value_from_the_records_is_marked(csv_file):
    marked = 0
    for line in draft_schema(csv_file).splitlines():
        key = line.split(" = ")[0]
        if key in ("lower", "upper", "missing", "missing_values", "points", "scale", "format", "other"):
            assert line.endswith(CONFIRM)
            marked += 1
    assert marked >= 10


def test_many_categories_are_proposed_to_drop(tmp_path):
    path = tmp_path / "wide.csv"
    arrow_csv.write_csv(
        pa.table({"code": [f"c{i % 10_000}" for i in range(30_000)], "x": [i % 7 for i in range(30_000)]}),
        path,
    )
    _, schema, _ = _draft(path, tmp_path)
    assert schema.drop == ("code",)


@pytest.mark.parametrize(
    ("text", "separator", "header", "decimal"),
    [
        ("a;b\n" + "1,5;x\n2,25;y\n" * 20, ";", True, ","),
        ("1.5\tx\n" + "2.5\ty\n" * 20, "\t", False, "."),
        ("title of the export\na,b\n" + "1,x\n2,y\n" * 20, ",", True, "."),
    ],
)
def test_the_form_of_a_file_is_guessed(tmp_path, text, separator, header, decimal):
    path = tmp_path / "records.txt"
    path.write_text(text, encoding="utf-8")
    _, schema, records = _draft(path, tmp_path)
    assert (schema.format.separator, schema.format.header, schema.format.decimal) == (
        separator,
        header,
        decimal,
    )
    assert len(records) in (40, 21)
    assert len(schema.columns) == 2


def test_latin_text_is_recognised(tmp_path):
    path = tmp_path / "records.csv"
    path.write_bytes(("city,x\n" + "Köln,1\nZürich,2\n" * 30).encode("latin-1"))
    _, schema, _ = _draft(path, tmp_path)
    assert schema.format.encoding == "latin-1"
    assert schema.column("city").categories == ("Köln", "Zürich")


def test_typed_sources(tmp_path):
    table = pa.table({
        "flag": pa.array([True, False, None] * 20),
        "when": pa.array([datetime.datetime(2020, 1, 1, 5), None, datetime.datetime(2021, 1, 1)] * 20),
        "value": pa.array([1.5, float("nan"), None] * 20),
        "list": pa.array([[1], [2], None] * 20),
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "r.parquet")
    _, schema, _ = _draft(tmp_path / "r.parquet", tmp_path)
    assert [column.kind for column in schema.columns] == [Kind.BOOLEAN, Kind.DATE, Kind.CONTINUOUS]
    assert schema.drop == ("list",)


def test_a_database_table(tmp_path):
    with sqlite3.connect(tmp_path / "h.db") as connection:
        connection.execute("CREATE TABLE visits (ward TEXT, age REAL)")
        connection.executemany("INSERT INTO visits VALUES (?, ?)", [("a", 1.5), ("b", None)] * 20)
    connection.close()
    _, schema, records = _draft(f"sqlite:///{tmp_path / 'h.db'}#visits", tmp_path)
    assert schema.names == ("ward", "age")
    assert len(records) == 40


@pytest.mark.parametrize("text", ["", "patient_id\n1\n2\n", "a,b\n"])
def test_nothing_to_draft(tmp_path, text):
    path = tmp_path / "records.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecordsError) as caught:
        draft_schema(path)
    assert str(caught.value).startswith("records.csv: ")
