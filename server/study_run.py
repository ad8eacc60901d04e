"""A run of a study: broadcast, contributions, sum, step, round after round; then the release."""

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.serverapp import Grid

from privacy.plan import PrivacyPlan
from protocol.messages import RoundRequest
from protocol.randomness import DeterministicRandom, RandomSource, SystemRandom
from protocol.study import Study
from protocol.terms import NoiseOrigin, Trust
from server.cohort import Cohort, gather_cohort
from server.collection import Collector, PlainCollector
from server.sum_collection import SumCollector
from strategies.server_model import ServerModel
from strategies.strategy import Strategy
from strategies.study_model import build_study_model
from strategies.table import build_strategy

_LOGGER = logging.getLogger("cloister.server")


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """What the coordinator may know of a round; all of it follows from what sites released.

    Attributes:
        number: Of the round, from 1.
        rounds: Of the study.
        contributors: Sites that contributed.
        norm: L2 norm of the mean contribution.
        seconds: Wall time.
    """

    number: int
    rounds: int
    contributors: int
    norm: float
    seconds: float


@dataclass(kw_only=True)
class Evidence:
    """What a run leaves behind beside the model.

    Attributes:
        run: Identifier of the run.
        keys: Public key of each site.
        entries: Hash of the last ledger entry of each site.
        contributions: Number of contributions of each site.
        rounds: Completed rounds.
        seconds: Wall time.
    """

    run: str
    keys: Mapping[str, str]
    entries: dict[str, str] = field(default_factory=dict)
    contributions: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0


class StudyRun:
    """One run of one study.

    Args:
        grid: Flower's grid.
        study: The study.
        device: Where the server's model lives.
    """

    def __init__(self, grid: Grid, study: Study, *, device: torch.device) -> None:
        self.study = study
        self.plan = PrivacyPlan.from_study(study)
        self._grid = grid
        self._strategy: Strategy = build_strategy(
            self.plan, ServerModel(build_study_model(study).to(device), study.training)
        )
        deterministic = study.privacy.noise is NoiseOrigin.DETERMINISTIC
        self._random: RandomSource = (
            DeterministicRandom(study.training.seed).child("server") if deterministic else SystemRandom()
        )

    @property
    def model(self) -> ServerModel:
        """The server's model."""
        return self._strategy.model

    def execute(self) -> Evidence:
        """Train for all rounds of the study.

        Returns:
            What the run leaves behind beside :attr:`model`.

        Raises:
            FederationError: If a round ends with fewer contributions than the study's quorum; the model is
                then that of the round before.
        """
        cohort = gather_cohort(self._grid, self.study)
        evidence = Evidence(run=secrets.token_hex(32), keys=dict(cohort.keys))
        begin = time.monotonic()
        collector = self._collector(cohort, run=evidence.run)
        for number in range(1, self.study.training.rounds + 1):
            report = self._round(number, collector, evidence)
            _LOGGER.info(
                "round %d of %d: %d sites, %.2f s",
                *(report.number, report.rounds, report.contributors, report.seconds),
                extra={"report": report},
            )
        evidence.seconds = time.monotonic() - begin
        return evidence

    def _round(self, number: int, collector: Collector, evidence: Evidence) -> RoundReport:
        begin = time.monotonic()
        request = RoundRequest(
            study=self.study.hash,
            run=evidence.run,
            round=number,
            kind=self._strategy.kind,
            vector=self.model.weights(),
        )
        collected = collector.collect(request)
        total = collected.total.astype(np.float64) * self._strategy.step
        source = self._random.child(number)
        generator = torch.Generator(self.model.device).manual_seed(source.seed64() >> 1)
        self._strategy.apply(total, contributors=len(collected.entries), generator=generator)
        for site, entry in collected.entries.items():
            evidence.entries[site] = entry
            evidence.contributions[site] = evidence.contributions.get(site, 0) + 1
        evidence.rounds = number
        return RoundReport(
            number=number,
            rounds=self.study.training.rounds,
            contributors=len(collected.entries),
            norm=float(np.linalg.norm(total)) / len(collected.entries),
            seconds=time.monotonic() - begin,
        )

    def _collector(self, cohort: Cohort, *, run: str) -> Collector:
        """Return what collects rounds under the study's trust."""
        if self.study.privacy.trust is Trust.NONE:
            return PlainCollector(self._grid, self.study, cohort)
        return SumCollector(self._grid, self.plan, cohort, run=run, dimension=self.model.dimension)
