"""Codes: exact round trips for every kind, agreement with a slow twin, and refusals without values."""

import datetime
import decimal
import warnings

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import RecordsError, SchemaError
from records.codec import Codec
from records.schema import Column, Kind, Scale, Schema

WORD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=6)
DAY = st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1))


@st.composite
def _columns(draw, name):
    kind = draw(st.sampled_from(list(Kind)))
    keys = {"name": name, "kind": kind, "missing": draw(st.booleans())}
    if kind in (Kind.CATEGORICAL, Kind.ORDINAL):
        words = st.lists(WORD.filter(lambda word: word == word.strip()), min_size=2, max_size=5, unique=True)
        keys["categories"] = tuple(draw(words))
        keys["other"] = kind is Kind.CATEGORICAL and draw(st.booleans())
    elif kind is Kind.DATE:
        first = draw(DAY)
        keys["lower"] = first.isoformat()
        keys["upper"] = (first + datetime.timedelta(days=draw(st.integers(1, 4000)))).isoformat()
    elif kind is not Kind.BOOLEAN:
        keys |= draw(_numbers(whole=kind is Kind.INTEGER))
    return Column(**keys)


@st.composite
def _numbers(draw, whole):
    scale = draw(st.sampled_from(list(Scale)))
    least = {Scale.LOG: 1e-3, Scale.LOG1P: 0.0}.get(scale, -1e6)
    lower = draw(st.floats(least, 1e6))
    upper = lower + draw(st.floats(0.01, 1e6)) * max(1.0, abs(lower))
    if whole:
        lower, upper = int(np.ceil(lower)), int(np.ceil(upper)) + 1
    points = tuple(draw(st.sets(st.sampled_from([lower, upper]))))
    return {
        "lower": lower,
        "upper": upper,
        "scale": scale,
        "points": points,
        "bins": draw(st.integers(1, 200)),
    }


@st.composite
def _schemas(draw):
    try:
        return Schema(columns=tuple(draw(_columns(f"c{index}")) for index in range(draw(st.integers(1, 5)))))
    except SchemaError:
        return Schema(columns=(Column(name="c0", kind=Kind.BOOLEAN),))


def _all_codes(schema, generator, rows=200):
    """Every code of every column at least once, where rows allow."""
    columns = [generator.permutation(np.arange(max(rows, k)) % k) for k in schema.cardinalities]
    rows = max(len(column) for column in columns)
    return np.stack([np.resize(column, rows) for column in columns], axis=1).astype(np.int32)


@settings(max_examples=150, deadline=None)
@given(schema=_schemas(), seed=st.integers(0, 2**32))
def test_encoding_what_was_decoded_gives_back_the_codes(schema, seed):
    generator, codec = np.random.default_rng(seed), Codec(schema)
    codes = _all_codes(schema, generator)
    table = codec.decode(codes, generator=generator)
    np.testing.assert_array_equal(codec.encode(table, source="decoded"), codes)


@settings(max_examples=60, deadline=None)
@given(schema=_schemas(), seed=st.integers(0, 2**32))
def test_the_round_trip_holds_through_text(schema, seed):
    generator, codec = np.random.default_rng(seed), Codec(schema)
    codes = _all_codes(schema, generator)
    table = codec.decode(codes, generator=generator)
    texts = {
        # repr, as Python and Arrow's CSV writer do: the shortest text that gives back the number
        name: ["" if value is None else repr(value) if isinstance(value, float) else str(value) for value in values]
        for name, values in table.to_pydict().items()
    }
    np.testing.assert_array_equal(codec.encode(pa.table(texts), source="text"), codes)


@settings(max_examples=60, deadline=None)
@given(schema=_schemas())
def test_bin_edges_fall_into_the_cell_that_begins_there(schema):
    for column in schema.columns:
        if column.cells is None or column.kind is Kind.DATE:
            continue
        starts = column.cells.edges[:-1]
        codes = Codec(Schema(columns=(column,))).encode(pa.table({column.name: starts}), source="edges")
        np.testing.assert_array_equal(codes[:, 0], np.arange(column.cells.count))


def test_decoded_types():
    schema = Schema(
        columns=(
            Column(name="a", kind=Kind.INTEGER, lower=0, upper=9, missing=True),
            Column(name="b", kind=Kind.CONTINUOUS, lower=0, upper=1),
            Column(name="c", kind=Kind.BOOLEAN),
            Column(name="d", kind=Kind.DATE, lower="2020-01-01", upper="2020-01-09"),
            Column(name="e", kind=Kind.CATEGORICAL, categories=("x",), other=True),
        )
    )
    codes = np.array([[10, 0, 1, 8, 1], [3, 31, 0, 0, 0]], dtype=np.int32)
    table = Codec(schema).decode(codes, generator=np.random.default_rng(0))
    assert [str(field.type) for field in table.schema] == ["int64", "double", "bool", "date32[day]", "string"]
    assert table["a"].to_pylist() == [None, 3]
    assert table["d"].to_pylist() == [datetime.date(2020, 1, 9), datetime.date(2020, 1, 1)]
    assert table["e"].to_pylist() == ["other", "x"]
    assert table["c"].to_pylist() == [True, False]


