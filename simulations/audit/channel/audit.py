"""Audit of the channel: gradient inversion on what the coordinator sees in one round, in four settings.

Without protection and under the secure sum alone the attack shows what it can do; nothing is claimed of these settings.
Under local and under shared noise it is held against what one round claims of a record that is known to be in the
batch: that is more than the study claims, which sampling helps, and this attack gives it no such help.

A study with noise is attacked in several settings, each held against its claim; all together raise a false alarm with a
probability of at most five per cent. The settings without noise are its broken twins: what the noise is missing from.

A cell of the table that is right counts as a success; see :mod:`simulations.audit.channel.attacker` for baseline and
control. For the strategy ``updates`` what is sent is a change of the weights after a few local steps; the attack takes
it for gradients at the weights that were sent out, less what fakes add on average, where sites draw some. Rounds of
statistics have no gradients and are not attacked here.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from privacy.accounting import epsilon
from privacy.audit.channel.reconstruction import epsilon_bound, most_right
from privacy.audit.finding import Claim, Finding, Interval, Tier
from privacy.audit.report import BrokenTwin
from privacy.audit.verdict import Measure, Shown, failed, judge, of_each, violates
from privacy.plan import PrivacyPlan
from protocol.errors import CloisterError, InputError
from protocol.randomness import RandomSource
from protocol.study import Study
from protocol.terms import ContributionKind, Sampler
from records.dataset import Records
from simulations.audit.channel.attacker import (
    ChannelAttacker,
    Outcome,
    attacked_cells,
    baseline_cells,
    control_cells,
)
from simulations.audit.channel.twin import ChannelTwin, Setting
from simulations.audit.model.claimed_noise import claimed_noise
from simulations.federation import unbound

ATTACK = "gradient inversion"
ERROR = 0.05  # chance of a false alarm, all findings together
BATCHES = (1, 4)
ROUNDS = 40
BUDGET = 120.0
FEWEST_ROUNDS = 8
# What an attack can raise, torch and the solvers included. Anything else is a fault of ours and ends the audit.
FAULTS = (CloisterError, ArithmeticError, ValueError, LookupError, MemoryError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class ChannelAudit:
    """What the attack showed.

    Attributes:
        findings: On the settings that make a promise: local noise at one site for every batch size, then shared noise.
        demonstrations: On the same settings without noise, in the same order: what the attack can do. Nothing is
            claimed of them, so that their verdict says nothing about the study.
        broken_twins: The same settings as broken twins: noise is missing, and the study's claim is held against them.
    """

    findings: tuple[Finding, ...]
    demonstrations: tuple[Finding, ...]
    broken_twins: tuple[BrokenTwin, ...]


def channel_audit(
    study: Study,
    records: Records | None = None,
    *,
    random: RandomSource,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    budget: float = BUDGET,
    claim: Claim | None = None,
) -> ChannelAudit:
    """Attack what the coordinator sees in one round of a study, in four settings.

    Args:
        study: The study; its model, clip norm, noise, strategy and number of sites (5 to 10 of them in a sum).
        records: Records of its schema, which never leave the process; None for synthetic ones.
        random: Source of every choice, of batches, latent draws and noise.
        batches: Numbers of records in the batch of a single site, at least 1 each. In a sum every site has one.
        rounds: Most rounds that are attacked in each setting, at least 8; fewer widen the intervals.
        budget: Seconds to aim at for the attacks; 8 rounds are attacked whatever they take.
        claim: What is claimed of all rounds together, by a release; one round is then held against what noise that
            spends just this claim allows. None for what the study promises.

    Returns:
        The findings; all together contradict a claim that holds with a probability of at most five per cent.

    Raises:
        InputError: If an argument is out of range, there are too few records, or the family is unknown to the attack.
        CloisterError: Whatever a round of the study can raise before the attack.
    """
    if not batches or min(batches) < 1 or rounds < FEWEST_ROUNDS or not budget > 0.0:
        raise InputError(
            f"batches {list(batches)}, {rounds} rounds, a budget of {budget}.",
            remedy=f"Give batches of at least 1 record, at least {FEWEST_ROUNDS} rounds, and some seconds.",
        )
    if study.training.strategy is ContributionKind.STATISTICS:
        raise InputError(
            "The study has statistics alone, and gradient inversion needs gradients.",
            remedy="Audit its mechanism, which covers statistics, or its release.",
        )
    study = _calibrated(study)
    attacker = ChannelAttacker(study, records, random=random)
    cases = [(False, batch) for batch in batches] + [(True, 1)]
    weaker = 1.0 if claim is None else _claimed_share(study, claim)
    deadline, found = time.monotonic() + budget, list[_Case]()
    for place, (summed, batch) in enumerate(cases):
        now = time.monotonic()
        share = max(0.0, deadline - now) / (len(cases) - place)
        twins = [
            ChannelTwin(study=study, setting=setting, batch=batch) for setting in Setting if setting.summed is summed
        ]
        outcomes = tuple(Outcome(twin=twin, confidence=of_each(ERROR, len(cases))) for twin in twins)
        found.append(_compared(attacker, *outcomes, rounds=rounds, until=now + share, weaker=weaker))
    return ChannelAudit(
        findings=tuple(each.finding for each in found),
        demonstrations=tuple(each.demonstration for each in found),
        broken_twins=tuple(each.broken_twin for each in found if each.broken_twin is not None),
    )


def one_round_claim(twin: ChannelTwin, *, weaker: float = 1.0) -> Claim | None:
    """What one round claims of a record that is in its batch, without the help of sampling; None without noise.

    Args:
        twin: The setting.
        weaker: Noise that the claim speaks of, over the study's.

    Raises:
        AccountingError: If the accountant fails.
    """
    event = twin.plan.round_event
    if event is None:
        return None
    event = replace(event, noise_multiplier=weaker * event.noise_multiplier, sample_rate=1.0, sampler=Sampler.ALL)
    relation, delta = twin.study.privacy.relation, twin.plan.delta
    return Claim(epsilon=epsilon([event], delta=delta, relation=relation), delta=delta, relation=relation)


def subject_of(twin: ChannelTwin) -> str:
    """Name of a setting in a finding."""
    many = f"{twin.batch} record{'s' if twin.batch > 1 else ''}"
    return f"{twin.setting.value}, {many} at {f'each of {twin.sites} sites' if twin.setting.summed else 'one site'}"


def _calibrated(study: Study) -> Study:
    """The same study with its noise spelled out, so that it is found once."""
    study = unbound(study)
    plan = PrivacyPlan.from_study(study)
    privacy = replace(study.privacy, epsilon=None, noise_multiplier=plan.noise_multiplier, delta=plan.delta)
    return replace(study, privacy=privacy)


def _claimed_share(study: Study, claim: Claim) -> float:
    """Noise that spends just a claim over all rounds, over the noise that the study has; 1 where it has none."""
    plan = PrivacyPlan.from_study(study)
    return 1.0 if plan.noise_multiplier == 0.0 else claimed_noise(study, claim) / plan.noise_multiplier


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What was found in a setting without and with noise; the broken twin is None where an attack raised."""

    demonstration: Finding
    finding: Finding
    broken_twin: BrokenTwin | None = None


