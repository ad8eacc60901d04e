"""What an attack by canaries is worth: shown where it must succeed, and where there is nothing to be seen.

The positive control is the same attack on a twin without noise that was really run: if canaries cannot be told from
its releases, that they cannot be told from those of the right twin says nothing. The negative control is the attack on
canaries that take part like all others and add nothing: whoever tells these has read the coins instead of the releases.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.audit.finding import Interval
from privacy.audit.intervals import clopper_pearson, difference
from privacy.audit.mechanism.canaries import CanaryKind
from privacy.audit.mechanism.step_bound import THRESHOLD, bound_of_counts, step_bound
from privacy.audit.verdict import Measure, Shown, violates
from simulations.audit.mechanism.assessment import KIND_SHARES, ViewBound, best_of, compose, surely_below

ADDS_NOTHING = (CanaryKind.ZERO, CanaryKind.NON_FINITE)


class PositiveControl:
    """The attack on the twin without noise, with at most as many canaries of every kind as on the subject.

    Args:
        bound: What was shown of the subject.
        control: What was shown of the same view of the twin without noise.

    Attributes:
        shown: What the verdict is drawn from.
        step: The bound on the noise of one step.
        complete: Whether there are as many canaries of every kind as on the subject.
    """

    def __init__(self, bound: ViewBound, control: ViewBound) -> None:
        self._bound = bound
        # The first ones, whatever they say; not a ratio of them, which would be a control that nobody ran.
        self._scores = {
            kind: (control.scores[kind][0][: len(present)], control.scores[kind][1][: len(absent)])
            for kind, (present, absent) in bound.scores.items()
        }
        families = {
            kind: step_bound(*self._scores[kind], error=bound.error * share, steps=bound.steps)
            for kind, share in KIND_SHARES.items()
        }
        self._best = best_of(families)
        self.step = families[self._best]
        self._rate = min(bound.rate, control.rate)
        self.shown = Shown(
            measure=Measure.SUCCESS_RATE,
            attacked=success(*self._scores[self._best], confidence=bound.confidence),
            baseline=None,
            control=None,
            canaries=max(1, bound.number),
            lower_bound=self._composed(families[self._best].noise),
        )
        self.complete = all(
            len(own) >= len(theirs)
            for kind in KIND_SHARES
            for own, theirs in zip(self._scores[kind], bound.scores[kind], strict=True)
        )

    @property
    def contradicts(self) -> bool:
        """Whether the attack contradicts the claim where there is no noise."""
        return violates(self.shown, self._bound.claim)

    def grows(self, number: int) -> float:
        """The lower bound with so many canaries, if as large a share of them were told as in the control."""
        bound, (present, absent) = self._bound, self._scores[self._best]
        counts: list[int] = []
        for scores, subject in ((present, bound.present), (absent, bound.absent)):
            wanted = round(len(subject) * number / max(1, bound.number))
            counts += [round(wanted * float((scores > THRESHOLD).mean())) if scores.size else 0, wanted]
        error = bound.error * KIND_SHARES[self._best]
        return self._composed(bound_of_counts(*counts, error=error, steps=bound.steps).noise)

    def _composed(self, noise: float) -> float:
        plan, claim = self._bound.plan, self._bound.claim
        if surely_below(plan, claim, noise=noise, rate=self._rate):
            return 0.0
        return compose(plan, claim, noise=noise, rate=self._rate)


def positive_control(bound: ViewBound, controls: Sequence[ViewBound]) -> PositiveControl | None:
    """The positive control of a bound; None where the twin without noise did not show this view.

    Args:
        bound: What was shown of the subject.
        controls: What was shown of the twin without noise.
    """
    found = [control for control in controls if control.name == bound.name]
    return PositiveControl(bound, found[0]) if found else None


def suffices(bounds: Sequence[ViewBound], controls: Sequence[ViewBound]) -> bool:
    """Whether a larger control would change nothing: each contradicts the claim, or has as many canaries as it may.

    Args:
        bounds: What was shown of the subject.
        controls: What was shown of the twin without noise.
    """
    found = [positive_control(bound, controls) for bound in bounds]
    return all(control is None or control.contradicts or control.complete for control in found)


def negative_control(bound: ViewBound) -> Interval:
    """Success of the attack on canaries that took part like all others and added nothing."""
    present, absent = (np.concatenate([bound.scores[kind][part] for kind in ADDS_NOTHING]) for part in (0, 1))
    return success(present, absent, confidence=bound.confidence)


def success(present: NDArray[np.float64], absent: NDArray[np.float64], *, confidence: float) -> Interval:
    """How often a canary is rightly called present or absent, were as many present as absent.

    Args:
        present: float64 [n], scores of canaries that were present, in clip norms.
        absent: float64 [m], scores of canaries that were absent.
        confidence: Of the interval.
    """
    true = clopper_pearson(int((present > THRESHOLD).sum()), len(present), confidence=confidence)
    false = clopper_pearson(int((absent > THRESHOLD).sum()), len(absent), confidence=confidence)
    advantage = difference(true, false)
    low, value, high = ((1.0 + end) / 2.0 for end in (advantage.low, advantage.value, advantage.high))
    return Interval(value=value, low=low, high=high, confidence=confidence)
