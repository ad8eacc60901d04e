"""The grid of a command line: every combination that has a meaning, once."""

import json

import pytest

from perf import utility
from perf.results.result import Result, kept
from perf.results.sets import SETS
from perf.results.setting import Among, Setting
from protocol.terms import Trust


def cells(line):
    return list(utility.grid(utility.arguments(line.split())))


def test_systems_leave_out_what_they_do_not_have():
    found = cells("adult --family real mst vae --epsilon 1 10 --sites 1 10 --trust none sum")
    assert found == [
        Setting(data_set="adult", system="real"),
        Setting(data_set="adult", system="mst", epsilon=1.0),
        Setting(data_set="adult", system="mst", epsilon=10.0),
        *(
            setting
            for epsilon in (1.0, 10.0)
            for setting in (
                Setting(data_set="adult", system="vae", epsilon=epsilon),
                Setting(data_set="adult", system="vae", epsilon=epsilon, sites=10),
                Setting(data_set="adult", system="vae", epsilon=epsilon, sites=10, trust=Trust.SUM),
            )
        ),
    ]


def test_drop_outs_are_of_the_secure_sum_alone():
    local, shared = cells("adult --sites 10 --trust none sum --dropouts 2 --colluders 1")
    assert (local.dropouts, local.colluders) == (0, 0)
    assert (shared.dropouts, shared.colluders) == (2, 1)


def test_hospitals_are_split_by_nature_and_alone_nobody_shares_noise():
    (found,) = cells("heart-disease --sites 4 --trust sum --alone")
    assert found == Setting(
        data_set="heart-disease", system="vae", epsilon=1.0, sites=4, partition="natural", among=Among.ALONE
    )


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Runs are counted in place of made."""
    made = []

    def run(setting, *, changes):
        made.append((setting, changes))
        return Result(
            setting=setting, measures={"auroc": 0.5}, promise=None, seconds=0.0, peak_mb=1.0, machine="", versions={}
        )

    monkeypatch.setattr(utility, "run", run)
    monkeypatch.setattr(utility, "FOLDER", tmp_path)
    return made


def start(monkeypatch, line):
    monkeypatch.setattr("sys.argv", ["utility", *line.split()])
    utility.main()


def test_runs_that_are_there_are_left_out_unless_they_are_wanted_again(monkeypatch, measured, tmp_path):
    start(monkeypatch, "ilpd --seeds 2 --write")
    start(monkeypatch, "ilpd --seeds 3 --write")
    assert [setting.seed for setting, _ in measured] == [0, 1, 2]
    assert [result.setting.seed for result in kept(folder=tmp_path)] == [0, 1, 2]
    start(monkeypatch, "ilpd --write --again")
    assert [setting.seed for setting, _ in measured] == [0, 1, 2, 0]


def test_a_trial_is_never_kept(monkeypatch, measured, tmp_path):
    with pytest.raises(SystemExit, match="recipes alone"):
        start(monkeypatch, "ilpd --write --training rounds=5")
    assert (measured, list(tmp_path.iterdir())) == ([], [])
    start(monkeypatch, "ilpd --training rounds=5 --delta 1e-7")
    assert measured[0][1].training == {"rounds": 5}
    assert measured[0][1].privacy == {"delta": 1e-7}


@pytest.mark.usefixtures("measured")
def test_what_is_printed_can_be_read_by_programs(monkeypatch, capsys):
    start(monkeypatch, "ilpd cardio --seeds 2 --json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["setting"]["data_set"] for line in lines] == ["ilpd", "cardio"]
    assert all(line["auroc"] == 0.5 and line["seeds"] == 2 for line in lines)


@pytest.mark.usefixtures("measured")
def test_an_error_is_told_without_a_traceback(monkeypatch):
    with pytest.raises(SystemExit, match="private and central"):
        start(monkeypatch, "ilpd --family mst --epsilon 0")


def test_the_help_names_every_set(capsys):
    with pytest.raises(SystemExit):
        utility.arguments(["--help"])
    shown = capsys.readouterr().out
    assert all(name in "".join(shown.split()) for name in SETS)
