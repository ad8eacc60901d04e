import math

import numpy as np
import pytest

from privacy.audit import rates
from protocol.errors import InputError

# epsilon lower bounds at 95 %, both directions, by jax_privacy 2.0.0, CanaryScoreAuditor.epsilon_clopper_pearson with
# an explicit threshold (true positives, members, false positives, non-members, delta)
ORACLE = {
    (900, 1000, 100, 1000, 1e-5): 1.989695,
    (50, 100, 1, 200, 1e-5): 2.671525,
    (990, 1000, 700, 1000, 1e-3): 2.693465,
    (1000, 1000, 0, 1000, 0.0): 5.600588,
}


@pytest.mark.parametrize("case", ORACLE)
def test_agrees_with_an_independent_implementation(case):
    assert rates.from_counts(*case[:4], delta=case[4], confidence=0.95) == pytest.approx(ORACLE[case], abs=1e-6)


def test_both_directions_are_used_and_exchange_with_the_roles():
    forward = rates.epsilon_of_rates(0.5, 0.01, delta=1e-3)
    backward = rates.epsilon_of_rates(0.99, 0.5, delta=1e-3)
    assert forward == pytest.approx(backward) == pytest.approx(math.log(0.499 / 0.01))
    assert rates.epsilon_of_rates(0.3, 0.3, delta=0.0) == 0.0
    assert rates.epsilon_of_rates(0.2, 0.3, delta=0.0) == 0.0
    assert rates.epsilon_of_rates(0.2, 0.0, delta=0.1) == math.inf


def laplace(generator, size, shift):
    """Scores of a mechanism that is exactly ``shift``-private: noise of scale one."""
    return shift + generator.laplace(size=size)


def naive(members, others):
    """The broken twin: every threshold is tried at the whole error, and the best is kept."""
    return max(
        rates.at_threshold(members, others, threshold=threshold, delta=0.0, confidence=0.95).epsilon
        for threshold in np.nextafter(members, -np.inf)
    )


def test_honest_choices_of_a_threshold_keep_the_confidence_and_trying_all_does_not():
    generator, runs = np.random.default_rng(21), 200
    alarms = {"fixed": 0, "held out": 0, "ranks": 0, "all": 0}
    for _ in range(runs):
        members, others = laplace(generator, 100, 1.0), laplace(generator, 5000, 0.0)
        found = {
            "fixed": rates.at_threshold(members, others, threshold=1.0, delta=0.0, confidence=0.95).epsilon,
            "held out": rates.held_out(members, others, delta=0.0, confidence=0.95, generator=generator).epsilon,
            "ranks": rates.over_ranks(members, others, delta=0.0, confidence=0.95).epsilon,
            "all": naive(members, others),
        }
        for name, epsilon in found.items():
            alarms[name] += epsilon > 1.0
    assert alarms["fixed"] / runs <= 0.05
    assert alarms["held out"] / runs <= 0.05
    assert alarms["ranks"] / runs <= 0.05
    assert alarms["all"] / runs > 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / runs)


def test_violation_is_seen():
    generator = np.random.default_rng(22)
    members, others = laplace(generator, 2000, 4.0), laplace(generator, 2000, 0.0)
    assert rates.over_ranks(members, others, delta=1e-5, confidence=0.95).epsilon > 2.0
    assert rates.held_out(members, others, delta=1e-5, confidence=0.95, generator=generator).epsilon > 2.0
    assert rates.over_ranks(-others, -members, delta=1e-5, confidence=0.95).epsilon > 2.0


def test_few_ranks_cost_little_against_the_best_threshold_known_beforehand():
    generator = np.random.default_rng(23)
    members, others = laplace(generator, 5000, 2.0), laplace(generator, 5000, 0.0)
    best = max(
        rates.at_threshold(members, others, threshold=threshold, delta=0.0, confidence=0.95).epsilon
        for threshold in np.linspace(-3, 5, 81)
    )
    found = rates.over_ranks(members, others, delta=0.0, confidence=0.95).epsilon
    assert 0.9 * best < found <= best + 0.05


def test_ties_give_no_false_alarm():
    # Both classes score 0 or 1 alike: the highest non-member score is an atom, and the rank bounds count it fully.
    generator, runs, alarms = np.random.default_rng(24), 300, 0
    for _ in range(runs):
        members, others = generator.integers(0, 2, 60), generator.integers(0, 2, 60)
        alarms += rates.over_ranks(members, others, delta=0.0, confidence=0.95).epsilon > 0.0
    assert alarms / runs <= 0.05
    assert rates.over_ranks(np.ones(50), np.ones(50), delta=0.0, confidence=0.95).epsilon == 0.0


def test_bound_repeats_its_rates():
    found = rates.over_ranks(np.arange(100.0) + 60.0, np.arange(100.0), delta=1e-3, confidence=0.95)
    assert found.epsilon == rates.epsilon_of_rates(found.true_positive_rate, found.false_positive_rate, delta=1e-3)
    assert 0.0 < found.true_positive_rate < 1.0
    assert math.isfinite(found.epsilon)


def test_one_score_each_is_enough_to_say_nothing():
    assert rates.over_ranks([1.0], [0.0], delta=0.0, confidence=0.95).epsilon == 0.0
    with pytest.raises(InputError):
        rates.held_out([1.0], [0.0], delta=0.0, confidence=0.95, generator=np.random.default_rng(0))


@pytest.mark.parametrize("case", [(5, 4, 0, 4), (-1, 4, 0, 4), (0, 0, 0, 4), (1, 4, 5, 4)])
def test_impossible_counts_are_refused(case):
    with pytest.raises(InputError):
        rates.from_counts(*case, delta=0.0, confidence=0.95)


def test_impossible_rates_and_deltas_are_refused():
    for bad in [(1.1, 0.0, 0.0), (0.5, -0.1, 0.0), (0.5, 0.1, 1.0), (math.nan, 0.1, 0.0)]:
        with pytest.raises(InputError):
            rates.epsilon_of_rates(bad[0], bad[1], delta=bad[2])
    with pytest.raises(InputError):
        rates.from_counts(1, 2, 0, 2, delta=0.0, confidence=0.0)
