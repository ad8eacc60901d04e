"""The receiver operating characteristic of an attack that scores records: the higher, the likelier a member."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privacy.audit.finding import Curve, Interval
from privacy.audit.intervals import clopper_pearson, scores_of
from protocol.errors import InputError

_MOST_POINTS = 2000


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """One threshold of an attack.

    Attributes:
        threshold: Records that score above it are called members.
        true_positive_rate: Share of members called members.
        false_positive_rate: Share of non-members called members.
    """

    threshold: float
    true_positive_rate: Interval
    false_positive_rate: Interval


def curve(member_scores: ArrayLike, non_member_scores: ArrayLike, *, most_points: int = _MOST_POINTS) -> Curve:
    """Draws the characteristic: one point per distinct score, so that ties are slanted and order plays no part.

    Args:
        member_scores: Scores of members, shape (members,), finite.
        non_member_scores: Scores of non-members, shape (non-members,), finite.
        most_points: Corners beyond this number are thinned evenly on a logarithmic scale of ranks, which keeps
            those at low false positive rates; at least 3.

    Returns:
        The curve from (0, 0) to (1, 1).

    Raises:
        InputError: If there is no score, or one is not finite.

    Example:
        >>> curve([2.0, 1.0], [1.0, 0.0]).true_positive_rate
        (0.0, 0.5, 1.0, 1.0)
    """
    members, others = scores_of(member_scores), scores_of(non_member_scores)
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    true_rate = np.concatenate([[0.0], _reaching(members, thresholds) / members.size])
    false_rate = np.concatenate([[0.0], _reaching(others, thresholds) / others.size])
    kept = _thinned(_corners(false_rate, true_rate), max(3, most_points))
    return Curve(
        false_positive_rate=tuple(map(float, false_rate[kept])), true_positive_rate=tuple(map(float, true_rate[kept]))
    )


def at_false_positive_rate(
    member_scores: ArrayLike, non_member_scores: ArrayLike, *, rate: float, confidence: float
) -> OperatingPoint:
    """The true positive rate at a fixed false positive rate.

    The threshold is the lowest one that at most ``rate`` of the non-members pass; members have no say in it, so
    the interval of the true positive rate is exact for this threshold. The interval of the false positive rate
    is exact too where non-members do not tie: the threshold is then a rank fixed beforehand.

    Args:
        member_scores: Scores of members, shape (members,), finite.
        non_member_scores: Scores of non-members, shape (non-members,), finite.
        rate: Largest false positive rate, in [0, 1).
        confidence: Confidence of each interval, in (0, 1).

    Returns:
        The threshold with both rates.

    Raises:
        InputError: If an argument is out of range, or a score is not finite.
    """
    members, others = scores_of(member_scores), np.sort(scores_of(non_member_scores))[::-1]
    if not 0.0 <= rate < 1.0:
        raise InputError(f"rate is {rate}, not in [0, 1).", remedy="Use 0.01, for example.")
    threshold = float(others[int(np.floor(rate * others.size + 1e-9))])
    return OperatingPoint(
        threshold=threshold,
        true_positive_rate=_passing(members, threshold, confidence),
        false_positive_rate=_passing(others, threshold, confidence),
    )


def _passing(scores: NDArray[np.float64], threshold: float, confidence: float) -> Interval:
    return clopper_pearson(int((scores > threshold).sum()), scores.size, confidence=confidence)


def _reaching(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Number of ``scores`` (records,) at or above each of ``thresholds`` (thresholds,)."""
    return (scores.size - np.searchsorted(np.sort(scores), thresholds, side="left")).astype(np.float64)


def _corners(false_rate: NDArray[np.float64], true_rate: NDArray[np.float64]) -> NDArray[np.intp]:
    """Points (kept,) at which the curve turns; those inside a straight piece draw nothing."""
    rises, runs = np.diff(true_rate), np.diff(false_rate)
    turns = ~np.isclose(rises[:-1] * runs[1:], rises[1:] * runs[:-1], rtol=1e-12, atol=0.0)
    return np.flatnonzero(np.concatenate([[True], turns, [True]]))


def _thinned(corners: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    if corners.size <= most:
        return corners
    ranks = np.unique(np.geomspace(1, corners.size, most).round().astype(np.intp)) - 1
    return corners[ranks]
