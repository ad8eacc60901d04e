import math

import numpy as np
import pytest
from scipy import stats

from privacy.audit import f_dp, one_run
from privacy.audit.one_run import Guesses, ceiling, corrected, guess, guesses_beforehand
from privacy.audit.trade_off import gaussian, randomised_response, sampled_gaussian
from protocol.errors import InputError

DELTA = 1e-5
GAUSSIAN = gaussian()

# epsilon lower bounds at 95 % by jax_privacy 2.0.0, auditing._epsilon_one_run_fdp (canaries, made, right, delta)
ORACLE = {
    (1000, 170, 146, 1e-5): 2.260262,
    (1000, 1000, 620, 1e-5): 0.736354,
    (5000, 200, 170, 1e-5): 1.842243,
    (5000, 5000, 3000, 1e-6): 0.712791,
    (100, 100, 99, 1e-3): 5.085597,
    (20, 10, 10, 1e-2): 1.064397,
    (100_000, 2000, 1800, 1e-6): 2.741408,
}


def counts(canaries, made, right):
    return Guesses(canaries=canaries, made=made, right=right)


def bound(guesses):
    return f_dp.lower_bound(guesses, family=GAUSSIAN, delta=DELTA, confidence=0.95)


def gaussian_run(generator, canaries, strength):
    """Scores of canaries that do not disturb one another, under noise of one over ``strength``."""
    included = generator.random(canaries) < 0.5
    return generator.normal(size=canaries) + strength * included, included


def sampled_run(generator, canaries, noise, rate, steps):
    """The likelihood ratio of each canary over all steps: no attacker does better."""
    included = generator.random(canaries) < 0.5
    taken = included[:, None] & (generator.random((canaries, steps)) < rate)
    seen = noise * generator.normal(size=(canaries, steps)) + taken
    return np.log1p(rate * np.expm1((seen - 0.5) / noise**2)).sum(axis=1), included


@pytest.mark.parametrize("case", ORACLE)
def test_agrees_with_an_independent_implementation(case):
    found = f_dp.lower_bound(counts(*case[:3]), family=GAUSSIAN, delta=case[3], confidence=0.95)
    assert found == pytest.approx(ORACLE[case], abs=1e-3)
    assert found <= ORACLE[case] + 1e-6


@pytest.mark.parametrize("right", [520, 560, 600, 700])
def test_p_value_and_refutation_agree(right):
    curve = GAUSSIAN.curve(0.3)
    chance = f_dp.p_value(counts(1000, 1000, right), curve)
    assert f_dp.refutes(counts(1000, 1000, right), curve, confidence=0.95) == (chance <= 0.05)
    assert f_dp.refutes(counts(1000, 1000, right), curve, confidence=0.9999) == (chance <= 0.0001)


@pytest.mark.parametrize("right", [70, 80, 95])
def test_p_value_is_above_the_chance_of_independent_canaries(right):
    accuracy = stats.norm.cdf(0.5)
    assert f_dp.p_value(counts(100, 100, right), GAUSSIAN.curve(1.0)) >= stats.binom.sf(right - 1, 100, accuracy)


@pytest.mark.parametrize(
    ("strength", "broken_strength", "canaries", "made"),
    [(0.3, 0.9, 1000, 200), (0.9, 1.8, 1000, 120), (2.0, 4.0, 2000, 1400)],
)
def test_honest_gaussian_is_refuted_in_at_most_five_per_cent_and_a_weaker_one_often(
    strength, broken_strength, canaries, made
):
    generator, curve, runs = np.random.default_rng(11), GAUSSIAN.curve(strength), 100
    honest = broken = 0
    for _ in range(runs):
        right, wrong = (gaussian_run(generator, canaries, each) for each in (strength, broken_strength))
        honest += f_dp.refutes(guess(*right, made=made), curve, confidence=0.95)
        broken += f_dp.refutes(guess(*wrong, made=made), curve, confidence=0.95)
    assert honest / runs <= 0.05
    assert broken / runs > 0.5


