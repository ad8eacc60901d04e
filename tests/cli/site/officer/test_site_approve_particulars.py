"""What only some studies have is put before an officer in words, and nothing of it for the others."""

from cli.officer.particulars import particulars
from records.schema import Schema

WHERE = {"name": "where", "kind": "categorical", "categories": ["north", "south"]}
HASH = "5" * 64


def test_an_officer_reads_what_is_special_about_a_study(says, officer):
    plain = officer.study()
    columns = [dict(column) for column in plain.schema["columns"]]
    columns[0]["missing"] = True
    study = officer.study(
        study={"public": "Invented for a course."},
        schema={"site_column": "where", "columns": [*columns, WHERE]},
        model={"init": {"release": "census", "public": "Published in 1994.", "weights": HASH, "sent": "6" * 64}},
        federation={"lacking": {"north": ["age"], "south": ["age"]}},
    )
    status, out, err = says("approve", officer.sign(study), "--site", officer.folder, "--yes")
    assert (status, err) == (0, "")
    for words in (
        "Each record of this site gets 'north' in the column where, whatever the file holds there",
        "draw records of this site alone, and estimate its share of all records",
        "This site lacks age: missing in all of its records. What its file holds there is not read.",
        "south lacks age",
        f"The public release 'census', weights {HASH}.",
        "Its records are public, says its maker: Published in 1994.",
        "The study says that the records of all sites are public: Invented for a course.",
    ):
        assert words in out, words
    assert "secure sum hides" not in out


def test_a_usual_study_has_no_such_heading(officer):
    study = officer.study()
    assert particulars(study, Schema.from_mapping(study.schema), site="north") == ()


def test_sites_that_the_site_column_lacks_are_refused(says, officer):
    other = WHERE | {"categories": ["north", "west"]}
    study = officer.study(schema={"site_column": "where", "columns": [*officer.study().schema["columns"], other]})
    status, _, err = says("approve", officer.sign(study), "--site", officer.folder, "--yes")
    assert status == 1
    assert "The site column 'where' names north, west" in err


def test_an_officer_reads_what_becomes_of_records_that_break_a_constraint(says, officer):
    columns = officer.study().schema["columns"]
    constraints = [
        {"never": ["age >= 28", "old = no"], "broken": "drop"},
        {"column": "age", "when": ["old = yes"], "value": "29", "broken": "mend"},
        {"never": ["age = 20"]},
    ]
    old = {"name": "old", "kind": "boolean"}
    study = officer.study(schema={"columns": [*columns, old], "constraints": constraints})
    status, out, err = says("approve", officer.sign(study), "--site", officer.folder, "--yes")
    assert (status, err) == (0, "")
    assert "never age >= 28 and old = no: records that break it are left out, and counted here alone." in out
    assert "age = 29 when old = yes: where a record says otherwise, it is read as if it said so." in out
    assert "never age = 20: records that break it stop the load." in out
