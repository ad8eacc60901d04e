"""The gate: the only thing of the coordinator that a partner's network can reach after enrolment.

Who comes this far has shown a certificate of the federation's CA in the handshake. The gate asks the roster anew at
every request, passes a closed list of Flower's calls on to the SuperLink, which listens on the same machine alone,
and lets no site speak for another. Everything else is refused with an empty body and one line in our log.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Protocol

from protocol.errors import CloisterError
from protocol.tls import certificate_digest
from server.deployment.gate.limits import Allowance, GateLimits, RefusalLog
from server.deployment.gate.mailbox import Mailbox
from server.deployment.gate.pull import Caller, LongPoll
from server.deployment.gate.requests import FLEET, JSON, PROTOBUF, PUSH_OBJECT, Answer, impostor, parse, refusal
from server.deployment.gate.scope import noted, out_of_scope
from server.deployment.roster import Member

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Route = Callable[[Member, bytes], Awaitable[tuple[int, bytes, str]]]

# What of a site's headers Flower reads: the node's signature, and which version of Flower it runs.
PASSED_HEADERS = (
    "flwr-public-key",
    "flwr-timestamp",
    "flwr-signature",
    "flwr-package-name",
    "flwr-package-version",
    "flwr-component-name",
)
_SINGLE_HEADERS = frozenset({*PASSED_HEADERS, "content-length", "content-type"})
_REFUSED_HEADERS = frozenset({"transfer-encoding", "content-encoding", "upgrade"})
_MOST_HEADER_BYTES = 16_384
_RETRY_S = 1


class Members(Protocol):
    """What the gate asks of the roster."""

    def by_certificate(self, digest: str) -> Member | None:
        """Return whose certificate this is; None if it is nobody's or the site's was revoked."""

    def saw(self, name: str) -> None:
        """Remember that a site's client was here."""


