"""The site's node: one process that takes messages from the coordinator and has the installed app answer them.

It fetches no app bundle, so there is no shipped code that it could run; it gives the app nothing of the run's
configuration; it listens on no port. A message is answered by the app alone, whose door builds whatever leaves: the
node passes on what the app returns, and nothing where the app raises, for Flower would send the exception's text.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from secrets import randbelow
from typing import TypeVar

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.enrolment import renew as renew_certificate
from client.node.connection import Connection
from client.node.link import HEARTBEAT_INTERVAL_S, Arrival, FleetLink
from client.node.memory import NodeMemory, only_one
from client.node.trouble import TroubleKind, diagnose
from protocol.errors import CloisterError, WireError

App = Callable[[Message, Context], Message]
Result = TypeVar("Result")

# Two of three heartbeats may be lost before the coordinator takes the node for gone.
_HEARTBEAT_EVERY_S = HEARTBEAT_INTERVAL_S * 2 / 3
_FIRST_WAIT_S = 1.0
_SLOW = 15.0
_LONGEST_WAIT_S = 60.0
# Against a coordinator that does not hold empty answers.
_SHORTEST_POLL_S = 0.5
# How long the end may take: when a message is being worked on, and to sign off.
_FINISH_S = 10.0
_SIGN_OFF_S = 2.0
_RENEW_BEFORE = timedelta(days=30)
_RENEW_EVERY_S = 86_400.0

_LOGGER = logging.getLogger("cloister.site")


class Node:
    """A site's node, which runs until it is told to stop.

    Args:
        folder: The site's folder, enrolled.
        app: Answers a message; Flower's ``ClientApp`` is one.
        renew: Fetches a new certificate for the folder.
        first_wait_s: Seconds before the first new attempt after a failure; doubled each time, up to a minute. Where
            a person has to do something first, 15 times as long.

    Raises:
        InputError: If the site is not enrolled, its files are damaged or its certificate has expired.
    """

    def __init__(
        self,
        folder: Path,
        *,
        app: App,
        renew: Callable[[Path], object] = renew_certificate,
        first_wait_s: float = _FIRST_WAIT_S,
    ) -> None:
        self._folder, self._app, self._renew = folder, app, renew
        self._memory = NodeMemory(folder)
        self._connection = Connection.open(folder)
        self._link = FleetLink(self._connection)
        self._first_wait_s = first_wait_s
        self._attempts = 0
        self._signed_on = False
        self._connected = False
        self._trouble: TroubleKind | None = None
        self._next_renewal = time.monotonic()
        self._stop = threading.Event()
        # Held while a message is worked on: the end waits for it, and keeps it, so that no other is begun.
        self._work = threading.Lock()

    def run(self, stop: threading.Event) -> bool:
        """Work until ``stop`` is set; one message at a time.

        Args:
            stop: Set it to end: within five seconds when idle, ten when a message is being worked on.

        Returns:
            False if a message was left half done: then a thread is still computing, and the process ought to end
            without waiting for it. What it would have sent is not lost: the coordinator asks again.

        Raises:
            InputError: If a client of this site is running already.
        """
        self._stop = stop
        with only_one(self._folder):
            for target in (self._loop, self._beat):
                threading.Thread(target=target, name=f"cloister{target.__name__}", daemon=True).start()
            stop.wait()
            _LOGGER.info("stopping")
            finished = self._work.acquire(timeout=_FINISH_S)
            if not finished:
                _LOGGER.warning("stopped while a message was being answered; the coordinator will ask again")
            self._sign_off()
            self._link.close()
        return finished

    def _loop(self) -> None:
        """Take message after message."""
        try:
            while not self._stop.is_set():
                arrival = self._next()
                if arrival is not None and self._work.acquire(timeout=0):
                    try:
                        self._take(arrival)
                    finally:
                        self._work.release()
        finally:
            # Whatever ended the loop, a process that does nothing must not stay.
            self._stop.set()

    def _next(self) -> Arrival | None:
        """Return the next message; None after a while without one, or after a failure and a wait."""
        began = time.monotonic()
        try:
            self._sign_on()
            self._renew_if_due()
            arrival = self._link.poll()
        except WireError as error:
            _LOGGER.warning("a message was dropped: %s", error)
            self._wait()
            return None
        except Exception as error:  # noqa: BLE001 - a client that ends over an unforeseen answer needs a person to start it
            self._failed(error)
            return None
        self._succeeded()
        if arrival is None:
            self._stop.wait(_SHORTEST_POLL_S - (time.monotonic() - began))
        return arrival

    def _take(self, arrival: Arrival) -> None:
        """Fetch one message, have it answered, send the answer."""
        try:
            message = self._persist(arrival, lambda: self._link.fetch(arrival))
            if message is None or self._link.time() > arrival.ends:
                _LOGGER.info("a message whose run or time is over was dropped")
                return
            reply = self._ask(message)
            if reply is not None:
                if self._persist(arrival, lambda: self._link.send(reply)) is None:
                    return
                _LOGGER.info("answered %s", message.metadata.message_type)
        except Exception:  # noqa: BLE001 - one odd message must not end the client, and nothing of it was answered
            if self._stop.is_set():
                return
            _LOGGER.exception("a message was dropped")
        # Last: until here the gate hands the message out again to a client that starts anew after a crash.
        with suppress(httpx.HTTPError, CloisterError, ValueError, RuntimeError, OSError):
            self._link.confirm(arrival)

    def _ask(self, message: Message) -> Message | None:
        """Return what the app answers; None where it has no answer that may be passed on."""
        metadata = message.metadata
        run_id, node_id = metadata.run_id, metadata.dst_node_id
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = node_id, run_id, node_id
        context = Context(run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={})
        try:
            reply = self._app(message, context)
        except Exception:  # noqa: BLE001 - the text of an exception may hold a value of a record: it stays in this log
            _LOGGER.exception("the app raised an exception; nothing is answered")
            return None
        if not isinstance(reply, Message) or reply.has_error() or not reply.has_content():
            _LOGGER.error("the app returned no message with content; nothing is answered")
            return None
        answered = (reply.metadata.reply_to_message_id, reply.metadata.run_id, reply.metadata.src_node_id)
        if answered != (metadata.message_id, run_id, node_id):
            _LOGGER.error("the app answered another message than it was given; nothing is answered")
            return None
        return reply

    def _persist(self, arrival: Arrival, call: Callable[[], Result | None]) -> Result | None:
        """Do something until it succeeds; None if the message expires first, or the client is to end."""
        while self._link.time() <= arrival.ends:
            try:
                if self._sign_on() != arrival.node_id:
                    return None
                result = call()
            except WireError:
                raise
            except (httpx.HTTPError, CloisterError, OSError) as error:
                self._failed(error)
                if self._stop.is_set():
                    _LOGGER.warning("stopped while a message was being answered; the coordinator will ask again")
                    return None
                continue
            self._succeeded()
            return result
        return None

    def _sign_on(self) -> int:
        """See that the node is signed on and the coordinator answers; returns the node's id."""
        if self._signed_on and not self._connected:
            # Answered at once, where the next question for messages may be held for long.
            self._signed_on = self._link.heartbeat()
        if not self._signed_on:
            self._memory.remember(self._link.activate(self._memory.node_id()))
            self._signed_on = True
        if not self._connected:
            self._connected, self._trouble = True, None
            _LOGGER.info("connected to %s as %s", self._connection.address, self._connection.site)
        return self._link.node_id

    def _sign_off(self) -> None:
        """Tell the coordinator, in the time that the end may take."""
        if not self._link.node_id:
            return

        def attempt() -> None:
            with suppress(httpx.HTTPError, CloisterError, ValueError, RuntimeError, OSError):
                self._link.deactivate()

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(_SIGN_OFF_S)

    def _beat(self) -> None:
        """Say regularly that the node lives; the loop is the one that reports failures."""
        while not self._stop.wait(_HEARTBEAT_EVERY_S * _jitter(0.8)):
            if not self._signed_on:
                continue
            with suppress(httpx.HTTPError, CloisterError, ValueError, RuntimeError, OSError):
                if not self._link.heartbeat():
                    self._signed_on = False

    def _succeeded(self) -> None:
        """Note that something went through: the next failure is the first again."""
        self._attempts = 0

    def _failed(self, error: Exception) -> None:
        """Note what keeps the node from its coordinator, once, and wait before the next attempt."""
        if self._stop.is_set():
            return
        trouble = diagnose(
            error,
            address=self._connection.address,
            ahead_s=self._link.ahead_s,
            expires=self._connection.expires,
        )
        if self._trouble is not trouble.kind:
            _LOGGER.warning("%s %s Trying again.", trouble.problem, trouble.remedy)
            _LOGGER.debug("the failure itself", exc_info=error)
        self._trouble, self._connected = trouble.kind, False
        if trouble.kind in (TroubleKind.NOT_ACCEPTED, TroubleKind.CLOCK):
            # The id may be that of a registration which is no more.
            self._signed_on = False
        self._wait(slow=trouble.slow)
        if trouble.slow:
            self._reopen()

    def _wait(self, *, slow: bool = False) -> None:
        """Wait longer after every failure, up to a minute, and not at the same time as every other site."""
        first = self._first_wait_s * (_SLOW if slow else 1.0)
        longest = min(_LONGEST_WAIT_S, first * 2.0 ** min(self._attempts, 16))
        self._attempts += 1
        self._stop.wait(longest * _jitter(0.5))

    def _reopen(self) -> None:
        """Read certificate and keys again: they were renewed, or somebody has enrolled the site anew."""
        try:
            connection = Connection.open(self._folder)
        except CloisterError:
            return
        same = connection.node_key.public_key() == self._connection.node_key.public_key()
        old, self._connection = self._link, connection
        self._link = FleetLink(connection, node_id=old.node_id if same else 0)
        self._signed_on = self._signed_on and same
        old.close()

    def _renew_if_due(self) -> None:
        """Renew the certificate in its last month, and try at most once a day."""
        left = self._connection.left()
        if left > _RENEW_BEFORE or time.monotonic() < self._next_renewal:
            return
        self._next_renewal = time.monotonic() + _RENEW_EVERY_S
        try:
            self._renew(self._folder)
        except (CloisterError, httpx.HTTPError, OSError) as error:
            _LOGGER.warning("the certificate was not renewed (%d days left): %s", left.days, error)
            return
        _LOGGER.info("the certificate was renewed")
        self._reopen()


def _jitter(least: float) -> float:
    """Return a factor from ``least`` to 1, so that many sites do not come at the same time."""
    return 1.0 - (1.0 - least) * randbelow(1000) / 1000
