"""Collecting a round: from requests to the sum of valid contributions."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from protocol.errors import FederationError, WireError
from protocol.messages import Contribution, Refusal, RoundRequest, decode, encode, vector_hash
from protocol.study import Study
from server.cohort import Cohort
from server.exchange import Persistence, exchange
from server.patience import Patience
from server.progress import JobState
from strategies.sum_wire import without_sum

_LOGGER = logging.getLogger("cloister.server")
NO_ANSWER, ANSWERED = "no answer.", "answered"


@dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
    """What a round gave.

    Attributes:
        total: int64 ``[d]``, the sum of the contributions in grid steps.
        entries: Hash of the ledger entry that paid for each contribution, by site.
    """

    total: NDArray[np.int64]
    entries: Mapping[str, str]


class Collector(ABC):
    """Collects the rounds of one run.

    Args:
        grid: Flower's grid.
        study: The study.
        cohort: Its sites.
        patience: How a job waits for them; None fails where they are too few.
    """

    def __init__(self, grid: Grid, study: Study, cohort: Cohort, *, patience: Patience | None = None) -> None:
        self.grid = grid
        self.study = study
        self.cohort = cohort
        self.patience = patience

    @abstractmethod
    def collect(self, request: RoundRequest, *, coordinates: int) -> Collected | None:
        """Ask all sites to contribute to a round and add up what they send.

        Args:
            request: What they are asked for.
            coordinates: Length of the vectors that they send; that of the request's may be another.

        Returns:
            What the round gave; None where it ended without a sum and the run may go on with the next one, which
            happens in a job alone.

        Raises:
            FederationError: If there are fewer contributions than the study's quorum, or the operator of a job asked
                to stop.
        """

    def ask(
        self,
        wanted: Callable[[], Mapping[str, RecordDict]],
        *,
        message_type: str,
        number: int,
        needed: Callable[[], int],
        problems: Mapping[str, str],
        hopeless: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[str, Message]]:
        """Send sites their contents and yield what they answer, as it comes in time.

        In a job this is repeated, with the same bytes, until enough have answered: the sites that were charged for
        what they answered answer again for free, and the others are given their chance.

        Args:
            wanted: Gives what is to be sent, by site, to those whose acceptable answer is still missing.
            message_type: Flower's message type.
            number: Of the round.
            needed: Gives how many acceptable answers are still missing; the repetition ends at zero or below.
            problems: What is wrong with whom, for whoever looks.
            hopeless: Asked before each repetition: whether none can help.

        Yields:
            Site and answer.
        """
        attempt, answered = 0, set[str]()
        while True:
            attempt += 1
            contents = {self.cohort.nodes[site]: (site, found) for site, found in sorted(wanted().items())
                        if site in self.cohort.nodes}  # fmt: skip
            for node, reply in exchange(
                self.grid,
                {node: content for node, (_, content) in contents.items()},
                message_type=message_type,
                deadline=self.study.federation.deadline,
                persistence=None if self.patience is None else Persistence(enough=needed(), idle=self.patience.idle),
            ):
                yield contents[node][0], reply
                if self.patience is not None:
                    answered.add(contents[node][0])
                    said = dict.fromkeys(answered - wanted().keys(), ANSWERED)
                    self.patience.progress.tell(JobState.RUNNING, sites=self.patience.words(said))
            if self.patience is None or needed() <= 0 or hopeless():
                return
            missing = {site: problems.get(site, NO_ANSWER) for site in wanted()}
            self.patience.wait(attempt, missing, number=number)

    def require_quorum(self, found: int, *, number: int, problems: Mapping[str, str]) -> None:
        """Refuse a round with too few contributions."""
        if found < self.study.federation.quorum:
            listed = "; ".join(f"{site}: {problem}" for site, problem in problems.items())
            raise FederationError(
                f"Round {number} has {found} of {self.study.federation.quorum} contributions ({listed})",
                remedy="Mend those sites and run the study again.",
            )


class PlainCollector(Collector):
    """Contributions that are private one by one (``trust = "none"``): they are added up as they are."""

    def collect(self, request: RoundRequest, *, coordinates: int) -> Collected | None:
        """See :meth:`Collector.collect`."""
        content = encode(request)
        total = np.zeros(coordinates, dtype=np.int64)
        entries: dict[str, str] = {}
        problems = dict.fromkeys(self.cohort.nodes, NO_ANSWER)
        for site, reply in self.ask(
            lambda: dict.fromkeys(self.cohort.nodes.keys() - entries.keys(), content),
            message_type=f"train.{request.kind.value}",
            number=request.round,
            needed=lambda: self.study.federation.quorum - len(entries),
            problems=problems,
        ):
            try:
                found = checked_contribution(
                    reply, request, coordinates=coordinates, site=site, key=self.cohort.keys[site]
                )
            except WireError as error:
                problems[site] = error.problem
                _LOGGER.warning("round %d: %s: %s", request.round, site, error)
                continue
            total += found.vector
            entries[site] = found.entry
            problems.pop(site, None)
        self.require_quorum(len(entries), number=request.round, problems=problems)
        return Collected(total=total, entries=entries)


def checked_contribution(
    reply: Message, request: RoundRequest, *, coordinates: int, site: str, key: str
) -> Contribution:
    """Return a contribution that answers this request, of the right size, signed by the site.

    Raises:
        WireError: If it is a refusal, or anything else.
    """
    answer = decode(without_sum(reply.content), Contribution, Refusal)
    if isinstance(answer, Refusal):
        raise WireError(f"{answer.reason.value}.", remedy="Its log says more.")
    model = vector_hash(request.vector)
    expected = (request.study, request.run, request.round, request.kind, site, model)
    if (answer.study, answer.run, answer.round, answer.kind, answer.site, answer.model) != expected:
        raise WireError("the contribution answers another request.", remedy="Look at its log.")
    if answer.vector.shape != (coordinates,):
        raise WireError("the contribution has another size than the round's.", remedy="Look at its log.")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            bytes.fromhex(answer.signature), answer.signed_bytes()
        )
    except (InvalidSignature, ValueError) as error:
        raise WireError("the signature is not the site's.", remedy="Somebody may be speaking for it.") from error
    return answer
