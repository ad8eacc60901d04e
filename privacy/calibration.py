"""Finds the least noise that keeps a promise; always ends on the private side."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from scipy.optimize import brentq

from privacy.accounting import MOST_EPSILON, check_tally, fourier_of_tally, tally
from privacy.events import Mechanism, NoisyRelease
from protocol.errors import AccountingError
from protocol.terms import ContributionKind, Relation, Sampler, Unit

_LEAST_NOISE, _MOST_NOISE = 0.1, 1e5
_LEAST_STATISTICS_NOISE, _MOST_STATISTICS_NOISE = 0.05, 1e6
_LARGEST_EXPONENT = 700.0
_LEAST_EPSILON = 1e-3
_TOLERANCE = 1e-3
_MOST_TRIALS = 12


@dataclass(frozen=True, kw_only=True)
class StatisticsShare:
    """Rounds of statistics beside the steps of a training: how many, and what they may cost.

    Attributes:
        rounds: How many, at least 1.
        share: Of the squared central-limit parameter of everything, between 0 and 1.
    """

    rounds: int
    share: float

    def noise_multiplier(self, training: float, *, sample_rate: float, steps: int) -> float:
        r"""Return the noise over sensitivity of one round of statistics, beside a training of a given noise.

        By the central limit theorem of Gaussian differential privacy (Dong, Roth, Su, 2022, corollary 4), T steps of
        noise multiplier s on a Poisson sample of rate q tend to the parameter mu with

            mu^2 = q^2 T (exp(1 / s^2) - 1),

        and k rounds over all units with noise multiplier s' have k / s'^2 exactly. s' is such that the latter is the
        share of both. The limit only divides the budget; what both cost is accounted for exactly, from s and s'. Where
        s is so small that the limit says nothing, s' is at least 0.05. It never falls as s rises.

        Args:
            training: Noise multiplier of a step, positive.
            sample_rate: Poisson rate of a step.
            steps: Number of steps.

        Example:
            >>> round(StatisticsShare(rounds=1, share=0.1).noise_multiplier(2.0, sample_rate=0.1, steps=300), 2)
            3.25
        """
        moment = math.expm1(min(training**-2.0, _LARGEST_EXPONENT))
        training_square = sample_rate**2 * steps * moment
        wanted = math.sqrt(self.rounds * (1.0 - self.share) / (self.share * training_square))
        return min(max(wanted, _LEAST_STATISTICS_NOISE), _MOST_STATISTICS_NOISE)


def calibrate_noise_multiplier(
    *,
    epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    relation: Relation,
    statistics: StatisticsShare | None = None,
) -> float:
    """Finds the least noise multiplier whose composed epsilon of record does not pass a target.

    The fast Fourier accountant finds the neighbourhood; the accountant of record decides. With statistics, both are of
    the steps and the rounds of statistics together.

    Args:
        epsilon: Target epsilon, from 0.001 to 300.
        delta: Target delta.
        sample_rate: Poisson sample rate of a step; 1.0 for all units.
        steps: Number of steps.
        relation: Neighbouring relation of the promise; the noise multiplier is relative to an add/remove
            sensitivity.
        statistics: Rounds of statistics that the target covers as well.

    Returns:
        A noise multiplier with an epsilon of record in (0.999 target, target], or the least noise of 0.1.

    Raises:
        AccountingError: If an argument is out of range or no noise up to 1e5 keeps the target.
    """
    if (
        isinstance(epsilon, bool)
        or not isinstance(epsilon, (int, float))
        or not _LEAST_EPSILON <= epsilon <= MOST_EPSILON
    ):
        raise AccountingError(
            f"epsilon is {epsilon!r}, not in [{_LEAST_EPSILON}, {MOST_EPSILON:g}].",
            remedy="Choose another target.",
        )
    return _calibrate(float(epsilon), delta, sample_rate, steps, relation, statistics)


@lru_cache(maxsize=256)
def _calibrate(
    target: float,
    delta: float,
    sample_rate: float,
    steps: int,
    relation: Relation,
    statistics: StatisticsShare | None,
) -> float:
    """Corrects the rough noise until the epsilon of record is just below the target."""
    promise = _Promise(
        target=target, delta=delta, sample_rate=sample_rate, steps=steps, relation=relation, statistics=statistics
    )
    noise = promise.rough_noise()
    slope = max(0.1, math.log(promise.rough(noise) / promise.rough(1.02 * noise)) / math.log(1.02))
    kept = math.inf
    for _ in range(_MOST_TRIALS):
        value = promise.record(noise)
        if value <= target:
            kept = min(kept, noise)
            if value > target * (1.0 - _TOLERANCE) or noise == _LEAST_NOISE:
                return noise
        correction = max(value, 1e-6) / (target * (1.0 - 0.4 * _TOLERANCE))
        noise = max(_LEAST_NOISE, noise * correction ** (1.0 / slope))
    if kept < _MOST_NOISE:
        return kept
    raise AccountingError(f"No noise was found for epsilon {target} at delta {delta}.", remedy="Choose another target.")


@dataclass(frozen=True, kw_only=True)
class _Promise:
    """What is to be kept, as functions of the noise multiplier."""

    target: float
    delta: float
    sample_rate: float
    steps: int
    relation: Relation
    statistics: StatisticsShare | None

    def tally(self, noise: float) -> dict[tuple[float, float], int]:
        """Checks the fields as those of an event."""
        event = NoisyRelease(
            mechanism=Mechanism.GAUSSIAN,
            noise_multiplier=noise,
            sample_rate=self.sample_rate,
            sampler=Sampler.POISSON,
            count=self.steps,
            kind=ContributionKind.GRADIENTS,
            relation=Relation.ADD_REMOVE,
            unit=Unit.RECORD,
        )
        if self.statistics is None:
            return tally([event], self.relation)
        beside = self.statistics.noise_multiplier(noise, sample_rate=self.sample_rate, steps=self.steps)
        rounds = replace(
            event,
            noise_multiplier=beside,
            sample_rate=1.0,
            sampler=Sampler.ALL,
            count=self.statistics.rounds,
            kind=ContributionKind.STATISTICS,
        )
        return tally([event, rounds], self.relation)

    def record(self, noise: float) -> float:
        """Epsilon of record."""
        return check_tally(self.tally(noise), delta=self.delta, relation=self.relation).pld

    def rough(self, noise: float) -> float:
        """Epsilon of the fast accountant, within what a logarithm can take."""
        value = fourier_of_tally(self.tally(noise), delta=self.delta, relation=self.relation)
        return min(max(value, 1e-9), 1e9)

    def rough_noise(self) -> float:
        """The noise at which the fast accountant meets the target, clipped to the least noise."""
        low = high = 1.0
        while self.rough(high) > self.target:
            low, high = high, 2.0 * high
            if high > _MOST_NOISE:
                raise AccountingError(
                    f"Even a noise multiplier of {_MOST_NOISE:g} does not keep epsilon {self.target}.",
                    remedy="Take fewer steps, sample less, or allow a larger epsilon.",
                )
        while self.rough(low) <= self.target:
            low, high = low / 2.0, low
            if high <= _LEAST_NOISE:
                return _LEAST_NOISE
        root = brentq(self._log_excess, math.log(low), math.log(high), xtol=1e-5)
        return math.exp(float(root)) * (1.0 + 1e-4)

    def _log_excess(self, log_noise: float) -> float:
        return math.log(self.rough(math.exp(log_noise)) / self.target)
