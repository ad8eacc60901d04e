"""Which values the next trial has: all in turn, some at random, or where earlier trials did well."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from math import prod
from typing import Any

import numpy as np

from protocol.errors import InputError
from simulations.sweep.space import Choices, Range, Scale, Space, Values

MOST_TRIALS = 10_000
_FIRST_AT_RANDOM = 5


class Search(StrEnum):
    """How values are chosen.

    ``BAYESIAN`` is the tree-structured Parzen estimator of Bergstra et al. 2011 ("Algorithms for hyper-parameter
    optimization"), as the library Optuna has it; the others need no library.
    """

    GRID = "grid"
    RANDOM = "random"
    BAYESIAN = "bayesian"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A finished trial, as a search sees it.

    Attributes:
        values: What was tried.
        score: What it was worth; more is better.
    """

    values: Values
    score: float


def count_trials(space: Space, search: Search, wanted: int | None, *, default: int) -> int:
    """Return how many trials a search makes.

    Args:
        space: What is tried.
        search: How.
        wanted: What the user asked for, if anything.
        default: Trials of a search that could go on for ever.

    Raises:
        InputError: If a grid is asked for over a range, or there are too many trials.
    """
    cells = prod(len(axis.values) for axis in space.axes if isinstance(axis, Choices))
    if search is Search.GRID:
        if space.has_ranges:
            raise InputError("A grid has no ranges.", remedy="Give lists with --set, or use --search random.")
        if wanted is not None:
            raise InputError(
                f"A grid has all of its {cells} trials.", remedy="Leave out --trials, or use --search random."
            )
    trials = cells if search is Search.GRID else wanted or default
    if search is Search.RANDOM and not space.has_ranges:
        trials = min(trials, cells)
    if not 1 <= trials <= MOST_TRIALS:
        raise InputError(f"{trials} trials are too many.", remedy=f"Try at most {MOST_TRIALS}: give fewer values.")
    return trials


def propose(space: Space, search: Search, number: int, *, seed: int, history: Sequence[Scored]) -> dict[str, Any]:
    """Return the values of one trial; the same arguments give the same values.

    Args:
        space: What is tried.
        search: How.
        number: Of the trial, from 0.
        seed: Public seed of the search.
        history: The finished trials; only a Bayesian search looks at them.

    Raises:
        InputError: If the search needs a library that is not installed.
    """
    if search is Search.BAYESIAN:
        return _likely(space, seed=seed + number, history=history)
    if search is Search.RANDOM and space.has_ranges:
        generator = np.random.default_rng([seed, number])
        return {axis.key: axis.draw(generator) for axis in space.axes}
    cells = list(product(*(axis.values for axis in space.axes if isinstance(axis, Choices))))
    # Without ranges a random search draws cells of the grid without putting them back: none is trained twice.
    order = np.random.default_rng(seed).permutation(len(cells)) if search is Search.RANDOM else np.arange(len(cells))
    return dict(zip((axis.key for axis in space.axes), cells[int(order[number])], strict=True))


def check_library(search: Search) -> None:
    """Refuse a search whose library is not installed, before any work.

    Raises:
        InputError: If it is missing.
    """
    if search is Search.BAYESIAN:
        _optuna()


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise InputError(
            "A Bayesian search needs Optuna, which is not installed.",
            remedy="Install it (pip install 'cloister[sweep]', or pip install optuna), or use --search random.",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _likely(space: Space, *, seed: int, history: Sequence[Scored]) -> dict[str, Any]:
    """Ask Optuna for values, telling it everything that is known: no state is kept between trials."""
    optuna = _optuna()
    distributions = {axis.key: _distribution(optuna.distributions, axis) for axis in space.axes}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_FIRST_AT_RANDOM)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for scored in history:
        params = {axis.key: _parameter(axis, scored.values[axis.key]) for axis in space.axes}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=scored.score))
    asked = study.ask(fixed_distributions=distributions).params
    return {
        axis.key: axis.values[int(asked[axis.key])] if isinstance(axis, Choices) else axis.tidy(asked[axis.key])
        for axis in space.axes
    }


def _distribution(kinds: Any, axis: Choices | Range) -> Any:
    if isinstance(axis, Choices):  # by position: a value may be a list, which Optuna does not take
        return kinds.CategoricalDistribution(tuple(range(len(axis.values))))
    log = axis.scale is Scale.LOG
    if axis.whole:
        return kinds.IntDistribution(int(axis.low), int(axis.high), log=log)
    return kinds.FloatDistribution(axis.low, axis.high, log=log)


def _parameter(axis: Choices | Range, value: Any) -> Any:
    return axis.values.index(value) if isinstance(axis, Choices) else value
