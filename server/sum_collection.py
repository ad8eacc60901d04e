"""Collecting a round under the secure sum: the coordinator learns the sum over the survivors and nothing else."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid

from privacy.plan import PrivacyPlan
from privacy.secure_sum import KeyOffer, Preparation, Reveal, ServerSession, SurvivorSignature
from privacy.secure_sum.messages import SumMessage
from protocol.errors import CloisterError, FederationError, WireError
from protocol.messages import Refusal, RoundRequest, SumTurn, decode, encode, vector_hash
from server.cohort import Cohort
from server.collection import Collected, Collector, checked_contribution
from strategies.sum_wire import masked_input, read_sum, sum_policy, with_sum, without_sum

_LOGGER = logging.getLogger("cloister.server")
Told = TypeVar("Told", KeyOffer, Preparation, SurvivorSignature, Reveal)


class SumCollector(Collector):
    """Runs a :class:`~privacy.secure_sum.ServerSession` over Flower's messages.

    Keys are agreed on once, when it is made. A round takes two exchanges, and one more where sites dropped out.

    Args:
        grid: Flower's grid.
        plan: The study's privacy plan.
        cohort: Its sites, under the keys of the study's roster.
        run: Identifier of the run.
        dimension: Coordinates of a contribution.

    Raises:
        ApprovalError: If the study pins no keys.
        FederationError: If too few sites agree on keys.
    """

    def __init__(self, grid: Grid, plan: PrivacyPlan, cohort: Cohort, *, run: str, dimension: int) -> None:
        super().__init__(grid, plan.study, cohort)
        self._run = run
        self._session = ServerSession(sum_policy(plan, run=run, dimension=dimension))
        self._agree()

    def collect(self, request: RoundRequest) -> Collected:
        """See :meth:`Collector.collect`."""
        self._prepare(request.round)
        start = self._session.start_round(request.round, model=vector_hash(request.vector))
        active = [key.site for key in start.keys]
        entries = self._add_masked(request, dict.fromkeys(active, with_sum(encode(request), start)))
        listed = self._session.close_masking()
        if self._session.needs_signatures:
            lists = dict.fromkeys(listed.survivors, listed)
            for site, signature in self._tell(lists, SurvivorSignature, number=request.round):
                with _left_out_if_bad(site):
                    self._session.add_signature(signature)
        for site, reveal in self._tell(self._session.unmask_requests(), Reveal, number=request.round):
            with _left_out_if_bad(site):
                self._session.add_reveal(reveal)
        found = self._session.finish_round()
        return Collected(
            total=found.vector.astype(np.int64), entries={site: entries[site] for site in found.contributors}
        )

    def _agree(self) -> None:
        """Once per run: everybody's keys, to everybody."""
        for site, offer in self._tell(dict.fromkeys(self.cohort.nodes), KeyOffer):
            with _left_out_if_bad(site):
                self._session.add_offer(offer)
        offers = self._session.close_offers()
        offered = [offer.site for offer in offers.offers]
        for site, preparation in self._tell(dict.fromkeys(offered, offers), Preparation):
            with _left_out_if_bad(site):
                self._session.add_preparation(preparation)

    def _prepare(self, number: int) -> None:
        """Ask sites that were away to prepare this round, so that they can join it."""
        away = dict.fromkeys(self._session.unprepared(number))
        for site, preparation in self._tell(away, Preparation, number=number):
            with _left_out_if_bad(site):
                self._session.add_preparation(preparation)

    def _add_masked(self, request: RoundRequest, contents: Mapping[str, RecordDict]) -> dict[str, str]:
        """Add every valid masked vector as it comes; returns the ledger entries by site."""
        entries: dict[str, str] = {}
        for site, reply in self.ask(contents, message_type=f"train.{request.kind.value}"):
            with _left_out_if_bad(site):
                found = checked_contribution(reply, request, site=site, key=self.cohort.keys[site])
                self._session.add_masked(masked_input(reply.content, found))
                entries[site] = found.entry
        return entries

    def _tell(
        self, messages: Mapping[str, SumMessage | None], kind: type[Told], *, number: int = 1
    ) -> Iterator[tuple[str, Told]]:
        """Send each site its part of a turn, or just the turn; yields the readable answers as they come."""
        header = SumTurn(study=self.study.hash, run=self._run, round=number)
        contents = {
            site: encode(header) if message is None else with_sum(encode(header), message)
            for site, message in messages.items()
        }
        for site, reply in self.ask(contents, message_type="query.sum"):
            try:
                answer = decode(without_sum(reply.content), SumTurn, Refusal)
                if isinstance(answer, Refusal):
                    raise WireError(f"{answer.reason.value}.", remedy="Its log says more.")
                told = read_sum(reply.content, kind)
            except WireError as error:
                _LOGGER.warning("secure sum: %s: %s", site, error)
                continue
            yield site, told


@contextmanager
def _left_out_if_bad(site: str) -> Iterator[None]:
    """Leave a site out of the round whose message is not acceptable; what ends the round goes on."""
    try:
        yield
    except FederationError:
        raise
    except CloisterError as error:
        _LOGGER.warning("secure sum: %s: %s", site, error)
