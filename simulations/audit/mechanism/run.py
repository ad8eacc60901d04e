"""A run of a twin: the real server and the real apps of a study on one machine.

The weights are drawn at random instead of trained, since a canary's gradient does not depend on them; everything else
that happens between a request and a sum is what happens in production.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message
from numpy.typing import NDArray

from client.app import app as client_app
from client.approvals import Approvals
from client.site import resident
from models.family import Family
from privacy.audit.mechanism.canaries import Canaries
from privacy.ledger import Ledger
from privacy.plan import STATISTICS_NORM, PrivacyPlan
from protocol.messages import Contribution, Refusal, RoundRequest, decode
from protocol.randomness import RandomSource
from protocol.study import FederationTerms, StatisticsTerms, Study
from protocol.terms import ContributionKind, Trust
from server.collection import Collected, Collector
from server.study_run import StudyRun
from simulations.audit.mechanism.canary_family import NO_CANARIES, CanaryFamily, CanaryRecords
from simulations.audit.mechanism.twin import CPU, DROPS_OUT, Parts, SiteLog, TwinSite
from simulations.federation import permissive_policy, unbound, with_roster
from simulations.grid import InMemoryGrid
from strategies.strategy import Strategy
from strategies.sum_wire import without_sum
from strategies.table import build_strategy

_SPREAD_OF_WEIGHTS = 0.1


@dataclass(kw_only=True, eq=False)
class RunLog:
    """What the twin saw of a run.

    Attributes:
        sites: By site.
        opened: Sum of each round as the coordinator learns it, int64 [d], in grid steps.
        weights: What sites received in each round, float32 [d].
    """

    sites: dict[str, SiteLog]
    opened: list[NDArray[np.int64]] = field(default_factory=list)
    weights: list[NDArray[np.float32]] = field(default_factory=list)


class _RandomWeights(Strategy):
    """Keeps the model as it is: the twin draws the weights itself."""

    def __init__(self, inner: Strategy) -> None:
        super().__init__(inner.plan, inner.model)
        self.kind = inner.kind  # type: ignore[misc]  # the study's, which is known of an object only
        self._inner = inner

    @property
    def dimension(self) -> int:
        """That of the strategy."""
        return self._inner.dimension

    @property
    def step(self) -> float:
        """That of the strategy."""
        return self._inner.step

    def apply(self, total: NDArray[np.float64], *, contributors: int, generator: torch.Generator) -> None:
        """Do nothing."""


class TwinRun(StudyRun):
    """The real run with random weights, whose sums are kept.

    Args:
        grid: Flower's grid.
        study: The twin's study.
        log: Where to keep sums.
        random: Source of the weights.
        stop_after: Rounds after which the coordinator goes away; None for all rounds of the study.
    """

    def __init__(
        self, grid: InMemoryGrid, study: Study, *, log: RunLog, random: RandomSource, stop_after: int | None = None
    ) -> None:
        super().__init__(grid, study, device=CPU)
        self._stop_after = stop_after
        if self.study.training.strategy is ContributionKind.STATISTICS:
            # Like the sites' families: every round is the first one.
            self.model.family = CanaryFamily(self.model.family, NO_CANARIES, statistics=True)
        self._strategy = _RandomWeights(build_strategy(self.plan, self.model, number=1))
        self._log = log
        self._weights = np.random.default_rng(random.seed64())

    def _check(self, family: Family) -> None:
        """Allow more rounds of statistics than the family has a use for: the twin's are all like its first."""

    def _strategy_of(self, number: int) -> Strategy:
        """Return one and the same for all rounds."""
        del number
        return self._strategy

    def _round(self, number: int, collector: Any, evidence: Any) -> Any:  # noqa: ANN401 - whatever the run passes on
        watched = _WatchedCollector(collector, self._log, self._weights)
        report = super()._round(number, cast(Collector, watched), evidence)
        if number == self._stop_after:
            # No later round is asked for, as if the coordinator had died here.
            evidence.rounds = self.plan.rounds
        return report


