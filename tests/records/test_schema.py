"""The data dictionary: what it refuses, that it survives files, and the codes that it defines."""

import json
import time
import tomllib

import numpy as np
import pyarrow as pa
import pytest
import tomli_w

from protocol.errors import SchemaError
from records.codec import Codec
from records.schema import Column, Format, Kind, OutOfBounds, Scale, Schema

AGE = {"name": "age", "kind": "integer", "lower": 0, "upper": 99}
FULL = {
    "description": "visits",
    "target": "ill",
    "person": "patient_id",
    "drop": ["email"],
    "missing_values": ["?"],
    "format": {
        "separator": ";",
        "decimal": ",",
        "skip_rows": 1,
        "comment": "#",
        "quote": "",
        "encoding": "latin-1",
    },
    "columns": [
        {**AGE, "missing": True, "missing_values": ["-9"], "out_of_bounds": "clip", "description": "years"},
        {
            "name": "ward",
            "kind": "categorical",
            "categories": ["a", "None"],
            "other": True,
            "aliases": {"A": "a"},
        },
        {"name": "pain", "kind": "ordinal", "categories": ["no", "some", "much"]},
        {"name": "ill", "kind": "boolean", "true_values": ["1", "2"], "false_values": ["0"]},
        {
            "name": "cost",
            "kind": "continuous",
            "lower": 0,
            "upper": 1e6,
            "scale": "log1p",
            "bins": 8,
            "points": [0],
        },
        {"name": "crp", "kind": "continuous", "edges": [0, 1.5, 10, 500]},
        {"name": "seen", "kind": "date", "lower": "2020-01-01", "upper": "2021-12-31", "format": "%d/%m/%Y"},
        {"name": "clinic_name", "kind": "categorical", "categories": ["x", "y"], "not_identifier": True},
    ],
}


def _schema(*columns, **keys):
    return Schema.from_mapping({"columns": list(columns) or [AGE], **keys})


def test_a_schema_survives_mapping_json_and_toml(tmp_path):
    schema = Schema.from_mapping(FULL)
    mapping = schema.to_mapping()
    assert Schema.from_mapping(mapping) == schema
    assert Schema.from_mapping(json.loads(json.dumps(mapping))) == schema
    path = tmp_path / "schema.toml"
    path.write_bytes(tomli_w.dumps(mapping).encode())
    assert Schema.from_toml(path) == schema
    assert hash(Schema.from_toml(path)) == hash(schema)


def test_defaults_are_left_out_of_the_mapping():
    assert _schema().to_mapping() == {"columns": [AGE]}


def test_canonical_bytes_do_not_depend_on_the_order_of_keys():
    turned = {key: FULL[key] for key in reversed(FULL)}
    assert Schema.from_mapping(turned).canonical() == Schema.from_mapping(FULL).canonical()
    changed = {key: value for key, value in FULL.items() if key != "target"}
    assert Schema.from_mapping(changed).canonical() != Schema.from_mapping(FULL).canonical()


def test_codes_and_labels():
    schema = Schema.from_mapping(FULL)
    assert schema.cardinalities == (101, 3, 3, 2, 9, 3, 100, 2)
    assert schema.code_labels("ward") == ("a", "None", "other")
    assert schema.code_labels("age")[-1] == "(missing)"
    assert schema.code_labels("ill") == ("false", "true")
    assert schema.code_labels("seen")[0].startswith("2020-01-01 to ")
    assert schema.code_labels("crp") == ("[0, 1.5)", "[1.5, 10)", "[10, 500]")
    for column in schema.columns:
        assert len(set(column.code_labels)) == column.cardinality
    assert np.isnan(schema.column("age").code_numbers[-1])


def test_few_dates_get_a_code_each():
    column = Column(name="day", kind=Kind.DATE, lower="2024-02-28", upper="2024-03-01")
    assert column.code_labels == ("2024-02-28", "2024-02-29", "2024-03-01")


def test_a_toml_date_is_understood():
    schema = Schema.from_mapping(
        tomllib.loads('[[columns]]\nname="d"\nkind="date"\nlower=2020-01-01\nupper=2020-02-01\n')
    )
    assert schema.column("d").lower == "2020-01-01"


