"""Studies with rounds of statistics on the command line: checked, run and verified."""

import json
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
STUDY = """
[study]
name = "counted"
purpose = "A test."

[schema]
file = "s.schema.toml"

[model]
family = "vae"

[training]
rounds = 3

[statistics]
rounds = 1
share = 0.25

[privacy]
epsilon = 4.0
delta = 1e-4
sample_rate = 0.25

[federation]
sites = 2
public_records = 100
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "s.schema.toml").write_text(SCHEMA)
    (tmp_path / "study.toml").write_text(STUDY)
    generator = np.random.default_rng(0)
    rows = [f"{age},{str(age > 24).lower()}" for age in generator.integers(20, 30, 80)]
    (tmp_path / "records.csv").write_text("age,ill\n" + "\n".join(rows) + "\n")
    return tmp_path / "study.toml"


def test_a_check_shows_what_leaves_and_costs_in_both_stages(cloister, study):
    status, out, _ = cloister("study", "check", str(study), "--json")
    assert status == 0
    found = json.loads(out)
    statistics, training = found["stages"]
    assert (statistics["kind"], statistics["numbers"], statistics["coordinates"]) == ("statistics", "1", 10 * 2)
    assert (training["kind"], training["numbers"], training["coordinates"]) == ("gradients", "2-4", found["weights"])
    assert found["rounds"] == 4
    assert statistics["bytes_per_site"] == 4 * 20
    assert found["bytes_per_site"] == 4 * (20 + 3 * found["weights"])
    assert [event["kind"] for event in found["statement"]["events"]] == ["statistics", "gradients"]
    assert 3.98 < found["statement"]["check"]["pld"] <= 4.0

    status, out, _ = cloister("study", "check", str(study))
    assert status == 0
    told = " ".join(out.split())
    assert "rounds 1 statistics: 20 numbers, noise multiplier" in told
    assert "rounds 2-4 gradients:" in told
    assert "1 noisy sum of statistics" in told
    assert "3 noisy sums of gradients" in told


def test_a_run_with_statistics_is_made_and_verified(cloister, study):
    release = study.parent / "release"
    status, _, err = cloister("simulate", str(study), "--data", str(study.parent / "records.csv"), "-o", str(release))
    assert status == 0, err
    provenance = json.loads((release / "provenance.json").read_text())
    assert provenance["rounds"] == 4
    assert {site["contributions"] for site in provenance["sites"].values()} == {4}
    status, out, _ = cloister("verify", str(release))
    assert status == 0
    assert "All 4 rounds of the study were run" in " ".join(out.split())


@pytest.mark.parametrize(
    ("line", "to", "word"),
    [
        ("rounds = 1\n", "rounds = 2\n", "has a use for 1"),
        ("share = 0.25", "share = 1.5", "statistics.share"),
        ("share = 0.25", "shares = 0.25", "statistics.shares"),
    ],
)
def test_statistics_that_cannot_be_are_refused(cloister, study, line, to, word):
    study.write_text(study.read_text().replace(line, to))
    status, _, err = cloister("study", "check", str(study))
    assert status != 0
    assert word in " ".join(err.split())
