"""Exact samples of the discrete Gaussian, P[k] proportional to exp(-k^2 / 2 sigma^2) over the integers.

Definition and privacy: Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy",
section 2. Their algorithm draws one sample at a time; this one is a vectorised rejection sampler with the
same output distribution.

**Why it is exact.** Write t(m) = exp(-m^2 / 2 sigma^2) for m >= 1 and t(0) = 1/2. A magnitude m >= 0 with
probability proportional to t, then a fair sign, is the discrete Gaussian, because 0 and -0 are one outcome
and add up.

1. *Hat.* The magnitudes are cut into blocks of w = 2^i integers. With S an integer, block b has an integer
   weight h_b that is at least S t(m) for all of its m. The weights add up to 2^64, so Walker's alias method
   (Walker 1977) on integers, fed with 64 fair bits, selects block b with probability exactly h_b / 2^64.
2. *Offset.* w is a power of two, so i fair bits are a uniform offset.
3. *Acceptance* with probability a(m) = S t(m) / h_b <= 1. Together: P[m accepted] = h_b / 2^64 * 1/w *
   a(m), which is t(m) times a constant. Every rejected draw is repeated from scratch.
4. *Tail.* The last entry stands for all magnitudes from 7.5 sigma on. It selects its j-th block of W
   integers with probability 2^-(j+1); t falls by more than a half from one such block to the next, so one
   weight covers them all. Nothing is cut off.
5. *Lazy comparison.* "U < a" is decided on the first binary digits of U where that is certain: against a
   table of lower bounds, then against float64 with a proven margin, and otherwise against bounds from
   decimal arithmetic with as many digits of U and of a as it takes. The answer is always that of real
   numbers.

The running time depends on how many draws are rejected; it is not constant.
"""

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import InputError, PrivacyError
from protocol.randomness import RandomSource

SMALLEST_SIGMA = 0.3
LARGEST_SIGMA = 2.0**40

_COLUMN_BITS = 10
_THRESHOLD_BITS = 64 - _COLUMN_BITS
_COIN_BITS = 28
_SIGN_BIT = 63 - _COIN_BITS  # below the coin; the offset, at most 34 bits, lies below the sign
_TAIL = 7.5  # in sigma; block width > sigma / 128, so that there are at most 960 blocks and a tail
_CHUNK = 1 << 15  # temporaries of 256 KiB stay in a core's cache

# Everywhere below 7.6 sigma x = m^2 / 2 sigma^2 < 29. Four roundings of relative size 2^-53 move x by less
# than 2^-46, and with it exp(-x) relatively; ratio, product and an exp good to 4 units in the last place
# add less than 2^-49. A margin of 2^-40 is far above the sum.
_FLOAT_ERROR = 2.0**-40
_TABLE_MARGIN = 2.0**-40  # for the same reason: weights are rounded up by it, lower bounds down


def sample_discrete_gaussian(size: int, *, sigma: float, random: RandomSource) -> NDArray[np.int64]:
    """Independent samples of the discrete Gaussian with mean 0 and scale ``sigma``.

    **Formal guarantees.** The distribution is exact for the float64 value of ``sigma``: no rounding, no
    truncation (see the module's text). It rests on ``random`` being uniform.

    Args:
        size: How many samples, at least 1.
        sigma: Scale in integer steps, 0.3 to 2^40. From 1 on, the standard deviation is this within one
            part in a million.
        random: Where the bits come from.

    Returns:
        int64 [size].

    Raises:
        InputError: ``size`` is below 1.
        PrivacyError: ``sigma`` is out of range or not a number.

    Example:
        >>> from protocol.randomness import SystemRandom
        >>> noise = sample_discrete_gaussian(1000, sigma=100.0, random=SystemRandom())
        >>> noise.dtype, bool(abs(noise.mean()) < 30)
        (dtype('int64'), True)
    """
    if size < 1:
        raise InputError(f"the size of the noise is {size!r}.", remedy="Ask for at least one sample.")
    hat = build_hat(checked_sigma(sigma))
    result = np.empty(size, dtype=np.int64)
    rejected = []
    for start in range(0, size, _CHUNK):
        part = result[start : start + _CHUNK]
        part[:], again = _propose(part.size, hat=hat, random=random)
        rejected.append(again + start)
    pending = np.concatenate(rejected)
    while pending.size:
        result[pending], again = _propose(pending.size, hat=hat, random=random)
        pending = pending[again]
    return result


def checked_sigma(sigma: float) -> float:
    """``sigma`` if it can be sampled.

    Raises:
        PrivacyError: It is out of range or not a number.
    """
    if not SMALLEST_SIGMA <= sigma <= LARGEST_SIGMA:
        raise PrivacyError(
            f"the noise scale is {sigma!r} grid steps.",
            remedy="Choose a noise multiplier and a grid that put it between 0.3 and 2^40 steps.",
        )
    return float(sigma)


