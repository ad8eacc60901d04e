"""Privacy auditing with one training run: a lower bound on epsilon from right guesses.

Every canary is put in by its own fair coin. An attacker who sees only what was released guesses, for some of
the canaries, whether they were in. Privacy bounds how often such guesses can all be right (Steinke, Nasr,
Jagielski 2023, theorem 5.2).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from privacy.audit.intervals import significance
from privacy.audit.trade_off import Curve, guess_choices, perfect_right
from protocol.errors import InputError

_MOST_EPSILON = 40.0  # above it the odds of a wrong guess are below 1e-17
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """How an attacker fared in one run.

    Attributes:
        canaries: Number of canaries, each put in by its own fair coin.
        made: Number of guesses, chosen without looking at who was in; from 1 to ``canaries``.
        right: Number of right guesses.

    Raises:
        InputError: If a number is no integer or out of range.
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        for name, least, most in (("canaries", 1, 10**9), ("made", 1, self.canaries), ("right", 0, self.made)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
                raise InputError(f"{name} is {value!r}, not an integer in [{least}, {most}].", remedy="Count again.")
            object.__setattr__(self, name, int(value))

    def scaled(self, canaries: int) -> "Guesses":
        """The same attack on another number of canaries, with the same shares of guesses and of right ones."""
        made = min(canaries, max(1, round(self.made * (canaries / self.canaries))))
        right = min(made, math.floor(self.right / self.made * made + 1e-9))
        return Guesses(canaries=canaries, made=made, right=right)


def guess(scores: ArrayLike, included: ArrayLike, *, made: int) -> Guesses:
    """Guesses *in* for the highest scores and *out* for the lowest, half each, and counts what was right.

    Canaries with equal scores cannot be told apart; where a tie straddles the last guess, the wrong guesses
    are counted first. So the order of the arrays never helps the attacker, and the count is never above that of
    some blind order.

    Args:
        scores: Suspicion of each canary, shape (canaries,); finite. They may depend on the release only, never on
            who was in.
        included: Whether each canary was in, shape (canaries,), bool.
        made: Number of guesses, from 1 to the number of canaries; an odd one is a guess of *in*.

    Returns:
        The counts.

    Raises:
        InputError: If shapes or types do not fit, or a score is not finite.

    Example:
        >>> guess([3.0, 2.0, 1.0, 0.0], [True, False, False, False], made=2)
        Guesses(canaries=4, made=2, right=2)
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(included)
    if values.ndim != 1 or values.shape != truth.shape or truth.dtype != np.bool_ or not np.isfinite(values).all():
        raise InputError("scores and included are no finite numbers and truths of one length.", remedy="Align them.")
    if not 1 <= made <= values.size:
        raise InputError(f"made is {made}, not in [1, {values.size}].", remedy="Guess at most once per canary.")
    saying_in = (made + 1) // 2
    highest = np.lexsort((truth, -values))[:saying_in]
    rest = np.setdiff1d(np.arange(values.size), highest, assume_unique=True)
    lowest = rest[np.lexsort((~truth[rest], values[rest]))[: made - saying_in]]
    right = int(truth[highest].sum() + (~truth[lowest]).sum())
    return Guesses(canaries=values.size, made=made, right=right)


def p_value(guesses: Guesses, *, epsilon: float, delta: float) -> float:
    """Bounds the chance of at least as many right guesses under (epsilon, delta)-privacy.

    Theorem 5.2 of Steinke, Nasr, Jagielski 2023: with F(v) the chance that a binomial of ``made`` trials at
    ``exp(epsilon) / (1 + exp(epsilon))`` reaches v, it is at most
    ``F(right) + 2 canaries delta max_i (F(right - i) - F(right)) / i``. It is used where F(right) is below a half, as
    every test does. Above, 1 is returned: there the formula is no bound for some mechanisms (on two canaries with
    epsilon 1 and delta 0.05 one right guess can have the chance 0.9447, and the formula says 0.9421).

    Args:
        guesses: The counts.
        epsilon: Epsilon under test, at least 0, add/remove.
        delta: Delta under test, in [0, 1].

    Returns:
        The bound, at most 1.

    Raises:
        InputError: If epsilon or delta is out of range.

    Example:
        >>> round(p_value(Guesses(canaries=10, made=10, right=9), epsilon=0.0, delta=0.0), 6)
        0.010742
    """
    if not 0.0 <= epsilon < math.inf or not 0.0 <= delta <= 1.0:
        raise InputError(f"epsilon {epsilon} or delta {delta} is out of range.", remedy="Give those of the claim.")
    reach = _tail(guesses, epsilon, np.array([guesses.right]))[0]
    if reach >= 0.5:
        return 1.0
    if delta == 0.0:
        return float(reach)
    fewer = _candidates(guesses, epsilon)
    gains = (_tail(guesses, epsilon, guesses.right - fewer) - reach) / fewer
    return float(min(1.0, reach + 2.0 * guesses.canaries * delta * gains.max()))


def lower_bound(guesses: Guesses, *, delta: float, confidence: float) -> float:
    """Finds the largest epsilon that the counts refute.

    A mechanism that is (epsilon, delta)-private gets a bound above epsilon in at most ``1 - confidence`` of the
    runs, provided that the number of guesses was fixed without looking at who was in: beforehand (see
    `guesses_beforehand`) or with a correction (see `corrected`).

    Args:
        guesses: The counts.
        delta: Delta at which epsilon is bounded, in [0, 1].
        confidence: Confidence of the bound, in (0, 1).

    Returns:
        The bound, at least 0.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> round(lower_bound(Guesses(canaries=100, made=100, right=100), delta=0.0, confidence=0.95), 3)
        3.493
    """
    error = significance(confidence)
    if p_value(guesses, epsilon=0.0, delta=delta) > error:
        return 0.0
    low, high = 0.0, _MOST_EPSILON
    while high - low > _TOLERANCE:
        middle = (low + high) / 2.0
        refuted = p_value(guesses, epsilon=middle, delta=delta) <= error
        low, high = (middle, high) if refuted else (low, middle)
    return low


def corrected(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    choices: Sequence[int],
    bound: Callable[[Guesses, float], float],
    confidence: float,
) -> tuple[float, Guesses]:
    """Takes the best of several numbers of guesses, and pays for having looked at all.

    Each of k choices is held to ``1 - (1 - confidence) / k``, so that the chance that any of them is wrong stays
    below ``1 - confidence`` (union bound). Against the choice of `guesses_beforehand`, eight choices cost 0.1 of
    epsilon with `lower_bound` and 0.3 with that of `privacy.audit.f_dp` (mean of 200 perfect attacks on 1,000
    canaries in a sampled Gaussian mechanism of epsilon 4 at delta 1e-5: rate 0.05, 300 steps).

    Args:
        scores: As for `guess`.
        included: As for `guess`.
        choices: Numbers of guesses to try, named before looking; at least one.
        bound: From counts and a confidence to a lower bound on epsilon.
        confidence: Confidence of the result, in (0, 1).

    Returns:
        The bound, and the counts that gave it.

    Raises:
        InputError: If there is no choice or an argument does not fit.
    """
    if not choices:
        raise InputError("There is no number of guesses to try.", remedy="Name at least one.")
    each = 1.0 - significance(confidence) / len(choices)
    tried = [guess(scores, included, made=made) for made in choices]
    bounds = [bound(counts, each) for counts in tried]
    best = int(np.argmax(bounds))
    return bounds[best], tried[best]


def guesses_beforehand(canaries: int, *, curve: Curve, bound: Callable[[Guesses], float]) -> int:
    """Chooses the number of guesses that would show most if the mechanism were as expected.

    It looks at no score, so nothing has to be corrected.

    Args:
        canaries: Number of canaries.
        curve: Inverse blow-up curve of the mechanism that is expected.
        bound: From counts to the lower bound that will be used.

    Returns:
        The number of guesses.
    """
    choices = guess_choices(canaries)
    shown = [bound(_perfect(curve, canaries, made)) for made in choices]
    return choices[int(np.argmax(shown))]


def ceiling(canaries: int, *, curve: Curve, bound: Callable[[Guesses], float], made: int | None = None) -> float:
    """The bound that a perfect attacker shows in the middle run: no attack is to blame for what is above it.

    Args:
        canaries: Number of canaries.
        curve: Inverse blow-up curve of the mechanism; ``no_privacy`` for the most that this many canaries can show.
        bound: From counts to a lower bound on epsilon, e.g. `lower_bound` at a delta and confidence.
        made: Number of guesses; the best one where it is None.

    Returns:
        The bound.

    Example:
        >>> bound = lambda counts: lower_bound(counts, delta=1e-5, confidence=0.95)
        >>> round(ceiling(1000, curve=no_privacy, bound=bound), 2)
        5.78
    """
    chosen = guesses_beforehand(canaries, curve=curve, bound=bound) if made is None else made
    return bound(_perfect(curve, canaries, chosen))


def no_privacy(rate: float) -> float:
    """The inverse blow-up curve of a mechanism that hides nothing: any true positive rate at no false positive."""
    return 0.0 * rate


def _perfect(curve: Curve, canaries: int, made: int) -> Guesses:
    return Guesses(canaries=canaries, made=made, right=perfect_right(curve, canaries, made))


def _tail(guesses: Guesses, epsilon: float, reached: NDArray[np.int64]) -> NDArray[np.float64]:
    """Chance that a binomial reaches each of ``reached`` (values,), counted by its misses to keep small odds."""
    misses = np.minimum(guesses.made - reached, guesses.made)
    tail = special.bdtr(misses, guesses.made, special.expit(-epsilon))
    return np.where(reached <= 0, 1.0, np.where(reached > guesses.made, 0.0, tail))


def _candidates(guesses: Guesses, epsilon: float) -> NDArray[np.int64]:
    """Every i that can attain the maximum of theorem 5.2: below it F is one, so the ratio only falls."""
    wrong = float(special.expit(-epsilon))
    middle = guesses.made * (1.0 - wrong)
    spread = math.sqrt(guesses.made * wrong * (1.0 - wrong))
    deepest = max(0, math.floor(middle - 9.0 * spread - 40.0))
    most = max(1, min(guesses.right, guesses.right - deepest))
    return np.arange(1, most + 1)
