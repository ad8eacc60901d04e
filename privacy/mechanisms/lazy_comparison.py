"""Compare a uniform real number with a known one, exactly, drawing binary digits only as long as needed."""

from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction

from protocol.randomness import RandomSource


def is_below_enclosed(
    enclose: Callable[[int], tuple[Fraction, Fraction]], *, digits: int, digit_count: int, random: RandomSource
) -> bool:
    """Whether a uniform real number is below an irrational one, decided without error.

    Args:
        enclose: Given the number of binary digits that are known, rationals at or below and at or above the
            irrational number; their distance must go to zero as the number of digits grows.
        digits: The leading ``digit_count`` binary digits of the uniform number; more are drawn as needed.
        digit_count: How many digits are known already.
        random: Where the further digits come from.
    """
    while True:
        low, high = enclose(digit_count)
        if Fraction(digits + 1, 1 << digit_count) <= low:
            return True
        if Fraction(digits, 1 << digit_count) >= high:
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