@dataclass(frozen=True, kw_only=True)
class Hat:
    """What depends on sigma alone: the integer hat, its alias table, and bounds on the acceptance.

    Attributes:
        sigma: Scale.
        width_bits: log2 of the block width w.
        tail_start: Smallest magnitude of the tail.
        tail_width_bits: log2 of the width W of the tail's blocks.
        scale: S, the height that t is multiplied with.
        weights: h_b of every block, the tail last; they add up to 2^64.
        threshold: uint64 [1024]; a column keeps itself below it.
        alias: int64 [1024]; the block that a column gives away the rest to.
        squeeze: uint64 [blocks]; a coin of 28 bits below it is accepted whatever the offset.
        ratio: float64 [blocks], S / h_b.
    """

    sigma: float
    width_bits: int
    tail_start: int
    tail_width_bits: int
    scale: int
    weights: tuple[int, ...]
    threshold: NDArray[np.uint64]
    alias: NDArray[np.int64]
    squeeze: NDArray[np.uint64]
    ratio: NDArray[np.float64]


@lru_cache(maxsize=64)
def build_hat(sigma: float) -> Hat:
    """The tables for one sigma, made once, in about a millisecond."""
    exponent = math.frexp(sigma)[1]  # 2^(exponent-1) <= sigma < 2^exponent
    width_bits = max(0, exponent - 7)  # w in (sigma / 128, sigma / 64], or 1
    # W >= sigma / 8: from 7.5 sigma on, t falls from block to block by at least exp(-7.5 / 8) < 1/2.
    tail_width_bits = max(0, exponent - 3)
    blocks = math.ceil(_TAIL * sigma / 2**width_bits)
    starts = np.arange(blocks + 1, dtype=np.float64) * 2.0**width_bits
    heights = np.exp(-0.5 * (starts / sigma) ** 2)
    if width_bits == 0:
        heights[0] = 0.5  # t(0); in a wider block t(1) is larger
    # 2 for the tail's first block, which has half of its weight; W / w because it spreads it over W integers.
    heights[-1] *= 2.0 ** (1 + tail_width_bits - width_bits)
    scale = int(2.0**64 * (1 - 2.0**-30) / float(heights.sum()))
    weights = [int(scale * float(height) * (1 + _TABLE_MARGIN)) + 1 for height in heights]
    weights[0] += 2**64 - sum(weights)  # a taller hat is still a hat
    ratio = np.array([scale / weight for weight in weights])
    threshold, alias = _alias_table(weights)
    hat = Hat(
        sigma=sigma,
        width_bits=width_bits,
        tail_start=blocks << width_bits,
        tail_width_bits=tail_width_bits,
        scale=scale,
        weights=tuple(weights),
        threshold=threshold,
        alias=alias,
        squeeze=_squeeze(ratio, starts=starts, sigma=sigma, width=2**width_bits),
        ratio=ratio,
    )
    for table in (hat.threshold, hat.alias, hat.squeeze, hat.ratio):
        table.flags.writeable = False  # the cache hands the same arrays to every thread
    return hat


def _squeeze(
    ratio: NDArray[np.float64], *, starts: NDArray[np.float64], sigma: float, width: int
) -> NDArray[np.uint64]:
    """Lower bounds on the acceptance in each block, in units of 2^-28, rounded down; uint64 [blocks]."""
    lowest = ratio * np.exp(-0.5 * ((starts + (width - 1)) / sigma) ** 2)
    lowest[0] = min(lowest[0], 0.5 * ratio[0])  # t(0) = 1/2
    lowest[-1] = 0.0  # the tail has no bound: each of its draws is decided exactly
    return np.floor(lowest * (1 - _TABLE_MARGIN) * 2.0**_COIN_BITS).astype(np.uint64)


