"""What one attack on a release came to: success on members, on controls, and without the release."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.audit.finding import Curve, Interval
from privacy.audit.intervals import auroc, clopper_pearson
from privacy.audit.release.paired import PairedScores
from privacy.audit.release.tables import Floats
from privacy.audit.roc import curve
from privacy.audit.verdict import Measure
from protocol.errors import InputError

Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """One attack on one release.

    Attributes:
        attack: Name of the attack.
        measure: What the intervals measure.
        attacked: Success on members.
        baseline: Success of the best guess without the release.
        control: Success on records that were in nothing; for attacks that score records, a calibration on those alone.
        risk: What the release adds, ``(attacked - control) / (1 - control)``; None where success is no rate.
        scores: How much the attack suspects each target.
        curve: Receiver operating characteristic, where the attack scores records.
        words: What a reader must know, as sentences.
        independent: Whether single successes are independent of each other, as the intervals take them to be. Where
            they are not, only what is proved by the scores counts.
    """

    attack: str
    measure: Measure
    attacked: Interval
    baseline: Interval
    control: Interval
    risk: Interval | None
    scores: PairedScores
    curve: Curve | None
    words: tuple[str, ...]
    independent: bool = True


def score_attempt(
    attack: str, members: Floats, controls: Floats, *, blind: tuple[Floats, Floats], confidence: float, words: str
) -> Attempt:
    """An attack that scores records.

    What stands for a control is a calibration: one half of the controls is taken for members and the other half for
    controls. It shows how far chance goes with as many records; no defect of the attack can show there, because there
    is nothing to tell the halves apart by. The control of the audit is the holdout itself.

    Args:
        attack: Name of the attack.
        members: Scores of the members, float64 [t].
        controls: Scores of the controls, float64 [t].
        blind: Scores of the members and the controls by the same attack without the release, float64 [t] each.
        confidence: Confidence of the intervals.
        words: What a reader must know.

    Returns:
        The attempt.

    Raises:
        InputError: There are fewer than four pairs, or a score is not finite.
    """
    half = len(controls) // 2
    return Attempt(
        attack=attack,
        measure=Measure.AUROC,
        attacked=auroc(members, controls, confidence=confidence),
        baseline=auroc(*blind, confidence=confidence),
        control=auroc(controls[:half], controls[half:], confidence=confidence),
        risk=None,
        scores=PairedScores(members=members, controls=controls),
        curve=curve(members, controls),
        words=(words,),
    )


def success_attempt(
    attack: str, members: Hits, controls: Hits, *, blind: Hits, confidence: float, words: tuple[str, ...]
) -> Attempt:
    """An attack that succeeds or fails with each target.

    Args:
        attack: Name of the attack.
        members: Whether it succeeded with each member, bool [t].
        controls: The same for the controls, bool [t].
        blind: The same for guesses without the release, bool [any].
        confidence: Confidence of the intervals.
        words: What a reader must know.

    Returns:
        The attempt.
    """
    counts = [(int(hits.sum()), hits.size) for hits in (members, controls, blind)]
    attacked, control, baseline = (clopper_pearson(*count, confidence=confidence) for count in counts)
    return Attempt(
        attack=attack,
        measure=Measure.HIT_RATE,
        attacked=attacked,
        baseline=baseline,
        control=control,
        risk=risk(counts[0], counts[1], confidence=confidence),
        scores=PairedScores(members=members.astype(np.float64), controls=controls.astype(np.float64)),
        curve=None,
        words=words,
    )


def risk(attacked: tuple[int, int], control: tuple[int, int], *, confidence: float) -> Interval:
    """What an attack gains on members beyond what it gets on anybody, as a share of what is left to gain.

    ``(attacked - control) / (1 - control)`` (Giomi, Boenisch, Wehmeyer, Tasnadi 2023): one less the ratio of
    the two rates of failure. The interval of a ratio comes from exact intervals of the logarithms of both, by the
    method of variance estimates recovery (Zou, Donner 2008); where a rate of failure is 0, from exact limits of each
    rate at half of the error. It is cut at -1; where the control always succeeds nothing is left to gain, and the
    risk is 0.

    Args:
        attacked: Successes and trials on members.
        control: Successes and trials on controls.
        confidence: Confidence of the interval.

    Returns:
        The interval.

    Raises:
        InputError: If a number is out of range.

    Example:
        >>> round(risk((60, 100), (20, 100), confidence=0.95).value, 6)
        0.5
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}, not in (0, 1).", remedy="Use 0.95, for example.")
    if min(attacked[1] - attacked[0], control[1] - control[0]) > 0:
        return _of_logarithms(*(clopper_pearson(*count, confidence=confidence) for count in (attacked, control)))
    each = 1.0 - (1.0 - confidence) / 2.0
    first, second = (clopper_pearson(*count, confidence=each) for count in (attacked, control))
    value = 0.0 if second.value == 1.0 else _gain(first.value, second.value)
    return Interval(
        value=value,
        low=min(value, _gain(first.low, second.high)),
        high=max(value, _gain(first.high, second.low)),
        confidence=confidence,
    )


def _of_logarithms(first: Interval, second: Interval) -> Interval:
    """One less the ratio of failures, both above zero; a limit of zero has the logarithm minus infinity."""
    ratio = (1.0 - first.value) / (1.0 - second.value)
    fewer = math.hypot(
        _logarithm(1.0 - first.value, 1.0 - first.high), _logarithm(1.0 - second.low, 1.0 - second.value)
    )
    more = math.hypot(_logarithm(1.0 - first.low, 1.0 - first.value), _logarithm(1.0 - second.value, 1.0 - second.high))
    value = max(-1.0, 1.0 - ratio)
    return Interval(
        value=value,
        low=min(value, max(-1.0, 1.0 - ratio * math.exp(min(more, 700.0)))),
        high=max(value, 1.0 - ratio * math.exp(-fewer)),
        confidence=first.confidence,
    )


def _logarithm(more: float, less: float) -> float:
    """Of the ratio of a number above zero to one from zero on."""
    return math.log(more / less) if less > 0.0 else math.inf


def _gain(attacked: float, control: float) -> float:
    return -1.0 if control >= 1.0 else max(-1.0, (attacked - control) / (1.0 - control))
