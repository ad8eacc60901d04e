"""Whether what is left of releases, once everything known is taken away, is the noise that the accountant assumes.

Every test has a p-value that is exact, or as good as exact, where the mechanism is as planned, so that all of them
together can be corrected for their number (Holm 1979) and an honest mechanism raises an alarm no more often than was
asked for. Noise that is too large fails like noise that is too small: nobody is harmed by it, but it is not the
mechanism that was accounted for.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, gammaln, ndtr
from scipy.stats import binom, chi2, gamma, kstest

from privacy.audit.finding import Interval
from protocol.errors import InputError

Numbers = NDArray[np.float64]

_MOST_SHAPE, _MOST_COLUMNS, _MOST_ROWS = 40_000, 256, 1_500
_LATTICE = 16
_TIGHT = 1e-3  # in clip norms; float32 passes round a record's gradient differently at another place in the batch


class Property(StrEnum):
    """What a check is about."""

    SCALE = "the noise has the planned size"
    CENTRE = "the noise has mean zero"
    SHAPE = "the noise is Gaussian"
    LATTICE = "the noise fills the integer grid"
    FRESH = "no two contributions share noise"
    SEPARATE = "no two coordinates share noise"
    CANARY = "a canary moves the sum by exactly one clip norm"
    RATE = "units are drawn at the public rate"
    SIZES = "batch sizes vary like those of independent coins"
    TURNS = "no unit is drawn more evenly or unevenly than by coins"
    MEMORY = "a batch does not depend on the one before"
    ALONE = "what a unit adds does not depend on who else is in the batch"
    BOUND = "one unit more or less moves the exact sum by at most the clip norm"
    DERIVED = "what leaves follows from the noisy sums alone"
    PAID = "everything that left is in the ledger, at its full price"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One test of one property.

    Attributes:
        what: The property.
        where: The part that was looked at.
        p_value: Probability of what was seen, or of anything worse, if the property holds; 0 or 1 where the property
            is checked exactly.
    """

    what: Property
    where: str
    p_value: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.p_value <= 1.0:
            raise InputError(f"The p-value of {self.where} is {self.p_value}.", remedy="Report it.")


def failures(checks: Iterable[Check], *, error: float) -> tuple[Check, ...]:
    """The checks that fail when the probability of any false alarm among all is at most ``error`` (Holm 1979)."""
    ordered = sorted(checks, key=lambda check: check.p_value)
    failed = []
    for rank, check in enumerate(ordered):
        if check.p_value > error / (len(ordered) - rank):
            break
        failed.append(check)
    return tuple(failed)


