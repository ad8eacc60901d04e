"""The sampler's output against the definition of the discrete Gaussian, and twins that must be rejected."""

import numpy as np
import pytest
from scipy import stats

from privacy.mechanisms import discrete_gaussian
from privacy.mechanisms.discrete_gaussian import sample_discrete_gaussian
from protocol.randomness import DeterministicRandom, SystemRandom

SIZE = 400_000
SIGMAS = [0.3, 0.7, 1.0, 2.5, 20.0, 90.5, 1000.1, 2.0**16, 2.0**20 + 0.3, 2.0**40]


def probabilities(sigma):
    """P[k] for k = -15 sigma ... 15 sigma: float64 [2 m + 1], m."""
    reach = int(15 * sigma) + 2
    mass = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return mass / mass.sum(), reach


def cell_p_value(sample, sigma):
    """Chi-square over cells of one integer (small sigma) or of about sigma / 10, tails merged."""
    if sigma > 2000:
        edges = np.linspace(-4.4, 4.4, 89)  # the lattice is finer than any cell can notice
        counts = np.bincount(np.searchsorted(edges, sample / sigma), minlength=90)
        expected = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]])))
    else:
        mass, reach = probabilities(sigma)
        width = max(1, int(sigma / 10))
        cells = np.arange(-reach, reach + 1) // width
        expected = np.bincount(cells - cells[0], weights=mass)
        inside = np.clip(sample, -reach, reach) // width - cells[0]
        counts = np.bincount(inside, minlength=expected.size)
        usual = np.flatnonzero(expected * sample.size >= 10)
        first, last = usual[0], usual[-1]
        counts = np.concatenate([[counts[:first].sum()], counts[first : last + 1], [counts[last + 1 :].sum()]])
        expected = np.concatenate([[expected[:first].sum()], expected[first : last + 1], [expected[last + 1 :].sum()]])
    keep = expected * sample.size >= 1e-2
    keep[[0, -1]] &= expected[[0, -1]] * sample.size >= 1
    hoped = expected[keep] / expected[keep].sum() * counts[keep].sum()
    return stats.chisquare(counts[keep], hoped).pvalue


def moment_p_values(sample, sigma):
    """Two-sided p-values of mean, variance and fourth moment, each against its exact sampling error."""
    if sigma > 2000:
        moments = dict(zip((2, 4, 8), sigma ** np.array([2.0, 4.0, 8.0]) * [1, 3, 105], strict=True))
    else:
        mass, reach = probabilities(sigma)
        k = np.arange(-reach, reach + 1, dtype=np.float64)
        moments = {power: float(mass @ k**power) for power in (2, 4, 8)}
    values, n = sample.astype(np.float64), sample.size
    z_scores = [
        values.mean() / np.sqrt(moments[2] / n),
        ((values**2).mean() - moments[2]) / np.sqrt((moments[4] - moments[2] ** 2) / n),
        ((values**4).mean() - moments[4]) / np.sqrt((moments[8] - moments[4] ** 2) / n),
    ]
    return [2 * stats.norm.sf(abs(z)) for z in z_scores]


def tail_p_value(sample, sigma):
    """Whether as many samples lie beyond 3 sigma as should."""
    if sigma > 2000:
        chance = 2 * stats.norm.sf(3.0)
    else:
        mass, reach = probabilities(sigma)
        chance = float(mass[np.abs(np.arange(-reach, reach + 1)) > 3 * sigma].sum())
    return stats.binomtest(int((np.abs(sample) > 3 * sigma).sum()), sample.size, chance).pvalue


def kolmogorov_p_value(sample, sigma):
    """Kolmogorov-Smirnov against the continuous normal, which is only right where the lattice is fine."""
    return stats.kstest(sample / sigma, "norm").pvalue if sigma > 1e6 else 1.0


def p_value(sample, sigma):
    """The smallest of all p-values times their number (Bonferroni)."""
    every = [
        cell_p_value(sample, sigma),
        tail_p_value(sample, sigma),
        kolmogorov_p_value(sample, sigma),
        *moment_p_values(sample, sigma),
    ]
    return min(every) * len(every)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_samples_follow_the_definition(sigma):
    sample = sample_discrete_gaussian(SIZE, sigma=sigma, random=DeterministicRandom("noise"))
    assert p_value(sample, sigma) > 1e-2