def _compared(
    attacker: ChannelAttacker, without: Outcome, noisy: Outcome, *, rounds: int, until: float, weaker: float
) -> _Case:
    """Attack a setting without and with noise, on the same records; what raises fails both."""
    begin, bare = time.monotonic(), without.twin
    try:
        claim = one_round_claim(noisy.twin, weaker=weaker)
        for number in range(rounds):
            if number >= FEWEST_ROUNDS and time.monotonic() > until:
                break
            codes = attacker.batch(bare)
            for outcome in (without, noisy):
                start = time.monotonic()
                outcome.rounds.append(attacker.attack(outcome.twin, codes, number=number))
                outcome.seconds += time.monotonic() - start
        positive = without.shown(claim)
        return _Case(
            demonstration=_demonstrated(without),
            finding=_judged(noisy, positive, claim),
            broken_twin=None if claim is None else _broken(without, positive, claim),
        )
    except FAULTS as fault:
        seconds = time.monotonic() - begin
        return _Case(demonstration=_failed(bare, fault, seconds), finding=_failed(noisy.twin, fault, seconds))


def _broken(outcome: Outcome, positive: Shown, claim: Claim) -> BrokenTwin:
    """The setting without noise, held against the claim of the one with noise."""
    return BrokenTwin(
        name=f"noise missing: {subject_of(outcome.twin)}",
        caught_by=(ATTACK,) if violates(positive, claim) else (),
        seconds=outcome.seconds,
        required=False,  # too few rounds show nothing, and the finding then is underpowered
    )


def _failed(twin: ChannelTwin, fault: Exception, seconds: float) -> Finding:
    return failed(
        tier=Tier.CHANNEL,
        attack=ATTACK,
        subject=subject_of(twin),
        claim=None,
        measure=Measure.HIT_RATE,
        reason=f"{type(fault).__name__}: {fault}",
        seconds=seconds,
    )


