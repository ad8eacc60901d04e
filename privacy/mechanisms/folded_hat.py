"""Vectorised exact rejection for symmetric integer noise whose probabilities fall with the magnitude.

Write t(m) for the probability of m up to a constant, and half of it for m = 0. A magnitude m >= 0 with
probability proportional to t, then a fair sign, has the wanted distribution, because 0 and -0 are one outcome
and add up.

1. *Hat.* The magnitudes are cut into blocks of w = 2^i integers. With S an integer, block b has an integer
   weight h_b that is at least S t(m) for all of its m. The weights add up to 2^64, so Walker's alias method
   (Walker 1977) on integers, fed with 64 fair bits, selects block b with probability exactly h_b / 2^64.
2. *Offset.* w is a power of two, so i fair bits are a uniform offset.
3. *Acceptance* with probability a(m) = S t(m) / h_b <= 1. Together: P[m accepted] = h_b / 2^64 * 1/w *
   a(m), which is t(m) times a constant. Every rejected draw is repeated from scratch.
4. *Tail.* The last entry stands for all magnitudes from 7.5 standard deviations on. It selects its j-th block
   of W integers with probability 2^-(j+1); t must fall by more than a half from one such block to the next,
   so that one weight covers them all. Nothing is cut off.
5. *Lazy comparison.* "U < a" is decided on the first binary digits of U where that is certain: against a
   table of lower bounds, then against float64 with a proven margin, and otherwise against rational bounds
   with as many digits of U and of a as it takes. The answer is always that of real numbers.

The running time depends on how many draws are rejected; it is not constant.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.randomness import RandomSource

COIN_BITS = 28
CHUNK = 1 << 15  # temporaries of 256 KiB stay in a core's cache

_COLUMN_BITS = 10
_THRESHOLD_BITS = 64 - _COLUMN_BITS
_SIGN_BIT = 63 - COIN_BITS  # below the coin; the offset, at most 34 bits, lies below the sign
_TAIL = 7.5  # in sigma; block width > sigma / 128, so that there are at most 960 blocks and a tail


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How the magnitudes are cut into blocks.

    Attributes:
        width_bits: log2 of the block width w, which is in (sigma / 128, sigma / 64], or 1.
        tail_width_bits: log2 of the width W of the tail's blocks, W >= sigma / 8.
        blocks: How many blocks lie before the tail.
    """

    width_bits: int
    tail_width_bits: int
    blocks: int

    @property
    def starts(self) -> NDArray[np.float64]:
        """The smallest magnitude of every block and of the tail; float64 [blocks + 1]."""
        return np.arange(self.blocks + 1, dtype=np.float64) * 2.0**self.width_bits


def cut_magnitudes(sigma: float) -> Cut:
    """The blocks for a standard deviation of ``sigma``."""
    exponent = math.frexp(sigma)[1]  # 2^(exponent-1) <= sigma < 2^exponent
    width_bits = max(0, exponent - 7)
    return Cut(
        width_bits=width_bits,
        tail_width_bits=max(0, exponent - 3),
        blocks=math.ceil(_TAIL * sigma / 2**width_bits),
    )


@dataclass(frozen=True, kw_only=True)
class FoldedHat:
    """An integer hat over the magnitudes, its alias table, and bounds on the acceptance.

    Attributes:
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

    width_bits: int
    tail_start: int
    tail_width_bits: int
    scale: int
    weights: tuple[int, ...]
    threshold: NDArray[np.uint64]
    alias: NDArray[np.int64]
    squeeze: NDArray[np.uint64]
    ratio: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Freeze the tables: a cached hat hands the same arrays to every thread."""
        for table in (self.threshold, self.alias, self.squeeze, self.ratio):
            table.flags.writeable = False


def integer_weights(
    heights: NDArray[np.float64], *, cut: Cut, margin: float, headroom: float
) -> tuple[int, tuple[int, ...]]:
    """S and the weights h_b, which add up to 2^64.

    Args:
        heights: Largest t(m) of every block and of the tail, each at most the factor 1 + ``margin`` too small;
            float64 [blocks + 1].
        cut: The blocks.
        margin: What the heights are rounded up by, relatively.
        headroom: Share of 2^64 that S leaves for the rounding; far above ``margin``.
    """
    # 2 for the tail's first block, which has half of its weight; W / w because it spreads it over W integers.
    widened = heights.copy()
    widened[-1] *= 2.0 ** (1 + cut.tail_width_bits - cut.width_bits)
    scale = int(2.0**64 * (1 - headroom) / float(widened.sum()))
    weights = [int(scale * float(height) * (1 + margin)) + 1 for height in widened]
    weights[0] += 2**64 - sum(weights)  # a taller hat is still a hat
    return scale, tuple(weights)


def squeeze_table(lowest: NDArray[np.float64], *, margin: float) -> NDArray[np.uint64]:
    """Lower bounds on the acceptance in each block, in units of 2^-28, rounded down; uint64 [blocks + 1].

    Args:
        lowest: The smallest acceptance of every block, at most the factor 1 - ``margin`` too large; the tail
            last, whose draws are all decided exactly. float64 [blocks + 1].
        margin: What is taken off, relatively.
    """
    floor = lowest * (1 - margin) * 2.0**COIN_BITS
    floor[-1] = 0.0
    return np.floor(floor).astype(np.uint64)


