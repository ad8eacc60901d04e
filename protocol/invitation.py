"""The one-time code that a coordinator hands to a site: where to go, whom to trust there, and a secret.

It is one line, to be handed over by mail or telephone. Who intercepts it can enrol in the site's place, once,
which the site then notices: its own attempt is refused. So it is handed over like a password.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Self

from protocol.digest import canonical_json
from protocol.errors import InputError
from protocol.terms import SITE_NAME

INVITATION_VERSION = 1
_PREFIX = "cloister-"
_HEX = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_CHECK_BYTES = 4
_HASH_BYTES = 32
_MOST_CHARACTERS = 2_000
_AGAIN = "Copy the whole code again, from cloister- to its end, or ask the coordinator for a new one."


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a code says.

    Attributes:
        version: Of the code's form.
        federation: The federation's name.
        site: The name that the site will have.
        host: Name or address of the coordinator.
        port: Of the gate.
        enrolment_port: Where to enrol.
        ca_fingerprint: SHA-256 of the federation's CA certificate (DER), 64 hexadecimal digits.
        secret: The one-time secret, 64 hexadecimal digits.
    """

    version: int = INVITATION_VERSION
    federation: str
    site: str
    host: str
    port: int
    enrolment_port: int
    ca_fingerprint: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what could not have been written by a coordinator.

        Raises:
            InputError: Naming the part at fault.
        """
        texts = (self.federation, self.site, self.host, self.ca_fingerprint, self.secret)
        faults = {
            f"version {self.version!r}": type(self.version) is int and self.version == INVITATION_VERSION,
            "text": all(isinstance(text, str) for text in texts),
        }
        _refuse_first(faults)
        faults = {
            f"federation {self.federation!r}": bool(SITE_NAME.fullmatch(self.federation)),
            f"site {self.site!r}": bool(SITE_NAME.fullmatch(self.site)),
            f"host {self.host!r}": is_host(self.host),
            f"port {self.port!r}": is_port(self.port),
            f"enrolment port {self.enrolment_port!r}": is_port(self.enrolment_port),
            "fingerprint": bool(_HEX.fullmatch(self.ca_fingerprint)),
            "secret": bool(_HEX.fullmatch(self.secret)),
        }
        _refuse_first(faults)

    def text(self) -> str:
        """Return the code: ``cloister-`` and base64url of secret, fingerprint, the rest as JSON, and a check sum."""
        rest = [self.version, self.federation, self.site, self.host, self.port, self.enrolment_port]
        body = bytes.fromhex(self.secret) + bytes.fromhex(self.ca_fingerprint) + canonical_json(rest)
        return _PREFIX + base64.urlsafe_b64encode(body + _check_sum(body)).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a code; white space that a mail program put into it is ignored.

        Raises:
            InputError: If it is no code, or not whole.
        """
        code = "".join(text.split()) if len(text) <= _MOST_CHARACTERS else ""
        if not code.startswith(_PREFIX):
            raise InputError("This is no invitation code.", remedy=_AGAIN)
        try:
            data = base64.b64decode(code[len(_PREFIX) :] + "=" * (-len(code[len(_PREFIX) :]) % 4), b"-_", validate=True)
        except ValueError as error:
            raise InputError("The invitation code is damaged.", remedy=_AGAIN) from error
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if len(body) <= 2 * _HASH_BYTES or _check_sum(body) != check:
            raise InputError("The invitation code is damaged or cut short.", remedy=_AGAIN)
        version, federation, site, host, port, enrolment_port = _rest(body[2 * _HASH_BYTES :])
        return cls(
            version=version,
            federation=federation,
            site=site,
            host=host,
            port=port,
            enrolment_port=enrolment_port,
            ca_fingerprint=body[_HASH_BYTES : 2 * _HASH_BYTES].hex(),
            secret=body[:_HASH_BYTES].hex(),
        )


def is_host(value: object) -> bool:
    """Return whether a value is a host name in lower-case ASCII, or an IP address.

    Example:
        >>> is_host("train.example.org"), is_host("::1"), is_host("a b"), is_host("")
        (True, True, False, False)
    """
    if not isinstance(value, str):
        return False
    try:
        ip_address(value)
    except ValueError:
        # A name of digits and dots alone would be read as an address by some resolvers.
        return _HOST.fullmatch(value) is not None and not set(value) <= set("0123456789.")
    return "%" not in value


def is_port(value: object) -> bool:
    """Return whether a value is a TCP port."""
    return type(value) is int and 1 <= value <= 65_535


def _rest(text: bytes) -> list[Any]:
    """Read the part of a code that is JSON."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("The invitation code is damaged.", remedy=_AGAIN) from error
    if not isinstance(values, list) or not values or values[0] != INVITATION_VERSION:
        raise InputError("The invitation code is of another version.", remedy="Install the coordinator's Cloister.")
    if len(values) != 6:
        raise InputError("The invitation code is damaged.", remedy=_AGAIN)
    return values


def _check_sum(body: bytes) -> bytes:
    """Return what betrays a code copied wrongly; against an attacker it protects nothing."""
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]


def _refuse_first(faults: dict[str, bool]) -> None:
    for part, good in faults.items():
        if not good:
            raise InputError(f"An invitation cannot have this {part}.", remedy=_AGAIN)