def test_enums_are_closed_and_typed():
    column = _schema({**AGE, "out_of_bounds": "clip", "scale": "log1p", "bins": 9}).column("age")
    assert (column.kind, column.out_of_bounds, column.scale) == (Kind.INTEGER, OutOfBounds.CLIP, Scale.LOG1P)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "integr"}, ["kind = 'integr'", "Did you mean 'integer'"]),
        ({"lower": 100}, ["lower 100 is not below upper 99"]),
        ({"lower": None}, ["Column age: lower"]),
        ({"lower": "young"}, ["lower holds 'young'"]),
        ({"lower": 0.5}, ["whole number"]),
        ({"lower": float("nan")}, ["finite"]),
        ({"lower": True}, ["Column age: lower = True"]),
        ({"upper": 2**60}, ["53"]),
        ({"uper": 3}, ["unknown key 'uper'", "Did you mean 'upper'"]),
        ({"bins": "many"}, ["bins = 'many'", "whole number"]),
        ({"bins": 0}, ["bins = 0"]),
        ({"categories": ["a"]}, ["categories does not go with kind = 'integer'"]),
        ({"edges": [0, 5, 99], "bins": 3}, ["edges as well as bins"]),
        ({"edges": [1, 5, 99]}, ["lower differs from the edges"]),
        ({"points": [100]}, ["point 100 is out of bounds"]),
        ({"missing": True, "missing_values": ["9"]}, ["'9' means missing and lies within the bounds"]),
        ({"missing_values": "?"}, ["a list of texts"]),
        ({"out_of_bounds": "ignore"}, ["out_of_bounds = 'ignore'"]),
        ({"name": " age"}, ["' age'"]),
        ({"upper": 0, "lower": 0}, ["not below"]),
    ],
)
def test_a_wrong_number_column_is_refused_with_its_name_and_a_remedy(change, words):
    column = {key: value for key, value in {**AGE, **change}.items() if value is not None}
    if "lower" in change and change["lower"] is None:
        column["lower"] = []
    with pytest.raises(SchemaError) as caught:
        _schema(column)
    assert all(word in str(caught.value) for word in words)
    assert "age" in str(caught.value)
    assert caught.value.remedy.endswith((".", "?"))


@pytest.mark.parametrize(
    ("column", "word"),
    [
        ({"kind": "categorical"}, "has no categories"),
        ({"kind": "categorical", "categories": ["a", "b", "a"]}, "'a' twice"),
        ({"kind": "categorical", "categories": ["a ", "b"]}, "without blanks"),
        ({"kind": "categorical", "categories": ["", "b"]}, "not empty"),
        ({"kind": "categorical", "categories": [1, 2]}, "text in quotation marks"),
        ({"kind": "categorical", "categories": ["a"]}, "one possible value"),
        ({"kind": "categorical", "categories": ["a", "other"], "other": True}, "other = true"),
        ({"kind": "categorical", "categories": ["a", "(missing)"], "missing": True}, "missing = true"),
        ({"kind": "categorical", "categories": ["a", "b"], "aliases": {"c": "d"}}, "stands for 'd'"),
        ({"kind": "categorical", "categories": ["a", "b"], "aliases": {"a": "b"}}, "an alias and a category"),
        ({"kind": "categorical", "categories": ["a", "b"], "hierarchy": {"a": "A"}}, "gives 'b' no group"),
        ({"kind": "categorical", "categories": ["a", "b"], "hierarchy": {"a": "A", "c": "A"}}, "hierarchy holds 'c'"),
        ({"kind": "categorical", "categories": ["a", "b"], "hierarchy": {"a": "A", "b": ""}}, "the group ''"),
        ({"kind": "ordinal", "categories": ["a", "b"], "hierarchy": {"a": "A", "b": "A"}}, "does not go with"),
        ({"kind": "categorical", "categories": ["a", "?"], "missing_values": ["?"]}, "means missing"),
        ({"kind": "ordinal", "categories": ["a", "b"], "other": True}, "other does not go with"),
        ({"kind": "boolean", "true_values": ["1"]}, "only one of"),
        ({"kind": "boolean", "true_values": ["1", "x"], "false_values": ["X"]}, "twice"),
        ({"kind": "boolean", "missing_values": ["No"]}, "truth value and means missing"),
        ({"kind": "continuous", "lower": 0}, "lacks lower or upper"),
        ({"kind": "continuous", "edges": [3, 2, 1]}, "not below"),
        ({"kind": "continuous", "edges": [1, 5, 5, 9]}, "do not increase"),
        ({"kind": "integer", "edges": [1, 5, 3, 9]}, "do not increase"),
        ({"kind": "continuous", "lower": -1, "upper": 1, "scale": "log"}, "does not reach"),
        ({"kind": "date", "lower": "2020-13-01", "upper": "2021-01-01"}, "YYYY-MM-DD"),
        ({"kind": "date", "lower": "2021-01-01", "upper": "2020-01-01"}, "not below"),
        (
            {"kind": "date", "lower": "2020-01-01", "upper": "2021-01-01", "scale": "log"},
            "scale does not go with",
        ),
        (
            {"kind": "date", "lower": "1900-01-01", "upper": "2021-01-01", "missing_values": ["1900-01-01"]},
            "bounds",
        ),
    ],
)
def test_a_contradictory_column_is_refused(column, word):
    with pytest.raises(SchemaError, match="x") as caught:
        _schema({"name": "x", **column})
    assert word in str(caught.value)