def alias_table(weights: tuple[int, ...]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Walker's table on integers: 1024 columns of 2^54, each shared by at most two blocks (Vose 1991)."""
    columns, column = 1 << _COLUMN_BITS, 1 << _THRESHOLD_BITS
    left = [*weights] + [0] * (columns - len(weights))
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


Proposal = tuple[NDArray[np.int64], NDArray[np.intp]]
Settlement = tuple[NDArray[np.int64], NDArray[np.bool_]]


class Settle(Protocol):
    """Decides what the squeeze left open: the magnitudes (new in the tail), and which are accepted."""

    def __call__(
        self, magnitude: NDArray[np.int64], *, block: NDArray[np.int64], coin: NDArray[np.uint64]
    ) -> Settlement:
        """Decide for every magnitude, given its block and the leading digits of its uniform number."""


def sample_folded(size: int, *, propose: Callable[[int], Proposal], chunk: int) -> NDArray[np.int64]:
    """``size`` accepted draws of ``propose``; int64 [size]."""
    result = np.empty(size, dtype=np.int64)
    rejected = []
    for start in range(0, size, chunk):
        part = result[start : start + chunk]
        part[:], again = propose(part.size)
        rejected.append(again + start)
    pending = np.concatenate(rejected)
    while pending.size:
        result[pending], again = propose(pending.size)
        pending = pending[again]
    return result


def propose_folded(count: int, *, hat: FoldedHat, settle: Settle, random: RandomSource) -> Proposal:
    """One draw for each of ``count`` places: int64 [count], and the indices of those that were rejected."""
    selector, word = random.uint64(count), random.uint64(count)
    column = (selector & np.uint64((1 << _COLUMN_BITS) - 1)).view(np.int64)
    selector >>= np.uint64(_COLUMN_BITS)
    block = np.where(selector < _look_up(hat.threshold, column), column, _look_up(hat.alias, column))
    magnitude = block << hat.width_bits
    magnitude |= (word & np.uint64((1 << hat.width_bits) - 1)).view(np.int64)
    coin = word >> np.uint64(64 - COIN_BITS)
    doubtful = np.flatnonzero(coin >= _look_up(hat.squeeze, block))
    magnitude[doubtful], accepted = settle(magnitude[doubtful], block=block[doubtful], coin=coin[doubtful])
    word >>= np.uint64(_SIGN_BIT)
    sign = -(word & np.uint64(1)).view(np.int64)  # 0 or -1
    magnitude ^= sign
    magnitude -= sign  # two's complement: negated where the sign is -1
    return magnitude, doubtful[~accepted]


def _look_up(table: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
    # Every index is below the table's length; "clip" spares numpy a checking pass.
    return table.take(index, mode="clip")


class Accepts(Protocol):
    """Decides without error whether a uniform number is below the acceptance of a magnitude."""

    def __call__(self, magnitude: int, *, digits: int, digit_count: int) -> bool:
        """Decide, given the leading ``digit_count`` binary digits of the uniform number."""


def settle_folded(
    magnitude: NDArray[np.int64],
    *,
    in_tail: NDArray[np.bool_],
    coin: NDArray[np.uint64],
    chance: NDArray[np.float64],
    margin: float,
    accepts: Accepts,
    draw_tail: Callable[[], tuple[int, bool]],
    random: RandomSource,
) -> Settlement:
    """Settle by float64 where that is certain, and exactly elsewhere.

    Args:
        magnitude: int64 [n]; changed in place where the tail was selected.
        in_tail: Whether the tail was selected; bool [n].
        coin: The leading 28 binary digits of each uniform number; uint64 [n].
        chance: The acceptance in float64; its error below the tail is under ``margin`` less 2^-50; float64 [n].
        margin: Uniform numbers no farther than this from ``chance`` are compared exactly.
        accepts: The exact comparison.
        draw_tail: A magnitude from the tail and whether it is accepted.
        random: Where further digits come from.
    """
    extra = random.uint64(magnitude.size)
    finer = extra >> np.uint64(11 + COIN_BITS)
    uniform = coin * 2.0**-COIN_BITS + finer * 2.0**-53  # U, cut to 53 binary digits
    accepted = uniform < chance
    for index in np.flatnonzero((np.abs(uniform - chance) <= margin) & ~in_tail):
        digits = (int(coin[index]) << 64) | int(extra[index])
        accepted[index] = accepts(int(magnitude[index]), digits=digits, digit_count=COIN_BITS + 64)
    for index in np.flatnonzero(in_tail):
        magnitude[index], accepted[index] = draw_tail()
    return magnitude, accepted


def acceptance_factor(hat: FoldedHat, magnitude: int) -> Fraction:
    """S / h_b, half of it for 0: what an unfolded probability becomes the acceptance by, below the tail."""
    weight = hat.weights[magnitude >> hat.width_bits]
    return Fraction(hat.scale, weight if magnitude else 2 * weight)


def tail_candidate(hat: FoldedHat, *, random: RandomSource) -> tuple[int, Fraction]:
    """A magnitude from the tail, and what its t is to be multiplied with to give its acceptance."""
    step = 0
    while random.seed64() & 1:
        step += 1
    offset = random.seed64() & ((1 << hat.tail_width_bits) - 1)
    magnitude = hat.tail_start + (step << hat.tail_width_bits) + offset
    widening = 1 << (step + 1 + hat.tail_width_bits - hat.width_bits)
    return magnitude, Fraction(hat.scale * widening, hat.weights[-1])
