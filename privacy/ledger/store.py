"""Rows on disk: one SQLite file, append-only, durable before a call returns.

The rollback journal (not write-ahead logging) keeps everything in one file between writes; level EXTRA also
syncs the folder after a commit, so that a power cut cannot bring the journal back and undo an entry that was
already acted upon. The file must lie on a local disk: locks of network file systems cannot be relied on.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from privacy.ledger.entries import DAMAGED, UNFINISHED
from protocol.errors import LedgerError

_APPLICATION_ID = 0x436C6F69  # "Cloi"
_FORMAT = 1
_SCHEMA = (
    "CREATE TABLE entries (position INTEGER PRIMARY KEY, payload TEXT NOT NULL, hash TEXT NOT NULL UNIQUE,"
    " signature TEXT NOT NULL)",
    "CREATE TRIGGER entries_never_change BEFORE UPDATE ON entries"
    " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    "CREATE TRIGGER entries_never_vanish BEFORE DELETE ON entries"
    " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_FORMAT}",
)
_CAUSES = {
    sqlite3.SQLITE_BUSY: (
        "is locked by another process",
        "Wait for the other process to finish, then try again.",
    ),
    sqlite3.SQLITE_LOCKED: (
        "is locked by another process",
        "Wait for the other process to finish, then try again.",
    ),
    sqlite3.SQLITE_READONLY: ("cannot be written", "Make the file and its folder writable for the client."),
    sqlite3.SQLITE_READONLY_ROLLBACK: (
        "was interrupted in the middle of a write",
        "Open it once with the site's client, which undoes the unfinished write, then read it.",
    ),
    sqlite3.SQLITE_FULL: ("does not fit on the disk", "Free space on its disk, then try again."),
    sqlite3.SQLITE_IOERR: ("could not be read or written", "Check free space and health of its disk."),
    sqlite3.SQLITE_CANTOPEN: ("could not be opened", "Check its path and permissions."),
    sqlite3.SQLITE_CORRUPT: ("is damaged", DAMAGED),
    sqlite3.SQLITE_NOTADB: ("is damaged, or no ledger", DAMAGED),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stored entry, unchecked."""

    position: object
    payload: object
    hash: object
    signature: object


class Store:
    """A connection to the rows of one ledger.

    Args:
        path: The file, or SQLite's name for memory.
        name: How messages call the ledger.
        busy_seconds: How long to wait for another connection's lock.
        writable: Whether anything will be written.

    Raises:
        LedgerError: If it cannot be opened.
    """

    def __init__(self, path: Path | str, *, name: str, busy_seconds: float = 30.0, writable: bool = True) -> None:
        self._name = name
        with self._translated():
            self._connection = _connect(path, busy_seconds=busy_seconds, writable=writable)

    @classmethod
    def memory(cls) -> "Store":
        """A store that ends with the process."""
        store = cls(":memory:", name="The simulation's ledger")
        with store.transaction():
            store._create()
        return store

    @classmethod
    def create(cls, path: Path) -> "Store":
        """Creates the file, readable by its owner alone; never replaces one.

        Raises:
            LedgerError: If the file exists or cannot be made.
        """
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError as error:
            raise LedgerError(f"The ledger {path} exists already.", remedy="Open it; never replace it.") from error
        except OSError as error:
            raise LedgerError(
                f"The ledger {path} cannot be made ({error.strerror}).",
                remedy="Check its folder and permissions.",
            ) from error
        store = cls(path, name=f"The ledger {path}")
        try:
            with store.transaction():
                store._create()
        except LedgerError:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: Path, *, busy_seconds: float, writable: bool = True) -> "Store":
        """Opens an existing file and checks that it is an intact ledger of a known format.

        Raises:
            LedgerError: If it is missing, no ledger, of an unknown format, damaged or locked.
        """
        if not path.is_file():
            raise LedgerError(
                f"There is no ledger at {path}.",
                remedy="Mend the path, or create the ledger if nothing was ever released from this data set.",
            )
        store = cls(path, name=f"The ledger {path}", busy_seconds=busy_seconds, writable=writable)
        try:
            store.check_file()
        except LedgerError:
            store.close()
            raise
        return store

    def check_file(self) -> None:
        """Checks pages, identity, format and triggers of the file; errors as `open`."""
        with self._translated():
            identity = (self._value("PRAGMA application_id"), self._value("PRAGMA user_version"))
            if identity != (_APPLICATION_ID, _FORMAT):
                raise LedgerError(f"{self._name} is no ledger of format {_FORMAT}.", remedy=UNFINISHED)
            if self._value("PRAGMA quick_check(1)") != "ok":
                raise LedgerError(f"{self._name} is damaged.", remedy=DAMAGED)
            stored = {sql for (sql,) in self._connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
            if stored != {statement for statement in _SCHEMA if statement.startswith("CREATE")}:
                raise LedgerError(f"{self._name} has lost its append-only triggers.", remedy=DAMAGED)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Holds the write lock; commits durably at the end, or changes nothing.

        Raises:
            LedgerError: If the lock, a statement or the commit fails.
        """
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def rows(self, *, after: int) -> list[Row]:
        """All rows behind a position, in order."""
        with self._translated():
            found = self._connection.execute(
                "SELECT position, payload, hash, signature FROM entries WHERE position > ? ORDER BY position",
                (after,),
            )
            return [
                Row(position=position, payload=payload, hash=hash_, signature=signature)
                for position, payload, hash_, signature in found
            ]

    def append(self, *, position: int, payload: str, hash_: str, signature: str) -> None:
        """Writes one row inside a transaction."""
        with self._translated():
            self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (position, payload, hash_, signature))

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def _create(self) -> None:
        for statement in _SCHEMA:
            self._connection.execute(statement)

    def _value(self, sql: str) -> object:
        row = self._connection.execute(sql).fetchone()
        return row[0] if row else None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Says in the project's words what SQLite complains about."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0)
            other = (f"failed ({error})", "Check the file and its disk.")
            problem, remedy = _CAUSES.get(code, _CAUSES.get(code & 0xFF, other))
            raise LedgerError(f"{self._name} {problem}; nothing was charged.", remedy=remedy) from error


def _connect(path: Path | str, *, busy_seconds: float, writable: bool = True) -> sqlite3.Connection:
    """Opens a connection in autocommit mode, shared between threads under the ledger's own lock."""
    place = "file::memory:" if isinstance(path, str) else f"file:{quote(str(path.absolute()))}"
    mode = "" if isinstance(path, str) else ("?mode=rw" if writable else "?mode=ro")
    connection = sqlite3.connect(
        place + mode, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
