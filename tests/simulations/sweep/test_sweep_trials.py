"""Trials in turn: resumed, compared, and the best of them written down."""

import tomllib
from pathlib import Path

import pytest

from protocol.errors import InputError, StudyError
from protocol.study import Study
from simulations.sweep.bench import Bench
from simulations.sweep.journal import Journal
from simulations.sweep.objective import Objective
from simulations.sweep.search import Search
from simulations.sweep.space import Space
from simulations.sweep.sweep import Sweep, run_sweep
from simulations.sweep.winner import tuning_note, winner_text

KNOWN = ("auroc", "tvd2")


class Pretended(Bench):
    """Scores a study by its learning rate and repeat, and remembers what it was asked; fails or stops where told."""

    def __init__(self, *, fails: float | None = None, stops_after: int | None = None) -> None:
        self.asked: list[tuple[float, int]] = []
        self.fails, self.stops_after = fails, stops_after

    words = "records that are pretended"

    def identity(self):
        return {"mode": "public"}

    def start(self, study):
        assert study.privacy.epsilon == 1.0
        return {}

    def measure(self, study: Study, *, repeat: int):
        if self.stops_after == len(self.asked):
            raise KeyboardInterrupt
        rate = study.training.learning_rate
        self.asked.append((rate, repeat))
        if rate == self.fails:
            raise StudyError(f"{rate} does not do.", remedy="Take another.")
        return {"auroc": 0.9 - abs(rate - 0.03) + 0.001 * repeat, "tvd2": rate}


@pytest.fixture
def sweep(tiny):
    def make(text: str = "training.learning_rate=0.01,0.02,0.03,0.04", objective: str = "auroc", **options) -> Sweep:
        defaults = {"search": Search.GRID, "trials": 4, "repeats": 2, "seed": 0}
        space = Space.read(choices=(text,), ranges=(), file=None)
        judged = Objective.parse(objective, known=KNOWN)
        return Sweep(base=tiny().to_mapping(), space=space, objective=judged, **defaults | options)

    return make


def test_the_best_mean_wins(sweep, tmp_path):
    bench, plan = Pretended(), sweep()
    with Journal(tmp_path / "j", head=plan.head(bench)) as journal:
        outcome = run_sweep(plan, bench, journal)
    assert outcome.best.values == {"training.learning_rate": 0.03}
    assert outcome.best.score == pytest.approx(0.9005)
    assert outcome.best.standard_error == pytest.approx(0.0005)
    assert [trial.number for trial in outcome.ranked] == [2, 1, 3, 0]
    assert bench.asked == [(rate, repeat) for rate in (0.01, 0.02, 0.03, 0.04) for repeat in (0, 1)]


def test_distances_are_better_when_small(sweep, tmp_path):
    bench, plan = Pretended(), sweep(objective="tvd2")
    with Journal(tmp_path / "j", head=plan.head(bench)) as journal:
        assert run_sweep(plan, bench, journal).best.values == {"training.learning_rate": 0.01}


@pytest.mark.parametrize("done", range(9))
def test_a_sweep_that_was_stopped_anywhere_does_only_what_is_left(sweep, tmp_path, done):
    plan, first, second = sweep(), Pretended(stops_after=done), Pretended()
    if done < 8:
        with Journal(tmp_path / "j", head=plan.head(first)) as journal, pytest.raises(KeyboardInterrupt):
            run_sweep(plan, first, journal)
    with Journal(tmp_path / "j", head=plan.head(second)) as journal:
        resumed = run_sweep(plan, second, journal)
    whole = Pretended()
    with Journal(tmp_path / "whole", head=plan.head(whole)) as journal:
        assert resumed.trials == run_sweep(plan, whole, journal).trials
    if done < 8:
        assert first.asked + second.asked == whole.asked


def test_a_finished_sweep_may_be_given_more_trials_but_no_other_question(sweep, tmp_path):
    plan, bench = sweep(search=Search.RANDOM, trials=2), Pretended()
    with Journal(tmp_path / "j", head=plan.head(bench)) as journal:
        run_sweep(plan, bench, journal)
    more = sweep(search=Search.RANDOM, trials=3)
    with Journal(tmp_path / "j", head=more.head(bench)) as journal:
        assert len(run_sweep(more, bench, journal).trials) == 3
    assert len(bench.asked) == 6
    for other in (sweep(repeats=3), sweep(seed=1), sweep(objective="tvd2"), sweep("training.rounds=1,2")):
        with pytest.raises(InputError, match="another sweep"):
            Journal(tmp_path / "j", head=other.head(bench))


def test_a_trial_that_fails_is_noted_and_does_not_win(sweep, tmp_path):
    plan, bench = sweep(), Pretended(fails=0.03)
    with Journal(tmp_path / "j", head=plan.head(bench)) as journal:
        outcome = run_sweep(plan, bench, journal)
    assert outcome.best.values == {"training.learning_rate": 0.02}
    assert outcome.trials[2].problem == "0.03 does not do. Take another."
    only = sweep("training.learning_rate=0.03", trials=1)
    with Journal(tmp_path / "k", head=only.head(bench)) as journal:
        failed = run_sweep(only, bench, journal)
    with pytest.raises(InputError, match=r"Every trial failed; the first: 0\.03"):
        _ = failed.best


def test_values_that_no_study_may_have_are_refused_before_anything(sweep):
    with pytest.raises(StudyError, match=r"training\.rounds"):
        sweep("training.rounds=3,0", trials=2).check()
    with pytest.raises(StudyError, match="latent"):
        sweep("model.options.latent=1,0", trials=2).check()
    sweep().check()


def winner(sweep, tmp_path, *, purpose: str = "Plan beds.", written: bool = True) -> str:
    plan, bench = sweep(), Pretended()
    with Journal(tmp_path / "j", head=plan.head(bench)) as journal:
        outcome = run_sweep(plan, bench, journal)
    mapping = {
        "study": {"name": "tiny", "purpose": purpose},
        "schema": {"file": "tiny.schema.toml"},
        "training": {"rounds": 3},
    }
    return winner_text(
        mapping, outcome.best.values, note=tuning_note(plan, outcome, bench), purpose_is_written=written,
        comments=("auroc 0.9",), base=Path("studies"), output=Path("tuned/best.toml"),
    )  # fmt: skip


def test_the_winner_says_how_it_was_tuned_and_finds_its_schema(sweep, tmp_path):
    text = winner(sweep, tmp_path)
    study = tomllib.loads(text)
    note = (
        "training.learning_rate, the best of 4 trials (grid search, each trained 2 times) by auroc, "
        "on records that are pretended."
    )
    assert study["study"]["purpose"] == f"Plan beds. Tuned by cloister sweep: {note}"
    assert study["training"] == {"rounds": 3, "learning_rate": 0.03}
    assert study["schema"] == {"file": "../studies/tiny.schema.toml"}
    assert text.startswith(f"# Tuned by cloister sweep: {note}\n#   training.learning_rate = 0.03\n# auroc 0.9\n")


def test_tuning_again_tells_of_the_last_tuning_alone(sweep, tmp_path):
    once = tomllib.loads(winner(sweep, tmp_path))["study"]["purpose"]
    assert tomllib.loads(winner(sweep, tmp_path, purpose=once))["study"]["purpose"] == once


def test_a_purpose_that_nobody_wrote_stays_visibly_unwritten(sweep, tmp_path):
    text = winner(sweep, tmp_path, purpose="Say it.", written=False)
    assert tomllib.loads(text)["study"]["purpose"] == "Say it."
    assert text.startswith("# Tuned by cloister sweep: ")