def test_decoding_draws_evenly_within_the_cell_and_only_from_the_generator():
    schema = Schema(columns=(Column(name="b", kind=Kind.CONTINUOUS, lower=0, upper=1, bins=2),))
    codes = np.ones((20_000, 1), dtype=np.int32)
    first, again = (Codec(schema).decode(codes, generator=np.random.default_rng(5))["b"].to_numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    counts, _ = np.histogram(first, bins=10, range=(0.5, 1))
    assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000))


def test_numeric_gives_midpoints_ranks_and_truth_values():
    schema = Schema(
        columns=(
            Column(name="a", kind=Kind.INTEGER, lower=0, upper=99, bins=10, missing=True),
            Column(name="b", kind=Kind.CONTINUOUS, lower=0, upper=1, bins=2),
            Column(name="c", kind=Kind.BOOLEAN),
            Column(name="d", kind=Kind.DATE, lower="1970-01-02", upper="1970-01-09"),
            Column(name="e", kind=Kind.CATEGORICAL, categories=("x", "y")),
            Column(name="f", kind=Kind.ORDINAL, categories=("low", "mid", "high")),
        )
    )
    numbers = Codec(schema).numeric(np.array([[1, 0, 1, 0, 1, 2], [10, 1, 0, 7, 0, 0]], dtype=np.int32))
    np.testing.assert_allclose(numbers[0], [14.5, 0.25, 1, 1, np.nan, 2])
    np.testing.assert_allclose(numbers[1], [np.nan, 0.75, 0, 8, np.nan, 0])


def _encode(column, values):
    column = Column(**{"name": "x", **column})
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    return Codec(Schema(columns=(column,))).encode(pa.table({"x": array}), source="file")[:, 0].tolist()


DIGITS = {"kind": "integer", "lower": 0, "upper": 99, "missing": True}
WORDS = {"kind": "categorical", "categories": ("a", "None", "1"), "missing": True}
DAYS = {"kind": "date", "lower": "2020-01-01", "upper": "2020-01-31", "missing": True}
REAL = {"kind": "continuous", "lower": 0, "upper": 10, "bins": 10, "missing": True}


