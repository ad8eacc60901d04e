"""What can go wrong on the way to the coordinator, told apart, each with what to do about it."""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import httpx

from protocol.errors import CloisterError
from protocol.tls import SITE_REMEDY

# How far Flower's node authentication lets a node's clock be off, in seconds, less the second that a Date header
# rounds away: ahead (SYSTEM_TIME_TOLERANCE) and behind (TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE).
_MOST_AHEAD_S = 4.0
_MOST_BEHIND_S = 304.0
_RESTARTING = frozenset({502, 503, 504})
_ABOUT_CERTIFICATES = ("certificate", "unknown ca", "access denied")


class TroubleKind(StrEnum):
    """What keeps a site from its coordinator."""

    NAME = "name"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    PROXY = "proxy"
    COORDINATOR_CERTIFICATE = "coordinator-certificate"
    SITE_CERTIFICATE = "site-certificate"
    TLS = "tls"
    CLOCK = "clock"
    NOT_ACCEPTED = "not-accepted"
    NOT_ACTIVATED = "not-activated"
    RESTARTING = "restarting"
    BUSY = "busy"
    UNEXPECTED = "unexpected"


# Nothing that a few seconds could mend: somebody has to do something, here or at the coordinator's.
SLOW = frozenset(
    {
        TroubleKind.COORDINATOR_CERTIFICATE,
        TroubleKind.SITE_CERTIFICATE,
        TroubleKind.TLS,
        TroubleKind.CLOCK,
        TroubleKind.NOT_ACCEPTED,
    }
)

