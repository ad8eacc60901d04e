"""Where records come from: files and databases, behind one closed table."""

from collections.abc import Callable
from pathlib import Path

from protocol.errors import RecordsError
from records.schema import Format, Schema
from records.sources.csv import CsvSource
from records.sources.parquet import ParquetSource
from records.sources.source import Source
from records.sources.sql import SqlSource

__all__ = ["Source", "open_location", "open_source"]

_SQL = "://"
_COMPRESSED = ".gz"

_FILES: dict[str, Callable[[Path, Format, tuple[str, ...]], Source]] = {
    ".csv": CsvSource,
    ".tsv": CsvSource,
    ".txt": CsvSource,
    ".data": CsvSource,
    ".test": CsvSource,
    ".parquet": ParquetSource,
    ".pq": ParquetSource,
}


def open_source(location: str | Path, *, schema: Schema) -> Source:
    """Open a file, or a table or query of a database.

    Args:
        location: Path of a text file (.csv .tsv .txt .data .test, also with .gz) or of a Parquet file
            (.parquet .pq), or an SQLAlchemy URL followed by ``#TABLE`` or ``#SELECT ...``, such as
            ``sqlite:///hospital.db#patients`` or ``postgresql+psycopg://user@host/db#public.visits``.
        schema: Says how a text file is written and which columns are left out.

    Returns:
        The source; nothing but its existence is checked yet.

    Raises:
        RecordsError: There is no such file, or its kind is not known.
    """
    return open_location(location, form=schema.format, drop=schema.drop)


def open_location(location: str | Path, *, form: Format, drop: tuple[str, ...]) -> Source:
    """Open a source as :func:`open_source`, before there is a schema.

    Args:
        location: As for :func:`open_source`.
        form: How a text file is written.
        drop: Columns to leave out.

    Returns:
        The source.

    Raises:
        RecordsError: There is no such file, or its kind is not known.
    """
    if _SQL in str(location):
        return SqlSource(str(location), drop)
    path = Path(location)
    if path.is_dir():
        raise RecordsError(f"{path.name}: is a folder.", remedy="Give the file of the records in it.")
    if not path.is_file():
        raise RecordsError(f"{path.name}: there is no such file.", remedy="Check the path.")
    ending = (path.with_suffix("") if path.suffix == _COMPRESSED else path).suffix.lower()
    if ending not in _FILES:
        raise RecordsError(
            f"{path.name}: files of this kind cannot be read.", remedy=f"Use {', '.join(_FILES)} or SQL."
        )
    return _FILES[ending](path, form, drop)
