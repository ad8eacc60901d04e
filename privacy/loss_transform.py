"""A second, independent accountant: the law of the privacy loss by quadrature, tilting and Fourier transform.

It shares no code and no discretisation with the accountant of record, so that a mistake in either shows. The
loss of one step is integrated over the output of the mechanism (not over the loss), moved onto a loss grid by
weights that keep its first three moments, tilted exponentially so that small deltas keep their digits, and
raised to the number of steps in the Fourier domain. The estimate is centred: unlike the accountant of record
it is no upper bound. The same quadrature gives the Rényi divergence, hence a cheap upper bound.

Sources: Koskela, Jälkö, Honkela 2020, sections 4 and 6 (Fourier accountant); Gopi, Lee, Wutschitz 2021
    (numerical composition);
Alghamdi et al. 2023 (exponential tilting); Canonne, Kamath, Steinke 2020, proposition 12 (from Rényi
divergence to epsilon); Zhu, Dong, Wang 2022 (dominating pairs of Poisson sampling).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_TAIL = 12.0  # standard deviations of noise beyond which a Gaussian weighs less than 1e-32
_LEAST_TILT = 1e-4
_TILTS = np.geomspace(1e-2, 1e4, 240)
_MOST_QUADRATURE_POINTS, _MOST_GRID_POINTS = 1 << 19, 1 << 22
_WINDOW_LOG_MASS = 25.0  # the loss grid leaves out less than exp(-25) of the tilted law on either side
_EXPONENT_RANGE = 600.0  # exp() of a little more than this overflows


class Direction(StrEnum):
    """The data set with a unit against the one without it, the reverse, or one unit replaced by another."""

    REMOVE = "remove"
    ADD = "add"
    REPLACE = "replace"


@dataclass(frozen=True, kw_only=True)
class Step:
    """Some compositions of one Poisson-sampled Gaussian mechanism of sensitivity one.

    Attributes:
        noise_multiplier: Standard deviation of the noise.
        sample_rate: Probability that a unit takes part.
        count: Number of compositions.
    """

    noise_multiplier: float
    sample_rate: float
    count: int


@dataclass(frozen=True, kw_only=True)
class _Loss:
    """Privacy loss (points,) and log probability under the upper law (points,) of cells of the output."""

    loss: FloatArray
    log_mass: FloatArray


def fourier_epsilon(steps: Sequence[Step], direction: Direction, *, delta: float) -> float:
    """Finds the epsilon of composed steps in one direction; centred, no upper bound.

    Args:
        steps: The composed steps; at least one.
        direction: The dominating pair.
        delta: Target delta in (0, 1).

    Returns:
        The smallest epsilon >= 0 at ``delta``; infinite where it is beyond several hundred and beyond double
        precision.
    """
    composition = _Composition(steps, direction)
    # Half of Chernoff's tilt keeps the digits of delta; all of it would reach the far tail of rare sampling.
    tilt = composition.chernoff_tilt(delta) / 2.0
    losses, masses = _summed_law(composition, tilt)
    return _epsilon_at(losses, masses, delta)


def renyi_epsilon(steps: Sequence[Step], direction: Direction, *, delta: float) -> float:
    """Bounds the epsilon of composed steps in one direction from above, by Rényi divergences.

    Args:
        steps: The composed steps; at least one.
        direction: The dominating pair.
        delta: Target delta in (0, 1).

    Returns:
        An epsilon >= 0 that holds at ``delta``.
    """
    log_moments = np.zeros_like(_TILTS)
    for step in steps:
        log_moments += step.count * _renyi_curve(step.noise_multiplier, step.sample_rate, direction)
    orders = _TILTS + 1.0
    bounds = log_moments / _TILTS + np.log(_TILTS / orders) - (math.log(delta) + np.log(orders)) / _TILTS
    return max(0.0, float(bounds.min()))


def step_spread(noise_multiplier: float, sample_rate: float, direction: Direction) -> float:
    """Standard deviation of the privacy loss of one step."""
    step = Step(noise_multiplier=noise_multiplier, sample_rate=sample_rate, count=1)
    return math.sqrt(_Composition((step,), direction).cumulant(0.0)[2])


@lru_cache(maxsize=256)
def _renyi_curve(noise_multiplier: float, sample_rate: float, direction: Direction) -> FloatArray:
    """Cumulant function of one step's loss at `_TILTS`; infinite where the quadrature does not reach."""
    composition = _Composition((Step(noise_multiplier=noise_multiplier, sample_rate=sample_rate, count=1),), direction)
    curve = np.full_like(_TILTS, np.inf)
    for index in np.flatnonzero(composition.most_tilt >= _TILTS):
        curve[index] = composition.cumulant(float(_TILTS[index]))[0]
    curve.flags.writeable = False
    return curve