@pytest.mark.parametrize("name", ["patient_id", "Full Name", "email", "phone", "MRN", "ssn", "CustomerID", "InvoiceNo"])
@pytest.mark.parametrize("kind", ["categorical", "integer"])
def test_a_column_named_like_an_identifier_is_refused_unless_confirmed(name, kind):
    column = {"name": name, "kind": kind}
    column |= {"categories": ["1", "2"]} if kind == "categorical" else {"lower": 0, "upper": 9}
    with pytest.raises(SchemaError, match="reads like an identifier") as caught:
        _schema(column)
    assert "drop" in caught.value.remedy
    assert _schema({**column, "not_identifier": True}).names == (name,)


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"columns": []}, "no columns"),
        ({"columns": 3}, "not a list"),
        ({"columns": [AGE, AGE]}, "mentioned twice"),
        ({"columns": [{"kind": "boolean"}]}, "name is lacking"),
        ({"columns": ["age"]}, "table of keys"),
        ({"target": "ill"}, "target = 'ill' is not a column"),
        ({"person": "age"}, "mentioned twice"),
        ({"drop": ["age"]}, "mentioned twice"),
        ({"drop": "age"}, "list of texts"),
        ({"colums": []}, "Did you mean 'columns'"),
        ({"missing_values": ["7"]}, "within the bounds"),
        ({"format": {"separator": ";;"}}, "one character"),
        ({"format": {"separator": '"'}}, "quote"),
        ({"format": {"decimal": "'"}}, "decimal"),
        ({"format": {"skip_rows": -1}}, "skip_rows"),
        ({"format": {"header": "no"}}, "true or false"),
        ({"format": {"header": False}}, "without names"),
        ({"format": {"names": ["age"]}}, "although header = true"),
        ({"format": {"header": False, "names": ["age", "age"]}}, "twice"),
        ({"format": {"header": False, "names": ["sex"]}}, "age"),
        ({"format": {"header": False, "names": ["age", "sex"]}}, "sex"),
        ({"format": {"encoding": "klingon"}}, "klingon"),
    ],
)
def test_a_contradictory_schema_is_refused(keys, word):
    with pytest.raises(SchemaError) as caught:
        Schema.from_mapping({"columns": [AGE], **keys})
    assert word in str(caught.value)


def test_a_bare_file_has_its_columns_named_in_order():
    schema = _schema(drop=["note"], format={"header": False, "names": ["note", "age"]})
    assert schema.format == Format(header=False, names=("note", "age"))


def test_an_unknown_column_is_refused():
    with pytest.raises(SchemaError, match="'sex' is not a column"):
        _schema().column("sex")


def test_files_that_are_no_schema(tmp_path):
    with pytest.raises(SchemaError, match="No such file"):
        Schema.from_toml(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("columns = [", encoding="utf-8")
    with pytest.raises(SchemaError, match="is not TOML"):
        Schema.from_toml(tmp_path / "bad.toml")
    (tmp_path / "latin.toml").write_bytes(b'description = "\xe9"')
    with pytest.raises(SchemaError, match="is not TOML"):
        Schema.from_toml(tmp_path / "latin.toml")


def test_groups_follow_the_hierarchy_and_the_extra_codes_stand_alone():
    column = {
        "name": "icd",
        "kind": "categorical",
        "categories": ["E11", "C50.1", "C50.9", "E10"],
        "hierarchy": {"C50.1": "breast", "C50.9": "breast", "E10": "diabetes", "E11": "diabetes"},
        "other": True,
        "missing": True,
    }
    schema = _schema(column)
    assert schema.column("icd").group_codes == (0, 1, 1, 0, 2, 3)
    assert Schema.from_mapping(json.loads(json.dumps(schema.to_mapping()))) == schema
    assert _schema({key: column[key] for key in column if key != "hierarchy"}).column("icd").group_codes == ()


def test_ten_thousand_categories_are_read_checked_and_encoded_in_no_time():
    categories = [f"{number:05d}" for number in range(10_000)]
    hierarchy = {category: category[:3] for category in categories}
    column = {"name": "code", "kind": "categorical", "categories": categories, "hierarchy": hierarchy}
    begin = time.process_time()
    schema = _schema({**column, "aliases": {f"x{category}": category for category in categories}})
    codes = Codec(schema).encode(pa.table({"code": [*categories, *(f"x{text}" for text in categories)]}), source="f")
    assert time.process_time() - begin < 3.0, "something grows with the square of the categories"
    assert codes[:, 0].tolist() == [*range(10_000), *range(10_000)]
    assert len(set(schema.columns[0].group_codes)) == 100
