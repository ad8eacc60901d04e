"""A site's consent to one study, and its withdrawal: who decided what and when, under the site's own signature.

A consent holds the whole study, the coordinator's signature of it, the fingerprint of the code that was installed and
the ceilings of that day. It is stored in the one canonical form, so that a changed byte is a changed consent.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.ceiling import Ceiling
from protocol.digest import canonical_json
from protocol.errors import ApprovalError, CloisterError
from protocol.fingerprint import VERSION, code_fingerprint
from protocol.keys import public_hex, replace_private
from protocol.signed_study import SignedStudy
from protocol.study import Study
from protocol.terms import SITE_NAME, Relation

CONSENT_VERSION = 1
_CONSENTED = b"cloister consent v1\0"
_WITHDREW = b"cloister withdrawal v1\0"
_UNSIGNED = "0" * 128
_KEY = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_MOST_TEXT = 256
_FIELDS = frozenset({"version", "study", "signed_study", "code", "code_version", "by", "at", "site", "key", "ceilings"})
_TEXTS = ("code", "code_version", "by", "at", "site", "key", "signature")
_WITHDRAWAL_FIELDS = frozenset({"version", "consent", "by", "at"})
_REMEDY = "Read the study and approve it anew with `cloister site approve`, or put the file back as it was."


@dataclass(frozen=True, kw_only=True)
class Consent:
    """A site's yes to a study.

    Attributes:
        study: The study.
        signed_study: The study under the coordinator's signature; None for one that nobody signed, as in simulations.
        code: Fingerprint of the code that was installed: the consent is to this code and no other.
        code_version: Its version, for people.
        by: Who approved, as they called themselves.
        at: When, ISO 8601 with time zone. For people only.
        site: The site's name.
        key: The site's Ed25519 public key, 64 hexadecimal digits.
        ceilings: The policy's ceilings of that day, for people: what counts is the policy of the day of a request.
        signature: The site's Ed25519 signature of all of the above, 128 hexadecimal digits.

    Raises:
        ApprovalError: If a field is malformed.
    """

    study: Study
    signed_study: SignedStudy | None
    code: str
    code_version: str
    by: str
    at: str
    site: str
    key: str
    ceilings: tuple[Ceiling, ...]
    signature: str

    def __post_init__(self) -> None:
        """Refuse fields that no consent has."""
        _check_person(self.by, self.at)
        fits = (
            ("code", _KEY.fullmatch(self.code)),
            ("key", _KEY.fullmatch(self.key)),
            ("site", SITE_NAME.fullmatch(self.site)),
            ("signature", _SIGNATURE.fullmatch(self.signature)),
            ("signed_study", self.signed_study is None or self.signed_study.study == self.study),
        )
        for name, fit in fits:
            if not fit:
                raise ApprovalError(f"A consent's {name} is {getattr(self, name)!r}.", remedy=_REMEDY)

    @property
    def coordinator(self) -> str | None:
        """Public key of the coordinator that signed the study; None where nobody did."""
        return None if self.signed_study is None else self.signed_study.coordinator

    @cached_property
    def text(self) -> str:
        """The form that is stored: canonical JSON."""
        return canonical_json(self._signed_mapping() | {"signature": self.signature}).decode()

    def _signed_mapping(self) -> dict[str, Any]:
        signed = self.signed_study
        return {
            "version": CONSENT_VERSION,
            "study": json.loads(self.study.text) if signed is None else None,
            "signed_study": None if signed is None else json.loads(signed.to_text()),
            "code": self.code,
            "code_version": self.code_version,
            "by": self.by,
            "at": self.at,
            "site": self.site,
            "key": self.key,
            "ceilings": [_ceiling_mapping(ceiling) for ceiling in self.ceilings],
        }

    @property
    def signed_bytes(self) -> bytes:
        """What the site signs."""
        return _CONSENTED + canonical_json(self._signed_mapping())

    def verify(self, key: Ed25519PublicKey) -> None:
        """Refuse a consent that is not this site's, or was changed, or whose study its coordinator did not sign.

        Args:
            key: The site's public key.

        Raises:
            ApprovalError: Saying which.
        """
        _check_signature(self.signed_bytes, self.signature, claimed=self.key, key=key, what="consent")
        if self.signed_study is not None:
            self.signed_study.verify(self.signed_study.coordinator)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a consent; nothing is verified yet.

        Raises:
            ApprovalError: If it is none, or not in its canonical form.
        """
        values = _mapping(text, _FIELDS | {"signature"}, what="consent")
        try:
            signed = values["signed_study"]
            signed_study = None if signed is None else SignedStudy.from_text(canonical_json(signed).decode())
            study = Study.from_mapping(values["study"]) if signed_study is None else signed_study.study
            read = cls(
                study=study,
                signed_study=signed_study,
                ceilings=tuple(_ceiling(ceiling) for ceiling in values["ceilings"]),
                **{name: str(values[name]) for name in _TEXTS},
            )
        except (CloisterError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise ApprovalError(f"The consent cannot be read: {error}", remedy=_REMEDY) from error
        if read.text != text:
            raise ApprovalError("The consent was changed: it is not in its canonical form.", remedy=_REMEDY)
        return read

    def write(self, folder: Path) -> Path:
        """Write it down durably as ``HASH.json``, in the place of an earlier consent to the study.

        Raises:
            InputError: If it cannot be written.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{self.study.hash}.json"
        replace_private(path, self.text.encode())
        return path


@dataclass(frozen=True, kw_only=True)
class Withdrawal:
    """The end of a consent, which stays void for good; the study can only be approved anew.

    Attributes:
        consent: What is withdrawn.
        by: Who withdrew it, as they called themselves.
        at: When, ISO 8601 with time zone. For people only.
        signature: The site's Ed25519 signature of all of the above, 128 hexadecimal digits.
    """

    consent: Consent
    by: str
    at: str
    signature: str

    def __post_init__(self) -> None:
        """Refuse fields that no withdrawal has."""
        _check_person(self.by, self.at)
        if not _SIGNATURE.fullmatch(self.signature):
            raise ApprovalError("A withdrawal's signature is malformed.", remedy=_REMEDY)

    @cached_property
    def text(self) -> str:
        """The form that is stored: canonical JSON."""
        return canonical_json(self._signed_mapping() | {"signature": self.signature}).decode()

    def _signed_mapping(self) -> dict[str, Any]:
        consent = json.loads(self.consent.text)
        return {"version": CONSENT_VERSION, "consent": consent, "by": self.by, "at": self.at}

    @classmethod
    def sign(cls, consent: Consent, *, key: Ed25519PrivateKey, by: str, at: datetime | None = None) -> Self:
        """Withdraw a consent, in memory.

        Args:
            consent: Which.
            key: The site's.
            by: Who withdraws it.
            at: When; now by default.

        Raises:
            ApprovalError: If ``by`` is no line of text.
        """
        draft = cls(consent=consent, by=by, at=_time(at), signature=_UNSIGNED)
        return replace(draft, signature=key.sign(_WITHDREW + canonical_json(draft._signed_mapping())).hex())

    def verify(self, key: Ed25519PublicKey) -> None:
        """Refuse a withdrawal that is not this site's or was changed.

        Raises:
            ApprovalError: Saying which.
        """
        signed = _WITHDREW + canonical_json(self._signed_mapping())
        _check_signature(signed, self.signature, claimed=self.consent.key, key=key, what="withdrawal")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a withdrawal; nothing is verified yet.

        Raises:
            ApprovalError: If it is none, or not in its canonical form.
        """
        values = _mapping(text, _WITHDRAWAL_FIELDS | {"signature"}, what="withdrawal")
        consent = Consent.from_text(canonical_json(values["consent"]).decode())
        read = cls(consent=consent, **{name: str(values[name]) for name in ("by", "at", "signature")})
        if read.text != text:
            raise ApprovalError("The withdrawal was changed: it is not in its canonical form.", remedy=_REMEDY)
        return read

    def write(self, folder: Path) -> Path:
        """Write it down durably beside the consents, in the sub-folder ``withdrawn``, and take the consent away.

        A crash in between leaves both files, and a withdrawn consent counts for nothing wherever it lies.

        Raises:
            InputError: If it cannot be written.
        """
        (folder / "withdrawn").mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / "withdrawn" / f"{self.consent.study.hash[:16]}-{self.consent.signature[:16]}.json"
        replace_private(path, self.text.encode())
        (folder / f"{self.consent.study.hash}.json").unlink(missing_ok=True)
        return path


def consent_to(
    study: Study | SignedStudy,
    *,
    key: Ed25519PrivateKey,
    site: str,
    by: str,
    ceilings: Iterable[Ceiling],
    at: datetime | None = None,
) -> Consent:
    """Consent to a study with the code that is installed, in memory; see `Consent.write`.

    Args:
        study: The study; one that a coordinator signed stays under its signature.
        key: The site's.
        site: The site's name.
        by: Who approves it.
        ceilings: The policy's ceilings.
        at: When; now by default.

    Raises:
        ApprovalError: If ``by`` is no line of text, or ``site`` no name.
    """
    signed = study if isinstance(study, SignedStudy) else None
    draft = Consent(
        study=study.study if isinstance(study, SignedStudy) else study,
        signed_study=signed,
        code=code_fingerprint(),
        code_version=VERSION,
        by=by,
        at=_time(at),
        site=site,
        key=public_hex(key),
        ceilings=tuple(ceilings),
        signature=_UNSIGNED,
    )
    return replace(draft, signature=key.sign(draft.signed_bytes).hex())


def person() -> str:
    """Return what the operating system calls whoever runs this process."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or f"user {os.getuid()}"


def _time(at: datetime | None) -> str:
    return (at or datetime.now(UTC)).isoformat(timespec="microseconds")


def _check_person(by: str, at: str) -> None:
    if not 0 < len(by) <= _MOST_TEXT or not by.isprintable() or by != by.strip():
        raise ApprovalError(f"Who approves is called {by!r}.", remedy=f"Give a name of up to {_MOST_TEXT} characters.")
    try:
        zoned = datetime.fromisoformat(at).tzinfo is not None
    except ValueError as error:
        raise ApprovalError(f"The time of a consent is {at!r}.", remedy=_REMEDY) from error
    if not zoned:
        raise ApprovalError(f"The time of a consent is {at!r}, without time zone.", remedy=_REMEDY)


def _check_signature(signed: bytes, signature: str, *, claimed: str, key: Ed25519PublicKey, what: str) -> None:
    if claimed != public_hex(key):
        raise ApprovalError(f"The {what} names another site's key, {claimed[:16]}.", remedy=_REMEDY)
    try:
        key.verify(bytes.fromhex(signature), signed)
    except InvalidSignature as error:
        raise ApprovalError(f"The {what} was changed, or is not signed by this site's key.", remedy=_REMEDY) from error


def _mapping(text: str, known: frozenset[str], *, what: str) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApprovalError(f"The {what} is not JSON.", remedy=_REMEDY) from error
    if not isinstance(values, dict) or set(values) != known:
        raise ApprovalError(f"The {what} has fields that are missing or unknown.", remedy=_REMEDY)
    if type(values["version"]) is not int or values["version"] != CONSENT_VERSION:
        raise ApprovalError(f"The {what} is not of version {CONSENT_VERSION}.", remedy=_REMEDY)
    return values


def _ceiling_mapping(ceiling: Ceiling) -> dict[str, Any]:
    return {
        "epsilon": ceiling.epsilon,
        "delta": ceiling.delta,
        "relation": ceiling.relation.value,
        "days": ceiling.days,
    }


def _ceiling(mapping: Mapping[str, Any]) -> Ceiling:
    return Ceiling(**{**mapping, "relation": Relation(mapping["relation"])})