class _WatchedCollector:
    """Sends other weights than it was given, and keeps what comes back."""

    def __init__(self, inner: Any, log: RunLog, weights: np.random.Generator) -> None:  # noqa: ANN401 - any collector
        self._inner = inner
        self._log = log
        self._weights = weights

    def collect(self, request: RoundRequest, *, coordinates: int) -> Collected:
        """Collect a round."""
        vector = self._weights.normal(0.0, _SPREAD_OF_WEIGHTS, request.vector.shape).astype(np.float32)
        collected = cast(Collected, self._inner.collect(replace(request, vector=vector), coordinates=coordinates))
        self._log.opened.append(collected.total)
        self._log.weights.append(vector)
        return collected


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A site of the twin.

    Attributes:
        records: Its canaries.
        away: Whether it drops out of every round.
        ledger: What it pays into; None for one in memory of its own.
        key: Its key; None for a new one.
    """

    records: CanaryRecords
    away: bool = False
    ledger: Ledger | None = None
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)


def twin_study(study: Study, *, sites: int, rounds: int) -> Study:
    """Return the study of a twin: its noise, rate, clip norm and divisor at a site, over other rounds and sites.

    It has one stage, the study's last: see :func:`stage_studies`.

    What one site sends by itself does not depend on how many others there are; under the secure sum the number of
    sites must be the study's own.
    """
    plan = PrivacyPlan.from_study(study)
    privacy = replace(study.privacy, epsilon=None, noise_multiplier=plan.noise_multiplier, delta=plan.delta)
    terms = study.federation
    each = max(1, round(terms.public_records / terms.sites))
    federation = FederationTerms(
        sites=sites,
        public_records=max(2, each * sites),
        dropouts=terms.dropouts if study.privacy.trust is Trust.SUM else 0,
        colluders=terms.colluders if study.privacy.trust is Trust.SUM else 0,
        deadline=terms.deadline,
    )
    training = replace(study.training, rounds=rounds)
    free = unbound(study)
    return replace(free, privacy=privacy, federation=federation, training=training, statistics=StatisticsTerms())


def stage_studies(study: Study) -> tuple[Study, ...]:
    """Return every stage of a study as a study of its own, with the stage's noise: the training first.

    What all of them cost together is what the study costs.
    """
    plan = PrivacyPlan.from_study(study)
    last = study
    if len(plan.stages) > 1:
        privacy = replace(study.privacy, epsilon=None, noise_multiplier=plan.noise_multiplier, delta=plan.delta)
        last = replace(study, privacy=privacy, statistics=StatisticsTerms())
    found = [last]
    for stage in plan.stages[:-1]:
        privacy = replace(
            study.privacy,
            epsilon=None,
            noise_multiplier=stage.noise_multiplier,
            delta=plan.delta,
            sample_rate=stage.sample_rate,
        )
        training = replace(study.training, strategy=stage.kind, rounds=stage.rounds)
        found.append(replace(study, privacy=privacy, training=training, statistics=StatisticsTerms()))
    # Statistics are bounded by one, whatever gradients are clipped to.
    return tuple(
        replace(part, privacy=replace(part.privacy, clip_norm=STATISTICS_NORM))
        if part.training.strategy is ContributionKind.STATISTICS
        else part
        for part in found
    )


def run_twin(
    study: Study,
    members: Mapping[str, Member],
    canaries: Canaries,
    *,
    parts: Parts,
    random: RandomSource,
    stop_after: int | None = None,
) -> RunLog:
    """Run a twin's study from the beginning to the end, through the real apps.

    Args:
        study: As of :func:`twin_study`, for as many sites as there are members.
        members: The sites, by name.
        canaries: The canaries.
        parts: What is replaced.
        random: Source of the weights; noise and samples come from the operating system, as in production.
        stop_after: Rounds after which the coordinator goes away; None for all rounds of the study.

    Raises:
        CloisterError: Whatever a run can raise.
    """
    if study.privacy.trust is Trust.SUM:
        study = with_roster(study, {name: member.key for name, member in members.items()})
    log = RunLog(sites={name: SiteLog() for name in members})
    sites = {
        name: _site(name, study, member, canaries=canaries, parts=parts, log=log.sites[name])
        for name, member in members.items()
    }

    def tap(message: Message, raw: bytes) -> None:
        del raw
        if message.has_content() and message.metadata.message_type.startswith("train."):
            answer = decode(without_sum(message.content), Contribution, Refusal)
            if isinstance(answer, Contribution):
                log.sites[answer.site].left.append(answer.vector)

    away = [name for name, member in members.items() if member.away]
    with _expecting(away), resident(sites) as nodes:
        grid = InMemoryGrid(client_app, nodes, tap=tap)
        with grid.as_server():
            TwinRun(grid, study, log=log, random=random, stop_after=stop_after).execute()
    return log


@contextmanager
def _expecting(away: Collection[str]) -> Iterator[None]:
    """Keep out of the logs what sites and server say of drop-outs that are a part of the audit."""

    def unexpected(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return DROPS_OUT not in said and not any(f" {name}: " in said for name in away)

    loggers = [logging.getLogger(name) for name in ("cloister.site", "cloister.server")]
    for logger in loggers:
        logger.addFilter(unexpected)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(unexpected)


def _site(name: str, study: Study, member: Member, *, canaries: Canaries, parts: Parts, log: SiteLog) -> TwinSite:
    ledger = member.ledger or Ledger.in_memory(key=member.key, data_set=name)
    return TwinSite(
        name=name,
        policy=permissive_policy(study),
        approvals=Approvals([study]),
        ledger=ledger,
        key=member.key,
        records=member.records,
        canaries=canaries,
        parts=parts,
        log=log,
        away=member.away,
    )
