"""What every source of records offers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from protocol.errors import RecordsError


class Source(Protocol):
    """A stream of records."""

    @property
    def name(self) -> str:
        """Name for messages: a file or table, never with a password."""
        ...

    def column_names(self) -> tuple[str, ...]:
        """Read the names of all columns, and no more than that needs.

        Raises:
            RecordsError: The source cannot be read. The message holds no value of a record.
        """
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the records from the beginning, without the dropped columns.

        Raises:
            RecordsError: The source cannot be read. The message holds no value of a record.
        """
        ...


def forbidden(path: Path, error: Exception) -> RecordsError | None:
    """Return what to say of a file that this account may not read; None where that is not the reason."""
    if not isinstance(error, PermissionError):
        return None
    return RecordsError(
        f"{path.name}: this account may not read it.",
        remedy=f"Let the account that runs the client read {path}, and enter the folders above it.",
    )
