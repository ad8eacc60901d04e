"""Turns events into an epsilon, by three accountants that must agree.

The number of record is Google's ``dp-accounting`` privacy loss distribution, pessimistic, in both directions
(Doroshenko et al. 2022, connect the dots). It is reported only where an independent Fourier accountant finds
the same within one per cent or 0.01, and a Rényi bound lies above. Anything that an accountant does not know
is refused before anything is composed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp import RdpAccountant

from privacy.events import NoisyRelease
from privacy.loss_transform import Direction, Step, fourier_epsilon, renyi_epsilon, step_spread
from protocol.errors import AccountingError
from protocol.terms import Relation

ACCOUNTANT = "dp-accounting PLD"
DISCRETISATION = 1e-4
LEAST_DELTA = 1e-12
MOST_EPSILON = 300.0
_MOST_STEP_POINTS, _MOST_TOTAL_POINTS = 4e5, 4e6
_SPACINGS = tuple(digit * 10.0**power for power in range(-7, 2) for digit in (1, 2, 5))
_TOLERANCE = 0.01
_INTEGER_ORDERS = (*range(2, 64), 128, 256, 512, 1024)  # fractional orders do not always converge there
_REPORT = "Report it with the events; nothing may be released on this number."

Tally = Mapping[tuple[float, float], int]
"""Number of compositions by (noise multiplier, sample rate), in terms of an add/remove sensitivity."""


@dataclass(frozen=True, kw_only=True)
class CrossCheck:
    """Three independent values of one epsilon; they agreed.

    Attributes:
        delta: The delta at which they hold.
        relation: The neighbouring relation under which they hold.
        pld: The value of record, an upper bound.
        fourier: The centred estimate of the independent accountant.
        renyi: The Rényi upper bound.
        discretisation: Loss interval of the accountant of record.
    """

    delta: float
    relation: Relation
    pld: float
    fourier: float
    renyi: float
    discretisation: float


def epsilon(events: Sequence[NoisyRelease], *, delta: float, relation: Relation) -> float:
    """Composes events into the epsilon of record.

    For use by the accounting itself: users are shown a `privacy.statement.Statement`, never this number.

    Args:
        events: What was released about one data set; none means nothing.
        delta: Target delta, from 1e-12 to below 1.
        relation: Neighbouring relation.

    Returns:
        An epsilon such that all events together are (epsilon, delta)-private.

    Raises:
        AccountingError: If an event is not known, events do not compose, or the accountants disagree.

    Example:
        >>> epsilon([], delta=1e-5, relation=Relation.ADD_REMOVE)
        0.0
    """
    return cross_check(events, delta=delta, relation=relation).pld


def cross_check(events: Sequence[NoisyRelease], *, delta: float, relation: Relation) -> CrossCheck:
    """Composes events with all three accountants and compares them; arguments and errors as `epsilon`.

    Returns:
        The three values, which agreed.
    """
    check = check_tally(tally(events, relation), delta=delta, relation=relation)
    if check.pld > MOST_EPSILON:
        raise AccountingError(
            f"The events compose to an epsilon above {MOST_EPSILON:g}, which protects nobody.",
            remedy="Add noise, lower the sample rate or take fewer steps.",
        )
    return check


def tally(events: Sequence[NoisyRelease], relation: Relation) -> dict[tuple[float, float], int]:
    """Groups equal events and adds their counts, after checking that they compose under a relation.

    A sensitivity bounded under replace-one is expressed by the noise that gives the same guarantee for a
    contribution bounded in
    norm: replacing one such contribution by another moves the sum by twice the bound.

    Args:
        events: The events.
        relation: Neighbouring relation of the wanted guarantee.

    Returns:
        Compositions by (noise multiplier, sample rate).

    Raises:
        AccountingError: If something is no event, units differ, or an event does not hold under the relation.
    """
    if not isinstance(relation, Relation):
        raise AccountingError(f"relation is {relation!r}, not a Relation.", remedy="Use protocol.terms.Relation.")
    for event in events:
        if not isinstance(event, NoisyRelease):
            raise AccountingError(f"{type(event).__name__} is not an event.", remedy="Account for NoisyRelease only.")
        if event.relation is Relation.REPLACE_ONE and relation is Relation.ADD_REMOVE:
            raise AccountingError(
                "An event bounded under replace_one says nothing under add_remove.",
                remedy="Ask for replace_one.",
            )
    if len({event.unit for event in events}) > 1:
        raise AccountingError(
            "The events protect different units, which do not compose.", remedy="Keep one unit per data set."
        )
    counts: dict[tuple[float, float], int] = {}
    for event in events:
        scale = 2.0 if event.relation is Relation.REPLACE_ONE else 1.0
        key = (scale * event.noise_multiplier, event.sample_rate)
        counts[key] = counts.get(key, 0) + event.count
    return counts


def check_tally(counts: Tally, *, delta: float, relation: Relation) -> CrossCheck:
    """Composes grouped events with all three accountants; errors as `epsilon`.

    Above `MOST_EPSILON` the values are returned uncompared: they serve only to be refused.
    """
    _check_delta_range(delta)
    return _check_steps(_steps(counts), float(delta), relation)


def fourier_of_tally(counts: Tally, *, delta: float, relation: Relation) -> float:
    """The fast, centred epsilon of grouped events: for searches only, never reported by itself."""
    _check_delta_range(delta)
    steps = _steps(counts)
    return max((fourier_epsilon(steps, way, delta=delta) for way in _DIRECTIONS[relation] if steps), default=0.0)


def renyi_of_tally(counts: Tally, *, delta: float, relation: Relation) -> float:
    """The fastest upper bound on the epsilon of grouped events: for admission only, never reported alone."""
    _check_delta_range(delta)
    steps = _steps(counts)
    return max((renyi_epsilon(steps, way, delta=delta) for way in _DIRECTIONS[relation] if steps), default=0.0)


def agreement_margin(value: float) -> float:
    """How far two accountants may lie apart at ``value``: one per cent, or 0.01 where that is more."""
    return max(_TOLERANCE * value, _TOLERANCE)


def default_delta(public_size: int) -> float:
    """The delta for a data set of a public approximate size: min(1e-5, 1 / (10 size)).

    Args:
        public_size: A public number of units, never the private one.

    Returns:
        The delta.

    Raises:
        AccountingError: If the size is no positive integer.

    Example:
        >>> default_delta(1_000_000)
        1e-07
    """
    return min(1e-5, 1.0 / (10 * _checked_size(public_size)))


def check_delta(delta: float, *, public_size: int) -> float:
    """Refuses a delta that would allow publishing some unit outright: at or above 1 / size.

    Args:
        delta: The wanted delta.
        public_size: A public number of units.

    Returns:
        The delta unchanged.

    Raises:
        AccountingError: If it is out of range or too large for the data set.
    """
    _check_delta_range(delta)
    if delta * _checked_size(public_size) >= 1.0:
        raise AccountingError(
            f"delta is {delta}, at or above 1/{public_size}.",
            remedy=f"Use at most {default_delta(public_size)}.",
        )
    return delta


def accountant_version() -> str:
    """The version of the accountant of record."""
    return version("dp-accounting")


_DIRECTIONS = {
    Relation.ADD_REMOVE: (Direction.REMOVE, Direction.ADD),
    Relation.REPLACE_ONE: (Direction.REPLACE,),
}
_GOOGLE = {
    Relation.ADD_REMOVE: NeighboringRelation.ADD_OR_REMOVE_ONE,
    Relation.REPLACE_ONE: NeighboringRelation.REPLACE_ONE,
}


def _checked_size(public_size: int) -> int:
    if isinstance(public_size, bool) or not isinstance(public_size, int) or public_size < 1:
        raise AccountingError(f"public_size is {public_size!r}, not a positive integer.", remedy="State a public size.")
    return public_size


def _check_delta_range(delta: float) -> None:
    if isinstance(delta, bool) or not isinstance(delta, (int, float)) or not LEAST_DELTA <= delta < 1.0:
        raise AccountingError(
            f"delta is {delta!r}, not in [{LEAST_DELTA}, 1).", remedy="Use default_delta of the public size."
        )


def _steps(counts: Tally) -> tuple[Step, ...]:
    """Steps in a canonical order; Gaussians without sampling merge exactly into one."""
    steps = [
        Step(noise_multiplier=noise, sample_rate=rate, count=count)
        for (noise, rate), count in sorted(counts.items())
        if rate < 1.0
    ]
    precision = math.fsum(count / noise**2 for (noise, rate), count in sorted(counts.items()) if rate == 1.0)
    if precision > 0.0:
        steps.append(Step(noise_multiplier=precision**-0.5, sample_rate=1.0, count=1))
    return tuple(steps)


@lru_cache(maxsize=1024)
def _check_steps(steps: tuple[Step, ...], delta: float, relation: Relation) -> CrossCheck:
    """Runs the three accountants and refuses a disagreement."""
    if not steps:
        return CrossCheck(
            delta=delta, relation=relation, pld=0.0, fourier=0.0, renyi=0.0, discretisation=DISCRETISATION
        )
    fourier = max(fourier_epsilon(steps, way, delta=delta) for way in _DIRECTIONS[relation])
    renyi = _renyi(steps, delta, relation)
    discretisation = _discretisation(steps, relation, min(fourier, renyi))
    record = _pld_epsilon(steps, delta, relation, discretisation)
    margin = agreement_margin(record)
    if record <= MOST_EPSILON and (abs(record - fourier) > margin or renyi < record - margin):
        raise AccountingError(
            f"The accountants disagree at delta {delta} under {relation}: PLD {record}, Fourier {fourier},"
            f" Rényi {renyi}.",
            remedy=_REPORT,
        )
    return CrossCheck(
        delta=delta,
        relation=relation,
        pld=record,
        fourier=fourier,
        renyi=renyi,
        discretisation=discretisation,
    )


def _renyi(steps: tuple[Step, ...], delta: float, relation: Relation) -> float:
    """The lower of two Rényi bounds: our quadrature, and Google's, which knows no sampled replace-one."""
    bound = max(renyi_epsilon(steps, way, delta=delta) for way in _DIRECTIONS[relation])
    if relation is Relation.REPLACE_ONE:
        return bound
    accountant = RdpAccountant(orders=_INTEGER_ORDERS, neighboring_relation=_GOOGLE[relation])
    for step in steps:
        gaussian = dp_event.GaussianDpEvent(step.noise_multiplier)
        sampled = dp_event.PoissonSampledDpEvent(step.sample_rate, gaussian) if step.sample_rate < 1.0 else gaussian
        accountant.compose(sampled, step.count)
    return min(bound, float(accountant.get_epsilon(delta)))


