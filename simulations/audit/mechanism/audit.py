"""Tier A: does a step do what the accountant assumes? A twin of the study is run on canaries and taken apart.

What is looked at, in this order: broken twins, each of which must be caught by a test that is about its defect; then
the twin as it is, for as long as the budget lasts. The broken twin without noise is the positive control of the lower
bounds: what canaries show of it is scored like what they show of the twin as it is. Every number that a site or a sum
shows is used twice: to bound the noise, and with it epsilon, from what canaries give away
(:mod:`privacy.audit.mechanism.step_bound`), and to test that what is left is the noise that was planned
(:mod:`privacy.audit.mechanism.residuals`).

An audit of an honest mechanism raises a false alarm with a probability of at most five per cent: four for all lower
bounds together, a half for all tests of residuals together.

Sizes: noise, clip norm, sample rate, divisor at a site, model and schema are the study's. Under ``trust = "none"`` the
twin has three sites, since what one site sends does not depend on how many others there are; under ``trust = "sum"``
it has the study's own, of which the stated number drops out of every round and the stated number colludes. A site's
number of records is that of the canaries it holds, and differs from site to site. The number of rounds is the
auditor's.

A study with rounds of statistics before its training is audited stage by stage: each stage is run as a study of its own
with its own broken twins, and each lower bound is held against the claim of the whole. In a twin of statistics every
round is like the family's first; what a later round asks for passes through the same bound, noise and ledger.

Not audited, because Cloister does not have it yet: preprocessing under differential privacy. A study cannot ask for it.
Whoever adds it adds its canaries (records that move its sum by a known vector) to
:mod:`simulations.audit.mechanism.canary_family`, its releases to :mod:`simulations.audit.mechanism.views`, and a broken
twin that charges it to nobody to :mod:`simulations.audit.mechanism.mutants`; bounds, tests and findings stay as they
are.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from privacy.audit.finding import Claim, Finding
from privacy.plan import PrivacyPlan
from protocol.errors import CloisterError, PrivacyError
from protocol.randomness import RandomSource
from protocol.study import Study
from protocol.terms import ContributionKind
from simulations.audit.mechanism.assessment import Assessment, ViewBound, assess
from simulations.audit.mechanism.catching import CAUGHT_BY, convincing, unconvinced
from simulations.audit.mechanism.control import suffices
from simulations.audit.mechanism.evidence import Effort, Evidence, gather
from simulations.audit.mechanism.findings import bound_findings, broken_off, mutant_finding, residual_findings
from simulations.audit.mechanism.mutants import CONTROL, Mutant, mutants_of
from simulations.audit.mechanism.run import stage_studies
from simulations.audit.mechanism.twin import HONEST, Parts
from simulations.audit.mechanism.wording import outcome_of

QUICK = Effort(rounds=10, canaries=320)
FULL = Effort(rounds=40, canaries=1600)


@dataclass(frozen=True, kw_only=True)
class Caught:
    """What became of a broken twin.

    Attributes:
        mutant: What was wrong with it.
        tests: The tests that failed on it, in words; none if it passed for honest, or if no test that is about its
            defect was among them.
        seconds: Wall time.
        processor_seconds: Processor time.
        problem: Why it could not be audited, or what else failed on it; mostly empty. A defect that stops a twin is
            none that was found.
        control: What canaries showed of the twin without noise; nothing of any other.
        kind: What the twin's sites contribute.
    """

    mutant: str
    tests: tuple[str, ...]
    seconds: float
    processor_seconds: float
    problem: str = ""
    control: tuple[ViewBound, ...] = field(default=(), repr=False, compare=False)
    kind: ContributionKind | None = None


def claim_of(study: Study) -> Claim:
    """What a study promises.

    Raises:
        PrivacyError: If it promises nothing.
        AccountingError: If the accountants disagree.
    """
    plan = PrivacyPlan.from_study(study)
    if not plan.private:
        raise PrivacyError(
            "The study adds no secret noise and so promises nothing.", remedy="Audit a study that makes a claim."
        )
    statement = plan.statement(rounds=plan.rounds, simulated=True)
    return Claim(epsilon=statement.epsilon, delta=statement.delta, relation=statement.relation)


def catch_mutants(
    study: Study, *, random: RandomSource, names: Sequence[str] | None = None, effort: Effort = QUICK
) -> tuple[Caught, ...]:
    """Audit the broken twins of a study and say which test caught each.

    Args:
        study: The study.
        random: Source of the auditor's own draws.
        names: Which, as of :func:`broken_twins`; None for all that apply.
        effort: Size of each audit.

    Raises:
        PrivacyError: If the study promises nothing.
    """
    claim = claim_of(study)
    return tuple(
        replace(
            audit_twin(
                part,
                claim,
                name=name,
                parts=mutant.parts,
                effort=effort,
                random=random,
                caught_by=CAUGHT_BY.get(mutant.name, ()),
            ),
            kind=part.training.strategy,
        )
        for name, part, mutant in _broken_twins(study)
        if names is None or name in names
    )


def broken_twins(study: Study) -> tuple[str, ...]:
    """Return the names of the broken twins of a study, of all of its stages."""
    return tuple(name for name, _, _ in _broken_twins(study))


def _broken_twins(study: Study) -> Iterator[tuple[str, Study, Mutant]]:
    """Yield name, stage and defect; of two stages, the name of the first says which it is."""
    parts = stage_studies(study)
    for part in parts:
        of = "" if part is parts[0] else f"{part.training.strategy.value}: "
        for mutant in mutants_of(part):
            yield f"{of}{mutant.name}", part, mutant


def audit_twin(
    study: Study,
    claim: Claim | None = None,
    *,
    name: str,
    parts: Parts,
    random: RandomSource,
    effort: Effort = QUICK,
    caught_by: Sequence[str] = (),
) -> Caught:
    """Audit one twin of a study, broken or not, and say which tests failed on it.

    Args:
        study: The study.
        claim: What is promised of it, for example by a release; None for what the study promises.
        name: What to call the twin.
        parts: What is replaced in it.
        random: Source of the auditor's own draws.
        effort: Size of the audit.
        caught_by: The tests that are about what is wrong with it, of which one must fail; none where any will do.

    Raises:
        PrivacyError: If no claim is given and the study promises nothing.
    """
    claim = claim_of(study) if claim is None else claim
    begin, used, problem = time.monotonic(), time.process_time(), ""
    tests: tuple[str, ...] = ()
    control: tuple[ViewBound, ...] = ()
    try:
        found = assess(gather(study, parts, effort=effort, random=random), study, claim)
        tests, control = found.alarms, found.bounds if parts is CONTROL.parts else ()
    except CloisterError as error:
        problem = f"could not be audited: {error}"
    if not convincing(tests, caught_by):
        tests, problem = (), problem or unconvinced(tests, caught_by)
    return Caught(
        mutant=name,
        tests=tests,
        seconds=time.monotonic() - begin,
        processor_seconds=time.process_time() - used,
        problem=problem,
        control=control,
    )


def mechanism_audit(
    study: Study,
    *,
    random: RandomSource,
    budget_seconds: float,
    caught: Sequence[Caught] | None = None,
    effort: Effort = FULL,
    claim: Claim | None = None,
) -> tuple[Finding, ...]:
    """Audit the mechanism of a study.

    Args:
        study: The study; it must make a claim.
        random: Source of the auditor's own draws: directions and weights. Noise and samples of the twin come from the
            operating system, as in production.
        budget_seconds: Wall time for the twin as it is, beside the broken ones and the positive control. At least one
            short run is made.
        caught: What became of the broken twins; None to run them now. The positive control is taken from there, and
            run if it is not there.
        effort: Size of one run of the twin.
        claim: What is promised, for example by a release of the study; None for what the study promises.

    Returns:
        One finding for each thing that an opponent may see, one for each group of properties, and one for the broken
        twins, whose words are the table of what caught which. Where a broken twin was missed, or none was audited, no
        finding has a verdict. Where the twin as it is could not be audited, one finding without a verdict says why.

    Raises:
        PrivacyError: If the study promises nothing.
        AccountingError: If the accountants disagree about what it promises.
    """
    promised = claim_of(study)
    claim = promised if claim is None else claim
    if caught is None:
        caught = catch_mutants(study, random=random)
    missed = [each.mutant for each in caught if not each.tests]
    if not caught:
        missed = ["a broken twin (none was audited)"]
    parts = stage_studies(study)
    found: list[Finding] = []
    for part in parts:
        own = [each for each in caught if each.kind in (None, part.training.strategy)]
        named = part if part is parts[0] else replace(part, name=f"{part.name[:50]}-{part.training.strategy.value}")
        budget = budget_seconds / len(parts)
        found += _stage_findings(
            named, claim, own, missed=missed, random=random, budget=budget, effort=effort, share=1.0 / len(parts)
        )
    return (*found, mutant_finding(caught, study, claim))


def _stage_findings(
    study: Study,
    claim: Claim,
    caught: Sequence[Caught],
    *,
    missed: Sequence[str],
    random: RandomSource,
    budget: float,
    effort: Effort,
    share: float,
) -> Iterator[Finding]:
    """Audit the twin of a study of one stage as it is; ``share`` is its part of the probability of a false alarm."""
    begin = time.monotonic()
    try:
        evidence = collect(study, random=random, budget_seconds=budget, effort=effort)
        assessment = assess(evidence, study, claim, compose_all=True, share=share)
        # Without a verdict no control is needed.
        controls = () if missed else _controls(study, evidence, assessment, claim, caught, effort=effort, random=random)
    except CloisterError as error:
        yield broken_off(study, claim, reason=str(error), seconds=time.monotonic() - begin)
        return
    seconds = time.monotonic() - begin
    yield from bound_findings(assessment, study, controls=controls, missed=missed, seconds=seconds)
    yield from residual_findings(evidence, assessment, study, claim, missed=missed, seconds=seconds)


def collect(study: Study, *, random: RandomSource, budget_seconds: float, effort: Effort = FULL) -> Evidence:
    """Run the honest twin until its numbers suffice or the time is over.

    When to stop depends on how many numbers there are, never on what they say.
    """
    begin = time.monotonic()
    evidence = gather(study, HONEST, effort=effort, random=random)
    while not evidence.suffices():
        spent = time.monotonic() - begin
        if spent * (1.0 + 1.0 / evidence.runs) > budget_seconds:
            break
        evidence.extend(random=random)
    return evidence


def _controls(
    study: Study,
    evidence: Evidence,
    assessment: Assessment,
    claim: Claim,
    caught: Sequence[Caught],
    *,
    effort: Effort,
    random: RandomSource,
) -> tuple[ViewBound, ...]:
    """What canaries show of the twin without noise: as was seen before, or at full length if that says too little."""
    controls = next((each.control for each in caught if each.control), ())
    if not controls:
        smaller = min(QUICK, effort, key=lambda each: each.rounds * each.canaries)
        controls = assess(gather(study, CONTROL.parts, effort=smaller, random=random), study, claim).bounds
    if suffices(assessment.bounds, controls):
        return controls
    larger = gather(study, CONTROL.parts, effort=effort, random=random)
    while larger.runs < evidence.runs:
        larger.extend(random=random)
    return assess(larger, study, claim).bounds


def table(caught: Sequence[Caught]) -> tuple[str, ...]:
    """The broken twins as lines of text."""
    return tuple(outcome_of(each) for each in caught)
