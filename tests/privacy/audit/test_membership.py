"""Membership attacks, the pure part: scores of known law in, findings out."""

import math

import numpy as np
import pytest

from privacy.audit import f_dp, one_run, trade_off
from privacy.audit.finding import Claim, Verdict
from privacy.audit.model.membership import (
    CONTROL_CONFIDENCE,
    Attempt,
    ClaimedSteps,
    against_own_kind,
    choose_guesses,
    membership_finding,
)
from privacy.audit.one_run import Guesses
from privacy.audit.verdict import Shown, violates
from protocol.errors import InputError
from protocol.terms import Relation

CLAIM = Claim(epsilon=1.0, delta=1e-5, relation=Relation.ADD_REMOVE)
# One full-batch step is a Gaussian mechanism: 1 / 0.2676 spends epsilon 1 (Dong, Roth, Su 2019, corollary 2.13).
GAUSSIAN = ClaimedSteps(claim=CLAIM, noise_multiplier=1 / 0.2676, sample_rate=1.0, steps=1, confidence=0.95)


def attempt(effect: float, canaries: int, *, seed: int) -> Attempt:
    """Scores of normal law; members' are shifted by the effect."""
    generator = np.random.default_rng(seed)
    included = generator.random(canaries) < 0.5
    return Attempt(
        suspicion=generator.standard_normal(canaries) + effect * included,
        included=included,
        planted=np.arange(canaries) % 2 == 0,
    )


def finding(on_subject: Attempt, positive: Attempt | None, *, claimed: ClaimedSteps = GAUSSIAN, control=None):
    return membership_finding(
        on_subject,
        attack="a shift",
        subject="normal scores",
        claimed=claimed,
        control=control or attempt(0.0, len(on_subject), seed=99),
        positive=positive,
        seconds=1.0,
    )


def test_the_gaussian_of_these_tests_spends_the_claim():
    assert trade_off.gaussian().epsilon(0.2676, CLAIM.delta) == pytest.approx(CLAIM.epsilon, rel=2e-3)


def test_a_strong_attack_violates_and_a_private_subject_is_consistent():
    positive = attempt(1.0, 1000, seed=1)
    assert finding(attempt(1.0, 1000, seed=0), positive).verdict is Verdict.VIOLATED
    quiet = finding(attempt(0.0, 1000, seed=2), positive)
    assert quiet.verdict is Verdict.CONSISTENT
    assert quiet.needed is None
    assert quiet.lower_bound == 0.0
    assert 0.0 < quiet.ceiling < CLAIM.epsilon


def test_few_canaries_are_underpowered_and_more_are_asked_for():
    found = finding(attempt(0.0, 50, seed=3), attempt(0.8, 50, seed=4))
    assert found.verdict is Verdict.UNDERPOWERED
    assert found.needed > 50
    assert any(f"{found.needed:,} canaries would be needed" in sentence for sentence in found.words)