def test_bound_stays_below_the_truth_for_honest_sampled_gaussians():
    generator, runs, above = np.random.default_rng(12), 60, 0
    for _ in range(runs):
        above += bound(guess(*sampled_run(generator, 300, 1.2241, 0.05, 300), made=60)) > 4.0
    assert above / runs <= 0.05


def test_thousand_canaries_show_almost_half_of_epsilon_four():
    generator, made, runs = np.random.default_rng(13), 126, 40
    steinke, gauss = [], []
    for _ in range(runs):
        guesses = guess(*sampled_run(generator, 1000, 1.2241, 0.05, 300), made=made)
        gauss.append(bound(guesses))
        steinke.append(one_run.lower_bound(guesses, delta=DELTA, confidence=0.95))
    # In 200 runs: 1.98 and 1.29 on average, with standard deviations of 0.37 and 0.23.
    assert np.mean(gauss) / 4.0 >= 0.45
    assert np.mean(gauss) == pytest.approx(1.98, abs=0.18)
    assert np.mean(steinke) == pytest.approx(1.29, abs=0.11)


def test_choosing_afterwards_without_the_correction_raises_false_alarms():
    # A mechanism that tells nothing, on so few canaries that single guesses decide.
    generator, choices, runs = np.random.default_rng(14), (6, 12, 20, 30, 40, 50), 600
    curve = randomised_response(0.0).curve(1e-3)
    unpaid = paid = 0
    for _ in range(runs):
        scores, included = gaussian_run(generator, 50, 0.0)
        tried = [guess(scores, included, made=made) for made in choices]
        unpaid += any(f_dp.refutes(guesses, curve, confidence=0.95) for guesses in tried)
        best, _ = corrected(
            scores,
            included,
            choices=choices,
            bound=lambda guesses, confidence: float(f_dp.refutes(guesses, curve, confidence=confidence)),
            confidence=0.95,
        )
        paid += best > 0.0
    assert paid / runs <= 0.05
    assert unpaid / runs > 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / runs)


def test_bound_holds_only_inside_its_family():
    # Randomised response of epsilon 1 has right guesses as no Gaussian of epsilon 1 has them.
    response = counts(5000, 5000, 3655)
    assert bound(response) > 1.5
    own = randomised_response(DELTA)
    assert 0.9 < f_dp.lower_bound(response, family=own, delta=DELTA, confidence=0.95) < 1.0


def test_sampled_family_bounds_by_the_noise_multiplier():
    family = sampled_gaussian(0.05, 300)
    strength = f_dp.refuted_strength(counts(1000, 126, 109), family=family, confidence=0.95)
    assert f_dp.refutes(counts(1000, 126, 109), family.curve(strength), confidence=0.95)
    assert not f_dp.refutes(counts(1000, 126, 109), family.curve(1.001 * strength), confidence=0.95)
    assert 1.2241 < 1 / strength < 2.5


def test_guesses_no_better_than_chance_show_nothing():
    assert bound(counts(100, 100, 50)) == 0.0
    assert bound(counts(100, 10, 0)) == 0.0
    assert f_dp.p_value(counts(100, 100, 50), GAUSSIAN.curve(0.5)) == 1.0


def test_more_right_guesses_never_show_less():
    bounds = [bound(counts(500, 100, right)) for right in range(50, 101, 5)]
    assert bounds == sorted(bounds)
    assert bounds[-1] > 4.0


def test_ceiling_of_the_gaussian_shape_is_above_that_of_the_distribution_free_bound():
    curve = GAUSSIAN.curve(0.9249)
    made = guesses_beforehand(1000, curve=curve, bound=bound)
    free = ceiling(1000, curve=curve, bound=lambda guesses: one_run.lower_bound(guesses, delta=DELTA, confidence=0.95))
    assert ceiling(1000, curve=curve, bound=bound, made=made) == pytest.approx(2.26, abs=0.03)
    assert free == pytest.approx(1.50, abs=0.03)


def test_hundred_thousand_canaries_are_no_trouble():
    assert bound(counts(100_000, 100_000, 62_000)) == pytest.approx(0.8, abs=0.1)


def test_bad_confidence_is_refused():
    with pytest.raises(InputError):
        f_dp.refutes(counts(10, 10, 9), GAUSSIAN.curve(1.0), confidence=1.0)
