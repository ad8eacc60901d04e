"""Where records come from: files and databases, behind one closed table."""

from collections.abc import Callable
from pathlib import Path

from protocol.errors import RecordsError
from records.schema import Format, Schema
from records.sources.csv import CsvSource
from records.sources.idx import IdxSource
from records.sources.npz import NpzSource
from records.sources.parquet import ParquetSource
from records.sources.source import Source
from records.sources.sql import SqlSource

__all__ = ["Source", "open_location", "open_source", "path_of"]

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
    ".npz": NpzSource,
}
_IDX = "-idx3-ubyte"
_PART = "#"


def open_source(location: str | Path, *, schema: Schema, unread: tuple[str, ...] = ()) -> Source:
    """Open a file, or a table or query of a database.

    Args:
        location: Path of a text file (.csv .tsv .txt .data .test, also with .gz) or of a Parquet file
            (.parquet .pq), or an SQLAlchemy URL followed by ``#TABLE`` or ``#SELECT ...``, such as
            ``sqlite:///hospital.db#patients`` or ``postgresql+psycopg://user@host/db#public.visits``. Images: an
            .npz file, with ``#PART`` where it has parts (``chest.npz#train``), or a file in the IDX form of MNIST
            (``train-images-idx3-ubyte.gz``) with its labels beside it.
        schema: Says how a text file is written and which columns are left out.
        unread: Further columns to leave out, which the source need not have. A text file without header has all of
            them, or none.

    Returns:
        The source; nothing but its existence is checked yet.

    Raises:
        RecordsError: There is no such file, or its kind is not known.
    """
    source = open_location(location, form=schema.format, drop=schema.drop + unread)
    return source.without(unread) if isinstance(source, CsvSource) else source


def path_of(location: str | Path) -> Path:
    """Return what has to be readable for a source that is no database: its file, or where it has several their folder.

    Args:
        location: As for :func:`open_source`.

    Example:
        >>> path_of("scans/chest.npz#train").name, path_of("digits/train-images-idx3-ubyte.gz").name
        ('chest.npz', 'digits')
    """
    path = Path(location)
    base, mark, _ = str(location).rpartition(_PART)
    if mark and base.lower().endswith(".npz") and not path.exists():
        return Path(base)
    return path.parent if path.name.removesuffix(_COMPRESSED).endswith(_IDX) else path


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
    base, mark, part = str(location).rpartition(_PART)
    if mark and base.lower().endswith(".npz") and not path.exists() and Path(base).is_file():
        return NpzSource(Path(base), form, drop, part)
    if path.is_dir():
        raise RecordsError(f"{path.name}: is a folder.", remedy="Give the file of the records in it.")
    if not path.is_file():
        raise RecordsError(f"{path.name}: there is no such file.", remedy="Check the path.")
    if path.name.removesuffix(_COMPRESSED).endswith(_IDX):
        return IdxSource(path, form, drop)
    ending = (path.with_suffix("") if path.suffix == _COMPRESSED else path).suffix.lower()
    if ending not in _FILES:
        raise RecordsError(
            f"{path.name}: files of this kind cannot be read.", remedy=f"Use {', '.join(_FILES)}, IDX or SQL."
        )
    return _FILES[ending](path, form, drop)
