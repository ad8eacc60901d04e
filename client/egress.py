"""The egress record: one line for every message that left the site, for its privacy officer to read.

A line is on the disk before its message leaves, and holds nothing that the message did not show: when, for which study,
how much, under which bound and noise, paid by which ledger entry. Every line holds the hash of the one before, so that
a line that was changed, taken out or put in shows; lines that were cut off at the end, or a whole record that was
replaced, show when it is compared with the ledger. A line without its message may be there, after a crash between the
two; a contribution without its line may not.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any, TypedDict

from privacy.ledger import Charge, Entry, Seal
from privacy.mechanisms.gaussian import Mechanism
from privacy.plan import PrivacyPlan
from privacy.stage import Stage
from protocol.digest import canonical_json
from protocol.errors import LedgerError, WireError
from protocol.terms import ContributionKind

_VERSION = 1
_FIRST = "0" * 64
_MOST_LINE = 1 << 14
_CHAINED = ("version", "number", "time", "previous", "hash")
_DAMAGED = "Keep the file as evidence, and compare what is left of it with the ledger."


class DepartureKind(StrEnum):
    """What left."""

    INTRODUCTION = "introduction"
    CONTRIBUTION = "contribution"
    SUM_TURN = "sum turn"
    REFUSAL = "refusal"


class Placement(StrEnum):
    """Where the noise of a contribution is.

    ``WHOLE``: in the contribution, all of it. ``SHARE``: in the contribution, a part; the rest comes from the other
    sites, and nobody sees the contribution but in their sum. ``STEPS``: in every step of the training that led to it.
    ``NONE``: there is none, and nothing is promised.
    """

    WHOLE = "whole"
    SHARE = "share"
    STEPS = "steps"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Departure:
    """What left, without anything that it did not show.

    Attributes:
        kind: What it was.
        study: Hash of the study; empty where a refused message named none.
        run: Identifier of the run; empty where there is none.
        round: Number of the round; 0 where there is none.
        bytes: Size of the content in its canonical form.
        sha256: Of that form; the digest that the ledger seals for a contribution.
        repeated: Whether it was taken from the outbox, because the same request came again.
        reason: The words of a refusal; empty otherwise.
        norm_bound: Euclidean bound, in the contribution's own unit: of one unit's part of a sum of gradients or of
            statistics; of the whole change of the weights. None but for contributions.
        noise: Standard deviation of the noise in each coordinate, in the contribution's own unit; with ``STEPS``, of
            one step. None but for contributions.
        noise_in_sum: With ``SHARE``, the noise that is left in the sum if as many sites drop out and collude as the
            study allows; None otherwise.
        placement: Where the noise is; None but for contributions.
        entry: The ledger entry that paid; empty where nothing was to pay.
    """

    kind: DepartureKind
    study: str
    run: str
    round: int
    bytes: int
    sha256: str
    repeated: bool = False
    reason: str = ""
    norm_bound: float | None = None
    noise: float | None = None
    noise_in_sum: float | None = None
    placement: Placement | None = None
    entry: str = ""


@dataclass(frozen=True, kw_only=True)
class EgressLine:
    """One line of the record.

    Attributes:
        number: From 0.
        time: When, ISO 8601, UTC; by the site's own clock.
        departure: What left.
        hash: SHA-256 over the canonical JSON of all of the line, the hash of the line before included.
    """

    number: int
    time: str
    departure: Departure
    hash: str


class ContributionTerms(TypedDict):
    """Bound and noise of a contribution, as in `Departure`."""

    norm_bound: float
    noise: float
    noise_in_sum: float | None
    placement: Placement


def contribution_terms(plan: PrivacyPlan, stage: Stage, mechanism: Mechanism) -> ContributionTerms:
    """Return what bounds and blurs a contribution of a study.

    Args:
        plan: The study's plan.
        stage: Of the round.
        mechanism: What bounds and blurs one of its steps.
    """
    training = plan.study.training
    noise = mechanism.sigma * mechanism.grid.clip_norm / mechanism.grid.steps
    if stage.kind is ContributionKind.UPDATES:
        # Of the change of the weights by one step, whose size the noise of its gradients has.
        noise *= training.local_learning_rate / plan.expected_units_per_site
        placement = Placement.STEPS if noise else Placement.NONE
        return ContributionTerms(norm_bound=training.update_norm, noise=noise, noise_in_sum=None, placement=placement)
    placement = Placement.WHOLE if noise else Placement.NONE
    in_sum = None
    if stage.shares is not None and noise:
        placement = Placement.SHARE
        in_sum = noise * stage.noise_multiplier / stage.shares.share_multiplier
    return ContributionTerms(norm_bound=stage.clip_norm, noise=noise, noise_in_sum=in_sum, placement=placement)


class Egress:
    """The record of one site, shared by all of its processes.

    A line takes about 700 bytes: 3,000 rounds with three messages each take 6 MB. Nothing is ever taken out; an
    operator may move the file away while the site is stopped, and a new one begins.

    Args:
        path: The file, made when first needed, readable by the owner alone. None keeps nothing: what a simulated site
            sends does not leave the machine.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._alone = Lock()
        self._known = (0, 0, _FIRST)  # size of the file, lines in it, hash of the last one

    @property
    def keeps(self) -> bool:
        """Whether anything is written down."""
        return self._path is not None

    def record(self, departure: Departure) -> None:
        """Write down, durably, what is about to leave.

        Raises:
            LedgerError: If it could not be written: then nothing may leave.
        """
        if self._path is None:
            return
        try:
            with self._alone:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    self._append(descriptor, departure)
                finally:
                    os.close(descriptor)  # and so the lock is gone
        except OSError as error:
            raise LedgerError(
                f"{self._path}: {error.strerror}; nothing was released.",
                remedy="Make room, or let the site write there.",
            ) from error

    def _append(self, descriptor: int, departure: Departure) -> None:
        size = os.fstat(descriptor).st_size
        if size != self._known[0]:
            self._known = _end(descriptor, size, path=str(self._path))
        size, number, previous = self._known
        time = datetime.now(UTC).isoformat(timespec="seconds")
        chained = {"version": _VERSION, "number": number, "time": time, "previous": previous}
        hash_, line = _line(chained | asdict(departure))
        try:
            _write_all(descriptor, line)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)  # half a line says nothing
            raise
        if not number and self._path is not None:
            _sync(self._path.parent)  # the folder must remember a new file even after a power cut
        self._known = (size + len(line), number + 1, hash_)


