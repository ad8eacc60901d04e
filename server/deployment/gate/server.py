"""Listening on a public port: TLS of our own, uvicorn's HTTP/1.1, and limits for whoever calls.

uvicorn's own server knows no limit on handshakes, on how slowly a request may come, nor who showed which
certificate; its protocol class is used here with connections that are accepted, timed and counted by us.
"""

import asyncio
import errno
import itertools
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from email.utils import formatdate
from enum import StrEnum
from typing import Any, cast

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from protocol.errors import InputError
from server.deployment.gate.limits import ConnectionLimits, RefusalLog

Application = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

_BACKLOG = 128
_TICK_S = 0.5
_LOGGER = logging.getLogger("cloister.gate")
# What uvicorn says of a connection; its warnings about strangers are counted lines of `RefusalLog` instead.
_HTTP_LOGGER = logging.getLogger("cloister.gate.http")
_HTTP_LOGGER.setLevel(logging.ERROR)
# One application may be behind several ports, and tells connections apart by their numbers.
_NUMBERS = itertools.count(1)
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _Phase(StrEnum):
    """What a connection is waiting for."""

    NOTHING = "nothing"
    HEAD = "the head of a request"
    BODY = "the body of a request"
    ANSWER = "an answer"


async def serve(
    application: Application,
    *,
    host: str,
    port: int,
    context: ssl.SSLContext,
    certificates_in_state: bool,
    limits: ConnectionLimits | None = None,
    log: RefusalLog | None = None,
    listening: Callable[[int], None] | None = None,
    site_of: Callable[[bytes], str | None] | None = None,
) -> None:
    """Serve an ASGI application until this is cancelled; then end cleanly.

    Args:
        application: The application. ``scope["state"]`` holds ``connection``, a number of its own for each
            connection of this process, ``closing``, an `asyncio.Event` that is set when the server ends, and perhaps
            ``certificate``.
        host: The address to listen on.
        port: The port to listen on; 0 for any that is free.
        context: The TLS context; whether it demands a client certificate is its affair.
        certificates_in_state: Whether ``scope["state"]["certificate"]`` holds the certificate that the client showed
            in the handshake, in DER.
        limits: What the port bears.
        log: Where refusals are written.
        listening: Is called with the port once connections are accepted.
        site_of: Returns whose certificate this is, in DER; None if it is nobody's. No site then takes all connections.
            It is asked only where certificates are in the state.

    Raises:
        InputError: If the port cannot be listened on.
    """
    listener = _Listener(
        application,
        context=context,
        limits=limits or ConnectionLimits(),
        log=log or RefusalLog(),
        certificates_in_state=certificates_in_state,
        site_of=site_of,
    )
    with _listen(host, port) as door:
        clock = asyncio.create_task(listener.keep_time())
        if listening is not None:
            listening(door.getsockname()[1])
        try:
            await listener.accept(door)
        finally:
            door.close()
            clock.cancel()
            await listener.end()


