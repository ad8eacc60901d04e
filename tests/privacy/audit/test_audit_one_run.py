import math

import numpy as np
import pytest
from scipy import stats

from privacy.audit import one_run
from privacy.audit.one_run import (
    Guesses,
    ceiling,
    corrected,
    guess,
    guesses_beforehand,
    lower_bound,
    no_privacy,
    p_value,
)
from privacy.audit.trade_off import gaussian, randomised_response
from protocol.errors import InputError

# epsilon lower bounds at 95 % by jax_privacy 2.0.0, auditing._epsilon_one_run (canaries, made, right, delta)
ORACLE = {
    (1000, 83, 74, 1e-5): 1.500409,
    (1000, 1000, 620, 1e-5): 0.380339,
    (5000, 200, 170, 1e-5): 1.389476,
    (5000, 5000, 3000, 1e-6): 0.357591,
    (100, 100, 99, 1e-3): 2.840964,
    (20, 10, 10, 1e-2): 0.0,
    (100_000, 2000, 1800, 1e-6): 2.070170,
    (100_000, 100_000, 62_000, 1e-7): 0.478811,
}


def counts(canaries, made, right):
    return Guesses(canaries=canaries, made=made, right=right)


def bound(guesses):
    return lower_bound(guesses, delta=1e-5, confidence=0.95)


def slow_p_value(canaries, made, right, epsilon, delta):
    """Theorem 5.2 term by term."""
    odds = math.exp(epsilon)
    chance = [stats.binom.pmf(number, made, odds / (1 + odds)) for number in range(made + 1)]
    reach = sum(chance[right:])
    gains = [sum(chance[max(0, right - i) : right]) / i for i in range(1, canaries + 1)]
    return reach + 2 * canaries * delta * max(gains)