class Passer(Protocol):
    """What the gate asks of the way to the SuperLink."""

    async def ask(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Pass a request on and return what is answered to the site."""


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """One request of a member.

    Attributes:
        member: Who asks.
        digest: The certificate's.
        method: The method.
        path: The path as it was sent.
        headers: The headers, names in lower case, each once.
        size: How many bytes the body has.
        caller: The connection.
    """

    member: Member
    digest: str
    method: str
    path: str
    headers: Mapping[str, str]
    size: int
    caller: Caller


class Gate:
    """An ASGI application; see the module.

    Args:
        roster: The members of the federation, asked at every request.
        upstream: The way to the SuperLink.
        routes: The gate's own calls, by method and path: each gets the member and the body and returns status, body
            and media type. The member's ``certificate`` is the one that was shown, which need not be its newest. A
            ``GET`` has no body, any other call one of JSON.
        limits: What the gate lets pass.
        log: Where refusals are written.
    """

    def __init__(
        self,
        *,
        roster: Members,
        upstream: Passer,
        routes: Mapping[tuple[str, str], Route] | None = None,
        limits: GateLimits | None = None,
        log: RefusalLog | None = None,
    ) -> None:
        self._roster, self._upstream = roster, upstream
        self._routes, self._limits = dict(routes or {}), limits or GateLimits()
        self._log = log or RefusalLog()
        self._held = 0  # bytes of bodies, of all sites
        # By node key: a name could be given to another site later.
        self._allowances: dict[str, Allowance] = {}
        self._mailboxes: dict[str, Mailbox] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["raw_path"].decode("ascii")
        if scope["query_string"]:
            path += "?"  # what follows may be long, and is in no path that the gate knows
        who = _address(scope)
        member, digest = self._member(scope)
        if isinstance(member, Answer):
            answer: Answer | None = member
        else:
            who = member.name
            visit = self._visit(scope, member=member, digest=digest, method=method, path=path)
            answer = visit if isinstance(visit, Answer) else await self._admit(visit, receive, send)
        if answer is None:
            return
        if answer.reason:
            self._log.refused(who=who, what=f"{method} {path}", reason=answer.reason)
        await write(answer, send)

    def site_of(self, der: bytes) -> str | None:
        """Return the name of the site whose certificate this is now; None if it is nobody's."""
        member = self._member_of(certificate_digest(der))
        return None if isinstance(member, Answer) else member.name

    def _member(self, scope: Scope) -> tuple[Member | Answer, str]:
        """Return whose certificate the connection showed, and its digest."""
        der = scope.get("state", {}).get("certificate")
        if not der:
            return refusal(HTTPStatus.FORBIDDEN, "no certificate"), ""
        digest = certificate_digest(der)
        return self._member_of(digest), digest

    def _member_of(self, digest: str) -> Member | Answer:
        """Return whose certificate this is now."""
        try:
            member = self._roster.by_certificate(digest)
        except CloisterError as error:
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"the roster fails: {error.problem}", retry_s=_RETRY_S)
        if member is None:
            return refusal(HTTPStatus.FORBIDDEN, "certificate revoked or not on the roster")
        return member

    def _visit(self, scope: Scope, *, member: Member, digest: str, method: str, path: str) -> _Visit | Answer:
        """Check everything about a request but its body."""
        fleet = method == "POST" and path in FLEET
        if not fleet and (method, path) not in self._routes:
            return refusal(HTTPStatus.NOT_FOUND, "not among what passes")
        if scope["http_version"] != "1.1":
            return refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "not HTTP/1.1")
        headers = _headers(scope)
        if isinstance(headers, Answer):
            return headers
        # A call of the gate's own need not name its type, for it has no other.
        expected, said = (PROTOBUF, "") if fleet else (JSON, JSON)
        if method != "GET" and headers.get("content-type", said) != expected:
            return refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a body that is not {expected}")
        size = _size(headers, method=method)
        most = self._most(path, fleet=fleet, method=method)
        if size is None:
            return refusal(HTTPStatus.LENGTH_REQUIRED, "a body of unknown length")
        if size > most:
            return refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of {size} bytes, at most {most} pass")
        if fleet and headers.get("flwr-public-key") != b64encode(member.node_key.encode()).decode():
            return refusal(HTTPStatus.FORBIDDEN, "the node key of another site")
        caller = Caller(connection=scope["state"].get("connection", 0), closing=scope["state"].get("closing"))
        return _Visit(
            member=member, digest=digest, method=method, path=path, headers=headers, size=size, caller=caller
        )  # fmt: skip

    def _most(self, path: str, *, fleet: bool, method: str) -> int:
        """Return how large a body may be."""
        if method == "GET":
            return 0
        if not fleet:
            return self._limits.own_bytes
        return self._limits.object_bytes if path == PUSH_OBJECT else self._limits.control_bytes

    async def _admit(self, visit: _Visit, receive: Receive, send: Send) -> Answer | None:
        """Keep a member within its limits; None where the answer is written already, or nobody waits for it."""
        allowance = self._allowances.setdefault(visit.member.node_key, Allowance(self._limits))
        if reason := allowance.busy():
            return refusal(HTTPStatus.TOO_MANY_REQUESTS, reason, retry_s=_RETRY_S)
        hold = allowance.hold_s()
        async with allowance.request(), self._body(allowance, receive) as read:
            if hold > 0:
                await asyncio.sleep(hold)
            body = await read()
            if not isinstance(body, bytes):
                return body
            allowance.moved(visit.size)
            answer = await self._work(visit, body, receive, send)
            allowance.moved(len(answer.body) if answer is not None else 0)
            return answer

    @asynccontextmanager
    async def _body(
        self, allowance: Allowance, receive: Receive
    ) -> AsyncIterator[Callable[[], Awaitable[bytes | Answer | None]]]:
        """Give a function that reads a body, and count its bytes as they come and until it is done with.

        The function returns None if the site left before the end, and a refusal where there are too many bytes.
        """
        parts: list[bytes] = []

        async def read() -> bytes | Answer | None:
            while True:
                event = await receive()
                if event["type"] != "http.request":
                    return None
                parts.append(event.get("body", b""))
                self._held += len(parts[-1])
                allowance.bodies += len(parts[-1])
                if allowance.bodies > self._limits.site_bytes_in_flight:
                    return refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many bytes at once", retry_s=_RETRY_S)
                if self._held > self._limits.bytes_in_flight:
                    reason = "too many bytes of all sites at once"
                    return refusal(HTTPStatus.SERVICE_UNAVAILABLE, reason, retry_s=_RETRY_S)
                if not event.get("more_body", False):
                    return b"".join(parts)

        try:
            yield read
        finally:
            size = sum(map(len, parts))
            self._held -= size
            allowance.bodies -= size

    def _saw(self, member: Member) -> None:
        """Tell the roster that a site's client was here; that it cannot be written down is no reason to refuse it."""
        try:
            self._roster.saw(member.name)
        except CloisterError as error:
            self._log.refused(who=member.name, what="last seen", reason=error.problem)

    async def _work(self, visit: _Visit, body: bytes, receive: Receive, send: Send) -> Answer | None:
        """Do what is asked."""
        if (route := self._routes.get((visit.method, visit.path))) is not None:
            return await self._own(route, visit, body)
        request = parse(visit.path, body)
        if request is None:
            return refusal(HTTPStatus.BAD_REQUEST, "malformed protobuf")
        if fault := impostor(request, node_key=visit.member.node_key):
            return refusal(HTTPStatus.FORBIDDEN, fault)
        mailbox = self._mailboxes.setdefault(visit.member.node_key, Mailbox())
        if (answer := out_of_scope(request, mailbox)) is not None:
            return answer
        passed = {name: visit.headers[name] for name in PASSED_HEADERS if name in visit.headers}
        passed |= {"content-type": PROTOBUF, "accept": PROTOBUF}

        async def ask() -> Answer:
            member = self._member_of(visit.digest)
            if isinstance(member, Answer):
                return member
            answer = await self._upstream.ask(visit.path, passed, body)
            if answer.status == HTTPStatus.OK:
                self._saw(member)
            return answer

        if visit.path == LongPoll.PATH:
            poll = LongPoll(mailbox=mailbox, caller=visit.caller, seconds=self._limits.poll_s, ask=ask)
            return await poll.answer(receive, lambda answer: write(answer, send))
        answer = await ask()
        noted(request, answer, mailbox)
        return answer

    async def _own(self, route: Route, visit: _Visit, body: bytes) -> Answer:
        """Answer one of the gate's own calls."""
        # The body may have taken minutes, and the site may have been revoked, or its certificate replaced, meanwhile.
        member = self._member_of(visit.digest)
        if isinstance(member, Answer):
            return member
        try:
            async with asyncio.timeout(self._limits.route_s):
                status, content, media_type = await route(replace(member, certificate=visit.digest), body)
        except CloisterError as error:
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, error.problem)
        except TimeoutError:
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "it took too long", retry_s=_RETRY_S)
        # A doctor or an officer may have asked: only Flower's calls say that the site's client runs.
        return Answer(status=status, body=content, media_type=media_type)