def _listen(host: str, port: int) -> socket.socket:
    """Open the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        door = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise InputError(
            f"Port {port} of {host} cannot be listened on: {error.strerror or error}.",
            remedy="Choose a free port above 1023 and an address of this machine.",
        ) from error
    door.settimeout(0.0)
    return door


class _Listener:
    """Accepts connections, shakes hands, and hands them to uvicorn's protocol."""

    def __init__(
        self,
        application: Application,
        *,
        context: ssl.SSLContext,
        limits: ConnectionLimits,
        log: RefusalLog,
        certificates_in_state: bool,
        site_of: Callable[[bytes], str | None] | None,
    ) -> None:
        self.site_of = site_of
        self.by_site: Counter[str | None] = Counter()
        self.limits, self.log, self.certificates_in_state = limits, log, certificates_in_state
        self.closing = asyncio.Event()
        self.state = ServerState()
        self._context = context
        self._handshakes: set[asyncio.Task[None]] = set()
        self._by_address: Counter[str] = Counter()
        self.config = Config(
            cast(Any, application),
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            # Whoever calls must not choose the address that we write down.
            proxy_headers=False,
            timeout_keep_alive=max(1, round(limits.idle_s)),
            h11_max_incomplete_event_size=limits.head_bytes,
        )
        self.config.load()

    async def accept(self, door: socket.socket) -> None:
        """Accept connections for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(door)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    _LOGGER.error("no connection can be accepted: %s", error.strerror)
                    await asyncio.sleep(1.0)
                # Otherwise whoever called is gone again.
                continue
            who = str(address[0])
            crowded = len(self._handshakes) >= self.limits.handshakes
            if crowded or self._by_address[who] >= self.limits.address_handshakes:
                connection.close()
                self.log.refused(who=who, what="connection", reason="too many handshakes at once")
                continue
            self._by_address[who] += 1
            task = asyncio.create_task(self._shake_hands(connection, who))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket, who: str) -> None:
        """Let TLS decide whether somebody comes in."""
        try:
            connection.settimeout(0.0)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self.limits.handshake_s,
                ssl_shutdown_timeout=self.limits.goodbye_s,
            )
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__
            self.log.refused(who=who, what="handshake", reason=str(reason))
        finally:
            self._by_address[who] -= 1
            if not self._by_address[who]:
                del self._by_address[who]

    def _protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return _Connection(self, number=next(_NUMBERS))

    async def keep_time(self) -> None:
        """Write the date for the answers: sites tell by it that their clock is off."""
        while True:
            self.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            await asyncio.sleep(_TICK_S)

    async def end(self) -> None:
        """Let what is in work finish, for a while, and end all connections."""
        self.closing.set()
        for task in self._handshakes:
            task.cancel()
        for connection in list(self.state.connections):
            connection.shutdown()
        if self.state.tasks:
            await asyncio.wait(set(self.state.tasks), timeout=self.limits.grace_s)
        for task in set(self.state.tasks):
            task.cancel()
        for connection in list(self.state.connections):
            connection.transport.abort()
        remaining = {*self._handshakes, *self.state.tasks}
        if remaining:
            await asyncio.wait(remaining, timeout=self.limits.grace_s)


class _Connection(H11Protocol):
    """One connection after its handshake."""

    def __init__(self, listener: _Listener, *, number: int) -> None:
        state: dict[str, Any] = {"connection": number, "closing": listener.closing}
        super().__init__(listener.config, listener.state, state, asyncio.get_running_loop())
        self.logger, self.access_log = _HTTP_LOGGER, False
        self._listener = listener
        self._site: str | None = None
        self._counted = False
        self._arrived = 0
        self._watched: _Phase | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a new connection in, if there is room."""
        super().connection_made(transport)
        if self._listener.certificates_in_state:
            tls = transport.get_extra_info("ssl_object")
            der = self.app_state["certificate"] = tls.getpeercert(binary_form=True)
            if self._listener.site_of is not None:
                self._site, self._counted = self._listener.site_of(der), True
                self._listener.by_site[self._site] += 1
        limits = self._listener.limits
        too_many = "too many connections" if len(self.connections) > limits.connections else ""
        if self._counted and self._listener.by_site[self._site] > limits.site_connections:
            too_many = "too many connections of one site"
        if too_many:
            self._refuse("connection", too_many)
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        if self._counted:
            self._listener.by_site[self._site] -= 1
            if not self._listener.by_site[self._site]:
                del self._listener.by_site[self._site]
        self._watched = _Phase.ANSWER
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what has come."""
        self._arrived += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle what has come, and look at the time that the rest may take."""
        super().handle_events()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP/1.1, with an empty body."""
        del msg
        self._refuse("request", "malformed HTTP")
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer to the request before is in work: there is no room for another.
            self.transport.abort()
            return
        headers = [*self.server_state.default_headers, (b"content-length", b"0"), (b"connection", b"close")]
        with suppress(h11.LocalProtocolError):
            self.transport.write(self.conn.send(h11.Response(status_code=400, headers=headers)) or b"")
            self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        self.transport.close()

    def _should_upgrade(self) -> bool:
        """Never: what asks for another protocol is answered by the application."""
        return False

    def _watch(self) -> None:
        """Time what the connection is waiting for."""
        if self.cycle is None or self.cycle.response_complete:
            # Between two requests uvicorn's own timer runs, until the first byte.
            phase = _Phase.HEAD if self.timeout_keep_alive_task is None else _Phase.NOTHING
        else:
            phase = _Phase.BODY if self.cycle.more_body else _Phase.ANSWER
        if phase is self._watched or self.transport.is_closing():
            return
        self._stop_timer()
        self._watched = phase
        if phase is _Phase.HEAD:
            self._timer = self.loop.call_later(self._listener.limits.head_s, self._too_slow, phase)
        elif phase is _Phase.BODY:
            self._watch_body(self.loop.time() + self._listener.limits.body_s)

    def _watch_body(self, deadline: float) -> None:
        """Look at a body again and again: it must come at some rate, and be there at last."""
        limits, before, began = self._listener.limits, self._arrived, self.loop.time()

        def look() -> None:
            seconds = self.loop.time() - began
            # A last look that comes soon after the one before says nothing of the rate.
            slow = seconds >= limits.body_rate_s and self._arrived - before < limits.body_rate * seconds
            if slow or self.loop.time() >= deadline:
                self._too_slow(_Phase.BODY)
            else:
                self._watch_body(deadline)

        self._timer = self.loop.call_at(min(began + limits.body_rate_s, deadline), look)

    def _too_slow(self, phase: _Phase) -> None:
        """End a connection on which something does not come."""
        self._refuse(phase.value, "too slow")
        self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, what: str, reason: str) -> None:
        who = self.client[0] if self.client else "unknown address"
        if self._site is not None:
            who = f"{self._site} ({who})"
        self._listener.log.refused(who=who, what=what, reason=reason)
