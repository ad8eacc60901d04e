"""Peers: their budgets, their selection, and what happens where they are absent."""

import os
import sys

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant

from perf.peers.marginals import Data, _candidates, _merging, zero_concentrated
from perf.results.peers import INTERPRETER, draw
from protocol.errors import InputError
from records.dataset import Records
from records.schema import Schema

SCHEMA = Schema.from_mapping(
    {"columns": [{"name": name, "kind": "categorical", "categories": list("abcd")} for name in ("one", "two", "three")]}
)


def exact_epsilon(rho, delta):
    """Epsilon of the Gaussian mechanism that is rho-zCDP, by the accountant of record."""
    accountant = pld_privacy_accountant.PLDAccountant()
    accountant.compose(dp_event.GaussianDpEvent((1 / (2 * rho)) ** 0.5))
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (1.0, 1e-9), (4.0, 1e-5), (10.0, 1e-6)])
def test_a_budget_never_promises_more_than_a_gaussian_of_its_size_holds(epsilon, delta):
    rho = zero_concentrated(epsilon, delta)
    assert exact_epsilon(rho, delta) <= epsilon
    # It is better than the textbook's conversion (Bun and Steinke 2016), and a third more would break the promise.
    textbook = (np.sqrt(np.log(1 / delta) + epsilon) - np.sqrt(np.log(1 / delta))) ** 2
    assert textbook <= rho
    assert exact_epsilon(4 / 3 * rho, delta) > epsilon


def test_the_exponential_mechanism_chooses_in_the_right_proportions():
    data = Data.__new__(Data)
    data.generator = np.random.default_rng(0)
    scores = np.array([0.0, 2.0])
    chosen = [data.choose(scores, epsilon=1.0, sensitivity=1.0) for _ in range(20_000)]
    odds = np.mean(chosen) / (1 - np.mean(chosen))
    assert odds == pytest.approx(np.e, rel=0.06)  # exp(epsilon * 2 / 2); twice the sensitivity would give its root
    assert abs(odds - np.exp(0.5)) > 0.5


def test_rare_codes_share_the_last_number():
    assert _merging(np.array([True, False, True, False])).tolist() == [0, 2, 1, 2]
    assert _merging(np.array([True, True])).tolist() == [0, 1]


def test_candidates_weigh_what_they_share_with_the_pairs():
    # Of three pairs a column is in two; a pair shares two columns with itself and one with each of the others.
    assert _candidates([0, 1, 2])[(0,)] == 2
    assert _candidates([0, 1, 2])[(0, 2)] == 4


def records(rows=2000):
    """The second column repeats the first, the third knows nothing."""
    generator = np.random.default_rng(1)
    first, third = generator.integers(0, 4, rows), generator.integers(0, 4, rows)
    return Records(codes=np.stack([first, first, third], axis=1).astype(np.int32), persons=None, schema=SCHEMA)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETER not in os.environ, reason=f"needs {INTERPRETER}, an environment with mbi")
@pytest.mark.parametrize("mechanism", ["mst", "aim"])
def test_a_peer_finds_the_dependence_that_is_there(mechanism):
    drawn = draw(records(), mechanism=mechanism, epsilon=5.0, delta=1e-5, rows=1000, seed=0)
    assert drawn.codes.shape == (1000, 3)
    assert (drawn.codes[:, 0] == drawn.codes[:, 1]).mean() > 0.9
    assert 0.15 < (drawn.codes[:, 0] == drawn.codes[:, 2]).mean() < 0.35
    assert drawn.peak_mb > 0


def test_without_peers_the_error_says_how_to_name_them(monkeypatch):
    monkeypatch.delenv(INTERPRETER, raising=False)
    with pytest.raises(InputError, match=INTERPRETER):
        draw(records(), mechanism="mst", epsilon=1.0, delta=1e-5, rows=10, seed=0)


def test_a_peer_that_fails_is_told_with_its_last_line(monkeypatch):
    monkeypatch.setenv(INTERPRETER, sys.executable)
    with pytest.raises(InputError, match="mst failed: ModuleNotFoundError: No module named '(jax|mbi)'"):
        draw(records(), mechanism="mst", epsilon=1.0, delta=1e-5, rows=10, seed=0)
