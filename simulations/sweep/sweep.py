"""A sweep: trials in turn, each on the disk before the next, and the best of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from protocol.digest import digest
from protocol.errors import CloisterError, InputError
from protocol.fingerprint import VERSION
from protocol.study import Study
from simulations.sweep.bench import Bench
from simulations.sweep.journal import Journal
from simulations.sweep.objective import Objective
from simulations.sweep.search import Scored, Search, propose
from simulations.sweep.space import Space, Values, applied
from strategies.study_model import build_study_model


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is tried, how, and by what it is judged; every value is public.

    Attributes:
        base: The study as a mapping, its schema written out.
        space: What is tried.
        search: How values are chosen.
        trials: How many.
        repeats: Trainings of every trial, each with another split and other initial weights.
        seed: Of the search and the splits.
        objective: What a training is judged by.
    """

    base: Mapping[str, Any]
    space: Space
    search: Search
    trials: int
    repeats: int
    seed: int
    objective: Objective

    def study(self, values: Values) -> Study:
        """Return the study with values put in.

        Raises:
            StudyError: If the study does not allow them.
        """
        study = Study.from_mapping(applied(self.base, values))
        build_study_model(study)
        return study

    def head(self, bench: Bench) -> dict[str, Any]:
        """Return what the journal says of the sweep: a journal that says otherwise is another's.

        The number of trials is left out where they cost nothing: a finished sweep may be given more of them.
        """
        charged = {"trials": self.trials} if bench.charged else {}
        return {
            "version": 1,
            "cloister": VERSION,
            "study": digest(dict(self.base)),
            "space": self.space.to_mapping(),
            "search": self.search.value,
            "repeats": self.repeats,
            "seed": self.seed,
            "objective": str(self.objective),
            "bench": bench.identity(),
            **charged,
        }

    def left(self, journal: Journal) -> list[Study]:
        """Return the study of every training that a journal does not hold, for a search that is planned beforehand."""
        runs = [(number, repeat) for number in range(self.trials) for repeat in range(self.repeats)]
        left = [number for number, repeat in runs if journal.find("run", trial=number, repeat=repeat) is None]
        return [self.study(propose(self.space, self.search, n, seed=self.seed, history=())) for n in left]

    def check(self) -> None:
        """Refuse values that no study may have, before anything is trained, where they are known beforehand.

        Raises:
            StudyError: Naming the value.
        """
        if self.search is not Search.BAYESIAN:
            for number in range(self.trials):
                self.study(propose(self.space, self.search, number, seed=self.seed, history=()))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial that is finished.

    Attributes:
        number: From 0.
        values: What was tried.
        measures: Means over the repeats, by name; empty if it failed.
        scores: What each repeat was worth; more is better.
        problem: Why it failed; None if it did not.
    """

    number: int
    values: Values
    measures: Mapping[str, float]
    scores: tuple[float, ...]
    problem: str | None = None

    @property
    def score(self) -> float:
        """Mean worth over the repeats; lowest of all if it failed."""
        return fmean(self.scores) if self.problem is None else float("-inf")

    @property
    def standard_error(self) -> float | None:
        """Of the mean over repeats, which says how much chance there is in it; None for a single one."""
        return stdev(self.scores) / len(self.scores) ** 0.5 if len(self.scores) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a sweep found.

    Attributes:
        trials: All trials, in order.
        seconds: What all trainings took together, those before a restart included; 0 where they were charged.
    """

    trials: tuple[Trial, ...]
    seconds: float

    @property
    def best(self) -> Trial:
        """The trial of the highest score; of several, the first.

        Raises:
            InputError: If every trial failed.
        """
        best = max(self.trials, key=lambda trial: trial.score)
        if best.problem is not None:
            raise InputError(f"Every trial failed; the first: {best.problem}", remedy="Try other values.")
        return best

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """All trials, the best first."""
        return tuple(sorted(self.trials, key=lambda trial: -trial.score))


def run_sweep(
    sweep: Sweep, bench: Bench, journal: Journal, *, announce: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Make all trials that the journal does not hold yet.

    Args:
        sweep: What to try.
        bench: Where.
        journal: An open journal of this sweep.
        announce: Told what is tried and what came of it.

    Returns:
        What was found.

    Raises:
        CloisterError: What a charged trial raised: it was paid for, and is not tried again by itself. Where trials
            are free, one that fails is noted, and the sweep goes on.
    """
    done: list[Trial] = []
    for number in range(sweep.trials):
        values = _values(sweep, journal, number, done)
        told = ", ".join(f"{key} {value}" for key, value in values.items())
        announce(f"trial {number + 1} of {sweep.trials}: {told}")
        for repeat in range(sweep.repeats):
            if journal.find("run", trial=number, repeat=repeat) is None:
                _run(sweep, bench, journal, number=number, values=values, repeat=repeat)
        done.append(_trial(sweep, journal, number, values))
        announce(
            f"trial {number + 1}: {done[-1].problem or f'{sweep.objective} {sweep.objective.told(done[-1].score):.4f}'}"
        )
    return Outcome(trials=tuple(done), seconds=sum(float(line.get("seconds", 0)) for line in journal.kind("run")))


def _values(sweep: Sweep, journal: Journal, number: int, done: list[Trial]) -> Values:
    """Return what a trial tries: as the journal has it, or else proposed and written down."""
    line = journal.find("trial", trial=number)
    if line is not None:
        values: Values = line["values"]
        return values
    history = [Scored(values=trial.values, score=trial.score) for trial in done if trial.problem is None]
    values = propose(sweep.space, sweep.search, number, seed=sweep.seed, history=history)
    journal.append({"kind": "trial", "trial": number, "values": values})
    return values


def _run(sweep: Sweep, bench: Bench, journal: Journal, *, number: int, values: Values, repeat: int) -> None:
    """Train once, and write down what came of it."""
    line: dict[str, Any] = {"kind": "run", "trial": number, "repeat": repeat}
    begin = time.monotonic()
    paid: dict[str, Any] = {}
    try:
        study = sweep.study(values)
        paid = bench.start(study)
        if paid:
            journal.append({"kind": "paid", "trial": number, "repeat": repeat, **paid})
        line |= {"measures": bench.measure(study, repeat=repeat)}
    except CloisterError as error:
        if bench.charged:
            raise
        line |= {"problem": str(error)}
    # How long a training takes tells how many records there are: where they are private, that is left out.
    journal.append(line if bench.charged else line | {"seconds": round(time.monotonic() - begin, 2)})


def _trial(sweep: Sweep, journal: Journal, number: int, values: Values) -> Trial:
    lines = [journal.find("run", trial=number, repeat=repeat) or {} for repeat in range(sweep.repeats)]
    problem = next((str(line["problem"]) for line in lines if "problem" in line), None)
    if problem is not None:
        return Trial(number=number, values=values, measures={}, scores=(), problem=problem)
    found: list[dict[str, float]] = [line["measures"] for line in lines]
    return Trial(
        number=number,
        values=values,
        measures={name: fmean(one[name] for one in found) for name in found[0]},
        scores=tuple(sweep.objective.score(one) for one in found),
    )
