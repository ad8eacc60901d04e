"""A job: one study that is to be run to its end, whatever happens to the processes that run it.

::

    study.json       the study under the coordinator's signature
    run.json         the identifier of the run, made once
    start/           the public release that the study starts from, if it does
    checkpoint/      the newest two checkpoints, and the memory of the secure sum
    progress.json    how far it is
    lock             held by the process that works on it
    stop             put there by the operator, to stop; removed, to go on
    release/         the release, once there is one

Flower does not resume a run of its own. So every run of Flower's is given a job, works on it alone, and goes on from
what the last one left; for the sites it stays one run, because its identifier, its warrant and every request are the
same. A job folder lies at ``studies/NAME`` in the coordinator's folder, whose key signs for it.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.digest import canonical_json
from protocol.errors import ApprovalError, CloisterError, FederationError, InputError
from protocol.keys import public_hex, read_identity, replace_private
from protocol.signed_study import SignedStudy
from protocol.study import Study
from protocol.warrant import warrant_of
from server.checkpoint import Checkpoints
from server.deployment.processes.server_app import STUDIES_VARIABLE
from server.progress import JobState, Progress, ProgressFile

RUN_VERSION = 1
_LOGGER = logging.getLogger("cloister.server")
_TRIES, _TRY_SECONDS = 5, 0.1
_RUN = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[0-9a-f]{16}(-[1-9][0-9]*)?")
_STUDY, _RUN_FILE, _START, _PROGRESS, _LOCK, _STOP, _RELEASE, _CHECKPOINTS, _KEY, _SUM = (
    "study.json", "run.json", "start", "progress.json", "lock", "stop", "release", "checkpoint", "key.pem",
    "sum.memory",
)  # fmt: skip


def wanted_job(word: str) -> Path | None:
    """Return the job folder that a run names; None for a run without a job, as in simulations.

    Whoever reaches the SuperLink's port on the coordinator's machine can submit a run. At a coordinator a run must
    therefore be of one of its own jobs: a folder of somebody else's would be signed for with the coordinator's key.

    Args:
        word: What the run's configuration says; empty for no job.

    Raises:
        ApprovalError: If this is a coordinator's server, and the folder is none of the coordinator's jobs.
    """
    studies = os.environ.get(STUDIES_VARIABLE)
    if not studies:
        return Path(word) if word else None
    named = Path(word)
    own = Path(studies) / named.name
    if not _NAME.fullmatch(named.name) or named != own or own.is_symlink() or not own.is_dir():
        raise ApprovalError(
            f"{word!r} is no study of this coordinator.", remedy="Start studies with `cloister coordinator run`."
        )
    return own


class Job:
    """A job folder.

    Args:
        folder: Where it lies.
        signed: The study under its signature, verified.
        key: The coordinator's key.

    Attributes:
        folder: As given.
        signed: As given.
        key: As given.
        checkpoints: Of its run.
        progress: Tells whoever looks.
    """

    def __init__(self, folder: Path, *, signed: SignedStudy, key: Ed25519PrivateKey) -> None:
        self.folder = folder
        self.signed = signed
        self.key = key
        self.checkpoints = Checkpoints(folder / _CHECKPOINTS)
        self.progress = ProgressFile(folder / _PROGRESS, rounds=signed.study.rounds)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a job folder.

        Raises:
            InputError: If the study or the coordinator's key cannot be read.
            ApprovalError: If the study is not signed with that key.
        """
        key = read_identity(folder.parent.parent / _KEY)
        try:
            signed = SignedStudy.from_text((folder / _STUDY).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{folder / _STUDY} cannot be read: {error}.", remedy="Begin the study anew.") from error
        signed.verify(public_hex(key))
        return cls(folder, signed=signed, key=key)

    @property
    def study(self) -> Study:
        """The study."""
        return self.signed.study

    @property
    def release(self) -> Path:
        """Where the release will lie."""
        return self.folder / _RELEASE

    @property
    def start(self) -> Path | None:
        """The public release that the study starts from, if it does."""
        return self.folder / _START if self.study.model.init is not None else None

    @property
    def stop(self) -> Path:
        """The file by which the operator asks to stop."""
        return self.folder / _STOP

    @property
    def finished(self) -> bool:
        """Whether the release is there. It is moved there whole, so that there is nothing in between."""
        return self.release.exists()

    @property
    def failed(self) -> bool:
        """Whether the run ended for good without a release. It is taken up again where progress.json is removed."""
        try:
            found = Progress.read(self.folder / _PROGRESS)
        except InputError:
            return False  # it will be written anew, and the failure found again
        return found is not None and found.state is JobState.FAILED

    @property
    def held(self) -> bool:
        """Whether a process works on it at this moment."""
        with _locked(self.folder / _LOCK) as mine:
            return not mine

    @cached_property
    def run(self) -> str:
        """Identifier of the run, 64 hexadecimal digits; made at first use, for good.

        Raises:
            InputError: If it cannot be read or written.
        """
        path = self.folder / _RUN_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["version"] != RUN_VERSION or not _RUN.fullmatch(values["run"]):
                raise InputError(f"{path} is malformed.", remedy="Begin the study anew.")
            return str(values["run"])
        except FileNotFoundError:
            made = secrets.token_hex(32)
            replace_private(path, canonical_json({"version": RUN_VERSION, "run": made}))
            return made
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} cannot be read: {error}.", remedy="Begin the study anew.") from error

    @cached_property
    def warrant(self) -> str:
        """The coordinator's word that the run is its own."""
        return warrant_of(self.key, study=self.study.hash, run=self.run)

    def save_sum(self, memory: bytes, entries: Mapping[str, str]) -> None:
        """Write the memory of the secure sum down, with the ledger entries of the vectors that count.

        Raises:
            InputError: If it cannot be written.
        """
        body = canonical_json(dict(entries)) + b"\n" + memory
        folder = self.folder / _CHECKPOINTS
        folder.mkdir(mode=0o700, exist_ok=True)
        replace_private(folder / _SUM, hashlib.sha256(body).digest() + body)

    def load_sum(self) -> tuple[bytes, dict[str, str]] | None:
        """Return what `save_sum` wrote last; None at the beginning.

        Raises:
            InputError: If it is damaged.
        """
        path = self.folder / _CHECKPOINTS / _SUM
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy="Let it be read.") from error
        entries, _, memory = raw[32:].partition(b"\n")
        if hashlib.sha256(raw[32:]).digest() != raw[:32]:
            raise InputError(f"{path} is damaged.", remedy="Put back a copy, or begin the study anew.")
        return memory, json.loads(entries)

    @contextmanager
    def at_work(self) -> Iterator[bool]:
        """Work on the job alone, for as long as the block runs.

        What ends a run for good is written down as a failure. What may pass - a full disk, a grid that is gone, a
        killed process - is not: the next process takes the job up again.

        Yields:
            Whether there is anything to do: False where another process works on it, or it is over, or stopped.

        Raises:
            CloisterError: What ended the run, if not the operator did.
        """
        with _locked(self.folder / _LOCK, tries=_TRIES) as mine:
            if not mine or self.failed:
                yield False
                return
            self._clean()
            if self.finished:
                self._finish()
                yield False
                return
            try:
                if self.stop.exists():
                    self.progress.tell(JobState.STOPPED, message="The operator asked to stop.")
                yield not self.stop.exists()
                if self.release.exists():
                    self._finish()
            except CloisterError as error:
                if isinstance(error, FederationError) and self.stop.exists():
                    self.progress.tell(JobState.STOPPED, message="The operator asked to stop.")
                    return
                self._fail(error)
                raise

    def _finish(self) -> None:
        rounds = self.study.rounds
        self.progress.tell(JobState.FINISHED, round_number=rounds, message=f"The release is in {self.release}.")

    def _fail(self, error: CloisterError) -> None:
        """Write a failure down, unless it may pass: what the system could not do it may do another time."""
        if isinstance(error.__cause__, OSError):
            self.progress.tell(JobState.WAITING, message=str(error))
        else:
            self.progress.tell(JobState.FAILED, message=str(error))

    def _clean(self) -> None:
        """Remove what killed processes left half written; only whoever holds the lock may."""
        for draft in self.folder.glob(f".{_RELEASE}-*"):
            shutil.rmtree(draft, ignore_errors=True)
        for pattern in (f".{_RUN_FILE}.*", f".{_PROGRESS}.*", f"{_CHECKPOINTS}/.{_SUM}.*"):
            for draft in self.folder.glob(pattern):
                draft.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, *, tries: int = 1) -> Iterator[bool]:
    """Hold a lock that dies with its process; yields whether it was free.

    Whoever only looks holds it for a moment; so whoever wants to work tries more than once.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Let the coordinator write there.") from error
    try:
        yield any(_try(descriptor, last=number == tries) for number in range(1, tries + 1))
    finally:
        os.close(descriptor)


def _try(descriptor: int, *, last: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not last:
            time.sleep(_TRY_SECONDS)
        return False
    return True
