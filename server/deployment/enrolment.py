"""The enrolment server: the one place that answers somebody who has no certificate yet.

It knows two requests: ``GET /v1/ca``, so that a site can compare the authority with its code before it says
anything, and ``POST /v1/enroll``. Whoever fails learns neither whether the name is invited nor how close the secret
was: unknown names and wrong secrets get the same answer after the same time.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv6Address, ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.enrolment import CA_PATH, ENROL_PATH, MOST_BYTES, EnrolmentAnswer, EnrolmentRequest, RenewalRequest
from protocol.errors import ApprovalError, CloisterError, WireError
from protocol.keys import public_hex
from protocol.tls import certificate_digest
from server.deployment.authority import Authority, requested_key
from server.deployment.folder import CoordinatorFolder
from server.deployment.roster import Roster, plain_node_key

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

FAILURE_SECONDS = 1.0
_BODY_SECONDS = 10.0
_MOST_AT_ONCE = 64
_WINDOW_SECONDS = 600.0
_MOST_FAILURES = 20
_MOST_FAILURES_IN_ALL = 2_000
_log = logging.getLogger("cloister.gate")


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What is answered, and what is logged about it."""

    status: int
    reason: str
    body: bytes = b""
    site: str = "-"


@dataclass(kw_only=True)
class _Failures:
    """Failed attempts of the present window, by address; its size is bounded by the most failures in all."""

    clock: Callable[[], float] = time.monotonic
    began: float = -_WINDOW_SECONDS
    counts: dict[str, int] = field(default_factory=dict)

    def full(self, address: str) -> bool:
        """Return whether an address, or all together, have failed too often."""
        if self.clock() - self.began >= _WINDOW_SECONDS:
            self.began, self.counts = self.clock(), {}
        return self.counts.get(address, 0) >= _MOST_FAILURES or sum(self.counts.values()) >= _MOST_FAILURES_IN_ALL

    def add(self, address: str) -> None:
        """Count a failed attempt."""
        self.counts[address] = self.counts.get(address, 0) + 1


def enrolment_app(
    folder: CoordinatorFolder, roster: Roster, authority: Authority, *, failure_seconds: float = FAILURE_SECONDS
) -> Application:
    """Return the enrolment server's ASGI application.

    Args:
        folder: The coordinator's.
        roster: Where invitations are redeemed.
        authority: What certifies.
        failure_seconds: How long a failed attempt takes, whatever failed.

    Returns:
        The application; serve it over TLS, with no proxy headers trusted.

    Raises:
        InputError: If the coordinator's key cannot be read.
    """
    return _Enrolment(folder, roster, authority, failure_seconds=failure_seconds)


def renewal_answer(
    folder: CoordinatorFolder, roster: Roster, authority: Authority, *, site: str, presented: str, body: bytes
) -> bytes:
    """Certify another key for a site that showed a valid certificate, as the gate does.

    Args:
        folder: The coordinator's.
        roster: Where the certificate is noted.
        authority: What certifies.
        site: Whose certificate was shown, as the roster says.
        presented: SHA-256 of that certificate, 64 hexadecimal digits; it stays valid until it expires.
        body: The request.

    Returns:
        The answer.

    Raises:
        WireError: If the request is malformed.
        ApprovalError: If that certificate is the site's no more.
    """
    request = RenewalRequest.from_bytes(body)
    certificate = authority.issue_site(request.tls_request, site=site)
    digest, not_after = _facts(certificate)
    roster.renew(site, digest, not_after, presented=presented)
    return _answer(certificate, authority, coordinator_key=public_hex(folder.key()), federation=folder.name)


