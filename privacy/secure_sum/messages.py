"""What travels in a secure sum: frozen messages with one plain form, decoded by a closed table.

Each has a flat form of text and whole numbers (`SumMessage.to_mapping`) for whatever transport carries it; the masked
vector travels beside it as uint32. Whatever a site sends is signed with its identity over the message's type, all its
fields and the hash of its vector. What the coordinator sends is not signed, because nothing rests on it: sites check
every part themselves.

======================== ========================================== ==================================
when                     coordinator to site                        site to coordinator
======================== ========================================== ==================================
once per run             (asks)                                     `KeyOffer`
once per run             `OfferList`                                `Preparation` of the first round
every round, exchange 1  `RoundStart`, and the model                `MaskedInput`
every round, exchange 2  `UnmaskRequest`                            `Reveal`
where sites dropped out  `SurvivorList`, before the `UnmaskRequest` `SurvivorSignature`
site was away            (asks for a round)                         `Preparation` of that round
======================== ========================================== ==================================
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeVar, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from protocol.digest import canonical_json, digest
from protocol.errors import WireError

SUM_WIRE_VERSION = 1
MOST_ROUNDS = 1_000_000
_UNSIGNED = "0" * 128
_MOST_ENTRIES = 100
_REMEDY = "Both ends must run the same Cloister."
_HASH = re.compile(r"[0-9a-f]{64}")
_TEXT = {
    **dict.fromkeys(
        ("run", "study", "code", "cohort", "sealing_key", "agreement", "mask_key", "commitment",
         "shares_hash", "context", "list_hash", "model"), _HASH),
    "site": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "signature": re.compile(r"[0-9a-f]{128}"),
    "share": re.compile(r"([0-9a-f]{2}){1,96}"),
    "shares": re.compile(r"([0-9a-f]{2}){1,10000}"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SumMessage:
    """What all messages have in common."""

    def __post_init__(self) -> None:
        for part in fields(self):
            _check(type(self).__name__, part.name, getattr(self, part.name), repeated=_is_tuple(part.type))

    def to_mapping(self) -> dict[str, str | int]:
        """Return version, type and every field but the vector; what is nested, as canonical JSON text."""
        plain = self._plain()
        flat: dict[str, str | int] = {"version": SUM_WIRE_VERSION, "type": type(self).__name__}
        for name, value in plain.items():
            flat[name] = value if isinstance(value, str | int) else canonical_json(value).decode()
        return flat

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object], *, vector: NDArray[np.uint32] | None = None) -> Self:
        """Read what `to_mapping` wrote.

        Args:
            mapping: The flat form.
            vector: uint32 [d] for a `MaskedInput`, None for all others.

        Raises:
            WireError: If anything is missing, unknown, malformed, of another type or another version.
        """
        values = dict(mapping)
        version, kind = values.pop("version", None), values.pop("type", None)
        if version != SUM_WIRE_VERSION or isinstance(version, bool) or kind != cls.__name__:
            raise WireError(f"Expected version {SUM_WIRE_VERSION} of {cls.__name__}.", remedy=_REMEDY)
        for part in fields(cls):
            if part.type not in (str, int) and part.name != "vector":
                values[part.name] = _parsed(cls.__name__, part.name, values.get(part.name))
        return cls._from_plain(values, vector)

    def signed_bytes(self) -> bytes:
        """Return what a site signs: type and all fields but the signature, the vector by its hash."""
        plain = {name: value for name, value in self._plain().items() if name != "signature"}
        vector = getattr(self, "vector", None)
        if vector is not None:
            plain["vector"] = words_hash(vector)
        return b"cloister secure sum v1\0" + canonical_json({"type": type(self).__name__, **plain})

    def hash(self) -> str:
        """Return the SHA-256 of what would be signed, 64 hexadecimal digits."""
        return hashlib.sha256(self.signed_bytes()).hexdigest()

    def _plain(self) -> dict[str, Any]:
        return {part.name: _plain(getattr(self, part.name)) for part in fields(self) if part.name != "vector"}

    @classmethod
    def _from_plain(cls, values: Mapping[str, Any], vector: NDArray[np.uint32] | None = None) -> Self:
        names = {part.name for part in fields(cls)}
        if set(values) != names - {"vector"} or ("vector" in names) != (vector is not None):
            raise WireError(f"{cls.__name__} has fields that are missing or unknown.", remedy=_REMEDY)
        built: dict[str, Any] = {} if vector is None else {"vector": vector}
        for part in fields(cls):
            if part.name != "vector":
                built[part.name] = _built(cls.__name__, part.name, part.type, values[part.name])
        return cls(**built)


@dataclass(frozen=True, kw_only=True)
class KeyOffer(SumMessage):
    """Site: my fresh key for sealed shares, for this run, cohort, study and code and no other."""

    run: str
    study: str
    code: str
    cohort: str
    site: str
    sealing_key: str
    signature: str = _UNSIGNED


@dataclass(frozen=True, kw_only=True)
class OfferList(SumMessage):
    """Coordinator: everybody's offers."""

    offers: tuple[KeyOffer, ...]


@dataclass(frozen=True, kw_only=True)
class RoundKey(SumMessage):
    """Site: my public mask key of one round, a commitment to my seed, and a hash of my sealed shares."""

    agreement: str
    round: int
    site: str
    mask_key: str
    commitment: str
    shares_hash: str
    signature: str = _UNSIGNED


