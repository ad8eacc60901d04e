"""A site's question for messages, held until there is one.

Flower's SuperLink answers such a question at once, mostly with nothing, and its nodes ask every 3 s. The gate holds
the question and asks the SuperLink in its place, on the same machine, where asking is cheap.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from flwr.proto.fleet_pb2 import PullMessagesResponse

from server.deployment.gate.mailbox import Mailbox, Offer
from server.deployment.gate.requests import PROTOBUF, PULL_MESSAGES, Answer

# Waits a tenth of the time for which nothing happened: what is waited for anyhow is prolonged by 10 % at most.
_SHARE, _SHORTEST_S, _LONGEST_S = 0.1, 0.05, 1.0
_NO_MESSAGE = Answer(status=HTTPStatus.OK, body=PullMessagesResponse().SerializeToString(), media_type=PROTOBUF)


def pause_s(quiet_s: float) -> float:
    """Return for how many seconds the SuperLink is not asked again, after so many in which nothing happened.

    Example:
        >>> pause_s(0.0), pause_s(2.0), pause_s(3600.0)
        (0.05, 0.2, 1.0)
    """
    return min(max(_SHARE * quiet_s, _SHORTEST_S), _LONGEST_S)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The connection that a question came on.

    Attributes:
        connection: Its number.
        closing: Is set when the gate ends; None where it never does.
    """

    connection: int
    closing: asyncio.Event | None = None


class LongPoll:
    """One question for messages.

    Args:
        mailbox: What was handed to the site.
        caller: The connection.
        seconds: For how long the question is held.
        ask: Asks the SuperLink once; what it hands out, it hands out once.
    """

    PATH: ClassVar[str] = PULL_MESSAGES

    def __init__(
        self, *, mailbox: Mailbox, caller: Caller, seconds: float, ask: Callable[[], Awaitable[Answer]]
    ) -> None:
        self._mailbox, self._caller, self._ask = mailbox, caller, ask
        self._seconds = seconds
        self._number = mailbox.begin_poll()

    async def answer(
        self,
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        reply: Callable[[Answer], Awaitable[None]],
    ) -> Answer | None:
        """Answer the question.

        Args:
            receive: Returns when the site leaves.
            reply: Writes an answer to the site.

        Returns:
            None once a message was written, or if the site left; otherwise what remains to be written.
        """
        left: asyncio.Future[Any] = asyncio.ensure_future(receive())
        ends = {left}
        if self._caller.closing is not None:
            ends.add(asyncio.ensure_future(self._caller.closing.wait()))
        try:
            found = await self._find(left, ends)
            if not isinstance(found, Offer):
                return found
            # Nothing is awaited from here to the writing, so that the site cannot leave unseen in between. A newer
            # question of the same site says that nobody waits for this answer any more.
            if left.done() or not self._mailbox.is_latest(self._number):
                self._mailbox.lose(found)
                return None if left.done() else _NO_MESSAGE
            await reply(Answer(status=HTTPStatus.OK, body=found.body, media_type=PROTOBUF))
            return None
        finally:
            for end in ends:
                end.cancel()

    async def _find(self, left: asyncio.Future[Any], ends: set[asyncio.Future[Any]]) -> Offer | Answer | None:
        """Return a message, or what is answered without one; None if the site left."""
        loop = asyncio.get_running_loop()
        deadline, asked = loop.time() + self._seconds, False
        while not left.done():
            if not self._mailbox.is_latest(self._number) or any(end.done() for end in ends):
                return _NO_MESSAGE
            offer = self._mailbox.hand_out_again(connection=self._caller.connection)
            if offer is not None:
                return offer
            answer = await self._ask()
            if answer.status != HTTPStatus.OK:
                # The signed time of day may become too old while the question is held; the next one is signed anew.
                return _NO_MESSAGE if asked and answer.status == HTTPStatus.UNAUTHORIZED else answer
            offer = self._mailbox.hand_out(answer.body, connection=self._caller.connection)
            if offer is not None:
                return offer
            asked = True
            pause = min(pause_s(self._mailbox.quiet_s()), deadline - loop.time())
            if pause <= 0:
                return _NO_MESSAGE
            await asyncio.wait(ends, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        return None
