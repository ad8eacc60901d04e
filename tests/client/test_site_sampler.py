"""Who takes part in a step is a coin per unit of the public rate, whoever else is there; nobody is a batch too."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.site import Site
from privacy.ledger import Charge
from privacy.sampling import UnitIndex
from protocol.messages import Contribution, RoundRequest
from protocol.randomness import SystemRandom
from protocol.study import Study
from records.dataset import Records
from strategies.study_model import study_schema

RATE = 0.2
ROUNDS = 120
Batches = Callable[..., list[NDArray[np.int64]]]


@pytest.fixture
def batches(
    given_noise: Callable[..., Study], tiny_records: Callable[..., Records], make_site: Callable[..., Site],
    first_request: Callable[..., RoundRequest], ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
) -> Batches:  # fmt: skip
    """Return a function that gives the rows of every round at a site of so many records."""
    drawn: list[NDArray[np.int64]] = []
    draw = UnitIndex.poisson_sample

    def noted(index: UnitIndex, **kwargs: Any) -> Any:
        rows, units = draw(index, **kwargs)
        drawn.append(rows)
        return rows, units

    def sample(count: int, persons: list[int] | None = None) -> list[NDArray[np.int64]]:
        drawn.clear()
        sections: dict[str, Any] = {"training": {"rounds": ROUNDS}, "privacy": {"sample_rate": RATE}}
        records = tiny_records(count)
        if persons is not None:
            sections |= {"schema": {"person": "who"}}
            sections["privacy"] |= {"unit": "person"}
        study = given_noise(20.0, **sections)
        if persons is not None:
            records = replace(records, persons=np.array(persons), schema=study_schema(study))
        site = make_site(study, records)
        for number in range(1, ROUNDS + 1):
            assert isinstance(ask(site, first_request(study, round=number)), Contribution)
        charges = [entry for entry in site.ledger.entries() if isinstance(entry.record, Charge)]
        assert len(charges) == ROUNDS, "every round is charged, whoever took part"
        return list(drawn)

    monkeypatch.setattr(UnitIndex, "poisson_sample", noted)
    return sample


def faults(drawn: list[NDArray[np.int64]], count: int) -> list[str]:
    """Compare batches with independent coins; limits are five standard errors."""
    taken = np.array([np.isin(np.arange(count), rows) for rows in drawn], dtype=float)
    found, error = [], np.sqrt(RATE * (1 - RATE))
    if abs(taken.mean() - RATE) > 5 * error / np.sqrt(taken.size):
        found.append(f"the rate is {taken.mean():.3f}")
    sizes = taken.sum(axis=1)
    spread = np.var(sizes) / (count * error**2)
    if abs(spread - 1) > 5 * np.sqrt(2 / len(drawn)):
        found.append(f"sizes vary {spread:.2f} times as much as those of coins")
    if np.abs(taken.mean(axis=0) - RATE).max() > 6 * error / np.sqrt(len(drawn)):
        found.append("some records are drawn more often than others")
    again = np.sum((taken[1:] - RATE) * (taken[:-1] - RATE)) / error**2 / np.sqrt(taken[1:].size)
    if abs(again) > 5:
        found.append("rounds depend on one another")
    return found


@pytest.mark.parametrize("count", [10, 60, 400])
def test_the_rate_is_the_public_one_whatever_the_number_of_records(batches: Batches, count: int) -> None:
    assert faults(batches(count), count) == []


@pytest.mark.parametrize("count", [0, 1])
def test_a_site_with_next_to_no_records_contributes_noise_and_pays(batches: Batches, count: int) -> None:
    drawn = batches(count)
    assert len(drawn) == ROUNDS
    empty = sum(len(rows) == 0 for rows in drawn)
    assert empty == ROUNDS if count == 0 else 0 < empty < ROUNDS


def test_persons_are_drawn_whole(batches: Batches) -> None:
    persons = [number % 20 for number in range(60)]
    drawn = batches(60, persons)
    whole = [np.sort(np.unique(rows % 20)) for rows in drawn]
    for rows, people in zip(drawn, whole, strict=True):
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(np.isin(np.arange(60) % 20, people)))
    assert faults(whole, 20) == []


def fixed_size(index: UnitIndex, *, rate: float, random: Any) -> Any:
    rows = np.argsort(random.uint64(index.units))[: round(rate * index.units)]
    return rows, np.arange(len(rows))


def by_size(index: UnitIndex, *, rate: float, random: Any) -> Any:
    rows = np.flatnonzero(random.bernoulli(index.units, min(1.0, rate * 100 / index.units)))
    return rows, np.arange(len(rows))


def first_ones(index: UnitIndex, *, rate: float, random: Any) -> Any:
    rows = np.arange(np.count_nonzero(random.bernoulli(index.units, rate)))
    return rows, rows


def shuffled_epochs(index: UnitIndex, *, rate: float, random: Any) -> Any:
    turn = shuffled_epochs.__dict__.setdefault("turn", [0])
    turn[0] += 1
    del random
    rows = np.flatnonzero(np.arange(index.units) % round(1 / rate) == turn[0] % round(1 / rate))
    return rows, np.arange(len(rows))


@pytest.mark.parametrize(
    ("twin", "fault"),
    [
        (fixed_size, "sizes vary"),
        (by_size, "the rate is"),
        (first_ones, "some records"),
        (shuffled_epochs, "rounds depend"),
    ],
)
def test_another_sampler_is_found(twin: Any, fault: str) -> None:
    index = UnitIndex.of(np.arange(200))
    drawn = [twin(index, rate=RATE, random=SystemRandom())[0] for _ in range(ROUNDS)]
    found = faults(drawn, 200)
    assert any(problem.startswith(fault) for problem in found), found
