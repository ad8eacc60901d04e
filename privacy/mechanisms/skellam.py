"""Exact samples of the symmetric Skellam distribution, the difference of two independent Poisson numbers.

Mechanism and privacy: Agarwal, Kairouz, Liu 2021, "The Skellam mechanism for differentially private federated
learning". Unlike discrete Gaussians, Skellam numbers add up to a Skellam number: where n sites add noise of
variance v / n each, the sum has exactly the noise of variance v.

P[k] = exp(-v) I_k(v) with the modified Bessel function I.

**Why it is exact.** It is the rejection of ``folded_hat`` with t(m) = P[m] for m >= 1 and t(0) = P[0] / 2.

* P falls with the magnitude. It is log-concave, as the convolution of log-concave distributions, so that
  r_k = P[k+1] / P[k] does not grow with k; with r_(k-1) = 1 / (2k/v + r_k) (DLMF 10.29.1) it follows that
  r_k (2k/v + r_k) <= 1, so r_k <= exp(-arsinh(k / v)).
* Tail. From k >= 7.5 sigma on, W >= max(1, sigma / 8) steps lower P by at least exp(-W arsinh(7.5 / sigma)),
  less than exp(-0.82) < 1/2.
* Float64. For sigma < 128 every block is one integer and its probability comes from the recurrence, in 50
  decimals. For sigma >= 128 it comes from an asymptotic formula with the error bound proven at
  ``_wide_probability``. What neither decides is decided by ``probability_bounds``, rational bounds with as
  many digits as it takes.

The running time depends on how many draws are rejected; it is not constant.
"""

