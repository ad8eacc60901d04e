"""From what an attack showed to a verdict, by fixed rules.

Violated: the lower bound on epsilon is above the claim; for an attack without one, the low end of its interval is
above the high end of baseline and control by more than the claim allows. Underpowered: not violated, and the same
attack with as many canaries does not show a violation on a twin without privacy either. No verdict: the audit
overlooked something it must catch, or an attack raised. Consistent: otherwise; it never means safe.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from privacy.audit.finding import Claim, Curve, Finding, Interval, Tier, Verdict
from protocol.errors import InputError

_MOST_CANARIES = 10**8


class Measure(StrEnum):
    """What an attack without an epsilon is measured by; more is worse for privacy.

    ``SUCCESS_RATE`` is that of guessing membership where half are members, ``ADVANTAGE`` the true minus the false
    positive rate, and ``HIT_RATE`` the share of targets on whom an attack of any kind succeeds.
    """

    AUROC = "AUROC"
    SUCCESS_RATE = "success rate"
    ADVANTAGE = "advantage"
    HIT_RATE = "hit rate"


_CHANCE = {Measure.AUROC: 0.5, Measure.SUCCESS_RATE: 0.5, Measure.ADVANTAGE: 0.0}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What one attack showed on one subject; fields as in `privacy.audit.finding.Finding`.

    Raises:
        InputError: If there are no canaries, or neither a baseline, a control nor a level of chance to compare with.
    """

    measure: str
    attacked: Interval
    baseline: Interval | None
    control: Interval | None
    canaries: int
    lower_bound: float | None

    def __post_init__(self) -> None:
        if isinstance(self.canaries, bool) or not isinstance(self.canaries, int) or self.canaries < 1:
            raise InputError(f"canaries is {self.canaries!r}, not a positive integer.", remedy="Count them.")
        compared = self.baseline is not None or self.control is not None or self.measure in set(_CHANCE)
        if self.lower_bound is None and not compared:
            raise InputError(f"Nothing is compared with the {self.measure}.", remedy="Give a baseline or a control.")


def allowed(measure: str, claim: Claim | None, reference: float) -> float:
    """The most that a measure may truly be under a claim, where it is ``reference`` without the release.

    Under (epsilon, delta)-privacy an event of chance c without a record has at most the chance
    ``min(exp(epsilon) c + delta, 1 - exp(-epsilon) (1 - delta - c))`` with it. The other measures have their
    maximum on the boundary that this draws (Kairouz, Oh, Viswanath 2015); what it exceeds chance by is added
    to the reference. Without a claim nothing beyond the reference is allowed.

    Args:
        measure: What is measured: a `Measure` wherever there is a claim.
        claim: The claim.
        reference: The measure of the best baseline or control.

    Returns:
        The most that is allowed.

    Raises:
        InputError: If the measure is unknown.

    Example:
        >>> from protocol.terms import Relation
        >>> claim = Claim(epsilon=1.0, delta=1e-5, relation=Relation.ADD_REMOVE)
        >>> round(allowed(Measure.SUCCESS_RATE, claim, 0.5), 4)
        0.7311
    """
    if claim is None:
        return reference
    if measure not in set(Measure):
        raise InputError(f"The measure {measure!r} is unknown.", remedy="Use privacy.audit.verdict.Measure.")
    odds, delta = math.exp(min(claim.epsilon, 700.0)), claim.delta
    if measure == Measure.HIT_RATE:
        return max(reference, min(odds * reference + delta, 1.0 - (1.0 - delta - reference) / odds))
    accuracy = (odds + delta) / (odds + 1.0)
    area = delta + ((1.0 - accuracy) * (delta + accuracy) + (accuracy - delta) * (1.0 + accuracy)) / 2.0
    most = {Measure.AUROC: area, Measure.SUCCESS_RATE: accuracy, Measure.ADVANTAGE: 2.0 * accuracy - 1.0}
    return reference + most[Measure(measure)] - _CHANCE[Measure(measure)]


def of_each(error: float, attacks: int) -> float:
    """Confidence of each of several attacks, such that all together err with a chance of ``error`` at the most.

    The error is shared out evenly, which holds however the attacks depend on each other (Dunn 1961, Bonferroni).

    Args:
        error: Chance that any of them contradicts a claim that holds, in (0, 1).
        attacks: How many are held against the claim, at least 1; as many as there are, whatever they find.

    Returns:
        The confidence, in (0, 1).

    Raises:
        InputError: If a number is out of range.

    Example:
        >>> of_each(0.05, 10)
        0.995
    """
    if not 0.0 < error < 1.0 or attacks < 1:
        raise InputError(f"An error of {error} for {attacks} attacks.", remedy="Share 0.05 among one or more.")
    return 1.0 - error / attacks


