import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from privacy.audit import one_run
from privacy.audit.finding import Claim, Interval, Tier, Verdict
from privacy.audit.intervals import auroc
from privacy.audit.one_run import Guesses
from privacy.audit.verdict import (
    Measure,
    Shown,
    allowed,
    failed,
    judge,
    needed_canaries,
    of_each,
    positive_violates,
    violates,
)
from protocol.errors import InputError
from protocol.terms import Relation

CLAIM = Claim(epsilon=1.0, delta=1e-5, relation=Relation.ADD_REMOVE)


def around(value, reach):
    return Interval(value=value, low=value - reach, high=value + reach, confidence=0.95)


def measured(attacked, control, canaries=100, measure=Measure.AUROC):
    return Shown(
        measure=measure, attacked=attacked, baseline=None, control=control, canaries=canaries, lower_bound=None
    )


def bounded(lower_bound, canaries=100):
    return replace(measured(around(0.6, 0.05), None, canaries), lower_bound=lower_bound)


def judged(shown, positive, claim=CLAIM, **more):
    return judge(
        tier=Tier.MODEL, attack="loss", subject="twin", claim=claim, shown=shown, positive=positive, seconds=1.0, **more
    )


LOUD, QUIET = bounded(3.0), bounded(0.2)


@pytest.mark.parametrize(
    ("shown", "positive", "missed", "verdict"),
    [
        (bounded(1.1), None, (), Verdict.VIOLATED),
        (bounded(1.1), QUIET, (), Verdict.VIOLATED),
        (bounded(1.0), LOUD, (), Verdict.CONSISTENT),
        (QUIET, LOUD, (), Verdict.CONSISTENT),
        (QUIET, QUIET, (), Verdict.UNDERPOWERED),
        (QUIET, None, (), Verdict.UNDERPOWERED),
        (QUIET, LOUD, ("noise times 0.5",), Verdict.NO_VERDICT),
        (bounded(1.1), LOUD, ("clip missing",), Verdict.NO_VERDICT),
    ],
)
def test_rules_for_lower_bounds(shown, positive, missed, verdict):
    finding = judged(shown, positive, missed=missed)
    assert finding.verdict is verdict
    assert finding.lower_bound == shown.lower_bound
    assert all(name in " ".join(finding.words) for name in missed)


FAR, NEAR, NONE = around(0.95, 0.02), around(0.6, 0.02), around(0.5, 0.02)


@pytest.mark.parametrize(
    ("attacked", "control", "positive", "verdict"),
    [
        (FAR, NONE, None, Verdict.VIOLATED),
        (NEAR, NONE, FAR, Verdict.CONSISTENT),
        (NEAR, NONE, NEAR, Verdict.UNDERPOWERED),
        (FAR, around(0.9, 0.02), FAR, Verdict.UNDERPOWERED),  # the control does as well: that is no leak
    ],
)
def test_rules_for_measures(attacked, control, positive, verdict):
    twin = None if positive is None else measured(positive, control)
    assert judged(measured(attacked, control), twin).verdict is verdict


def test_interval_and_not_its_middle_decides():
    limit = allowed(Measure.AUROC, CLAIM, 0.5)
    assert violates(measured(around(limit + 0.11, 0.1), around(0.5, 0.0)), CLAIM)
    assert not violates(measured(around(limit + 0.09, 0.1), around(0.5, 0.0)), CLAIM)
    assert not violates(measured(around(limit + 0.11, 0.1), around(0.5, 0.02)), CLAIM)


def test_better_of_baseline_and_control_counts():
    shown = measured(around(0.9, 0.01), around(0.5, 0.01))
    assert violates(shown, CLAIM)
    assert not violates(replace(shown, baseline=around(0.8, 0.01)), CLAIM)


def test_without_a_claim_only_baseline_and_control_allow_anything():
    assert violates(measured(around(0.6, 0.02), around(0.5, 0.02)), None)
    assert not violates(measured(around(0.53, 0.02), around(0.5, 0.02)), None)
    assert judged(measured(NEAR, NONE), None, claim=None).lower_bound is None


def slow_maxima(epsilon, delta):
    """The largest AUROC, accuracy and advantage under the boundary of (epsilon, delta)-privacy, by quadrature."""
    false_rate = np.linspace(0.0, 1.0, 200_001)
    true_rate = np.minimum(
        np.minimum(1.0, math.exp(epsilon) * false_rate + delta), 1 - math.exp(-epsilon) * (1 - delta - false_rate)
    )
    true_rate = np.minimum(true_rate, 1.0)
    advantage = (true_rate - false_rate).max()
    return np.trapezoid(true_rate, false_rate), 0.5 + advantage / 2, advantage


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 1e-5), (2.0, 0.1), (8.0, 1e-3)])
def test_what_a_claim_allows_is_the_boundary_of_its_region(epsilon, delta):
    claim = replace(CLAIM, epsilon=epsilon, delta=delta)
    area, accuracy, advantage = slow_maxima(epsilon, delta)
    assert allowed(Measure.AUROC, claim, 0.5) == pytest.approx(area, abs=1e-5)
    assert allowed(Measure.SUCCESS_RATE, claim, 0.5) == pytest.approx(accuracy, abs=1e-5)
    assert allowed(Measure.ADVANTAGE, claim, 0.0) == pytest.approx(advantage, abs=2e-5)
    assert allowed(Measure.ADVANTAGE, None, 0.1) == 0.1


