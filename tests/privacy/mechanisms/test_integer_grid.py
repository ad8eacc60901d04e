"""The grid: rounding, clamping, fitting, and above all its sensitivity."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from privacy.mechanisms.grid import IntegerGrid
from protocol.errors import PrivacyError

GRID = {"clip_norm": 1.0, "steps": 1024, "dimension": 3, "limit": 10_000}


def grid(**changes):
    return IntegerGrid(**(GRID | changes))


@st.composite
def neighbours(draw):
    """A grid, and two float64 vectors that are at most a clip norm apart over the reals."""
    dimension = draw(st.integers(1, 8))
    clip_norm = draw(st.sampled_from([1.0, 0.1, 1 / 3, 1e-30, 7e20, 5e-324, 1e308]))
    steps = draw(st.sampled_from([1024, 1025, 1 << 16, 1 << 24]))
    limit = draw(st.sampled_from([steps, 3 * steps + 1, 1 << 31, 1 << 50]))
    halves = st.integers(-4 * steps, 4 * steps).map(lambda k: (k + 0.5) * (clip_norm / steps))
    anything = st.one_of(
        halves,
        st.floats(-4.0, 4.0).map(lambda x: x * clip_norm),
        st.floats(-1e38, 1e38),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([0.0, -0.0, limit * (clip_norm / steps), -limit * (clip_norm / steps)]),
    )
    first = np.array(draw(st.lists(anything, min_size=dimension, max_size=dimension)))
    weights = np.array(draw(st.lists(st.floats(-1, 1), min_size=dimension, max_size=dimension)))
    length = draw(st.sampled_from([1.0, 0.999999, 0.5, 2 / steps, 1e-9]))
    direction = weights / max(math.sqrt(float(weights @ weights)), 1e-3)
    with np.errstate(over="ignore"):
        second = first + direction * length * clip_norm
    assume(np.isfinite(second).all())
    distance = sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(first, second, strict=True))
    assume(distance <= Fraction(clip_norm) ** 2)
    return IntegerGrid(clip_norm=clip_norm, steps=steps, dimension=dimension, limit=limit), first, second


def distance_squared(made, first, second):
    return sum(int(step) ** 2 for step in made.quantise(first) - made.quantise(second))


@settings(max_examples=400, deadline=None)
@given(neighbours())
def test_neighbours_are_at_most_the_sensitivity_apart(case):
    made, first, second = case
    assert distance_squared(made, first, second) <= Fraction(made.sensitivity) ** 2


def test_broken_twin_that_forgets_rounding_is_found_out():
    settings_ = settings(max_examples=5000, deadline=None, derandomize=True, database=None)
    _, first, second = find(neighbours(), lambda c: distance_squared(*c) > c[0].steps ** 2, settings=settings_)
    assert first.shape == second.shape


def test_search_finds_nothing_against_the_true_sensitivity():
    settings_ = settings(max_examples=300, deadline=None, derandomize=True, database=None)
    with pytest.raises(NoSuchExample):
        find(neighbours(), lambda c: distance_squared(*c) > c[0].sensitivity ** 2, settings=settings_)


def test_bound_is_reached_where_the_clip_norm_outweighs_rounding():
    made = grid(steps=1024, dimension=1 << 20)
    first = np.full(made.dimension, 0.5 / 1024)  # rounds to 0
    second = np.full(made.dimension, 1.5 / 1024)  # rounds to 2
    assert np.linalg.norm(second - first) == made.clip_norm
    apart = math.sqrt(distance_squared(made, first, second))
    assert apart == made.steps + math.sqrt(made.dimension) == 2048
    assert apart <= made.sensitivity <= apart * (1 + 1e-6)


def test_bound_is_reached_where_rounding_outweighs_the_clip_norm():
    made = grid(steps=1024, dimension=1 << 22)
    first = np.full(made.dimension, 0.5 / 1024)
    second = np.nextafter(first, 1)  # rounds to 1
    second[: (1 << 20) - 1] = 1.5 / 1024
    assert np.linalg.norm(second - first) <= made.clip_norm
    apart = math.sqrt(distance_squared(made, first, second))
    assert made.sensitivity * (1 - 1e-6) <= apart <= made.sensitivity
    assert made.sensitivity < 0.9 * (made.steps + math.sqrt(made.dimension))


def test_rounds_half_to_even():
    halves = np.array([0.5, 1.5, 2.5]) / 1024
    assert grid().quantise(halves).tolist() == [0, 2, 2]
    assert grid().quantise(-halves).tolist() == [0, -2, -2]


@given(st.lists(st.floats(-9, 9), min_size=3, max_size=3))
def test_values_inside_the_limit_come_back_within_half_a_step(values):
    vector = np.array(values)
    back = grid().dequantise(grid().quantise(vector))
    assert np.abs(back - vector).max() <= grid().step / 2 * (1 + 1e-9)


def test_large_coordinates_are_clamped_without_a_warning():
    made = grid(clip_norm=1e-3)
    assert made.quantise(np.array([1.7e308, -1e38, 0.0])).tolist() == [10_000, -10_000, 0]
    assert made.quantise(np.array([3e38, -1, 0], dtype=np.float32)).tolist() == [10_000, -10_000, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite_are_refused(value):
    with pytest.raises(PrivacyError, match="not finite"):
        grid().quantise(np.array([0.0, value, 0.0]))


@pytest.mark.parametrize(
    "vector", [np.zeros(2), np.zeros((3, 1)), np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.float16)]
)
def test_other_shapes_and_types_are_refused(vector):
    with pytest.raises(PrivacyError, match="contribution is"):
        grid().quantise(vector)


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_norm": 0.0},
        {"clip_norm": math.inf},
        {"clip_norm": math.nan},
        {"steps": 1023},
        {"steps": (1 << 24) + 1},
        {"dimension": 0},
        {"limit": 1023},
        {"limit": (1 << 50) + 1},
    ],
)
def test_grids_out_of_range_are_refused(changes):
    with pytest.raises(PrivacyError):
        grid(**changes)


@given(
    dimension=st.integers(1, 10_000_000),
    expected_units=st.floats(0, 5000),
    noise_multiplier=st.floats(0, 20),
    contributors=st.integers(1, 30),
    word_bits=st.sampled_from([32, 40, 64]),
)
def test_fitted_grids_cannot_overflow_and_are_the_finest(
    dimension, expected_units, noise_multiplier, contributors, word_bits
):
    made = IntegerGrid.fit(
        clip_norm=0.5,
        dimension=dimension,
        expected_units=expected_units,
        noise_multiplier=noise_multiplier,
        contributors=contributors,
        word_bits=word_bits,
    )

    def needed(candidate):
        units = max(1, expected_units + 6 * math.sqrt(expected_units))
        return units * candidate.steps + 10 * noise_multiplier * candidate.sensitivity

    assert contributors * made.limit < 2 ** (word_bits - 1)
    assert made.steps & (made.steps - 1) == 0
    assert needed(made) <= made.limit
    if made.steps < 1 << 24:
        finer = IntegerGrid(clip_norm=0.5, steps=2 * made.steps, dimension=dimension, limit=1 << 50)
        assert needed(finer) > made.limit


def test_fit_of_a_usual_study():
    # By hand: limit = floor((2^31 - 1) / 10) = 214748364; 600 + 6 sqrt(600) = 747 units, and 10 sigma more:
    # 757 clip norms of 2^18 steps are 198e6, of 2^19 steps 397e6.
    made = IntegerGrid.fit(clip_norm=1.0, dimension=100_000, expected_units=600, noise_multiplier=1.0, contributors=10)
    assert (made.steps, made.limit) == (1 << 18, 214748364)


def test_fit_says_what_to_do_when_nothing_fits():
    with pytest.raises(PrivacyError, match="Use wider words"):
        IntegerGrid.fit(clip_norm=1.0, dimension=10, expected_units=1e6, noise_multiplier=1.0, contributors=10)
    wider = IntegerGrid.fit(
        clip_norm=1.0, dimension=10, expected_units=1e6, noise_multiplier=1.0, contributors=10, word_bits=64
    )
    assert wider.steps >= 1024


@pytest.mark.parametrize(
    "changes",
    [{"contributors": 0}, {"expected_units": math.inf}, {"noise_multiplier": -1.0}, {"word_bits": 65}],
)
def test_fit_refuses_arguments_out_of_range(changes):
    usual = {"clip_norm": 1.0, "dimension": 10, "expected_units": 10, "noise_multiplier": 1.0}
    with pytest.raises(PrivacyError):
        IntegerGrid.fit(**(usual | changes))
