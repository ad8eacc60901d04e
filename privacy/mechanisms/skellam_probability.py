"""Rational bounds, as close as wanted, on the probabilities of the symmetric Skellam distribution.

The distribution of variance v has the characteristic function exp(-v (1 - cos x)). The trapezoidal rule for
its Fourier integral on N points is exact but for aliases:

    1/N sum_j exp(-v (1 - cos x_j)) cos(k x_j) = sum_m P[k + m N],    x_j = 2 pi j / N, j = 0 ... N-1

because the left side is the discrete Fourier transform of P folded modulo N. So P[k] is that sum less a tail
that the Chernoff bound covers. The terms fall like those of a Gaussian, so that for ``bits`` binary digits
about as many terms suffice, whatever the variance is.
"""

from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from math import ceil, isqrt


def probability_bounds(magnitude: int, *, variance: Fraction, bits: int) -> tuple[Fraction, Fraction]:
    """Rationals 2^-bits apart below and above the probability of ``magnitude``.

    Three errors add up to less than 2^-(bits+1):

    * Aliases. With t = N / 2 >= the magnitude, all of them lie at t or beyond. Chernoff's bound
      P[Z >= t] <= exp(v (cosh y - 1) - t y), taken at y = min(t / v, 1), where cosh y - 1 < 0.55 y^2, is at
      most exp(-0.45 min(t^2 / v, t)). N is chosen so that both sides together have less than 2^-(bits+3).
    * Truncation. exp(-v (1 - cos x)) falls on [0, pi], and there are at most N terms: leaving out all from
      j on costs at most the value at j, which is under 2^-(bits+4).
    * Rounding of the fixed-point numbers, in units of 2^-F: every cosine is off by at most F/2 + 30, every
      exponent by v times as much plus 1; neither exp(-x) nor a product of numbers up to 1 magnifies that.
      The mean over N points is off by no more than its worst term, (v + 1) (F/2 + 30) + 5 < 2^(F-bits-8).

    Args:
        magnitude: k, not negative.
        variance: v, positive, at most 2^60.
        bits: Binary digits wanted, not negative.
    """
    log_points = _log_points(magnitude, variance=variance, bits=bits)
    fraction_bits = bits + ceil(variance + 1).bit_length() + 8 + (bits + 128).bit_length()
    negligible = 1 << (fraction_bits - bits - 5)
    half = 1 << (log_points - 1)
    total = 1 << fraction_bits  # the term of x = 0
    for j in range(1, half + 1):
        weight = _weight(j, log_points=log_points, variance=variance, fraction_bits=fraction_bits)
        if weight <= negligible:
            break
        wave = _cosine(j * magnitude, log_turn=log_points, fraction_bits=fraction_bits)
        total += (1 if j == half else 2) * ((weight * wave) >> fraction_bits)  # x and 2 pi - x; pi once
    estimate = Fraction(total, 1 << (log_points + fraction_bits))
    error = Fraction(1, 1 << (bits + 1))
    return estimate - error, estimate + error


def _log_points(magnitude: int, *, variance: Fraction, bits: int) -> int:
    """log2 of the number of points, which puts the aliases at ``reach`` or beyond."""
    exponent = (bits + 4) * Fraction(8, 5)  # 0.45 * 1.6 > ln 2
    reach = max(magnitude, isqrt(ceil(variance * exponent)) + 1, ceil(exponent))
    return (2 * reach - 1).bit_length()


def _weight(j: int, *, log_points: int, variance: Fraction, fraction_bits: int) -> int:
    """exp(-v (1 - cos x_j)) in units of 2^-F."""
    fall = (1 << fraction_bits) - _cosine(j, log_turn=log_points, fraction_bits=fraction_bits)
    exponent = max(0, variance.numerator * fall // variance.denominator)
    context = Context(prec=fraction_bits // 3 + 10)  # 10^-prec is under 2^-F / 10^9
    power = context.divide(Decimal(-exponent), Decimal(1 << fraction_bits))
    return int(context.multiply(context.exp(power), Decimal(1 << fraction_bits)))


def _cosine(numerator: int, *, log_turn: int, fraction_bits: int) -> int:
    """cos(2 pi numerator / 2^log_turn) in units of 2^-F.

    The angle is reduced to [0, pi/2] in integers and then off by at most 2 units. A step of Taylor's series
    turns an error of up to 2 units into (2 * 2.5 + 1.3 + 1) / (n (n + 1)) + 1 < 2 units from the second one
    on, and the first makes at most 2. With at most F/4 + 8 steps, the sum and the angle are off by less than
    F/2 + 30; what is left out after a term of 0 is smaller than that term's error.
    """
    turn = 1 << log_turn
    part = numerator % turn
    part = min(part, turn - part)
    negative = 4 * part > turn
    if negative:
        part = turn // 2 - part
    angle = (2 * _pi(fraction_bits) * part) >> log_turn
    square = (angle * angle) >> fraction_bits
    term = total = 1 << fraction_bits
    n = 1
    while term:
        term = ((term * square) >> fraction_bits) // (n * (n + 1))
        total += term if n & 2 else -term
        n += 2
    return -total if negative else total


@lru_cache(maxsize=32)
def _pi(fraction_bits: int) -> int:
    """Pi in units of 2^-F, rounded down: pi = 16 arctan(1/5) - 4 arctan(1/239) (Machin 1706).

    Each series has fewer than F terms, each off by less than two of its units, and 20 + log2 F bits are added.
    """
    guard = 20 + fraction_bits.bit_length()
    one = 1 << (fraction_bits + guard)
    return (16 * _inverse_tangent(5, one=one) - 4 * _inverse_tangent(239, one=one)) >> guard


def _inverse_tangent(inverse: int, *, one: int) -> int:
    """arctan(1 / inverse) in units of 1 / one."""
    power = one // inverse
    total, n = power, 1
    while power:
        power //= inverse * inverse
        n += 2
        total += power // n if n & 2 == 0 else -(power // n)
    return total
