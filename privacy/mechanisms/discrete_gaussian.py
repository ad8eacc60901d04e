"""Exact samples of the discrete Gaussian, P[k] proportional to exp(-k^2 / 2 sigma^2) over the integers.

Definition and privacy: Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy",
section 2. Their algorithm draws one sample at a time; this one is a vectorised rejection sampler with the
same output distribution.

**Why it is exact.** It is the rejection of ``folded_hat`` with t(m) = exp(-m^2 / 2 sigma^2) for m >= 1 and
t(0) = 1/2. In the tail, from 7.5 sigma on, t falls by more than a half from one block of at least sigma / 8
integers to the next. What float64 cannot decide is decided by bounds from decimal arithmetic with as many
digits as it takes, so that the answer is always that of real numbers.

The running time depends on how many draws are rejected; it is not constant.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from privacy.mechanisms.folded_hat import (
    CHUNK,
    FoldedHat,
    Proposal,
    Settlement,
    acceptance_factor,
    alias_table,
    cut_magnitudes,
    integer_weights,
    propose_folded,
    sample_folded,
    settle_folded,
    squeeze_table,
    tail_candidate,
)
from privacy.mechanisms.lazy_comparison import exponential_bounds, is_below_enclosed
from protocol.errors import InputError, PrivacyError
from protocol.randomness import RandomSource

SMALLEST_SIGMA = 0.3
LARGEST_SIGMA = 2.0**40

_CHUNK = CHUNK

# Everywhere below 7.6 sigma x = m^2 / 2 sigma^2 < 29. Four roundings of relative size 2^-53 move x by less
# than 2^-46, and with it exp(-x) relatively; ratio, product and an exp good to 4 units in the last place
# add less than 2^-49. A margin of 2^-40 is far above the sum.
_FLOAT_ERROR = 2.0**-40
_TABLE_MARGIN = 2.0**-40  # for the same reason: weights are rounded up by it, lower bounds down
_HEADROOM = 2.0**-30


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
    return sample_folded(size, propose=partial(_propose, hat=hat, random=random), chunk=_CHUNK)


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
class Hat(FoldedHat):
    """What depends on sigma alone.

    Attributes:
        sigma: Scale.
    """

    sigma: float


@lru_cache(maxsize=64)
def build_hat(sigma: float) -> Hat:
    """The tables for one sigma, made once, in about a millisecond."""
    # W >= sigma / 8: from 7.5 sigma on, t falls from block to block by at least exp(-7.5 / 8) < 1/2.
    cut = cut_magnitudes(sigma)
    heights = np.exp(-0.5 * (cut.starts / sigma) ** 2)
    if cut.width_bits == 0:
        heights[0] = 0.5  # t(0); in a wider block t(1) is larger
    scale, weights = integer_weights(heights, cut=cut, margin=_TABLE_MARGIN, headroom=_HEADROOM)
    ratio = np.array([scale / weight for weight in weights])
    lowest = ratio * np.exp(-0.5 * ((cut.starts + (2**cut.width_bits - 1)) / sigma) ** 2)
    lowest[0] = min(lowest[0], 0.5 * ratio[0])  # t(0) = 1/2
    threshold, alias = alias_table(weights)
    return Hat(
        sigma=sigma,
        width_bits=cut.width_bits,
        tail_start=cut.blocks << cut.width_bits,
        tail_width_bits=cut.tail_width_bits,
        scale=scale,
        weights=weights,
        threshold=threshold,
        alias=alias,
        squeeze=squeeze_table(lowest, margin=_TABLE_MARGIN),
        ratio=ratio,
    )


def _propose(count: int, *, hat: Hat, random: RandomSource) -> Proposal:
    """One draw for each of ``count`` places: int64 [count], and the indices of those that were rejected."""
    return propose_folded(count, hat=hat, settle=partial(_settle, hat=hat, random=random), random=random)


def _settle(
    magnitude: NDArray[np.int64],
    *,
    block: NDArray[np.int64],
    coin: NDArray[np.uint64],
    hat: Hat,
    random: RandomSource,
) -> Settlement:
    """Decide what the squeeze left open: the magnitudes (new in the tail), and which are accepted."""
    chance = hat.ratio[block] * np.exp(-0.5 * (magnitude / hat.sigma) ** 2)
    chance[magnitude == 0] *= 0.5
    return settle_folded(
        magnitude,
        in_tail=block == len(hat.weights) - 1,
        coin=coin,
        chance=chance,
        margin=_FLOAT_ERROR,
        accepts=partial(_accepts, hat=hat, random=random),
        draw_tail=partial(_draw_tail, hat, random=random),
        random=random,
    )


def _accepts(magnitude: int, *, digits: int, digit_count: int, hat: Hat, random: RandomSource) -> bool:
    """Whether the uniform number with these digits is below the acceptance of a magnitude before the tail."""
    factor, exponent = acceptance_factor(hat, magnitude), _exponent(hat, magnitude)
    return is_below(factor, exponent=exponent, digits=digits, digit_count=digit_count, random=random)


def _exponent(hat: Hat, magnitude: int) -> Fraction:
    return Fraction(magnitude) ** 2 / (2 * Fraction(hat.sigma) ** 2)


def _draw_tail(hat: Hat, *, random: RandomSource) -> tuple[int, bool]:
    """A magnitude from the tail and whether it is accepted; reached about once in 10^13 draws."""
    magnitude, factor = tail_candidate(hat, random=random)
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

    def enclose(known: int) -> tuple[Fraction, Fraction]:
        low, high = exponential_bounds(exponent, places=20 + known // 3)
        return factor * low, factor * high

    return is_below_enclosed(enclose, digits=digits, digit_count=digit_count, random=random)
