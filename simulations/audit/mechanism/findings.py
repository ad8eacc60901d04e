"""What an audit of a mechanism found, as findings."""

from collections.abc import Iterator, Sequence

import numpy as np

from privacy.audit.finding import Claim, Curve, Finding, Interval, Tier, Verdict
from privacy.audit.intervals import clopper_pearson
from privacy.audit.mechanism.residuals import Property, noise_size
from privacy.audit.roc import curve
from privacy.audit.verdict import Measure, Shown, failed, judge
from protocol.study import Study
from simulations.audit.mechanism.assessment import Assessment, ViewBound, measured_rate, own_noise
from simulations.audit.mechanism.control import negative_control, positive_control, success
from simulations.audit.mechanism.evidence import Evidence
from simulations.audit.mechanism.wording import (
    Result,
    bound_words,
    control_words,
    mutant_words,
    rate_words,
    residual_words,
    unseen_words,
)

BOUND_ATTACK = "canaries in single steps, composed"
_CONFIDENCE = 0.95
_CURVE_SCORES = 20_000
_GROUPS: tuple[tuple[str, str, tuple[Property, ...]], ...] = (
    (
        "size and shape of the noise",
        "measured over planned noise",
        (Property.SCALE, Property.CENTRE, Property.SHAPE, Property.LATTICE),
    ),
    ("independence of the noise", "correlation of successive contributions", (Property.FRESH, Property.SEPARATE)),
    ("sampler", "measured sample rate", (Property.RATE, Property.SIZES, Property.TURNS, Property.MEMORY)),
    (
        "contribution of one unit",
        "largest move of the exact sum, in clip norms",
        (Property.CANARY, Property.BOUND, Property.ALONE),
    ),
    ("what leaves, and who pays", "share of what left that ledgers hold", (Property.DERIVED, Property.PAID)),
)


def bound_findings(
    assessment: Assessment, study: Study, *, controls: Sequence[ViewBound] = (), missed: Sequence[str], seconds: float
) -> Iterator[Finding]:
    """One finding for each thing that an opponent may see.

    Args:
        assessment: What was concluded.
        study: The study.
        controls: What canaries showed of the twin without noise; without them no bound has a power that is known.
        missed: Broken twins that were not caught.
        seconds: Wall time.
    """
    for bound in assessment.bounds:
        positive = positive_control(bound, controls)
        yield judge(
            tier=Tier.MECHANISM,
            attack=BOUND_ATTACK,
            subject=f"{study.name}: {bound.name}",
            claim=bound.claim,
            shown=_shown(bound),
            positive=None if positive is None else positive.shown,
            grows=None if positive is None else positive.grows,
            missed=missed,
            ceiling=bound.ceiling,
            curve=_curve(bound),
            words=(
                *bound_words(bound),
                *control_words(positive),
                *unseen_words(assessment.unseen, study),
                *rate_words(study),
            ),
            seconds=seconds,
        )


def residual_findings(
    evidence: Evidence, assessment: Assessment, study: Study, claim: Claim, *, missed: Sequence[str], seconds: float
) -> Iterator[Finding]:
    """One finding for each group of properties."""
    measured = (
        noise_size(np.concatenate([noise.ravel() for noise in own_noise(evidence)]), error=1.0 - _CONFIDENCE),
        _correlation(evidence),
        measured_rate(evidence, study, error=1.0 - _CONFIDENCE),
        Interval(
            value=evidence.largest_move, low=evidence.largest_move, high=evidence.largest_move, confidence=_CONFIDENCE
        ),
        clopper_pearson(evidence.paid, evidence.left, confidence=_CONFIDENCE),
    )
    for (attack, measure, properties), attacked in zip(_GROUPS, measured, strict=True):
        checks = [check for check in assessment.checks if check.what in properties]
        broken = [check for check in assessment.failed if check.what in properties]
        verdict = Verdict.VIOLATED if broken else Verdict.CONSISTENT
        yield Finding(
            tier=Tier.MECHANISM,
            attack=attack,
            subject=study.name,
            claim=claim,
            lower_bound=None,
            ceiling=None,
            measure=measure,
            attacked=attacked,
            baseline=None,
            control=None,
            canaries=max(1, len(evidence.canaries)),
            needed=None,
            verdict=Verdict.NO_VERDICT if missed else verdict,
            words=(*residual_words(checks, broken, missed), *_also(properties, assessment, study)),
            curve=None,
            seconds=seconds,
        )


def mutant_finding(caught: Sequence[Result], study: Study, claim: Claim) -> Finding:
    """The finding about the broken twins: which test caught which."""
    found = sum(bool(each.tests) for each in caught)
    return Finding(
        tier=Tier.MECHANISM,
        attack="the same audit on broken twins",
        subject=study.name,
        claim=claim,
        lower_bound=None,
        ceiling=None,
        measure="share of broken twins caught",
        attacked=clopper_pearson(found, len(caught), confidence=_CONFIDENCE),
        baseline=None,
        control=None,
        canaries=len(caught),
        needed=None,
        verdict=Verdict.CONSISTENT if caught and found == len(caught) else Verdict.NO_VERDICT,
        words=(*mutant_words(caught), *rate_words(study)),
        curve=None,
        seconds=sum(each.seconds for each in caught),
    )


def broken_off(study: Study, claim: Claim, *, reason: str, seconds: float) -> Finding:
    """The finding of an audit that could not be carried to its end."""
    return failed(
        tier=Tier.MECHANISM,
        attack=BOUND_ATTACK,
        subject=study.name,
        claim=claim,
        measure=Measure.SUCCESS_RATE,
        reason=reason,
        seconds=seconds,
    )


def _shown(bound: ViewBound) -> Shown:
    return Shown(
        measure=Measure.SUCCESS_RATE,
        attacked=success(bound.present, bound.absent, confidence=bound.confidence),
        baseline=Interval(value=0.5, low=0.5, high=0.5, confidence=bound.confidence),
        control=negative_control(bound),
        canaries=max(1, bound.number),
        lower_bound=bound.lower_bound,
    )


def _also(properties: Sequence[Property], assessment: Assessment, study: Study) -> Iterator[str]:
    """What a reader of a group of properties has to know beside the tests."""
    if Property.DERIVED in properties:
        yield from unseen_words(assessment.unseen, study)
    if Property.SCALE in properties:
        yield from rate_words(study)


def _curve(bound: ViewBound) -> Curve | None:
    present, absent = bound.present[:_CURVE_SCORES], bound.absent[:_CURVE_SCORES]
    if not present.size or not absent.size or not (np.isfinite(present).all() and np.isfinite(absent).all()):
        return None
    return curve(present, absent, most_points=200)


def _correlation(evidence: Evidence) -> Interval:
    """Correlation of each contribution's noise with that of the round before, at all sites."""
    products = [(noise[1:] * noise[:-1]).ravel() for noise in own_noise(evidence)]
    joined = np.concatenate(products)
    reach = 1.96 / max(1, joined.size) ** 0.5
    value = float(joined.mean()) if joined.size else 0.0
    return Interval(value=value, low=value - reach, high=value + reach, confidence=_CONFIDENCE)
