"""What a site remembers between two messages, and its one byte form for processes that end in between."""

import json
from dataclasses import dataclass, field
from typing import Any, Self

from privacy.secure_sum.messages import KeyOffer, OfferList, Preparation
from privacy.secure_sum.preparation import RoundSecrets
from privacy.secure_sum.transcript import TranscriptEntry, TranscriptEvent
from protocol.digest import canonical_json
from protocol.errors import CloisterError, PrivacyError

MEMORY_VERSION = 1


@dataclass(kw_only=True)
class OpenRound:
    """The round that a site has masked last.

    Attributes:
        round: Its number.
        context: What its masks are bound to.
        active: The sites that began it, sorted.
        own_share: The site's own share of its seed.
        list_hash: The one survivor list that the site acts on; empty until there is one.
    """

    round: int
    context: str
    active: tuple[str, ...]
    own_share: bytes = field(repr=False)
    list_hash: str = ""


@dataclass(kw_only=True)
class SiteMemory:
    """Everything of a `SiteSession` that changes.

    Attributes:
        sealing_key: Private X25519 key of the run.
        offer: The site's own offer; None before it was made.
        offers: Everybody's, once accepted; sorted by name.
        agreement: Hash of the accepted offers; empty before.
        prepared: The last round that was ever prepared.
        pending: Secrets of that round, until it is masked.
        open: The round that was masked last.
        entries: The transcript so far.
    """

    sealing_key: bytes = field(default=b"", repr=False)
    offer: KeyOffer | None = None
    offers: tuple[KeyOffer, ...] = ()
    agreement: str = ""
    prepared: int = 0
    pending: RoundSecrets | None = None
    open: OpenRound | None = None
    entries: list[TranscriptEntry] = field(default_factory=list)

    def note(self, number: int, event: TranscriptEvent, hash_: str) -> None:
        """Add to the transcript."""
        self.entries.append(TranscriptEntry(round=number, event=event, hash=hash_))

    def to_bytes(self) -> bytes:
        """Return the memory as bytes that hold secrets of the run."""
        pending, opened = self.pending, self.open
        return canonical_json({
            "version": MEMORY_VERSION,
            "sealing_key": self.sealing_key.hex(),
            "offer": None if self.offer is None else self.offer.to_mapping(),
            "offers": OfferList(offers=self.offers).to_mapping(),
            "agreement": self.agreement,
            "prepared": self.prepared,
            "pending": None if pending is None else {
                "preparation": pending.preparation.to_mapping(),
                "mask_key": pending.mask_key.hex(),
                "seed": pending.seed.hex(),
                "own_share": pending.own_share.hex(),
            },
            "open": None if opened is None else {
                "round": opened.round,
                "context": opened.context,
                "active": list(opened.active),
                "own_share": opened.own_share.hex(),
                "list_hash": opened.list_hash,
            },
            "entries": [[entry.round, entry.event.value, entry.hash] for entry in self.entries],
        })  # fmt: skip

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            PrivacyError: If it is damaged or of another version.
        """
        try:
            return cls._read(json.loads(text))
        except (ValueError, KeyError, TypeError, CloisterError) as error:
            raise PrivacyError(
                "the saved memory of a secure sum is damaged.", remedy="Leave this run and join the next one."
            ) from error

    @classmethod
    def _read(cls, found: dict[str, Any]) -> Self:
        if found["version"] != MEMORY_VERSION:
            raise PrivacyError(f"version is {found['version']!r}.", remedy="Use the Cloister that wrote it.")
        pending, opened = found["pending"], found["open"]
        return cls(
            sealing_key=bytes.fromhex(found["sealing_key"]),
            offer=None if found["offer"] is None else KeyOffer.from_mapping(found["offer"]),
            offers=OfferList.from_mapping(found["offers"]).offers,
            agreement=found["agreement"],
            prepared=found["prepared"],
            pending=None if pending is None else RoundSecrets(
                preparation=Preparation.from_mapping(pending["preparation"]),
                mask_key=bytes.fromhex(pending["mask_key"]),
                seed=bytes.fromhex(pending["seed"]),
                own_share=bytes.fromhex(pending["own_share"]),
            ),
            open=None if opened is None else OpenRound(
                round=opened["round"],
                context=opened["context"],
                active=tuple(opened["active"]),
                own_share=bytes.fromhex(opened["own_share"]),
                list_hash=opened["list_hash"],
            ),
            entries=[
                TranscriptEntry(round=number, event=TranscriptEvent(event), hash=hash_)
                for number, event, hash_ in found["entries"]
            ],
        )  # fmt: skip
