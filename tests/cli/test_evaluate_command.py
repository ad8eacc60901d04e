"""``cloister evaluate`` measures a release or a file, however its source is written."""

import json

import pytest

from evaluation.utility import benchmark_split

KEYS = {
    "version", "warning", "statement", "statement_lines", "target", "rows", "compared_with", "fidelity",
    "yardsticks", "utility", "detection", "columns", "notes",
}  # fmt: skip


def evaluated(cloister, *arguments):
    status, out, err = cloister("evaluate", *arguments, "--json")
    assert status == 0, err
    assert "Keep this report where the real records are." in err
    return json.loads(out)


@pytest.fixture
def real(real_file, tmp_path):
    return real_file(tmp_path / "real.csv", count=300, seed=5)


def test_a_release_is_evaluated_with_its_statement(cloister, odd_release, real):
    found = evaluated(cloister, odd_release, "--real", real)
    assert set(found) == KEYS
    assert found["rows"] == {"train": 240, "test": 60, "synthetic": 300}
    assert found["statement"]["simulated"] is True
    assert found["statement_lines"][0].startswith("SIMULATED")
    assert any("--real was split" in note for note in found["notes"])
    assert evaluated(cloister, odd_release, "--real", real) == found
    other = evaluated(cloister, odd_release, "--real", real, "--seed", 1)
    assert other["fidelity"] != found["fidelity"]  # all of it: two splits may well agree in one rounded mean


def test_training_rows_and_count_are_taken_as_given(cloister, odd_release, real, real_file, tmp_path):
    train = real_file(tmp_path / "train.csv", count=200, seed=6)
    found = evaluated(cloister, odd_release, "--real", real, "--train", train, "-n", 150)
    assert found["rows"] == {"train": 200, "test": 300, "synthetic": 150}
    assert not any("--real was split" in note for note in found["notes"])


def test_the_records_of_a_person_stay_on_one_side(cloister, odd_release, real_file, tmp_path):
    persons = [person for person in range(20) for _ in range(person + 1)]
    data = real_file(tmp_path / "real.csv", count=len(persons), seed=5, persons=persons)
    found = evaluated(cloister, odd_release, "--real", data)
    assert found["rows"]["train"] == sum(person + 1 for person in benchmark_split(20)[0])
    assert found["rows"]["train"] != int(0.8 * len(persons))  # what a split by rows would give


def test_a_sampled_file_is_read_back_whatever_the_schema_says_of_its_source(
    cloister, odd_release, odd_schema, real, tmp_path
):
    """The schema speaks of semicolons, no header, other dates, and of 0 as true."""
    columns = []
    for name in ("rows.parquet", "rows.csv"):
        assert cloister("sample", odd_release, "-q", "-n", 400, "--seed", 2, "-o", tmp_path / name)[0] == 0
        found = evaluated(cloister, tmp_path / name, "--schema", odd_schema, "--real", real)
        assert found["rows"]["synthetic"] == 400
        assert found["statement"] is None
        columns.append([column["synthetic"] for column in found["columns"]])
    direct = evaluated(cloister, odd_release, "--real", real, "-n", 400, "--seed", 2)
    assert columns[0] == columns[1] == [column["synthetic"] for column in direct["columns"]]


def test_a_file_in_the_form_of_the_source_is_read_too(cloister, odd_schema, real, real_file, tmp_path):
    """The twin: the same rows as real ones and as synthetic ones have the same histograms."""
    found = evaluated(cloister, real, "--schema", odd_schema, "--real", real, "--train", real)
    assert found["fidelity"]["one_way"] == 0.0
    other = real_file(tmp_path / "other.csv", count=300, seed=9)
    found = evaluated(cloister, other, "--schema", odd_schema, "--real", real, "--train", real)
    assert found["fidelity"]["one_way"] > 0.0


def test_the_summary_and_the_page(cloister, odd_release, real, tmp_path):
    page = tmp_path / "report.html"
    status, out, err = cloister("evaluate", odd_release, "--real", real, "-o", page)
    assert status == 0
    assert err.startswith(f"{page} written. Keep this report")
    for words in (
        "SIMULATED: (",
        "300 synthetic, 240 real training, 60 real test",
        "triples",
        "boosted trees",
    ):
        assert words in out
    assert "\x1b" not in out
    text = page.read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "differential privacy" in text
    status, _, err = cloister("evaluate", odd_release, "--real", real, "-o", page)
    assert status == 1
    assert "--force" in err
    assert page.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{release}", "--schema", "{schema}"], "--schema: a release has its own schema"),
        (["{real}"], "--schema: a file of synthetic records needs one"),
        (["{real}", "--schema", "{schema}", "-n", "5"], "-n: only a release can be drawn from"),
    ],
)
def test_options_that_do_not_go_together(cloister, odd_release, odd_schema, real, arguments, problem):
    places = {"release": odd_release, "schema": odd_schema, "real": real}
    filled = [argument.format(**places) for argument in arguments]
    status, out, err = cloister("evaluate", *filled, "--real", real)
    assert (status, out) == (2, "")
    assert problem in err


def test_one_person_cannot_be_split(cloister, odd_release, real_file, tmp_path):
    data = real_file(tmp_path / "real.csv", count=3, seed=5, persons=[1, 1, 1])
    status, _, err = cloister("evaluate", odd_release, "--real", data)
    assert status == 1
    assert "too few to split" in err