def noise_checks(noise: Numbers, *, sizes: Sequence[int], where: str) -> Iterator[Check]:
    """Test size, centre and shape of noise.

    Args:
        noise: float64 [T, d], in planned standard deviations.
        sizes: Number of coordinates of each tensor, adding up to d.
        where: Who released it.
    """
    ends = np.cumsum(sizes)
    for number, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        part = noise[:, start:end]
        if part.size:
            yield Check(what=Property.SCALE, where=f"{where}, tensor {number}", p_value=_scale(part))
            yield Check(what=Property.CENTRE, where=f"{where}, tensor {number}", p_value=_centre(part))
    if noise.size:
        flat = noise.ravel()[:: max(1, noise.size // _MOST_SHAPE)]
        yield Check(what=Property.SHAPE, where=where, p_value=float(kstest(flat, ndtr, method="asymp").pvalue))


def noise_size(noise: Numbers, *, error: float) -> Interval:
    """Measured over planned standard deviation, of Gaussian noise.

    Args:
        noise: float64, any shape, in planned standard deviations.
        error: Probability that the truth lies outside the interval.
    """
    square, count = float(np.sum(noise**2)), noise.size
    low, high = (math.sqrt(square / float(chi2.isf(tail, count))) for tail in (error / 2.0, 1.0 - error / 2.0))
    return Interval(value=math.sqrt(square / count), low=low, high=high, confidence=1.0 - error)


def lattice_check(words: NDArray[np.integer], *, where: str) -> Check:
    """Test that the last four bits are uniform, as they are where the noise has sixteen grid steps or more.

    Args:
        words: int [T, d], in grid steps.
        where: Who released them.
    """
    counts = np.bincount((words.ravel() % _LATTICE).astype(np.int64), minlength=_LATTICE)
    expected = words.size / _LATTICE
    statistic = float(np.sum((counts - expected) ** 2) / expected)
    return Check(what=Property.LATTICE, where=where, p_value=float(chi2.sf(statistic, _LATTICE - 1)))


def fresh_check(rows: Numbers, *, where: str) -> Check:
    """Test that no two contributions point the same way: of any rounds, sites or runs.

    The squared cosine of two independent Gaussian vectors has a Beta(1/2, (d - 1)/2) law, exactly.

    Args:
        rows: float64 [M, d], noise of M contributions.
        where: Whose they are.
    """
    largest = _largest_cosine(rows[:_MOST_ROWS])
    pairs = min(len(rows), _MOST_ROWS) * (min(len(rows), _MOST_ROWS) - 1) / 2
    return Check(what=Property.FRESH, where=where, p_value=min(1.0, pairs * _cosine_tail(largest, rows.shape[1])))


def separate_checks(noise: Numbers, *, sizes: Sequence[int], where: str) -> Iterator[Check]:
    """Test that coordinates do not repeat one another: evenly chosen ones, and the beginnings of all tensors.

    Args:
        noise: float64 [T, d].
        sizes: Number of coordinates of each tensor.
        where: Who released it.
    """
    columns = noise[:, np.unique(np.linspace(0, noise.shape[1] - 1, _MOST_COLUMNS).astype(np.int64))].T
    pairs = len(columns) * (len(columns) - 1) / 2
    p_value = min(1.0, pairs * _cosine_tail(_largest_cosine(columns), columns.shape[1]))
    yield Check(what=Property.SEPARATE, where=f"{where}, single coordinates", p_value=p_value)
    starts = np.cumsum(sizes) - sizes
    tails = []
    for first, second in combinations(range(len(sizes)), 2):
        width = min(sizes[first], sizes[second])
        parts = [noise[:, starts[each] : starts[each] + width].ravel() for each in (first, second)]
        tails.append(_cosine_tail(_largest_cosine(np.stack(parts)), parts[0].size))
    if tails:
        p_value = min(1.0, len(tails) * min(tails))
        yield Check(what=Property.SEPARATE, where=f"{where}, pairs of tensors", p_value=p_value)


def canary_check(shifts: Numbers, *, where: str) -> Check:
    """Test that canaries that were in a batch moved the sum just as they should.

    Args:
        shifts: float64 [n], scores less what is expected of them, in planned standard deviations.
        where: Of which kind, at whom.
    """
    return Check(what=Property.CANARY, where=where, p_value=_centre(shifts))


def sampler_checks(batches: Mapping[str, NDArray[np.bool_]], *, rate: float) -> Iterator[Check]:
    """Test that batches are made of independent coins: the rate site by site, the rest over all sites together.

    Args:
        batches: bool [T, n] by site, which unit is in which batch; sites without units say nothing.
        rate: The public rate.
    """
    held = {site: taken for site, taken in batches.items() if taken.size}
    for site, taken in held.items():
        total = int(taken.sum())
        tails = (float(binom.cdf(total, taken.size, rate)), float(binom.sf(total - 1, taken.size, rate)))
        yield Check(what=Property.RATE, where=f"{site} at rate {rate:g}", p_value=_two_sided(*tails))
    if held and 0.0 < rate < 1.0:
        where = f"all sites at rate {rate:g}"
        sizes = [(taken.sum(axis=1), taken.shape[1]) for taken in held.values()]
        turns = [(taken.sum(axis=0), taken.shape[0]) for taken in held.values()]
        yield Check(what=Property.SIZES, where=where, p_value=_dispersion(sizes, rate=rate))
        yield Check(what=Property.TURNS, where=where, p_value=_dispersion(turns, rate=rate))
        yield Check(what=Property.MEMORY, where=where, p_value=_overlap(list(held.values())))


def bound_checks(moves: Numbers, gaps: Numbers, *, where: str) -> Iterator[Check]:
    """Check, exactly, what taking one unit away does to exact sums.

    Args:
        moves: float64 [n], distances between the sums with and without a unit, in clip norms.
        gaps: float64 [n], distances between that difference and the sum of the unit alone, in clip norms.
        where: What the sums are of.
    """
    for what, values, most in ((Property.BOUND, moves, 1.0 + _TIGHT), (Property.ALONE, gaps, _TIGHT)):
        kept = bool(np.isfinite(values).all() and (values <= most).all())
        yield exact_check(what, holds=kept, where=where)


def exact_check(what: Property, *, holds: bool, where: str) -> Check:
    """Wrap what is known for certain."""
    return Check(what=what, where=where, p_value=1.0 if holds else 0.0)


def _two_sided(low: float, high: float) -> float:
    return min(1.0, 2.0 * min(low, high))


def _scale(part: Numbers) -> float:
    square = float(np.sum(part**2))
    return _two_sided(float(chi2.cdf(square, part.size)), float(chi2.sf(square, part.size)))


def _centre(part: Numbers) -> float:
    """Two-sided normal tail of the mean; no numbers show nothing, and what is not finite cannot be right."""
    if not part.size:
        return 1.0
    shift = abs(float(np.sum(part))) / math.sqrt(part.size)
    return 2.0 * float(ndtr(-shift)) if math.isfinite(shift) else 0.0


def _largest_cosine(rows: Numbers) -> float:
    """Largest magnitude of the cosine of two rows; a row of zeros is no noise at all and has none."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(lengths > 0.0, lengths, 1.0)
    gram = np.abs(unit @ unit.T)
    return float(np.triu(gram, 1).max(initial=0.0))


def _cosine_tail(cosine: float, dimension: int) -> float:
    """Probability that two independent Gaussian vectors have at least this cosine in magnitude."""
    if dimension < 2:
        return 1.0
    return float(betainc((dimension - 1) / 2.0, 0.5, max(0.0, 1.0 - cosine**2)))


def _dispersion(groups: Sequence[tuple[NDArray[np.integer], int]], *, rate: float) -> float:
    """Two-sided tail of the summed squares of independent binomials, as of a gamma law of the same mean and variance.

    Args:
        groups: Counts, each of so many coins.
        rate: Of the coins.
    """
    statistic = mean = spread = 0.0
    for counts, trials in groups:
        variance = trials * rate * (1.0 - rate)
        statistic += float(np.sum((counts - trials * rate) ** 2) / variance)
        mean += len(counts)
        spread += len(counts) * (2.0 + (1.0 - 6.0 * rate * (1.0 - rate)) / variance)
    law = gamma(mean**2 / spread, scale=spread / mean)
    return _two_sided(float(law.cdf(statistic)), float(law.sf(statistic)))


def _overlap(batches: Sequence[NDArray[np.bool_]]) -> float:
    """Two-sided tail of the number of units that are in two successive batches.

    Given the sizes, the batches of independent coins are independent uniform subsets: every overlap is hypergeometric,
    and their sum is the convolution, exactly.
    """
    total, law = 0, np.ones(1)
    for taken in batches:
        total += int(np.sum(taken[1:] & taken[:-1]))
        sizes, units = taken.sum(axis=1).tolist(), taken.shape[1]
        for first, second in pairwise(sizes):
            law = np.convolve(law, _hypergeometric(units, first, second))
    return _two_sided(float(law[: total + 1].sum()), float(law[total:].sum()))


def _hypergeometric(units: int, first: int, second: int) -> Numbers:
    """Chances of 0, 1, ... common members of two random subsets of these sizes, float64 [min(first, second) + 1]."""
    common = np.arange(min(first, second) + 1)
    # Where two subsets cannot have so few in common, the gamma function has a pole, and the chance is zero.
    logarithms = _choices(first, common) + _choices(units - first, second - common) - _choices(units, np.array(second))
    return np.asarray(np.exp(logarithms))


def _choices(whole: int, parts: NDArray[np.integer]) -> Numbers:
    """Logarithm of the number of subsets of each size."""
    return np.asarray(gammaln(whole + 1) - gammaln(parts + 1) - gammaln(whole - parts + 1))
