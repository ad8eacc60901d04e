"""Everything that travels between coordinator and site: six frozen messages, decoded by a closed table.

On the wire a message is a Flower ``RecordDict`` with one ``ConfigRecord`` named ``header`` and, where it
carries numbers, one ``ArrayRecord`` named ``vector`` that holds one one-dimensional array. Nothing else is
sent or accepted.
"""

import hashlib
import io
import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TypeVar, overload

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from protocol.digest import canonical_json
from protocol.errors import WireError
from protocol.terms import SITE_NAME, ContributionKind

WIRE_VERSION = 3
_HEX = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_MOST_COORDINATES = 2**28
_STORED_AS = "numpy.ndarray"
NO_ENTRY = "0" * 64
"""The ledger entry of a contribution that promises nothing, and so was not charged."""
_REMEDY = "Both ends must run the same Cloister."
_INTRODUCED_AS = b"cloister introduction v1\0"
_CONTRIBUTED_AS = b"cloister contribution v1\0"


class RefusalReason(StrEnum):
    """Why a site sent nothing. The words are all that leaves the site; details are in its own log."""

    NOT_APPROVED = "the site has not approved this study"
    CODE = "the site runs other code than the coordinator"
    BUDGET = "a ceiling of the site or of the study would be passed"
    LEDGER = "the site's ledger cannot take the entry"
    RECORDS = "the site's records do not fit the schema"
    WIRE = "the request is malformed"
    INTERNAL = "the site failed; its own log says why"


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Coordinator to site: who are you, and do you know this study?

    Attributes:
        study: Hash of the study.
        code: Fingerprint of the coordinator's Cloister.
        challenge: 64 hexadecimal digits, fresh in every hello: an introduction that was overheard is worth nothing.
    """

    study: str
    code: str
    challenge: str


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """Site to coordinator: the site's name and public key; it has approved the study.

    Attributes:
        study: Hash of the study.
        code: Fingerprint of the site's Cloister.
        site: The site's name.
        public_key: Ed25519 public key, 64 hexadecimal digits.
        signature: Ed25519 signature of :meth:`signed_bytes`, 128 hexadecimal digits: whoever introduces a site has its
            key.
    """

    study: str
    code: str
    site: str
    public_key: str
    signature: str

    def signed_bytes(self, challenge: str) -> bytes:
        """Return what the site signs: every field but the signature, and the challenge that it answers.

        Args:
            challenge: Of the hello, 64 hexadecimal digits.
        """
        header = {name: value for name, value in _header(self).items() if name != "signature"}
        return _INTRODUCED_AS + canonical_json(header | {"challenge": challenge})


@dataclass(frozen=True, kw_only=True)
class RoundRequest:
    """Coordinator to site: contribute to this round.

    Attributes:
        study: Hash of the study.
        run: Identifier of the run, 64 hexadecimal digits.
        round: Number of the round, from 1.
        kind: What is asked for.
        warrant: The coordinator's signature over study and run (see `protocol.warrant`), 128 hexadecimal digits;
            `NO_WARRANT` where the study names no coordinator.
        vector: float32 ``[d]``, the weights of the shared part of the model.
    """

    study: str
    run: str
    round: int
    kind: ContributionKind
    warrant: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """Site to coordinator: the bounded, noised and signed vector.

    Attributes:
        study: Hash of the study.
        run: Identifier of the run.
        round: Number of the round.
        kind: What was asked for.
        site: The site's name.
        model: SHA-256 of the weights that the site received.
        entry: Hash of the ledger entry that paid for this; `NO_ENTRY` where nothing is promised.
        signature: Ed25519 signature of :meth:`signed_bytes`, 128 hexadecimal digits.
        vector: int32 ``[d]``, in grid steps.
    """

    study: str
    run: str
    round: int
    kind: ContributionKind
    site: str
    model: str
    entry: str
    signature: str
    vector: NDArray[np.int32]

    def signed_bytes(self) -> bytes:
        """Return what the site signs: every header field but the signature, and the hash of the vector."""
        header = {name: value for name, value in _header(self).items() if name != "signature"}
        return _CONTRIBUTED_AS + canonical_json(header | {"vector": vector_hash(self.vector)})


@dataclass(frozen=True, kw_only=True)
class SumTurn:
    """Either way: one turn of a secure sum, whose own message rides beside this one.

    Attributes:
        study: Hash of the study.
        run: Identifier of the run.
        warrant: As in `RoundRequest`; `NO_WARRANT` in what a site sends.
        round: The round that a site is asked to prepare, where nothing rides beside; 1 otherwise.
    """

    study: str
    run: str
    warrant: str
    round: int = 1


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Site to coordinator: nothing, and the kind of reason.

    Attributes:
        reason: One of a closed set of words.
    """

    reason: RefusalReason


WireMessage = Hello | Introduction | RoundRequest | Contribution | SumTurn | Refusal
_First = TypeVar("_First", bound=WireMessage)
_Second = TypeVar("_Second", bound=WireMessage)
_Third = TypeVar("_Third", bound=WireMessage)

