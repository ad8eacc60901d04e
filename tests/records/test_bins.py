"""Cells: every value in exactly one, drawn values come back, points have a cell of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import SchemaError
from records.bins import Bins, Scale, explicit_bins, spaced_bins


def _bins(**changes):
    given_ = {"lower": 0.0, "upper": 10.0, "count": 5, "scale": Scale.LINEAR, "points": (), "whole": False}
    return spaced_bins(**{**given_, **changes}, where="column x")


def _slow_code(bins: Bins, value: float) -> int:
    """The obviously right twin: try every cell."""
    return next(k for k in range(bins.count) if bins.edges[k] <= value < bins.edges[k + 1])


@given(
    lower=st.floats(-1e6, 1e6),
    span=st.floats(1e-3, 1e6),
    count=st.integers(1, 50),
    whole=st.booleans(),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_codes_agree_with_trying_every_cell(lower, span, count, whole, shares):
    low, high = (np.floor(lower), np.floor(lower) + np.ceil(span)) if whole else (lower, lower + span)
    bins = _bins(lower=low, upper=high, count=count, whole=whole)
    values = np.clip(low + np.array(shares) * (high - low), low, high)
    values = np.floor(values) if whole else values
    assert bins.codes(values).tolist() == [_slow_code(bins, value) for value in values]


@pytest.mark.parametrize("scale", list(Scale))
@pytest.mark.parametrize("whole", [False, True])
def test_both_bounds_belong_to_a_cell(scale, whole):
    bins = _bins(lower=1.0, upper=1000.0, count=7, scale=scale, whole=whole)
    assert bins.codes(np.array([1.0, 1000.0])).tolist() == [0, bins.count - 1]


def test_log_bins_have_a_constant_ratio():
    edges = _bins(lower=1.0, upper=10_000.0, count=4, scale=Scale.LOG).edges
    np.testing.assert_allclose(edges, [1, 10, 100, 1_000, 10_000])


def test_few_whole_numbers_get_a_code_each():
    bins = _bins(lower=3.0, upper=7.0, count=100, whole=True)
    assert bins.codes(np.arange(3.0, 8.0)).tolist() == [0, 1, 2, 3, 4]
    assert bins.labels() == ("3", "4", "5", "6", "7")
    assert bins.centres().tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("point", [0.0, 5.0, 10.0, 100.0])
def test_a_point_has_a_cell_that_holds_nothing_else(point, whole):
    bins = _bins(upper=100.0, count=10, points=(point,), whole=whole)
    code = int(bins.codes(np.array([point]))[0])
    drawn = bins.draw(np.full(100, code), generator=np.random.default_rng(0))
    assert set(drawn.tolist()) == {point}
    assert bins.labels()[code] == f"{point:g}"
    near = [point - 1, point + 1] if whole else [np.nextafter(point, -np.inf), np.nextafter(point, np.inf)]
    inside = np.array([value for value in near if 0 <= value <= 100])
    assert code not in bins.codes(inside)


def test_whole_number_cells_are_drawn_from_evenly():
    bins = explicit_bins([0, 1, 5, 9], points=(), whole=True, where="x")
    drawn = bins.draw(np.ones(40_000, dtype=np.int32), generator=np.random.default_rng(1))
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [1, 2, 3, 4]
    assert np.all(np.abs(counts - 10_000) < 5 * np.sqrt(10_000))


def test_labels_tell_cells_apart_and_show_open_ends():
    assert _bins(count=2, points=(0.0,)).labels() == ("0", "(0, 5)", "[5, 10]")
    narrow = _bins(lower=1.0, upper=1.0 + 1e-9, count=3).labels()
    assert len(set(narrow)) == 3


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"count": 0}, "bins = 0"),
        ({"scale": Scale.LOG}, "does not reach"),
        ({"scale": Scale.LOG1P, "lower": -1.0}, "does not reach"),
        ({"points": (11.0,)}, "out of bounds"),
        ({"lower": 1.0, "upper": float(np.nextafter(1, 2))}, "do not increase"),
    ],
)
def test_impossible_bins_are_refused(changes, word):
    with pytest.raises(SchemaError, match=word):
        _bins(**changes)
