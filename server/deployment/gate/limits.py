"""How much one site, and anybody at all, may ask of the coordinator at once."""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields

from protocol.errors import InputError
from protocol.flower_objects import MOST_OBJECT_BYTES

MEBIBYTE = 1024 * 1024
_REMEDY = "Give a finite number above zero."
_LOGGER = logging.getLogger("cloister.gate")


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What the gate lets pass.

    The rates allow a site a round every second with a model of 100 MB, which Flower cuts into objects of 5 MiB.
    A site that is faster is slowed down; only one that stays faster is refused.

    Attributes:
        object_bytes: Largest body of ``push-object``, in bytes; Flower's chunks of an array have 5 MiB.
        control_bytes: Largest body of any other of Flower's calls, in bytes. A tree of objects takes about 70 bytes
            for each, and the largest message has some 200.
        own_bytes: Largest body of a call of the gate's own, in bytes.
        requests_per_second: Of one site, in the long run.
        request_burst: How many requests more it may have made at any time.
        bytes_per_second: Of one site, both ways, in the long run.
        byte_burst: How many bytes more it may have moved at any time.
        patience_s: For how long a request beyond these rates is held back; it is refused if that is not enough.
        site_requests: Requests of one site at the same time, held ones included.
        site_bytes_in_flight: Bodies of one site's requests at the same time, in bytes; they count as they come, for
            what was only announced takes no room.
        bytes_in_flight: Bodies of all sites' requests at the same time, in bytes.
        poll_s: For how long a site's question for messages is held when there are none; below the 30 s after which
            Flower's client gives up.
        route_s: How long a call of the gate's own may take.
    """

    object_bytes: int = MOST_OBJECT_BYTES
    control_bytes: int = MEBIBYTE
    own_bytes: int = MEBIBYTE
    requests_per_second: float = 500.0
    request_burst: int = 5_000
    bytes_per_second: float = 256.0 * MEBIBYTE
    byte_burst: int = 1024 * MEBIBYTE
    patience_s: float = 2.0
    site_requests: int = 32
    site_bytes_in_flight: int = 128 * MEBIBYTE
    bytes_in_flight: int = 512 * MEBIBYTE
    poll_s: float = 20.0
    route_s: float = 20.0

    def __post_init__(self) -> None:
        check_positive(self)


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What a listening port bears, whoever calls.

    Attributes:
        connections: Open at the same time, after the handshake.
        site_connections: Of these, by one site; all who show a certificate that is nobody's count as one site.
        handshakes: Handshakes at the same time.
        address_handshakes: Of these, by one address.
        handshake_s: How long a handshake may take.
        head_s: How long the head of a request may take, and the first one after the handshake.
        body_s: How long the body of a request may take.
        body_rate: How many bytes of a body must come per second.
        body_rate_s: Over so many seconds.
        idle_s: For how long a connection is kept for a next request. It also bounds how slowly an answer may be
            read, for it runs from when an answer is written.
        goodbye_s: How long the end of a connection may take.
        head_bytes: Largest head of a request.
        grace_s: For how long requests in work are waited for when the server ends.
    """

    connections: int = 512
    site_connections: int = 32
    handshakes: int = 64
    address_handshakes: int = 16
    handshake_s: float = 10.0
    head_s: float = 10.0
    body_s: float = 120.0
    body_rate: float = 8_192.0
    body_rate_s: float = 10.0
    idle_s: float = 120.0
    goodbye_s: float = 30.0
    head_bytes: int = 16_384
    grace_s: float = 5.0

    def __post_init__(self) -> None:
        check_positive(self)


def check_positive(limits: GateLimits | ConnectionLimits) -> None:
    """Refuse limits that are not finite and above zero.

    Raises:
        InputError: Naming the limit.
    """
    for field in fields(limits):
        value = getattr(limits, field.name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{field.name} is {value!r}.", remedy=_REMEDY)


class TokenBucket:
    """So much at once, and so much per second in the long run; whoever takes more is in debt until it is refilled.

    Args:
        rate: Tokens per second.
        burst: How many it holds; it is full at first.
        clock: A clock that never goes back, in seconds.

    Example:
        >>> bucket = TokenBucket(rate=2.0, burst=10.0, clock=lambda: 0.0)
        >>> bucket.spend(14.0)
        >>> bucket.debt_s()
        2.0
    """

    def __init__(self, *, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = burst, clock()

    def spend(self, tokens: float) -> None:
        """Take tokens, also those that are not there yet."""
        self._refill()
        self._tokens -= tokens

    def debt_s(self) -> float:
        """Return after how many seconds nothing is owed any more; 0 if nothing is."""
        self._refill()
        return max(0.0, -self._tokens / self._rate)

    def _refill(self) -> None:
        now = self._clock()
        self._tokens, self._at = min(self._burst, self._tokens + (now - self._at) * self._rate), now


class Allowance:
    """What one site has used of its limits."""

    def __init__(self, limits: GateLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._requests = TokenBucket(rate=limits.requests_per_second, burst=limits.request_burst, clock=clock)
        self._bytes = TokenBucket(rate=limits.bytes_per_second, burst=limits.byte_burst, clock=clock)
        self._running = 0
        self.bodies = 0  # bytes that the site's requests in work have brought

    def busy(self) -> str:
        """Return why a further request is refused; empty if it is not."""
        if self._running >= self._limits.site_requests:
            return f"more than {self._limits.site_requests} requests at once"
        if self.hold_s() > self._limits.patience_s:
            return "too many requests or bytes"
        return ""

    def hold_s(self) -> float:
        """Return for how many seconds a request is held back to keep the rates."""
        return max(self._requests.debt_s(), self._bytes.debt_s())

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Count a request for as long as it is in work."""
        self._requests.spend(1)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def moved(self, size: int) -> None:
        """Count bytes that came or went."""
        self._bytes.spend(size)


class RefusalLog:
    """One line for each refusal, at logger ``cloister.gate``; a flood of them does not fill the disk.

    Args:
        rate: Lines per second in the long run.
        burst: Lines at once.
        clock: A clock that never goes back, in seconds.
    """

    def __init__(
        self, *, rate: float = 10.0, burst: float = 1_000.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bucket = TokenBucket(rate=rate, burst=burst, clock=clock)
        self._untold = 0

    def refused(self, *, who: str, what: str, reason: str) -> None:
        """Write down that something was refused.

        Args:
            who: The site, or the address that called.
            what: Method and path as sent, or what else was tried; never a body.
            reason: Why.
        """
        if self._bucket.debt_s() > 0:
            self._untold += 1
            return
        self._bucket.spend(1)
        more = f" ({self._untold} more before it not listed)" if self._untold else ""
        self._untold = 0
        _LOGGER.warning("refused %s: %s: %s%s", who, _printable(what), _printable(reason), more)


def _printable(text: str) -> str:
    """Return the beginning of a text on one line: what a stranger sent must not forge a second one."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