def violates(shown: Shown, claim: Claim | None) -> bool:
    """Tells whether what an attack showed contradicts a claim at the confidence of its intervals.

    Args:
        shown: What it showed.
        claim: The claim; where there is none, nothing beyond baseline and control may show.

    Returns:
        Whether it does.
    """
    if claim is not None and shown.lower_bound is not None:
        return shown.lower_bound > claim.epsilon
    return shown.attacked.low > allowed(shown.measure, claim, _reference(shown, lambda interval: interval.high))


def positive_violates(verdict: Verdict, compute: Callable[[], bool]) -> bool:
    """Whether a positive control contradicts the claim: most verdicts tell, without computing it again.

    Args:
        verdict: What was concluded with this control.
        compute: Finds out, where the verdict does not tell.
    """
    if verdict in (Verdict.CONSISTENT, Verdict.UNDERPOWERED):
        return verdict is Verdict.CONSISTENT  # which is what tells the two apart
    return compute()


def needed_canaries(shows: Callable[[int], bool], *, canaries: int) -> int | None:
    """Searches for the least number of canaries with which a positive control would show a violation.

    Args:
        shows: Whether the same attack with the same effect would show one with so many canaries; rising.
        canaries: The number that did not do.

    Returns:
        The number, or None where even a hundred million would not do: the attack is then too weak.

    Example:
        >>> needed_canaries(lambda number: number >= 1234, canaries=50)
        1234
    """
    low, high = canaries, 2 * canaries
    while not shows(high):
        low, high = high, 2 * high
        if high > _MOST_CANARIES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def judge(
    *,
    tier: Tier,
    attack: str,
    subject: str,
    claim: Claim | None,
    shown: Shown,
    positive: Shown | None,
    grows: Callable[[int], float] | None = None,
    missed: Sequence[str] = (),
    ceiling: float | None = None,
    curve: Curve | None = None,
    words: Sequence[str] = (),
    seconds: float,
) -> Finding:
    """Draws the conclusion of one attack.

    Args:
        tier: What was looked at.
        attack: Name of the attack.
        subject: What was attacked.
        claim: The claim.
        shown: What the attack showed on the subject.
        positive: The positive control: the same attack with as many canaries on the twin without privacy. None if
            there was none; without a violation that leaves the audit underpowered.
        grows: From a number of canaries to the lower bound that the positive control would show with them at the
            same effect, e.g. by `privacy.audit.one_run.Guesses.scaled`. Needed only where ``shown`` has a lower
            bound, to tell how many canaries would do; otherwise the intervals tell.
        missed: Broken twins that the audit had to catch and did not.
        ceiling: As in `Finding`.
        curve: As in `Finding`.
        words: Sentences to add to those of the verdict.
        seconds: As in `Finding`.

    Returns:
        The finding.

    Raises:
        InputError: If the positive control is no counterpart of what was shown.
    """
    _check_counterpart(shown, positive)
    verdict, needed = _conclusion(claim, shown, positive, grows, missed=bool(missed))
    measured: dict[str, Any] = {field.name: getattr(shown, field.name) for field in fields(shown)}
    if claim is None:
        measured["lower_bound"] = None
    return Finding(
        tier=tier,
        attack=attack,
        subject=subject,
        claim=claim,
        ceiling=ceiling,
        needed=needed,
        verdict=verdict,
        words=(*_words(verdict, claim, shown, positive, needed, missed), *words),
        curve=curve,
        seconds=seconds,
        **measured,
    )


def failed(
    *, tier: Tier, attack: str, subject: str, claim: Claim | None, measure: str, reason: str, seconds: float
) -> Finding:
    """The finding of an attack that could not be carried out: no verdict, and nothing is known.

    Args:
        tier: What was looked at.
        attack: Name of the attack.
        subject: What was to be attacked.
        claim: The claim.
        measure: What would have been measured.
        reason: Why it failed, as a sentence.
        seconds: Wall-clock time spent.

    Returns:
        The finding, with no canaries and the widest interval.
    """
    return Finding(
        tier=tier,
        attack=attack,
        subject=subject,
        claim=claim,
        lower_bound=None,
        ceiling=None,
        measure=measure,
        attacked=Interval.of_nothing(confidence=0.95),
        baseline=None,
        control=None,
        canaries=0,
        needed=None,
        verdict=Verdict.NO_VERDICT,
        words=(f"The attack could not be carried out, so nothing can be concluded. {reason}",),
        curve=None,
        seconds=seconds,
    )


