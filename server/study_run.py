"""A run of a study: broadcast, contributions, sum, step, round after round; then the release."""

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import Message
from flwr.serverapp import Grid

from privacy.plan import PrivacyPlan
from protocol.errors import FederationError, WireError
from protocol.messages import Contribution, Refusal, RoundRequest, decode, encode, vector_hash
from protocol.randomness import DeterministicRandom, RandomSource, SystemRandom
from protocol.study import Study
from protocol.terms import NoiseOrigin
from server.cohort import Cohort, exchange, gather_cohort
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
        for number in range(1, self.study.training.rounds + 1):
            report = self._round(number, cohort, evidence)
            _LOGGER.info(
                "round %d of %d: %d sites, %.2f s",
                *(report.number, report.rounds, report.contributors, report.seconds),
                extra={"report": report},
            )
        evidence.seconds = time.monotonic() - begin
        return evidence

    def _round(self, number: int, cohort: Cohort, evidence: Evidence) -> RoundReport:
        begin = time.monotonic()
        request = RoundRequest(
            study=self.study.hash,
            run=evidence.run,
            round=number,
            kind=self._strategy.kind,
            vector=self.model.weights(),
        )
        contributions = self._collect(request, cohort)
        total = np.sum([c.vector.astype(np.int64) for c in contributions], axis=0) * self._strategy.step
        source = self._random.child(number)
        generator = torch.Generator(self.model.device).manual_seed(source.seed64() >> 1)
        self._strategy.apply(total, contributors=len(contributions), generator=generator)
        for contribution in contributions:
            evidence.entries[contribution.site] = contribution.entry
            evidence.contributions[contribution.site] = evidence.contributions.get(contribution.site, 0) + 1
        evidence.rounds = number
        return RoundReport(
            number=number,
            rounds=self.study.training.rounds,
            contributors=len(contributions),
            norm=float(np.linalg.norm(total)) / len(contributions),
            seconds=time.monotonic() - begin,
        )

    def _collect(self, request: RoundRequest, cohort: Cohort) -> list[Contribution]:
        """Return the valid contributions of a round."""
        replies = exchange(
            self._grid,
            encode(request),
            message_type=f"train.{request.kind.value}",
            nodes=list(cohort.nodes.values()),
            deadline=self.study.federation.deadline,
        )
        model = vector_hash(request.vector)
        found, problems = [], []
        for site, node in cohort.nodes.items():
            try:
                if node not in replies:
                    raise WireError("no answer.", remedy="Look at its log.")
                found.append(_checked(replies[node], request, model=model, site=site, key=cohort.keys[site]))
            except WireError as error:
                problems.append(f"{site}: {error.problem}")
                _LOGGER.warning("round %d: %s: %s", request.round, site, error)
        if len(found) < self.study.federation.quorum:
            raise FederationError(
                f"Round {request.round} has {len(found)} of {self.study.federation.quorum} contributions "
                f"({'; '.join(problems)})",
                remedy="Mend those sites and run the study again.",
            )
        return found


def _checked(reply: Message, request: RoundRequest, *, model: str, site: str, key: str) -> Contribution:
    """Return a contribution that answers this request, of the right size, signed by the site."""
    answer = decode(reply.content, Contribution, Refusal)
    if isinstance(answer, Refusal):
        raise WireError(f"{answer.reason.value}.", remedy="Its log says more.")
    expected = (request.study, request.run, request.round, request.kind, site, model)
    if (answer.study, answer.run, answer.round, answer.kind, answer.site, answer.model) != expected:
        raise WireError("the contribution answers another request.", remedy="Look at its log.")
    if answer.vector.shape != request.vector.shape:
        raise WireError("the contribution has another size than the model.", remedy="Look at its log.")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            bytes.fromhex(answer.signature), answer.signed_bytes()
        )
    except (InvalidSignature, ValueError) as error:
        raise WireError("the signature is not the site's.", remedy="Somebody may be speaking for it.") from error
    return answer
