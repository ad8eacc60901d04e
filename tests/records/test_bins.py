"""Cells: every value in exactly one, drawn values come back, points have a cell of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

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


@pytest.mark.parametrize("scale", list(Scale))
def test_scales_undo_themselves_and_cut_evenly(scale):
    lower = {Scale.LOG: 0.1, Scale.LOG1P: 0.0}.get(scale, -500.0)
    values = np.linspace(lower, 900.0, 50)
    np.testing.assert_allclose(scale.back(scale.ahead(values)), values, atol=1e-9)
    edges = _bins(lower=lower, upper=900.0, count=6, scale=scale).edges
    steps = np.diff(scale.ahead(edges))
    np.testing.assert_allclose(steps, steps[0])


def test_symlog_bins_mirror_each_other():
    edges = _bins(lower=-10_000.0, upper=10_000.0, count=8, scale=Scale.SYMLOG).edges
    np.testing.assert_allclose(edges, -edges[::-1], atol=1e-9)
    assert edges[5] < 10 < edges[6] < 100


def _within(scale, *, whole=False, edges=(1.0, 1000.0), count=20_000, drawn_as=None):
    """Values drawn from the one cell between two edges."""
    bins = explicit_bins([*edges, 2000.0], points=(), whole=whole, where="x", scale=drawn_as or scale)
    return bins.draw(np.zeros(count, dtype=np.int32), generator=np.random.default_rng(5))


@pytest.mark.parametrize("scale", list(Scale))
def test_values_lie_evenly_on_the_scale_within_a_cell(scale):
    low, high = scale.ahead(np.array([1.0, 1000.0]))
    even = stats.uniform(low, high - low).cdf
    assert stats.kstest(scale.ahead(_within(scale)), even).pvalue > 1e-3
    wrong = Scale.LOG if scale is Scale.LINEAR else Scale.LINEAR
    assert stats.kstest(scale.ahead(_within(scale, drawn_as=wrong)), even).pvalue < 1e-9


def test_whole_numbers_within_a_cell_have_the_share_of_their_length_on_the_scale():
    values = _within(Scale.LOG1P, whole=True, edges=(0.0, 6.0))
    shares = np.diff(np.log1p(np.arange(7.0))) / np.log1p(6.0)
    assert stats.chisquare(np.bincount(values.astype(int), minlength=6), shares * len(values)).pvalue > 1e-3
    even = np.full(6, len(values) / 6)
    assert stats.chisquare(np.bincount(values.astype(int), minlength=6), even).pvalue < 1e-9


def test_a_heavy_tail_comes_back_from_few_cells():
    values = np.random.default_rng(0).lognormal(6, 2, 20_000).clip(0.01, 1e7)
    distances = {}
    for scale in (Scale.LINEAR, Scale.LOG):
        bins = _bins(lower=0.01, upper=1e7, count=32, scale=Scale.LOG)
        bins = Bins(edges=bins.edges, whole=False, scale=scale)
        drawn = bins.draw(bins.codes(values), generator=np.random.default_rng(1))
        distances[scale] = stats.ks_2samp(values, drawn).statistic
    assert distances[Scale.LOG] < 0.012 < distances[Scale.LINEAR]  # 0.006 and 0.021


def test_a_scale_that_edges_do_not_allow_is_refused():
    with pytest.raises(SchemaError, match=r'scale = "log" does not reach lower = 0.*symlog'):
        explicit_bins([0.0, 1.0], points=(), whole=False, where="x", scale=Scale.LOG)


@given(
    low=st.floats(-1e9, 1e9),
    span=st.floats(1e-9, 1e9),
    scale=st.sampled_from([Scale.LINEAR, Scale.SYMLOG]),
    seed=st.integers(0, 99),
)
def test_draws_between_stay_between(low, span, scale, seed):
    bins = Bins(edges=np.array([-2e9, 2e9]), whole=False, scale=scale)
    high = max(low + span, np.nextafter(low, np.inf))
    drawn = bins.draw_between(np.full(20, low), np.full(20, high), generator=np.random.default_rng(seed))
    assert ((low <= drawn) & (drawn < high)).all()
