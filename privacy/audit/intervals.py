"""Confidence intervals of rates, of areas under the curve and of differences."""

import math
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.stats import rankdata

from privacy.audit.finding import Interval
from protocol.errors import InputError


class Side(StrEnum):
    """Which end of an interval is uncertain: both share the error, or one has it all."""

    BOTH = "both"
    LOWER = "lower"
    UPPER = "upper"


def clopper_pearson(successes: int, trials: int, *, confidence: float, side: Side = Side.BOTH) -> Interval:
    """The exact interval of a rate: it holds the truth at least as often as it says, for any number of trials.

    Args:
        successes: Number of successes.
        trials: Number of independent trials; none leaves the whole range from 0 to 1.
        confidence: Confidence, in (0, 1).
        side: ``LOWER`` gives a lower bound, with an upper end of 1, and ``UPPER`` the reverse.

    Returns:
        The interval.

    Raises:
        InputError: If a number is out of range.

    Source: Clopper, Pearson 1934.

    Example:
        >>> interval = clopper_pearson(8, 10, confidence=0.95)
        >>> round(interval.low, 4), round(interval.high, 4)
        (0.4439, 0.9748)
    """
    if not 0 <= successes <= trials:
        raise InputError(f"{successes} successes in {trials} trials.", remedy="Count again.")
    error = significance(confidence) / (2.0 if side is Side.BOTH else 1.0)
    if trials == 0:
        return Interval.of_nothing(confidence=confidence)
    low = lower_limit(successes, trials, error=error) if side is not Side.UPPER else 0.0
    high = upper_limit(successes, trials, error=error) if side is not Side.LOWER else 1.0
    return Interval(value=successes / trials, low=low, high=high, confidence=confidence)


def lower_limit(successes: int, trials: int, *, error: float) -> float:
    """The rate under which as many successes would have a chance of ``error``; 0 for no success."""
    return float(special.betaincinv(successes, trials - successes + 1, error)) if successes else 0.0


def upper_limit(successes: int, trials: int, *, error: float) -> float:
    """The rate under which as few successes would have a chance of ``error``; 1 for no failure."""
    if successes == trials:
        return 1.0
    return 1.0 - float(special.betaincinv(trials - successes, successes + 1, error))


def auroc(member_scores: ArrayLike, non_member_scores: ArrayLike, *, confidence: float) -> Interval:
    """The area under the receiver operating characteristic: how often a member outscores a non-member.

    Ties count half. The variance is that of DeLong, DeLong, Clarke-Pearson 1988 (computed from midranks as in Sun,
    Xu 2014); the interval is symmetric on the logit scale, where it stays inside (0, 1) and covers better near
    the ends (Qin, Hotilovac 2008). Where the classes do not overlap that variance is zero; the interval then comes
    from disjoint pairs of a member and a non-member, which are independent trials of the same rate.

    Args:
        member_scores: Scores of members, shape (members,), at least two, finite, independent.
        non_member_scores: Scores of non-members, shape (non-members,), at least two, finite, independent.
        confidence: Confidence, in (0, 1).

    Returns:
        The interval.

    Raises:
        InputError: If there are too few scores, or one is not finite.

    Example:
        >>> auroc([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], confidence=0.95).value
        0.7777777777777778
    """
    members, non_members = scores_of(member_scores), scores_of(non_member_scores)
    if min(members.size, non_members.size) < 2:
        raise InputError("There are fewer than two scores of a kind.", remedy="Attack more records.")
    above, below = _placements(members, non_members)
    area = float(above.mean())
    deviation = math.sqrt(float(above.var(ddof=1)) / members.size + float(below.var(ddof=1)) / non_members.size)
    if deviation == 0.0 or not 0.0 < area < 1.0:
        return _of_pairs(area, min(members.size, non_members.size), confidence)
    reach = _normal_quantile(confidence) * deviation / (area * (1.0 - area))
    middle = float(special.logit(area))
    low, high = (float(special.expit(middle + sign * reach)) for sign in (-1.0, 1.0))
    return Interval(value=area, low=min(low, area), high=max(high, area), confidence=confidence)


def difference_of_rates(first: tuple[int, int], second: tuple[int, int], *, confidence: float) -> Interval:
    """The difference of two rates from independent trials.

    Newcombe 1998, method 10, with Clopper-Pearson in place of Wilson limits, so that it errs on the wide side.

    Args:
        first: Successes and trials of the rate to subtract from.
        second: Successes and trials of the rate to subtract.
        confidence: Confidence, in (0, 1).

    Returns:
        The interval, inside [-1, 1].

    Raises:
        InputError: If a number is out of range.

    Example:
        >>> round(difference_of_rates((56, 70), (48, 80), confidence=0.95).low, 3)
        0.044
    """
    return difference(clopper_pearson(*first, confidence=confidence), clopper_pearson(*second, confidence=confidence))


def difference(first: Interval, second: Interval) -> Interval:
    """The difference of two independently estimated numbers, by the method of variance estimates recovery.

    Source: Zou, Donner 2008.

    Args:
        first: Interval of the number to subtract from.
        second: Interval of the number to subtract, of the same confidence.

    Returns:
        The interval.

    Raises:
        InputError: If the confidences differ.
    """
    if first.confidence != second.confidence:
        raise InputError(f"confidence is {first.confidence} and {second.confidence}.", remedy="Use one for both.")
    value = first.value - second.value
    return Interval(
        value=value,
        low=value - math.hypot(first.value - first.low, second.high - second.value),
        high=value + math.hypot(first.high - first.value, second.value - second.low),
        confidence=first.confidence,
    )


def significance(confidence: float) -> float:
    """One minus a confidence, which is checked to be in (0, 1); raises InputError."""
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}, not in (0, 1).", remedy="Use 0.95, for example.")
    return 1.0 - confidence


def scores_of(scores: ArrayLike) -> NDArray[np.float64]:
    """Checks scores: one dimension, at least one, finite; raises InputError."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise InputError(f"Scores of shape {values.shape} are not all finite.", remedy="Give finite scores in a row.")
    return values


def _placements(members: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Share of non-members below each member, and of members above each non-member; ties count half."""
    ranks = rankdata(np.concatenate([members, others]))
    above = (ranks[: members.size] - rankdata(members)) / others.size
    below = 1.0 - (ranks[members.size :] - rankdata(others)) / members.size
    return above, below


def _of_pairs(area: float, pairs: int, confidence: float) -> Interval:
    limits = clopper_pearson(round(area * pairs), pairs, confidence=confidence)
    return Interval(value=area, low=min(limits.low, area), high=max(limits.high, area), confidence=confidence)


def _normal_quantile(confidence: float) -> float:
    return float(special.ndtri(1.0 - significance(confidence) / 2.0))
