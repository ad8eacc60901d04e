"""Which values are tried next."""

import importlib
from itertools import product

import pytest

from protocol.errors import InputError
from simulations.sweep.search import Scored, Search, check_library, count_trials, propose
from simulations.sweep.space import Space

LISTS = Space.read(choices=("training.rounds=1,2,3", "training.optimiser=sgd,adam"), ranges=(), file=None)
RANGES = Space.read(choices=("training.rounds=1,2,3",), ranges=("privacy.clip_norm=0.1:10:log",), file=None)


def cells(search: Search, count: int, *, seed: int = 0) -> list[tuple]:
    return [tuple(propose(LISTS, search, number, seed=seed, history=()).values()) for number in range(count)]


def test_a_grid_is_every_combination_once_and_in_order():
    assert count_trials(LISTS, Search.GRID, None, default=20) == 6
    assert cells(Search.GRID, 6) == list(product((1, 2, 3), ("sgd", "adam")))


def test_a_random_search_of_lists_tries_nothing_twice():
    assert count_trials(LISTS, Search.RANDOM, 50, default=20) == 6
    assert sorted(cells(Search.RANDOM, 6)) == sorted(cells(Search.GRID, 6))
    assert cells(Search.RANDOM, 3) == cells(Search.RANDOM, 6)[:3]
    assert cells(Search.RANDOM, 6) != cells(Search.RANDOM, 6, seed=1)


def test_a_trial_of_a_random_search_depends_on_its_number_and_the_seed_alone():
    first = [propose(RANGES, Search.RANDOM, number, seed=3, history=()) for number in range(4)]
    assert first[::-1] == [propose(RANGES, Search.RANDOM, number, seed=3, history=()) for number in (3, 2, 1, 0)]
    assert len({values["privacy.clip_norm"] for values in first}) == 4
    assert first[0] != propose(RANGES, Search.RANDOM, 0, seed=4, history=())


def test_a_grid_takes_neither_ranges_nor_a_number():
    with pytest.raises(InputError, match="ranges"):
        count_trials(RANGES, Search.GRID, None, default=20)
    with pytest.raises(InputError, match="all of its 6"):
        count_trials(LISTS, Search.GRID, 3, default=20)
    with pytest.raises(InputError, match="too many"):
        count_trials(RANGES, Search.RANDOM, 10_001, default=20)
    assert count_trials(RANGES, Search.RANDOM, None, default=20) == 20


def test_without_its_library_a_bayesian_search_says_what_to_install(monkeypatch):
    real = importlib.import_module

    def without(name, *rest):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(InputError, match=r"cloister\[sweep\]"):
        check_library(Search.BAYESIAN)
    check_library(Search.GRID)


def test_a_bayesian_search_draws_near_what_did_well():
    pytest.importorskip("optuna", reason="Optuna is an optional extra")
    good = [Scored(values={"training.rounds": 2, "privacy.clip_norm": 1.0 + 0.01 * i}, score=1.0) for i in range(10)]
    bad = [Scored(values={"training.rounds": 1, "privacy.clip_norm": 0.1 + 0.01 * i}, score=0.0) for i in range(20)]

    def drawn(history) -> list[dict]:
        return [propose(RANGES, Search.BAYESIAN, number, seed=5, history=history) for number in range(15)]

    def near(found: list[dict]) -> int:
        return sum(values["training.rounds"] == 2 and 0.3 <= values["privacy.clip_norm"] <= 3.3 for values in found)

    assert near(drawn(good + bad)) >= 12
    assert near(drawn(())) <= 6
    assert drawn(good + bad) == drawn(good + bad)
    assert all(values["training.rounds"] in (1, 2, 3) for values in drawn(()))
