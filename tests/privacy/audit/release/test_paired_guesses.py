"""What scores prove about epsilon: exact cases, honest and lying mechanisms, and the relation between neighbours."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.audit import one_run
from privacy.audit.finding import Claim
from privacy.audit.release.paired import (
    PairedScores,
    ceiling,
    for_replacing,
    lower_bound,
    pair_guesses,
    would_refute,
)
from protocol.errors import InputError
from protocol.terms import Relation

REPLACE = Relation.REPLACE_ONE


def answers(epsilon: float, pairs: int, generator: np.random.Generator) -> PairedScores:
    """Randomised response about every pair: it names the right record with odds exp(epsilon), and loses nothing."""
    right = generator.random(pairs) < 1.0 / (1.0 + math.exp(-epsilon))
    return PairedScores(members=right.astype(float), controls=(~right).astype(float))


def test_four_pairs_by_hand():
    (mixed,) = pair_guesses(PairedScores(members=[5.0, 1.0, 2.0, 0.0], controls=[1.0, 4.0, 2.0, 1.0]))
    assert (mixed.canaries, mixed.made, mixed.right) == (4, 3, 1)
    (right,) = pair_guesses(PairedScores(members=[5.0, 9.0, 2.0, 7.0], controls=[1.0, 4.0, 2.0, 1.0]))
    assert (right.canaries, right.made, right.right) == (4, 3, 3)


def test_three_right_guesses_refute_what_makes_them_unlikely():
    """Three coins that fall right have chance 1/8 at epsilon 0, and 27/64 at odds of three to one."""
    three = PairedScores(members=[1.0, 1.0, 1.0], controls=[0.0, 0.0, 0.0])
    for epsilon, chance in [(0.0, 1 / 8), (math.log(3.0), 27 / 64)]:
        claim = Claim(epsilon=epsilon, delta=0.0, relation=REPLACE)
        assert would_refute(three, 3, claim=claim, confidence=1.0 - chance - 1e-3)
        assert not would_refute(three, 3, claim=claim, confidence=1.0 - chance + 1e-3)


def test_tied_pairs_are_left_alone_and_prove_nothing():
    scores = PairedScores(members=np.ones(50), controls=np.ones(50))
    assert pair_guesses(scores) == ()
    assert lower_bound(scores, delta=0.0, relation=REPLACE, confidence=0.95) == 0.0
    claim = Claim(epsilon=0.0, delta=0.0, relation=REPLACE)
    assert not would_refute(scores, 10**6, claim=claim, confidence=0.95)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=60))
def test_the_number_of_guesses_is_blind_to_who_was_in(pairs):
    """Turning the coins of some pairs changes what is right, never how many guesses are made."""
    members = np.array([float(size) for size, _ in pairs])
    turned = np.array([-float(size) if turn else float(size) for size, turn in pairs])
    zeros = np.zeros(len(pairs))
    made = [
        [guesses.made for guesses in pair_guesses(PairedScores(members=side, controls=zeros))]
        for side in (members, turned)
    ]
    assert made[0] == made[1]


def test_bound_is_that_of_the_binomial():
    """Steinke, Nasr, Jagielski 2023, theorem 5.2 at delta 0, for 90 of 100 right; never less likely than claimed."""
    scores = PairedScores(members=np.r_[np.ones(90), np.zeros(10)], controls=np.r_[np.zeros(90), np.ones(10)])
    found = lower_bound(scores, delta=0.0, relation=REPLACE, confidence=0.95)
    chance = stats.binom.sf(89, 100, 1.0 / (1.0 + math.exp(-found)))
    assert 0.04 < chance <= 0.05


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 2.0])
def test_false_alarms_stay_below_the_error_and_a_lie_is_found(epsilon):
    generator = np.random.default_rng(3)
    claim = Claim(epsilon=epsilon, delta=0.0, relation=REPLACE)

    def alarms(true: float) -> int:
        runs = (answers(true, 300, generator) for _ in range(400))
        return sum(would_refute(scores, 300, claim=claim, confidence=0.95) for scores in runs)

    assert alarms(epsilon) <= stats.binom.ppf(0.999, 400, 0.05)
    assert alarms(epsilon + 1.0) >= 0.95 * 400


def test_looking_for_the_best_number_of_guesses_is_paid_for():
    """Scores of many sizes give three numbers of guesses; the best of them still errs in at most 5 % of the runs."""
    generator = np.random.default_rng(4)
    found = [
        lower_bound(
            PairedScores(members=generator.normal(size=200), controls=generator.normal(size=200)),
            delta=0.0,
            relation=REPLACE,
            confidence=0.95,
        )
        for _ in range(400)
    ]
    assert 0 < sum(bound > 0.0 for bound in found) <= stats.binom.ppf(0.999, 400, 0.05)


def test_a_claim_of_add_remove_is_two_steps_of_replacing():
    claim = Claim(epsilon=1.0, delta=1e-5, relation=Relation.ADD_REMOVE)
    replacing = for_replacing(claim)
    assert (replacing.epsilon, replacing.relation) == (2.0, REPLACE)
    assert replacing.delta == pytest.approx((1.0 + math.e) * 1e-5)
    assert for_replacing(replacing) == replacing
    # Taken for replace-one, an honest mechanism of add/remove at epsilon 1 would be called a liar.
    scores = answers(2.0, 1000, np.random.default_rng(5))
    assert not would_refute(scores, 1000, claim=claim, confidence=0.95)
    naive = Claim(epsilon=1.0, delta=1e-5, relation=REPLACE)
    assert would_refute(scores, 1000, claim=naive, confidence=0.95)


def test_delta_is_not_counted_once_for_every_pair():
    """798 of 800 right: the theorem for one run, which counts it so, leaves little of the bound at a small error."""
    scores = PairedScores(members=np.r_[np.ones(798), 0, 0], controls=np.r_[np.zeros(798), 1, 1])
    (guesses,) = {each.made: each for each in pair_guesses(scores)}.values()
    found = lower_bound(scores, delta=1e-4, relation=REPLACE, confidence=0.999)
    assert found > 2.0 * one_run.lower_bound(guesses, delta=1e-4, confidence=0.999)
    assert found < lower_bound(scores, delta=0.0, relation=REPLACE, confidence=0.999)
    assert found < one_run.lower_bound(guesses, delta=0.0, confidence=0.999)


def test_outright_leaks_with_probability_delta_are_no_violation():
    """The worst mechanism with delta: it tells the truth outright in a share delta of the pairs."""
    generator = np.random.default_rng(8)
    claim = Claim(epsilon=0.0, delta=0.01, relation=REPLACE)
    alarms = lies = 0
    for _ in range(300):
        told = generator.random(300)
        right = generator.random(300) < 0.5
        honest = np.where(told < 0.01, True, right)
        lying = np.where(told < 0.4, True, right)
        for truth, count in ((honest, 0), (lying, 1)):
            scores = PairedScores(members=truth.astype(float), controls=(~truth).astype(float))
            caught = would_refute(scores, 300, claim=claim, confidence=0.95)
            alarms, lies = alarms + (caught and not count), lies + (caught and count)
    assert alarms <= stats.binom.ppf(0.999, 300, 0.05)
    assert lies >= 0.9 * 300


def test_delta_costs_and_bounds_fall_with_confidence():
    scores = answers(3.0, 500, np.random.default_rng(6))

    def bound(delta: float, confidence: float) -> float:
        return lower_bound(scores, delta=delta, relation=REPLACE, confidence=confidence)

    assert bound(0.0, 0.95) > bound(1e-4, 0.95) > 0.0
    assert bound(0.0, 0.9) > bound(0.0, 0.99)


def test_ceiling_is_what_a_perfect_attacker_shows():
    claim = Claim(epsilon=1.0, delta=0.0, relation=REPLACE)
    most = ceiling(2000, claim=claim, confidence=0.95)
    assert 0.8 < most < 1.0
    assert ceiling(200, claim=claim, confidence=0.95) < most
    runs = [
        lower_bound(answers(1.0, 2000, np.random.default_rng(seed)), delta=0.0, relation=REPLACE, confidence=0.95)
        for seed in range(40)
    ]
    assert np.median(runs) == pytest.approx(most, abs=0.05)
    assert ceiling(2000, claim=Claim(epsilon=0.0, delta=0.0, relation=REPLACE), confidence=0.95) == 0.0


def test_what_is_no_score_is_refused():
    for members, controls in [([1.0], [1.0, 2.0]), ([], []), ([np.nan], [1.0]), ([1.0], [np.inf])]:
        with pytest.raises(InputError):
            PairedScores(members=members, controls=controls)
    with pytest.raises(InputError, match="confidence"):
        lower_bound(PairedScores(members=[1.0], controls=[0.0]), delta=0.0, relation=REPLACE, confidence=1.0)