class _Enrolment:
    """The application."""

    def __init__(
        self, folder: CoordinatorFolder, roster: Roster, authority: Authority, *, failure_seconds: float
    ) -> None:
        self._federation = folder.name
        self._coordinator_key = public_hex(folder.key())
        self._roster = roster
        self._authority = authority
        self._failure_seconds = failure_seconds
        self._failures = _Failures()
        self._at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif (scope["method"], scope["path"]) == ("GET", CA_PATH):
            await _send(send, 200, self._authority.pem.encode(), kind=b"application/x-pem-file")
        elif (scope["method"], scope["path"]) == ("POST", ENROL_PATH):
            address = _address(scope)
            outcome = await self._attempt(address, scope, receive)
            _log.info("enrolment from %s, site %s: %d %s", address, outcome.site, outcome.status, outcome.reason)
            await _send(send, outcome.status, outcome.body)
        else:
            await _send(send, 404)

    async def _attempt(self, address: str, scope: Scope, receive: Receive) -> _Outcome:
        """Take one attempt, unless there were too many; a failed one takes a constant time."""
        if self._failures.full(address):
            return _Outcome(status=429, reason="too many failed attempts")
        if self._at_work >= _MOST_AT_ONCE:
            return _Outcome(status=503, reason="too many attempts at once")
        self._at_work += 1
        try:
            began = time.monotonic()
            outcome = await self._read_and_enrol(scope, receive)
            if outcome.status != 200:
                # Counted before the wait: attempts made at once must not slip past the limit.
                self._failures.add(address)
                await asyncio.sleep(max(0.0, began + self._failure_seconds - time.monotonic()))
            return outcome
        finally:
            self._at_work -= 1

    async def _read_and_enrol(self, scope: Scope, receive: Receive) -> _Outcome:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _read(scope, receive)
        except TimeoutError:
            return _Outcome(status=408, reason="the request came too slowly")
        if body is None:
            return _Outcome(status=413, reason="the request is too large")
        try:
            return await asyncio.to_thread(self._enrol, body)
        except CloisterError as error:
            _log.error("enrolment: %s", error)
            return _Outcome(status=503, reason="the coordinator failed")

    def _enrol(self, body: bytes) -> _Outcome:
        """Enrol a site; whatever depends on the request alone is checked before the invitation."""
        try:
            request = EnrolmentRequest.from_bytes(body)
            request.check_proof()
            requested_key(request.tls_request)
            plain_node_key(request.node_key)
        except WireError as error:
            return _Outcome(status=400, reason=error.problem)
        if not self._roster.is_invited(request.site, request.secret):
            return _Outcome(status=403, reason="no such invitation", site=request.site)
        keys = {"identity_key": request.identity_key, "node_key": request.node_key}
        if self._roster.is_revoked_key(request.site, request.node_key):
            return _Outcome(status=410, reason="its node key was revoked", site=request.site)
        try:
            self._roster.check_keys(request.site, **keys)
        except ApprovalError as error:
            # Only who holds the secret learns this.
            told = json.dumps({"problem": error.problem, "remedy": error.remedy}).encode()
            return _Outcome(status=409, reason=error.problem, body=told, site=request.site)
        certificate = self._authority.issue_site(request.tls_request, site=request.site)
        digest, not_after = _facts(certificate)
        try:
            self._roster.redeem(request.site, request.secret, **keys, certificate=digest, not_after=not_after)
        except ApprovalError:
            return _Outcome(status=403, reason="somebody else was faster", site=request.site)
        answer = _answer(
            certificate, self._authority, coordinator_key=self._coordinator_key, federation=self._federation
        )
        return _Outcome(status=200, reason=f"enrolled, certificate {digest}", body=answer, site=request.site)


def _facts(certificate: x509.Certificate) -> tuple[str, datetime]:
    """Return the digest of a certificate, and until when it is valid."""
    return certificate_digest(certificate.public_bytes(Encoding.DER)), certificate.not_valid_after_utc


def _answer(certificate: x509.Certificate, authority: Authority, *, coordinator_key: str, federation: str) -> bytes:
    pem = certificate.public_bytes(Encoding.PEM).decode()
    answer = EnrolmentAnswer(certificate=pem, ca=authority.pem, coordinator_key=coordinator_key, federation=federation)
    return answer.to_bytes()


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """Return the body; None if it is, or says that it is, too large."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if any(not value.isdigit() or int(value[:10]) > MOST_BYTES or len(value) > 10 for value in lengths):
        return None
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        body += bytes(message.get("body", b""))
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body", False):
            return body


async def _send(send: Send, status: int, body: bytes = b"", *, kind: bytes = b"application/json") -> None:
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    if body:
        headers.append((b"content-type", kind))
    if status != 200:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    """Start and stop with the server."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _address(scope: Scope) -> str:
    """Return what attempts are counted by: an IPv4 address, or the network that one holder of IPv6 has."""
    client = scope.get("client")
    try:
        address = ip_address(client[0]) if client else None
    except ValueError:
        address = None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address or "unknown")
