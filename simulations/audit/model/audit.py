"""Audit of what a trained generator gives away: membership attacks on a twin, each with its controls.

Trained are: the subject; a control that never sees a canary; the positive control, which is the same federation
without privacy on the same canaries; and reference models. Every attack of the family scores every canary and every
record of a population that no model saw. What is claimed of the subject is held against each. Beside them, where a site
sends sums with its own noise, the study runs on canaries of known gradient, which show the most that one run can.

All findings of an audit together contradict a claim that holds with a probability of at most five per cent: each is
held to an equal share of that error, fixed before anything is trained.
"""

import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from privacy.audit.finding import Claim, Finding, Tier
from privacy.audit.model.membership import ClaimedSteps, membership_finding, shows_violation
from privacy.audit.report import BrokenTwin
from privacy.audit.verdict import Measure, failed, of_each, positive_violates
from privacy.plan import PrivacyPlan, statistics_share
from protocol.errors import InputError
from protocol.randomness import RandomSource
from protocol.study import Study
from protocol.terms import ContributionKind
from records.dataset import Records
from simulations.audit.model.claimed_noise import claimed_noise, steps_of
from simulations.audit.model.deadline import Deadline
from simulations.audit.model.one_run import one_run_room
from simulations.audit.model.pool import Pool, make_pool, unit_of_rows
from simulations.audit.model.trials import (
    ATTACKS,
    FAULTS,
    KNOWN_GRADIENTS,
    Reader,
    Trial,
    Twins,
    failed_trial,
    known_gradient_trial,
    model_trial,
)
from simulations.audit.model.twin import TrainedTwin, of_reference, train_twin, without_privacy
from simulations.federation import unbound

LEAST_REFERENCES, MOST_REFERENCES = 2, 4
MOST_CANARIES, FEWEST_CANARIES = 1000, 4  # where the caller names no number
BUDGET_SECONDS = 300.0
ERROR = 0.05  # chance of a false alarm, all findings together
WITHOUT_PRIVACY = "a twin trained without noise"
SILENT = "a twin whose sums have no noise"
_READING = 1.5  # what all attacks together take, in runs of the subject


@dataclass(frozen=True, kw_only=True)
class ModelAudit:
    """What attacks on a trained model showed.

    Attributes:
        findings: One per attack.
        broken_twins: Twins without privacy, with the attacks of this audit that saw it.
    """

    findings: tuple[Finding, ...]
    broken_twins: tuple[BrokenTwin, ...]


def model_audit(
    study: Study,
    records: Records | None = None,
    *,
    random: RandomSource,
    canaries: int | None = None,
    budget_seconds: float = BUDGET_SECONDS,
    claim: Claim | None = None,
    planted_share: float = 0.5,
    control_clip_norm: float | None = None,
    positive_control: bool = True,
    error: float = ERROR,
) -> ModelAudit:
    """Attack a twin of a study's federation, and hold its claim against what the attacks show.

    Args:
        study: The study; the twin has its sizes, sites, model, training and privacy.
        records: Records of its schema, which never leave the process; None for synthetic ones.
        random: Source of canaries, coins and partitions; noise and samples are the study's own.
        canaries: Number of canaries; half of them are in. None for as many as there are records, up to a thousand.
        budget_seconds: When to be done. Where the pace of the first rounds shows that subject, controls and two
            reference models take longer, nothing more is trained, and no finding has a verdict; each says how many
            seconds are needed. What is left goes into two more reference models.
        claim: What is claimed; None for what the study promises.
        planted_share: Share of the canaries that are made up, in [0, 1]; the others are records like any.
        control_clip_norm: Clip norm of the positive control; None for the study's.
        positive_control: Whether to train the twin without privacy. Without it nothing but a violation can be
            concluded.
        error: Chance that any finding contradicts a claim that holds; each gets an equal share of it.

    Returns:
        One finding per attack on the family, and one on canaries of known gradient where the study has its sums noised
        at the sites; and the twins without privacy, with the attacks that saw it.

    Raises:
        InputError: If an argument is out of range, the family has no attacks, or nothing is claimed.
    """
    claimed_steps(study, claim)  # refused before anything is trained
    trials = attack_twins(
        study,
        records,
        random=random,
        canaries=canaries,
        budget_seconds=budget_seconds,
        planted_share=planted_share,
        control_clip_norm=control_clip_norm,
        positive_control=positive_control,
    )
    claimed = claimed_steps(study, claim, confidence=of_each(error, len(trials)))
    findings = tuple(trial_finding(trial, claimed) for trial in trials)
    return ModelAudit(findings=findings, broken_twins=broken_twins(trials, findings, claimed))


