"""Parquet files, read in row batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from protocol.errors import RecordsError
from records.schema import Format
from records.sources.source import forbidden

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class ParquetSource:
    """A Parquet file.

    Attributes:
        path: The file.
        form: Ignored: a Parquet file describes itself.
        drop: Columns that are left out, and not even read.
    """

    path: Path
    form: Format
    drop: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    def column_names(self) -> tuple[str, ...]:
        """Read the names of all columns from the end of the file.

        Raises:
            RecordsError: The file is damaged or no Parquet file.
        """
        try:
            with parquet.ParquetFile(self.path) as file:
                return tuple(file.schema_arrow.names)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise self._unreadable(error) from None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the file with its own types.

        Yields:
            Blocks of records.

        Raises:
            RecordsError: The file is damaged or no Parquet file.
        """
        try:
            with parquet.ParquetFile(self.path) as file:
                kept = [name for name in file.schema_arrow.names if name not in self.drop]
                yield from file.iter_batches(batch_size=BATCH_ROWS, columns=kept)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> RecordsError:
        return forbidden(self.path, error) or RecordsError(
            f"{self.name}: cannot be read as Parquet ({type(error).__name__}).",
            remedy="Check that the file is whole and a Parquet file.",
        )
