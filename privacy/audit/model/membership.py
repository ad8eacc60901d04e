"""Membership attacks on a trained model: from scores of canaries to a finding.

Every canary was in by its own fair coin. The attacker scores all of them; the counts of right guesses refute claims.
Three bounds are stated, each beside what a perfect attacker would show with as many canaries:

- **one run, f-DP** (`privacy.audit.f_dp`): the verdict rests on it. It uses the whole trade-off function of the
  Poisson-sampled Gaussian steps that the study is made of, so it needs least canaries.
- **one run** (`privacy.audit.one_run`): epsilon and delta alone, whatever the mechanism.
- **rates** (`privacy.audit.rates`): as if each canary had a run of its own. Canaries of one run disturb each other, so
  this one is not rigorous here, and no verdict rests on it.

The number of guesses is fixed before anything is scored. A positive control must show its violation at a smaller
error (one in a thousand): one that just passes the line of the subject would pass it again in every second run only,
and could then have missed the same breach in the subject.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from privacy.audit import f_dp, one_run, rates, roc, trade_off
from privacy.audit.finding import Claim, Finding, Interval, Tier
from privacy.audit.intervals import auroc, scores_of
from privacy.audit.model.reference_attack import outdone_share
from privacy.audit.one_run import Guesses
from privacy.audit.verdict import Measure, Shown, judge
from privacy.calibration import StatisticsShare
from protocol.errors import InputError

CONTROL_CONFIDENCE = 0.999
_LOW_RATE = 0.01
_SHARES = (0.04, 0.08, 0.15, 0.3, 0.6, 1.0)  # of the canaries, that guesses are made for
_MOST_NEEDED = 1 << 20
_GRID = 1.002 * 1.02 ** np.arange(-116.0, 78.0)  # strengths looked at, over that of the claim: from a tenth to fivefold


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """What one attack said of the canaries of one model.

    Attributes:
        suspicion: float64 [m]; the higher, the likelier a member.
        included: bool [m], whether the canary was in; for a control, the coins that had no effect.
        planted: bool [m], whether the canary was made up; the others are records like any.

    Raises:
        InputError: If the arrays do not fit, a score is not finite, or fewer than two canaries were in or out.
    """

    suspicion: NDArray[np.float64]
    included: NDArray[np.bool_]
    planted: NDArray[np.bool_]

    def __post_init__(self) -> None:
        values = scores_of(self.suspicion)
        if self.included.shape != values.shape or self.planted.shape != values.shape:
            raise InputError(f"{values.size} scores do not fit the coins.", remedy="Give one of each per canary.")
        if not 2 <= int(self.included.sum()) <= values.size - 2:
            raise InputError("Fewer than two canaries were in, or out.", remedy="Use more canaries.")

    def __len__(self) -> int:
        """Number of canaries, m."""
        return len(self.included)

    def split(self, part: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores of members and of non-members, of all or of a part of the canaries."""
        chosen = np.ones(len(self), dtype=np.bool_) if part is None else part
        return self.suspicion[chosen & self.included], self.suspicion[chosen & ~self.included]

    def area(self, confidence: float) -> Interval:
        """Area under the receiver operating characteristic."""
        return auroc(*self.split(), confidence=confidence)

    def guess(self, made: int) -> Guesses:
        """The counts of a number of guesses."""
        return one_run.guess(self.suspicion, self.included, made=made)


