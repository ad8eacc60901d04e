"""The journal of a sweep: one JSON line for everything that happened, on the disk before anything else happens.

A sweep that was killed goes on from its journal; a line that was being written when it was killed is cut off, and
what it was about is done again.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from protocol.errors import InputError

_OTHER = "Give another -o, or the options that this journal was begun with."


class Journal:
    """An open journal; only one process may hold it.

    Args:
        path: Its file; made if it is not there.
        head: What the sweep is, as JSON's types; a journal of another sweep is refused.

    Raises:
        InputError: If it belongs to another sweep, is held by another process, damaged, or cannot be written.
    """

    def __init__(self, path: Path, *, head: Mapping[str, Any]) -> None:
        self.path = path
        try:
            # Held open until `close`, which the context manager calls.
            self._file: IO[bytes] = path.open("a+b")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy="Choose a folder that can be written.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.lines = self._read()
            self._begin(head)
        except BlockingIOError as error:
            self._file.close()
            raise InputError(f"{path} is in use: this sweep is running.", remedy="Wait for it, or stop it.") from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """The journal itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self._file.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line, and wait until it is on the disk.

        Raises:
            OSError: If it cannot be written.
        """
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines.append(dict(line))

    def find(self, kind: str, **keys: Any) -> dict[str, Any] | None:
        """Return the last line of a kind with these values, or None."""
        found = [line for line in self.kind(kind) if all(line.get(key) == value for key, value in keys.items())]
        return found[-1] if found else None

    def kind(self, kind: str) -> Iterable[dict[str, Any]]:
        """Return all lines of a kind, in order."""
        return [line for line in self.lines if line["kind"] == kind]

    def _read(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise InputError(f"{self.path} is no journal of a sweep.", remedy=_OTHER) from error
        kinds = [line.get("kind") if isinstance(line, dict) else None for line in lines]
        if not all(isinstance(kind, str) for kind in kinds) or (kinds and kinds[0] != "sweep"):
            raise InputError(f"{self.path} is no journal of a sweep.", remedy=_OTHER)
        return lines

    def _begin(self, head: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps({"kind": "sweep", **head}))
        if len(self.lines) < 2:  # begun, and nothing done: whatever it was begun for is given up
            self._file.truncate(0)
            self.lines = []
            self.append(wanted)
            return
        found = self.lines[0]
        differ = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
        if differ:
            raise InputError(f"{self.path} is of another sweep: {', '.join(differ)} differ.", remedy=_OTHER)
