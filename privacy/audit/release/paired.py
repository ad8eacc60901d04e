"""What scores of members and of controls prove about epsilon.

Before training it was a fair coin which record of a pair was trained on and which was held out, and the coins of the
pairs are independent, whatever the sizes of the two tables: so an audit of a finished release is an audit in one run
(Steinke, Nasr, Jagielski 2023), whose canaries are the pairs. The attacker guesses, for the pairs whose scores differ
most, that the record with the higher score was the one. What (epsilon, delta)-privacy allows is counted by `f_dp` with
the weakest family of mechanisms: theorem 5.2 of the former paper counts delta once for every canary, which at small
errors left nothing to show (798 of 800 right at delta 1e-4 and an error of 0.001: epsilon 1.6 instead of 4.2).

To turn a coin is to replace a record. A claim under add/remove is therefore first turned into what it implies for
replacing: one record out and one in, twice epsilon and ``(1 + exp(epsilon)) delta`` (Dwork, Roth 2014, section 2.3).
Where a statement gives its epsilon for replace-one, that one is tighter and should be the claim.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from privacy.audit import f_dp, one_run
from privacy.audit.finding import Claim
from privacy.audit.one_run import Guesses
from privacy.audit.release.tables import Floats
from privacy.audit.trade_off import randomised_response
from protocol.errors import InputError
from protocol.terms import Relation

SHARES = (1.0, 1 / 4, 1 / 16)  # of the pairs on which there is anything to guess
_FEWEST = 8  # guesses; fewer prove nothing
_MOST_EPSILON = 30.0
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedScores:
    """How much an attack suspects each target; the higher, the likelier it was trained on.

    Attributes:
        members: Scores of the members, float64 [t], finite.
        controls: Scores of the controls, float64 [t], finite; entry k belongs to the same pair as member k.

    Raises:
        InputError: Shapes differ, there are no scores, or one is not finite.
    """

    members: Floats
    controls: Floats

    def __post_init__(self) -> None:
        for name in ("members", "controls"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.members.ndim != 1 or not self.members.size or self.members.shape != self.controls.shape:
            raise InputError("There are not as many scores of members as of controls.", remedy="Score every target.")
        if not (np.isfinite(self.members).all() and np.isfinite(self.controls).all()):
            raise InputError("A score is not finite.", remedy="Mend the attack: this is no sign of privacy.")

    @property
    def pairs(self) -> int:
        """Number of pairs, t."""
        return int(self.members.size)


def pair_guesses(scores: PairedScores) -> tuple[Guesses, ...]:
    """Guesses on the pairs whose scores differ most, for each of a few numbers of guesses.

    How many guesses there are depends on the sizes of the differences only, never on their signs, which tell who was
    in; pairs with equal scores are left alone.

    Args:
        scores: The scores.

    Returns:
        Counts, one for each different number of guesses; none where all pairs are tied.

    Example:
        >>> pair_guesses(PairedScores(members=[3.0, 1.0, 0.0], controls=[1.0, 2.0, 0.0]))
        (Guesses(canaries=3, made=2, right=1),)
    """
    difference = scores.members - scores.controls
    sizes = np.sort(np.abs(difference))[::-1]
    informative = int(np.count_nonzero(sizes))
    counts: dict[int, Guesses] = {}
    for share in SHARES:
        wanted = min(informative, max(_FEWEST, math.ceil(share * informative)))
        if wanted:
            chosen = np.abs(difference) >= sizes[wanted - 1]  # with all that tie with the last one
            made, right = int(chosen.sum()), int((difference[chosen] > 0).sum())
            counts[made] = Guesses(canaries=scores.pairs, made=made, right=right)
    return tuple(counts.values())


def lower_bound(scores: PairedScores, *, delta: float, relation: Relation, confidence: float) -> float:
    """The largest epsilon that the scores refute.

    A generator that is (epsilon, delta)-private gets a bound above epsilon in at most ``1 - confidence`` of the
    releases. Each of the k numbers of guesses is held to a k-th of that error.

    Args:
        scores: The scores.
        delta: Delta at which epsilon is bounded, in [0, 1).
        relation: Neighbouring relation.
        confidence: Confidence of the bound, in (0, 1).

    Returns:
        The bound, at least 0.

    Example:
        >>> scores = PairedScores(members=[1.0] * 100, controls=[0.0] * 100)
        >>> round(lower_bound(scores, delta=0.0, relation=Relation.REPLACE_ONE, confidence=0.95), 2)
        3.49
        >>> round(lower_bound(scores, delta=0.0, relation=Relation.ADD_REMOVE, confidence=0.95), 2)
        1.75
    """
    tried, error = pair_guesses(scores), _error(confidence)
    return max((_refuted_up_to(guesses, delta, relation, error / len(tried)) for guesses in tried), default=0.0)


def would_refute(scores: PairedScores, pairs: int, *, claim: Claim, confidence: float) -> bool:
    """Whether an attack that went on as it did would refute a claim with another number of pairs.

    Args:
        scores: The scores of the attack.
        pairs: The other number of pairs.
        claim: The claim.
        confidence: As for `lower_bound`.

    Returns:
        Whether the lower bound would be above the claim.
    """
    tried, error = pair_guesses(scores), _error(confidence)
    return any(
        _refutes(guesses.scaled(pairs), claim.epsilon, claim.delta, claim.relation, error / len(tried))
        for guesses in tried
    )


@lru_cache(maxsize=64)
def ceiling(pairs: int, *, claim: Claim, confidence: float) -> float:
    """The bound that a perfect attacker shows in the middle release of a generator that spends the whole claim.

    Args:
        pairs: Number of pairs.
        claim: The claim.
        confidence: Confidence of the bound.

    Returns:
        Epsilon at the claim's delta, at most that of the claim.
    """
    replacing, error = for_replacing(claim), _error(confidence)
    shown = one_run.ceiling(
        pairs,
        curve=randomised_response(replacing.delta).curve(replacing.epsilon),
        bound=lambda guesses: _refuted_up_to(guesses, claim.delta, claim.relation, error),
    )
    return min(shown, claim.epsilon)


def lower_bound_of_more(
    scores: PairedScores, pairs: int, *, delta: float, relation: Relation, confidence: float
) -> float:
    """The bound that an attack would show on another number of pairs if it went on as it did.

    Args:
        scores: The scores of the attack.
        pairs: The other number of pairs.
        delta: As for `lower_bound`.
        relation: As for `lower_bound`.
        confidence: As for `lower_bound`.

    Returns:
        The bound, at least 0.
    """
    tried = pair_guesses(scores)
    if not tried:
        return 0.0
    error = _error(confidence) / len(tried)
    return max(_refuted_up_to(guesses.scaled(pairs), delta, relation, error) for guesses in tried)


def for_replacing(claim: Claim) -> Claim:
    """What a claim implies for replacing a record, which is what a pair is about.

    Example:
        >>> for_replacing(Claim(epsilon=1.0, delta=0.0, relation=Relation.ADD_REMOVE)).epsilon
        2.0
    """
    epsilon, delta = _replacing(claim.epsilon, claim.delta, claim.relation)
    return Claim(epsilon=epsilon, delta=min(delta, math.nextafter(1.0, 0.0)), relation=Relation.REPLACE_ONE)


def _replacing(epsilon: float, delta: float, relation: Relation) -> tuple[float, float]:
    """What holds for replacing a record."""
    if relation is Relation.REPLACE_ONE:
        return epsilon, delta
    return 2.0 * epsilon, min(1.0, (1.0 + math.exp(min(epsilon, 700.0))) * delta)


def _refutes(guesses: Guesses, epsilon: float, delta: float, relation: Relation, error: float) -> bool:
    """Whether as many right guesses are less likely than ``error``."""
    strength, more_delta = _replacing(epsilon, delta, relation)
    if more_delta >= 1.0:
        return False
    return f_dp.refutes(guesses, randomised_response(more_delta).curve(strength), confidence=1.0 - error)


def _refuted_up_to(guesses: Guesses, delta: float, relation: Relation, error: float) -> float:
    if not _refutes(guesses, 0.0, delta, relation, error):
        return 0.0
    low, high = 0.0, _MOST_EPSILON
    while high - low > _TOLERANCE:
        middle = (low + high) / 2.0
        low, high = (middle, high) if _refutes(guesses, middle, delta, relation, error) else (low, middle)
    return low


def _error(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}, not in (0, 1).", remedy="Use 0.95, for example.")
    return 1.0 - confidence