@pytest.mark.parametrize("sigma", [0.7, 20.0, 2.0**16])
def test_samples_from_the_system_follow_the_definition(sigma):
    assert p_value(sample_discrete_gaussian(SIZE, sigma=sigma, random=SystemRandom()), sigma) > 1e-9


@pytest.mark.parametrize("sigma", [1.0, 20.0, 90.5, 2.0**16, 2.0**30])
@pytest.mark.parametrize("factor", [2 / 3, 3 / 2, 0.98, 1.02])
def test_twin_with_another_scale_is_rejected(sigma, factor):
    sample = sample_discrete_gaussian(SIZE, sigma=sigma * factor, random=DeterministicRandom("noise"))
    assert p_value(sample, sigma) < 1e-9


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0])
def test_twin_that_rounds_a_float_normal_is_rejected(sigma):
    sample = np.rint(np.random.default_rng(1).normal(0, sigma, SIZE)).astype(np.int64)
    assert p_value(sample, sigma) < 1e-9


@pytest.mark.parametrize("sigma", [2.5, 20.0, 2.0**16])
def test_twin_with_clipped_tails_is_rejected(sigma):
    sample = sample_discrete_gaussian(SIZE, sigma=sigma, random=DeterministicRandom("noise"))
    assert p_value(np.clip(sample, -int(3 * sigma), int(3 * sigma)), sigma) < 1e-9


@pytest.mark.parametrize("sigma", [20.0, 2.0**16])
def test_twin_that_is_not_centred_is_rejected(sigma):
    sample = sample_discrete_gaussian(SIZE, sigma=sigma, random=DeterministicRandom("noise"))
    assert p_value(sample + int(sigma / 20), sigma) < 1e-9


@pytest.mark.parametrize("sigma", [2.5, 20.0])
def test_twin_that_counts_zero_twice_is_rejected(sigma):
    sample = sample_discrete_gaussian(SIZE, sigma=sigma, random=DeterministicRandom("noise"))
    doubled = np.append(sample, sample[sample == 0])
    assert p_value(doubled, sigma) < 1e-9


def test_low_digits_are_uniform_at_large_scale():
    sample = sample_discrete_gaussian(SIZE, sigma=2.0**30, random=DeterministicRandom("noise"))
    assert stats.chisquare(np.bincount(sample & 255, minlength=256)).pvalue > 1e-3
    coarse = sample // 2 * 2
    assert stats.chisquare(np.bincount(coarse & 255, minlength=256)).pvalue < 1e-9


def joint_p_value(sample):
    """Independence of the sign, the lowest four digits of the magnitude, and whether it is large."""
    magnitude = np.abs(sample)
    cells = (sample < 0) * 32 + (magnitude > np.median(magnitude)) * 16 + (magnitude & 15)
    return stats.chisquare(np.bincount(cells, minlength=64)).pvalue


def test_sign_low_digits_and_size_are_independent():
    sample = sample_discrete_gaussian(SIZE, sigma=2.0**30, random=DeterministicRandom("noise"))
    assert joint_p_value(sample) > 1e-3


def test_twin_that_takes_its_sign_from_the_lowest_digit_is_rejected():
    sample = sample_discrete_gaussian(SIZE, sigma=2.0**30, random=DeterministicRandom("noise"))
    magnitude = np.abs(sample)
    assert joint_p_value(np.where(magnitude & 1, -magnitude, magnitude)) < 1e-9


MANY = 4_000_000


def test_many_samples_follow_the_definition():
    sample = sample_discrete_gaussian(MANY, sigma=2.0**16, random=DeterministicRandom("many"))
    assert p_value(sample, 2.0**16) > 1e-2


def test_twin_that_keeps_every_proposal_is_rejected(monkeypatch):
    propose = discrete_gaussian._propose

    def keep_all(count, *, hat, random):
        values, _ = propose(count, hat=hat, random=random)
        return values, np.empty(0, dtype=np.intp)

    monkeypatch.setattr(discrete_gaussian, "_propose", keep_all)
    sample = sample_discrete_gaussian(MANY, sigma=2.0**16, random=DeterministicRandom("many"))
    assert p_value(sample, 2.0**16) < 1e-9
