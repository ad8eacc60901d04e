"""Trade-off functions of families of mechanisms, and what a perfect attacker makes of them.

A trade-off function f says how badly any test must fare that tells a data set with a canary from one without
it: at false positive rate x the true positive rate is at most 1 - f(x) (Dong, Roth, Su 2019, definition 2.1).
Audits need the inverse of that bound: the least false positive rate ``x`` at which a true positive rate ``y``
can be had. A family orders mechanisms by one number, its strength: the larger, the less private.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import dp_accounting
import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from numpy.typing import NDArray
from scipy import special

from privacy.accounting import check_tally
from privacy.calibration import StatisticsShare
from protocol.errors import InputError
from protocol.terms import Relation

Curve = Callable[[float], float]
"""From a true positive rate to the least false positive rate: rising, convex, from 0 at 0."""

_MOST_EPSILON = 30.0
_LINES = 1201
_LOSS_INTERVAL = 2e-3  # pessimistic, so a curve is a little too private and an audit a little too quiet
_TOLERANCE = 1e-4
_ROUNDED_UP = 1e-4  # of the epsilon of record: what it may be above the truth, which a bound from below must not be


@dataclass(frozen=True, kw_only=True)
class Family:
    """Mechanisms ordered by one number.

    Attributes:
        name: Name for a reader.
        curve: From a strength to the inverse blow-up curve; it falls everywhere as the strength rises.
        epsilon: From a strength and a delta to the epsilon of that mechanism.
        least: Smallest strength that is looked at, above 0.
        most: Largest strength that is looked at.
    """

    name: str
    curve: Callable[[float], Curve]
    epsilon: Callable[[float, float], float]
    least: float
    most: float

    def strength_at(self, epsilon: float, delta: float) -> float:
        """Finds the strength that spends an epsilon at a delta.

        Args:
            epsilon: The epsilon to spend, above 0.
            delta: The delta at which it is spent.

        Returns:
            The strength, to a part in ten thousand.

        Raises:
            InputError: If no mechanism of the family spends as much or as little.
        """
        low, high = self.least, self.most
        if not self.epsilon(low, delta) <= epsilon <= self.epsilon(high, delta):
            raise InputError(f"epsilon {epsilon} is outside the family {self.name}.", remedy="Use another family.")
        while high / low > 1.0 + _TOLERANCE:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.epsilon(middle, delta) <= epsilon else (low, middle)
        return low


def gaussian() -> Family:
    """The Gaussian mechanisms; the strength is mu, the sensitivity over the standard deviation of the noise.

    Source: Dong, Roth, Su 2019, definition 2.6 and corollary 2.13.

    Example:
        >>> round(gaussian().epsilon(0.9249, 1e-5), 3)
        4.0
    """
    return Family(
        name="Gaussian",
        curve=lambda strength: partial(_gaussian_curve, strength),
        epsilon=lambda strength, delta: float(dp_accounting.get_epsilon_gaussian(1.0 / strength, delta)),
        least=1e-3,
        most=20.0,
    )


def randomised_response(delta: float) -> Family:
    """All (epsilon, delta)-private mechanisms at once: the weakest assumption there is. The strength is epsilon.

    The curve is that of the randomised response that tells the truth outright with probability delta (Kairouz,
    Oh, Viswanath 2015, theorem 3.3), which dominates every (epsilon, delta)-private mechanism.

    Args:
        delta: The delta of the family, in [0, 1); epsilons are stated at this delta alone.

    Raises:
        InputError: If delta is out of range, or an epsilon at another delta is asked for.
    """
    _check_delta(delta)

    def epsilon(strength: float, other: float) -> float:
        if other != delta:
            raise InputError(f"delta is {other}, but the family has {delta}.", remedy="Use the family's delta.")
        return strength

    return Family(
        name="randomised response",
        curve=lambda strength: partial(_two_lines, strength, delta),
        epsilon=epsilon,
        least=1e-3,
        most=_MOST_EPSILON,
    )


def sampled_gaussian(sample_rate: float, count: int, *, statistics: StatisticsShare | None = None) -> Family:
    """Poisson-sampled Gaussian steps under add/remove; the strength is one over the noise multiplier.

    The curve is the upper envelope of the lines that the privacy profile allows: a true positive rate y needs
    a false positive rate of at least exp(-e) (y - delta(e)) for every e, with delta(e) from the pessimistic
    privacy loss distribution of both directions.

    Args:
        sample_rate: Probability that a unit takes part in a step, in (0, 1].
        count: Number of steps.
        statistics: Gaussian rounds over all units beside the steps, whose noise follows from that of the steps.

    Raises:
        InputError: If an argument is out of range.
    """
    if not 0.0 < sample_rate <= 1.0 or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"sample_rate {sample_rate} or count {count!r} is out of range.", remedy="Take the study's.")

    def beside(strength: float) -> float | None:
        """Noise of one round that is worth all rounds of statistics: k rounds of noise s are one of s / sqrt(k)."""
        if statistics is None:
            return None
        each = statistics.noise_multiplier(1.0 / strength, sample_rate=sample_rate, steps=count)
        return each / math.sqrt(statistics.rounds)

    def epsilon(strength: float, delta: float) -> float:
        tally = {(1.0 / strength, sample_rate): count}
        noise = beside(strength)
        if noise is not None:
            tally[noise, 1.0] = tally.get((noise, 1.0), 0) + 1
        record = check_tally(tally, delta=delta, relation=Relation.ADD_REMOVE).pld
        return max(0.0, record - _ROUNDED_UP * max(1.0, record))

    return Family(
        name="sampled Gaussian",
        curve=lambda strength: _profile_curve(1.0 / strength, sample_rate, count, beside(strength)),
        epsilon=epsilon,
        least=0.02,
        most=5.0,
    )


def perfect_right(curve: Curve, canaries: int, guesses: int) -> int:
    """Counts the right guesses in the middle run of an attacker who loses nothing.

    Half of the guesses say *in* for the most suspicious canaries and half say *out* for the least. A rule with
    true positive rate y and false positive rate x makes ``canaries (x + y) / 2`` guesses of one kind when half
    of the canaries are in, and ``y / (x + y)`` of them are right.

    Args:
        curve: Inverse blow-up curve of the mechanism, taken to be symmetric.
        canaries: Number of canaries.
        guesses: Number of guesses, from 1 to ``canaries``.

    Returns:
        The expected number of right guesses, rounded down.

    Example:
        >>> perfect_right(lambda rate: 0.0, 100, 40)
        40
    """
    rate = guesses / canaries
    low, high = 0.0, min(1.0, rate)
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if middle + curve(middle) <= rate else (low, middle)
    return min(guesses, math.floor(canaries * high + 1e-9))


def guess_choices(canaries: int) -> tuple[int, ...]:
    """Numbers of guesses worth considering: some thirty, in even ratios, from a handful to all.

    Example:
        >>> guess_choices(12)
        (8, 10, 12)
    """
    least = min(canaries, 8)
    points = 1 + max(0, math.ceil(4.0 * math.log2(canaries / least)))
    spread = np.geomspace(least, canaries, max(points, 3) if canaries > least else 1)
    return tuple(sorted({2 * round(value / 2.0) for value in spread[:-1]} | {canaries}))


def _gaussian_curve(strength: float, rate: float) -> float:
    return float(special.ndtr(special.ndtri(min(rate, 1.0)) - strength))


def _two_lines(strength: float, delta: float, rate: float) -> float:
    steep = math.exp(-strength) * (rate - delta)
    flat = 1.0 - delta - math.exp(strength) * (1.0 - rate)
    return max(0.0, steep, flat)


@lru_cache(maxsize=256)
def _profile_curve(noise_multiplier: float, sample_rate: float, count: int, beside: float | None) -> Curve:
    single = privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=_LOSS_INTERVAL,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        pessimistic_estimate=True,
    )
    composed = single.self_compose(count)
    if beside is not None:
        statistics = privacy_loss_distribution.from_gaussian_mechanism(
            beside,
            value_discretization_interval=_LOSS_INTERVAL,
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
            pessimistic_estimate=True,
        )
        composed = composed.compose(statistics)
    most = min(_MOST_EPSILON, max(1e-3, float(composed.get_epsilon_for_delta(1e-9))))
    epsilons = np.linspace(-most, most, _LINES)
    deltas = np.asarray(composed.get_delta_for_epsilon(epsilons), dtype=np.float64)
    return partial(_envelope, np.exp(-epsilons), deltas)


def _envelope(slopes: NDArray[np.float64], starts: NDArray[np.float64], rate: float) -> float:
    """Largest of the lines ``slopes`` (lines,) that leave zero at ``starts`` (lines,)."""
    return max(0.0, float((slopes * (rate - starts)).max()))


def _check_delta(delta: float) -> None:
    if not 0.0 <= delta < 1.0:
        raise InputError(f"delta is {delta}, not in [0, 1).", remedy="Give the delta of the statement.")
