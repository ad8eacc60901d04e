"""Every attack on synthetic records alone, with its control, against what a release claims.

The training records and the holdout must be two random parts of one table, split before training: only then is a record
that was held out an honest control of one that was not. The audit looks whether it can tell the two apart without the
release, and concludes nothing if it can.

A generator that repeats its training records is attacked in the same way. An attack that does not refute the claim even
there could not have refuted it here: underpowered. One that does could have seen repeated records, which is the crudest
of leaks: such attacks see little of what a model audit sees, and their silence is no evidence of privacy.

All of it rests on the records given as trained on being just those. The generator that repeats them is made of the
records that are given, so the attacks succeed with whatever they are: nothing here can notice a wrong file.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from privacy.audit.finding import Claim, Finding, Interval, Tier, Verdict
from privacy.audit.release import paired
from privacy.audit.release.attempt import Attempt
from privacy.audit.release.domias import shift
from privacy.audit.release.nearest import Closeness, closeness
from privacy.audit.release.tables import AttackTables, Codes
from privacy.audit.report import BrokenTwin
from privacy.audit.verdict import Measure, Shown, allowed, failed, judge, of_each, positive_violates, violates
from privacy.statement import Statement
from protocol.errors import CloisterError, RecordsError
from protocol.terms import Relation, Unit
from records.dataset import Records
from simulations.audit.release.attacks import ReleaseAttack, ReleaseAuditTerms, attack_tables, release_attacks

SHIFT_CONFIDENCE = 0.999  # one sound split in a thousand is refused
COPIER = "a release that repeats the records given as real"
RIGHT_FILE = (
    "This holds only if the records given as real are the very ones that the generator was trained on. With other "
    "records, even of the same table, the attack finds nothing whatever the release gives away, and it cannot notice."
)
_QUALITY_ROWS = 2_000

# What arithmetic and indexing of an attack can raise. Anything else is a fault of ours and ends the audit.
FAULTS = (CloisterError, ArithmeticError, ValueError, LookupError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class ReleaseAudit:
    """What the attacks on one release showed.

    Attributes:
        findings: One for each attack, in a fixed order.
        risks: For each attack whose success is a rate, what the release adds to it (see `attempt.risk`).
        closeness: Distances to the closest record: data quality, no verdict.
        shift: Whether training records and holdout can be told apart without the release; one half if not.
        broken_twins: The release that repeats training records, with the attacks that contradict the claim on it.
    """

    findings: tuple[Finding, ...]
    broken_twins: tuple[BrokenTwin, ...]
    risks: dict[str, Interval]
    closeness: Closeness
    shift: Interval

    @property
    def is_comparable(self) -> bool:
        """Whether training records and holdout look like two parts of one table."""
        return self.shift.low <= 0.5


def audit_release(
    synthetic: Codes,
    *,
    real: Records,
    holdout: Records,
    claim: Claim | None,
    unit: Unit,
    subject: str,
    terms: ReleaseAuditTerms,
    generator: np.random.Generator,
) -> ReleaseAudit:
    """Run every attack on a release.

    Args:
        synthetic: The records released, int [s, C], coded by the schema of ``real``.
        real: What the generator was trained on.
        holdout: Records drawn with them at random and kept back; half serve as controls, half as what the attacker
            knows of the population.
        claim: What is claimed of the generator, best by `claim_of`; None where nothing is.
        unit: Whom the claim covers: of a person at most one record is asked about.
        subject: Name of the release in the findings.
        terms: How it is attacked.
        generator: Chooses targets and breaks ties. Not a source of privacy.

    Returns:
        What was found. It is computed from real records without noise, and to be kept where they are.

    Raises:
        RecordsError: The tables are not of one schema, or too small.
        SchemaError: A column that the terms name does not exist.
    """
    if real.schema != holdout.schema:
        raise RecordsError("Training records and holdout have two schemas.", remedy="Encode both with the same one.")
    tables = attack_tables(synthetic, real=real, holdout=holdout, unit=unit, terms=terms, generator=generator)
    attacks = release_attacks(tables, terms, generator)
    verdicts = of_each(1.0 - terms.confidence, sum(len(attack.names) for attack in attacks))
    if claim is None:
        # Verdicts then rest on the intervals themselves, and so they share the error.
        attacks = release_attacks(tables, replace(terms, confidence=verdicts), generator)
    setting = _Setting(
        claim=claim,
        subject=subject,
        verdicts=verdicts,
        release=tables,
        copier=tables.with_release(_repeated(real.codes, len(tables.synthetic), generator)),
    )
    found: list[_Found] = []
    for attack, seed in zip(attacks, generator.spawn(len(attacks)), strict=True):
        found += _findings(attack, setting, seed)
    told_apart = shift(tables.first(terms.targets), confidence=SHIFT_CONFIDENCE)
    audit = ReleaseAudit(
        findings=tuple(each.finding for each in found),
        broken_twins=_broken(found),
        risks={each.finding.attack: each.risk for each in found if each.risk is not None},
        closeness=closeness(tables, confidence=terms.confidence, most_rows=_QUALITY_ROWS),
        shift=told_apart,
    )
    if audit.is_comparable:
        return audit
    return replace(audit, findings=tuple(_incomparable(finding, told_apart) for finding in audit.findings))


def claim_of(statement: Statement) -> Claim | None:
    """What a statement claims about replacing one unit by another, which is what the attacks test; None if nothing."""
    if not statement.private:
        return None
    check = statement.replace_one
    return Claim(epsilon=check.pld, delta=check.delta, relation=Relation.REPLACE_ONE)


def _repeated(codes: Codes, count: int, generator: np.random.Generator) -> Codes:
    """A release that is nothing but training records, each as often as any other, give or take one."""
    order = generator.permutation(len(codes))
    return codes[np.resize(order, count)]


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What all findings of one audit share.

    Attributes:
        claim: The claim.
        subject: Name of the release.
        verdicts: Confidence of each lower bound, such that all verdicts together err as seldom as one interval.
        release: The release's tables.
        copier: The same question asked of a release that repeats training records.
    """

    claim: Claim | None
    subject: str
    verdicts: float
    release: AttackTables
    copier: AttackTables


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One attack.

    Attributes:
        finding: What it came to.
        risk: As of `attempt.risk`, where there is one.
        caught: Whether it contradicts the claim on the copier; None where it raised.
    """

    finding: Finding
    risk: Interval | None = None
    caught: bool | None = None


def _broken(found: Sequence[_Found]) -> tuple[BrokenTwin, ...]:
    """The copier, which attacks on too few records or of too little reach do not see, and are underpowered then."""
    made = [each for each in found if each.caught is not None]
    if not made:
        return ()
    caught = tuple(each.finding.attack for each in made if each.caught)
    seconds = sum(each.finding.seconds for each in made)
    return (BrokenTwin(name=COPIER, caught_by=caught, seconds=seconds, required=False),)


def _findings(attack: ReleaseAttack, setting: _Setting, generator: np.random.Generator) -> list[_Found]:
    """Attack the release and the copier; what raises fails the audit."""
    start = time.perf_counter()
    seeds = generator.spawn(2)
    try:
        # Two threads: numpy holds the interpreter for little of its time.
        with ThreadPoolExecutor(max_workers=2) as pool:
            attempts, on_copier = pool.map(attack.run, (setting.release, setting.copier), seeds)
    except FAULTS as fault:
        seconds = time.perf_counter() - start
        return [_Found(finding=_failed(name, attack.measure, setting, fault, seconds)) for name in attack.names]
    seconds = (time.perf_counter() - start) / len(attempts)
    return [_found(attempt, positive, setting, seconds) for attempt, positive in zip(attempts, on_copier, strict=True)]


def _found(attempt: Attempt, positive: Attempt, setting: _Setting, seconds: float) -> _Found:
    finding = _judged(attempt, positive, setting, seconds)
    caught = positive_violates(finding.verdict, lambda: violates(_shown(positive, setting), setting.claim))
    return _Found(finding=finding, risk=attempt.risk, caught=caught)


def _judged(attempt: Attempt, positive: Attempt, setting: _Setting, seconds: float) -> Finding:
    claim, pairs = setting.claim, attempt.scores.pairs
    return judge(
        tier=Tier.RELEASE,
        attack=attempt.attack,
        subject=setting.subject,
        claim=claim,
        shown=_shown(attempt, setting),
        positive=_shown(positive, setting),
        grows=None if claim is None else lambda number: _grown(positive, number, claim, setting.verdicts),
        ceiling=None if claim is None else paired.ceiling(pairs, claim=claim, confidence=setting.verdicts),
        curve=attempt.curve,
        words=(*attempt.words, *_said(attempt, claim)),
        seconds=seconds,
    )


def _shown(attempt: Attempt, setting: _Setting) -> Shown:
    claim, bound = setting.claim, None
    if claim is not None:
        bound = paired.lower_bound(
            attempt.scores, delta=claim.delta, relation=claim.relation, confidence=setting.verdicts
        )
    return Shown(
        measure=attempt.measure,
        attacked=attempt.attacked if bound is not None else _proved(attempt, setting.verdicts),
        baseline=attempt.baseline,
        control=attempt.control,
        canaries=attempt.scores.pairs,
        lower_bound=bound,
    )


def _proved(attempt: Attempt, confidence: float) -> Interval:
    """What was attacked, where its interval decides: it reaches down to guessing unless what it shows is proved.

    Where successes hang together, an interval that takes them for independent is too narrow. Which record of a pair was
    trained on was chance, whatever hangs together: if the scores do not tell that, the interval proves nothing.
    """
    told = attempt.independent or paired.lower_bound(
        attempt.scores, delta=0.0, relation=Relation.REPLACE_ONE, confidence=confidence
    )
    if told:
        return attempt.attacked
    return replace(attempt.attacked, low=min(attempt.attacked.low, attempt.baseline.low, attempt.control.low))


def _grown(positive: Attempt, pairs: int, claim: Claim, confidence: float) -> float:
    """A bound on the right side of the claim: how far beyond it, nobody asks."""
    refuted = paired.would_refute(positive.scores, pairs, claim=claim, confidence=confidence)
    return math.inf if refuted else 0.0


def _failed(name: str, measure: Measure, setting: _Setting, fault: Exception, seconds: float) -> Finding:
    return failed(
        tier=Tier.RELEASE,
        attack=name,
        subject=setting.subject,
        claim=setting.claim,
        measure=measure,
        reason=f"{type(fault).__name__}: {fault}",
        seconds=seconds,
    )


def _incomparable(finding: Finding, shift: Interval) -> Finding:
    """Nothing can be concluded where the control is no control."""
    reason = (
        f"Training records and holdout can be told apart without the release (area {_spoken(shift)}), so comparing the "
        "two says nothing about it: split one table at random, before training."
    )
    return replace(finding, verdict=Verdict.NO_VERDICT, needed=None, words=(reason,))


def _said(attempt: Attempt, claim: Claim | None) -> tuple[str, ...]:
    """The figures in words."""
    copier = "The twin without privacy is a release that repeats training records: subtler leaks may go unseen."
    if (attempt.attacked.low, attempt.attacked.high) == (0.0, 1.0):
        return "It came to no guess at all, so that nothing can be said of its success.", copier, RIGHT_FILE
    if attempt.measure is Measure.AUROC:
        figures = (
            f"Of a training record and one that was in nothing it picks the right one in {_percent(attempt.attacked)} "
            f"of the cases; without the release in {_percent(attempt.baseline)}."
        )
        reference = 0.5
    else:
        figures = (
            f"It succeeds with {_percent(attempt.attacked)} of the training records and with "
            f"{_percent(attempt.control)} of records that were in nothing; a guess without the release with "
            f"{_percent(attempt.baseline)}."
        )
        reference = attempt.control.value
    sentences = [figures]
    if attempt.risk is not None:
        sentences.append(f"Of what is left to be gained the release gives away {_percent(attempt.risk)}.")
    if claim is not None:
        most = allowed(attempt.measure, paired.for_replacing(claim), reference)
        sentences.append(f"The claim allows up to {most:.1%}.")
    return (*sentences, copier, RIGHT_FILE)


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _spoken(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