@pytest.mark.parametrize(
    ("column", "values", "codes"),
    [
        (DIGITS, ["39", "39.0", " 39 ", "+39", "3.9e1", ""], [39, 39, 39, 39, 39, 100]),
        (DIGITS, [39.0, None, 0.0], [39, 100, 0]),
        (DIGITS, pa.array([39, None], pa.int8()), [39, 100]),
        (DIGITS, pa.array([decimal.Decimal("39.00"), None]), [39, 100]),
        (DIGITS, [True, False, None], [1, 0, 100]),
        (DIGITS, pa.array(["7", None, "7"]).dictionary_encode(), [7, 100, 7]),
        (DIGITS, pa.chunked_array([["1"], ["2"]]), [1, 2]),
        (DIGITS, pa.array(["1", None], pa.large_string()), [1, 100]),
        (DIGITS, pa.nulls(2), [100, 100]),
        (DIGITS | {"missing_values": ("?", "-9")}, ["?", "-9", "-9.0", "9"], [100, 100, 100, 9]),
        (DIGITS | {"missing_values": ("-9",)}, [-9, 9], [100, 9]),
        (DIGITS | {"lower": 1, "missing_values": ("0",)}, ["0", "0.0", "1"], [99, 99, 0]),
        (DIGITS | {"missing_values": ("nan",)}, ["nan", "1"], [100, 1]),
        (DIGITS | {"missing_values": ("nan",)}, [float("nan"), 1.0], [100, 1]),
        (DIGITS | {"out_of_bounds": "clip"}, ["-5", "500"], [0, 99]),
        (REAL, ["0", "10", "9.99", ".5", "1e1", "1E-3"], [0, 9, 9, 0, 9, 0]),
        (WORDS, ["a", " a ", "None", None, "", "1", "1.0"], [0, 0, 1, 3, 3, 2, 2]),
        (WORDS, pa.array([1, None, 1], pa.int64()), [2, 3, 2]),
        (WORDS, [1.0, None], [2, 3]),
        (WORDS | {"aliases": (("A", "a"),)}, ["A", "a"], [0, 0]),
        (WORDS | {"other": True}, ["zebra", "a", ""], [3, 0, 4]),
        ({"kind": "boolean"}, ["TRUE", "no", "1", "F", "0.0"], [1, 0, 1, 0, 0]),
        ({"kind": "boolean", "missing": True}, [True, False, None], [1, 0, 2]),
        (
            {"kind": "boolean", "true_values": ("1", "2"), "false_values": ("0",)},
            ["2.0", "0", "1"],
            [1, 0, 1],
        ),
        ({"kind": "boolean", "true_values": ("ill",), "false_values": ("well",)}, [True, False], [1, 0]),
        (DAYS, ["2020-01-02", "2020-01-31", "", " 2020-01-01 "], [1, 30, 31, 0]),
        (DAYS, ["2020-01-02 00:00:00", "2020-01-03T00:00:00"], [1, 2]),
        (DAYS, [datetime.date(2020, 1, 2), None], [1, 31]),
        (DAYS, [datetime.datetime(2020, 1, 2, 23, 59), None], [1, 31]),
        (DAYS | {"format": "%d/%m/%Y"}, ["02/01/2020", "2/1/2020", "31/01/2020"], [1, 1, 30]),
        (DAYS | {"format": "%d.%m.%y"}, ["02.01.20"], [1]),
        (DAYS | {"missing_values": ("none",)}, ["none", "2020-01-01"], [31, 0]),
        ({"kind": "ordinal", "categories": ("low", "high")}, ["high", "low"], [1, 0]),
    ],
)
def test_values_in_many_spellings(column, values, codes):
    assert _encode(column, values) == codes


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        (DIGITS, ["1", "nan"], "1 of 2 rows are not finite"),
        (DIGITS, ["1", "inf", "-Infinity"], "2 of 3 rows are not finite"),
        (REAL, ["1e400", "1", "1"], "1 of 3 rows are not finite"),
        (REAL, [float("nan"), 1.0], "1 of 2 rows are not finite"),
        (REAL, [float("inf"), 1.0], "1 of 2 rows are not finite"),
        (REAL, ["0x10", "1_0", "1,5", "one", "٣", "1"], "5 of 6 rows are not numbers"),
        (DIGITS, ["1.5", "2"], "1 of 2 rows are not whole numbers"),
        (DIGITS, [1.5, 2.0], "1 of 2 rows are not whole numbers"),
        (DIGITS, ["100", "101", "99"], "2 of 3 rows lie above the upper bound 99"),
        (DIGITS, ["-1", "0"], "1 of 2 rows lie below the lower bound 0"),
        (REAL, [float(np.nextafter(10, 11))], "1 of 1 rows lie above the upper bound 10.0"),
        (REAL | {"missing": False}, ["1", "", None], "2 of 3 rows are missing"),
        (REAL | {"out_of_bounds": "clip"}, ["inf"], "are not finite"),
        (WORDS, ["a", "zebra"], "1 of 2 rows hold a category that the schema does not list"),
        (WORDS | {"missing": False}, ["a", ""], "1 of 2 rows are missing"),
        ({"kind": "boolean"}, ["yes", "perhaps"], "1 of 2 rows are neither a true nor a false value"),
        (DAYS, ["2020-02-30", "2020-01-01"], "1 of 2 rows are not dates"),
        (DAYS, ["2020-1-1", "20200101", "soon"], "3 of 3 rows are not dates"),
        (
            DAYS | {"format": "%d/%m/%Y"},
            ["30/02/2020", "01/13/2020", "2020-01-01"],
            "3 of 3 rows are not dates",
        ),
        (DAYS, ["2020-02-01"], "lie above the upper bound 2020-01-31"),
        (DAYS, [5, 6], "2 of 2 rows are not dates"),
        (DIGITS, [datetime.date(2020, 1, 1)], "1 of 1 rows are not numbers"),
        (WORDS, pa.array([[1], [2]]), "2 of 2 rows are of a type that cannot be read"),
        (WORDS, pa.array([b"\xff", b"\xfe"]), "2 of 2 rows are of a type that cannot be read"),
        (DIGITS, pa.array([b"\xff"]), "are not numbers"),
        (DAYS, pa.array([b"\xff"]), "are not dates"),
        (DIGITS, pa.array([[1]]), "are not numbers"),
    ],
)
def test_values_that_do_not_fit_are_counted_and_never_told(column, values, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RecordsError) as caught:
            _encode(column, values)
    text = str(caught.value)
    assert f"file: column x: {said}" in text or (text.startswith("file: column x:") and said in text)
    assert "\n" not in text
    secrets = {"zebra", "perhaps", "1e400", "0x10", "2020-02-30", "soon", "101", "1.5", "30/02"}
    assert not any(secret in text for secret in secrets)


