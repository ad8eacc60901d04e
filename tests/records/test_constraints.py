"""Constraints in a schema: what is refused when it is read, and what becomes of records that break one."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest

from protocol.errors import RecordsError, SchemaError
from records.codec import Codec
from records.dataset import load_records
from records.schema import Broken, Constraint, Schema

COLUMNS = [
    {"name": "low", "kind": "integer", "lower": 0, "upper": 99, "bins": 5, "missing": True},
    {"name": "high", "kind": "integer", "lower": 0, "upper": 99, "bins": 5},
    {"name": "gap", "kind": "integer", "lower": 0, "upper": 99, "bins": 5, "missing": True},
    {"name": "share", "kind": "continuous", "lower": 0, "upper": 2},
    {"name": "ward", "kind": "categorical", "categories": ["a", "b", "c"], "other": True},
    {"name": "grade", "kind": "integer", "lower": 1, "upper": 9},
    {"name": "ill", "kind": "boolean"},
    {"name": "came", "kind": "date", "lower": "2020-01-01", "upper": "2020-12-31"},
    {"name": "went", "kind": "date", "lower": "2020-01-01", "upper": "2021-12-31"},
]
FITTING = {
    "low": 10, "high": 30, "gap": 20, "share": 1.5, "ward": "a", "grade": 3, "ill": False, "came": "2020-02-01",
    "went": "2020-02-03",
}  # fmt: skip


def schema(*constraints, **keys):
    return Schema.from_mapping({"columns": COLUMNS, "constraints": list(constraints), **keys})


def table(*changes):
    rows = [FITTING | change for change in changes]
    return pa.Table.from_pylist(rows)


CONSTRAINTS = [
    ({"holds": "low <= high"}, {"low": 31}, {"low": 30}),
    ({"holds": "low < high"}, {"low": 30}, {"low": None}),  # the same cell: values decide
    ({"holds": "high - 5 >= low"}, {"low": 26}, {"low": 25}),
    ({"holds": "came <= went"}, {"went": "2020-01-31"}, {"went": "2020-02-01"}),
    ({"holds": "went <= came + 30"}, {"went": "2020-03-10"}, {"went": "2020-03-02"}),
    ({"column": "gap", "equals": "high - low"}, {"gap": 21}, {"low": None, "gap": 77}),
    ({"column": "gap", "equals": "high - low"}, {"gap": None}, {"low": 30, "gap": 0}),
    ({"column": "gap", "equals": "high - low"}, {"low": 40, "gap": 0}, {}),  # -10: beyond the bounds
    ({"column": "gap", "equals": "went - came"}, {"gap": 20}, {"gap": 2}),
    ({"column": "went", "equals": "came + gap"}, {}, {"gap": 2}),
    ({"column": "share", "equals": "high / gap", "decimals": 1}, {"share": 1.56}, {"share": 1.54}),
    ({"column": "share", "equals": "high / gap"}, {"share": 1.5001}, {"share": 1.5 + 1e-12}),
    ({"column": "share", "equals": "high / gap"}, {"gap": 0}, {"gap": None}),  # division by zero
    ({"column": "share", "equals": "high / gap", "tolerance": 0.1}, {"share": 1.61}, {"share": 1.41}),
    ({"column": "grade", "equals": "high / 20"}, {"grade": 3, "high": 31}, {"grade": 2, "high": 49}),  # rounded
    ({"never": ["ward = a", "ill = yes"]}, {"ill": True}, {"ill": True, "ward": "b"}),
    ({"never": ["ward = other"]}, {"ward": "unheard of"}, {"ward": "c"}),
    ({"never": ["low is missing", "ill = no"]}, {"low": None}, {"low": None, "ill": True}),
    ({"never": ["low >= 40"]}, {"low": 40}, {"low": 39}),
    ({"column": "grade", "by": "ward", "lookup": {"a": "3", "b": "4"}}, {"ward": "b"}, {"ward": "c", "grade": 9}),
    ({"column": "ward", "by": "grade", "lookup": {"3": "a"}}, {"ward": "b"}, {"ward": "b", "grade": 4}),
    ({"column": "gap", "by": "ill", "lookup": {"yes": "(missing)"}}, {"ill": True}, {"ill": True, "gap": None}),
    ({"column": "gap", "when": ["ill = no"], "value": "20"}, {"gap": 21}, {"gap": 21, "ill": True}),  # one cell
    ({"column": "ill", "when": ["low < 20", "ward = a"], "value": "no"}, {"ill": True}, {"ill": True, "ward": "b"}),
    ({"column": "came", "when": ["ill = no"], "value": "2020-02-01"}, {"came": "2020-02-02"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "breaking", "fitting"), CONSTRAINTS)
def test_a_record_that_breaks_a_constraint_is_refused_by_its_values(keys, breaking, fitting):
    codec, text = Codec(schema(keys)), Constraint(**_arguments(keys)).text
    assert len(codec.encode(table(fitting), source="file")) == 1
    with pytest.raises(RecordsError) as caught:
        codec.encode(table(fitting, breaking, breaking), source="file")
    assert f"2 of 3 rows break the constraint {text!r}." in str(caught.value)
    assert 'broken = "drop"' in str(caught.value)
    without = Codec(schema()).encode(table(fitting, breaking), source="file")
    assert len(without) == 2, "only the constraint stood against it"


def _arguments(keys):
    return {
        key: tuple(value.items()) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
        for key, value in keys.items()
    }


@pytest.mark.parametrize(("keys", "breaking", "fitting"), CONSTRAINTS)
def test_it_can_be_left_out_and_counted_instead(keys, breaking, fitting):
    codec = Codec(schema(keys | {"broken": "drop"}))
    codes = codec.encode(table(fitting, breaking, fitting), source="file")
    np.testing.assert_array_equal(codes, codec.encode(table(fitting, fitting), source="file"))


@pytest.mark.parametrize(("keys", "breaking", "fitting"), [case for case in CONSTRAINTS if "column" in case[0]])
def test_an_implied_value_can_be_mended(keys, breaking, fitting):
    del fitting
    codec = Codec(schema(keys | {"broken": "mend"}))
    target = codec.schema.index(keys["column"])
    if breaking in ({"low": 40, "gap": 0}, {"gap": 0}):  # nothing that could be written would be right
        with pytest.raises(RecordsError, match="1 of 1 rows break"):
            codec.encode(table(breaking), source="file")
        return
    mended = codec.encode(table(breaking), source="file")
    np.testing.assert_array_equal(
        np.delete(mended, target, axis=1),
        np.delete(Codec(schema()).encode(table(breaking), source="file"), target, axis=1),
    )
    assert codec.encode(table(FITTING), source="file").shape == mended.shape


def test_what_a_mended_record_holds_is_what_is_implied():
    codec = Codec(schema({"column": "gap", "equals": "high - low", "broken": "mend"}))
    codes = codec.encode(table({"gap": 99}, {"gap": None}, {"gap": 99, "low": None}), source="file")
    gap = codec.schema.column("gap").cells
    assert codes[:, 2].tolist() == [gap.codes(np.array([20.0]))[0]] * 2 + [4]


def test_dropped_records_are_counted_at_the_site_and_persons_stay_dense(tmp_path):
    keys = {"holds": "low <= high", "broken": "drop"}
    rows = table({"low": 31}, {}, {"low": 50}, {}, {"low": None})
    rows = rows.append_column("who", pa.array(["x", "y", "y", "z", "x"]))
    import pyarrow.csv

    pyarrow.csv.write_csv(rows, tmp_path / "visits.csv")
    records = load_records(tmp_path / "visits.csv", schema=schema(keys, person="who"))
    assert (len(records), records.left_out) == (3, 2)
    assert records.persons.tolist() == [0, 1, 2]
    pyarrow.csv.write_csv(rows.slice(0, 1), tmp_path / "none.csv")
    # No records are no error: it would tell whoever asks that there were some, and that all of them broke a rule.
    empty = load_records(tmp_path / "none.csv", schema=schema(keys, person="who"))
    assert (len(empty), empty.left_out) == (0, 1)
    assert empty.persons.shape == (0,)


def test_large_whole_numbers_must_agree_to_the_last_digit():
    big = 9_000_000_000_000_000
    columns = [
        {"name": name, "kind": "integer", "lower": 0, "upper": big, "bins": 4, "not_identifier": True}
        for name in ("a", "b", "c")
    ]
    rules = [{"column": "b", "equals": "a / 1"}, {"column": "c", "when": ["a >= 0"], "value": str(big - 7)}]
    for name, rule in zip("bc", rules, strict=True):
        codec = Codec(Schema.from_mapping({"columns": columns, "constraints": [rule]}))
        fitting = {"a": 10**9 + 1, "b": 10**9 + 1, "c": big - 7}
        assert len(codec.encode(pa.table({key: [value] for key, value in fitting.items()}), source="file")) == 1
        wrong = fitting | {name: fitting[name] + 1}
        with pytest.raises(RecordsError, match="1 of 1 rows break"):
            codec.encode(pa.table({key: [value] for key, value in wrong.items()}), source="file")


def test_a_message_holds_no_value_of_a_record():
    with pytest.raises(RecordsError) as caught:
        Codec(schema({"holds": "low <= high"})).encode(table({"low": 87}, {}), source="file")
    assert "87" not in str(caught.value)


def test_other_faults_are_reported_before_constraints():
    with pytest.raises(RecordsError, match="column high: 1 of 2 rows lie above"):
        Codec(schema({"holds": "low > high"})).encode(table({"high": 100}, {}), source="file")


def test_a_site_that_lacks_a_column_breaks_nothing():
    constraints = ({"holds": "low <= high"}, {"column": "gap", "equals": "high - low"})
    codec = Codec(schema(*constraints), fixed={"gap": 5})
    rows = table({}).drop_columns("gap")
    assert codec.encode(rows, source="file")[0, 2] == 5
    codec = Codec(schema(*constraints), fixed={"low": 5})
    assert len(codec.encode(table({"gap": 1}).drop_columns("low"), source="file")) == 1


def test_constraints_survive_mappings_and_pickles_and_change_the_hash_only_where_declared():
    made = schema(*(keys for keys, _, _ in CONSTRAINTS[:1]), {"column": "gap", "equals": "max(high - low, 0)"})
    assert Schema.from_mapping(json.loads(json.dumps(made.to_mapping()))) == made
    assert b"gap" in pickle.dumps(made)
    assert made.canonical() != schema().canonical()
    assert b"constraints" not in schema().canonical()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "an empty table is no constraint"),
        ({"holds": "low <= high", "never": ["ill = yes"]}, "holds, never is no constraint"),
        ({"column": "gap"}, "column is no constraint"),
        ({"column": "gap", "by": "ward"}, "by, column is no constraint"),
        ({"holds": "low <= high", "broken": "mend"}, 'broken = "mend" without an implied column'),
        ({"holds": "low <= high", "broken": "ignore"}, "broken = 'ignore'"),
        ({"holds": "low <= high", "decimals": 1}, "decimals or tolerance without equals"),
        ({"column": "share", "equals": "high / gap", "decimals": 16}, "decimals = 16"),
        ({"column": "share", "equals": "high / gap", "tolerance": -1}, "tolerance = -1"),
        ({"column": "share", "equals": "high / gap", "tolerance": "0.1"}, "Write a number."),
        ({"column": "gap", "equals": "high - low", "decimals": 1}, "decimals for whole numbers"),
        ({"hold": "low <= high"}, "Did you mean 'holds'?"),
        ({"holds": "low = high"}, "it is no inequality"),
        ({"holds": "0 <= low <= high"}, "it is no inequality"),
        ({"holds": "low <= 5"}, "it is about one column"),
        ({"holds": "low <= came"}, "compares a date with a number"),
        ({"holds": "low <= hihg"}, "'hihg' is not understood"),
        ({"holds": "low <= ward"}, "column ward is categorical"),
        ({"never": ["low >= 50"]}, "cuts the cell 40 to 58 of column low"),
        ({"never": ["low != 50"]}, "shares its code"),
        ({"never": ["low >= 200"]}, "no value of column low meets it"),
        ({"never": ["wrad = a"]}, "Did you mean 'ward'?"),
        ({"column": "gapp", "equals": "high - low"}, "'gapp' is not a column"),
        ({"column": "ward", "equals": "high - low"}, "cannot be computed so"),
        ({"column": "gap", "equals": "5"}, "cannot be computed so"),
        ({"column": "gap", "equals": "came"}, "sets a date equal to a number"),
        ({"column": "gap", "equals": "gap + low"}, "imply each other in a circle"),
        ({"column": "grade", "by": "ward", "lookup": {"d": "3"}}, "no value 'd'"),
        ({"column": "grade", "by": "ward", "lookup": {"a": "0"}}, "0 is not a value of column grade"),
        ({"column": "grade", "by": "ward", "lookup": {"a": "2.5"}}, "2.5 is not a value of column grade"),
        ({"column": "grade", "by": "ward", "lookup": {"a": "(missing)"}}, "no finite number"),
        ({"column": "ward", "by": "low", "lookup": {"3": "a"}}, "shares its code"),
        ({"column": "ill", "when": ["ward = a"], "value": "perhaps"}, "no value 'perhaps'"),
    ],
)
def test_a_constraint_that_cannot_be_meant_is_refused(keys, said):
    with pytest.raises(SchemaError) as caught:
        schema(keys)
    assert said in str(caught.value)


def test_columns_that_imply_each_other_or_are_implied_twice_are_refused():
    with pytest.raises(SchemaError, match="gap, grade: imply each other in a circle"):
        schema({"column": "gap", "equals": "grade + 1"}, {"column": "grade", "equals": "gap - 1"})
    with pytest.raises(SchemaError, match="Column gap: is implied twice"):
        schema({"column": "gap", "equals": "grade + 1"}, {"column": "gap", "when": ["ill = yes"], "value": "1"})
    cases = [{"column": "gap", "when": [f"ward = {ward}"], "value": "1"} for ward in "ab"]
    assert len(schema(*cases).rule_book.implied) == 2


def test_constraints_is_a_list_of_tables():
    with pytest.raises(SchemaError, match=r"constraints is not a list.*\[\[constraints\]\]"):
        Schema.from_mapping({"columns": COLUMNS, "constraints": {"holds": "low <= high"}})
    assert [str(word) for word in Broken] == ["refuse", "drop", "mend"]
