"""Twins of a federation that train on canaries: what an attacker on the trained model may see, at nobody's risk."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from client.app import app as client_app
from client.site import resident
from models.family import Family
from privacy.plan import PrivacyPlan
from protocol.messages import Contribution, Refusal, RoundRequest, decode
from protocol.study import Study
from protocol.terms import ContributionKind, Trust
from records.bins import Codes
from records.dataset import Records
from server.cohort import Cohort
from server.collection import Collected, Collector
from server.patience import Patience
from server.study_run import StudyRun
from simulations.audit.model.deadline import Deadline
from simulations.audit.model.pool import Extra, unit_of_rows, watched_sites
from simulations.federation import simulated_site, with_roster
from simulations.grid import InMemoryGrid
from strategies.study_model import build_study_model
from strategies.sum_wire import without_sum

CPU = torch.device("cpu")
_PACED = 5  # rounds after which their pace is believed


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedTwin:
    """A trained twin, and what insiders saw of its training.

    Attributes:
        study: Its study.
        insider: The model with the last shared weights, which every site and the coordinator hold.
        released: The model with the generator that is released.
        weights: float32 [T, d], what sites received in each round.
        words: int32 or int64 [views, T, d], in grid steps: what each watched site sent, or under ``trust = "sum"``
            the sum over all sites alone, in one view.
        step: Value of one grid step, in the unit of the gradient.
    """

    study: Study
    insider: Family
    released: Family
    weights: NDArray[np.float32]
    words: NDArray[np.signedinteger[Any]]
    step: float

    def without_rounds(self) -> "TrainedTwin":
        """The trained model alone."""
        return replace(self, weights=self.weights[:0], words=self.words[:, :0])


def train_twin(
    study: Study,
    base: Records,
    extra: Extra,
    *,
    generator: np.random.Generator,
    deadline: Deadline,
    following: float = 0.0,
) -> TrainedTwin:
    """Train a study with the real code of client and server.

    Args:
        study: The study.
        base: Records that are dealt out to the sites at random.
        extra: Records that are placed at sites on purpose.
        generator: Deals out the base; noise and samples are those of the study.
        deadline: When to be done. As soon as the pace of the rounds shows that it will be missed, nothing more is
            trained.
        following: What has to be done by then beside this run, in runs like this one.

    Raises:
        InputError: If the time does not suffice.
        CloisterError: Whatever a run can raise.
    """
    parts = _parts(study, base, extra, generator)
    keys = {name: Ed25519PrivateKey.generate() for name in parts}
    if study.privacy.trust is Trust.SUM:
        study = with_roster(study, keys)
    sites = {name: simulated_site(name, study, own, device="cpu", key=keys[name]) for name, own in parts.items()}
    sent: dict[str, list[NDArray[np.int32]]] = {name: [] for name in list(parts)[: watched_sites(study)]}

    def tap(message: Message, raw: bytes) -> None:
        del raw
        if message.has_content() and message.metadata.message_type.startswith("train."):
            answer = decode(without_sum(message.content), Contribution, Refusal)
            trained = isinstance(answer, Contribution) and answer.kind is study.training.strategy
            if isinstance(answer, Contribution) and trained and answer.site in sent:
                sent[answer.site].append(answer.vector)

    with resident(sites) as nodes:
        grid = InMemoryGrid(client_app, nodes, tap=tap if study.privacy.trust is Trust.NONE else None)
        with grid.as_server():
            run = _WatchedRun(grid, study, device=CPU)
            run.pace = _Pace(deadline, rounds=study.training.rounds, following=following)
            run.execute()
    summed = study.privacy.trust is Trust.SUM
    released = build_study_model(study)
    released.generator.load_state_dict(run.model.released_state())
    return TrainedTwin(
        study=study,
        insider=run.model.family.eval(),
        released=released.eval(),
        weights=np.stack([vector for vector, _ in run.seen]),
        words=np.stack([total for _, total in run.seen])[None] if summed else np.array(list(sent.values())),
        step=run.step,
    )


def without_privacy(study: Study, *, clip_norm: float | None = None) -> Study:
    """Return the study of the twin without privacy: no noise, and another clip norm if one is given."""
    privacy = replace(
        study.privacy,
        epsilon=None,
        noise_multiplier=0.0,
        delta=PrivacyPlan.from_study(study).delta,
        trust=Trust.NONE,
        clip_norm=study.privacy.clip_norm if clip_norm is None else clip_norm,
    )
    federation = replace(study.federation, dropouts=0, colluders=0, roster=None)
    return replace(study, privacy=privacy, federation=federation)


def of_reference(study: Study) -> Study:
    """Return the study of a reference model: without privacy, for half of the records.

    An attacker trains references as serves him best. Without noise they tell most about how common a record is, also
    beside a private subject. Where rounds are single steps, one site computes the same sum as many.
    """
    plain = without_privacy(study)
    steps = study.training.strategy is ContributionKind.GRADIENTS
    half = max(2, plain.federation.public_records // 2)
    federation = replace(plain.federation, public_records=half, minimum_sites=None)
    return replace(plain, federation=replace(federation, sites=1) if steps else federation)


class _Pace:
    """Says early when the time will not suffice.

    Args:
        deadline: When everything has to be done.
        rounds: Of this run.
        following: Runs like this one that follow.
    """

    def __init__(self, deadline: Deadline, *, rounds: int, following: float) -> None:
        self._deadline = deadline
        self._rounds = rounds
        self._following = following
        self._begin = time.monotonic()
        self._done = 0

    def check(self) -> None:
        """Note a round, and refuse to go on where the rest would take too long."""
        if self._done == 0:
            # The first round waits for things that are made once.
            self._begin = time.monotonic()
        self._done += 1
        paced = self._done - 1
        each = (time.monotonic() - self._begin) / paced if paced >= min(_PACED, self._rounds - 1) > 0 else 0.0
        rest = self._rounds - self._done + self._following * self._rounds
        self._deadline.check("training the twins of this study", needed=each * rest)


class _WatchedRun(StudyRun):
    """The real run, which keeps the weights that it sent and the sums that it opened."""

    pace: _Pace

    def __init__(self, grid: Grid, study: Study, *, device: torch.device) -> None:
        super().__init__(grid, study, device=device)
        self.seen: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []

    @property
    def step(self) -> float:
        """Value of one grid step."""
        return self._strategy.step

    def _collector(self, cohort: Cohort, patience: Patience | None, *, run: str) -> Collector:
        return _WatchedCollector(super()._collector(cohort, patience, run=run), self.seen, pace=self.pace)


class _WatchedCollector(Collector):
    """A collector that keeps what it was asked and what it found."""

    def __init__(
        self, inner: Collector, seen: list[tuple[NDArray[np.float32], NDArray[np.int64]]], *, pace: _Pace
    ) -> None:
        super().__init__(inner.grid, inner.study, inner.cohort, patience=inner.patience)
        self._inner = inner
        self._pace = pace
        self._seen = seen

    def collect(self, request: RoundRequest, *, coordinates: int) -> Collected | None:
        """Collect a round; one that ended without a sum left nothing to be seen, and statistics are not looked at."""
        collected = self._inner.collect(request, coordinates=coordinates)
        if collected is None or request.kind is not self.study.training.strategy:
            return collected
        # Where every site's own vector is watched, their sum is not kept beside it.
        kept = collected.total if self.study.privacy.trust is Trust.SUM else np.zeros(0, dtype=np.int64)
        self._seen.append((request.vector, kept))
        self._pace.check()
        return collected


def _parts(study: Study, base: Records, extra: Extra, generator: np.random.Generator) -> dict[str, Records]:
    """Every site's records, by name."""
    sites = study.federation.sites
    units = unit_of_rows(study, base)
    site_of_unit = generator.permutation(int(units.max()) + 1) % sites
    return {
        f"site-{number + 1}": _joined(
            base.take(np.flatnonzero(site_of_unit[units] == number)), extra.codes[extra.sites == number]
        )
        for number in range(sites)
    }


def _joined(records: Records, codes: Codes) -> Records:
    """Records with more behind them, each about a person of its own."""
    persons = None
    if records.persons is not None:
        known = int(records.persons.max()) + 1 if len(records) else 0
        persons = np.concatenate([records.persons, known + np.arange(len(codes), dtype=np.int64)])
    return Records(codes=np.concatenate([records.codes, codes]), persons=persons, schema=records.schema)