_TYPES: dict[str, type[Any]] = {
    "hello": Hello,
    "introduction": Introduction,
    "round-request": RoundRequest,
    "contribution": Contribution,
    "sum-turn": SumTurn,
    "refusal": Refusal,
}
_WORDS = {kind: word for word, kind in _TYPES.items()}
_VECTOR_TYPES: dict[type[Any], np.dtype[Any]] = {
    RoundRequest: np.dtype("<f4"),
    Contribution: np.dtype("<i4"),
}
_WORD_LISTS: dict[str, type[ContributionKind] | type[RefusalReason]] = {
    "kind": ContributionKind,
    "reason": RefusalReason,
}
_PATTERNS = {
    **dict.fromkeys(("study", "code", "challenge", "run", "model", "entry", "public_key"), _HEX),
    "site": SITE_NAME,
    **dict.fromkeys(("signature", "warrant"), _SIGNATURE),
}


def vector_hash(vector: NDArray[Any]) -> str:
    """Return the SHA-256 of a vector's little-endian bytes, 64 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<")).tobytes()).hexdigest()


def encode(message: WireMessage) -> RecordDict:
    """Return the wire form of a message."""
    record = RecordDict({"header": ConfigRecord({**_header(message)})})
    if isinstance(message, RoundRequest | Contribution):
        record["vector"] = ArrayRecord({"vector": Array(np.ascontiguousarray(message.vector))})
    return record


@overload
def decode(record: RecordDict, first: type[_First], /) -> _First: ...


@overload
def decode(record: RecordDict, first: type[_First], second: type[_Second], /) -> _First | _Second: ...


@overload
def decode(
    record: RecordDict, first: type[_First], second: type[_Second], third: type[_Third], /
) -> _First | _Second | _Third: ...


def decode(record: RecordDict, /, *kinds: type[Any]) -> WireMessage:
    """Read a message of one of the expected types.

    Args:
        record: The wire form.
        *kinds: The types that are expected here.

    Returns:
        The message, every field checked.

    Raises:
        WireError: If anything is missing, unknown, of the wrong type or out of bounds.
    """
    header = record.config_records.get("header")
    if header is None:
        raise WireError("A message has no header.", remedy=_REMEDY)
    values = dict(header)
    version = values.pop("version", None)
    if version != WIRE_VERSION or type(version) is not int:
        raise WireError(f"A message is not of version {WIRE_VERSION}.", remedy=_REMEDY)
    kind = _TYPES.get(str(values.pop("type", None)))
    if kind is None or kind not in kinds:
        raise WireError(f"Expected {' or '.join(_WORDS[k] for k in kinds)}.", remedy=_REMEDY)
    names = {field.name for field in fields(kind)}
    parts = {"header", "vector"} if "vector" in names else {"header"}
    if set(record) != parts or set(values) != names - {"vector"}:
        raise WireError(f"A {_WORDS[kind]} has fields that are missing or unknown.", remedy=_REMEDY)
    checked: dict[str, Any] = {name: _check(name, value) for name, value in values.items()}
    if "vector" in names:
        checked["vector"] = _vector(record, _VECTOR_TYPES[kind])
    message: WireMessage = kind(**checked)
    return message


def _header(message: WireMessage) -> dict[str, str | int]:
    """Return version, type and every field but the vector."""
    values: dict[str, str | int] = {"version": WIRE_VERSION, "type": _WORDS[type(message)]}
    for field in fields(message):
        if field.name != "vector":
            value = getattr(message, field.name)
            values[field.name] = value if isinstance(value, int) else str(value)
    return values


def _check(name: str, value: object) -> object:
    """Check one header field."""
    if name == "round":
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
            raise WireError("A message's round is out of bounds.", remedy=_REMEDY)
        return value
    words = _WORD_LISTS.get(name)
    if words is not None:
        if not isinstance(value, str) or value not in list(words):
            raise WireError(f"A message's {name} is unknown.", remedy=_REMEDY)
        return words(value)
    if not isinstance(value, str) or not _PATTERNS[name].fullmatch(value):
        raise WireError(f"A message's {name} is malformed.", remedy=_REMEDY)
    return value


def _vector(record: RecordDict, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read the one array, in the one form that `encode` writes.

    Nothing is parsed or unpickled: a header that promises more than the message holds cannot make anybody
    allocate it.
    """
    arrays = record.array_records.get("vector")
    if arrays is None or set(arrays) != {"vector"}:
        raise WireError("A message has no vector.", remedy=_REMEDY)
    array = arrays["vector"]
    shape = tuple(array.shape)
    if array.stype != _STORED_AS or array.dtype != dtype.name or len(shape) != 1:
        # Without the sender's words: they would reach logs and terminals.
        raise WireError(f"A message's vector is no one-dimensional {dtype.name}.", remedy=_REMEDY)
    if not 1 <= shape[0] <= _MOST_COORDINATES:
        raise WireError(f"A message's vector has {shape[0]} coordinates.", remedy=_REMEDY)
    start = _array_header(dtype, shape[0])
    if len(array.data) != len(start) + dtype.itemsize * shape[0] or not array.data.startswith(start):
        raise WireError("A message's vector is not what it says.", remedy=_REMEDY)
    return np.frombuffer(array.data, dtype=dtype, offset=len(start))


def _array_header(dtype: np.dtype[Any], size: int) -> bytes:
    """Return what numpy's file format puts before the numbers of a vector."""
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def is_finite(request: RoundRequest) -> bool:
    """Return whether every weight of a request is a finite number."""
    return bool(np.isfinite(request.vector).all())