def read(path: Path) -> tuple[EgressLine, ...]:
    """Read a record and verify every line of it.

    Half a line at the end, as a crash in the middle of writing leaves it, is left out: its message did not leave.

    Args:
        path: The file.

    Returns:
        The lines in order; none where there is no file.

    Raises:
        LedgerError: If a line was changed, taken out or put in, or the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}.", remedy="Let the reader read it.") from error
    found: list[EgressLine] = []
    previous = _FIRST
    for text in content.split(b"\n")[:-1]:
        line = _read_line(text, number=len(found), previous=previous, path=str(path))
        previous = line.hash
        found.append(line)
    return tuple(found)


def compare(lines: Iterable[EgressLine], entries: Iterable[Entry]) -> tuple[str, ...]:
    """Say where the record and the ledger of the same site disagree.

    Args:
        lines: Of the record.
        entries: Of the ledger.

    Returns:
        One sentence for each disagreement; none if they agree.
    """
    kept = tuple(entries)
    charges = {entry.hash: entry.record for entry in kept if isinstance(entry.record, Charge)}
    seals = {entry.record.charge: entry.record.digest for entry in kept if isinstance(entry.record, Seal)}
    found, left = [], set()
    for line in lines:
        gone = line.departure
        if gone.kind is not DepartureKind.CONTRIBUTION or not gone.entry:
            continue
        left.add(gone.entry)
        if gone.entry not in charges:
            found.append(
                f"Line {line.number} names ledger entry {gone.entry[:12]}, which the ledger lacks: an older copy of "
                "the ledger may have been put back."
            )
        elif seals.get(gone.entry) != gone.sha256:
            found.append(f"Line {line.number}: what left is not what ledger entry {gone.entry[:12]} was sealed for.")
    for charge in seals.keys() - left:
        paid = charges[charge]
        found.append(
            f"Round {paid.first_round} of run {paid.run[:12]} was sealed, and no line says that it left: lines are "
            "missing, or the site was stopped just then."
        )
    return tuple(found)


def _line(values: Mapping[str, object]) -> tuple[str, bytes]:
    """Return the hash and the bytes of a line."""
    hash_ = hashlib.sha256(canonical_json(dict(values))).hexdigest()
    return hash_, canonical_json({**values, "hash": hash_}) + b"\n"


def _read_line(text: bytes, *, number: int, previous: str, path: str) -> EgressLine:
    try:
        values: dict[str, Any] = json.loads(text)
        claimed = values.pop("hash")
        hash_, whole = _line(values)
        if (hash_, whole) != (claimed, text + b"\n") or values["version"] != _VERSION:
            raise LedgerError(f"{path}: line {number} was changed.", remedy=_DAMAGED)
        if (values["number"], values["previous"]) != (number, previous):
            raise LedgerError(f"{path}: line {number} does not follow the one before.", remedy=_DAMAGED)
        if set(values) != {field.name for field in fields(Departure)} | set(_CHAINED[:-1]):
            raise LedgerError(f"{path}: line {number} holds other fields.", remedy=_DAMAGED)
        told = {field.name: values[field.name] for field in fields(Departure)}
        placement = told.pop("placement")
        departure = Departure(
            **told | {"kind": DepartureKind(told["kind"])},
            placement=None if placement is None else Placement(placement),
        )
        return EgressLine(number=number, time=str(values["time"]), departure=departure, hash=hash_)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, WireError) as error:
        raise LedgerError(f"{path}: line {number} is no line of the record.", remedy=_DAMAGED) from error


def _end(descriptor: int, size: int, *, path: str) -> tuple[int, int, str]:
    """Find the last line of a file that another process wrote to, and cut off half a one: its message never left."""
    tail = os.pread(descriptor, _MOST_LINE, max(0, size - _MOST_LINE))
    if b"\n" not in tail and size > _MOST_LINE:
        raise LedgerError(f"{path}: the last line is no line of the record.", remedy=_DAMAGED)
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn:
        os.ftruncate(descriptor, size - torn)
        tail = tail[:-torn]
    if size == torn:
        return 0, 0, _FIRST
    try:
        last = json.loads(tail[:-1].rsplit(b"\n", 1)[-1])
        return size - torn, int(last["number"]) + 1, str(last["hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path}: the last line is no line of the record.", remedy=_DAMAGED) from error


def _write_all(descriptor: int, line: bytes) -> None:
    """Write all of a line; a disk that fills up may take a part of it first."""
    written = 0
    while written < len(line):
        written += os.write(descriptor, line[written:])


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
