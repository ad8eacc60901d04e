"""From what a twin showed to conclusions: lower bounds on epsilon by canary family, and tests of residuals."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.audit.finding import Claim, Interval
from privacy.audit.intervals import Side, clopper_pearson
from privacy.audit.mechanism.canaries import CanaryKind
from privacy.audit.mechanism.residuals import (
    Check,
    canary_check,
    failures,
    fresh_check,
    lattice_check,
    noise_checks,
    sampler_checks,
    separate_checks,
)
from privacy.audit.mechanism.step_bound import StepBound, composed_epsilon, expected_bound, step_bound
from privacy.plan import PrivacyPlan
from protocol.study import Study
from simulations.audit.mechanism.evidence import Evidence
from simulations.audit.mechanism.views import LOCAL_STEP, SENT, SHARE, View

LOWER_BOUND = "lower bound"
BOUND_ERROR = 0.04
RESIDUAL_ERROR = 0.005
KIND_SHARES = {
    CanaryKind.DIRAC: 0.7,
    CanaryKind.SPREAD: 0.12,
    CanaryKind.HUGE: 0.12,
    CanaryKind.ZERO: 0.03,
    CanaryKind.NON_FINITE: 0.03,
}
Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
_RATE_SHARE = 0.1  # of the error of the bounds: for the measured sample rate
_LEAST_NOISE = 0.5  # of the planned noise: with less, the claim is long refuted and composing takes ever longer
_PRECISION = 2e-3  # of the claimed epsilon: what rounding in the composition may take from a lower bound
_ROWS_TOGETHER = 1_500


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewBound:
    """What canaries show of one view.

    Attributes:
        name: The view.
        plan: The study's plan.
        claim: The claim that is tested.
        families: Bound by kind of canary.
        scores: By kind of canary: of those that were in exactly one step, float64 [n], and in none, float64 [m].
        best: The kind with the least noise.
        error: Probability that any bound on this view's noise is wrong.
        steps: Noisy steps in one release.
        rate: Lower limit of the measured sample rate.
        lower_bound: Epsilon; zero where it was not worked out, being surely below the claim.
    """

    name: str
    plan: PrivacyPlan
    claim: Claim
    families: dict[CanaryKind, StepBound]
    scores: dict[CanaryKind, Scores]
    best: CanaryKind
    error: float
    steps: int
    rate: float
    lower_bound: float

    @property
    def present(self) -> NDArray[np.float64]:
        """Scores of the best kind of canaries that were in one step, float64 [n]."""
        return self.scores[self.best][0]

    @property
    def absent(self) -> NDArray[np.float64]:
        """Scores of the best kind of canaries that were in none, float64 [m]."""
        return self.scores[self.best][1]

    @property
    def number(self) -> int:
        """How many canaries of the best kind were decided on, present and absent."""
        return len(self.present) + len(self.absent)

    def composed(self, noise: float) -> float:
        """Epsilon of the whole study at so much noise in a step, at the measured rate."""
        return compose(self.plan, self.claim, noise=noise, rate=self.rate)

    @property
    def confidence(self) -> float:
        """Of the lower bound: neither the noise nor the rate is bounded wrongly."""
        return 1.0 - self.error - BOUND_ERROR * _RATE_SHARE

    @property
    def ceiling(self) -> float:
        """Epsilon that a perfect attacker typically shows with as many canaries, the noise being what was planned."""
        noise = expected_bound(
            noise=self.plan.noise_multiplier,
            present=len(self.present),
            absent=len(self.absent),
            error=self.error * KIND_SHARES[self.best],
            steps=self.steps,
        )
        return min(self.composed(noise), self.claim.epsilon)


@dataclass(frozen=True, kw_only=True, eq=False)
class Assessment:
    """What an audit concludes from the evidence.

    Attributes:
        bounds: Of every view about which a claim is made.
        checks: Every test of residuals.
        failed: Those that fail, corrected for their number.
        alarms: Whatever contradicts the claim, in words.
        unseen: Views in which canaries could not always be looked for: how often not, and how often they were.
    """

    bounds: tuple[ViewBound, ...]
    checks: tuple[Check, ...]
    failed: tuple[Check, ...]
    alarms: tuple[str, ...]
    unseen: Mapping[str, tuple[int, int]]


def assess(
    evidence: Evidence, study: Study, claim: Claim, *, compose_all: bool = False, share: float = 1.0
) -> Assessment:
    """Work out all bounds and tests.

    Args:
        evidence: What the twin showed.
        study: The study.
        claim: What is promised.
        compose_all: Whether to compose bounds too that are surely below the claim.
        share: Of the probability of a false alarm that an audit may have; below one where it has several stages.
    """
    plan = PrivacyPlan.from_study(study)
    names = list(dict.fromkeys(name for (name, _), views in evidence.views.items() if views[0].bounds))
    rate = measured_rate(evidence, study, error=share * BOUND_ERROR * _RATE_SHARE, side=Side.LOWER).low
    error = share * BOUND_ERROR * (1.0 - _RATE_SHARE) / max(1, len(names))
    bounds = tuple(
        _view_bound(evidence, plan, claim, name, error=error, rate=rate, compose_all=compose_all) for name in names
    )
    checks = tuple(all_checks(evidence))
    failed = failures(checks, error=share * RESIDUAL_ERROR)
    above = [f"{LOWER_BOUND} from {bound.name}" for bound in bounds if bound.lower_bound > claim.epsilon]
    alarms = (*above, *dict.fromkeys(str(check.what) for check in failed))
    unseen = {
        missing: (times, sum(len(views) for (name, _), views in evidence.views.items() if name == missing))
        for missing, times in evidence.unseen.items()
    }
    return Assessment(bounds=bounds, checks=checks, failed=failed, alarms=alarms, unseen=unseen)


def measured_rate(evidence: Evidence, study: Study, *, error: float, side: Side = Side.BOTH) -> Interval:
    """The sample rate, of all coins that were tossed at the study's own."""
    rate = study.privacy.sample_rate
    drawn = [taken for (_, tossed), batches in evidence.samples.items() if tossed == rate for taken in batches]
    hits, trials = sum(int(taken.sum()) for taken in drawn), sum(taken.size for taken in drawn)
    return clopper_pearson(hits, trials, confidence=1.0 - error, side=side)