@dataclass(frozen=True, kw_only=True)
class Preparation(SumMessage):
    """Site: a round key, and for each peer in the order of names a sealed share of both secrets."""

    key: RoundKey
    shares: str


@dataclass(frozen=True, kw_only=True)
class RoundStart(SumMessage):
    """Coordinator: the round begins with these sites and their keys."""

    agreement: str
    round: int
    keys: tuple[RoundKey, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedInput(SumMessage):
    """Site: my masked vector, uint32 [d], and my preparation of the next round."""

    agreement: str
    round: int
    site: str
    context: str
    following: Preparation
    vector: NDArray[np.uint32] = field(repr=False)
    signature: str = _UNSIGNED


@dataclass(frozen=True, kw_only=True)
class SurvivorList(SumMessage):
    """Coordinator: whose masked vectors count in this round, and whose do not."""

    agreement: str
    round: int
    context: str
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SurvivorSignature(SumMessage):
    """Site: this is my one survivor list of this round."""

    agreement: str
    round: int
    site: str
    list_hash: str
    signature: str = _UNSIGNED


@dataclass(frozen=True, kw_only=True)
class ShareOf(SumMessage):
    """One share, sealed or opened, and whose secret it is a share of."""

    site: str
    share: str


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest(SumMessage):
    """Coordinator: the survivor list, who signed it, and the shares that peers sealed for the receiver."""

    listed: SurvivorList
    sealed: tuple[ShareOf, ...]
    signatures: tuple[SurvivorSignature, ...]


@dataclass(frozen=True, kw_only=True)
class Reveal(SumMessage):
    """Site: my share of each survivor's seed and of each dropped site's mask key."""

    agreement: str
    round: int
    site: str
    list_hash: str
    shares: tuple[ShareOf, ...]
    signature: str = _UNSIGNED


Signed = TypeVar("Signed", KeyOffer, RoundKey, MaskedInput, SurvivorSignature, Reveal)

_NESTED: dict[object, type[SumMessage]] = {
    tuple[KeyOffer, ...]: KeyOffer,
    tuple[RoundKey, ...]: RoundKey,
    tuple[ShareOf, ...]: ShareOf,
    tuple[SurvivorSignature, ...]: SurvivorSignature,
    RoundKey: RoundKey,
    Preparation: Preparation,
    SurvivorList: SurvivorList,
}


def sign(message: Signed, identity: Ed25519PrivateKey) -> Signed:
    """Return the same message with the site's signature."""
    values: dict[str, Any] = {part.name: getattr(message, part.name) for part in fields(message)}
    return type(message)(**{**values, "signature": identity.sign(message.signed_bytes()).hex()})


def words_hash(words: NDArray[np.uint32]) -> str:
    """Return the SHA-256 of words as little-endian bytes, 64 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(words, dtype="<u4").data).hexdigest()


def agreement_of(offers: tuple[KeyOffer, ...]) -> str:
    """Return the transcript hash of the key agreement: of all offers, in the order of names."""
    return digest({"agreement": [offer._plain() for offer in sorted(offers, key=lambda offer: offer.site)]})


def round_context(start: RoundStart, *, model: str) -> str:
    """Return what a round's masks are bound to: agreement, round, keys, and the model received.

    Sites that were told different keys, or sent different models, derive masks that do not cancel.
    """
    keys = [key._plain() for key in start.keys]
    return digest({"agreement": start.agreement, "round": start.round, "keys": keys, "model": model})


def _is_tuple(kind: object) -> bool:
    return str(kind).startswith("tuple[")


def _plain(value: object) -> Any:
    if isinstance(value, SumMessage):
        return value._plain()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _check(owner: str, name: str, value: object, *, repeated: bool) -> None:
    """Check one field; nested messages were checked when they were made."""
    if name == "vector":
        good = isinstance(value, np.ndarray) and value.dtype == np.uint32 and value.ndim == 1
    elif name == "round":
        good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_ROUNDS
    elif repeated:
        entries = cast(tuple[object, ...], value)
        names = [item for item in entries if isinstance(item, str)]
        good = len(entries) <= _MOST_ENTRIES and all(_TEXT["site"].fullmatch(item) for item in names)
    elif isinstance(value, SumMessage):
        good = True
    else:
        good = isinstance(value, str) and _TEXT[name].fullmatch(value) is not None
    if not good:
        raise WireError(f"{owner}.{name} is malformed.", remedy=_REMEDY)


def _parsed(owner: str, name: str, text: object) -> object:
    if not isinstance(text, str):
        raise WireError(f"{owner}.{name} is missing or no text.", remedy=_REMEDY)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{owner}.{name} is not JSON.", remedy=_REMEDY) from error


def _built(owner: str, name: str, kind: object, value: object) -> object:
    """Build a field from its plain form."""
    nested = _NESTED.get(kind)
    if not _is_tuple(kind):
        if nested is None:
            return value
        if not isinstance(value, dict):
            raise WireError(f"{owner}.{name} is malformed.", remedy=_REMEDY)
        return nested._from_plain(value)
    expected = str if nested is None else dict
    if not isinstance(value, list) or len(value) > _MOST_ENTRIES:
        raise WireError(f"{owner}.{name} is malformed.", remedy=_REMEDY)
    if not all(isinstance(item, expected) for item in value):
        raise WireError(f"{owner}.{name} is malformed.", remedy=_REMEDY)
    return tuple(value if nested is None else [nested._from_plain(item) for item in value])
