"""Which rows make a unit, and Poisson samples of units."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.sampling import UnitIndex
from protocol.randomness import DeterministicRandom, SystemRandom


def slow_sample(units: list[int], chosen: np.ndarray) -> tuple[list[int], list[int]]:
    """The rows of the chosen units, unit by unit."""
    rows, index = [], []
    for number, unit in enumerate(np.flatnonzero(chosen)):
        for row, owner in enumerate(units):
            if owner == unit:
                rows.append(row)
                index.append(number)
    return rows, index


@given(people=st.lists(st.integers(0, 8), max_size=40), seed=st.integers(0, 1000), rate=st.floats(0, 1))
def test_a_sample_is_that_of_the_slow_twin(people: list[int], seed: int, rate: float) -> None:
    units = np.unique(people, return_inverse=True)[1].astype(np.int64).reshape(-1)
    index = UnitIndex.of(units)
    count = int(units.max()) + 1 if len(units) else 0
    assert index.units == count
    rows, inside = index.poisson_sample(rate=rate, random=DeterministicRandom(seed))
    chosen = DeterministicRandom(seed).bernoulli(count, rate)
    assert (rows.tolist(), inside.tolist()) == slow_sample(units.tolist(), chosen)


def test_nobody_is_a_sample_of_nobody() -> None:
    index = UnitIndex.of(np.zeros(0, dtype=np.int64))
    rows, inside = index.poisson_sample(rate=1.0, random=SystemRandom())
    assert (index.units, len(rows), len(inside)) == (0, 0, 0)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (1.0, 12)])
def test_the_ends_of_the_rate_are_exact(rate: float, expected: int) -> None:
    index = UnitIndex.of(np.arange(12) % 5)
    rows, _ = index.poisson_sample(rate=rate, random=SystemRandom())
    assert len(rows) == expected


def test_a_persons_coin_does_not_depend_on_how_much_they_have() -> None:
    units = np.repeat([0, 1, 2], [1, 50, 500])
    index = UnitIndex.of(units)
    taken = np.zeros(3)
    for _ in range(2000):
        rows, _ = index.poisson_sample(rate=0.3, random=SystemRandom())
        taken[np.unique(units[rows])] += 1
    # Five standard errors of 2,000 coins.
    assert np.abs(taken / 2000 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)
