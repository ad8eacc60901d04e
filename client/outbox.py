"""The outbox: replies as they left, so that a repeated request gets the same bytes again and nothing is computed twice.

A reply is on the disk before the ledger seals it, and a sealed reply is the only one that may ever leave for its round.
A reply that is lost or damaged is refused, never made again: other noise on the same records would be a second release.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from protocol.errors import LedgerError

_ROUNDS_KEPT = 2
_REPLIES_KEPT = 16
_RUNS_KEPT = 16
_DRAFT = ".draft"
_STALE_SECONDS = 600.0


class Outbox:
    """Replies by their SHA-256, one folder per run.

    Of each run the last two rounds are kept, at most 16 replies of them, and of the runs the last 16: a coordinator
    repeats what it did not hear the end of, and never what lies behind. What is sealed is the last of its round, so
    that it outlives whatever a crash left before it.

    Args:
        folder: Where; made when first needed, readable by the owner alone. None keeps nothing: a simulated site
            answers no request twice.

    Example:
        >>> Outbox().put(b"reply", run="a" * 64, round=1)[:8]
        '5782b186'
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def keeps(self) -> bool:
        """Whether a reply can be sent again."""
        return self._folder is not None

    def put(self, reply: bytes, *, run: str, round: int) -> str:  # noqa: A002 - the field's word
        """Keep a reply, durably.

        Args:
            reply: Its canonical bytes.
            run: Identifier of the run, 64 hexadecimal digits.
            round: Number of the round.

        Returns:
            The reply's SHA-256, 64 hexadecimal digits.

        Raises:
            LedgerError: If it could not be written: then it must not leave.
        """
        digest = reply_digest(reply)
        if self._folder is None:
            return digest
        place = self._folder / run
        try:
            if not place.is_dir():
                self._begin(place)
            _write(place / f"{round:07d}-{digest}", reply)
            self._prune(place, newest=round)
        except OSError as error:
            raise LedgerError(
                f"{place}: {error.strerror}; nothing was released.", remedy="Make room, or let the site write there."
            ) from error
        return digest

    def get(self, digest: str, *, run: str) -> bytes:
        """Return a reply as it was kept.

        Raises:
            LedgerError: If it is not there any more, or is damaged.
        """
        found = [] if self._folder is None else sorted((self._folder / run).glob(f"*-{digest}"))
        try:
            reply = found[0].read_bytes() if found else None
        except OSError as error:
            raise LedgerError(f"{found[0]}: {error.strerror}.", remedy="Let the site read its outbox.") from error
        if reply is None or reply_digest(reply) != digest:
            raise LedgerError(
                f"The reply {digest[:12]} of run {run[:12]} is {'lost' if reply is None else 'damaged'}.",
                remedy="Nothing was released: a released round is never computed again. Go on with the next round.",
            )
        return reply

    def _begin(self, place: Path) -> None:
        """Make the folder of a run, and let the oldest runs go."""
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        _sync(place.parent)
        runs = sorted((path for path in place.parent.iterdir() if path.is_dir()), key=_age)
        for old in runs[:-_RUNS_KEPT]:
            if old != place:
                shutil.rmtree(old, ignore_errors=True)

    def _prune(self, place: Path, *, newest: int) -> None:
        """Let go of what no request can be about any more."""
        replies = sorted(place.glob("[0-9]" * 7 + "-*"), key=_age)
        behind = [path for path in replies if int(path.name[:7]) <= newest - _ROUNDS_KEPT]
        kept = [path for path in replies if path not in behind]
        drafts = [path for path in place.glob(f"*{_DRAFT}") if time.time() - _age(path) > _STALE_SECONDS]
        for path in (*behind, *kept[:-_REPLIES_KEPT], *drafts):
            path.unlink(missing_ok=True)


def reply_digest(reply: bytes) -> str:
    """Return the SHA-256 of a reply's canonical bytes, 64 hexadecimal digits."""
    return hashlib.sha256(reply).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a whole file, or none, so that a power cut right afterwards leaves it there."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, suffix=_DRAFT)  # readable by the owner alone
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(draft).unlink()
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _age(path: Path) -> float:
    """Return when a file was written; one that another process removed meanwhile is the oldest."""
    try:
        return path.stat().st_mtime_ns / 1e9
    except FileNotFoundError:
        return 0.0
