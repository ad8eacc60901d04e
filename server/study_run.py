"""A run of a study: broadcast, contributions, sum, step, round after round; then the release.

In a simulation a run lives and dies with its process. A run of a job survives it: after every round, and before the
next one is asked for, everything that the run needs is on the disk. Whatever it asked for before its process died it
asks for again in the same bytes, and sites answer what they have answered before, for free.
"""

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from flwr.serverapp import Grid

from models.family import Family
from privacy.plan import PrivacyPlan
from protocol.digest import digest
from protocol.errors import InputError
from protocol.messages import RoundRequest, vector_hash
from protocol.randomness import DeterministicRandom, RandomSource, SystemRandom
from protocol.study import Study
from protocol.terms import ContributionKind, NoiseOrigin, Trust
from protocol.warrant import NO_WARRANT
from server.checkpoint import Checkpoint
from server.cohort import Cohort, gather_cohort
from server.collection import Collected, Collector, PlainCollector
from server.job import Job
from server.patience import Patience
from server.progress import JobState
from server.roll_call import RollCall
from server.sum_collection import SumCollector
from strategies.server_model import ServerModel
from strategies.starting_point import State, load_start
from strategies.strategy import Strategy
from strategies.study_model import build_study_model, check_statistics
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
        rounds: Rounds that sites were asked to contribute to, and so may have been charged for.
        unfinished: How many of these gave no sum, and left the model as it was.
        seconds: Wall time that the coordinator was at work.
    """

    run: str
    keys: Mapping[str, str]
    entries: dict[str, str] = field(default_factory=dict)
    contributions: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    unfinished: int = 0
    seconds: float = 0.0


class StudyRun:
    """One run of one study.

    Args:
        grid: Flower's grid.
        study: The study.
        device: Where the server's model lives.
        job: The job that the run belongs to; None for a run that ends with its process.
        start: Weights of the public release that the study starts from; None where it names none.

    Raises:
        StudyError: If ``start`` is not what the study names, or its family has no use for its rounds of statistics.
    """

    def __init__(
        self, grid: Grid, study: Study, *, device: torch.device, job: Job | None = None, start: State | None = None
    ) -> None:
        self.study = study
        self.plan = PrivacyPlan.from_study(study)
        self._grid = grid
        self._job = job
        family = build_study_model(study)
        self._check(family)
        load_start(family, study, start)
        self._strategy: Strategy = build_strategy(self.plan, ServerModel(family.to(device), study.training))
        deterministic = study.privacy.noise is NoiseOrigin.DETERMINISTIC
        self._random: RandomSource = (
            DeterministicRandom(study.training.seed).child("server") if deterministic else SystemRandom()
        )

    @property
    def model(self) -> ServerModel:
        """The server's model."""
        return self._strategy.model

    def execute(self) -> Evidence:
        """Train for all rounds of the study, from where an earlier process of the same job left it.

        Returns:
            What the run leaves behind beside :attr:`model`.

        Raises:
            FederationError: If a round ends with fewer contributions than the study's quorum; the model is then that
                of the round before. A job waits instead; it raises where its operator asked to stop.
        """
        evidence = self._begin()
        rounds = self.plan.rounds
        if evidence.rounds >= rounds:
            return evidence
        begin = time.monotonic() - evidence.seconds
        patience, cohort = self._gather(evidence)
        evidence.keys = cohort.keys
        collector = self._collector(cohort, patience, run=evidence.run)
        self._skip_lost(collector, evidence)
        while evidence.rounds < rounds:
            if patience is not None:
                patience.idle()
            report = self._round(evidence.rounds + 1, collector, evidence)
            evidence.seconds = time.monotonic() - begin
            self._keep(evidence, report)
            _LOGGER.info(
                "round %d of %d: %d sites, %.2f s",
                *(report.number, report.rounds, report.contributors, report.seconds),
                extra={"report": report},
            )
        evidence.keys = dict(evidence.keys)
        return evidence

    def _check(self, family: Family) -> None:
        """Refuse what no round should be spent on."""
        check_statistics(self.study, family)

    def _begin(self) -> Evidence:
        """Return the evidence so far: nothing, or what the job's checkpoint holds, whose model is loaded."""
        if self._job is None:
            return Evidence(run=secrets.token_hex(32), keys={})
        found = self._job.checkpoints.load()
        evidence = Evidence(run=self._job.run, keys={}) if found is None else _evidence(found)
        if evidence.run != self._job.run:
            raise InputError("The checkpoint is of another run.", remedy="Put back the job's own files.")
        if found is not None:
            self.model.load_training_state(found.tensors)
        self._job.progress.tell(JobState.WAITING, round_number=evidence.rounds)
        return evidence

    def _gather(self, evidence: Evidence) -> tuple[Patience | None, Cohort]:
        """Return who takes part."""
        if self._job is None:
            return None, gather_cohort(self._grid, self.study)
        roll_call = RollCall(self._grid, self.study, keys=evidence.keys)
        patience = Patience(roll_call, self.study, stop=self._job.stop, progress=self._job.progress)
        cohort = patience.gather(resumed=evidence.rounds > 0)
        self._job.progress.tell(JobState.RUNNING, sites=patience.words({}), message="")
        return patience, cohort

    def _strategy_of(self, number: int) -> Strategy:
        """Return what makes something of a round's sum; that of training is one and the same for all of its rounds."""
        if self.plan.stage(number).kind is ContributionKind.STATISTICS:
            return build_strategy(self.plan, self.model, number=number)
        return self._strategy

    def _round(self, number: int, collector: Collector, evidence: Evidence) -> RoundReport:
        begin, strategy = time.monotonic(), self._strategy_of(number)
        request = RoundRequest(
            study=self.study.hash,
            run=evidence.run,
            round=number,
            kind=strategy.kind,
            warrant=NO_WARRANT if self._job is None else self._job.warrant,
            vector=self.model.weights(),
        )
        collected = collector.collect(request, coordinates=strategy.dimension)
        evidence.rounds = number
        if collected is None:
            evidence.unfinished += 1
        norm = 0.0 if collected is None else self._apply(number, strategy, collected, evidence)
        return RoundReport(
            number=number,
            rounds=self.plan.rounds,
            contributors=0 if collected is None else len(collected.entries),
            norm=norm,
            seconds=time.monotonic() - begin,
        )

    def _apply(self, number: int, strategy: Strategy, collected: Collected, evidence: Evidence) -> float:
        """Let the model learn and note who contributed; returns the norm of the mean contribution."""
        total = collected.total.astype(np.float64) * strategy.step
        generator = torch.Generator(self.model.device).manual_seed(self._seed(number, run=evidence.run))
        strategy.apply(total, contributors=len(collected.entries), generator=generator)
        for site, entry in collected.entries.items():
            evidence.entries[site] = entry
            evidence.contributions[site] = evidence.contributions.get(site, 0) + 1
        return float(np.linalg.norm(total)) / len(collected.entries)

    def _seed(self, number: int, *, run: str) -> int:
        """Return the seed of the server's own draws in a round.

        They are post-processing, and need not be secret. In a job they follow from the run and the round, so that a
        round that has to be done again gives the same model, and the next request the same bytes.
        """
        if self._job is None or not self._random.private:
            return self._random.child(number).seed64() >> 1
        return int(digest({"run": run, "round": number})[:16], 16) >> 1

    def _keep(self, evidence: Evidence, report: RoundReport) -> None:
        """Write a job's checkpoint, and say how far it is."""
        if self._job is None:
            return
        following = vector_hash(self.model.weights())
        asked = self._job.checkpoints.asked_after(evidence.rounds)
        if asked is not None and asked != following[:16] and evidence.rounds < self.plan.rounds:
            # See `server.checkpoint`: the next round was asked for with another model before a checkpoint was damaged.
            evidence.rounds += 1
            evidence.unfinished += 1
        facts = {each.name: getattr(evidence, each.name) for each in fields(evidence)} | {"keys": dict(evidence.keys)}
        checkpoint = Checkpoint(round=evidence.rounds, facts=facts, tensors=self.model.training_state())
        self._job.checkpoints.save(checkpoint, following=following)
        ended = "without a sum" if report.contributors == 0 else f"with {report.contributors} sites"
        message = f"Round {report.number} of {report.rounds} ended {ended}, after {report.seconds:.1f} s."
        self._job.progress.tell(JobState.RUNNING, round_number=evidence.rounds, message=message)

    def _skip_lost(self, collector: Collector, evidence: Evidence) -> None:
        """Pass over rounds whose sums were opened, or begun, beyond the checkpoint that the run goes on from.

        This takes a damaged checkpoint. What those rounds gave is lost, and no site masks a round twice.
        """
        if isinstance(collector, SumCollector) and collector.last_round > evidence.rounds + 1:
            evidence.unfinished += collector.last_round - evidence.rounds
            evidence.rounds = min(collector.last_round, self.plan.rounds)

    def _collector(self, cohort: Cohort, patience: Patience | None, *, run: str) -> Collector:
        """Return what collects rounds under the study's trust."""
        if self.study.privacy.trust is Trust.NONE:
            return PlainCollector(self._grid, self.study, cohort, patience=patience)
        return SumCollector(
            self._grid,
            self.plan,
            cohort,
            run=run,
            warrant=NO_WARRANT if self._job is None else self._job.warrant,
            model=self.model.family,
            patience=patience,
            keeper=self._job,
        )


def _evidence(checkpoint: Checkpoint) -> Evidence:
    """Return the evidence that a checkpoint holds."""
    known: dict[str, Any] = {each.name: checkpoint.facts[each.name] for each in fields(Evidence)}
    return Evidence(**known)