def _log_mixture(outputs: FloatArray, noise_multiplier: float, sample_rate: float) -> FloatArray:
    """Log density of the output with the unit, relative to that without it, at ``outputs`` (points,)."""
    exponent = (outputs - 0.5) / noise_multiplier**2
    if sample_rate == 1.0:
        return exponent
    return np.logaddexp(math.log1p(-sample_rate), math.log(sample_rate) + exponent)


def _loss_of(step: Step, direction: Direction, *, most_tilt: float, spacing: float) -> _Loss:
    """Integrates over outputs wide enough for tilts up to ``most_tilt``, in cells of at most ``spacing``."""
    sigma = step.noise_multiplier
    reach = 2.0 * most_tilt + 3.0 + _TAIL * sigma
    points = min(_MOST_QUADRATURE_POINTS, math.ceil(2.0 * reach / spacing)) + 1
    outputs = np.linspace(-reach, reach, points)
    scale = math.log(2.0 * reach / (points - 1) / sigma) - 0.5 * math.log(2.0 * math.pi)
    noise = scale - 0.5 * (outputs / sigma) ** 2
    with_unit = _log_mixture(outputs, sigma, step.sample_rate)
    if direction is Direction.ADD:
        return _Loss(loss=-with_unit, log_mass=noise)
    if direction is Direction.REMOVE:
        return _Loss(loss=with_unit, log_mass=noise + with_unit)
    other = _log_mixture(-outputs, sigma, step.sample_rate)
    return _Loss(loss=with_unit - other, log_mass=noise + with_unit)


def _smooth_spacing(noise_multiplier: float) -> float:
    """Cells at which the trapezoidal rule is exact: moments are analytic in a strip of width 2 pi sigma^2."""
    return min(noise_multiplier, noise_multiplier**2) / 4.0


def _most_tilt(step: Step) -> float:
    """A tilt above which no bound on the step is the best one, for any delta above 1e-15."""
    sigma = step.noise_multiplier
    wanted = 3.0 * sigma**2 * max(0.0, -math.log(step.sample_rate)) + 12.0 * sigma + 2.0
    return min(wanted, 0.125 * _MOST_QUADRATURE_POINTS * _smooth_spacing(sigma))


def _cumulant(loss: _Loss, tilt: float) -> tuple[float, float, float]:
    """Cumulant function at ``tilt``, and mean and variance of the loss under the tilted law."""
    exponent = loss.log_mass + tilt * loss.loss
    peak = float(exponent.max())
    weights = np.exp(exponent - peak)
    total = float(weights.sum())
    mean = float(weights @ loss.loss) / total
    variance = float(weights @ (loss.loss - mean) ** 2) / total
    return peak + math.log(total), mean, variance


class _Composition:
    """Cumulants of the summed loss of several steps in one direction."""

    def __init__(self, steps: Sequence[Step], direction: Direction) -> None:
        self.steps = tuple(steps)
        self.direction = direction
        self.most_tilt = min(_most_tilt(step) for step in steps)
        self._losses = tuple(
            _loss_of(
                step,
                direction,
                most_tilt=2.0 * self.most_tilt,
                spacing=_smooth_spacing(step.noise_multiplier),
            )
            for step in steps
        )

    def cumulant(self, tilt: float) -> tuple[float, float, float]:
        """Cumulant function at ``tilt``, and mean and variance of the summed loss under the tilted law."""
        total = np.zeros(3)
        for step, loss in zip(self.steps, self._losses, strict=True):
            total += step.count * np.array(_cumulant(loss, tilt))
        return float(total[0]), float(total[1]), float(total[2])

    def chernoff_tilt(self, delta: float) -> float:
        """The tilt at which Chernoff's bound on the tail of the loss equals ``delta``."""

        def excess(tilt: float) -> float:
            log_moment, mean, _ = self.cumulant(tilt)
            return tilt * mean - log_moment + math.log(delta)

        return _rising_root(excess, low=_LEAST_TILT, high=self.most_tilt)

    def half_window(self, tilt: float) -> float:
        """Distance from the tilted mean beyond which the tilted law keeps ``exp(-_WINDOW_LOG_MASS)``."""
        log_moment, mean, _ = self.cumulant(tilt)
        shifts = np.geomspace(1e-3, 1.0, 16) * (self.most_tilt + 1.0)
        widest = 0.0
        for sign in (-1.0, 1.0):
            moved = np.array([self.cumulant(tilt + sign * float(shift))[0] for shift in shifts])
            bounds = (moved - log_moment + _WINDOW_LOG_MASS) / shifts - sign * mean
            widest = max(widest, float(bounds.min()))
        return widest


