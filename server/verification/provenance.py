"""What a release says of where it comes from, read strictly: a forger writes it too."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from protocol.errors import ReleaseError
from protocol.terms import SITE_NAME
from server.release import LIBRARIES

_HEX = re.compile(r"[0-9a-f]{64}")
_DEVICE = re.compile(r"[a-z]+(:[0-9]+)?")
_FETCH = "Fetch the release again from whoever made it."
_FIELDS = frozenset(
    ("version", "study", "run", "code", "simulated", "rounds", "unfinished_rounds", "seconds", "device", "versions",
     "sites")
)  # fmt: skip
_ORIGIN = frozenset(("public", "public_start"))
_SITE_FIELDS = frozenset(("public_key", "contributions", "last_ledger_entry"))


@dataclass(frozen=True, kw_only=True)
class Participant:
    """What a release says of one site.

    Attributes:
        public_key: The site's Ed25519 public key, 64 hexadecimal digits.
        contributions: Rounds of which its contribution was added up.
        last_entry: Hash of the ledger entry that paid for the last of them; None where nothing is charged.
    """

    public_key: str
    contributions: int
    last_entry: str | None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a release says it comes from.

    Attributes:
        run: Identifier of the run, 64 hexadecimal digits.
        study: The study's hash.
        code: Fingerprint of the coordinator's code.
        simulated: Whether sites and ledgers were simulated.
        rounds: Rounds that sites were asked for.
        unfinished: How many of these gave no sum.
        sites: By name.
        versions: Of Cloister and of libraries, at the coordinator.
    """

    run: str
    study: str
    code: str
    simulated: bool
    rounds: int
    unfinished: int
    sites: Mapping[str, Participant]
    versions: Mapping[str, str]

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Read what a release holds.

        Raises:
            ReleaseError: If a field is missing, unknown or of another form.
        """
        # What the study says of public records and starts is held against it by `server.verification.origin`.
        _check_fields(mapping, _FIELDS | (_ORIGIN & set(mapping)), "The provenance")
        sites, versions = mapping["sites"], mapping["versions"]
        if not isinstance(sites, Mapping) or not sites or not isinstance(versions, Mapping):
            raise ReleaseError("The provenance names no sites or no versions.", remedy=_FETCH)
        _check_fields(versions, frozenset(("cloister", *LIBRARIES)), "The provenance's versions")
        simulated = mapping["simulated"]
        if not isinstance(simulated, bool):
            raise ReleaseError(f"The provenance's simulated is {simulated!r}.", remedy=_FETCH)
        _check_circumstances(mapping)
        return cls(
            run=_hex(mapping, "run"),
            study=_hex(mapping, "study"),
            code=_hex(mapping, "code"),
            simulated=simulated,
            rounds=_count(mapping, "rounds"),
            unfinished=_count(mapping, "unfinished_rounds"),
            sites={str(name): _participant(str(name), facts) for name, facts in sites.items()},
            versions={str(name): str(number) for name, number in versions.items()},
        )

    @property
    def finished(self) -> int:
        """Rounds that gave a sum."""
        return self.rounds - self.unfinished


def _check_fields(mapping: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    """Refuse a field that is missing, and one that a reader might take for something that was checked."""
    odd = sorted(set(mapping) ^ known)
    if odd:
        problem = "lacks" if odd[0] in known else "has an unknown field"
        raise ReleaseError(f"{what} {problem} {odd[0]!r}.", remedy=_FETCH)


def _check_circumstances(mapping: Mapping[str, Any]) -> None:
    """Refuse a time or a device that is none; nothing rests on either."""
    seconds, device = mapping["seconds"], mapping["device"]
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
        raise ReleaseError(f"The provenance's seconds is {seconds!r}, no time.", remedy=_FETCH)
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise ReleaseError(f"The provenance's device is {device!r}.", remedy=_FETCH)


def _participant(name: str, facts: object) -> Participant:
    if not SITE_NAME.fullmatch(name) or not isinstance(facts, Mapping):
        raise ReleaseError(f"The provenance's site {name!r} is malformed.", remedy=_FETCH)
    _check_fields(facts, _SITE_FIELDS, f"The provenance's site {name!r}")
    last = None if facts.get("last_ledger_entry") is None else _hex(facts, "last_ledger_entry")
    return Participant(
        public_key=_hex(facts, "public_key"), contributions=_count(facts, "contributions"), last_entry=last
    )


def _hex(mapping: Mapping[str, Any], name: str) -> str:
    value = mapping.get(name)
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ReleaseError(f"The provenance's {name} is {value!r}, not 64 hexadecimal digits.", remedy=_FETCH)
    return value


def _count(mapping: Mapping[str, Any], name: str) -> int:
    value = mapping.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ReleaseError(f"The provenance's {name} is {value!r}, no number of rounds.", remedy=_FETCH)
    return value
