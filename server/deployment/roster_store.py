"""The roster's file: one SQLite database, many processes.

It is in write-ahead mode, because the gate looks a certificate up for every request and must not wait for somebody
who writes. In that mode SQLite keeps two more files beside it, and all of them belong on a local disk.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from protocol.errors import InputError

_VERSION = 1
_APPLICATION = 0x636C6F69  # "cloi"
_BUSY_SECONDS = 30.0
_CHECK = "Check the file, its disk and who may use it."
_SCHEMA = (
    """CREATE TABLE members (
        number INTEGER PRIMARY KEY, name TEXT NOT NULL, identity_key TEXT NOT NULL, node_key TEXT NOT NULL,
        certificate TEXT NOT NULL, not_after REAL NOT NULL, enrolled REAL NOT NULL, revoked REAL, seen REAL) STRICT""",
    "CREATE UNIQUE INDEX one_name ON members (name) WHERE revoked IS NULL",
    "CREATE UNIQUE INDEX one_identity ON members (identity_key) WHERE revoked IS NULL",
    "CREATE UNIQUE INDEX one_node ON members (node_key) WHERE revoked IS NULL",
    """CREATE TABLE certificates (
        digest TEXT PRIMARY KEY, member INTEGER NOT NULL REFERENCES members, not_after REAL NOT NULL) STRICT""",
    "CREATE INDEX certificates_of ON certificates (member)",
    """CREATE TABLE invitations (
        name TEXT PRIMARY KEY, secret TEXT NOT NULL, made REAL NOT NULL, expires REAL NOT NULL) STRICT""",
    f"PRAGMA user_version = {_VERSION}",
    f"PRAGMA application_id = {_APPLICATION}",
)


class RosterStore:
    """The open file; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection = _connect(path)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make an empty roster.

        Raises:
            InputError: If the file exists or cannot be made.
        """
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy="Choose another folder.") from error
        store = cls(path)
        store.one("PRAGMA journal_mode = WAL")
        with store.writing():
            for statement in _SCHEMA:
                store.execute(statement)
        return store

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a roster; never makes one.

        Raises:
            InputError: If it is missing, damaged or of another version.
        """
        store = cls(path)
        try:
            found = (store.one("PRAGMA user_version"), store.one("PRAGMA application_id"))
            if found != ((_VERSION,), (_APPLICATION,)):
                raise InputError(f"{path} is no roster of this version.", remedy="Put back the coordinator's roster.")
        except InputError:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def one(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row."""
        with self._locked():
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
            return row

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows."""
        with self._locked():
            return self._connection.execute(statement, values).fetchall()

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run a statement inside `writing`."""
        with self._locked():
            return self._connection.execute(statement, values)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the file's write lock; all of the block happens, or nothing of it."""
        with self._locked():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads away, and say in the project's words what SQLite complains about."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise InputError(f"{self._path} cannot be used: {error}.", remedy=_CHECK) from error


def _connect(path: Path) -> sqlite3.Connection:
    place = f"file:{quote(str(path.absolute()))}?mode=rw"
    try:
        connection = sqlite3.connect(
            place, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be opened: {error}.", remedy=_CHECK) from error
    try:
        # In write-ahead mode less than FULL would let a power cut bring a used code back.
        for pragma in ("synchronous = FULL", "fullfsync = ON", "trusted_schema = OFF", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as error:
        connection.close()
        raise InputError(f"{path} cannot be used: {error}.", remedy=_CHECK) from error
    return connection
