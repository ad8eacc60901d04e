"""An extract of a ledger: what it says of one study, for those who may not see the whole of it.

Every entry stands in it as it was signed when it was written, and can be checked by itself. The site signs the
extract as well, and says by it that this is all that its ledger held of the study at that moment. Beside the study's
entries, each with its time, it tells the name of the data set. Of other studies it tells nothing but how many entries
and compositions there were in between: position and running total are under each entry's signature.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.ledger.chain import Chain
from privacy.ledger.entries import Charge, Entry, Opening, Seal, Settlement
from protocol.digest import canonical_json
from protocol.errors import LedgerError
from protocol.keys import public_hex
from protocol.terms import SITE_NAME

EXTRACT_VERSION = 1
_DOMAIN = b"cloister ledger extract v1\0"
_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_ENTRY_FIELDS = frozenset({"payload", "hash", "signature"})
_ASK = "Ask the site for the extract again."


@dataclass(frozen=True, kw_only=True)
class LedgerExtract:
    """What a ledger holds of one study: its opening, and the study's charges, seals, reservations and settlements.

    Attributes:
        site: The site's name.
        public_key: The site's Ed25519 public key, 64 hexadecimal digits. Whose key it is must be known from elsewhere.
        study: The study's hash.
        head: Hash of the ledger's last entry when the extract was made, which commits to all before.
        time: When it was made, ISO 8601.
        entries: In the ledger's order, of all runs of the study.
        signature: The site's, of all of the above, 128 hexadecimal digits.
    """

    site: str
    public_key: str
    study: str
    head: str
    time: str
    entries: tuple[Entry, ...]
    signature: str

    @classmethod
    def of(cls, entries: Iterable[Entry], *, site: str, study: str, time: str, key: Ed25519PrivateKey) -> Self:
        """Take what concerns one study out of a ledger, and sign it.

        Args:
            entries: All entries of the ledger, verified.
            site: The site's name.
            study: The study's hash.
            time: Now, ISO 8601.
            key: The site's.

        Raises:
            LedgerError: If nothing was ever charged for the study.
        """
        kept = tuple(entries)
        wanted = tuple(_of_study(kept, study))
        if len(wanted) < 2:
            raise LedgerError(
                f"The ledger holds nothing of study {study[:12]}.", remedy="Name a study that the ledger shows."
            )
        unsigned = cls(
            site=site,
            public_key=public_hex(key),
            study=study,
            head=kept[-1].hash,
            time=time,
            entries=wanted,
            signature="0" * 128,
        )
        return replace(unsigned, signature=key.sign(unsigned._signed()).hex())

    @property
    def opening(self) -> Opening:
        """Whose ledger it is."""
        opening = self.entries[0].record
        if not isinstance(opening, Opening):
            raise LedgerError("The extract does not begin with its ledger's opening.", remedy=_ASK)
        return opening

    def of_run(self, run: str) -> tuple[Entry, ...]:
        """The entries of one run: its charges and reservations, and what seals and settles them."""
        hashes = {entry.hash for entry in self.entries if isinstance(entry.record, Charge) and entry.record.run == run}
        return tuple(entry for entry in self.entries if entry.hash in hashes or _about(entry) in hashes)

    def of_others(self) -> tuple[int, ...]:
        """Compositions that the ledger counts for other studies up to each entry, by its signed running total.

        How noisy they were is not known: an extract holds their number alone.
        """
        ours, found = Chain(whole=False), []
        for entry in self.entries:
            found.append(entry.compositions - ours.compositions_after(entry.record))
            ours.append(entry)
        return tuple(found)

    def verify(self) -> None:
        """Check the extract's own signature, and every rule that its entries must keep among themselves.

        Reading an extract has checked the hash and signature of every entry.

        Raises:
            LedgerError: If the signature is not the named key's, an entry is of something else, out of place or
                twice, or totals do not add up.
        """
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), self._signed())
        except (InvalidSignature, ValueError) as error:
            raise LedgerError(f"The extract of {self.site} was changed after it was signed.", remedy=_ASK) from error
        chain = Chain(whole=False)
        for entry in self.entries:
            chain.append(entry)
        if self.opening.public_key != self.public_key:
            raise LedgerError(f"The extract of {self.site} is from another key's ledger.", remedy=_ASK)
        if any(isinstance(entry.record, Charge) and entry.record.study != self.study for entry in self.entries):
            raise LedgerError(f"The extract of {self.site} holds charges of another study.", remedy=_ASK)

    def to_text(self) -> str:
        """The one form in which an extract is kept: canonical JSON, and a line's end."""
        return canonical_json(self._mapping() | {"signature": self.signature}).decode() + "\n"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read an extract and check everything in it under the key that it names.

        Raises:
            LedgerError: If it is malformed, of another version, or was changed.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LedgerError("The extract is not JSON.", remedy=_ASK) from error
        known = {"version", *(field.name for field in fields(cls))}
        if not isinstance(values, dict) or set(values) != known:
            raise LedgerError("The extract has fields that are missing or unknown.", remedy=_ASK)
        if type(values["version"]) is not int or values.pop("version") != EXTRACT_VERSION:
            raise LedgerError(f"The extract is not of version {EXTRACT_VERSION}.", remedy=_ASK)
        _check_form(values)
        public_key = _public_key(values["public_key"])
        entries = tuple(_entry(item, public_key) for item in values["entries"])
        extract = cls(**{**values, "entries": entries})
        # What reads alike but is written otherwise could show a person something else.
        if extract.to_text() != text:
            raise LedgerError("The extract is not in its canonical form: it was changed.", remedy=_ASK)
        extract.verify()
        return extract

    def _mapping(self) -> dict[str, object]:
        entries = [{"payload": one.payload, "hash": one.hash, "signature": one.signature} for one in self.entries]
        return {
            "version": EXTRACT_VERSION,
            "site": self.site,
            "public_key": self.public_key,
            "study": self.study,
            "head": self.head,
            "time": self.time,
            "entries": entries,
        }

    def _signed(self) -> bytes:
        """What the site signs; the label keeps it from meaning anything elsewhere."""
        return _DOMAIN + canonical_json(self._mapping())