import math
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from privacy.mechanisms.folded_hat import (
    CHUNK,
    Cut,
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
from privacy.mechanisms.lazy_comparison import is_below_enclosed
from privacy.mechanisms.skellam_probability import probability_bounds
from protocol.errors import InputError, PrivacyError
from protocol.randomness import RandomSource

SMALLEST_VARIANCE = 1.0
LARGEST_VARIANCE = 2.0**60

# The error of a probability in float64 is below 2^-30 + 2^-42, relatively (see _wide_probability).
_FLOAT_ERROR = 2.0**-29
_TABLE_MARGIN = 2.0**-29
_HEADROOM = 2.0**-24


def sample_skellam(size: int, *, variance: float, random: RandomSource) -> NDArray[np.int64]:
    """Independent samples of the symmetric Skellam distribution with mean 0.

    **Formal guarantees.** The distribution is exact for the float64 value of ``variance``: no rounding, no
    truncation (see the module's text). It rests on ``random`` being uniform.

    Args:
        size: How many samples, at least 1.
        variance: Variance in squared integer steps, 1 to 2^60: twice the mean of either Poisson number.
        random: Where the bits come from.

    Returns:
        int64 [size].

    Raises:
        InputError: ``size`` is below 1.
        PrivacyError: ``variance`` is out of range or not a number.

    Example:
        >>> from protocol.randomness import SystemRandom
        >>> noise = sample_skellam(1000, variance=10_000.0, random=SystemRandom())
        >>> noise.dtype, bool(abs(noise.mean()) < 30)
        (dtype('int64'), True)
    """
    if size < 1:
        raise InputError(f"the size of the noise is {size!r}.", remedy="Ask for at least one sample.")
    hat = build_hat(checked_variance(variance))
    return sample_folded(size, propose=partial(_propose, hat=hat, random=random), chunk=CHUNK)


def checked_variance(variance: float) -> float:
    """``variance`` if it can be sampled.

    Raises:
        PrivacyError: It is out of range or not a number.
    """
    if not SMALLEST_VARIANCE <= variance <= LARGEST_VARIANCE:
        raise PrivacyError(
            f"the noise variance is {variance!r} squared grid steps.",
            remedy="Choose a noise multiplier and a grid that put it between 1 and 2^60.",
        )
    return float(variance)


def renyi_bound(*, order: float, l1_sensitivity: float, l2_sensitivity: float, variance: float) -> float:
    """Upper bound on the Renyi divergence between the noisy answers to two neighbouring data sets.

    The bound on integer vectors plus independent Skellam noise in every coordinate, from the section on
    Renyi divergence of Agarwal, Kairouz, Liu 2021, is stated there for integer orders. For an order between
    two integers it is interpolated: (order - 1) times the divergence is convex in the order and 0 at order 1
    (van Erven, Harremoes 2014, "Renyi divergence and Kullback-Leibler divergence").

    Args:
        order: Order of the divergence, above 1.
        l1_sensitivity: Largest sum of absolute differences between neighbours, in integer steps.
        l2_sensitivity: Largest Euclidean distance between neighbours, in integer steps; at most the former.
        variance: Variance of the noise in each coordinate, in squared integer steps.

    Returns:
        The bound in nats, without a margin for the few roundings of float64.

    Raises:
        PrivacyError: An argument is out of range, infinite or not a number.

    Example:
        >>> round(renyi_bound(order=2, l1_sensitivity=1.0, l2_sensitivity=1.0, variance=100.0), 6)
        0.010225
    """
    if not 1 < order < math.inf:
        raise PrivacyError(f"the Renyi order is {order!r}.", remedy="Choose a finite order above 1.")
    if not 0 < variance < math.inf:
        raise PrivacyError(f"the noise variance is {variance!r}.", remedy="Choose a positive variance.")
    if not 0 <= l2_sensitivity <= l1_sensitivity < math.inf:
        raise PrivacyError(
            f"the sensitivities are {l1_sensitivity!r} (l1) and {l2_sensitivity!r} (l2).",
            remedy="Give finite sensitivities, none negative; l1 is never below l2.",
        )
    bound = partial(
        _integer_order_bound, l1=float(l1_sensitivity), square=float(l2_sensitivity) ** 2, variance=variance
    )
    below, share = math.floor(order), order - math.floor(order)
    if not share:
        return bound(below)
    low = (below - 1) * bound(below) if below > 1 else 0.0
    return ((1 - share) * low + share * below * bound(below + 1)) / (order - 1)


def _integer_order_bound(order: int, *, l1: float, square: float, variance: float) -> float:
    excess = min(((2 * order - 1) * square + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
    return order * square / (2 * variance) + excess


@dataclass(frozen=True, kw_only=True)
class SkellamHat(FoldedHat):
    """What depends on the variance alone.

    Attributes:
        variance: v.
        narrow: P of 0, 1, ... where every block is one integer, float64 [blocks + 1]; else empty.
    """

    variance: float
    narrow: NDArray[np.float64]


@lru_cache(maxsize=64)
def build_hat(variance: float) -> SkellamHat:
    """The tables for one variance, made once, in a few milliseconds."""
    cut = cut_magnitudes(math.sqrt(variance))
    narrow = _narrow_probabilities(variance, cut=cut) if cut.width_bits == 0 else np.empty(0)
    heights = _probability(cut.starts, variance=variance, narrow=narrow)
    if cut.width_bits == 0:
        heights[0] *= 0.5  # t(0); in a wider block t(1) is larger
    scale, weights = integer_weights(heights, cut=cut, margin=_TABLE_MARGIN, headroom=_HEADROOM)
    ratio = np.array([scale / weight for weight in weights])
    lowest = ratio * _probability(cut.starts + (2**cut.width_bits - 1), variance=variance, narrow=narrow)
    lowest[0] = min(lowest[0], ratio[0] * heights[0] / (1 if cut.width_bits == 0 else 2))  # t(0) = P[0] / 2
    threshold, alias = alias_table(weights)
    narrow.flags.writeable = False
    return SkellamHat(
        variance=variance,
        narrow=narrow,
        width_bits=cut.width_bits,
        tail_start=cut.blocks << cut.width_bits,
        tail_width_bits=cut.tail_width_bits,
        scale=scale,
        weights=weights,
        threshold=threshold,
        alias=alias,
        squeeze=squeeze_table(lowest, margin=2 * _TABLE_MARGIN),
        ratio=ratio,
    )


def _probability(
    magnitude: NDArray[np.int64] | NDArray[np.float64], *, variance: float, narrow: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P of magnitudes up to a block beyond 7.5 sigma, off by less than 2^-29 relatively; a new array."""
    if narrow.size:
        return narrow[magnitude.astype(np.int64)]
    return _wide_probability(magnitude.astype(np.float64), variance=variance)


def _wide_probability(magnitude: NDArray[np.float64], *, variance: float) -> NDArray[np.float64]:
    """P of magnitudes up to 8 sigma for v >= 2^13, off by less than 0.2 / v^2 + 2^-42 relatively.

    Move the path of the Fourier integral to x + i y with sinh y = k / v. With V = sqrt(v^2 + k^2),

        P[k] = exp(V - v - k arsinh(k/v)) J,  J = 1/(2 pi) integral exp(-V (1 - cos x)) cos(k (x - sin x)) dx

    over [-pi, pi]. Substitute s = 2 sin(x/2), so that 1 - cos x = s^2 / 2 and dx = ds / sqrt(1 - s^2/4), and
    write G(f) for the mean of f under a normal law of variance 1/V. What |s| > 1 adds is below exp(-V/2),
    which is nothing at V >= 2^13. On |s| <= 1:

    * 1 + s^2/8 <= (1 - s^2/4)^(-1/2) <= 1 + s^2/8 + s^4/32: the integral without the cosine, times
      sqrt(2 pi V), is 1 + 1/(8V) + e with 0 <= e <= G(s^4)/32 = 0.094 / V^2.
    * 1 - cos z lies between z^2/2 - z^4/24 and z^2/2, and x - sin x between x^3/6 - x^5/120 and x^3/6, and x
      between |s| and |s| (1 + 0.0473 s^2) for x >= 0: what the cosine takes away is 5 k^2/(24 V^3) + e with
      -0.17 k^2/V^4 - 0.7 k^4/V^6 <= e <= 0.78 k^2/V^4, from G(s^6) = 15/V^3, G(s^8) = 105/V^4 and
      G(s^12) = 10395/V^6. With k^2 <= 64 V this is below 50 / V^3 + 2900 / V^4 < 0.01 / V^2.

    In float64 the two terms of the exponent are below 64 and off by less than 2^-50 relatively each.
    """
    radius = np.hypot(variance, magnitude)
    exponent = magnitude * (magnitude / (radius + variance)) - magnitude * np.arcsinh(magnitude / variance)
    correction = 1 + 1 / (8 * radius) - 5 * (magnitude / radius) ** 2 / (24 * radius)
    return np.asarray(np.exp(exponent) * correction / np.sqrt(2 * np.pi * radius))


def _narrow_probabilities(variance: float, *, cut: Cut) -> NDArray[np.float64]:
    """P of 0, 1, ... up to the tail's start, off by less than 2^-50 relatively; float64 [blocks + 1].

    r_(k-1) = 1 / (2k/v + r_k) is run downwards from a guess of 1 in 50 decimals. With the true r_k in (0, 1), a
    step divides the error of log r by 1 + 2k/v or more: the steps above twice the tail's start, 15 sigma, leave
    less than exp(-100) of it. What lies beyond the last term of the sum is below 2^-70 by the Chernoff bound.
    """
    context = Context(prec=50)
    slope = context.divide(Decimal(2), Decimal(variance))
    last = 2 * cut.blocks + 100
    ratios, ratio = [Decimal(0)] * last, Decimal(1)
    for k in range(3 * cut.blocks + 200, 0, -1):
        ratio = context.divide(Decimal(1), context.fma(slope, Decimal(k), ratio))
        if k <= last:
            ratios[k - 1] = ratio
    relative = [Decimal(1)]
    for ratio in ratios:
        relative.append(context.multiply(relative[-1], ratio))
    total = Decimal(1)
    for height in relative[1:]:
        total = context.fma(Decimal(2), height, total)
    return np.array([float(context.divide(height, total)) for height in relative[: cut.blocks + 1]])


def _propose(count: int, *, hat: SkellamHat, random: RandomSource) -> Proposal:
    """One draw for each of ``count`` places: int64 [count], and the indices of those that were rejected."""
    return propose_folded(count, hat=hat, settle=partial(_settle, hat=hat, random=random), random=random)


def _settle(
    magnitude: NDArray[np.int64],
    *,
    block: NDArray[np.int64],
    coin: NDArray[np.uint64],
    hat: SkellamHat,
    random: RandomSource,
) -> Settlement:
    """Decide what the squeeze left open: the magnitudes (new in the tail), and which are accepted."""
    chance = hat.ratio[block] * _probability(magnitude, variance=hat.variance, narrow=hat.narrow)
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


def _accepts(magnitude: int, *, digits: int, digit_count: int, hat: SkellamHat, random: RandomSource) -> bool:
    """Whether the uniform number with these digits is below the acceptance of a magnitude before the tail."""
    return is_below(
        acceptance_factor(hat, magnitude),
        magnitude=magnitude,
        variance=hat.variance,
        digits=digits,
        digit_count=digit_count,
        random=random,
    )


def _draw_tail(hat: SkellamHat, *, random: RandomSource) -> tuple[int, bool]:
    """A magnitude from the tail and whether it is accepted; reached at most once in some 3 million draws."""
    magnitude, factor = tail_candidate(hat, random=random)
    variance = hat.variance
    return magnitude, is_below(factor, magnitude=magnitude, variance=variance, digits=0, digit_count=0, random=random)


def is_below(
    factor: Fraction, *, magnitude: int, variance: float, digits: int, digit_count: int, random: RandomSource
) -> bool:
    """Whether a uniform real number is below ``factor`` times the probability of ``magnitude``.

    Args:
        factor: Positive rational.
        magnitude: Not negative.
        variance: Variance of the Skellam distribution; the float64 is taken at its exact value.
        digits: The leading ``digit_count`` binary digits of the number; more are drawn as needed.
        digit_count: How many digits are known already.
        random: Where the further digits come from.
    """

    def enclose(known: int) -> tuple[Fraction, Fraction]:
        bits = known + 20 + math.ceil(factor).bit_length()
        low, high = probability_bounds(magnitude, variance=Fraction(variance), bits=bits)
        return factor * low, factor * high

    return is_below_enclosed(enclose, digits=digits, digit_count=digit_count, random=random)
