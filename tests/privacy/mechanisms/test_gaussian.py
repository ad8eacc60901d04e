"""The mechanism on the grid: what it refuses, what it returns, and the attack that it answers."""

import dataclasses
import logging
import math

import numpy as np
import pytest
from scipy import stats

from privacy.mechanisms.gaussian import GaussianMechanism, NoNoise
from privacy.mechanisms.grid import IntegerGrid
from protocol.errors import PrivacyError
from protocol.randomness import DeterministicRandom, SystemRandom

GRID = IntegerGrid(clip_norm=2.0, steps=1 << 16, dimension=2000, limit=1 << 24)


def mechanism(noise_multiplier=1.0, grid=GRID):
    return GaussianMechanism(grid=grid, noise_multiplier=noise_multiplier)


def test_sigma_is_the_noise_multiplier_times_the_whole_sensitivity():
    assert mechanism(0.7).sigma == 0.7 * GRID.sensitivity
    assert GRID.sensitivity > GRID.steps


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, math.nan, math.inf, 1e-9, 1e12])
def test_no_noise_and_noise_out_of_range_are_refused(noise_multiplier):
    with pytest.raises(PrivacyError, match="noise"):
        mechanism(noise_multiplier)


def test_only_the_noisy_mechanism_is_private():
    assert mechanism().private
    assert not NoNoise(grid=GRID).private
    assert NoNoise(grid=GRID).sigma == 0.0


def test_release_is_the_value_plus_noise_of_the_stated_scale():
    vector = np.linspace(-3, 3, GRID.dimension)
    release = mechanism(0.01).privatise(vector, random=SystemRandom())
    noise = release - GRID.quantise(vector)
    assert noise.std() == pytest.approx(0.01 * GRID.sensitivity, rel=0.15)
    assert GRID.dequantise(release) == pytest.approx(vector, abs=8 * 0.01 * GRID.sensitivity * GRID.step)


def test_without_noise_the_release_is_the_quantised_value():
    vector = np.linspace(-3, 3, GRID.dimension)
    release = NoNoise(grid=GRID).privatise(vector, random=SystemRandom())
    np.testing.assert_array_equal(release, GRID.quantise(vector))
    assert release.dtype == np.int32


def test_empty_batch_is_noised_like_any_other():
    release = mechanism().privatise(np.zeros(GRID.dimension), random=SystemRandom())
    assert release.std() == pytest.approx(mechanism().sigma, rel=0.15)


@pytest.mark.parametrize(("limit", "kind"), [(2**31 - 1, np.int32), (2**31, np.int64)])
def test_word_is_as_narrow_as_the_limit_allows(limit, kind):
    grid = dataclasses.replace(GRID, limit=limit)
    for made in (mechanism(grid=grid), NoNoise(grid=grid)):
        assert made.privatise(np.zeros(grid.dimension), random=SystemRandom()).dtype == kind


def test_release_never_leaves_the_limit():
    grid = dataclasses.replace(GRID, limit=GRID.steps)
    vector = np.full(grid.dimension, 1e38)
    vector[::2] *= -1
    release = mechanism(5.0, grid).privatise(vector, random=SystemRandom())
    assert np.abs(release.astype(np.int64)).max() == grid.limit
    assert 0.2 < (np.abs(release) == grid.limit).mean() < 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_is_refused(value):
    vector = np.zeros(GRID.dimension)
    vector[5] = value
    with pytest.raises(PrivacyError, match="not finite"):
        mechanism().privatise(vector, random=SystemRandom())


def test_vector_is_left_alone_and_nothing_is_logged(caplog, capsys):
    vector = np.ones(GRID.dimension)
    with caplog.at_level(logging.DEBUG):
        mechanism().privatise(vector, random=SystemRandom())
    assert (vector == 1.0).all()
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_noise_differs_between_calls():
    source = SystemRandom()
    first, second = (mechanism().privatise(np.zeros(GRID.dimension), random=source) for _ in range(2))
    assert (first != second).mean() > 0.99


def guesses_zero(outputs):
    """Mironov 2012 for a normal n: of the inputs 0 and 1, which outputs can only come from 0?

    1 + n lies within 1/2 of zero where n is between -3/2 and -1/2. Such a float has no digits beyond
    2^-53, and neither has the sum. 0 + n is n itself, small, and with finer digits.
    """
    return (np.abs(outputs) < 0.5) & (outputs * 2.0**53 % 1 != 0)


def test_floating_point_noise_gives_the_input_away():
    noise = DeterministicRandom("box-muller")
    radius = np.sqrt(-2 * np.log1p(-noise.uniform(20_000)))
    normal = radius * np.cos(2 * np.pi * noise.uniform(20_000))
    assert guesses_zero(0.0 + normal).mean() > 0.1
    assert not guesses_zero(1.0 + normal).any()


def test_grid_noise_does_not_give_the_input_away():
    for value in (0.0, 1.0, 1 / 3):
        release = mechanism().privatise(np.full(GRID.dimension, value), random=SystemRandom())
        outputs = GRID.dequantise(release)
        assert not guesses_zero(outputs).any()
        assert (outputs / GRID.step == np.rint(outputs / GRID.step)).all()


def profile(epsilon, *, sigma, shift):
    """delta at epsilon of the discrete Gaussian under a shift, summed over every integer within 14 sigma."""
    k = np.arange(-int(14 * sigma), int(14 * sigma) + 1, dtype=np.float64)
    log_p, log_q = -0.5 * (k / sigma) ** 2, -0.5 * ((k - shift) / sigma) ** 2
    return np.maximum(np.exp(log_p) - np.exp(epsilon + log_q), 0).sum() / np.exp(log_p).sum()


@pytest.mark.parametrize(
    ("noise_multiplier", "epsilon"),
    [
        (0.3, 0.1),
        (0.3, 4.0),
        (0.3, 12.0),
        (0.5, 1.0),
        (0.5, 8.0),
        (1.0, 0.1),
        (1.0, 4.0),
        (4.0, 0.1),
        (4.0, 1.0),
    ],
)
def test_privacy_profile_on_the_coarsest_grid_is_that_of_the_continuous_normal(noise_multiplier, epsilon):
    # Balle, Wang 2018, theorem 8, for the continuous normal.
    shift = 1024
    ratio = 1 / noise_multiplier
    continuous = stats.norm.cdf(ratio / 2 - epsilon / ratio) - math.exp(epsilon) * stats.norm.cdf(
        -ratio / 2 - epsilon / ratio
    )
    discrete = profile(epsilon, sigma=noise_multiplier * shift, shift=shift)
    assert discrete == pytest.approx(continuous, rel=1e-5, abs=0)
    assert profile(epsilon, sigma=noise_multiplier * shift / 1.01, shift=shift) > continuous * (1 + 1e-3)