async def write(answer: Answer, send: Send) -> None:
    """Write an answer."""
    headers = [(b"content-length", str(len(answer.body)).encode()), (b"cache-control", b"no-store")]
    if answer.body:
        headers.append((b"content-type", answer.media_type.encode("ascii")))
    if answer.retry_s is not None:
        headers.append((b"retry-after", str(answer.retry_s).encode()))
    if answer.close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _headers(scope: Scope) -> dict[str, str] | Answer:
    """Return the headers; those that matter must be there once at most."""
    found: dict[str, str] = {}
    if sum(len(name) + len(value) for name, value in scope["headers"]) > _MOST_HEADER_BYTES:
        return refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers too large")
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name in _REFUSED_HEADERS:
            return refusal(HTTPStatus.BAD_REQUEST, f"header {name}")
        if name in _SINGLE_HEADERS and (name in found or not value.isascii()):
            return refusal(HTTPStatus.BAD_REQUEST, f"header {name} twice, or not ASCII")
        found[name] = value
    return found


def _size(headers: Mapping[str, str], *, method: str) -> int | None:
    """Return how long the body is; None if that is not said."""
    said = headers.get("content-length", "0" if method == "GET" else "")
    return int(said) if said.isascii() and said.isdigit() and len(said) <= 12 else None


def _address(scope: Scope) -> str:
    """Return the address that called."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown address"
