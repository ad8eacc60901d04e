"""What one step shows about the noise, and what that comes to over a study: a lower bound on epsilon.

A canary in the batch moves one number of the release from N(0, s^2) to N(1, s^2), s the noise multiplier. Deciding by
a threshold gives a true and a false positive rate; Clopper-Pearson bounds on both give, under the Gaussian shape, a
lower bound on 1/s (Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning", section 4.2), and a
privacy loss distribution composes the least noise that the step can have over the rounds and the measured sample rate.
Every part errs on the side of a smaller epsilon. The shape itself is for :mod:`privacy.audit.mechanism.residuals` to
test; the bound of one step that needs no shape is given beside.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from privacy.audit.finding import Interval
from privacy.audit.intervals import Side, clopper_pearson
from privacy.audit.rates import epsilon_of_rates
from protocol.errors import AccountingError
from protocol.terms import Relation

THRESHOLD = 0.5  # half way between absent and present: the most powerful for one step, and chosen before any data
_FINEST, _COARSEST = 2e-6, 1e-2
_RELATIONS = {
    Relation.ADD_REMOVE: NeighboringRelation.ADD_OR_REMOVE_ONE,
    Relation.REPLACE_ONE: NeighboringRelation.REPLACE_ONE,
}


@dataclass(frozen=True, kw_only=True)
class StepBound:
    """What canaries of one family showed.

    Attributes:
        true_positive: Share of present canaries that were called present.
        false_positive: Share of absent ones that were.
        present: Number of present canaries.
        absent: Number of absent ones.
        noise: Upper bound on the noise multiplier of one step; infinite where the canaries were not seen.
    """

    true_positive: Interval
    false_positive: Interval
    present: int
    absent: int
    noise: float

    def shape_free(self, *, delta: float) -> float:
        """Lower bound on the epsilon of one step in which the unit is sure to take part, whatever the noise's shape."""
        return epsilon_of_rates(self.true_positive.low, self.false_positive.high, delta=delta)


def step_bound(present: NDArray[np.float64], absent: NDArray[np.float64], *, error: float, steps: int = 1) -> StepBound:
    """Bound the noise of one step from above.

    Args:
        present: float64 [n], scores of canaries that were in the batch of exactly one step, in clip norms.
        absent: float64 [m], scores of canaries that were in none.
        error: Probability that the bound is wrong.
        steps: Number of noisy steps that one score sums up, each with noise of its own.

    Returns:
        The bound on the noise multiplier of one of these steps.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 2.0, 20_000)
        >>> found = step_bound(1.0 + noise[:10_000], noise[10_000:], error=0.05)
        >>> 2.0 < found.noise < 2.25
        True
    """
    hits, alarms = int((present > THRESHOLD).sum()), int((absent > THRESHOLD).sum())
    return bound_of_counts(hits, len(present), alarms, len(absent), error=error, steps=steps)


def expected_bound(*, noise: float, present: int, absent: int, error: float, steps: int = 1) -> float:
    """What a perfect attacker with so many canaries typically shows of a step with this noise multiplier.

    Args:
        noise: The true noise multiplier; zero for none.
        present: Present canaries.
        absent: Absent ones.
        error: Of :func:`step_bound`.
        steps: Of :func:`step_bound`.

    Returns:
        The upper bound on the noise at the median of both counts.
    """
    miss = float(ndtr(-THRESHOLD / (noise * math.sqrt(steps)))) if noise > 0.0 else 0.0
    missed, alarmed = (int(binom.ppf(0.5, count, miss)) if count else 0 for count in (present, absent))
    return bound_of_counts(present - missed, present, alarmed, absent, error=error, steps=steps).noise


def bound_of_counts(hits: int, present: int, alarms: int, absent: int, *, error: float, steps: int) -> StepBound:
    """The bound of :func:`step_bound` from counts.

    Args:
        hits: Present canaries that were called present.
        present: Present canaries.
        alarms: Absent canaries that were called present.
        absent: Absent canaries.
        error: As there.
        steps: As there.
    """
    each = 1.0 - error / 2.0
    true = clopper_pearson(hits, present, confidence=each, side=Side.LOWER)
    false = clopper_pearson(alarms, absent, confidence=each, side=Side.UPPER)
    effect = 0.0
    if true.low > 0.0 and false.high < 1.0:
        effect = (float(ndtri(true.low)) - float(ndtri(false.high))) * math.sqrt(steps)
    noise = 1.0 / effect if effect > 0.0 else math.inf
    return StepBound(true_positive=true, false_positive=false, present=present, absent=absent, noise=noise)


def composed_epsilon(
    noise: float, *, sample_rate: float, steps: int, delta: float, relation: Relation, precision: float = 1e-3
) -> float:
    """An epsilon that a study with at most this noise and at least this rate cannot go below.

    The privacy loss distribution is rounded towards less loss, so that discretisation lowers the result.

    Args:
        noise: Upper bound on the noise multiplier; infinite gives zero.
        sample_rate: Lower bound on the Poisson rate of a unit.
        steps: Steps in the whole study.
        delta: Delta of the claim.
        relation: Neighbouring relation of the claim.
        precision: By how much, absolutely, rounding may lower the result.

    Raises:
        AccountingError: If the accountant fails.
    """
    if math.isinf(noise) or sample_rate <= 0.0:
        return 0.0
    interval = min(max(2.0 * precision / steps, _FINEST), _COARSEST)
    return _composed(noise, min(sample_rate, 1.0), steps, delta, relation, interval)


@lru_cache(maxsize=256)
def _composed(noise: float, sample_rate: float, steps: int, delta: float, relation: Relation, interval: float) -> float:
    try:
        single = privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=noise,
            sampling_prob=sample_rate,
            value_discretization_interval=interval,
            pessimistic_estimate=False,
            use_connect_dots=False,
            neighboring_relation=_RELATIONS[relation],
        )
        return max(0.0, float(single.self_compose(steps).get_epsilon_for_delta(delta)))
    except (ValueError, OverflowError, FloatingPointError, MemoryError) as problem:
        raise AccountingError(
            f"The accountant failed for noise {noise:g} at rate {sample_rate:g}: {problem}.", remedy="Report it."
        ) from problem
