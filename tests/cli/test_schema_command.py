"""``cloister schema`` drafts what loads, and checks what it says."""

import json

from records.schema import Schema

TEXT = "age,ward,mail\n" + "".join(f"{20 + row % 40},{'AB'[row % 2]},p{row}@example.org\n" for row in range(80))


def test_a_draft_loads_and_fits_its_file(cloister, tmp_path):
    data, drafted = tmp_path / "visits.csv", tmp_path / "visits.schema.toml"
    data.write_text(TEXT, "utf-8")
    status, out, err = cloister("schema", "draft", data, "-o", drafted)
    assert (status, out) == (0, "")
    assert err == f"{drafted}: keep it at the site until the values marked in it are replaced by public ones.\n"
    schema = Schema.from_toml(drafted)
    assert schema.names == ("age", "ward")
    assert schema.drop == ("mail",)
    assert cloister("schema", "draft", data)[1] == drafted.read_text("utf-8")
    status, out, _ = cloister("schema", "check", drafted, "--data", data, "--json")
    assert status == 0
    assert json.loads(out) == {
        "columns": [
            {"name": "age", "kind": "integer", "codes": 40, "missing": 0},
            {"name": "ward", "kind": "categorical", "codes": 2, "missing": 0},
        ],
        "target": None,
        "person": None,
        "rows": 80,
    }


def test_a_draft_never_replaces_a_file_unasked(cloister, tmp_path):
    data, drafted = tmp_path / "visits.csv", tmp_path / "visits.schema.toml"
    data.write_text(TEXT, "utf-8")
    drafted.write_text("mine", "utf-8")
    status, _, err = cloister("schema", "draft", data, "-o", drafted)
    assert (status, drafted.read_text("utf-8")) == (1, "mine")
    assert "--force" in err
    assert cloister("schema", "draft", data, "-o", drafted, "--force")[0] == 0
    assert "[[columns]]" in drafted.read_text("utf-8")


def test_check_counts_rows_persons_and_missing_values(cloister, odd_schema, tmp_path):
    data = tmp_path / "real.csv"
    data.write_text("a;20;red;1,5;01/01/2024;ja\na;21;?;;02/01/2024;nein\nb;22;?;3;31/01/2024;ja\n", "utf-8")
    status, out, _ = cloister("schema", "check", odd_schema, "--data", data, "--json")
    assert status == 0
    found = json.loads(out)
    assert (found["rows"], found["persons"], found["target"], found["person"]) == (3, 2, "ill", "patient")
    assert [column["missing"] for column in found["columns"]] == [0, 2, 1, 0, 0]
    _, text, _ = cloister("schema", "check", odd_schema, "--data", data)
    assert "colour  categorical      4        2" in text
    assert "5 columns, 3 rows, 2 persons, target ill." in text
    assert "keep them at the site" in text


def test_check_of_a_schema_alone_looks_at_no_record(cloister, odd_schema):
    status, out, _ = cloister("schema", "check", odd_schema)
    assert status == 0
    assert "missing" not in out
    assert "The schema is in order: 5 columns, target ill." in out


def test_check_names_the_column_and_no_value(cloister, odd_schema, tmp_path):
    data = tmp_path / "real.csv"
    data.write_text("a;20;purple;1,5;01/01/2024;ja\n", "utf-8")
    status, out, err = cloister("schema", "check", odd_schema, "--data", data)
    assert (status, out) == (1, "")
    assert "column colour: 1 of 1 rows hold a category" in err
    assert "purple" not in err


def test_check_tells_constraints_groups_and_what_breaks_them(cloister, tmp_path):
    schema, data = tmp_path / "visits.schema.toml", tmp_path / "visits.csv"
    schema.write_text(
        '[[columns]]\nname = "low"\nkind = "integer"\nlower = 0\nupper = 300\n'
        '[[columns]]\nname = "high"\nkind = "integer"\nlower = 0\nupper = 300\n'
        '[[columns]]\nname = "code"\nkind = "categorical"\ncategories = ["a1", "a2", "b1"]\n'
        'hierarchy = { a1 = "a", a2 = "a", b1 = "b" }\n'
        '[[constraints]]\nholds = "low <= high"\nbroken = "drop"\n',
        "utf-8",
    )
    data.write_text("low,high,code\n80,120,a1\n90,80,a2\n70,70,b1\n", "utf-8")
    status, out, _ = cloister("schema", "check", schema, "--data", data, "--json")
    found = json.loads(out)
    assert (status, found["rows"], found["left_out"]) == (0, 2, 1)
    assert found["constraints"] == ["low <= high"]
    assert [column.get("groups") for column in found["columns"]] == [None, None, 2]
    text = cloister("schema", "check", schema, "--data", data)[1]
    assert "Every synthetic record fulfils: low <= high" in text
    assert "1 more rows break a constraint" in text
    schema.write_text(schema.read_text("utf-8").replace('"drop"', '"refuse"'), "utf-8")
    status, _, err = cloister("schema", "check", schema, "--data", data)
    assert status != 0
    assert "column low: 1 of 3 rows break the constraint 'low <= high'." in err


def test_a_draft_says_how_constraints_are_written_and_proposes_none(cloister, tmp_path):
    data, drafted = tmp_path / "visits.csv", tmp_path / "visits.schema.toml"
    data.write_text(TEXT, "utf-8")
    cloister("schema", "draft", data, "-o", drafted)
    lines = drafted.read_text("utf-8").splitlines()
    assert "# [[constraints]]" in lines
    assert Schema.from_toml(drafted).constraints == ()