def _rising_root(function: Callable[[float], float], *, low: float, high: float) -> float:
    """Bisects a rising function on a logarithmic scale; clips to the bounds, which are positive."""
    if function(high) <= 0.0:
        return high
    for _ in range(24):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if function(middle) > 0.0 else (middle, high)
    return math.sqrt(low * high)


def _summed_law(composition: _Composition, tilt: float) -> tuple[FloatArray, FloatArray]:
    """Summed loss (grid,), rising, and its mass (grid,) under the upper law, tilting undone."""
    log_moment, mean, variance = composition.cumulant(tilt)
    half = composition.half_window(tilt)
    narrow = math.sqrt(min(variance, composition.cumulant(0.0)[2]))
    interval = max(narrow / 128.0, 2.0 * half / _MOST_GRID_POINTS)
    size = 1 << math.ceil(math.log2(2.0 * half / interval + 8.0))
    transform = np.ones(size // 2 + 1, dtype=np.complex128)
    for step in composition.steps:
        transform *= np.fft.rfft(_tilted_law(step, composition.direction, tilt, interval, size)) ** step.count
    tilted = np.fft.fftshift(np.fft.irfft(transform, size))
    losses: FloatArray = mean + (np.arange(size, dtype=np.float64) - size // 2) * interval
    with np.errstate(over="ignore"):  # far below the middle, where nothing is read
        return losses, tilted * np.exp(log_moment - tilt * losses)


def _tilted_law(step: Step, direction: Direction, tilt: float, interval: float, size: int) -> FloatArray:
    """Mass (size,) of one step's tilted loss about its own mean, on a periodic grid of ``interval``."""
    sigma = step.noise_multiplier
    spacing = min(_smooth_spacing(sigma), interval * sigma**2)
    loss = _loss_of(step, direction, most_tilt=tilt, spacing=spacing)
    log_moment, mean, _ = _cumulant(loss, tilt)
    masses = np.exp(loss.log_mass + tilt * loss.loss - log_moment)
    positions = (loss.loss - mean) / interval
    keep = masses > np.finfo(np.float64).tiny
    return _spread(positions[keep], masses[keep], size)


def _spread(positions: FloatArray, masses: FloatArray, size: int) -> FloatArray:
    """Moves masses (points,) from real ``positions`` (points,) to whole places (size,), periodic.

    Three moments are kept. The weights are those of cubic Lagrange interpolation; some are negative, which is
    harmless in a sum.
    """
    place = np.floor(positions)
    rest = positions - place
    index = place.astype(np.int64)
    weights = (
        -rest * (rest - 1) * (rest - 2) / 6,
        (rest + 1) * (rest - 1) * (rest - 2) / 2,
        -(rest + 1) * rest * (rest - 2) / 2,
        (rest + 1) * rest * (rest - 1) / 6,
    )
    total = np.zeros(size)
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
        total += np.bincount((index + offset) % size, weights=masses * weight, minlength=size)
    return total


def _epsilon_at(losses: FloatArray, masses: FloatArray, delta: float) -> float:
    """Smallest epsilon >= 0 at which the sum of ``mass * (1 - exp(epsilon - loss))+`` is at most ``delta``.

    Infinite where it lies beyond what exponentials of losses relative to their middle can hold.
    """
    middle = float(losses[losses.size // 2])
    keep = losses > max(0.0, middle - _EXPONENT_RANGE)
    if not keep.any():
        return 0.0
    shifted, kept = losses[keep][::-1] - middle, masses[keep][::-1]
    above = np.cumsum(kept)
    far = int(np.count_nonzero(shifted > _EXPONENT_RANGE))
    if far and above[far - 1] > delta:
        return math.inf
    discounted = np.cumsum(kept * np.exp(-shifted))
    deltas = above - np.exp(np.minimum(shifted, _EXPONENT_RANGE)) * discounted
    deltas[:far] = 0.0
    passed = np.flatnonzero(deltas > delta)
    last = int(passed[0]) - 1 if passed.size else above.size - 1
    if last < 0 or above[last] <= delta or discounted[last] <= 0.0:
        return 0.0
    return max(0.0, middle + math.log((above[last] - delta) / discounted[last]))