def test_what_a_claim_allows_for_hits_is_the_bound_on_events():
    assert allowed(Measure.HIT_RATE, CLAIM, 0.01) == pytest.approx(math.e * 0.01 + 1e-5)
    assert allowed(Measure.HIT_RATE, CLAIM, 0.9) == pytest.approx(1 - (0.1 - 1e-5) / math.e)
    assert allowed(Measure.HIT_RATE, replace(CLAIM, epsilon=1000.0), 0.01) == 1.0
    with pytest.raises(InputError):
        allowed("loudness", CLAIM, 0.5)


def test_fifty_canaries_are_underpowered_and_the_number_named_would_do():
    # An attack of AUROC near 0.85 against no privacy, for a claim that allows 0.5 + 0.231.
    generator = np.random.default_rng(31)

    def control(canaries):
        attacked = auroc(generator.normal(1.45, 1, canaries), generator.normal(0, 1, canaries), confidence=0.95)
        nothing = auroc(generator.normal(0, 1, canaries), generator.normal(0, 1, canaries), confidence=0.95)
        return measured(attacked, nothing, canaries)

    private = measured(around(0.5, 0.06), NONE, 50)
    finding = judged(private, control(50))
    assert finding.verdict is Verdict.UNDERPOWERED
    assert 100 < finding.needed < 5000
    assert f"{finding.needed:,}" in " ".join(finding.words)
    caught = [violates(control(4 * finding.needed), CLAIM) for _ in range(20)]
    assert sum(caught) >= 15
    few = [violates(control(50), CLAIM) for _ in range(20)]
    assert sum(few) <= 10


def test_needed_canaries_grow_from_the_counts_of_the_positive_control():
    guesses = Guesses(canaries=50, made=50, right=40)

    def grows(canaries):
        return one_run.lower_bound(guesses.scaled(canaries), delta=1e-5, confidence=0.95)

    now = bounded(grows(50), 50)
    assert now.lower_bound < 1.0
    finding = judged(bounded(0.0, 50), now, grows=grows)
    assert finding.verdict is Verdict.UNDERPOWERED
    assert grows(finding.needed) > 1.0 >= grows(finding.needed - 1)


def test_an_attack_too_weak_for_any_number_says_so():
    weak = measured(around(0.6, 0.05), NONE)
    finding = judged(measured(NONE, NONE), weak)
    assert finding.verdict is Verdict.UNDERPOWERED
    assert finding.needed is None
    assert "stronger attack" in " ".join(finding.words)
    assert needed_canaries(lambda number: number > 10**12, canaries=10) is None


@pytest.mark.parametrize("threshold", [51, 52, 100, 101, 12_345])
def test_needed_canaries_is_the_least_number(threshold):
    assert needed_canaries(partial(lambda least, number: number >= least, threshold), canaries=50) == threshold


def test_positive_control_must_be_a_counterpart():
    with pytest.raises(InputError):
        judged(QUIET, bounded(3.0, canaries=1000))
    with pytest.raises(InputError):
        judged(QUIET, measured(FAR, NONE))
    with pytest.raises(InputError):
        judged(measured(NEAR, NONE), measured(FAR, NONE, measure=Measure.ADVANTAGE))


def test_shown_needs_something_to_compare_with():
    with pytest.raises(InputError):
        measured(NEAR, None, measure=Measure.HIT_RATE)
    with pytest.raises(InputError):
        measured(NEAR, NONE, canaries=0)
    assert violates(measured(FAR, None), CLAIM)


def test_failed_attack_gives_no_verdict_and_its_reason():
    finding = failed(
        tier=Tier.RELEASE, attack="a", subject="s", claim=CLAIM, measure="AUROC", reason="It raised.", seconds=0.1
    )
    assert finding.verdict is Verdict.NO_VERDICT
    assert finding.words[0].endswith("It raised.")
    assert (finding.attacked.low, finding.attacked.high, finding.canaries) == (0.0, 1.0, 0)


def test_no_words_call_anything_safe():
    for shown, positive, missed in [(LOUD, None, ()), (QUIET, LOUD, ()), (QUIET, QUIET, ()), (QUIET, LOUD, ("x",))]:
        assert "safe" not in " ".join(judged(shown, positive, missed=missed).words).lower()


def test_attacks_share_an_error():
    assert of_each(0.05, 1) == 0.95
    assert 7 * (1.0 - of_each(0.05, 7)) == pytest.approx(0.05)
    for wrong in ((0.0, 1), (1.0, 1), (0.05, 0)):
        with pytest.raises(InputError):
            of_each(*wrong)


def test_a_high_confidence_does_not_read_as_certainty():
    shown = measured(Interval(value=0.7, low=0.6, high=0.8, confidence=of_each(0.025, 9)), None)
    assert "99.72% confidence" in " ".join(judged(shown, None).words)


@pytest.mark.parametrize("computed", [True, False])
def test_what_the_verdict_tells_of_a_positive_control(computed):
    """Against the rule that drew it."""
    pairs = [(QUIET, LOUD), (QUIET, QUIET), (LOUD, LOUD)]
    for shown, positive in pairs[:2]:
        verdict = judged(shown, positive).verdict
        assert positive_violates(verdict, lambda: computed) is violates(positive, CLAIM)
    assert positive_violates(judged(*pairs[2]).verdict, lambda: computed) is computed
