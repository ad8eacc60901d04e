"""Evidence: what a site was told and did, chained, signed, and comparable with what other sites were told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.secure_sum.policy import SumPolicy
from protocol.digest import canonical_json, digest
from protocol.errors import WireError

TRANSCRIPT_VERSION = 1
_REMEDY = "Ask the site for its transcript again."
_FIRST = "0" * 64


class TranscriptEvent(StrEnum):
    """What an entry is about. The first three must be the same at all sites; the others are a site's own."""

    AGREED = "agreed"
    STARTED = "started"
    LISTED = "listed"
    MASKED = "masked"
    REVEALED = "revealed"


_SHARED = (TranscriptEvent.AGREED, TranscriptEvent.STARTED, TranscriptEvent.LISTED)


@dataclass(frozen=True, kw_only=True)
class TranscriptEntry:
    """One thing that a site was told or did.

    Attributes:
        round: Number of the round; 0 for the key agreement.
        event: What it is about.
        hash: Of the agreement, the round's context, the survivor list, or the signature of what was sent.
    """

    round: int
    event: TranscriptEvent
    hash: str


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """All entries of one site in one run, signed.

    Attributes:
        run: Identifier of the run.
        study: Hash of the study.
        site: Whose it is.
        entries: In order.
        signature: Ed25519 signature over the head of the chain, 128 hexadecimal digits.
    """

    run: str
    study: str
    site: str
    entries: tuple[TranscriptEntry, ...]
    signature: str

    @classmethod
    def signed(
        cls, entries: Iterable[TranscriptEntry], *, policy: SumPolicy, site: str, identity: Ed25519PrivateKey
    ) -> Self:
        """Chain and sign entries."""
        kept = tuple(entries)
        head = _head(kept, run=policy.run, study=policy.study, site=site)
        return cls(run=policy.run, study=policy.study, site=site, entries=kept, signature=identity.sign(head).hex())

    def to_mapping(self) -> dict[str, object]:
        """Return the transcript as JSON's types."""
        entries = [[entry.round, entry.event.value, entry.hash] for entry in self.entries]
        head = {"version": TRANSCRIPT_VERSION, "run": self.run, "study": self.study, "site": self.site}
        return head | {"entries": entries, "signature": self.signature}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """Read what `to_mapping` wrote.

        Raises:
            WireError: If it is no transcript of this version.
        """
        values = dict(mapping)
        texts = {name: values.pop(name, None) for name in ("run", "study", "site", "signature")}
        version, entries = values.pop("version", None), values.pop("entries", None)
        good = all(isinstance(text, str) for text in texts.values()) and isinstance(entries, list)
        if not good or version != TRANSCRIPT_VERSION or values:
            raise WireError("a transcript is malformed or of another version.", remedy=_REMEDY)
        read = tuple(_entry(item) for item in entries) if isinstance(entries, list) else ()
        return cls(**{name: str(text) for name, text in texts.items()}, entries=read)

    def verify(self, *, policy: SumPolicy) -> None:
        """Check that the site of the roster signed these entries for this run and study.

        Raises:
            WireError: If it did not.
        """
        if (self.run, self.study) != (policy.run, policy.study):
            raise WireError(f"the transcript of {self.site} is of another run or study.", remedy=_REMEDY)
        head = _head(self.entries, run=self.run, study=self.study, site=self.site)
        policy.verify(self.site, signature=self.signature, signed=head)


def compare_transcripts(transcripts: Sequence[Transcript], *, policy: SumPolicy) -> tuple[str, ...]:
    """Find out whether the coordinator told different sites different things.

    Args:
        transcripts: One of each site.
        policy: Run, study and roster.

    Returns:
        One sentence for each thing that differs; nothing if all match. A site that was away during a round is
        no difference.

    Raises:
        WireError: If a transcript is not signed by its site, or a site has two.
    """
    if len({transcript.site for transcript in transcripts}) != len(transcripts):
        raise WireError("a site has more than one transcript.", remedy="Compare one of each site.")
    told: dict[tuple[int, TranscriptEvent], dict[str, list[str]]] = {}
    for transcript in transcripts:
        transcript.verify(policy=policy)
        for entry in transcript.entries:
            if entry.event in _SHARED:
                told.setdefault((entry.round, entry.event), {}).setdefault(entry.hash, []).append(transcript.site)
    return tuple(
        f"round {number}, {event.value}: " + " but ".join(
            f"{', '.join(sorted(set(sites)))} say {hash_[:12]}" for hash_, sites in sorted(versions.items())
        ) + "."
        for (number, event), versions in sorted(told.items())
        if len(versions) > 1
    )  # fmt: skip


def _head(entries: Sequence[TranscriptEntry], *, run: str, study: str, site: str) -> bytes:
    """The hash chain over all entries; its head is what is signed."""
    head = _FIRST
    for entry in entries:
        head = digest([head, entry.round, entry.event.value, entry.hash])
    return b"cloister secure sum transcript v1\0" + canonical_json([run, study, site, len(entries), head])


def _entry(item: object) -> TranscriptEntry:
    if not isinstance(item, list) or len(item) != 3:
        raise WireError("an entry of a transcript is malformed.", remedy=_REMEDY)
    number, event, hash_ = item
    known = [member.value for member in TranscriptEvent]
    if not isinstance(number, int) or isinstance(number, bool) or event not in known or not isinstance(hash_, str):
        raise WireError("an entry of a transcript is malformed.", remedy=_REMEDY)
    return TranscriptEntry(round=number, event=TranscriptEvent(event), hash=hash_)
