r"""A lower bound on epsilon from how often members and non-members are called members.

Under (epsilon, delta)-privacy of add/remove every test obeys, in both directions,

    TPR <= exp(epsilon) FPR + delta        and        1 - FPR <= exp(epsilon) (1 - TPR) + delta

(Kairouz, Oh, Viswanath 2015, theorem 2.1), so rates refute an epsilon. Rates are known up to their intervals:
TPR from below and FPR from above, each with half of the error (Jagielski, Ullman, Oprea 2020). Both directions
rest on the same two intervals, so looking at both costs nothing.

The trials must be independent: each score from a run of its own, or from directions that do not disturb one
another. Scores of one training run are not; for these there are `privacy.audit.one_run` and `privacy.audit.f_dp`.

Which threshold? Looking at all of them and keeping the best breaks the confidence. Three honest ways:

- `at_threshold`: known beforehand. Costs nothing.
- `held_out`: one part of the scores chooses, the rest decides. Costs that part of the trials.
- `over_ranks`: a few thresholds, each held to a smaller error (proof there). Costs a factor of about
  twice log2 of the number of trials in the error, which for exact intervals is a small loss.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privacy.audit.intervals import lower_limit, scores_of, significance, upper_limit
from protocol.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RateBound:
    """A lower bound on epsilon and the threshold that gave it.

    Attributes:
        epsilon: The bound, at least 0.
        threshold: Scores above it are called members.
        true_positive_rate: Lower bound on the rate of members called members.
        false_positive_rate: Upper bound on the rate of non-members called members.
    """

    epsilon: float
    threshold: float
    true_positive_rate: float
    false_positive_rate: float


def epsilon_of_rates(true_positive_rate: float, false_positive_rate: float, *, delta: float) -> float:
    """The least epsilon that allows a pair of rates at a delta, over both directions of add/remove.

    Args:
        true_positive_rate: Rate of members called members, in [0, 1].
        false_positive_rate: Rate of non-members called members, in [0, 1].
        delta: Delta, in [0, 1).

    Returns:
        Epsilon, at least 0; infinite where no epsilon does.

    Raises:
        InputError: If a number is out of range.

    Example:
        >>> round(epsilon_of_rates(0.75, 0.25, delta=0.0), 4)
        1.0986
    """
    if not (0.0 <= true_positive_rate <= 1.0 and 0.0 <= false_positive_rate <= 1.0 and 0.0 <= delta < 1.0):
        raise InputError(
            f"Rates {true_positive_rate}, {false_positive_rate} or delta {delta} are out of range.",
            remedy="Give rates in [0, 1] and a delta below 1.",
        )
    forward = _log_ratio(true_positive_rate - delta, false_positive_rate)
    backward = _log_ratio(1.0 - false_positive_rate - delta, 1.0 - true_positive_rate)
    return max(0.0, forward, backward)


def from_counts(
    true_positives: int, members: int, false_positives: int, non_members: int, *, delta: float, confidence: float
) -> float:
    """Bounds epsilon from below by the counts at one threshold that was fixed beforehand.

    Args:
        true_positives: Members called members.
        members: Members tried.
        false_positives: Non-members called members.
        non_members: Non-members tried.
        delta: Delta, in [0, 1).
        confidence: Confidence of the bound, in (0, 1).

    Returns:
        The bound, at least 0 and finite.

    Raises:
        InputError: If a number is out of range.

    Example:
        >>> round(from_counts(900, 1000, 100, 1000, delta=1e-5, confidence=0.95), 2)
        1.99
    """
    if not (0 <= true_positives <= members and 0 <= false_positives <= non_members and members and non_members):
        raise InputError("Counts are out of range, or nothing was tried.", remedy="Count again.")
    counts = (true_positives, members, false_positives, non_members)
    return _bound(counts, math.nan, delta=delta, error=significance(confidence)).epsilon


def at_threshold(
    member_scores: ArrayLike, non_member_scores: ArrayLike, *, threshold: float, delta: float, confidence: float
) -> RateBound:
    """Bounds epsilon from below with a threshold that was fixed without looking at these scores.

    Args:
        member_scores: Scores of members, shape (members,), independent.
        non_member_scores: Scores of non-members, shape (non-members,), independent.
        threshold: Scores above it are called members.
        delta: Delta, in [0, 1).
        confidence: Confidence of the bound, in (0, 1).

    Returns:
        The bound.

    Raises:
        InputError: If an argument is out of range.
    """
    members, others = scores_of(member_scores), scores_of(non_member_scores)
    return _bound(_counts(members, others, threshold), threshold, delta=delta, error=significance(confidence))


def held_out(
    member_scores: ArrayLike,
    non_member_scores: ArrayLike,
    *,
    delta: float,
    confidence: float,
    generator: np.random.Generator,
    share: float = 0.5,
) -> RateBound:
    """Lets a random part of the scores choose the threshold and bounds epsilon by the rest.

    The rest knows nothing of the choice, so the bound holds as for a threshold fixed beforehand.

    Args:
        member_scores: Scores of members, shape (members,), independent, at least two.
        non_member_scores: Scores of non-members, shape (non-members,), independent, at least two.
        delta: Delta, in [0, 1).
        confidence: Confidence of the bound, in (0, 1).
        generator: Where the parts are drawn from.
        share: Share of the scores that choose, in (0, 1).

    Returns:
        The bound.

    Raises:
        InputError: If an argument is out of range or there are fewer than two scores of a kind.
    """
    members, others = (generator.permutation(scores_of(each)) for each in (member_scores, non_member_scores))
    if min(members.size, others.size) < 2 or not 0.0 < share < 1.0:
        raise InputError(f"Too few scores, or share {share} not in (0, 1).", remedy="Give both parts some scores.")
    cuts = [min(each.size - 1, max(1, round(share * each.size))) for each in (members, others)]
    choosing, deciding = (members[: cuts[0]], others[: cuts[1]]), (members[cuts[0] :], others[cuts[1] :])
    chosen = over_ranks(*choosing, delta=delta, confidence=confidence).threshold
    return _bound(_counts(*deciding, chosen), chosen, delta=delta, error=significance(confidence))


def over_ranks(member_scores: ArrayLike, non_member_scores: ArrayLike, *, delta: float, confidence: float) -> RateBound:
    """Takes the best of a few thresholds at ranks fixed beforehand, and pays for each.

    Thresholds are the 1st, 2nd, 4th, 8th ... highest non-member score, and likewise the lowest member scores:
    K in all. Why it holds at ``confidence``:

    1. For the j-th highest of n non-member scores, the rate at which fresh non-members pass it follows
       Beta(j, n - j + 1), or less with ties; its upper quantile is exactly the Clopper-Pearson limit for j - 1 that
       pass.
    2. Members have no say in that threshold; given it, those that pass it are binomial, and the Clopper-Pearson limit
       holds. For ranks among members the two sides change places.
    3. That makes 2 K limits with error ``(1 - confidence) / (2 K)`` each; all hold at once with ``confidence``
       (union bound), and then so does the largest epsilon.

    Args:
        member_scores: Scores of members, shape (members,), independent.
        non_member_scores: Scores of non-members, shape (non-members,), independent.
        delta: Delta, in [0, 1).
        confidence: Confidence of the bound, in (0, 1).

    Returns:
        The best bound.

    Raises:
        InputError: If an argument is out of range or a score is not finite.
    """
    members, others = np.sort(scores_of(member_scores)), np.sort(scores_of(non_member_scores))
    own, theirs = _ranks(members.size), _ranks(others.size)
    error = significance(confidence) / (own.size + theirs.size)
    bounds = []
    for rank in theirs:
        threshold = float(others[others.size - 1 - rank])
        counts = int((members > threshold).sum()), members.size, int(rank), others.size
        bounds.append(_bound(counts, threshold, delta=delta, error=error))
    for rank in own:
        threshold = float(np.nextafter(members[rank], -np.inf))
        counts = members.size - int(rank), members.size, int((others > threshold).sum()), others.size
        bounds.append(_bound(counts, threshold, delta=delta, error=error))
    return max(bounds, key=lambda bound: bound.epsilon)


def _ranks(size: int) -> NDArray[np.intp]:
    """Ranks 0, 1, 3, 7 ... below ``size``."""
    return (1 << np.arange(int(size).bit_length())) - 1


def _counts(members: NDArray[np.float64], others: NDArray[np.float64], threshold: float) -> tuple[int, int, int, int]:
    return int((members > threshold).sum()), members.size, int((others > threshold).sum()), others.size


def _bound(counts: tuple[int, int, int, int], threshold: float, *, delta: float, error: float) -> RateBound:
    """True positives, members, false positives, non-members; half of ``error`` goes to either rate."""
    true_rate = lower_limit(counts[0], counts[1], error=error / 2.0)
    false_rate = upper_limit(counts[2], counts[3], error=error / 2.0)
    return RateBound(
        epsilon=epsilon_of_rates(true_rate, false_rate, delta=delta),
        threshold=threshold,
        true_positive_rate=true_rate,
        false_positive_rate=false_rate,
    )


def _log_ratio(above: float, below: float) -> float:
    if above <= 0.0:
        return -math.inf
    return math.inf if below <= 0.0 else math.log(above) - math.log(below)
