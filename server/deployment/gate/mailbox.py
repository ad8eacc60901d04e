"""What the gate handed to a site: what the site may therefore ask for, and what must be handed to it again.

Flower's SuperLink gives any node any object, run or deletion for which it knows the id, and it marks a message as
delivered when it gives it out, whether or not it arrives. So the gate remembers, for each site and in memory alone:

- Objects and runs belong to the messages that were handed to the site; for it, others do not exist.
- A reply belongs to a message that was handed out, has the shape of our messages, and is as large as that message
  allows: the coordinator keeps replies on its disk and in its memory.
- A message whose site was gone when it came, or which was written to a connection that then fell silent, is handed
  out again. It can arrive twice, never less than once as long as site and gate live; a site answers the same request
  with the same bytes.

A coordinator that starts again begins with empty mailboxes. A site that was fetching a message just then is told
that its objects do not exist, and is asked again by the study's server.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree

from protocol.errors import WireError
from protocol.flower_objects import Part, check_object, message_parts

_MOST_MESSAGES = 16
_MOST_REPLIES = 64
# A reply holds as many int32 as the message holds float32, and a site's part of the secure sum: of at most 100 sites,
# a sealed share for each (20 kB) or an opened one (30 kB). Twice, since a site that was cut off may answer again with
# objects of its own; and room for all that is small.
_SHARE, _SPARE_BYTES, _SPARE_OBJECTS = 2, 1024 * 1024, 16
_MOST_RUNS = 64
_MOST_TIMES = 4

Key = TypeVar("Key")
Value = TypeVar("Value")


class Delivery(StrEnum):
    """How far a message got."""

    WRITTEN = "written"  # to a connection; whether it arrived is not known
    ARRIVED = "arrived"
    LOST = "lost"


@dataclass(kw_only=True)
class Offer:
    """A message that was handed to a site and is not finished.

    Attributes:
        message: The message's id, which is that of the root of its objects.
        run: The run's id.
        objects: The ids of its objects.
        body: The answer that hands it out, as the SuperLink gave it.
        connection: The connection it was written to.
        delivery: How far it got.
        times: How often it was handed out.
    """

    message: str
    run: int
    objects: frozenset[str]
    body: bytes
    connection: int
    delivery: Delivery = Delivery.WRITTEN
    times: int = 1


@dataclass(kw_only=True)
class Question:
    """A message that was handed to a site, as far as it bounds the reply; it is kept when the message is finished.

    Attributes:
        run: The run's id.
        objects: The ids of its objects.
        fetched: How many bytes each of them had that the site fetched.
        sent: How many bytes each object had that the site sent in reply.
    """

    run: int
    objects: frozenset[str]
    fetched: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)

    @property
    def most_bytes(self) -> int:
        """How many bytes all replies to it may have."""
        return _SHARE * sum(self.fetched.values()) + _SPARE_BYTES

    @property
    def most_objects(self) -> int:
        """How many objects a reply to it may have."""
        return _SHARE * len(self.objects) + _SPARE_OBJECTS


@dataclass(frozen=True, kw_only=True)
class _Session:
    """A reply whose objects are being sent: what is awaited, what the reply is made of, and what it answers."""

    run: int
    awaited: frozenset[str]
    parts: dict[str, Part]
    question: Question


class Mailbox:
    """One site's messages.

    Args:
        clock: A clock that never goes back, in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._offers: OrderedDict[str, Offer] = OrderedDict()
        self._questions: OrderedDict[str, Question] = OrderedDict()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._runs: OrderedDict[int, None] = OrderedDict()
        self._busy_at = clock()
        self._latest_poll = 0

    def begin_poll(self) -> int:
        """Return the number of a new question for messages; it ends the one before, whose asker may be gone."""
        self._latest_poll += 1
        return self._latest_poll

    def is_latest(self, poll: int) -> bool:
        """Say whether no newer question for messages has come."""
        return poll == self._latest_poll

    def quiet_s(self) -> float:
        """Return for how many seconds nothing was handed out or sent in."""
        return self._clock() - self._busy_at

    def hand_out(self, body: bytes, *, connection: int) -> Offer | None:
        """Remember what the SuperLink gave out.

        Args:
            body: The SuperLink's answer, a ``PullMessagesResponse``.
            connection: The connection that it will be written to.

        Returns:
            The message in it; None if there is none.
        """
        response = PullMessagesResponse.FromString(body)
        if not response.messages_list:
            return None
        metadata, tree = response.messages_list[0].metadata, response.message_object_trees[0]
        offer = Offer(
            message=metadata.message_id,
            run=metadata.run_id,
            objects=frozenset(_objects(tree)),
            body=body,
            connection=connection,
        )
        _keep(self._offers, offer.message, offer, most=_MOST_MESSAGES)
        question = self._questions.get(offer.message) or Question(run=offer.run, objects=offer.objects)
        _keep(self._questions, offer.message, question, most=_MOST_REPLIES)
        _keep(self._runs, offer.run, None, most=_MOST_RUNS)
        self._busy_at = self._clock()
        return offer

    def hand_out_again(self, *, connection: int) -> Offer | None:
        """Return a message that did not arrive, to be written to this connection; None if there is none."""
        for offer in self._offers.values():
            if offer.delivery is Delivery.WRITTEN and offer.connection == connection:
                # Who asks anew on a connection has read the answer before.
                offer.delivery = Delivery.ARRIVED
            if offer.delivery is not Delivery.ARRIVED and offer.times < _MOST_TIMES:
                offer.connection, offer.delivery = connection, Delivery.WRITTEN
                offer.times += 1
                self._busy_at = self._clock()
                return offer
        return None

    def lose(self, offer: Offer) -> None:
        """Remember that a message was handed to nobody; that time does not count."""
        offer.delivery = Delivery.LOST
        offer.times -= 1

    def lose_all(self) -> None:
        """Remember that the site began anew: whatever it had not finished, its former process took along."""
        for offer in self._offers.values():
            offer.delivery = Delivery.LOST

    def finish(self, message: str) -> None:
        """Forget a message that the site has confirmed."""
        self._offers.pop(message, None)

    def may_pull(self, *, run: int, name: str) -> bool:
        """Say whether an object is part of a message to this site."""
        for offer in self._offers.values():
            if offer.run == run and name in offer.objects:
                offer.delivery = Delivery.ARRIVED
                return True
        return False

    def may_finish(self, *, run: int, message: str) -> bool:
        """Say whether a message is one to this site."""
        offer = self._offers.get(message)
        return offer is not None and offer.run == run

    def may_know(self, run: int) -> bool:
        """Say whether a message to this site was of this run."""
        return run in self._runs

    def fetched(self, *, run: int, name: str, size: int) -> None:
        """Remember how large an object is that the site was given."""
        for question in self._questions.values():
            if question.run == run and name in question.objects:
                question.fetched[name] = max(size, question.fetched.get(name, 0))

    def may_answer(self, *, run: int, message: str) -> bool:
        """Say whether a message of this run was handed to the site, finished or not."""
        question = self._questions.get(message)
        return question is not None and question.run == run

    def odd_reply(self, *, message: str, tree: ObjectTree) -> str:
        """Say why a reply to a message that was handed out does not pass; empty if it does."""
        try:
            message_parts(tree, most=self._questions[message].most_objects)
        except WireError as error:
            return error.problem
        return ""

    def await_objects(self, body: bytes, *, message: str, tree: ObjectTree) -> None:
        """Remember which objects the SuperLink awaits of a reply.

        Args:
            body: The SuperLink's answer, a ``PushMessagesResponse``.
            message: The message that is answered; `odd_reply` has let the reply pass.
            tree: What the reply is made of.
        """
        response, question = PushMessagesResponse.FromString(body), self._questions.get(message)
        if response.session_id and question is not None:
            session = _Session(
                run=question.run,
                awaited=frozenset(response.objects_to_push),
                parts=message_parts(tree, most=question.most_objects),
                question=question,
            )
            _keep(self._sessions, response.session_id, session, most=_MOST_MESSAGES)
        self._busy_at = self._clock()

    def may_push(self, *, run: int, session: str, name: str) -> bool:
        """Say whether an object is awaited of this site."""
        found = self._sessions.get(session)
        return found is not None and found.run == run and name in found.awaited & found.parts.keys()

    def odd_object(self, *, session: str, name: str, content: bytes) -> str:
        """Say why an object that is awaited does not pass; empty if it does, and then it counts.

        Args:
            session: The session, as `may_push` let it pass.
            name: The object's id.
            content: The object.
        """
        found = self._sessions[session]
        question = found.question
        try:
            check_object(content, found.parts[name], most_bytes=question.most_bytes)
        except WireError as error:
            return error.problem
        sent = question.sent | {name: max(len(content), question.sent.get(name, 0))}
        if sum(sent.values()) > question.most_bytes:
            return f"a reply of more than {question.most_bytes} bytes"
        question.sent = sent
        return ""


def _objects(tree: ObjectTree) -> Iterator[str]:
    """Yield the ids of a tree of objects."""
    yield tree.object_id
    for child in tree.children:
        yield from _objects(child)


def _keep(kept: OrderedDict[Key, Value], key: Key, value: Value, *, most: int) -> None:
    """Keep the newest."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
