"""The entries of a ledger: what they say, their one byte form, hash and signature."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self, TypedDict

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.events import NoisyRelease
from protocol.digest import canonical_json
from protocol.errors import CloisterError, LedgerError

ENTRY_VERSION = 1
FIRST_PREVIOUS = "0" * 64
MOST_ROUNDS = 10**6
_MOST_TEXT = 256
_SIGNED_AS = b"cloister ledger entry v1\0"
DAMAGED = (
    "Release nothing from this data set: keep the file as evidence, and restore the newest intact copy that "
    "holds the entry named by the site's last statement."
)
UNFINISHED = (
    "If creating it was interrupted and nothing was ever released, remove the file and create it anew."
    f" Otherwise: {DAMAGED}"
)
_ASK = "Correct the call; nothing was charged."


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The first entry: whose ledger this is.

    Attributes:
        data_set: Name of the data set.
        public_key: The site's Ed25519 public key, as 64 hexadecimal digits.
        simulated: Whether the ledger belongs to a simulation and stands for nobody.
    """

    data_set: str
    public_key: str
    simulated: bool

    def __post_init__(self) -> None:
        _check_text("data_set", self.data_set)
        _check_hash("public_key", self.public_key)
        if not isinstance(self.simulated, bool):
            raise LedgerError(f"simulated is {self.simulated!r}, not a bool.", remedy=_ASK)

    def to_mapping(self) -> dict[str, object]:
        """The fields as JSON."""
        return {
            "kind": "opening",
            "data_set": self.data_set,
            "public_key": self.public_key,
            "simulated": self.simulated,
        }


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One round, or a reserved block of rounds, of one run.

    Attributes:
        study: SHA-256 of the study.
        run: Identifier of the run.
        first_round: First round, from 0.
        rounds: Number of rounds; 1 unless reserved.
        event: What one round releases.
        reserved: Whether the unused rest may be given back by a settlement.
        to_be_sealed: Whether what the round releases is sealed before it leaves: as long as no `Seal` names this
            charge, nothing of it has left. A charge that does not say so may have been released at any time.
    """

    study: str
    run: str
    first_round: int
    rounds: int
    event: NoisyRelease
    reserved: bool
    to_be_sealed: bool = False

    def __post_init__(self) -> None:
        _check_hash("study", self.study)
        _check_text("run", self.run)
        _check_integer("first_round", self.first_round, 0, 2**53)
        _check_integer("rounds", self.rounds, 1, MOST_ROUNDS)
        if not isinstance(self.event, NoisyRelease):
            raise LedgerError(f"{type(self.event).__name__} is not an event.", remedy=_ASK)
        if not isinstance(self.reserved, bool) or (self.rounds != 1 and not self.reserved):
            raise LedgerError(f"{self.rounds} rounds can only be reserved.", remedy=_ASK)
        if not isinstance(self.to_be_sealed, bool) or (self.reserved and self.to_be_sealed):
            raise LedgerError(f"to_be_sealed is {self.to_be_sealed!r} of a reservation.", remedy=_ASK)

    @property
    def compositions(self) -> int:
        """Number of compositions in all rounds."""
        return self.rounds * self.event.count

    def to_mapping(self) -> dict[str, object]:
        """The fields as JSON; entries of before seals existed keep their one byte form."""
        fields: dict[str, object] = {
            "kind": "reservation" if self.reserved else "charge",
            "study": self.study,
            "run": self.run,
            "first_round": self.first_round,
            "rounds": self.rounds,
            "event": self.event.to_mapping(),
        }
        return fields | {"to_be_sealed": True} if self.to_be_sealed else fields


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """Gives back the unused rest of a reservation.

    Attributes:
        reservation: Hash of the reservation's entry.
        used_rounds: How many rounds, from its first, are spent for good.
    """

    reservation: str
    used_rounds: int

    def __post_init__(self) -> None:
        _check_hash("reservation", self.reservation)
        _check_integer("used_rounds", self.used_rounds, 0, MOST_ROUNDS)

    def to_mapping(self) -> dict[str, object]:
        """The fields as JSON."""
        return {"kind": "settlement", "reservation": self.reservation, "used_rounds": self.used_rounds}


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Says what a charged round releases: from now on this, and nothing else, may leave for it.

    Attributes:
        charge: Hash of the charge's entry.
        digest: SHA-256 of the reply that is about to leave.
    """

    charge: str
    digest: str

    def __post_init__(self) -> None:
        _check_hash("charge", self.charge)
        _check_hash("digest", self.digest)

    def to_mapping(self) -> dict[str, object]:
        """The fields as JSON."""
        return {"kind": "seal", "charge": self.charge, "digest": self.digest}


Record = Opening | Charge | Settlement | Seal


