"""Writing a study, checking it, running it from the command line, and verifying what came of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

SCHEMA = """
target = "ill"

[[columns]]
name = "age"
kind = "integer"
lower = 20
upper = 29

[[columns]]
name = "ill"
kind = "boolean"
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "s.schema.toml").write_text(SCHEMA)
    generator = np.random.default_rng(0)
    rows = [f"{age},{str(age > 24).lower()}" for age in generator.integers(20, 30, 120)]
    (tmp_path / "records.csv").write_text("age,ill\n" + "\n".join(rows) + "\n")
    return tmp_path


def new(files: Path, *more: str) -> tuple[str, ...]:
    where = ("--schema", str(files / "s.schema.toml"), "-o", str(files / "study.toml"))
    return ("study", "new", *where, "--sites", "6", "--records", "100", "--delta", "1e-4", *more)


def test_a_new_study_can_be_checked_run_and_verified(cloister, files):
    status, out, err = cloister(*new(files, "--trust", "sum", "--dropouts", "1"))
    assert (status, err) == (0, "")
    assert "study check" in out
    assert "Write its purpose" in out
    assert "nobody wrote its purpose" in cloister("study", "check", str(files / "study.toml"))[2]
    study = files / "study.toml"
    study.write_text(re.sub(r"(?m)^rounds = \d\d+$", "rounds = 3", study.read_text()))
    status, out, _ = cloister("study", "check", str(study), "--json")
    planned = json.loads(out)
    assert status == 0
    assert planned["rounds"] == 4  # one of statistics, which the recipe begins with
    assert planned["noise_multiplier"] > 0.1

    run = ("simulate", str(study), "--data", str(files / "records.csv"), "-o", str(files / "release"))
    status, out, err = cloister(*run, "--transcripts", str(files / "told"), "--json")
    assert status == 0, err
    assert "site-6 has 20 records" in err
    assert json.loads(out)["sites"] == {f"site-{number}": 20 for number in range(1, 7)}

    status, out, _ = cloister("verify", str(files / "release"), "--transcript", str(files / "told"))
    assert status == 0
    assert "BAD" not in out
    assert out.count("its transcript shows it masked in 4 of 4 rounds") == 6

    statement = files / "release" / "statement.json"
    statement.write_text(statement.read_text().replace('"simulated": true', '"simulated": false'))
    status, _, err = cloister("verify", str(files / "release"))
    assert status == 1
    assert "was changed after it was written" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--family", "tree"), "--family tree"),
        (("--delta", "0.5"), "delta"),
        (("--trust", "sum", "--dropouts", "4"), "may drop out"),
        (("--trust", "sum", "--colluders", "5"), "The secure sum bears"),
        (("--sites", "4", "--trust", "sum"), "hides too little"),
        (("--colluders", "2"), "without a secure sum"),
        (("--unit", "person"), "person"),
    ],
)
def test_what_a_run_would_refuse_is_refused_at_once(cloister, files, options, said):
    status, _, err = cloister(*new(files, *options))
    assert status == 1
    assert said in err
    assert err.count("\n") == 1
    assert not (files / "study.toml").exists()


def test_a_purpose_may_be_given_at_once(cloister, files):
    status, out, _ = cloister(*new(files, "--purpose", "Plan beds."))
    assert status == 0
    assert "Write its purpose" not in out
    assert 'purpose = "Plan beds."' in (files / "study.toml").read_text()
    assert "purpose" not in cloister("study", "check", str(files / "study.toml"))[2]


def test_drafted_values_are_pointed_at(cloister, files):
    schema = files / "s.schema.toml"
    schema.write_text(SCHEMA.replace("lower = 20", "lower = 20  # to be confirmed from public knowledge"))
    status, _, err = cloister(*new(files))
    assert status == 0
    assert "1 values were drafted from the data" in err
    assert "drafted" in cloister("study", "check", str(files / "study.toml"))[2]


def test_a_forgotten_person_key_is_pointed_at(cloister, files):
    schema = files / "s.schema.toml"
    schema.write_text('person = "who"\n' + SCHEMA)
    status, _, err = cloister(*new(files))
    assert status == 0
    assert "--unit person" in err


def test_a_full_disk_is_one_line(cloister, files):
    status, _, err = cloister(*new(files), "-o", "/dev/full")
    assert status == 1
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_transcripts_without_a_secure_sum_are_refused(cloister, files):
    assert cloister(*new(files))[0] == 0
    status, _, err = cloister(
        "simulate", str(files / "study.toml"), "--data", str(files / "records.csv"),
        "-o", str(files / "release"), "--transcripts", str(files / "told"),
    )  # fmt: skip
    assert status == 1
    assert "no secure sum" in err