def attack_twins(
    study: Study,
    records: Records | None = None,
    *,
    random: RandomSource,
    canaries: int | None = None,
    budget_seconds: float = BUDGET_SECONDS,
    planted_share: float = 0.5,
    control_clip_norm: float | None = None,
    positive_control: bool = True,
) -> tuple[Trial, ...]:
    """Train the twins and carry out every attack, without any claim; arguments and errors as of :func:`model_audit`."""
    # A twin's sites have keys of their own.
    study = unbound(replace(study, federation=replace(study.federation, roster=None)))
    attacks = ATTACKS.get(study.model.family)
    if attacks is None:
        raise InputError(f"There is no attack on the family {study.model.family}.", remedy="Use vae or gan.")
    deadline = Deadline(budget_seconds)
    count = _default_canaries(study, records) if canaries is None else canaries
    pool = make_pool(study, records, canaries=count, planted_share=planted_share, random=random)
    begin, room = time.monotonic(), min(count, one_run_room(study))
    plain = without_privacy(study, clip_norm=control_clip_norm) if positive_control else None
    generator = np.random.default_rng(random.child("partition").seed64())
    known = _Known(study, canaries=room, random=random.child("known gradients"), positive_control=positive_control)
    try:
        twins = _train(study, pool, plain, generator=generator, deadline=deadline, known_runs=known.runs)
    except FAULTS as error:
        shared = (time.monotonic() - begin) / max(1, len(attacks))
        failures = tuple(failed_trial(attack, study, error, seconds=shared) for attack in attacks)
        return (*known.trial(deadline, pace=0.0), *failures)  # refused if the time was what failed
    shared = (time.monotonic() - begin) / max(1, len(attacks))
    reader = Reader(pool, pool.crowd(study, generator=generator), deadline)
    first = known.trial(deadline, pace=twins.seconds)
    return (*first, *(model_trial(attack, study, reader, twins, shared_seconds=shared) for attack in attacks))


@dataclass(frozen=True)
class _Known:
    """The attack on canaries of known gradient, where the study has room for it."""

    study: Study
    _: KW_ONLY
    canaries: int
    random: RandomSource
    positive_control: bool

    @property
    def runs(self) -> float:
        """How many runs of the study it takes."""
        return 0.0 if self.canaries < FEWEST_CANARIES else 3.0 if self.positive_control else 2.0

    def trial(self, deadline: Deadline, *, pace: float) -> tuple[Trial, ...]:
        """Carry it out, if there is room, and time for runs of this many seconds."""
        if self.runs == 0.0:
            return ()
        try:
            deadline.check(f"the attack {KNOWN_GRADIENTS.name!r}", needed=self.runs * pace)
        except InputError as error:
            return (failed_trial(KNOWN_GRADIENTS, self.study, error, seconds=0.0),)
        return (
            known_gradient_trial(
                self.study, canaries=self.canaries, random=self.random, positive_control=self.positive_control
            ),
        )


def trial_finding(trial: Trial, claimed: ClaimedSteps) -> Finding:
    """Hold one attack against a claim."""
    if trial.attempt is None or trial.control is None:
        return failed(
            tier=Tier.MODEL,
            attack=trial.attack.name,
            subject=trial.subject,
            claim=claimed.claim,
            measure=Measure.AUROC,
            reason=trial.fault,
            seconds=trial.seconds,
        )
    return membership_finding(
        trial.attempt,
        attack=trial.attack.name,
        subject=trial.subject,
        claimed=claimed,
        control=trial.control,
        positive=trial.positive,
        missed=trial.missed,
        words=trial.words,
        seconds=trial.seconds,
    )


def broken_twins(trials: Sequence[Trial], findings: Sequence[Finding], claimed: ClaimedSteps) -> tuple[BrokenTwin, ...]:
    """The twins without privacy, each with the attacks that saw it.

    Args:
        trials: Every attack.
        findings: What was concluded of each.
        claimed: What the attacks were held against.
    """
    twins = list[BrokenTwin]()
    pairs = list(zip(trials, findings, strict=True))
    for trial, _ in pairs:
        # It must be heard however few canaries there are.
        if trial.attack is KNOWN_GRADIENTS and trial.positive is not None:
            heard = () if trial.missed else (trial.attack.name,)
            twins.append(BrokenTwin(name=SILENT, caught_by=heard, seconds=trial.seconds))
    trained = [pair for pair in pairs if pair[0].attack is not KNOWN_GRADIENTS and pair[0].positive is not None]
    if trained:
        caught = tuple(trial.attack.name for trial, finding in trained if _saw(trial, finding, claimed))
        seconds = sum(trial.seconds for trial, _ in trained)
        twins.append(BrokenTwin(name=WITHOUT_PRIVACY, caught_by=caught, seconds=seconds, required=False))
    return tuple(twins)


