"""What the coordinator remembers of a secure sum, and its one byte form for a process that ends in between."""

import json
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from privacy.secure_sum.messages import (
    KeyOffer,
    OfferList,
    Preparation,
    Reveal,
    RoundStart,
    SurvivorList,
    SurvivorSignature,
)
from protocol.digest import canonical_json
from protocol.errors import CloisterError, PrivacyError

SERVER_MEMORY_VERSION = 1


@dataclass(kw_only=True)
class RoundMemory:
    """A round that is under way.

    Attributes:
        start: What the sites were told at its beginning.
        context: What its masks are bound to.
        prepared: What each of its sites prepared, in the order of names.
        total: uint32 [coordinates], the sum of the masked vectors so far.
        counted: Whose vectors are in it.
        listed: Whose vectors count, once that is decided.
        signatures: Of that list, by site.
        reveals: What survivors told, by site. They are not written down: they are asked for again.
    """

    start: RoundStart
    context: str
    prepared: dict[str, Preparation]
    total: NDArray[np.uint32]
    counted: set[str] = field(default_factory=set)
    listed: SurvivorList | None = None
    signatures: dict[str, SurvivorSignature] = field(default_factory=dict)
    reveals: dict[str, Reveal] = field(default_factory=dict)


@dataclass(kw_only=True)
class ServerMemory:
    """Everything of a `ServerSession` that changes.

    Attributes:
        offers: Everybody's offers, by site.
        agreement: Hash of the offers once they are closed; empty before.
        prepared: The last preparation of each site.
        last_round: The last round that was begun.
        round: The round under way.
    """

    offers: dict[str, KeyOffer] = field(default_factory=dict)
    agreement: str = ""
    prepared: dict[str, Preparation] = field(default_factory=dict)
    last_round: int = 0
    round: RoundMemory | None = None

    def to_bytes(self) -> bytes:
        """Return the memory as bytes: one line of JSON, then the words of the sum, little-endian.

        They hold masked vectors' sum and sealed shares: what the coordinator was told, no secret of a site.
        """
        current = self.round
        header = canonical_json({
            "version": SERVER_MEMORY_VERSION,
            "offers": OfferList(offers=tuple(self.offers.values())).to_mapping(),
            "agreement": self.agreement,
            "prepared": [found.to_mapping() for found in self.prepared.values()],
            "last_round": self.last_round,
            "round": None if current is None else {
                "start": current.start.to_mapping(),
                "context": current.context,
                "prepared": [found.to_mapping() for found in current.prepared.values()],
                "counted": sorted(current.counted),
                "listed": None if current.listed is None else current.listed.to_mapping(),
                "signatures": [found.to_mapping() for found in current.signatures.values()],
            },
        })  # fmt: skip
        words = b"" if current is None else np.ascontiguousarray(current.total, dtype="<u4").tobytes()
        return header + b"\n" + words

    @classmethod
    def from_bytes(cls, saved: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            PrivacyError: If it is damaged or of another version.
        """
        header, _, words = saved.partition(b"\n")
        try:
            found = json.loads(header)
            if found["version"] != SERVER_MEMORY_VERSION:
                raise PrivacyError(f"version is {found['version']!r}.", remedy="Use the Cloister that wrote it.")
            return cls(
                offers={offer.site: offer for offer in OfferList.from_mapping(found["offers"]).offers},
                agreement=found["agreement"],
                prepared=_preparations(found["prepared"]),
                last_round=found["last_round"],
                round=None if found["round"] is None else _round(found["round"], words),
            )
        except (ValueError, KeyError, TypeError, AttributeError, CloisterError) as error:
            raise PrivacyError(
                "the coordinator's memory of a secure sum is damaged.", remedy="Begin a new run of the study."
            ) from error


def _preparations(found: list[Any]) -> dict[str, Preparation]:
    preparations = [Preparation.from_mapping(item) for item in found]
    return {preparation.key.site: preparation for preparation in preparations}


def _round(found: dict[str, Any], words: bytes) -> RoundMemory:
    signatures = [SurvivorSignature.from_mapping(item) for item in found["signatures"]]
    return RoundMemory(
        start=RoundStart.from_mapping(found["start"]),
        context=found["context"],
        prepared=_preparations(found["prepared"]),
        total=np.frombuffer(words, dtype="<u4").astype(np.uint32),
        counted=set(found["counted"]),
        listed=None if found["listed"] is None else SurvivorList.from_mapping(found["listed"]),
        signatures={signature.site: signature for signature in signatures},
    )