def _alias_table(weights: list[int]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Walker's table on integers: 1024 columns of 2^54, each shared by at most two blocks (Vose 1991)."""
    columns, column = 1 << _COLUMN_BITS, 1 << _THRESHOLD_BITS
    left = weights + [0] * (columns - len(weights))
    threshold, alias = [column] * columns, list(range(columns))
    small = [index for index in range(columns) if left[index] < column]
    large = [index for index in range(columns) if left[index] > column]
    while small:
        poor, rich = small.pop(), large[-1]
        threshold[poor], alias[poor] = left[poor], rich
        left[rich] -= column - left[poor]
        if left[rich] <= column:
            large.pop()
            if left[rich] < column:
                small.append(rich)
    return np.array(threshold, dtype=np.uint64), np.array(alias, dtype=np.int64)


def _propose(count: int, *, hat: Hat, random: RandomSource) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """One draw for each of ``count`` places: int64 [count], and the indices of those that were rejected."""
    selector, word = random.uint64(count), random.uint64(count)
    column = (selector & np.uint64((1 << _COLUMN_BITS) - 1)).view(np.int64)
    selector >>= np.uint64(_COLUMN_BITS)
    block = np.where(selector < _look_up(hat.threshold, column), column, _look_up(hat.alias, column))
    magnitude = block << hat.width_bits
    magnitude |= (word & np.uint64((1 << hat.width_bits) - 1)).view(np.int64)
    coin = word >> np.uint64(64 - _COIN_BITS)
    doubtful = np.flatnonzero(coin >= _look_up(hat.squeeze, block))
    magnitude[doubtful], accepted = _settle(
        magnitude[doubtful], block=block[doubtful], coin=coin[doubtful], hat=hat, random=random
    )
    word >>= np.uint64(_SIGN_BIT)
    sign = -(word & np.uint64(1)).view(np.int64)  # 0 or -1
    magnitude ^= sign
    magnitude -= sign  # two's complement: negated where the sign is -1
    return magnitude, doubtful[~accepted]


def _look_up(table: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
    # Every index is below the table's length; "clip" spares numpy a checking pass.
    return table.take(index, mode="clip")


def _settle(
    magnitude: NDArray[np.int64],
    *,
    block: NDArray[np.int64],
    coin: NDArray[np.uint64],
    hat: Hat,
    random: RandomSource,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Decide what the squeeze left open: the magnitudes (new in the tail), and which are accepted."""
    extra = random.uint64(magnitude.size)
    finer = extra >> np.uint64(11 + _COIN_BITS)
    uniform = coin * 2.0**-_COIN_BITS + finer * 2.0**-53  # U, cut to 53 binary digits
    chance = hat.ratio[block] * np.exp(-0.5 * (magnitude / hat.sigma) ** 2)
    chance[magnitude == 0] *= 0.5
    accepted = uniform < chance
    in_tail = block == len(hat.weights) - 1
    for index in np.flatnonzero((np.abs(uniform - chance) <= _FLOAT_ERROR) & ~in_tail):
        digits = (int(coin[index]) << 64) | int(extra[index])
        accepted[index] = is_below(
            acceptance_factor(hat, int(magnitude[index])),
            exponent=_exponent(hat, int(magnitude[index])),
            digits=digits,
            digit_count=_COIN_BITS + 64,
            random=random,
        )
    for index in np.flatnonzero(in_tail):
        magnitude[index], accepted[index] = _draw_tail(hat, random=random)
    return magnitude, accepted


def acceptance_factor(hat: Hat, magnitude: int) -> Fraction:
    """What exp(-m^2 / 2 sigma^2) is multiplied with to give the acceptance of a magnitude below the tail."""
    weight = hat.weights[magnitude >> hat.width_bits]
    return Fraction(hat.scale, weight if magnitude else 2 * weight)


def _exponent(hat: Hat, magnitude: int) -> Fraction:
    return Fraction(magnitude) ** 2 / (2 * Fraction(hat.sigma) ** 2)


def _draw_tail(hat: Hat, *, random: RandomSource) -> tuple[int, bool]:
    """A magnitude from the tail and whether it is accepted; reached about once in 10^13 draws."""
    step = 0
    while random.seed64() & 1:
        step += 1
    offset = random.seed64() & ((1 << hat.tail_width_bits) - 1)
    magnitude = hat.tail_start + (step << hat.tail_width_bits) + offset
    widening = 1 << (step + 1 + hat.tail_width_bits - hat.width_bits)
    factor = Fraction(hat.scale * widening, hat.weights[-1])
    accepted = is_below(factor, exponent=_exponent(hat, magnitude), digits=0, digit_count=0, random=random)
    return magnitude, accepted


def is_below(factor: Fraction, *, exponent: Fraction, digits: int, digit_count: int, random: RandomSource) -> bool:
    """Whether a uniform real number is below ``factor * exp(-exponent)``, decided without error.

    Args:
        factor: Positive rational.
        exponent: Rational, not negative.
        digits: The leading ``digit_count`` binary digits of the number; more are drawn as needed.
        digit_count: How many digits are known already.
        random: Where the further digits come from.
    """
    while True:
        low, high = exponential_bounds(exponent, places=20 + digit_count // 3)
        if Fraction(digits + 1, 1 << digit_count) <= factor * low:
            return True
        if Fraction(digits, 1 << digit_count) >= factor * high:
            return False
        digits, digit_count = (digits << 64) | random.seed64(), digit_count + 64


def exponential_bounds(exponent: Fraction, *, places: int) -> tuple[Fraction, Fraction]:
    """Rationals strictly below and above exp(-exponent), about ``places`` significant decimals apart.

    ``decimal`` rounds exp correctly, so that the next decimal on either side of its answer is a bound.
    """
    numerator, denominator = Decimal(exponent.numerator), Decimal(exponent.denominator)
    smallest = Context(prec=places, rounding=ROUND_FLOOR).divide(numerator, denominator)
    largest = Context(prec=places, rounding=ROUND_CEILING).divide(numerator, denominator)
    nearest = Context(prec=places)
    low = nearest.next_minus(nearest.exp(largest.copy_negate()))
    high = nearest.next_plus(nearest.exp(smallest.copy_negate()))
    return Fraction(low), Fraction(high)