def _demonstrated(outcome: Outcome) -> Finding:
    """The finding on a setting without noise, in words that do not speak of a claim."""
    found = judge(
        tier=Tier.CHANNEL,
        attack=ATTACK,
        subject=subject_of(outcome.twin),
        claim=None,
        shown=outcome.shown(None),
        positive=None,
        seconds=outcome.seconds,
    )
    if outcome.twin.setting.summed:
        what = (
            "It shows the secure sum without any noise. A sum hides who, not what: nothing in it tells which of the "
            f"{outcome.twin.sites} sites a reconstructed record is from, but the records themselves are not hidden."
        )
    else:
        what = "It shows what a plain gradient gives away."
    return replace(found, words=(f"No study works like this. {what}", *_reached(outcome)))


def _judged(outcome: Outcome, positive: Shown, claim: Claim | None) -> Finding:
    """The finding on a setting with noise; ``positive`` is what was shown without it."""
    shown = outcome.shown(claim)
    return judge(
        tier=Tier.CHANNEL,
        attack=ATTACK,
        subject=subject_of(outcome.twin),
        claim=claim,
        shown=shown,
        positive=positive,
        grows=None if claim is None else _growth(positive, claim),
        ceiling=None if claim is None else _ceiling(shown, _strength(outcome.twin), claim),
        words=(*_reached(outcome), *_meaning(outcome, shown)),
        seconds=outcome.seconds,
    )


def _strength(twin: ChannelTwin) -> float:
    """Sensitivity over noise of one round; infinite without noise."""
    event = twin.plan.round_event
    return math.inf if event is None else math.sqrt(event.count) / event.noise_multiplier


def _references(shown: Shown) -> list[Interval]:
    return [each for each in (shown.baseline, shown.control) if each is not None]


def _ceiling(shown: Shown, mu: float, claim: Claim) -> float:
    """What a perfect attacker would show, with an interval as wide as that of the attack."""
    best = most_right(max(each.value for each in _references(shown)), mu)
    low = max(0.0, best - (shown.attacked.value - shown.attacked.low))
    perfect = Interval(value=best, low=low, high=1.0, confidence=shown.attacked.confidence)
    return epsilon_bound(perfect, _references(shown), delta=claim.delta)


def _growth(positive: Shown, claim: Claim) -> Callable[[int], float]:
    """From a number of records to the bound that the positive control would show with them."""

    def bound(records: int) -> float:
        shrink = math.sqrt(positive.canaries / records)
        references = [_shrunk(each, shrink) for each in _references(positive)]
        return epsilon_bound(_shrunk(positive.attacked, shrink), references, delta=claim.delta)

    return bound


def _shrunk(interval: Interval, factor: float) -> Interval:
    value = interval.value
    return replace(interval, low=value - factor * (value - interval.low), high=value + factor * (interval.high - value))


def _reached(outcome: Outcome) -> tuple[str, ...]:
    """What the attack reached, in sentences."""
    twin, rounds = outcome.twin, len(outcome.rounds)
    many = f"{twin.records} record{'s' if twin.records > 1 else ''}"
    return (
        f"In {rounds} rounds with {many} each, the attacker got {_percent(outcome.cells(attacked_cells))} of the cells "
        f"right. Whoever guesses the most common value of every column, without looking at the channel, gets "
        f"{_percent(outcome.cells(baseline_cells))}; of records that the attacker expected but that took no part, the "
        f"same attack gets {_percent(outcome.cells(control_cells))}.",
        f"Right in every column were {_percent(outcome.whole(attacked_cells))} of the records; by guessing "
        f"{_percent(outcome.whole(baseline_cells))}, of records that took no part "
        f"{_percent(outcome.whole(control_cells))}.",
        "The attacker knows the model, the weights, the scale of the noise, the number of records in the batch, and "
        "other records of the same kind.",
    )


def _meaning(outcome: Outcome, shown: Shown) -> tuple[str, ...]:
    """What that means in the setting."""
    mu = _strength(outcome.twin)
    if not math.isfinite(mu):
        return ("This study adds no noise at all: nothing protects what it sends.",)
    reference = max(each.value for each in _references(shown))
    usual = PrivacyPlan.from_study(outcome.twin.study).expected_units_per_site
    return (
        f"Where {reference:.0%} of the cells can be guessed of a record that takes no part, noise of this scale allows "
        f"at most {most_right(reference, mu):.0%} right of one that does, in one round.",
        f"In the study about {usual:,.0f} records of a site enter a round; a smaller batch is easier to attack.",
    )


def _percent(interval: Interval) -> str:
    return f"{interval.value:.0%} ({interval.low:.0%} to {interval.high:.0%})"