@pytest.mark.parametrize("case", ORACLE)
def test_agrees_with_an_independent_implementation(case):
    assert lower_bound(counts(*case[:3]), delta=case[3], confidence=0.95) == pytest.approx(ORACLE[case], abs=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_p_value_is_the_theorem_term_by_term(epsilon, delta):
    for made, right in [(40, 25), (40, 39), (40, 40), (150, 149), (150, 90)]:
        slow = slow_p_value(150, made, right, epsilon, delta)
        fast = p_value(counts(150, made, right), epsilon=epsilon, delta=delta)
        if slow < 0.5:
            assert fast == pytest.approx(slow, rel=1e-9)
        else:
            assert fast == 1.0 or fast == pytest.approx(min(1.0, slow), rel=1e-9)


def test_p_value_is_stable_for_many_canaries_and_extreme_odds():
    assert p_value(counts(100_000, 100_000, 100_000), epsilon=0.0, delta=0.0) == pytest.approx(0.0, abs=1e-300)
    huge = p_value(counts(100_000, 1000, 1000), epsilon=30.0, delta=1e-9)
    assert huge == 1.0
    values = [p_value(counts(100_000, 50_000, right), epsilon=1.0, delta=1e-7) for right in range(36_000, 38_000, 100)]
    assert all(later <= earlier for earlier, later in zip(values, values[1:], strict=False))


def test_guess_by_hand():
    scores, included = [5.0, 4.0, 3.0, 2.0, 1.0], [True, True, False, False, True]
    assert guess(scores, included, made=2) == counts(5, 2, 1)
    assert guess(scores, included, made=3) == counts(5, 3, 2)
    assert guess(scores, included, made=5) == counts(5, 5, 3)
    assert guess(scores, included, made=1) == counts(5, 1, 1)


def test_order_of_canaries_never_helps_the_attacker():
    included = np.array([True] * 50 + [False] * 50)
    tied = guess(np.zeros(100), included, made=40)
    assert tied.right == 0
    # The careless way: a stable sort says "in" for whoever stands first, and members stand first.
    order = np.argsort(-np.zeros(100), kind="stable")
    careless = included[order[:20]].sum() + (~included[order[-20:]]).sum()
    assert bound(counts(100, 40, int(careless))) > 2.0
    assert bound(tied) == 0.0
    scores = np.random.default_rng(1).integers(0, 5, 100)
    shuffle = np.random.default_rng(2).permutation(100)
    assert guess(scores, included, made=30) == guess(scores[shuffle], included[shuffle], made=30)


@pytest.mark.parametrize(("epsilon", "made"), [(0.5, 200), (2.0, 100), (4.0, 200)])
def test_honest_randomised_response_is_refuted_in_at_most_five_per_cent_and_a_weaker_one_often(epsilon, made):
    thresholds = [
        right
        for right in range(made + 1)
        if lower_bound(counts(200, made, right), delta=0.0, confidence=0.95) > epsilon
    ]
    odds = math.exp(epsilon)
    alarms = stats.binom.sf(min(thresholds) - 1, made, odds / (1 + odds)) if thresholds else 0.0
    assert alarms <= 0.05
    if epsilon < 4.0:
        power = stats.binom.sf(min(thresholds) - 1, made, math.exp(2 * epsilon) / (1 + math.exp(2 * epsilon)))
        assert power > 0.3


def noise_alarms(runs, bound_of):
    """Share of runs in which scores that know nothing pass for an epsilon above 0."""
    generator = np.random.default_rng(7)
    alarms = 0
    for _ in range(runs):
        included, scores = generator.random(200) < 0.5, generator.normal(size=200)
        alarms += bound_of(scores, included) > 0.0
    return alarms / runs


def test_choosing_the_number_of_guesses_afterwards_needs_the_correction():
    choices, runs = (8, 16, 32, 64, 100, 140, 200), 1000

    def pure(guesses, confidence):
        return lower_bound(guesses, delta=0.0, confidence=confidence)

    def paid(scores, included):
        return corrected(scores, included, choices=choices, bound=pure, confidence=0.95)[0]

    def unpaid(scores, included):
        return max(pure(guess(scores, included, made=made), 0.95) for made in choices)

    def beforehand(scores, included):
        return pure(guess(scores, included, made=64), 0.95)

    error = 2.5 * math.sqrt(0.05 * 0.95 / runs)
    assert noise_alarms(runs, paid) <= 0.05
    assert noise_alarms(runs, beforehand) <= 0.05 + error
    assert noise_alarms(runs, unpaid) > 0.05 + error


def test_correction_returns_the_counts_of_its_bound():
    generator = np.random.default_rng(8)
    included = generator.random(400) < 0.5
    scores = generator.normal(size=400) + 3.0 * included
    best, which = corrected(
        scores,
        included,
        choices=(20, 100, 400),
        bound=lambda g, c: lower_bound(g, delta=1e-5, confidence=c),
        confidence=0.95,
    )
    assert best == lower_bound(which, delta=1e-5, confidence=1 - 0.05 / 3) > 1.0
    with pytest.raises(InputError):
        corrected(scores, included, choices=(), bound=min, confidence=0.95)


def test_guesses_chosen_beforehand_beat_guessing_about_all():
    curve = gaussian().curve(0.9249)
    made = guesses_beforehand(1000, curve=curve, bound=bound)
    assert made < 300
    assert ceiling(1000, curve=curve, bound=bound, made=made) > 2 * ceiling(1000, curve=curve, bound=bound, made=1000)
    response = randomised_response(1e-5).curve(1.0)
    assert guesses_beforehand(1000, curve=response, bound=bound) == 1000  # every guess is as good as any other


def test_ceiling_of_a_perfect_attacker_with_5000_canaries():
    # Gaussian mechanisms that spend 1, 2, 4 and 8 at delta 1e-5; middle run, best number of guesses, 95 %.
    shown = [ceiling(5000, curve=gaussian().curve(mu), bound=bound) for mu in (0.2681, 0.5016, 0.9249, 1.6660)]
    assert shown == pytest.approx([0.40, 0.94, 1.93, 3.53], abs=0.02)


def test_ceiling_without_privacy_is_set_by_the_number_of_canaries():
    shown = [ceiling(canaries, curve=no_privacy, bound=bound) for canaries in (10, 100, 1000)]
    assert shown == sorted(shown)
    pure = ceiling(100, curve=no_privacy, bound=lambda g: lower_bound(g, delta=0.0, confidence=0.95))
    share = 0.05 ** (1 / 100)  # a hundred right guesses have this chance each where they have 5 % together
    assert pure == pytest.approx(math.log(share / (1 - share)), abs=1e-5)


def test_scaled_counts_keep_their_shares():
    assert counts(50, 20, 15).scaled(5000) == counts(5000, 2000, 1500)
    assert counts(50, 50, 50).scaled(7) == counts(7, 7, 7)


@pytest.mark.parametrize(
    "numbers", [(0, 1, 0), (10, 0, 0), (10, 11, 5), (10, 5, 6), (10, 5, -1), (10, 5.0, 3), (10, True, 1)]
)
def test_impossible_counts_are_refused(numbers):
    with pytest.raises(InputError):
        counts(*numbers)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError):
        guess([1.0, math.nan], [True, False], made=1)
    with pytest.raises(InputError):
        guess([1.0, 2.0], [1, 0], made=1)
    with pytest.raises(InputError):
        guess([1.0, 2.0], [True, False], made=3)
    with pytest.raises(InputError):
        p_value(counts(10, 5, 3), epsilon=-1.0, delta=0.0)
    with pytest.raises(InputError):
        one_run.lower_bound(counts(10, 5, 3), delta=0.0, confidence=1.0)