def against_own_kind(
    signals: NDArray[np.float64],
    planted: NDArray[np.bool_],
    *,
    population: NDArray[np.float64],
    population_planted: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Makes signals of two kinds of canaries comparable: how many records of its own kind does each outdo?

    A made-up record is unlikely under any model, in or out; only others that were made up alike show what is unusual
    for it. Where several canaries outdo everything, the one that does so by most is first.

    Args:
        signals: float64 [m], of the canaries.
        planted: bool [m].
        population: float64 [z], signals of records that were in no model.
        population_planted: bool [z].

    Returns:
        float64 [m], the higher, the more suspicious; only the order means anything.

    Raises:
        InputError: If a signal is not finite, or a kind has no population.
    """
    scores_of(np.concatenate([signals, population]))
    shares, excess = np.zeros(len(signals)), np.zeros(len(signals))
    for kind in (False, True):
        own, others = planted == kind, population[population_planted == kind]
        if not own.any():
            continue
        shares[own] = outdone_share(signals[own], others)
        excess[own] = (signals[own] - np.median(others)) / max(float(others.std()), 1e-12)
    ranks = np.empty(len(signals))
    ranks[np.lexsort((excess, shares))] = np.arange(len(signals))
    return ranks


@dataclass(frozen=True, kw_only=True)
class ClaimedSteps:
    """The mechanism that a claim is about: Poisson-sampled Gaussian steps, and how guesses contradict it.

    Attributes:
        claim: The claim.
        noise_multiplier: Of a mechanism that spends just the claim, above 0.
        sample_rate: Probability that a unit takes part in a step.
        steps: Number of steps.
        confidence: Of what is shown on the subject, in (0, 1).
        statistics: Rounds of statistics beside the steps.
    """

    claim: Claim
    noise_multiplier: float
    sample_rate: float
    steps: int
    confidence: float
    statistics: StatisticsShare | None = None

    @cached_property
    def curve(self) -> trade_off.Curve:
        """Inverse blow-up curve of the claimed mechanism."""
        return self._family.curve(1.0 / self.noise_multiplier)

    @cached_property
    def _family(self) -> trade_off.Family:
        return trade_off.sampled_gaussian(self.sample_rate, self.steps, statistics=self.statistics)

    def refutes(self, guesses: Guesses, confidence: float) -> bool:
        """Whether the counts refute the claimed trade-off function."""
        return f_dp.refutes(guesses, self.curve, confidence=confidence)

    def lower_bound(self, guesses: Guesses, confidence: float) -> float:
        """Epsilon of the strongest steps of this rate and number that the counts refute, on a grid; 0 for none.

        The grid's steps are two per cent of the noise, and one of them is just above the claim, so that a claim that is
        clearly refuted gives a bound above it.
        """
        if guesses.right * 2 <= guesses.made:
            return 0.0
        strengths = [
            strength
            for strength in (_GRID / self.noise_multiplier).tolist()
            if self._family.least <= strength <= self._family.most
        ]
        low, high = -1, len(strengths)
        while high - low > 1:
            middle = (low + high) // 2
            refuted = f_dp.refutes(guesses, self._family.curve(strengths[middle]), confidence=confidence)
            low, high = (middle, high) if refuted else (low, middle)
        if low < 0:
            return 0.0
        return _epsilon(self.sample_rate, self.steps, strengths[low], self.claim.delta, self.statistics)

    def refutes_any(self, guesses: Guesses, confidence: float) -> bool:
        """Whether the counts refute epsilon and delta, whatever the mechanism."""
        found = one_run.p_value(guesses, epsilon=self.claim.epsilon, delta=self.claim.delta)
        return found <= 1.0 - confidence

    def lower_bound_any(self, guesses: Guesses, confidence: float) -> float:
        """Epsilon that the counts refute, whatever the mechanism."""
        return one_run.lower_bound(guesses, delta=self.claim.delta, confidence=confidence)

    def shows(self, auroc_value: float, canaries: int, confidence: float) -> bool:
        """Whether an attack of this strength would refute the claim in the middle run, with scores of normal shape."""
        effect = math.sqrt(2.0) * float(special.ndtri(min(max(auroc_value, 1e-9), 1.0 - 1e-9)))
        if effect <= 0.0 or canaries > _MOST_NEEDED:
            return False
        shape = trade_off.gaussian().curve(effect)
        return any(
            self.refutes(
                Guesses(canaries=canaries, made=made, right=trade_off.perfect_right(shape, canaries, made)), confidence
            )
            for made in _numbers(canaries)
        )


def choose_guesses(canaries: int, refutes: Callable[[Guesses], bool]) -> int:
    """Chooses the number of guesses with which the weakest attack would do, before anything is scored.

    Args:
        canaries: Number of canaries.
        refutes: Whether counts refute the claim.

    Returns:
        The number; all canaries where none would do.

    Example:
        >>> claim = lambda counts: one_run.p_value(counts, epsilon=1.0, delta=1e-5) < 0.05
        >>> choose_guesses(1000, claim)
        80
    """
    weakest = {made: _least_effect(canaries, made, refutes) for made in _numbers(canaries)}
    return min(reversed(weakest), key=lambda made: weakest[made])


def membership_finding(
    attempt: Attempt,
    *,
    attack: str,
    subject: str,
    claimed: ClaimedSteps,
    control: Attempt,
    positive: Attempt | None,
    missed: Sequence[str] = (),
    words: Sequence[str] = (),
    seconds: float,
) -> Finding:
    """Draws the conclusion of one membership attack.

    Args:
        attempt: The attack on the subject.
        attack: Its name.
        subject: What was attacked.
        claimed: The mechanism that the claim is about.
        control: The same attack on a model that never saw the canaries.
        positive: The same attack on the twin without privacy, with canaries of its own coins; None if there was none.
        missed: Broken twins that the attack had to catch and did not.
        words: Sentences to add.
        seconds: Wall-clock time.

    Returns:
        The finding. There is no verdict where the control succeeds: the scores then follow the coins by some way
        other than the model.
    """
    made = choose_guesses(len(attempt), lambda counts: claimed.refutes(counts, claimed.confidence))
    bound = claimed.lower_bound(attempt.guess(made), claimed.confidence)
    broken = control.area(CONTROL_CONFIDENCE).low > 0.5
    ceiling = one_run.ceiling(
        len(attempt),
        curve=claimed.curve,
        bound=lambda counts: claimed.lower_bound(counts, claimed.confidence),
        made=made,
    )
    return judge(
        tier=Tier.MODEL,
        attack=attack,
        subject=subject,
        claim=claimed.claim,
        shown=_shown(attempt, control, claimed, bound),
        positive=None if positive is None else _positive(positive, control, claimed),
        grows=None if positive is None else _growth(positive, claimed),
        missed=(*missed, *(("a model that never saw the canaries, and seems to know them",) if broken else ())),
        ceiling=ceiling,
        curve=roc.curve(*attempt.split()),
        words=(*words, *_evidence(attempt, positive, claimed, shown=(bound, ceiling))),
        seconds=seconds,
    )


def shows_violation(positive: Attempt, claimed: ClaimedSteps) -> bool:
    """Whether an attack on a twin without privacy contradicts the claim, at the error of a positive control."""
    return _positive_bound(positive, claimed) > claimed.claim.epsilon


def _positive_bound(positive: Attempt, claimed: ClaimedSteps) -> float:
    """What a positive control shows; at the error of the subject, where that is smaller still."""
    confidence = max(CONTROL_CONFIDENCE, claimed.confidence)
    made = choose_guesses(len(positive), lambda counts: claimed.refutes(counts, confidence))
    return claimed.lower_bound(positive.guess(made), confidence)


def _shown(attempt: Attempt, control: Attempt, claimed: ClaimedSteps, bound: float) -> Shown:
    return Shown(
        measure=Measure.AUROC,
        attacked=attempt.area(claimed.confidence),
        baseline=None,
        control=control.area(claimed.confidence),
        canaries=len(attempt),
        lower_bound=bound,
    )


def _positive(positive: Attempt, control: Attempt, claimed: ClaimedSteps) -> Shown:
    return _shown(positive, control, claimed, _positive_bound(positive, claimed))


def _growth(positive: Attempt, claimed: ClaimedSteps) -> Callable[[int], float]:
    """From a number of canaries to a bound above the claim if an attack as strong as the control would refute it."""
    area = positive.area(claimed.confidence).value
    return lambda canaries: math.inf if claimed.shows(area, canaries, CONTROL_CONFIDENCE) else 0.0


def _evidence(
    attempt: Attempt, positive: Attempt | None, claimed: ClaimedSteps, *, shown: tuple[float, float]
) -> tuple[str, ...]:
    """What was found beside the bound that the verdict rests on."""
    point = roc.at_false_positive_rate(*attempt.split(), rate=_LOW_RATE, confidence=claimed.confidence)
    sentences = [
        f"Shown a canary that was in and one that was not, the attack picks the right one in "
        f"{_percent(attempt.area(claimed.confidence))} of all cases (this share is called AUROC); guessing does in "
        f"50 %. If it may accuse at most {_LOW_RATE:.0%} of those that were not in, it finds "
        f"{_percent(point.true_positive_rate)} of those that were."
    ]
    for kind, name in ((False, "records like any"), (True, "made-up records")):
        scores = attempt.split(attempt.planted == kind)
        if min(len(scores[0]), len(scores[1])) >= 2 and not attempt.planted.all():
            sentences.append(f"Among {name} it is {_percent(auroc(*scores, confidence=claimed.confidence))}.")
    if positive is not None:
        share = _percent(positive.area(claimed.confidence))
        sentences.append(f"On a twin without privacy the same attack picks the right one in {share} of all cases.")
    return (*sentences, _bounds(attempt, claimed, shown=shown))


def _bounds(attempt: Attempt, claimed: ClaimedSteps, *, shown: tuple[float, float]) -> str:
    """The three lower bounds, each beside its ceiling."""
    made = choose_guesses(len(attempt), lambda counts: claimed.refutes_any(counts, claimed.confidence))
    free = claimed.lower_bound_any(attempt.guess(made), claimed.confidence)
    most = one_run.ceiling(
        len(attempt),
        curve=claimed.curve,
        bound=lambda counts: claimed.lower_bound_any(counts, claimed.confidence),
        made=made,
    )
    single, least = _rate_bounds(attempt, claimed)
    return (
        "So much of epsilon was shown, and so much the best attack that can exist would typically show with as many "
        f"canaries if the whole claim were spent: {shown[0]:.2f} of {shown[1]:.2f} where the study's kind of noise is "
        f"taken into account (one run, f-DP: the verdict rests on this); {free:.2f} of {most:.2f} whatever the noise "
        f"(one run); {single:.2f} of {least:.2f} as if each canary had a run of its own (rates: for comparison only)."
    )


def _rate_bounds(attempt: Attempt, claimed: ClaimedSteps) -> tuple[float, float]:
    """The bound by rates, and that of a perfect attacker whose scores lie at the quantiles of their laws."""
    members, others = attempt.split()
    found = rates.over_ranks(members, others, delta=claimed.claim.delta, confidence=claimed.confidence)
    ranks = [(np.arange(count) + 0.5) / count for count in (members.size, others.size)]
    perfect = rates.over_ranks(
        [-claimed.curve(float(rank)) for rank in ranks[0]],
        -ranks[1],
        delta=claimed.claim.delta,
        confidence=claimed.confidence,
    )
    return max(0.0, found.epsilon), max(0.0, perfect.epsilon)


def _least_effect(canaries: int, made: int, refutes: Callable[[Guesses], bool]) -> float:
    """Shift of normal scores whose middle run refutes; infinite if not even all guesses right do."""
    low, high = 0, made + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refutes(Guesses(canaries=canaries, made=made, right=middle)) else (middle, high)
    if high > made:
        return math.inf
    least, most = 0.0, 10.0
    family = trade_off.gaussian()
    while most - least > 1e-3:
        effect = (least + most) / 2.0
        enough = trade_off.perfect_right(family.curve(effect), canaries, made) >= high
        least, most = (least, effect) if enough else (effect, most)
    return most


def _numbers(canaries: int) -> list[int]:
    """Even numbers of guesses worth considering, ascending."""
    return sorted({max(1, min(canaries, 2 * round(share * canaries / 2.0))) for share in _SHARES})


@lru_cache(maxsize=256)
def _epsilon(
    sample_rate: float, steps: int, strength: float, delta: float, statistics: StatisticsShare | None
) -> float:
    return trade_off.sampled_gaussian(sample_rate, steps, statistics=statistics).epsilon(strength, delta)


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
