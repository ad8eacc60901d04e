"""What every source of records offers."""

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa


class Source(Protocol):
    """A stream of records."""

    @property
    def name(self) -> str:
        """Name for messages: a file or table, never with a password."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the records from the beginning, without the dropped columns.

        Raises:
            RecordsError: The source cannot be read. The message holds no value of a record.
        """
        ...
