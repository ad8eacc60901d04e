"""The roster: which sites take part, by which keys and certificates, and who is invited.

Every process of the coordinator reads and writes it, and every change is on the disk before the call returns.
Nothing is cached: who was revoked a moment ago by another process is gone now.

Members are never deleted. A revoked one stays as a row of the past, and its keys cannot come back under another name.
"""

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from protocol.errors import ApprovalError, InputError, WireError
from protocol.terms import SITE_NAME
from server.deployment.roster_store import RosterStore

INVITATION_DAYS = 7.0
_MOST_DAYS = 365
_SAW_SECONDS = 30.0
_NOBODY = hashlib.sha256(b"nobody is invited").hexdigest()
_COLUMNS = "name, identity_key, node_key, certificate, not_after, enrolled, revoked, seen"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A site that takes part, or did.

    Attributes:
        name: The site's name.
        identity_key: Ed25519 public key that signs what leaves it, 64 hexadecimal digits.
        node_key: EC P-384 public key of Flower's node authentication, PEM.
        certificate: SHA-256 of its newest certificate (DER), 64 hexadecimal digits; from `Roster.by_certificate`, of
            the one that was looked up.
        not_after: Until when that one is valid.
        enrolled: When it joined.
        revoked: When it was excluded; None while it takes part.
        seen: When its client last spoke to the SuperLink; None before. Doctors and officers ask the gate alone.
    """

    name: str
    identity_key: str
    node_key: str
    certificate: str
    not_after: datetime
    enrolled: datetime
    revoked: datetime | None
    seen: datetime | None


@dataclass(frozen=True, kw_only=True)
class OpenInvitation:
    """An invitation that can still be redeemed.

    Attributes:
        name: Of the site.
        made: When.
        expires: When it ends.
    """

    name: str
    made: datetime
    expires: datetime


def _clock() -> datetime:
    return datetime.now(UTC)


class Roster:
    """The open roster; safe to share between threads, and between processes that each open it."""

    def __init__(self, store: RosterStore, *, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._seen: dict[str, float] = {}

    @classmethod
    def create(cls, path: Path, *, clock: Callable[[], datetime] = _clock) -> Self:
        """Make an empty roster.

        Raises:
            InputError: If the file exists or cannot be made.
        """
        return cls(RosterStore.create(path), clock=clock)

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], datetime] = _clock) -> Self:
        """Open the roster; never makes one.

        Args:
            path: Where it is.
            clock: Gives the time, for tests.

        Returns:
            The open roster.

        Raises:
            InputError: If it is missing, damaged or of another version.
        """
        return cls(RosterStore.open(path), clock=clock)

    def invite(self, name: str, *, days: float = INVITATION_DAYS) -> str:
        """Invite a site; an open invitation of that name ends.

        Args:
            name: The name that the site will have, or has: an enrolled site that lost its certificate comes back so.
            days: For how long it can be redeemed.

        Returns:
            The secret, 64 hexadecimal digits; only its hash is kept.

        Raises:
            InputError: If the name or the number of days is none.
        """
        _check_name(name)
        if not (math.isfinite(days) and 0 < days <= _MOST_DAYS):
            raise InputError(f"An invitation for {days:g} days.", remedy=f"Give more than 0, up to {_MOST_DAYS}.")
        secret = secrets.token_bytes(32).hex()
        now = self._clock()
        values = (name, _hash(secret), now.timestamp(), (now + timedelta(days=days)).timestamp())
        with self._store.writing():
            self._store.execute("INSERT OR REPLACE INTO invitations VALUES (?, ?, ?, ?)", values)
        return secret

    def is_invited(self, name: str, secret: str) -> bool:
        """Return whether an invitation could be redeemed now; only `redeem` makes sure."""
        found = self._store.one("SELECT secret, expires FROM invitations WHERE name = ?", name)
        return self._fits(found, secret)

    def is_revoked_key(self, name: str, node_key: str) -> bool:
        """Return whether a node key was revoked with a site of this name; Flower never takes it again.

        Raises:
            WireError: If the node key is no EC P-384 public key.
        """
        statement = "SELECT 1 FROM members WHERE name = ? AND node_key = ? AND revoked IS NOT NULL"
        return self._store.one(statement, name, plain_node_key(node_key)) is not None

    def check_keys(self, name: str, *, identity_key: str, node_key: str) -> None:
        """Refuse keys that a site of this name cannot enrol with.

        Args:
            name: The site's name.
            identity_key: See `Member`.
            node_key: See `Member`.

        Raises:
            ApprovalError: If the site is enrolled with another identity key, its node key was revoked, or a key is
                another site's.
            WireError: If the node key is no EC P-384 public key.
        """
        present = self._store.one("SELECT identity_key FROM members WHERE name = ? AND revoked IS NULL", name)
        if present is not None and present[0] != identity_key:
            raise ApprovalError(
                f"{name} is enrolled with another identity key.",
                remedy="Put back the site's key.pem; if it is lost, the coordinator must revoke the site first.",
            )
        keys = (identity_key, plain_node_key(node_key))
        if self.is_revoked_key(name, node_key):
            raise ApprovalError(
                f"{name} was revoked, and its node key with it.",
                remedy="Delete node.key in the site's folder, and use the same code again: a new key is made.",
            )
        statement = "SELECT 1 FROM members WHERE name != ? AND (identity_key = ? OR node_key = ?)"
        if self._store.one(statement, name, *keys) is not None:
            raise ApprovalError(
                f"A key of {name} is another site's.", remedy="Use a folder of its own for every site, with new keys."
            )

    def redeem(
        self, name: str, secret: str, *, identity_key: str, node_key: str, certificate: str, not_after: datetime
    ) -> None:
        """Enrol a site by its invitation, which ends with it; of two attempts at once, one succeeds.

        Args:
            name: The site's name.
            secret: The invitation's.
            identity_key: See `Member`; the secret holder's proof of it is the caller's to check.
            node_key: See `Member`.
            certificate: SHA-256 of the certificate that it is given.
            not_after: Until when that one is valid.

        Raises:
            ApprovalError: If there is no such invitation, for whatever reason, or as `check_keys`; an invitation that
                there is stays open then.
            WireError: If the node key is no EC P-384 public key.
        """
        node_key = plain_node_key(node_key)
        now = self._clock().timestamp()
        with self._store.writing():
            found = self._store.one("SELECT secret, expires FROM invitations WHERE name = ?", name)
            if not self._fits(found, secret):
                raise ApprovalError(
                    "There is no such invitation, or it was used or has expired.", remedy="Ask for a new code."
                )
            self.check_keys(name, identity_key=identity_key, node_key=node_key)
            self._store.execute("DELETE FROM invitations WHERE name = ?", (name,))
            number = self._enrol(name, identity_key=identity_key, node_key=node_key, certificate=certificate,
                                 not_after=not_after.timestamp(), now=now)  # fmt: skip
            self._store.execute("DELETE FROM certificates WHERE member = ?", (number,))
            self._certify(number, certificate, not_after)

    def members(self, *, include_revoked: bool = False) -> tuple[Member, ...]:
        """Return the sites that take part, by name; with the revoked ones, if wanted, in the order they joined."""
        where = "" if include_revoked else "WHERE revoked IS NULL"
        rows = self._store.all(f"SELECT {_COLUMNS} FROM members {where} ORDER BY name, number")  # noqa: S608 - both constants
        return tuple(_member(row) for row in rows)

    def member(self, name: str) -> Member | None:
        """Return a site that takes part."""
        row = self._store.one(f"SELECT {_COLUMNS} FROM members WHERE name = ? AND revoked IS NULL", name)  # noqa: S608 - constant
        return None if row is None else _member(row)

    def by_certificate(self, digest: str) -> Member | None:
        """Return whose valid certificate this is, by SHA-256 of its DER form; two index look-ups.

        Returns:
            The member; None if the certificate is unknown, replaced or expired, or the member revoked.
        """
        row = self._store.one(
            "SELECT name, identity_key, node_key, digest, certificates.not_after, enrolled, revoked, seen "
            "FROM certificates JOIN members ON number = member "
            "WHERE digest = ? AND certificates.not_after > ? AND revoked IS NULL",
            digest,
            self._clock().timestamp(),
        )
        return None if row is None else _member(row)

    def renew(self, name: str, certificate: str, not_after: datetime, *, presented: str) -> None:
        """Give a site another certificate; the one that it asked with stays valid until it expires.

        Args:
            name: The site's name.
            certificate: SHA-256 of the new certificate.
            not_after: Until when it is valid.
            presented: SHA-256 of the certificate that the site asked with: this is the one that stays, because the
                answer may get lost and the site must be able to ask again.

        Raises:
            ApprovalError: If that certificate is not the site's any more: it was replaced, has expired, or the site
                was revoked, perhaps after it began to ask.
        """
        with self._store.writing():
            row = self._store.one(
                "SELECT number FROM certificates JOIN members ON number = member "
                "WHERE digest = ? AND name = ? AND certificates.not_after > ? AND revoked IS NULL",
                presented,
                name,
                self._clock().timestamp(),
            )
            if row is None:
                raise ApprovalError(f"No site {name!r} takes part with that certificate.", remedy="Invite it anew.")
            (number,) = row
            self._store.execute("DELETE FROM certificates WHERE member = ? AND digest != ?", (number, presented))
            self._certify(number, certificate, not_after)
            self._store.execute(
                "UPDATE members SET certificate = ?, not_after = ? WHERE number = ?",
                (certificate, not_after.timestamp(), number),
            )

    def revoke(self, name: str) -> None:
        """Exclude a site at once, and withdraw its invitation; no other site is touched.

        Raises:
            InputError: If no such site takes part or is invited.
        """
        with self._store.writing():
            found = self._store.one("SELECT number FROM members WHERE name = ? AND revoked IS NULL", name)
            withdrawn = self._store.execute("DELETE FROM invitations WHERE name = ?", (name,)).rowcount
            if found is None and not withdrawn:
                raise InputError(
                    f"No site {name!r} takes part or is invited.", remedy="See `cloister coordinator status`."
                )
            if found is not None:
                self._store.execute("DELETE FROM certificates WHERE member = ?", found)
                self._store.execute(
                    "UPDATE members SET revoked = ? WHERE number = ?", (self._clock().timestamp(), *found)
                )

    def saw(self, name: str) -> None:
        """Note that a site's client spoke; written at most every half minute, so that it may be called per request."""
        now = time.monotonic()
        if now - self._seen.get(name, -math.inf) < _SAW_SECONDS:
            return
        self._seen[name] = now
        with self._store.writing():
            self._store.execute(
                "UPDATE members SET seen = ? WHERE name = ? AND revoked IS NULL", (self._clock().timestamp(), name)
            )

    def open_invitations(self) -> tuple[OpenInvitation, ...]:
        """Return the invitations that can still be redeemed, by name."""
        rows = self._store.all(
            "SELECT name, made, expires FROM invitations WHERE expires > ? ORDER BY name", self._clock().timestamp()
        )
        return tuple(
            OpenInvitation(name=name, made=_moment(made), expires=_moment(expires)) for name, made, expires in rows
        )

    def close(self) -> None:
        """Close the roster."""
        self._store.close()

    def __enter__(self) -> Self:
        """Return the open roster."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _fits(self, found: tuple[Any, ...] | None, secret: str) -> bool:
        """Return whether a secret is the invitation's; takes the same steps where there is none."""
        known, expires = found or (_NOBODY, math.inf)
        right = hmac.compare_digest(known, _hash(secret))
        return right and found is not None and self._clock().timestamp() < expires

    def _enrol(
        self, name: str, *, identity_key: str, node_key: str, certificate: str, not_after: float, now: float
    ) -> int:
        """Write the member's row and return its number; a site that comes back keeps its row."""
        present = self._store.one("SELECT number FROM members WHERE name = ? AND revoked IS NULL", name)
        if present is not None:
            self._store.execute(
                "UPDATE members SET node_key = ?, certificate = ?, not_after = ? WHERE number = ?",
                (node_key, certificate, not_after, *present),
            )
            return int(present[0])
        cursor = self._store.execute(
            "INSERT INTO members (name, identity_key, node_key, certificate, not_after, enrolled) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (name, identity_key, node_key, certificate, not_after, now),
        )
        return int(cursor.lastrowid or 0)

    def _certify(self, number: int, certificate: str, not_after: datetime) -> None:
        self._store.execute("INSERT INTO certificates VALUES (?, ?, ?)", (certificate, number, not_after.timestamp()))


def _check_name(name: str) -> None:
    if not SITE_NAME.fullmatch(name):
        raise InputError(f"The site's name is {name!r}.", remedy="Use up to 63 lower-case letters, digits and hyphens.")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def plain_node_key(pem: str) -> str:
    """Return a node key in the one form that is compared.

    Raises:
        WireError: If it is no EC P-384 public key.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise WireError("The node key is malformed.", remedy="Both ends must run the same Cloister.") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise WireError("The node key is not on P-384.", remedy="Both ends must run the same Cloister.")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _member(row: tuple[Any, ...]) -> Member:
    name, identity_key, node_key, certificate, not_after, enrolled, revoked, seen = row
    return Member(
        name=name,
        identity_key=identity_key,
        node_key=node_key,
        certificate=certificate,
        not_after=_moment(not_after),
        enrolled=_moment(enrolled),
        revoked=None if revoked is None else _moment(revoked),
        seen=None if seen is None else _moment(seen),
    )
