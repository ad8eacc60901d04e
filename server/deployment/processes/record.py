"""What a supervisor writes down about itself, so that its successor can clear up after it, and others can ask."""

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from protocol.errors import InputError
from protocol.keys import replace_private
from server.deployment.processes.identity import ProcessIdentity, end_strays

MARK_VARIABLE = "CLOISTER_SUPERVISOR"
_VERSION = 1
_RECORD, _LOCK = "supervisor.json", "supervisor.lock"


@dataclass(frozen=True, kw_only=True)
class SupervisorRecord:
    """A supervisor and its programs.

    Attributes:
        mark: Value of ``CLOISTER_SUPERVISOR`` in the environment of all that it started; random.
        supervisor: Its own process.
        children: The processes that it started itself.
        ready: Since when everything answers, ISO 8601; empty before.
        problems: What somebody has to mend, a sentence each.
    """

    mark: str
    supervisor: ProcessIdentity
    children: tuple[ProcessIdentity, ...]
    ready: str
    problems: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return what the last supervisor of a folder wrote down; None where that cannot be read."""
        try:
            values = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            return cls(
                mark=str(values["mark"]),
                supervisor=ProcessIdentity(**values["supervisor"]),
                children=tuple(ProcessIdentity(**child) for child in values["children"]),
                ready=str(values["ready"]),
                problems=tuple(map(str, values["problems"])),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Write it down, whole and durable.

        Raises:
            InputError: If the folder cannot be written.
        """
        replace_private(folder / _RECORD, json.dumps({"version": _VERSION} | asdict(self), indent=1).encode())


class SupervisorLock:
    """The right to be the one supervisor of a folder; it ends with the process, however that ends.

    Args:
        folder: The coordinator's folder.

    Raises:
        InputError: Another process has it, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / _LOCK
        try:
            # Not inherited by children: it must end with this process, not with theirs.
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            found = SupervisorRecord.read(folder)
            raise InputError(
                f"A coordinator runs on {folder} already (process {found.supervisor.pid if found else 'unknown'}).",
                remedy="End that one first, or leave it running.",
            ) from error
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy="Check who may write there.") from error

    def clear_up(self) -> list[int]:
        """End what the last supervisor of this folder left behind, and nothing else.

        Returns:
            The process ids that were ended.
        """
        found = SupervisorRecord.read(self._folder)
        if found is None or not found.mark:
            return []
        return end_strays(found.children, variable=MARK_VARIABLE, value=found.mark)

    def release(self) -> None:
        """Give the right back."""
        os.close(self._descriptor)


def is_supervised(folder: Path) -> bool:
    """Return whether a supervisor runs on a folder."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def new_record() -> SupervisorRecord:
    """Return the record of this process as a supervisor, with a new mark."""
    this = ProcessIdentity.of(os.getpid())
    return SupervisorRecord(
        mark=secrets.token_hex(16),
        supervisor=this or ProcessIdentity(pid=os.getpid(), started=0, boot=""),
        children=(),
        ready="",
        problems=(),
    )
