"""Auditing f-differential privacy in one run (Mahloujifar, Melis, Chaudhuri 2024).

Where the shape of the mechanism's trade-off function is known up to its strength, right guesses tell more than
through an (epsilon, delta) alone. The setting is that of `privacy.audit.one_run`.

Why it holds. Let N be the number of right guesses among r made on m canaries. Take one canary, and the event
that at least c - 1 of the *other* guesses are right: it does not depend on this canary's coin, so privacy bounds
the chance of "the event, and this guess right" by 1 - f of the chance of "the event, and this guess wrong".
Averaged over canaries (1 - f is concave), with p_j = P[N = j] and g the inverse of 1 - f:

    g( sum_{j >= c} (j / m) p_j )  <=  sum_{j >= c-1} ((r - j) / m) p_j      for every c.

If P[N >= v] were a, the least total probability that these inequalities leave room for is found from the top:
a sits on v; then each p_{c-1} is the least that its inequality allows. (Let R and H be the two sums, and
primed ones those of any other solution with total mass T' >= T down to c. By induction R' >= R + (c / m)(T' - T):
excess mass sits on values of at least c. As y + g(y) rises at least as fast as y, the other solution's next mass
is smaller by at most (T' - T)(r - c) / (r - c + 1), so its total stays above.) A total above one refutes a.
"""

import math
from collections.abc import Callable

from privacy.audit.intervals import significance
from privacy.audit.one_run import Guesses
from privacy.audit.trade_off import Curve, Family

_TOLERANCE = 1e-4
_LEAST_P_VALUE = 1e-300


def refutes(guesses: Guesses, curve: Curve, *, confidence: float) -> bool:
    """Tells whether the counts refute a trade-off function.

    A mechanism that has the trade-off function is refuted in at most ``1 - confidence`` of the runs, provided
    that the number of guesses was fixed without looking at who was in.

    Args:
        guesses: The counts.
        curve: Inverse blow-up curve: the least false positive rate at a true positive rate, in both directions
            of add/remove; rising, convex, 0 at 0.
        confidence: Confidence, in (0, 1).

    Returns:
        Whether as many right guesses have a chance below ``1 - confidence``.

    Raises:
        InputError: If the confidence is out of range.
    """
    return _too_likely(guesses, curve, significance(confidence))


def p_value(guesses: Guesses, curve: Curve) -> float:
    """Bounds the chance of at least as many right guesses under a trade-off function.

    Args:
        guesses: The counts.
        curve: As for `refutes`.

    Returns:
        The bound, to a part in a million; at most 1.

    Example:
        >>> round(p_value(Guesses(canaries=2, made=2, right=2), lambda rate: rate / 3.0), 4)
        0.5625
    """
    if not _too_likely(guesses, curve, 1.0 - 1e-9):
        return 1.0
    low, high = math.log(_LEAST_P_VALUE), 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2.0
        low, high = (low, middle) if _too_likely(guesses, curve, math.exp(middle)) else (middle, high)
    return math.exp(high)


def lower_bound(guesses: Guesses, *, family: Family, delta: float, confidence: float) -> float:
    """Finds the largest epsilon whose mechanism in a family the counts refute.

    It bounds epsilon from below if the mechanism belongs to the family, whatever its strength. The family must be
    named before looking.

    Args:
        guesses: The counts.
        family: The family of mechanisms.
        delta: Delta at which epsilon is bounded.
        confidence: Confidence of the bound, in (0, 1).

    Returns:
        The bound, at least 0; at most the epsilon of the family's largest strength.

    Raises:
        InputError: If an argument is out of range.
    """
    strength = refuted_strength(guesses, family=family, confidence=confidence)
    return 0.0 if strength is None else family.epsilon(strength, delta)


def refuted_strength(guesses: Guesses, *, family: Family, confidence: float) -> float | None:
    """The largest strength of a family that the counts refute, to a part in ten thousand; None if they refute none."""

    def refuted(strength: float) -> bool:
        return refutes(guesses, family.curve(strength), confidence=confidence)

    if guesses.right * 2 <= guesses.made or not refuted(family.least):
        return None
    return _last(refuted, family.least, family.most)


def _last(holds: Callable[[float], bool], low: float, most: float) -> float:
    """The last place up to ``most`` where ``holds``, which holds at ``low``; in ratios, and from below."""
    high = min(2.0 * low, most)
    while holds(high):
        if high == most:
            return most
        low, high = high, min(2.0 * high, most)
    while high / low > 1.0 + _TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _too_likely(guesses: Guesses, curve: Curve, chance: float) -> bool:
    """Whether N >= right with this chance would force a total probability above one (see the module)."""
    canaries, made = guesses.canaries, guesses.made
    rights, wrongs = chance * guesses.right / canaries, chance * (made - guesses.right) / canaries
    room = made / canaries
    for reached in range(guesses.right - 1, -1, -1):
        forced = curve(min(rights, 1.0)) - wrongs
        if forced <= 0.0:  # then nothing below is forced either: neither sum changes any more
            return False
        rights += forced * reached / (made - reached)
        wrongs += forced
        if rights + wrongs > room:
            return True
    return False