def _saw(trial: Trial, finding: Finding, claimed: ClaimedSteps) -> bool:
    """Whether an attack contradicts the claim on its twin without privacy."""
    positive = trial.positive
    return positive is not None and positive_violates(finding.verdict, lambda: shows_violation(positive, claimed))


def claimed_steps(study: Study, claim: Claim | None, *, confidence: float = 1.0 - ERROR) -> ClaimedSteps:
    """Return the mechanism that a claim about a study is about.

    Args:
        study: The study.
        claim: What is claimed; None for what the study promises.
        confidence: Of what one attack shows; several share an error by `privacy.audit.verdict.of_each`.

    Raises:
        InputError: If the study promises nothing and no claim is given.
    """
    if study.training.strategy is ContributionKind.STATISTICS:
        raise InputError(
            "The study has no training that canaries could be followed through, but statistics alone.",
            remedy="Audit its mechanism, which covers them, or its release.",
        )
    plan = PrivacyPlan.from_study(study)
    if claim is None:
        if not plan.private:
            raise InputError("The study promises nothing.", remedy="State the claim that is to be tested.")
        promised = plan.statement(rounds=plan.rounds, simulated=True)
        claim = Claim(epsilon=promised.epsilon, delta=promised.delta, relation=promised.relation)
        noise = plan.noise_multiplier
    else:
        noise = claimed_noise(study, claim)
    return ClaimedSteps(
        claim=claim,
        noise_multiplier=noise,
        sample_rate=study.privacy.sample_rate,
        steps=steps_of(study),
        confidence=confidence,
        statistics=statistics_share(study),
    )


def _default_canaries(study: Study, records: Records | None) -> int:
    units = study.federation.public_records
    if records is not None and len(records):
        units = min(units, int(unit_of_rows(study, records).max()) + 1)
    return max(FEWEST_CANARIES, min(MOST_CANARIES, units))


@dataclass(kw_only=True)
class _Plan:
    """What is still to be trained and read, in runs of the subject."""

    runs: float

    def take(self, runs: float) -> float:
        """Take something off the plan, and return what follows it, in its own length."""
        self.runs -= runs
        return self.runs / runs


def _train(
    study: Study,
    pool: Pool,
    plain: Study | None,
    *,
    generator: np.random.Generator,
    deadline: Deadline,
    known_runs: float,
) -> Twins:
    """Train subject, controls and references; raises as soon as the time shows to be too short."""
    reference = of_reference(study)
    # A reference has half of the records.
    half = 0.5 if reference.federation.sites < study.federation.sites else 1.0
    plan = _Plan(runs=known_runs + _READING + (2.0 if plain is None else 3.0) + half * LEAST_REFERENCES)

    def train(each: Study, *, canaries: bool) -> TrainedTwin:
        extra = pool.members(each) if canaries else pool.strangers(each, share=1.0, generator=generator)
        return train_twin(each, pool.base, extra, generator=generator, deadline=deadline, following=plan.take(1.0))

    begin = time.monotonic()
    subject = train(study, canaries=True)
    pace = time.monotonic() - begin
    control = train(study, canaries=False)
    positive = None if plain is None else train(plain, canaries=True)
    references, slowest = list[TrainedTwin](), 0.0
    while len(references) < LEAST_REFERENCES or (
        len(references) < MOST_REFERENCES and deadline.left > slowest + (known_runs + 2.0 * _READING) * pace
    ):
        begin, needed = time.monotonic(), len(references) < LEAST_REFERENCES
        twin = train_twin(
            reference,
            pool.half(study, generator=generator),
            pool.strangers(reference, share=0.5, generator=generator),
            generator=generator,
            deadline=deadline,
            following=plan.take(half) if needed else 0.0,
        )
        references.append(twin.without_rounds())
        slowest = max(slowest, time.monotonic() - begin)
    return Twins(subject=subject, control=control, positive=positive, references=tuple(references), seconds=pace)