def _of_study(entries: Iterable[Entry], study: str) -> Iterable[Entry]:
    """The opening, the charges of a study, and what is about them, in order."""
    charged: set[str] = set()
    for entry in entries:
        if isinstance(entry.record, Charge) and entry.record.study == study:
            charged.add(entry.hash)
            yield entry
        elif isinstance(entry.record, Opening) or _about(entry) in charged:
            yield entry


def _about(entry: Entry) -> str | None:
    """Hash of the charge that an entry seals or settles."""
    if isinstance(entry.record, Seal):
        return entry.record.charge
    return entry.record.reservation if isinstance(entry.record, Settlement) else None


def _entry(item: object, public_key: Ed25519PublicKey) -> Entry:
    good = (
        isinstance(item, dict) and set(item) == _ENTRY_FIELDS and all(isinstance(text, str) for text in item.values())
    )
    if not good or not isinstance(item, dict):
        raise LedgerError("An entry of the extract is malformed.", remedy=_ASK)
    return Entry.read(payload=item["payload"], hash_=item["hash"], signature=item["signature"], public_key=public_key)


def _check_form(values: Mapping[str, Any]) -> None:
    """Refuse fields of another form."""
    patterns = {"site": SITE_NAME, "public_key": _HASH, "study": _HASH, "head": _HASH, "signature": _SIGNATURE}
    for name, pattern in patterns.items():
        if not isinstance(values[name], str) or not pattern.fullmatch(values[name]):
            raise LedgerError(f"The extract's {name} is malformed.", remedy=_ASK)
    try:
        datetime.fromisoformat(values["time"])
    except (TypeError, ValueError) as error:
        raise LedgerError(f"The extract's time is {values['time']!r}.", remedy=_ASK) from error
    if not isinstance(values["entries"], list) or not values["entries"]:
        raise LedgerError("The extract has no entries.", remedy=_ASK)


def _public_key(text: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError as error:
        raise LedgerError("The extract's public_key is no key.", remedy=_ASK) from error