def compose(plan: PrivacyPlan, claim: Claim, *, noise: float, rate: float) -> float:
    """A lower bound on the epsilon of a whole study.

    Args:
        plan: The study's plan.
        claim: The claim.
        noise: Upper bound on the noise multiplier of a step.
        rate: Lower bound on the sample rate.
    """
    # Of one stage: a bound on a part of what a study costs is a bound on the whole.
    event, rounds = plan.round_event, plan.study.training.rounds
    return composed_epsilon(
        max(noise, _LEAST_NOISE * plan.noise_multiplier),
        sample_rate=rate,
        steps=rounds * (event.count if event else 1),
        delta=claim.delta,
        relation=claim.relation,
        precision=_PRECISION * claim.epsilon,
    )


def surely_below(plan: PrivacyPlan, claim: Claim, *, noise: float, rate: float) -> bool:
    """Whether a lower bound is at most the claim, as can be told without composing it: a study composes ever the same.

    Args:
        plan: The study's plan.
        claim: The claim, which may be stricter than the study's own.
        noise: Upper bound on the noise multiplier of a step.
        rate: Lower bound on the sample rate.
    """
    planned, public = plan.noise_multiplier, plan.study.privacy.sample_rate
    return noise >= planned and rate <= public and compose(plan, claim, noise=planned, rate=public) <= claim.epsilon


def all_checks(evidence: Evidence) -> Iterator[Check]:
    """Every test of what is left of releases."""
    yield from evidence.checks
    for (name, where), views in evidence.views.items():
        noise, place = np.concatenate([view.noise for view in views]), f"{name}, {where}"
        yield from noise_checks(noise, sizes=evidence.sizes, where=place)
        yield from separate_checks(noise, sizes=evidence.sizes, where=place)
        yield from _canary_checks(evidence, views, place)
        if name not in own_noise_views(evidence):
            yield fresh_check(noise, where=place)
    apart = own_noise(evidence)
    most = _ROWS_TOGETHER // max(1, len(apart))
    # The first rounds of every site and run together: noise that a seed gives twice is then seen twice.
    yield fresh_check(np.concatenate([noise[:most] for noise in apart]), where="all sites and runs together")
    for rate in {rate for _, rate in evidence.samples}:
        batches = {where: np.concatenate(found) for (where, each), found in evidence.samples.items() if each == rate}
        yield from sampler_checks(batches, rate=rate)
    for where, words in evidence.words.items():
        yield lattice_check(np.concatenate(words), where=where)


def own_noise_views(evidence: Evidence) -> tuple[str, ...]:
    """The views whose noise is one mechanism's own; sums and changes are made of the same noise again."""
    local = any(name == LOCAL_STEP for name, _ in evidence.views)
    return (LOCAL_STEP,) if local else (SENT, SHARE)


def own_noise(evidence: Evidence) -> list[NDArray[np.float64]]:
    """Noise of each site and run, [T, d] each, in planned standard deviations; independent of one another."""
    names = own_noise_views(evidence)
    return [view.noise for (name, _), views in evidence.views.items() if name in names for view in views]


def _canary_checks(evidence: Evidence, views: list[View], where: str) -> Iterator[Check]:
    for kind in KIND_SHARES:
        chosen = evidence.canaries.of(kind)
        expected = evidence.canaries.contributions[chosen]
        shifts = []
        for view in views:
            scores, counts = view.scores[:, chosen], view.counts[:, chosen]
            shifts.append(((scores - counts * expected) / view.planned)[counts > 0])
        found = np.concatenate(shifts)
        if found.size:
            yield canary_check(found, where=f"{where}, {kind} canaries")


def best_of(families: Mapping[CanaryKind, StepBound]) -> CanaryKind:
    """The kind with the least noise; of several that show the same, the one with the most canaries."""
    return min(families, key=lambda kind: (families[kind].noise, -families[kind].present - families[kind].absent))


def _view_bound(
    evidence: Evidence,
    plan: PrivacyPlan,
    claim: Claim,
    name: str,
    *,
    error: float,
    rate: float,
    compose_all: bool,
) -> ViewBound:
    """Bound epsilon by each family of canaries; the best one counts, the error being shared by all."""
    views = [view for (each, _), found in evidence.views.items() if each == name for view in found]
    families: dict[CanaryKind, StepBound] = {}
    scores: dict[CanaryKind, Scores] = {}
    for kind, share in KIND_SHARES.items():
        chosen = evidence.canaries.of(kind)
        present, absent = (
            np.concatenate([view.scores[:, chosen][view.counts[:, chosen] == count] for view in views])
            for count in (1, 0)
        )
        scores[kind] = present, absent
        families[kind] = step_bound(*scores[kind], error=error * share, steps=views[0].steps)
    best = best_of(families)
    noise = families[best].noise
    needed = compose_all or not surely_below(plan, claim, noise=noise, rate=rate)
    return ViewBound(
        name=name,
        plan=plan,
        claim=claim,
        families=families,
        scores=scores,
        best=best,
        error=error,
        steps=views[0].steps,
        rate=rate,
        lower_bound=compose(plan, claim, noise=noise, rate=rate) if needed else 0.0,
    )
