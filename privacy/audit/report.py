"""The report of an audit: what was claimed, what was tried and what it showed, under the auditor's signature.

It is kept in one form alone, canonical JSON, so that every byte of the file is under the signature.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.audit.finding import Finding, Tier, Verdict
from protocol.digest import canonical_json
from protocol.errors import InputError
from protocol.fingerprint import VERSION
from protocol.keys import public_hex

REPORT_VERSION = 1
LIBRARIES = ("cryptography", "dp-accounting", "numpy", "scipy", "torch")
Setting = bool | int | float | str | None
_DOMAIN = b"cloister audit report v1\0"
_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_MOST_BYTES = 64_000_000
_FETCH = "Get the report again from whoever made it."
_GRAVEST_FIRST = (Verdict.VIOLATED, Verdict.NO_VERDICT, Verdict.UNDERPOWERED, Verdict.CONSISTENT)


@dataclass(frozen=True, kw_only=True)
class BrokenTwin:
    """What became of a twin that was broken on purpose.

    Attributes:
        name: What was wrong with it.
        caught_by: The tests or attacks that failed it, in words; none if it passed for honest.
        seconds: Wall-clock time of its audit.
        required: Whether a report that missed it has no verdict. A twin is not required where the number of canaries or
            records decides whether any attack can see it: attacks that do not are then underpowered, and say so.

    Raises:
        InputError: If a field is of the wrong type.
    """

    name: str
    caught_by: tuple[str, ...]
    seconds: float
    required: bool = True

    def __post_init__(self) -> None:
        _check_text("broken twin", self.name)
        _check_texts("caught_by", self.caught_by)
        object.__setattr__(self, "seconds", _duration(self.seconds))
        if not isinstance(self.required, bool):
            raise InputError(f"required is {self.required!r}.", remedy="Say true or false.")

    def to_mapping(self) -> dict[str, object]:
        """The twin as a JSON object."""
        values: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"caught_by": list(self.caught_by)}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Reads a twin as of `to_mapping`; raises InputError if it is none."""
        if not isinstance(mapping, Mapping) or set(mapping) != {field.name for field in fields(cls)}:
            raise InputError("A broken twin of the report has other fields than it should.", remedy=_FETCH)
        return cls(**{**mapping, "caught_by": _tuple(mapping["caught_by"])})


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """An audit, from claim to conclusion.

    Attributes:
        audit: What was looked at.
        subject: What was audited, by name.
        study: Hash of the study, 64 hexadecimal digits.
        release: SHA-256 of the release's list of checksums, where one was audited.
        claim: Headline of the statement that was put to the test.
        findings: One for each attack.
        demonstrations: The same attacks on settings of which nothing is claimed: what they can do. They say nothing
            about the subject, but one that could not be carried out counts.
        broken_twins: Twins that were broken on purpose, on which the attacks or tests of this very audit were made; one
            that is required and was not caught leaves no verdict.
        notes: What a reader must know besides, as sentences.
        real_records: Whether anything in it was computed from real records; it then has to stay where they are.
        picture: SHA-256 of the picture that goes with it, if any.
        code: Fingerprint of the code that was audited.
        versions: Of Cloister and of the libraries that computed.
        created: When it was made, UTC, such as 2026-01-31T12:00:00Z.
        seconds: Wall-clock time of the audit.
        settings: What the auditor chose.
        auditor: The auditor's Ed25519 public key, 64 hexadecimal digits; None before it is signed.
        signature: Of the report, 128 hexadecimal digits; None before it is signed.

    Raises:
        InputError: If a field is of the wrong type or form.
    """

    audit: Tier
    subject: str
    study: str
    release: str | None
    claim: str
    findings: tuple[Finding, ...]
    demonstrations: tuple[Finding, ...] = ()
    broken_twins: tuple[BrokenTwin, ...] = ()
    notes: tuple[str, ...] = ()
    real_records: bool
    picture: str | None = None
    code: str
    versions: Mapping[str, str]
    created: str
    seconds: float
    settings: Mapping[str, Setting]
    auditor: str | None = None
    signature: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.audit, Tier):
            raise InputError(f"audit is {self.audit!r}, no Tier.", remedy="Use privacy.audit.finding.Tier.")
        _check_text("subject", self.subject)
        _check_text("claim", self.claim)
        _check_texts("notes", self.notes)
        for name in ("study", "code"):
            _check_form(name, getattr(self, name), _HASH)
        for name, form in (("release", _HASH), ("picture", _HASH), ("auditor", _HASH), ("signature", _SIGNATURE)):
            if getattr(self, name) is not None:
                _check_form(name, getattr(self, name), form)
        if (self.auditor is None) != (self.signature is None):
            raise InputError("Only one of auditor and signature is given.", remedy="Use AuditReport.sign.")
        for name, kind in (("findings", Finding), ("demonstrations", Finding), ("broken_twins", BrokenTwin)):
            _check_members(name, getattr(self, name), kind)
        if not self.findings:
            raise InputError("The report has no finding.", remedy="Audit something.")
        if not isinstance(self.real_records, bool):
            raise InputError(f"real_records is {self.real_records!r}.", remedy="Say true or false.")
        _check_time(self.created)
        object.__setattr__(self, "seconds", _duration(self.seconds))
        _check_table("versions", self.versions, (str,))
        _check_table("settings", self.settings, (bool, int, float, str, type(None)))

    @property
    def verdict(self) -> Verdict:
        """The gravest of all findings; no verdict at best if a broken twin was missed or a demonstration failed."""
        found = {finding.verdict for finding in self.findings}
        failed = any(finding.verdict is Verdict.NO_VERDICT for finding in self.demonstrations)
        if self.missed or failed:
            found.add(Verdict.NO_VERDICT)
        return next(verdict for verdict in _GRAVEST_FIRST if verdict in found)

    @property
    def missed(self) -> tuple[str, ...]:
        """Names of the broken twins that had to be caught and were not."""
        return tuple(twin.name for twin in self.broken_twins if twin.required and not twin.caught_by)

    def sign(self, key: Ed25519PrivateKey) -> Self:
        """Return the report under a signature; Ed25519 always gives the same one.

        Args:
            key: The auditor's.
        """
        named = replace(self, auditor=public_hex(key), signature="0" * 128)
        return replace(named, signature=key.sign(named._signed()).hex())

    def verify(self, auditor: str | None = None) -> None:
        """Refuse a report that is not exactly what its auditor signed.

        Args:
            auditor: The auditor's public key as the reader knows it; None to take the word of the report for it.

        Raises:
            InputError: If it is unsigned, was changed, or another signed it.
        """
        if self.auditor is None or self.signature is None:
            raise InputError(f"The report on {self.subject!r} is not signed.", remedy="Ask the auditor to sign it.")
        if auditor is not None and self.auditor != auditor.lower():
            raise InputError(
                f"The report on {self.subject!r} is signed by {self.auditor[:16]}, not by {auditor[:16]}.",
                remedy="Ask whoever gave you the report whose key that is.",
            )
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.auditor))
            public.verify(bytes.fromhex(self.signature), self._signed())
        except (InvalidSignature, ValueError) as error:
            raise InputError(
                f"The report on {self.subject!r} was changed after it was signed.", remedy=_FETCH
            ) from error

    def write(self, path: Path) -> None:
        """Write a signed report; an existing file is never touched.

        Raises:
            InputError: If it is not signed, or the file exists or cannot be written.
        """
        self.verify()
        try:
            with path.open("xb") as file:
                file.write(self.to_bytes())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy="Choose a new file in a folder with room.") from error

    @classmethod
    def read(cls, path: Path, *, auditor: str | None = None) -> Self:
        """Read a report, and refuse one that was changed.

        Args:
            path: The file.
            auditor: As of :meth:`verify`.

        Raises:
            InputError: If the file cannot be read, is no report of this version, or a byte of it was changed.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy="Give the report.json of an audit.") from error
        found = cls.from_bytes(content, name=str(path))
        found.verify(auditor)
        return found

    def to_bytes(self) -> bytes:
        """The one form in which a report is kept."""
        return canonical_json(self.to_mapping()) + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes, *, name: str = "The report") -> Self:
        """Read a report's form; its signature is not verified yet.

        Args:
            content: As of :meth:`to_bytes`.
            name: What the report is called in errors.

        Raises:
            InputError: If it is malformed, of another version, or written in another form.
        """
        if len(content) > _MOST_BYTES:
            raise InputError(f"{name} has more than {_MOST_BYTES:,} bytes.", remedy="Give the report.json of an audit.")
        try:
            mapping = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name} is not JSON.", remedy="Give the report.json of an audit.") from error
        found = cls.from_mapping(mapping)
        # What reads alike but is written otherwise could show a person something else.
        if found.to_bytes() != content:
            raise InputError(f"{name} is not in its canonical form: it was changed.", remedy=_FETCH)
        return found

    def to_mapping(self) -> dict[str, object]:
        """The report as a JSON object with its version."""
        values: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("findings", "demonstrations", "broken_twins"):
            values[name] = [member.to_mapping() for member in getattr(self, name)]
        values |= {"audit": self.audit.value, "notes": list(self.notes)}
        values |= {"versions": dict(self.versions), "settings": dict(self.settings)}
        return {"version": REPORT_VERSION, "verdict": self.verdict.value, **values}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """Read a report: exactly the known fields of a known version.

        Raises:
            InputError: If the version, a field or a value is unknown.
        """
        stated = mapping.get("version") if isinstance(mapping, Mapping) else None
        if type(stated) is not int or stated != REPORT_VERSION:
            raise InputError(
                f"The report has version {stated!r}, not {REPORT_VERSION}.", remedy="Use the Cloister that made it."
            )
        wanted = {field.name for field in fields(cls)} | {"version", "verdict"}
        if set(mapping) != wanted:
            odd = sorted(set(mapping) ^ wanted)
            raise InputError(f"The report lacks, or has beyond what is known: {', '.join(odd)}.", remedy=_FETCH)
        values: dict[str, Any] = {name: mapping[name] for name in wanted - {"version", "verdict"}}
        for name, kind in (("findings", Finding), ("demonstrations", Finding), ("broken_twins", BrokenTwin)):
            values[name] = tuple(kind.from_mapping(member) for member in _tuple(values[name]))
        values["notes"] = _tuple(values["notes"])
        values["audit"] = next((tier for tier in Tier if tier.value == values["audit"]), values["audit"])
        found = cls(**values)
        if mapping["verdict"] != found.verdict.value:
            raise InputError(
                f"The report says {mapping['verdict']!r}, its findings {found.verdict.value!r}.", remedy=_FETCH
            )
        return found

    def _signed(self) -> bytes:
        """What the auditor signs; the label keeps it from meaning anything elsewhere."""
        return _DOMAIN + canonical_json({**self.to_mapping(), "signature": None})


def installed_versions() -> dict[str, str]:
    """Versions of Cloister and of the libraries that compute."""
    return {"cloister": VERSION} | {name: version(name) for name in LIBRARIES}


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} is {value!r}, no text.", remedy="Name it in words.")


def _check_texts(name: str, values: object) -> None:
    if not isinstance(values, tuple):
        raise InputError(f"{name} is no list of sentences.", remedy=_FETCH)
    for value in values:
        _check_text(name, value)


def _check_form(name: str, value: object, form: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise InputError(f"The report's {name} is malformed: {value!r}.", remedy=_FETCH)


def _check_members(name: str, values: object, kind: type) -> None:
    if not isinstance(values, tuple) or not all(isinstance(value, kind) for value in values):
        raise InputError(f"{name} is no tuple of {kind.__name__}.", remedy="Use the types of the report.")


def _check_table(name: str, values: object, kinds: tuple[type, ...]) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{name} is no table.", remedy=_FETCH)
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, kinds):
            raise InputError(f"{name} holds {key!r} = {value!r}.", remedy="Use plain texts and numbers.")


def _check_time(value: object) -> None:
    try:
        written = datetime.strptime(str(value), _TIME).strftime(_TIME)
    except ValueError:
        written = ""
    if written != value:
        raise InputError(f"created is {value!r}.", remedy="Give a UTC time such as 2026-01-31T12:00:00Z.")


def _duration(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < float("inf"):
        raise InputError(f"seconds is {value!r}.", remedy="Give a number of at least 0.")
    return float(value)


def _tuple(value: object) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"The report holds {type(value).__name__} where a list belongs.", remedy=_FETCH)
    return tuple(value)
