"""Attacks on the weights of a release itself, by real records: those that it was trained on, and a holdout.

Here is no canary and no coin but one: before training it was chance which records were held out. Everything is as in
`simulations.audit.release.audit`, but the attacker reads the likelihood of a record off the released generator instead
of looking for it among synthetic ones, which tells him more than any number of synthetic records can.

All of it rests on the records given as trained on being just those. The positive control is trained on the records that
are given, so it succeeds with whatever they are: nothing here can notice a wrong file.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.family import Family
from privacy.audit.finding import Claim, Finding, Interval, Tier, Verdict
from privacy.audit.model.reference_attack import log_ratios
from privacy.audit.release import paired
from privacy.audit.release.attempt import Attempt, score_attempt
from privacy.audit.release.domias import shift
from privacy.audit.release.tables import AttackTables
from privacy.audit.report import BrokenTwin
from privacy.audit.verdict import Measure, Shown, failed, judge, of_each, positive_violates, violates
from protocol.errors import RecordsError
from protocol.randomness import RandomSource
from protocol.study import Study
from records.bins import Codes
from records.dataset import Records
from server.release import Release
from simulations.audit.model.audit import BUDGET_SECONDS, ERROR, ModelAudit
from simulations.audit.model.deadline import Deadline
from simulations.audit.model.pool import Extra
from simulations.audit.model.signals import generator_likelihood
from simulations.audit.model.trials import FAULTS
from simulations.audit.model.twin import of_reference, train_twin, without_privacy
from simulations.audit.release.attacks import ReleaseAuditTerms, attack_tables
from simulations.audit.release.audit import RIGHT_FILE, SHIFT_CONFIDENCE, claim_of
from simulations.federation import unbound

ATTACKS = ("likelihood of real records", "likelihood of real records against references (RMIA)")
MOST_PAIRS = 5000
WITHOUT_PRIVACY = "a generator of the same study, trained without noise on the records given as real"
_INCOMPARABLE = (
    "Training records and holdout can be told apart without the release, so comparing the two says nothing about it: "
    "split one table at random, before training."
)
_REFERENCES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class _Likelihoods:
    """Log-likelihoods of members and controls under one generator, float64 [t] each."""

    members: NDArray[np.float64]
    controls: NDArray[np.float64]


def release_model_audit(
    release: Release,
    *,
    real: Records,
    holdout: Records,
    random: RandomSource,
    budget_seconds: float = BUDGET_SECONDS,
    most_pairs: int = MOST_PAIRS,
    error: float = ERROR,
) -> ModelAudit:
    """Attack the released weights: are records that were trained on likelier than others of the same table?

    The positive control is a generator of the same study, trained without privacy on the same records; the references
    are trained on records that were held out and are asked about by nobody.

    Args:
        release: The release.
        real: What it was trained on.
        holdout: Records drawn with them at random and kept back; half of them serve as controls.
        random: Source of the choice of targets, and of partitions; noise and samples of the twins are the study's own.
        budget_seconds: When to be done; else no finding has a verdict.
        most_pairs: Most pairs of a record that was in and one that was not, at least 8.
        error: Chance that any finding contradicts a claim that holds; each gets an equal share of it.

    Returns:
        Two findings, and the generator without privacy with the attacks that saw it. They are computed from real
        records without noise, and to be kept where these are.

    Raises:
        RecordsError: The tables are not of the release's schema, or too small.
        InputError: If an argument is out of range.
    """
    if real.schema != release.schema or holdout.schema != release.schema:
        raise RecordsError("The records are not of the release's schema.", remedy="Read them with its schema.")
    deadline, begin = Deadline(budget_seconds), time.monotonic()
    generator = np.random.default_rng(random.child("release").seed64())
    tables = attack_tables(
        next(release.sample_codes(1, allowed={}, seed=0)),  # records are asked about under the weights themselves
        real=real,
        holdout=holdout,
        unit=release.study.privacy.unit,
        terms=ReleaseAuditTerms(crowd=most_pairs),
        generator=generator,
    )
    judged = _Judge(
        claim=claim_of(release.statement),
        subject=f"release of {release.study.name}",
        begin=begin,
        confidence=of_each(error, len(ATTACKS)),
    )
    if shift(tables, confidence=SHIFT_CONFIDENCE).low > 0.5:
        return judged.all_failed(_INCOMPARABLE)
    try:
        attempts = _attempts(
            release, real, tables, confidence=judged.confidence, generator=generator, deadline=deadline
        )
    except FAULTS as fault:
        return judged.all_failed(str(fault) or type(fault).__name__)
    return judged.audit(attempts)


def _attempts(
    release: Release,
    real: Records,
    tables: AttackTables,
    *,
    confidence: float,
    generator: np.random.Generator,
    deadline: Deadline,
) -> list[tuple[Attempt, Attempt]]:
    """Every attack on the release and on the generator that was trained without privacy."""
    plain, nobody = _agreed_by_nobody(without_privacy(release.study)), _nobody(real)
    others = Records(
        codes=np.ascontiguousarray(tables.reference),
        persons=None if real.persons is None else np.arange(len(tables.reference), dtype=np.int64),
        schema=real.schema,
    )
    of_others = of_reference(release.study)
    federation = replace(of_others.federation, public_records=max(2, len(others)), minimum_sites=None)
    of_others = replace(of_others, federation=federation)
    open_twin = train_twin(plain, real, nobody, generator=generator, deadline=deadline, following=float(_REFERENCES))
    references = [
        train_twin(
            of_others, others, nobody, generator=generator, deadline=deadline, following=_REFERENCES - 1.0 - done
        )
        for done in range(_REFERENCES)
    ]
    known = [_likelihoods(each.released, tables) for each in references]
    targets = [_likelihoods(model, tables) for model in (release.model, open_twin.released)]
    alone = [_attempt(ATTACKS[0], each, known, compared=False, confidence=confidence) for each in targets]
    compared = [_attempt(ATTACKS[1], each, known, compared=True, confidence=confidence) for each in targets]
    deadline.check("the attacks")
    return [(alone[0], alone[1]), (compared[0], compared[1])]


def _attempt(
    name: str, target: _Likelihoods, references: list[_Likelihoods], *, compared: bool, confidence: float
) -> Attempt:
    members, controls = target.members, target.controls
    if compared:
        members = log_ratios(members, [each.members for each in references])
        controls = log_ratios(controls, [each.controls for each in references])
    # Without the release an attacker can but guess that common records were in, or rare ones.
    sign = -1.0 if compared else 1.0
    return score_attempt(
        name,
        members,
        controls,
        blind=(sign * references[0].members, sign * references[0].controls),
        confidence=confidence,
        words=(
            "The attack is open to anybody who has the release and suspects a record: he asks the generator how likely "
            "it would make such a record"
            + (", and how likely generators make it that never saw it." if compared else ".")
        ),
    )


def _likelihoods(model: Family, tables: AttackTables) -> _Likelihoods:
    count = tables.pairs
    codes: Codes = np.ascontiguousarray(np.concatenate([tables.members, tables.controls]))
    found = generator_likelihood(model, codes)
    return _Likelihoods(members=found[:count], controls=found[count:])


def _nobody(records: Records) -> Extra:
    return Extra(codes=records.codes[:0], sites=np.zeros(0, dtype=np.int64))


def _agreed_by_nobody(study: Study) -> Study:
    """The study without the keys of its sites: those of a twin are its own."""
    return unbound(replace(study, federation=replace(study.federation, roster=None)))


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Draws conclusions.

    Attributes:
        claim: What is claimed about replacing a record; None where nothing is.
        subject: Name of the release.
        begin: When the audit began.
        confidence: Of each finding.
    """

    claim: Claim | None
    subject: str
    begin: float
    confidence: float

    def audit(self, attempts: Sequence[tuple[Attempt, Attempt]]) -> ModelAudit:
        """Every attack on the release, beside the same attack on the generator without privacy, which it may see."""
        findings = tuple(self.finding(attempt, positive) for attempt, positive in attempts)
        caught = tuple(
            finding.attack
            for finding, (_, positive) in zip(findings, attempts, strict=True)
            if self._sees(positive, finding.verdict)
        )
        seconds = time.monotonic() - self.begin
        twin = BrokenTwin(name=WITHOUT_PRIVACY, caught_by=caught, seconds=seconds, required=False)
        return ModelAudit(findings=findings, broken_twins=(twin,))

    def _sees(self, positive: Attempt, verdict: Verdict) -> bool:
        """Whether an attack on the generator without privacy contradicts the claim; the verdict is that with it."""
        return positive_violates(verdict, lambda: violates(self._shown(positive), self.claim))

    def all_failed(self, reason: str) -> ModelAudit:
        """The audit of which no attack could be carried out."""
        return ModelAudit(findings=tuple(self.failed(name, reason) for name in ATTACKS), broken_twins=())

    def finding(self, attempt: Attempt, positive: Attempt) -> Finding:
        """Hold an attack against the claim, beside the same attack on a generator without privacy."""
        claim = self.claim
        return judge(
            tier=Tier.MODEL,
            attack=attempt.attack,
            subject=self.subject,
            claim=claim,
            shown=self._shown(attempt),
            positive=self._shown(positive),
            grows=None if claim is None else lambda pairs: self._grown(positive, pairs, claim),
            ceiling=None
            if claim is None
            else paired.ceiling(attempt.scores.pairs, claim=claim, confidence=self.confidence),
            curve=attempt.curve,
            words=(*attempt.words, *_said(attempt, positive)),
            seconds=self._seconds(),
        )

    def failed(self, name: str, reason: str) -> Finding:
        """The finding of an attack that could not be carried out."""
        return failed(
            tier=Tier.MODEL,
            attack=name,
            subject=self.subject,
            claim=self.claim,
            measure=Measure.AUROC,
            reason=reason,
            seconds=self._seconds(),
        )

    def _shown(self, attempt: Attempt) -> Shown:
        bound = None
        if self.claim is not None:
            bound = paired.lower_bound(
                attempt.scores, delta=self.claim.delta, relation=self.claim.relation, confidence=self.confidence
            )
        return Shown(
            measure=attempt.measure,
            attacked=attempt.attacked,
            baseline=attempt.baseline,
            control=attempt.control,
            canaries=attempt.scores.pairs,
            lower_bound=bound,
        )

    def _grown(self, positive: Attempt, pairs: int, claim: Claim) -> float:
        """A bound on the right side of the claim: how far beyond it, nobody asks."""
        refuted = paired.would_refute(positive.scores, pairs, claim=claim, confidence=self.confidence)
        return float("inf") if refuted else 0.0

    def _seconds(self) -> float:
        return (time.monotonic() - self.begin) / len(ATTACKS)


def _said(attempt: Attempt, positive: Attempt) -> tuple[str, ...]:
    return (
        "Shown a record that was trained on and one that was not, it picks the right one in "
        f"{_percent(attempt.attacked)} of all cases, and without the release in {_percent(attempt.baseline)}.",
        f"On a generator that was trained without privacy on the same records: {_percent(positive.attacked)}.",
        "A pair of such records is what is counted as a canary here: it was chance which of the two was trained on.",
        RIGHT_FILE,
    )


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