def test_a_decimal_comma():
    column = Column(name="x", kind=Kind.CONTINUOUS, lower=0, upper=10, bins=10)
    codec = Codec(Schema.from_mapping(Schema(columns=(column,)).to_mapping() | {"format": {"decimal": ","}}))
    assert codec.encode(pa.table({"x": ["1,5", "9,99", "3"]}), source="f")[:, 0].tolist() == [1, 9, 3]
    with pytest.raises(RecordsError, match="1 of 2 rows are not numbers"):
        codec.encode(pa.table({"x": ["1.234", "1,5"]}), source="f")


def test_missing_tokens_of_the_schema_hold_for_every_column():
    schema = Schema(
        columns=(Column(**{"name": "x", **DIGITS}), Column(**{"name": "y", **WORDS})), missing_values=("?",)
    )
    codes = Codec(schema).encode(pa.table({"x": ["?", "1"], "y": ["a", "?"]}), source="f")
    assert codes.tolist() == [[100, 0], [1, 3]]


def test_the_worst_column_is_told_and_the_others_are_counted():
    columns = [Column(name=name, kind=Kind.INTEGER, lower=0, upper=9) for name in "abc"]
    table = pa.table({"a": [1, 99, 1], "b": [99, 99, 1], "c": [1, 1, -1]})
    with pytest.raises(RecordsError) as caught:
        Codec(Schema(columns=tuple(columns))).encode(table, source="f")
    assert "column b: 2 of 3 rows lie above the upper bound 9 (+2 more columns)" in str(caught.value)


def test_columns_must_be_those_of_the_schema():
    schema = Schema(columns=tuple(Column(name=name, kind=Kind.BOOLEAN) for name in "abc"), drop=("note",))
    codec, good = Codec(schema), {"a": [True], "b": [True], "c": [True]}
    assert codec.encode(pa.table({**good, "note": ["x"]}), source="f").tolist() == [[1, 1, 1]]
    assert codec.encode(pa.table(dict(reversed(good.items()))), source="f").tolist() == [[1, 1, 1]]
    for extra, word in [("email", "identifier or free text"), ("colour", "is not mentioned")]:
        with pytest.raises(RecordsError, match=f"column {extra}: .*{word}") as caught:
            codec.encode(pa.table({**good, extra: ["x"]}), source="f")
        assert "drop" in caught.value.remedy
    with pytest.raises(RecordsError, match="column c: is not there"):
        codec.encode(pa.table({"a": [True], "b": [True]}), source="f")
    with pytest.raises(RecordsError, match="column a: occurs twice"):
        codec.encode(pa.table([[True]] * 4, names=["a", "b", "c", "a"]), source="f")


def test_free_text_that_the_schema_does_not_mention_is_recognised():
    texts = [f"the patient number {index} slept well" for index in range(30)]
    with pytest.raises(RecordsError, match="column remark: looks like an identifier or free text"):
        Codec(Schema(columns=(Column(name="a", kind=Kind.BOOLEAN),))).encode(
            pa.table({"a": [True] * 30, "remark": texts}), source="f"
        )


def test_a_first_record_taken_for_a_header_is_not_told():
    schema = Schema(columns=tuple(Column(name=name, kind=Kind.BOOLEAN) for name in "abc"))
    with pytest.raises(RecordsError, match="only 0 of 3 columns") as caught:
        Codec(schema).encode(pa.table({"Smith": ["x"], "1971": ["y"]}), source="f")
    assert "Smith" not in str(caught.value)
    assert "header = false" in caught.value.remedy


@pytest.mark.parametrize(
    "codes",
    [np.zeros((2, 2), np.int32), np.zeros(2, np.int32), np.zeros((2, 1)), np.array([[2]]), np.array([[-1]])],
)
def test_codes_out_of_shape_or_range_are_refused(codes):
    codec = Codec(Schema(columns=(Column(name="a", kind=Kind.BOOLEAN),)))
    with pytest.raises(RecordsError):
        codec.decode(codes, generator=np.random.default_rng(0))
    with pytest.raises(RecordsError):
        codec.numeric(codes)


def test_no_records_are_codes_too():
    codec = Codec(Schema(columns=(Column(name="a", kind=Kind.BOOLEAN),)))
    codes = codec.encode(pa.table({"a": pa.array([], pa.string())}), source="f")
    assert codes.shape == (0, 1)
    assert len(codec.decode(codes, generator=np.random.default_rng(0))) == 0