class _Place(TypedDict):
    """What an entry holds beside its record, hash and signature."""

    position: int
    previous: str
    time: str
    nonce: str
    compositions: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry in its place in the chain.

    Attributes:
        position: Place in the chain, from 0.
        previous: Hash of the entry before; zeros for the first.
        time: Wall-clock time of writing, ISO 8601. For people, and for ceilings over a number of days; nothing is
            ordered by it.
        nonce: 32 random hexadecimal digits, so that two copies of a ledger diverge even if charged alike.
        compositions: Compositions that count as spent after this entry, as a running total.
        record: What the entry says.
        hash: SHA-256 over the canonical JSON of all of the above.
        signature: The site's Ed25519 signature of the hash, as hexadecimal digits.
    """

    position: int
    previous: str
    time: str
    nonce: str
    compositions: int
    record: Record
    hash: str
    signature: str

    @classmethod
    def sign(
        cls,
        record: Record,
        *,
        position: int,
        previous: str,
        time: str,
        nonce: str,
        compositions: int,
        key: Ed25519PrivateKey,
    ) -> Self:
        """Makes an entry with its hash and signature."""
        place = _Place(position=position, previous=previous, time=time, nonce=nonce, compositions=compositions)
        hashed = hashlib.sha256(_payload(record, place)).digest()
        return cls(**place, record=record, hash=hashed.hex(), signature=key.sign(_SIGNED_AS + hashed).hex())

    @property
    def payload(self) -> str:
        """The canonical JSON that is hashed."""
        place = _Place(
            position=self.position,
            previous=self.previous,
            time=self.time,
            nonce=self.nonce,
            compositions=self.compositions,
        )
        return _payload(self.record, place).decode("utf-8")

    @classmethod
    def read(cls, *, payload: str, hash_: str, signature: str, public_key: Ed25519PublicKey) -> Self:
        """Reads an entry and checks its form, hash and signature.

        Args:
            payload: The canonical JSON.
            hash_: The claimed hash.
            signature: The claimed signature.
            public_key: The site's key.

        Returns:
            The entry.

        Raises:
            LedgerError: If anything does not match.
        """
        try:
            entry = cls._decode(json.loads(payload), hash_=hash_, signature=signature)
            hashed = hashlib.sha256(payload.encode("utf-8")).digest()
            if hashed.hex() != hash_ or entry.payload != payload:
                raise LedgerError("A ledger entry does not have the hash it claims.", remedy=DAMAGED)
            public_key.verify(bytes.fromhex(signature), _SIGNED_AS + hashed)
        except InvalidSignature as error:
            raise LedgerError("A ledger entry is not signed by this site's key.", remedy=DAMAGED) from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise LedgerError(f"A ledger entry cannot be read ({type(error).__name__}).", remedy=DAMAGED) from error
        except CloisterError as error:
            raise LedgerError(f"A ledger entry is damaged: {error.problem}", remedy=DAMAGED) from error
        return entry

    @classmethod
    def _decode(cls, mapping: Mapping[str, object], *, hash_: str, signature: str) -> Self:
        fields = dict(mapping)
        if fields.pop("version") != ENTRY_VERSION:
            raise LedgerError(f"The entry's version is {mapping['version']!r}.", remedy=DAMAGED)
        place = _Place(**{name: fields.pop(name) for name in _Place.__annotations__})  # type: ignore[typeddict-item]
        datetime.fromisoformat(place["time"])
        _check_integer("position", place["position"], 0, 2**53)
        _check_integer("compositions", place["compositions"], 0, 2**63)
        record = _DECODERS[str(fields.pop("kind"))](fields)
        return cls(**place, record=record, hash=hash_, signature=signature)


def _payload(record: Record, place: _Place) -> bytes:
    return canonical_json({"version": ENTRY_VERSION, **place, **record.to_mapping()})


def _decode_charge(fields: dict[str, object], *, reserved: bool) -> Charge:
    event = NoisyRelease.from_mapping(fields.pop("event"))  # type: ignore[arg-type]  # from_mapping checks
    return Charge(event=event, reserved=reserved, **fields)  # type: ignore[arg-type]  # __post_init__ checks


_DECODERS: dict[str, Callable[[dict[str, object]], Record]] = {
    "opening": lambda fields: Opening(**fields),  # type: ignore[arg-type]  # __post_init__ checks
    "charge": lambda fields: _decode_charge(fields, reserved=False),
    "reservation": lambda fields: _decode_charge(fields, reserved=True),
    "settlement": lambda fields: Settlement(**fields),  # type: ignore[arg-type]  # __post_init__ checks
    "seal": lambda fields: Seal(**fields),  # type: ignore[arg-type]  # __post_init__ checks
}


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_TEXT or not value.isprintable():
        raise LedgerError(f"{name} is {value!r}, not a line of 1 to {_MOST_TEXT} characters.", remedy=_ASK)


def _check_hash(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise LedgerError(f"{name} is {value!r}, not 64 lower-case hexadecimal digits.", remedy=_ASK)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise LedgerError(f"{name} is {value!r}, not an integer from {low} to {high}.", remedy=_ASK)
