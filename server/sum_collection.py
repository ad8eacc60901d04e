"""Collecting a round under the secure sum: the coordinator learns the sum over the survivors and nothing else.

In a job the coordinator may die at any moment. Before it sends anything that decides something - who is in the run,
who is in a round, whose vectors count, who signed that - it writes the session down. So it never decides twice: after
a restart it repeats the stage that it was in with the same bytes, and sites repeat what they answered.

Most of what can go wrong is waited out. What cannot be mended by waiting is a round whose shares too few sites can
tell any more, because they lost their memory. Such a round ends without a sum: its sites were charged, nothing was
released, the model is unchanged, and the run goes on with the next round.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid

from models.family import Family
from privacy.plan import PrivacyPlan
from privacy.secure_sum import KeyOffer, Preparation, Reveal, RoundStart, ServerSession, SurvivorSignature
from privacy.secure_sum.messages import SumMessage
from protocol.errors import CloisterError, FederationError, WireError
from protocol.messages import Refusal, RoundRequest, SumTurn, decode, encode, vector_hash
from server.cohort import Cohort
from server.collection import Collected, Collector, checked_contribution
from server.patience import Patience
from strategies.sum_wire import masked_input, read_sum, sum_policy, with_sum, without_sum

_LOGGER = logging.getLogger("cloister.server")
_MOST_REFUSALS = 3
Told = TypeVar("Told", KeyOffer, Preparation, SurvivorSignature, Reveal)


class SumKeeper(Protocol):
    """Where a job keeps the memory of its secure sum."""

    def save_sum(self, memory: bytes, entries: Mapping[str, str]) -> None:
        """Write it down, durably, with the ledger entries of the vectors that count."""

    def load_sum(self) -> tuple[bytes, dict[str, str]] | None:
        """Return what was written last; None at the beginning."""


class SumCollector(Collector):
    """Runs a :class:`~privacy.secure_sum.ServerSession` over Flower's messages.

    Keys are agreed on once, when it is made, and only the sites that agreed take part in the run's sums. A round takes
    two exchanges, and one more where sites dropped out.

    Args:
        grid: Flower's grid.
        plan: The study's privacy plan.
        cohort: Its sites, under the keys of the study's roster.
        run: Identifier of the run.
        warrant: The coordinator's warrant of it.
        model: The study's model, which says how long the vectors of each round are.
        patience: How a job waits for its sites.
        keeper: Where a job keeps the memory of the sum.

    Raises:
        ApprovalError: If the study pins no keys.
        FederationError: If too few sites agree on keys.
        PrivacyError: If a job's memory is damaged or of another run.
    """

    def __init__(
        self,
        grid: Grid,
        plan: PrivacyPlan,
        cohort: Cohort,
        *,
        run: str,
        warrant: str,
        model: Family,
        patience: Patience | None = None,
        keeper: SumKeeper | None = None,
    ) -> None:
        super().__init__(grid, plan.study, cohort, patience=patience)
        self._run, self._warrant, self._keeper = run, warrant, keeper
        policy = sum_policy(plan, model, run=run)
        kept = None if keeper is None else keeper.load_sum()
        self._session = ServerSession(policy) if kept is None else ServerSession.restore(kept[0], policy)
        self._entries: dict[str, str] = {} if kept is None else kept[1]
        self._agree()

    @property
    def last_round(self) -> int:
        """The last round that was begun; what it and earlier ones gave can only be had from what was kept."""
        return self._session.last_round

    def collect(self, request: RoundRequest, *, coordinates: int) -> Collected | None:
        """See :meth:`Collector.collect`."""
        start = self._session.under_way
        if start is not None and start.round != request.round:
            self._session.end_round()
            start = None
        if start is None:
            self._prepare(request.round)
            start = self._session.start_round(request.round, model=vector_hash(request.vector))
            self._keep(entries={})
        if not self._session.masking_closed:
            self._add_masked(request, start, coordinates=coordinates)
            self._session.close_masking()
            self._keep(entries=self._entries)
        try:
            return self._open(request.round)
        except FederationError as error:
            if self.patience is None or self._session.under_way is not None:
                raise  # a simulation fails; and where the round still stands, the operator asked to stop
            _LOGGER.warning("round %d ends without a sum: %s", request.round, error)
            return None

    def _open(self, number: int) -> Collected:
        """Let the survivors sign whose vectors count, if some dropped out, and open the sum."""
        session = self._session
        listed, threshold = session.close_masking(), session.policy.threshold
        if session.needs_signatures and len(session.signed) < threshold:
            lists = dict.fromkeys(listed.survivors, listed)
            for site, signature in self._tell(
                lambda: _without(lists, session.signed), SurvivorSignature,
                number=number, needed=lambda: threshold - len(session.signed), last_chance=True,
            ):  # fmt: skip
                with _left_out_if_bad(site):
                    session.add_signature(signature)
            self._keep(entries=self._entries)
        requests = session.unmask_requests()
        for site, reveal in self._tell(
            lambda: _without(requests, session.revealed), Reveal,
            number=number, needed=lambda: threshold - len(session.revealed), last_chance=True,
        ):  # fmt: skip
            with _left_out_if_bad(site):
                session.add_reveal(reveal)
        found = session.finish_round()
        return Collected(
            total=found.vector.astype(np.int64), entries={site: self._entries[site] for site in found.contributors}
        )

    def _agree(self) -> None:
        """Once per run: everybody's keys, to everybody."""
        session = self._session
        if not session.agreed:
            for site, offer in self._tell(
                lambda: _without(dict.fromkeys(self.cohort.nodes), session.offered), KeyOffer,
                needed=lambda: session.policy.fewest - len(session.offered),
            ):  # fmt: skip
                with _left_out_if_bad(site):
                    session.add_offer(offer)
            session.close_offers()
            self._keep(entries={})
        if session.last_round == 0:
            self._introduce(needed=lambda: self._unready(1))

    def _introduce(self, *, needed: Callable[[], int]) -> None:
        """Tell everybody's keys to the sites that have prepared nothing yet; they prepare the first round."""
        session, offers = self._session, self._session.offer_list()
        for site, preparation in self._tell(
            lambda: dict.fromkeys(session.strangers, offers), Preparation, needed=needed
        ):
            with _left_out_if_bad(site):
                session.add_preparation(preparation)

    def _prepare(self, number: int) -> None:
        """Ask sites that were away to prepare this round, so that they can join it."""
        if self.patience is not None and self._session.strangers:
            self._introduce(needed=lambda: 0)  # what they prepare may be over; it is asked for next
        for site, preparation in self._tell(
            lambda: dict.fromkeys(self._session.unprepared(number)), Preparation,
            number=number, needed=lambda: self._unready(number),
        ):  # fmt: skip
            with _left_out_if_bad(site):
                self._session.add_preparation(preparation)

    def _unready(self, number: int) -> int:
        """How many sites more must prepare a round before it can begin."""
        ready = len(self._session.offered) - len(self._session.unprepared(number))
        return self._session.policy.fewest - ready

    def _add_masked(self, request: RoundRequest, start: RoundStart, *, coordinates: int) -> None:
        """Add every valid masked vector as it comes, and note the ledger entry that paid for it."""
        self._entries = {}
        content = with_sum(encode(request), start)
        active = frozenset(key.site for key in start.keys)
        problems: dict[str, str] = {}
        for site, reply in self.ask(
            lambda: dict.fromkeys(active - self._session.counted, content),
            message_type=f"train.{request.kind.value}",
            number=request.round,
            needed=lambda: self._session.policy.fewest - len(self._session.counted),
            problems=problems,
        ):
            with _left_out_if_bad(site, problems):
                found = checked_contribution(
                    reply, request, coordinates=coordinates, site=site, key=self.cohort.keys[site]
                )
                self._session.add_masked(masked_input(reply.content, found))
                self._entries[site] = found.entry

    def _tell(
        self,
        wanted: Callable[[], Mapping[str, SumMessage | None]],
        kind: type[Told],
        *,
        needed: Callable[[], int],
        number: int = 1,
        last_chance: bool = False,
    ) -> Iterator[tuple[str, Told]]:
        """Send each site its part of a turn, or just the turn; yields the readable answers as they come.

        Args:
            wanted: Gives what is to be sent, by site, to those that have not answered.
            kind: What is expected.
            needed: Gives how many more answers are needed.
            number: Of the round.
            last_chance: Whether the round ends where sites refuse, time after time, that it cannot do without.
        """
        header = encode(SumTurn(study=self.study.hash, run=self._run, warrant=self._warrant, round=number))
        problems: dict[str, str] = {}
        refused, refusals = set[str](), 0

        def contents() -> dict[str, RecordDict]:
            return {name: _beside(header, message) for name, message in wanted().items()}

        def hopeless() -> bool:
            """Whoever is silent may come back; whoever refuses again and again has lost what it would tell."""
            nonlocal refusals
            left = len(wanted().keys() - refused)
            refusals = refusals + 1 if left < needed() else 0
            return last_chance and refusals >= _MOST_REFUSALS

        for site, reply in self.ask(
            contents,
            message_type="query.sum", number=number, needed=needed, problems=problems, hopeless=hopeless,
        ):  # fmt: skip
            refused.discard(site)
            try:
                answer = decode(without_sum(reply.content), SumTurn, Refusal)
                if isinstance(answer, Refusal):
                    refused.add(site)
                    raise WireError(f"{answer.reason.value}.", remedy="Its log says more.")
                told = read_sum(reply.content, kind)
            except WireError as error:
                problems[site] = error.problem
                _LOGGER.warning("secure sum: %s: %s", site, error)
                continue
            yield site, told

    def _keep(self, *, entries: Mapping[str, str]) -> None:
        """Write the session down before anything that rests on it is sent."""
        if self._keeper is not None:
            self._keeper.save_sum(self._session.save(), entries)


def _beside(header: RecordDict, message: SumMessage | None) -> RecordDict:
    """Return a turn with its message in a record of its own, where it has one."""
    turn = RecordDict(dict(header.items()))
    return turn if message is None else with_sum(turn, message)


def _without(messages: Mapping[str, SumMessage | None], answered: frozenset[str]) -> dict[str, SumMessage | None]:
    return {site: message for site, message in messages.items() if site not in answered}


@contextmanager
def _left_out_if_bad(site: str, problems: dict[str, str] | None = None) -> Iterator[None]:
    """Leave a site out of the round whose message is not acceptable; what ends the round goes on."""
    try:
        yield
    except FederationError:
        raise
    except CloisterError as error:
        if problems is not None:
            problems[site] = error.problem
        _LOGGER.warning("secure sum: %s: %s", site, error)
