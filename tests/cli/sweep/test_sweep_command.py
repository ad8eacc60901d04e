"""``cloister sweep``, as a user has it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from client.data_set import found_data_set
from client.policy import write_policy
from protocol.keys import create_identity
from protocol.study import Study
from simulations.sweep.judgement import CHARGED_MEASURES
from simulations.sweep.objective import DISTANCES, IMAGE_DISTANCES, PREDICTION
from simulations.sweep.search import Search

ROOT = Path(__file__).parents[3]
PUBLIC = ("--public", "embedded in scikit-learn")
FAST = ("--set", "training.rounds=1,2", "--sites", "1")


def test_public_records_are_tuned_on_and_the_winner_says_why(cloister, tmp_path):
    out = tmp_path / "best.toml"
    status, told, err = cloister("sweep", "breast_cancer", *PUBLIC, *FAST, "-o", out, "--json")
    assert status == 0, err
    found = json.loads(told)
    assert [trial["values"] for trial in found["trials"]] == [{"training.rounds": 1}, {"training.rounds": 2}]
    assert found["best"]["score"] == max(trial["score"] for trial in found["trials"])
    assert found["statement"] is None
    best = Study.from_toml(out)
    assert best.training.rounds == found["best"]["values"]["training.rounds"]
    assert best.purpose.endswith("(grid search) by auroc, on public records (embedded in scikit-learn).")
    again = cloister("sweep", "breast_cancer", *PUBLIC, *FAST, "-o", out, "--force")
    assert again[0] == 0
    assert "trial 1 of 2" in again[2]
    assert len((tmp_path / "best.trials.jsonl").read_text("utf-8").splitlines()) == 5  # nothing was trained again
    assert f"{found['best']['score']:.4f}" in again[1]
    assert "expect a little less" in again[1]


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_and_loses_nothing(tmp_path):
    out, journal = tmp_path / "best.toml", tmp_path / "best.trials.jsonl"
    command = [sys.executable, "-m", "cli.app", "sweep", "breast_cancer", *PUBLIC, "--sites", "1", "--json",
               "--set", "training.rounds=1,2", "-o", str(out)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def runs() -> list[str]:
        lines = journal.read_text("utf-8").split("\n")[:-1] if journal.exists() else []
        return [line for line in lines if json.loads(line)["kind"] == "run"]

    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        deadline = time.monotonic() + 120
        while not runs() and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    before = runs()
    assert len(before) == 1
    assert not out.exists()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert runs()[: len(before)] == before
    assert len(runs()) == 2
    assert [trial["trial"] for trial in json.loads(done.stdout)["trials"]] == [0, 1]
    assert out.exists()


def test_rows_of_a_release_are_tuned_on(cloister, odd_release, tmp_path):
    mapping = json.loads((odd_release / "study.json").read_text("utf-8"))
    study, out = tmp_path / "study.toml", tmp_path / "best.toml"
    study.write_text(tomli_w.dumps(mapping), "utf-8")
    arguments = ("--synthetic", odd_release, "--rows", 300, "--set", "training.rounds=1,2", "--objective", "tvd2")
    status, told, err = cloister("sweep", study, *arguments, "-o", out, "--json")
    assert status == 0, err
    found = json.loads(told)
    assert "300 synthetic rows of the release of study" in found["records"]
    assert found["best"]["score"] == max(-trial["measures"]["tvd2"] for trial in found["trials"])
    assert Study.from_toml(out).purpose == ""  # nobody wrote one: a note in its place would hide that
    assert "300 synthetic rows of the release of study" in out.read_text("utf-8").splitlines()[0]
    assert "differential privacy" in found["records"]
    other = tmp_path / "other.toml"
    mapping["schema"]["columns"][1]["categories"][0] = "pink"
    other.write_text(tomli_w.dumps(mapping), "utf-8")
    status, _, err = cloister("sweep", other, *arguments, "-o", tmp_path / "x.toml")
    assert (status, "different schemas" in err) == (1, True)


def charged_site(folder: Path) -> Path:
    """A site with 200 records and a study beside it."""
    folder.mkdir()
    create_identity(folder / "key.pem")
    generator = np.random.default_rng(0)
    rows = [f"{age},{int(generator.random() < age / 10)}" for age in generator.integers(0, 10, 200)]
    (folder / "records.csv").write_text("\n".join(["age,ill", *rows]) + "\n", "utf-8")
    location = str(folder / "records.csv")
    found_data_set(folder, name="north", location=location, data_set="stays", device="cpu")
    write_policy(folder / "policy.toml", epsilon=3.0, delta=1e-4)
    columns = [{"name": "age", "kind": "integer", "lower": 0, "upper": 9},
               {"name": "ill", "kind": "boolean", "true_values": ["1"], "false_values": ["0"]}]  # fmt: skip
    study = {
        "study": {"name": "tiny", "purpose": "A test."},
        "schema": {"target": "ill", "columns": columns},
        "model": {"family": "vae", "options": {"latent": 1}},
        "privacy": {"epsilon": 1.0, "delta": 1e-4, "sample_rate": 0.5},
        "federation": {"sites": 1, "public_records": 200},
    }
    (folder / "study.toml").write_text(tomli_w.dumps(study), "utf-8")
    return folder


def test_private_records_are_paid_for(cloister, tmp_path):
    site, out = charged_site(tmp_path / "site"), tmp_path / "best.toml"
    charged = ("sweep", site / "study.toml", "--charged", "--site", site, "-o", out)
    values = ("--set", "training.rounds=1,2")
    status, told, err = cloister(*charged, *values, "--yes", "--json")
    assert status == 0, err
    found = json.loads(told)
    assert "2 trainings: (1." in err
    statement = found["statement"]
    assert (statement["private"], statement["simulated"]) == (True, False)
    assert 1.3 < statement["check"]["pld"] < 2.1
    study = tomllib.loads(out.read_text("utf-8"))
    assert "the private records of site north, every attempt charged" in study["study"]["purpose"]
    assert "# The tuning itself: (1." in out.read_text("utf-8")
    status, told, err = cloister("site", "ledger", "--site", site, "--json")
    assert json.loads(told)["statement"]["check"]["pld"] == pytest.approx(statement["check"]["pld"])
    assert cloister("site", "ledger", "--site", site, "--verify")[0] == 0
    over = cloister(*charged[:-1], tmp_path / "more.toml", "--set", "training.rounds=1,2,3,4,5,6,7,8,9", "--yes")
    assert over[0] == 1
    assert "would pass the site's ceiling" in over[2]


def test_nothing_is_paid_without_a_yes(cloister, tmp_path, monkeypatch):
    site = charged_site(tmp_path / "site")
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    before = cloister("site", "ledger", "--site", site)
    status, told, _ = cloister("sweep", site / "study.toml", "--charged", "--site", site, "-o", tmp_path / "best.toml",
                               "--set", "training.rounds=1")  # fmt: skip
    assert (status, told) == (1, "")
    assert cloister("site", "ledger", "--site", site) == before
    assert not (tmp_path / "best.toml").exists()


def test_the_guide_names_options_that_there_are_and_all_that_matter(cloister):
    told, guide = cloister("sweep", "--help")[1], (ROOT / "docs" / "tuning.md").read_text("utf-8")
    named = set(re.findall(r"--[a-z][a-z-]+", guide))
    options = set(re.findall(r"--[a-z][a-z-]+", told))
    assert named <= options
    assert options - named <= {"--seed", "--output", "--force", "--yes", "--device", "--json", "--help", "--rows"}
    for name in (*PREDICTION, *DISTANCES, *IMAGE_DISTANCES, *CHARGED_MEASURES, *Search):
        assert f"`{name}`" in guide
        assert name in told


SWEEP = ("sweep", "breast_cancer")
SET = ("--set", "training.rounds=1")
REFUSALS = [
    (SET, "exactly one way", "--synthetic RELEASE"),
    ((*SET, "--data", "private.csv"), "exactly one way", "--public"),
    ((*SET, *PUBLIC, "--charged"), "--public and --charged", "--public"),
    ((*SET, "--public", " "), "--public says", "Who published them"),
    ((*SET, "--synthetic", "r", "--data", "x.csv"), "--data does not go with --synthetic", "--public"),
    ((*SET, "--charged", "--data", "x.csv"), "--data does not go with --charged", "site's folder"),
    ((*SET, *PUBLIC, "--score-noise", "3"), "--score-noise does not go with --public", "--charged"),
    ((*SET, *PUBLIC, "--search", "greedy"), "--search is 'greedy'", "bayesian"),
    ((*SET, *PUBLIC, "--search", "grid", "--trials", "3"), "A grid has all", "--search random"),
    ((*SET, *PUBLIC, "--objective", "auc"), "names 'auc'", "auroc"),
    (("--set", "privacy.epsilon=1,10", *PUBLIC), "privacy.epsilon is not for tuning", "agreed on"),
    ((*PUBLIC,), "Nothing is to be tried", "--set"),
    ((*SET, "--charged", "--objective", "auroc"), "names 'auroc'", "balanced_accuracy"),
    (("--set", "training.rounds=0", *PUBLIC), "training.rounds is 0", "whole number"),
]


@pytest.mark.parametrize(("arguments", "problem", "remedy"), REFUSALS)
def test_what_is_not_lawful_or_not_meant_is_refused_in_one_line(cloister, tmp_path, arguments, problem, remedy):
    status, out, err = cloister(*SWEEP, *arguments, "-o", tmp_path / "best.toml")
    assert (status, out) == (1, "")
    assert err.startswith("cloister: ")
    assert problem in err
    assert remedy in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