_REMEDIES = {
    TroubleKind.NAME: "Check the network, the name service and HTTPS_PROXY.",
    TroubleKind.REFUSED: "The coordinator may be down; if it lasts, ask, and check HTTPS_PROXY.",
    TroubleKind.UNREACHABLE: "Check the network, and that the firewall lets this machine call out to that port.",
    TroubleKind.PROXY: "Let the proxy allow CONNECT to the coordinator, or check HTTPS_PROXY and NO_PROXY.",
    TroubleKind.COORDINATOR_CERTIFICATE: "Check this machine's clock and ask the coordinator; never work around it.",
    TroubleKind.SITE_CERTIFICATE: SITE_REMEDY,
    TroubleKind.TLS: "Check host and port, and that nothing between opens the encryption.",
    TroubleKind.CLOCK: "Set the clock, best by a time service.",
    TroubleKind.NOT_ACCEPTED: "Ask the coordinator whether the site is still on the roster; if so, enrol it anew.",
    TroubleKind.NOT_ACTIVATED: "After a crash that passes within a minute; if it lasts, ask the coordinator.",
    TroubleKind.RESTARTING: "Nothing needs to be done here.",
    TroubleKind.BUSY: "Nothing needs to be done here; if it lasts, look for a second client of this site.",
    TroubleKind.UNEXPECTED: "If it lasts, ask the coordinator, and check that both run the same release.",
}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why the site is not connected.

    Attributes:
        kind: Which of the known troubles.
        problem: What was seen, one sentence.
    """

    kind: TroubleKind
    problem: str

    @property
    def remedy(self) -> str:
        """What to do about it, one sentence."""
        return _REMEDIES[self.kind]

    @property
    def slow(self) -> bool:
        """Whether trying again soon is of no use."""
        return self.kind in SLOW


def diagnose(error: Exception, *, address: str, ahead_s: float | None, expires: datetime) -> Trouble:
    """Tell what an error on the way to the coordinator means.

    Args:
        error: What was raised.
        address: The coordinator's host and port.
        ahead_s: By how many seconds this machine's clock is ahead of the coordinator's; None if unknown.
        expires: Until when the site's certificate is valid.

    Returns:
        The trouble; the kind is UNEXPECTED for whatever is not known.
    """
    if isinstance(error, httpx.HTTPStatusError):
        return _refused(error.response.status_code, address=address, ahead_s=ahead_s)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            found = _tls(cause, address=address, expires=expires)
            # Under TLS 1.3 a server's refusal is read only after the handshake; any other end of a connection is a cut.
            if isinstance(error, httpx.ConnectError) or found.kind is TroubleKind.SITE_CERTIFICATE:
                return found
    if isinstance(error, httpx.TransportError | OSError):
        return _network(error, address=address, expires=expires)
    if isinstance(error, CloisterError):
        return Trouble(kind=TroubleKind.UNEXPECTED, problem=error.problem)
    problem = f"What {address} answered cannot be read: {_words(error)}."
    return Trouble(kind=TroubleKind.UNEXPECTED, problem=problem)


def clock_is_off(ahead_s: float) -> bool:
    """Say whether Flower's node authentication would refuse a clock that is ahead by so many seconds.

    Example:
        >>> clock_is_off(10.0), clock_is_off(0.5), clock_is_off(-3600.0)
        (True, False, True)
    """
    return not -_MOST_BEHIND_S < ahead_s < _MOST_AHEAD_S


def _network(error: Exception, *, address: str, expires: datetime) -> Trouble:
    """Tell where the way ends."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return Trouble(kind=TroubleKind.NAME, problem=f"The name in {address} (or the proxy's) is not found.")
        if isinstance(cause, httpx.ProxyError):
            return Trouble(kind=TroubleKind.PROXY, problem=f"The proxy does not lead to {address}: {cause}.")
        if isinstance(cause, ConnectionRefusedError):
            return Trouble(kind=TroubleKind.REFUSED, problem=f"Nothing answers at {address}.")
    if datetime.now(UTC) > expires:
        # Many servers only hang up on a certificate that they do not accept.
        return _expired(expires)
    return Trouble(kind=TroubleKind.UNREACHABLE, problem=f"{address} cannot be reached: {_words(error)}.")


def _refused(status: int, *, address: str, ahead_s: float | None) -> Trouble:
    """Tell what a status of HTTP means."""
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        if ahead_s is not None and clock_is_off(ahead_s):
            way = "ahead of" if ahead_s > 0 else "behind"
            problem = f"This machine's clock is {abs(ahead_s):.0f} s {way} the coordinator's."
            return Trouble(kind=TroubleKind.CLOCK, problem=problem)
        problem = f"The coordinator at {address} does not accept this site ({status})."
        return Trouble(kind=TroubleKind.NOT_ACCEPTED, problem=problem)
    if status in _RESTARTING:
        return Trouble(kind=TroubleKind.RESTARTING, problem=f"The coordinator at {address} is restarting.")
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return Trouble(kind=TroubleKind.BUSY, problem=f"The coordinator at {address} asks for fewer requests.")
    if status == httpx.codes.PRECONDITION_FAILED:
        problem = "The coordinator takes this site for connected already, or does not know it yet."
        return Trouble(kind=TroubleKind.NOT_ACTIVATED, problem=problem)
    return Trouble(kind=TroubleKind.UNEXPECTED, problem=f"The coordinator at {address} answered with status {status}.")


def _tls(error: ssl.SSLError, *, address: str, expires: datetime) -> Trouble:
    """Tell whose certificate is at fault."""
    now = datetime.now(UTC)
    if isinstance(error, ssl.SSLCertVerificationError):
        problem = f"At {now:%Y-%m-%d %H:%M} UTC the certificate of {address} is not accepted: {error.verify_message}."
        return Trouble(kind=TroubleKind.COORDINATOR_CERTIFICATE, problem=problem)
    if now > expires:
        return _expired(expires)
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "alert" in reason and any(word in reason for word in _ABOUT_CERTIFICATES):
        problem = f"The coordinator at {address} refuses this site's certificate: {reason}."
        return Trouble(kind=TroubleKind.SITE_CERTIFICATE, problem=problem)
    return Trouble(kind=TroubleKind.TLS, problem=f"No TLS 1.3 with {address}: {reason}.")


def _expired(expires: datetime) -> Trouble:
    problem = f"This site's certificate expired on {expires:%Y-%m-%d %H:%M} UTC."
    return Trouble(kind=TroubleKind.SITE_CERTIFICATE, problem=problem)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, down to the first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _words(error: BaseException) -> str:
    """Return an error's type and first words, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(".: ")