def _pld_epsilon(steps: tuple[Step, ...], delta: float, relation: Relation, discretisation: float) -> float:
    """The value of record."""
    try:
        total = None
        for step in steps:
            single = _step_distribution(step.noise_multiplier, step.sample_rate, relation, discretisation)
            composed = single.self_compose(step.count)
            total = composed if total is None else total.compose(composed)
        return float(total.get_epsilon_for_delta(delta)) if total is not None else 0.0
    except (ValueError, OverflowError, FloatingPointError, MemoryError) as error:
        raise AccountingError(f"The accountant of record failed: {error}.", remedy=_REPORT) from error


@lru_cache(maxsize=64)
def _step_distribution(noise_multiplier: float, sample_rate: float, relation: Relation, discretisation: float) -> Any:
    """Privacy loss distribution of one step, by connect-the-dots: an upper bound at every epsilon."""
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=discretisation,
        use_connect_dots=True,
        neighboring_relation=_GOOGLE[relation],
    )


def _discretisation(steps: tuple[Step, ...], relation: Relation, rough_epsilon: float) -> float:
    """The loss interval: 1e-4, finer where a step's loss is narrower, coarser where memory would not do.

    The discretised distribution is an upper bound at every interval. It widens a step's variance v by about
    h^2/6, hence epsilon by a relative h^2/(12 v) or so; a third of the allowed disagreement is given to it.
    """
    way = _DIRECTIONS[relation][0]
    total = sum(step.count for step in steps)
    variances = (step.count * step_spread(step.noise_multiplier, step.sample_rate, way) ** 2 for step in steps)
    spread = math.sqrt(math.fsum(variances) / total)
    fine = spread * min(1.0, 0.2 * math.sqrt(max(1.0, 1.0 / max(rough_epsilon, 1e-3))))
    reach = max(_loss_reach(step, relation) for step in steps)
    coarse = max(2.0 * reach / _MOST_STEP_POINTS, 3.0 * rough_epsilon / _MOST_TOTAL_POINTS)
    wanted = max(min(DISCRETISATION, fine), coarse)
    below = [spacing for spacing in _SPACINGS if spacing <= wanted * (1.0 + 1e-9)]
    return below[-1] if below else _SPACINGS[0]


def _loss_reach(step: Step, relation: Relation) -> float:
    """Largest loss of one step that the accountant of record keeps, about ten standard deviations out."""
    sigma, rate = step.noise_multiplier, step.sample_rate
    exponent = (0.5 + 10.0 * sigma) / sigma**2
    reach = max(exponent + math.log(rate), -math.log1p(-rate) if rate < 1.0 else 0.0)
    return 2.0 * reach if relation is Relation.REPLACE_ONE else reach
