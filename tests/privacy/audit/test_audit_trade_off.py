import math

import numpy as np
import pytest
from scipy import stats

from privacy.audit.trade_off import gaussian, guess_choices, perfect_right, randomised_response, sampled_gaussian
from privacy.calibration import StatisticsShare
from protocol.errors import InputError

RATES = np.linspace(0.001, 0.999, 97)


def slow_gaussian(strength, rate):
    """The least false positive rate of thresholds on N(0, 1) against N(strength, 1)."""
    return stats.norm.sf(stats.norm.isf(rate, loc=strength))


def test_gaussian_curve_is_that_of_thresholds():
    curve = gaussian().curve(0.8)
    assert [curve(rate) for rate in RATES] == pytest.approx([slow_gaussian(0.8, rate) for rate in RATES], abs=1e-12)
    assert (curve(0.0), curve(1.0)) == (0.0, 1.0)


def test_gaussian_epsilon_is_the_closed_form():
    # Dong, Roth, Su 2019, corollary 2.13.
    strength, delta = 0.9249, 1e-5
    epsilon = gaussian().epsilon(strength, delta)
    below = stats.norm.cdf(-epsilon / strength + strength / 2)
    assert below - math.exp(epsilon) * stats.norm.cdf(-epsilon / strength - strength / 2) == pytest.approx(
        delta, rel=1e-3
    )


def test_one_step_without_sampling_is_the_gaussian():
    sampled, exact = sampled_gaussian(1.0, 1).curve(0.8), gaussian().curve(0.8)
    for rate in RATES:
        assert sampled(rate) <= exact(rate) + 1e-9
        assert sampled(rate) == pytest.approx(exact(rate), abs=2e-3)


@pytest.mark.parametrize(
    "curve", [gaussian().curve(1.3), randomised_response(0.01).curve(1.3), sampled_gaussian(0.05, 100).curve(0.8)]
)
def test_curve_rises_is_convex_and_symmetric(curve):
    values = np.array([curve(rate) for rate in RATES])
    assert (np.diff(values) >= 0).all()
    assert (np.diff(values, 2) >= -1e-9).all()
    assert (values <= RATES + 1e-12).all()
    for rate, value in zip(RATES, values, strict=True):
        if value > 1e-6:  # f is its own inverse: exchanging the data sets changes nothing
            assert 1 - curve(1 - value) == pytest.approx(rate, abs=3e-3)


def test_stronger_is_less_private_and_a_family_finds_its_epsilon():
    family, strength = sampled_gaussian(0.05, 300), 1 / 1.2241
    assert family.epsilon(strength, 1e-5) == pytest.approx(4.0, rel=1e-3)  # dp-accounting PLD, both directions
    weak, strong = family.curve(0.9 * strength), family.curve(1.1 * strength)
    assert all(weak(rate) > strong(rate) for rate in RATES[5:-5])
    assert gaussian().strength_at(4.0, 1e-5) == pytest.approx(0.9249, rel=1e-3)
    with pytest.raises(InputError):
        gaussian().strength_at(1e6, 1e-5)


def test_randomised_response_bounds_every_pair_of_rates():
    curve = randomised_response(0.1).curve(1.0)
    assert curve(0.1) == 0.0
    assert curve(0.5) == pytest.approx(0.4 / math.e)
    corner = (math.e + 0.1) / (math.e + 1)
    assert curve(corner) == pytest.approx(1 - corner)
    assert curve(0.95) == pytest.approx(1 - 0.1 - math.e * 0.05)
    with pytest.raises(InputError):
        randomised_response(0.1).epsilon(1.0, 0.2)
    with pytest.raises(InputError):
        randomised_response(1.0)


def test_perfect_attacker_is_the_average_of_simulated_ones():
    generator, canaries, made = np.random.default_rng(6), 1000, 200
    rights = []
    for _ in range(300):
        included = generator.random(canaries) < 0.5
        order = np.argsort(generator.normal(size=canaries) + 1.2 * included)
        rights.append(included[order[-made // 2 :]].sum() + (~included[order[: made // 2]]).sum())
    assert perfect_right(gaussian().curve(1.2), canaries, made) == pytest.approx(np.mean(rights), abs=2.0)


def test_perfect_attacker_on_everything_has_the_best_accuracy():
    right = perfect_right(gaussian().curve(0.6), 10**6, 10**6)
    assert right / 10**6 == pytest.approx(stats.norm.cdf(0.3), abs=1e-5)
    response = perfect_right(randomised_response(0.0).curve(1.0), 10**6, 10**6)
    assert response / 10**6 == pytest.approx(math.e / (1 + math.e), abs=1e-5)


@pytest.mark.parametrize("canaries", [1, 2, 7, 8, 9, 50, 1000, 99_999])
def test_choices_of_guesses_lie_in_range_and_end_with_all(canaries):
    choices = guess_choices(canaries)
    assert choices[-1] == canaries
    assert all(1 <= made <= canaries for made in choices)
    assert len(choices) <= 60


@pytest.mark.parametrize(("rate", "count"), [(0.0, 10), (1.5, 10), (0.1, 0), (0.1, 1.5), (0.1, True)])
def test_impossible_sampling_is_refused(rate, count):
    with pytest.raises(InputError):
        sampled_gaussian(rate, count)


def test_statistics_beside_steps_make_the_curve_of_both():
    # Without sampling both are Gaussian, and their strengths add up in squares (Dong, Roth, Su 2019, corollary 3.3).
    share = StatisticsShare(rounds=2, share=0.4)
    beside = share.noise_multiplier(1 / 0.8, sample_rate=1.0, steps=1)
    whole = math.sqrt(0.8**2 + 2 / beside**2)
    found, exact = sampled_gaussian(1.0, 1, statistics=share), gaussian()
    for rate in RATES:
        assert found.curve(0.8)(rate) == pytest.approx(exact.curve(whole)(rate), abs=3e-3)
    assert found.epsilon(0.8, 1e-5) == pytest.approx(exact.epsilon(whole, 1e-5), rel=2e-3)
    assert found.curve(0.8)(0.5) < sampled_gaussian(1.0, 1).curve(0.8)(0.5) - 0.01, "more can be told than from steps"
