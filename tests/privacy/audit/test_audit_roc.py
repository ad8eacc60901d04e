import numpy as np
import pytest

from privacy.audit import roc
from protocol.errors import InputError


def slow_point(members, others, threshold):
    return (
        sum(score >= threshold for score in others) / len(others),
        sum(score >= threshold for score in members) / len(members),
    )


def test_four_records_by_hand():
    drawn = roc.curve([0.9, 0.4], [0.6, 0.1])
    assert drawn.false_positive_rate == (0.0, 0.0, 0.5, 0.5, 1.0)
    assert drawn.true_positive_rate == (0.0, 0.5, 0.5, 1.0, 1.0)


def test_every_corner_is_a_threshold_and_the_area_is_the_auroc():
    generator = np.random.default_rng(1)
    members, others = np.round(generator.normal(1, 1, 60), 1), np.round(generator.normal(0, 1, 80), 1)
    drawn = roc.curve(members, others)
    possible = {(0.0, 0.0)} | {slow_point(members, others, threshold) for threshold in {*members, *others}}
    points = list(zip(drawn.false_positive_rate, drawn.true_positive_rate, strict=True))
    assert set(points) <= possible
    area = np.trapezoid(drawn.true_positive_rate, drawn.false_positive_rate)
    pairs = np.mean([(x > y) + 0.5 * (x == y) for x in members for y in others])
    assert area == pytest.approx(pairs, abs=1e-12)


def test_order_and_ties_play_no_part():
    generator = np.random.default_rng(2)
    members, others = generator.integers(0, 4, 40), generator.integers(0, 4, 40)
    shuffled = roc.curve(generator.permutation(members), generator.permutation(others))
    assert roc.curve(members, others) == shuffled
    assert roc.curve(np.ones(5), np.ones(9)).true_positive_rate == (0.0, 1.0)


def test_thinning_keeps_the_ends_and_the_low_rates():
    generator = np.random.default_rng(3)
    members, others = generator.normal(1, 1, 5000), generator.normal(0, 1, 5000)
    whole, thinned = roc.curve(members, others, most_points=10**6), roc.curve(members, others, most_points=200)
    assert len(thinned.true_positive_rate) <= 200 < len(whole.true_positive_rate)
    assert thinned.true_positive_rate[:5] == whole.true_positive_rate[:5]
    assert (thinned.true_positive_rate[-1], thinned.false_positive_rate[-1]) == (1.0, 1.0)


def test_rate_at_a_fixed_false_positive_rate():
    members, others = np.arange(0, 1000, 2), np.arange(-500, 500)
    point = roc.at_false_positive_rate(members, others, rate=0.05, confidence=0.95)
    assert point.threshold == 449
    assert point.false_positive_rate.value == 0.05
    assert point.true_positive_rate.value == 0.55
    assert point.true_positive_rate.low < 0.55 < point.true_positive_rate.high


def test_rate_is_kept_where_scores_tie():
    others = np.array([1.0] * 50 + [0.0] * 50)
    point = roc.at_false_positive_rate([1.0, 2.0], others, rate=0.1, confidence=0.95)
    assert (point.threshold, point.false_positive_rate.value, point.true_positive_rate.value) == (1.0, 0.0, 0.5)


def test_impossible_rate_or_score_is_refused():
    with pytest.raises(InputError):
        roc.at_false_positive_rate([1.0], [0.0], rate=1.0, confidence=0.95)
    with pytest.raises(InputError):
        roc.curve([], [1.0])
    with pytest.raises(InputError):
        roc.curve([np.inf], [1.0])
