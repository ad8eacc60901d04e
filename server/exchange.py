"""Sending and receiving over Flower's grid: who has not answered is asked again, until the deadline."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

_LOGGER = logging.getLogger("cloister.server")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_LOOK_SECONDS = 1.0
_LOST_SECONDS = 5.0
_REPEAT_SECONDS = 60.0
_SHORTEST_LIFE = 1.0
# What Flower's own server says of a message, not what a site says of its work.
_UNDELIVERED = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)


@dataclass(frozen=True, kw_only=True)
class Persistence:
    """How an exchange goes on asking where nodes come and go.

    A request may be sent twice, because a site answers a byte-identical request from what it has sent before: the
    repetition is free, and a reply to any of the copies counts.

    Attributes:
        enough: How many answers make it unnecessary to wait for nodes that were away when the exchange began. They
            are asked all the same, should they come back in time.
        idle: Called while nothing comes. It says whether to break off, and may raise.
    """

    enough: int
    idle: Callable[[], bool]


def exchange(
    grid: Grid,
    contents: Mapping[int, RecordDict],
    *,
    message_type: str,
    deadline: float,
    persistence: Persistence | None = None,
) -> Iterator[tuple[int, Message]]:
    """Send nodes their contents, and hand out what they answer before the deadline as it comes.

    A reply is not kept: whoever adds vectors up needs memory for one, whatever the number of nodes. Waiting is
    measured on a clock that nobody sets; only Flower's own expiry of messages rests on the wall clock.

    Args:
        grid: Flower's grid.
        contents: The wire form of a message, by node.
        message_type: Flower's message type.
        deadline: Seconds to wait.
        persistence: How to go on asking; None asks once, and leaves out whoever Flower says is unavailable.

    Yields:
        Node and reply, once per node; nodes that did not answer, or whose app failed, are left out.
    """
    if not contents:
        return
    ends = time.monotonic() + deadline
    post = _Post(grid, contents, message_type=message_type, persistent=persistence is not None)
    awaited = post.awaited(persistence)
    post.push(list(contents), life=deadline)
    pause = _FIRST_PAUSE
    while True:
        for node, reply in post.pull():
            pause = _FIRST_PAUSE
            yield node, reply
        now = time.monotonic()
        if not awaited & post.silent or now >= ends or (persistence is not None and persistence.idle()):
            return
        time.sleep(max(0.0, min(pause, ends - now)))
        pause = min(2 * pause, _LONGEST_PAUSE)
        if persistence is not None:
            post.push_again(life=max(_SHORTEST_LIFE, ends - time.monotonic()))


def activations(grid: Grid) -> dict[int, str]:
    """Return when each connected node was last activated, in Flower's words; empty where Flower does not say.

    A node that was killed and started again has another one.
    """
    return {node.node_id: node.last_activated_at for node in grid.get_nodes()}


def push(grid: Grid, messages: list[Message]) -> list[str]:
    """Push messages; returns one id for each, empty for those that Flower refused."""
    numbers = [number or "" for number in grid.push_messages(messages)] if messages else []
    return numbers if len(numbers) == len(messages) else [""] * len(messages)  # nothing was pushed: too large


class _Post:
    """One exchange: what is under way to whom, and who has not answered."""

    def __init__(self, grid: Grid, contents: Mapping[int, RecordDict], *, message_type: str, persistent: bool) -> None:
        self._grid = grid
        self._contents = contents
        self._type = message_type
        self._persistent = persistent
        # Before the first push: who is activated later has not been given it, or has lost it.
        self._seen = activations(grid) if persistent else {}
        self._pushed = dict.fromkeys(contents, 0.0)
        self._looked = time.monotonic()
        self._under_way: dict[str, int] = {}
        self.silent = set(contents)

    def awaited(self, persistence: Persistence | None) -> frozenset[int]:
        """Return the nodes to wait for: those that are there, or all where those are not enough."""
        there = self.silent & set(self._seen)
        return frozenset(there if persistence is not None and len(there) >= persistence.enough else self.silent)

    def push(self, nodes: list[int], *, life: float) -> None:
        messages = [
            Message(content=self._contents[node], dst_node_id=node, message_type=self._type, ttl=life) for node in nodes
        ]
        for node, number in zip(nodes, push(self._grid, messages), strict=True):
            self._pushed[node] = time.monotonic()
            if number:
                self._under_way[number] = node
            elif not self._persistent:
                self.silent.discard(node)

    def pull(self) -> Iterator[tuple[int, Message]]:
        """Hand out what came; the first answer of a node is its answer."""
        if not self._under_way:
            return
        for reply in self._grid.pull_messages(list(self._under_way)):
            node = self._under_way.pop(reply.metadata.reply_to_message_id, None)
            if node is None or node not in self.silent:
                continue
            if not reply.has_error():
                self._answered(node)
                yield node, reply
            elif self._persistent and reply.error.code in _UNDELIVERED:
                _LOGGER.info("a message to node %d was not delivered", node)
            else:
                _LOGGER.warning("node %d answered with Flower's error %d", node, reply.error.code)
                self._answered(node)

    def push_again(self, *, life: float) -> None:
        """Repeat the request to nodes that were activated anew or whose copies were lost, and to all now and then."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        there = activations(self._grid)
        under_way = set(self._under_way.values())
        due = [
            node
            for node in sorted(self.silent & set(there))
            if there[node] != self._seen.get(node)
            or now - self._pushed[node] >= (_REPEAT_SECONDS if node in under_way else _LOST_SECONDS)
        ]
        self._seen |= {node: there[node] for node in due}
        self.push(due, life=life)

    def _answered(self, node: int) -> None:
        """Forget whatever else is under way to a node."""
        self.silent.discard(node)
        self._under_way = {number: to for number, to in self._under_way.items() if to != node}
