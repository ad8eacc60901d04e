"""The sum of statistics at a site: no unit moves it by more than one, whatever its records and whatever phi."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privacy.statistics_sum import bounded_statistics_sum
from protocol.errors import PrivacyError

MARGIN = 1.0 / 2**20 + 1e-12
"""What a unit's bounded mean is shortened by at most, for rounding; units that cancel do not cancel this."""

STRANGE = [0.0, 1.0, -3.5, 1e-320, 1e30, 1e300, -1e308, float("inf"), float("-inf"), float("nan")]


class Table:
    """Phi by hand: one row of numbers for each code."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows.double()

    def norms(self, codes: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(self.rows[codes[:, 0]], dim=1)
        return found

    def weighted_sum(self, codes: Tensor, weights: Tensor) -> Tensor:
        return (self.rows[codes[:, 0]] * weights[:, None]).sum(dim=0)

    def total(self, codes: list[int], units: list[int] | None, *, bound: float) -> Tensor:
        return bounded_statistics_sum(
            torch.tensor(codes, dtype=torch.int64)[:, None],
            units=None if units is None else torch.tensor(units, dtype=torch.int64),
            norms=self.norms,
            weighted_sum=self.weighted_sum,
            bound=bound,
            dimension=self.rows.shape[1],
        )


def slow_total(rows: Tensor, codes: list[int], units: list[int], *, bound: float) -> Tensor:
    """One unit after the other, one record after the other."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for unit in sorted(set(units)):
        own = [rows[code].double() for code, of in zip(codes, units, strict=True) if of == unit]
        kept = []
        for phi in own:
            norm = float(torch.linalg.vector_norm(phi))
            kept.append(torch.zeros_like(phi) if norm != norm or norm == float("inf") else phi / max(norm / bound, 1.0))
        total += torch.stack(kept).mean(dim=0) / bound
    return total


lists = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@settings(max_examples=80)
@given(codes=lists, lengths=st.lists(st.integers(1, 3), min_size=12, max_size=12), seed=st.integers(0, 9999))
def test_the_sum_is_that_of_a_slow_loop(codes: list[int], lengths: list[int], seed: int) -> None:
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    units = [unit for unit, length in enumerate(lengths) for _ in range(length)][: len(codes)]
    found = Table(rows).total(codes, units, bound=2.0)
    assert float((found - slow_total(rows, codes, units, bound=2.0)).norm()) <= MARGIN * len(set(units))
    apart = Table(rows).total(codes, None, bound=2.0)
    alone = list(range(len(codes)))
    assert float((apart - slow_total(rows, codes, alone, bound=2.0)).norm()) <= MARGIN * len(codes)


@settings(max_examples=150)
@given(
    values=st.lists(st.sampled_from(STRANGE), min_size=12, max_size=12),
    codes=lists,
    lengths=st.lists(st.integers(1, 4), min_size=12, max_size=12),
    bound=st.sampled_from([1e-3, 1.0, 37.0]),
)
def test_no_unit_moves_the_sum_by_more_than_one(
    values: list[float], codes: list[int], lengths: list[int], bound: float
) -> None:
    table = Table(torch.tensor(values, dtype=torch.float64).view(6, 2))
    units = [unit for unit, length in enumerate(lengths) for _ in range(length)][: len(codes)]
    whole = table.total(codes, units, bound=bound)
    assert bool(whole.isfinite().all())
    for gone in set(units):
        kept = [(code, unit) for code, unit in zip(codes, units, strict=True) if unit != gone]
        rest = table.total([code for code, _ in kept], [unit for _, unit in kept], bound=bound)
        assert float(torch.linalg.vector_norm(whole - rest)) <= 1.0


def test_the_broken_twin_without_a_clip_moves_further() -> None:
    rows = torch.tensor([[3.0, 4.0]])
    right = Table(rows).total([0], None, bound=1.0)
    assert float(torch.linalg.vector_norm(right)) == pytest.approx(1.0, abs=1e-5)
    broken = Table(rows).weighted_sum(torch.tensor([[0]]), torch.ones(1, dtype=torch.float64))
    assert float(torch.linalg.vector_norm(broken)) > 1.0


def test_a_record_that_is_no_number_counts_for_nothing_and_still_dilutes_its_person() -> None:
    rows = torch.tensor([[1.0, 0.0], [float("nan"), 0.0]])
    found = Table(rows).total([0, 1, 0], [0, 0, 1], bound=1.0)
    assert found.tolist() == pytest.approx([1.5, 0.0], abs=1e-5)


def test_nobody_at_all_is_zero() -> None:
    assert Table(torch.ones(1, 3)).total([], None, bound=1.0).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bound": 0.0}, "bounded by 0.0"),
        ({"bound": float("inf")}, "bounded by inf"),
        ({"dimension": 3}, "not \\[3\\]"),
        ({"norms": lambda codes: torch.ones(len(codes) + 1)}, "norms of shape"),
    ],
)
def test_what_makes_no_sum_is_refused(change: dict[str, Any], match: str) -> None:
    table = Table(torch.ones(1, 2))
    terms: dict[str, Any] = {
        "units": None, "norms": table.norms, "weighted_sum": table.weighted_sum, "bound": 1.0, "dimension": 2,
    }  # fmt: skip
    with pytest.raises(PrivacyError, match=match):
        bounded_statistics_sum(torch.zeros(2, 1, dtype=torch.int64), **(terms | change))


def test_numbers_that_lie_about_their_norm_reach_the_mechanism_as_zeros(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A family whose norms are wrong is a defect; that it shows by a refusal would tell of the records."""
    table = Table(torch.tensor([[float("inf"), 1.0]]))
    monkeypatch.setattr(table, "norms", lambda codes: torch.ones(len(codes), dtype=torch.float64))
    assert table.total([0], None, bound=1.0).tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
