"""A lower bound is one: it holds as often as it says, is composed by what an independent accountant confirms, and sees
noise that is too small.
"""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from privacy.accounting import check_tally, fourier_of_tally
from privacy.audit.mechanism.step_bound import composed_epsilon, expected_bound, step_bound
from privacy.audit.trade_off import sampled_gaussian
from protocol.terms import Relation


def scores(noise, count, *, seed, steps=1):
    generator = np.random.default_rng(seed)
    spread = noise * math.sqrt(steps)
    return 1.0 + generator.normal(0, spread, count), generator.normal(0, spread, 4 * count)


@pytest.mark.parametrize(("noise", "steps"), [(0.7, 1), (2.3, 1), (7.5, 1), (1.5, 8)])
def test_the_noise_is_below_the_bound_as_often_as_it_says(noise, steps):
    runs, error = 400, 0.2
    wrong = sum(
        step_bound(*scores(noise, 3000, seed=seed, steps=steps), error=error, steps=steps).noise < noise
        for seed in range(runs)
    )
    assert wrong <= binom.isf(1e-4, runs, error)


def test_half_the_noise_is_seen_and_tightly():
    found = step_bound(*scores(1.0, 20_000, seed=0), error=0.05).noise
    assert 1.0 < found < 1.08


def test_the_bound_is_that_of_rates_found_by_search():
    """Clopper-Pearson limits by bisection of binomial tails, and the effect by the definition."""
    present, absent = scores(1.3, 500, seed=3)
    hits, alarms = int((present > 0.5).sum()), int((absent > 0.5).sum())

    def bisect(function, low, high):
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if function(middle) else (low, middle)
        return low

    true = bisect(lambda rate: binom.sf(hits - 1, 500, rate) < 0.025, 0.0, 1.0)
    false = bisect(lambda rate: binom.cdf(alarms, 2000, rate) > 0.025, 0.0, 1.0)
    found = step_bound(present, absent, error=0.05)
    assert found.noise == pytest.approx(1 / (norm.ppf(true) - norm.ppf(false)), rel=1e-6)
    assert found.shape_free(delta=1e-5) == pytest.approx(
        max(math.log((true - 1e-5) / false), math.log((1 - 1e-5 - false) / (1 - true))), rel=1e-6
    )


@pytest.mark.parametrize("empty", [(0, 10), (10, 0), (0, 0)])
def test_nothing_is_shown_by_nothing(empty):
    present, absent = np.ones(empty[0]), np.zeros(empty[1])
    assert math.isinf(step_bound(present, absent, error=0.05).noise)


def test_canaries_that_move_nothing_bound_nothing():
    noise = np.random.default_rng(0).normal(0, 1, 20_000)
    assert math.isinf(step_bound(noise[:10_000], noise[10_000:], error=1e-6).noise)


def test_expected_bound_is_what_simulations_give_in_the_middle():
    found = [step_bound(*scores(2.0, 5000, seed=seed), error=0.05).noise for seed in range(400)]
    several = {"noise": 2.0, "present": 5000, "absent": 20_000, "error": 0.05}
    assert expected_bound(**several) == pytest.approx(np.median(found), rel=0.01)
    assert 0.4 < np.mean(np.array(found) < expected_bound(**several)) < 0.6, "as often above as below"
    assert expected_bound(**several | {"noise": 0.0}) < 0.2
    assert math.isinf(expected_bound(**several | {"absent": 0}))


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"), [(2.268, 0.1, 300, 1e-6), (7.45, 0.1, 300, 1e-6), (0.8, 0.01, 50, 1e-5)]
)
def test_composition_agrees_with_two_other_accountants_and_is_never_above_them(noise, rate, steps, delta):
    found = composed_epsilon(
        noise, sample_rate=rate, steps=steps, delta=delta, relation=Relation.ADD_REMOVE, precision=1e-3
    )
    counts = {(noise, rate): steps}
    fourier = fourier_of_tally(counts, delta=delta, relation=Relation.ADD_REMOVE)
    record = check_tally(counts, delta=delta, relation=Relation.ADD_REMOVE).pld
    assert found == pytest.approx(fourier, abs=1.5e-3)
    assert found <= min(record, fourier + 1e-4)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"),
    [(2.268, 0.1, 300, 1e-6), (7.45, 0.1, 300, 1e-6), (1.0, 0.01, 10_000, 1e-5), (5.0, 1.0, 1, 1e-5)],
)
def test_what_a_family_of_steps_is_refuted_up_to_is_rounded_down_too(noise, rate, steps, delta):
    found = sampled_gaussian(rate, steps).epsilon(1.0 / noise, delta)
    centred = fourier_of_tally({(noise, rate): steps}, delta=delta, relation=Relation.ADD_REMOVE)
    assert centred * (1.0 - 1e-3) < found < centred - 1e-5


def test_composition_of_one_gaussian_step_is_the_closed_form():
    """Balle and Wang 2018, theorem 8: delta of the Gaussian mechanism."""
    noise, delta = 1.0, 1e-5
    epsilon = composed_epsilon(noise, sample_rate=1.0, steps=1, delta=delta, relation=Relation.ADD_REMOVE)
    found = norm.cdf(0.5 / noise - epsilon * noise) - math.exp(epsilon) * norm.cdf(-0.5 / noise - epsilon * noise)
    assert found == pytest.approx(delta, rel=0.02)


def test_more_noise_a_lower_rate_and_fewer_steps_cost_less():
    def epsilon(noise=1.5, rate=0.2, steps=50):
        return composed_epsilon(
            noise, sample_rate=rate, steps=steps, delta=1e-5, relation=Relation.ADD_REMOVE, precision=0.02
        )

    assert epsilon() > max(epsilon(noise=1.6), epsilon(rate=0.19), epsilon(steps=45)) > 0.0
    assert epsilon(noise=math.inf) == epsilon(rate=0.0) == 0.0
