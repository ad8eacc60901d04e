"""Collecting a round: from requests to the sum of valid contributions."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
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
from server.cohort import Cohort, exchange
from strategies.sum_wire import without_sum

_LOGGER = logging.getLogger("cloister.server")


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
    """

    def __init__(self, grid: Grid, study: Study, cohort: Cohort) -> None:
        self.grid = grid
        self.study = study
        self.cohort = cohort

    @abstractmethod
    def collect(self, request: RoundRequest) -> Collected:
        """Ask all sites to contribute to a round and add up what they send.

        Raises:
            FederationError: If there are fewer contributions than the study's quorum.
        """

    def ask(self, contents: Mapping[str, RecordDict], *, message_type: str) -> Iterator[tuple[str, Message]]:
        """Send each site its content; yields site and answer, as they come in time."""
        sites = {self.cohort.nodes[site]: site for site in contents}
        replies = exchange(
            self.grid,
            {self.cohort.nodes[site]: content for site, content in contents.items()},
            message_type=message_type,
            deadline=self.study.federation.deadline,
        )
        for node, reply in replies:
            yield sites[node], reply

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

    def collect(self, request: RoundRequest) -> Collected:
        """See :meth:`Collector.collect`."""
        contents = dict.fromkeys(self.cohort.nodes, encode(request))
        total = np.zeros(request.vector.shape, dtype=np.int64)
        entries: dict[str, str] = {}
        problems = dict.fromkeys(self.cohort.nodes, "no answer.")
        for site, reply in self.ask(contents, message_type=f"train.{request.kind.value}"):
            try:
                found = checked_contribution(reply, request, site=site, key=self.cohort.keys[site])
            except WireError as error:
                problems[site] = error.problem
                _LOGGER.warning("round %d: %s: %s", request.round, site, error)
                continue
            total += found.vector
            entries[site] = found.entry
            del problems[site]
        self.require_quorum(len(entries), number=request.round, problems=problems)
        return Collected(total=total, entries=entries)


def checked_contribution(reply: Message, request: RoundRequest, *, site: str, key: str) -> Contribution:
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
    if answer.vector.shape != request.vector.shape:
        raise WireError("the contribution has another size than the model.", remedy="Look at its log.")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            bytes.fromhex(answer.signature), answer.signed_bytes()
        )
    except (InvalidSignature, ValueError) as error:
        raise WireError("the signature is not the site's.", remedy="Somebody may be speaking for it.") from error
    return answer
