"""The noise that a mechanism adds: its scale in every tensor and step, and its independence."""

import numpy as np
import pytest
from scipy import stats

from privacy.mechanisms.gaussian import GaussianMechanism
from privacy.mechanisms.grid import IntegerGrid
from protocol.randomness import DeterministicRandom

TENSORS = {"weight": slice(0, 1500), "bias": slice(1500, 1540), "head": slice(1540, 2400)}
STEPS = 120
MECHANISM = GaussianMechanism(
    grid=IntegerGrid(clip_norm=0.5, steps=1 << 16, dimension=2400, limit=1 << 26), noise_multiplier=0.8
)


def release_steps(random_of_step):
    """Noise in units of the stated scale, float64 [steps, dimension]; the value moves from step to step."""
    rows = []
    for step in range(STEPS):
        vector = np.sin(np.arange(2400.0) + step)
        release = MECHANISM.privatise(vector, random=random_of_step(step))
        rows.append(release - MECHANISM.grid.quantise(vector))
    return np.array(rows) / MECHANISM.sigma


@pytest.fixture(scope="module")
def noise():
    source = DeterministicRandom("steps")
    return release_steps(lambda _step: source)


def smallest_tensor_p_value(noise):
    """Kolmogorov-Smirnov and mean square of each tensor over all steps, Bonferroni."""
    every = []
    for place in TENSORS.values():
        values = noise[:, place].ravel()
        every.append(stats.kstest(values, "norm").pvalue)
        square = float((values**2).sum())
        every.append(2 * min(stats.chi2.cdf(square, values.size), stats.chi2.sf(square, values.size)))
    return min(every) * len(every)


def steps_p_value(noise):
    """Whether the p-values of the single steps are uniform, as they are if every step has the right noise."""
    return stats.kstest([stats.kstest(row, "norm").pvalue for row in noise], "uniform").pvalue


def smallest_dependence_p_value(noise):
    """Correlation at several lags, along coordinates and along steps, and of whole steps."""
    every = []
    for lag in (1, 2, 3, 7, 50):
        for first, second in ((noise[:, lag:], noise[:, :-lag]), (noise[lag:], noise[:-lag])):
            z = (first * second).sum() / np.sqrt(first.size)
            every.append(2 * stats.norm.sf(abs(z)))
    correlations = (noise @ noise.T / np.sqrt(noise.shape[1]))[np.triu_indices(STEPS, 1)]
    every.append(stats.kstest(correlations, "norm").pvalue)
    return min(every) * len(every)


def test_every_tensor_has_the_stated_noise(noise):
    assert smallest_tensor_p_value(noise) > 1e-2


@pytest.mark.parametrize("tensor", list(TENSORS))
@pytest.mark.parametrize("factor", [2 / 3, 3 / 2, 0.95])
def test_twin_with_another_scale_in_one_tensor_is_rejected(noise, tensor, factor):
    twin = noise.copy()
    twin[:, TENSORS[tensor]] *= factor
    assert smallest_tensor_p_value(twin) < 1e-3


def test_every_step_has_the_stated_noise(noise):
    assert steps_p_value(noise) > 1e-2


@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_twin_with_another_scale_in_a_third_of_the_steps_is_rejected(noise, factor):
    twin = noise.copy()
    twin[::3] *= factor
    assert steps_p_value(twin) < 1e-3


def test_noise_is_independent_between_coordinates_and_steps(noise):
    assert smallest_dependence_p_value(noise) > 1e-2


def test_twin_that_repeats_its_stream_is_rejected():
    twin = release_steps(lambda step: DeterministicRandom(step // 2))
    assert smallest_dependence_p_value(twin) < 1e-9


def test_twin_that_reuses_the_noise_of_another_tensor_is_rejected(noise):
    twin = noise.copy()
    twin[:, 1:51] = twin[:, 51:101]
    assert smallest_dependence_p_value(twin) < 1e-9


def test_twin_that_smooths_its_noise_is_rejected(noise):
    twin = (noise + 0.1 * np.roll(noise, 1, axis=0)) / np.sqrt(1.01)
    assert smallest_dependence_p_value(twin) < 1e-9


def test_noise_does_not_depend_on_the_value():
    squares = []
    for size in (0.0, 1.0, 100.0):
        vector = np.full(2400, size)
        release = MECHANISM.privatise(vector, random=DeterministicRandom("same"))
        squares.append(release - MECHANISM.grid.quantise(vector))
    np.testing.assert_array_equal(squares[0], squares[1])
    np.testing.assert_array_equal(squares[0], squares[2])