def _conclusion(
    claim: Claim | None,
    shown: Shown,
    positive: Shown | None,
    grows: Callable[[int], float] | None,
    *,
    missed: bool,
) -> tuple[Verdict, int | None]:
    """The verdict, and how many canaries would do where it is underpowered."""
    if missed:
        return Verdict.NO_VERDICT, None
    if violates(shown, claim):
        return Verdict.VIOLATED, None
    if positive is None or not violates(positive, claim):
        return Verdict.UNDERPOWERED, _needed(positive, claim, grows)
    return Verdict.CONSISTENT, None


def _reference(shown: Shown, end: Callable[[Interval], float]) -> float:
    """The best that is possible without the subject: of baseline and control, or chance where there is neither."""
    ends = [end(interval) for interval in (shown.baseline, shown.control) if interval is not None]
    return max(ends) if ends else _CHANCE[Measure(shown.measure)]


def _check_counterpart(shown: Shown, positive: Shown | None) -> None:
    if positive is None:
        return
    for name in ("measure", "canaries"):
        if getattr(shown, name) != getattr(positive, name):
            raise InputError(
                f"The positive control has {name} {getattr(positive, name)}, not {getattr(shown, name)}.",
                remedy="Run the same attack with as many canaries on the twin without privacy.",
            )
    if (shown.lower_bound is None) != (positive.lower_bound is None):
        raise InputError("Only one of attack and positive control has a lower bound.", remedy="Measure them alike.")


def _needed(positive: Shown | None, claim: Claim | None, grows: Callable[[int], float] | None) -> int | None:
    """The number of canaries at which the positive control would show a violation in the middle run."""
    if positive is None:
        return None
    if claim is not None and positive.lower_bound is not None:
        if grows is None:
            return None
        epsilon, bound = claim.epsilon, grows
        return needed_canaries(lambda number: bound(number) > epsilon, canaries=positive.canaries)
    return needed_canaries(lambda number: _would_show(positive, claim, number), canaries=positive.canaries)


def _would_show(positive: Shown, claim: Claim | None, number: int) -> bool:
    """Whether the intervals, shrunk by the root of the number of canaries, would come apart far enough."""
    shrink = math.sqrt(positive.canaries / number)
    low = positive.attacked.value - shrink * (positive.attacked.value - positive.attacked.low)
    high = _reference(positive, lambda interval: interval.value + shrink * (interval.high - interval.value))
    return low > allowed(positive.measure, claim, high)


def _words(
    verdict: Verdict,
    claim: Claim | None,
    shown: Shown,
    positive: Shown | None,
    needed: int | None,
    missed: Sequence[str],
) -> tuple[str, ...]:
    """The verdict in sentences."""
    sentences = [_claimed(claim), _showed(shown)]
    if verdict is Verdict.VIOLATED:
        sentences.append("That is more than the claim allows: the claim is violated.")
    elif verdict is Verdict.CONSISTENT:
        sentences.append(
            "That does not contradict the claim. The same attack with as many canaries does contradict it on a twin "
            "without privacy, so it could have shown a breach of that size; it cannot show that there is none."
        )
    elif verdict is Verdict.NO_VERDICT:
        sentences.append(
            f"The audit did not catch what it must catch: {', '.join(missed)}. So nothing can be concluded from it."
        )
    elif positive is None:
        sentences.append("No attack on a twin without privacy was made, so it is unknown what this one could show.")
    else:
        sentences.append("The same attack does not contradict the claim on a twin without privacy either.")
        sentences.append(
            "It cannot be told how many canaries would do; a stronger attack may be needed."
            if needed is None
            else f"About {needed:,} canaries would be needed instead of {shown.canaries:,}."
        )
    return tuple(sentences)


def _claimed(claim: Claim | None) -> str:
    if claim is None:
        return "Claimed was nothing; the attack is held against what can be told without the subject."
    return f"Claimed was epsilon {claim.epsilon:.3g} at delta {claim.delta:.0e}."


def _showed(shown: Shown) -> str:
    # As many digits as tell it from certainty: 99.72 % must not read as 100 %.
    confidence = f"{100.0 * shown.attacked.confidence:.4g}% confidence"
    if shown.lower_bound is not None:
        return f"The attack shows an epsilon of at least {shown.lower_bound:.3g} with {confidence}."
    parts = [f"The attack reached {_spoken(shown.attacked)} ({shown.measure}, {confidence})"]
    if shown.baseline is not None:
        parts.append(f"the best guess without it {_spoken(shown.baseline)}")
    if shown.control is not None:
        parts.append(f"the control {_spoken(shown.control)}")
    return ", ".join(parts) + "."


def _spoken(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"
