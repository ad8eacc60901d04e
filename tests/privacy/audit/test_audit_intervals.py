import math

import numpy as np
import pytest
from scipy import stats

from privacy.audit.finding import Interval
from privacy.audit.intervals import Side, auroc, clopper_pearson, difference, difference_of_rates
from protocol.errors import InputError


def slow_limits(successes, trials, error):
    """Clopper-Pearson by its definition: bisection of binomial tails."""

    def root(chance):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if chance(middle) < error else (low, middle)
        return low

    low = root(lambda rate: stats.binom.sf(successes - 1, trials, rate)) if successes else 0.0
    high = 1 - root(lambda miss: stats.binom.cdf(successes, trials, 1 - miss)) if successes < trials else 1.0
    return low, high


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (5, 10), (10, 10), (3, 1000), (997, 1000)])
def test_clopper_pearson_is_its_definition(successes, trials):
    both = clopper_pearson(successes, trials, confidence=0.95)
    assert (both.low, both.high) == pytest.approx(slow_limits(successes, trials, 0.025), abs=1e-9)
    lower = clopper_pearson(successes, trials, confidence=0.95, side=Side.LOWER)
    upper = clopper_pearson(successes, trials, confidence=0.95, side=Side.UPPER)
    assert (lower.low, upper.high) == pytest.approx(slow_limits(successes, trials, 0.05), abs=1e-9)
    assert (lower.high, upper.low) == (1.0, 0.0)


def test_nothing_tried_is_nothing_known():
    assert clopper_pearson(0, 0, confidence=0.95) == Interval.of_nothing(confidence=0.95)


@pytest.mark.parametrize("counts", [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(InputError):
        clopper_pearson(*counts, confidence=0.95)


def coverage(interval, trials, rate):
    """Exact chance that the interval of a binomial holds its rate."""
    chances = stats.binom.pmf(np.arange(trials + 1), trials, rate)
    limits = [interval(successes, trials) for successes in range(trials + 1)]
    return sum(chance for chance, (low, high) in zip(chances, limits, strict=True) if low <= rate <= high)


def test_clopper_pearson_never_covers_too_little_where_the_textbook_interval_does():
    def exact(successes, trials):
        interval = clopper_pearson(successes, trials, confidence=0.95)
        return interval.low, interval.high

    def textbook(successes, trials):
        rate = successes / trials
        reach = 1.96 * math.sqrt(rate * (1 - rate) / trials)
        return rate - reach, rate + reach

    rates = np.linspace(0.01, 0.99, 50)
    assert min(coverage(exact, 40, rate) for rate in rates) >= 0.95
    assert min(coverage(textbook, 40, rate) for rate in rates) < 0.5


def slow_delong(members, others):
    """Area and its variance by DeLong's double sum."""
    kernel = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in others] for x in members])
    variance = kernel.mean(1).var(ddof=1) / len(members) + kernel.mean(0).var(ddof=1) / len(others)
    return kernel.mean(), variance


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_auroc_is_the_double_sum_of_delong(digits):
    generator = np.random.default_rng(3)
    members = np.round(generator.normal(0.7, 1.0, 31), digits)
    others = np.round(generator.normal(0.0, 1.0, 47), digits)
    area, variance = slow_delong(members, others)
    interval = auroc(members, others, confidence=0.95)
    reach = stats.norm.ppf(0.975) * math.sqrt(variance) / (area * (1 - area))
    assert interval.value == pytest.approx(area, abs=1e-12)
    assert interval.low == pytest.approx(1 / (1 + math.exp(-(math.log(area / (1 - area)) - reach))), abs=1e-12)
    assert interval.high == pytest.approx(1 / (1 + math.exp(-(math.log(area / (1 - area)) + reach))), abs=1e-12)


def test_auroc_agrees_with_the_bootstrap():
    generator = np.random.default_rng(4)
    members, others = generator.normal(0.5, 1.0, 300), generator.normal(0.0, 1.0, 300)
    areas = []
    for _ in range(2000):
        drawn = generator.choice(members, 300), np.sort(generator.choice(others, 300))
        areas.append((np.searchsorted(drawn[1], drawn[0], "left") + np.searchsorted(drawn[1], drawn[0], "right")).sum())
    low, high = np.quantile(np.array(areas) / (2 * 300 * 300), (0.025, 0.975))
    interval = auroc(members, others, confidence=0.95)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.006)


@pytest.mark.parametrize(("shift", "members", "others"), [(0.0, 50, 50), (0.5, 60, 120), (2.0, 50, 50)])
def test_auroc_covers_and_a_half_as_wide_interval_would_not(shift, members, others):
    generator = np.random.default_rng(5)
    truth, runs, held, held_by_half = stats.norm.cdf(shift / math.sqrt(2)), 1000, 0, 0
    for _ in range(runs):
        interval = auroc(generator.normal(shift, 1, members), generator.normal(0, 1, others), confidence=0.95)
        held += interval.low <= truth <= interval.high
        low, high = ((interval.value + end) / 2 for end in (interval.low, interval.high))
        held_by_half += low <= truth <= high
    assert held / runs > 0.95 - 2.5 * math.sqrt(0.05 * 0.95 / runs)
    assert held_by_half / runs < 0.8


def test_auroc_of_classes_apart_is_no_certainty():
    interval = auroc(np.arange(10) + 100.0, np.arange(20), confidence=0.95)
    assert interval.value == interval.high == 1.0
    assert interval.low == pytest.approx(0.025 ** (1 / 10))
    assert auroc([1.0, 1.0], [1.0, 1.0], confidence=0.95).low < 0.1


@pytest.mark.parametrize("scores", [[1.0], [], [1.0, math.nan], [[1.0, 2.0]]])
def test_auroc_refuses_what_is_no_scores(scores):
    with pytest.raises(InputError):
        auroc(scores, [1.0, 2.0], confidence=0.95)


def test_difference_of_rates_covers():
    counts = [(a, b) for a in range(16) for b in range(26)]
    intervals = [difference_of_rates((a, 15), (b, 25), confidence=0.95) for a, b in counts]
    for first, second in [(0.1, 0.1), (0.5, 0.5), (0.9, 0.5), (0.02, 0.3), (0.99, 0.95), (0.3, 0.6)]:
        chances = [stats.binom.pmf(a, 15, first) * stats.binom.pmf(b, 25, second) for a, b in counts]
        held = [interval.low <= first - second <= interval.high for interval in intervals]
        assert np.dot(chances, held) >= 0.95


def test_difference_is_the_usual_one_for_symmetric_intervals():
    first = Interval(value=5.0, low=2.0, high=8.0, confidence=0.9)
    second = Interval(value=1.0, low=-3.0, high=5.0, confidence=0.9)
    assert difference(first, second) == Interval(value=4.0, low=-1.0, high=9.0, confidence=0.9)
    with pytest.raises(InputError):
        difference(first, Interval(value=1.0, low=0.0, high=2.0, confidence=0.95))


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_checked(confidence):
    with pytest.raises(InputError):
        clopper_pearson(1, 2, confidence=confidence)
    with pytest.raises(InputError):
        auroc([1.0, 2.0], [1.0, 3.0], confidence=confidence)