def test_as_many_canaries_as_are_asked_for_do():
    strength = 0.76  # AUROC of a shift of one
    needed = next(number for number in range(20, 2000, 10) if GAUSSIAN.shows(strength, number, CONTROL_CONFIDENCE))
    effect = math.sqrt(2.0) * 0.7063  # standard normal quantile of 0.76
    made = choose_guesses(needed, lambda counts: GAUSSIAN.refutes(counts, CONTROL_CONFIDENCE))
    seen = [GAUSSIAN.refutes(attempt(effect, needed, seed=seed).guess(made), CONTROL_CONFIDENCE) for seed in range(60)]
    # In the middle run, and so in about half of them; the count of 60 fair coins is outside 15 to 45 once in 10,000.
    assert 15 <= sum(seen) <= 54
    few = max(4, needed // 4)
    assert not GAUSSIAN.shows(strength, few, CONTROL_CONFIDENCE)


def test_an_attack_weaker_than_the_claim_never_shows_it():
    assert not any(GAUSSIAN.shows(0.55, 10**power, 0.95) for power in range(1, 6))
    assert not GAUSSIAN.shows(0.4, 10**5, 0.95)


def test_without_a_positive_control_the_underpowered_case_would_pass():
    """The broken audit: a subject that keeps nothing secret, too few canaries, and nobody asks what could be seen."""
    claimed = ClaimedSteps(
        claim=Claim(epsilon=4.0, delta=1e-5, relation=Relation.ADD_REMOVE),
        noise_multiplier=1 / 0.9249,
        sample_rate=1.0,
        steps=1,
        confidence=0.95,
    )
    naked = attempt(1.5, 50, seed=5)
    found = finding(naked, attempt(1.5, 50, seed=6), claimed=claimed)
    shown = Shown(
        measure=found.measure,
        attacked=found.attacked,
        baseline=None,
        control=found.control,
        canaries=50,
        lower_bound=found.lower_bound,
    )
    assert not violates(shown, claimed.claim)  # all that an audit without the control would look at
    assert found.verdict is Verdict.UNDERPOWERED
    assert found.needed > 50
    assert finding(naked, None, claimed=claimed).verdict is Verdict.UNDERPOWERED


def test_permuted_labels_show_nothing():
    strong = attempt(1.5, 1000, seed=7)
    assert strong.area(0.95).low > 0.8
    shuffled = Attempt(
        suspicion=strong.suspicion,
        included=np.random.default_rng(8).permutation(strong.included),
        planted=strong.planted,
    )
    area = shuffled.area(0.999)
    assert area.low < 0.5 < area.high
    assert finding(shuffled, strong).verdict is Verdict.CONSISTENT


def test_scores_that_follow_the_coins_by_another_way_leave_no_verdict():
    """The broken twin: the control, which never saw the canaries, is attacked as well as the subject."""
    leaking = attempt(1.0, 1000, seed=9)
    found = finding(attempt(0.0, 1000, seed=10), attempt(1.0, 1000, seed=11), control=leaking)
    assert found.verdict is Verdict.NO_VERDICT
    assert any("never saw" in sentence for sentence in found.words)


def test_a_perfect_attacker_rarely_alarms_on_an_honest_subject():
    """The scores of the best attacker on a mechanism that spends just the claim, 400 times."""
    made = choose_guesses(500, lambda counts: GAUSSIAN.refutes(counts, 0.95))
    counts = [attempt(0.2676, 500, seed=seed).guess(made) for seed in range(400)]
    alarms = sum(GAUSSIAN.refutes(each, 0.95) for each in counts)
    assert alarms <= 32  # more than 8 % has a chance below 1 % at a true rate of 5 %
    twice = [attempt(1.0, 500, seed=seed).guess(made) for seed in range(40)]
    assert sum(GAUSSIAN.refutes(each, 0.95) for each in twice) > 32


def test_the_bound_is_that_of_f_dp_on_a_grid():
    family = trade_off.sampled_gaussian(1.0, 1)
    for right in (80, 100, 120):
        counts = Guesses(canaries=1000, made=150, right=right)
        slow = f_dp.lower_bound(counts, family=family, delta=CLAIM.delta, confidence=0.95)
        fast = GAUSSIAN.lower_bound(counts, 0.95)
        assert fast <= slow * (1 + 1e-3)
        # Below a tenth of the claim's strength the grid has no points.
        assert fast >= slow * 0.97 or slow < 0.1


def test_a_refuted_claim_gives_a_bound_above_it():
    for right in (76, 90, 94, 95, 96, 97, 98, 99, 100, 101, 102, 104, 110, 149):
        counts = Guesses(canaries=1000, made=150, right=right)
        bound = GAUSSIAN.lower_bound(counts, 0.95)
        if bound > CLAIM.epsilon:
            assert GAUSSIAN.refutes(counts, 0.95)
        elif GAUSSIAN.refutes(counts, 0.95):
            # Only where one right guess less would not have refuted it.
            assert not GAUSSIAN.refutes(Guesses(canaries=1000, made=150, right=right - 1), 0.95)


def test_the_chosen_number_of_guesses_needs_the_weakest_attack():
    """Against the slow way: the power of each number by simulation."""

    def refutes(counts: Guesses) -> bool:
        return one_run.p_value(counts, epsilon=1.0, delta=1e-5) < 0.05

    chosen = choose_guesses(400, refutes)
    runs = [attempt(1.2, 400, seed=seed) for seed in range(200)]
    power = {made: np.mean([refutes(run.guess(made)) for run in runs]) for made in (16, 60, chosen, 240, 400)}
    assert power[chosen] >= max(power.values()) - 0.1
    assert power[400] < power[chosen]


def test_own_kind_is_what_a_signal_is_held_against():
    signals = np.array([0.0, 5.0, -100.0, -95.0, 50.0])
    planted = np.array([False, False, True, True, False])
    population = np.array([1.0, 2.0, 3.0, -99.0, -98.0, -97.0, -96.0])
    kinds = np.array([False] * 3 + [True] * 4)
    ranks = against_own_kind(signals, planted, population=population, population_planted=kinds)
    # Shares outdone: 0, 1, 0, 1, 1. Excess over the middle of its kind decides between equal shares.
    assert ranks[[0, 2]].max() < ranks[[1, 3]].min()
    assert ranks[4] == 4
    # A plain threshold would have put both made-up ones last.
    assert np.argsort(signals)[:2].tolist() == [2, 3]


def test_own_kind_changes_nothing_within_a_kind():
    generator = np.random.default_rng(12)
    signals, planted = generator.standard_normal(200), generator.random(200) < 0.5
    ranks = against_own_kind(
        signals, planted, population=generator.standard_normal(60), population_planted=np.arange(60) % 2 == 0
    )
    for kind in (False, True):
        own = planted == kind
        assert np.array_equal(np.argsort(signals[own]), np.argsort(ranks[own]))


@pytest.mark.parametrize(
    "arrays",
    [
        {"suspicion": np.array([0.0, np.nan, 1.0, 2.0])},
        {"included": np.array([True, False])},
        {"included": np.array([True, False, False, False])},
        {"planted": np.array([True])},
    ],
)
def test_an_attempt_that_cannot_be_judged_is_refused(arrays):
    good = {
        "suspicion": np.arange(4.0),
        "included": np.array([True, True, False, False]),
        "planted": np.zeros(4, dtype=bool),
    }
    assert len(Attempt(**good)) == 4
    with pytest.raises(InputError):
        Attempt(**good | arrays)


def test_a_kind_without_population_is_refused():
    with pytest.raises(InputError):
        against_own_kind(
            np.zeros(2), np.array([False, True]), population=np.zeros(3), population_planted=np.zeros(3, dtype=bool)
        )


def test_findings_survive_their_json_form():
    found = finding(attempt(0.0, 200, seed=13), attempt(1.0, 200, seed=14))
    assert type(found).from_mapping(found.to_mapping()) == found
    assert any("one run, f-DP" in sentence for sentence in found.words)
