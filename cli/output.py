"""Files that commands write: complete, or not there at all."""

import gzip
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from protocol.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

_COMPRESSED = ".gz"


class TableFormat(StrEnum):
    """How rows are written."""

    PARQUET = "parquet"
    CSV = "csv"
    NPZ = "npz"
    PNG = "png"


_ENDINGS = {
    ".parquet": TableFormat.PARQUET,
    ".pq": TableFormat.PARQUET,
    ".csv": TableFormat.CSV,
    ".csv.gz": TableFormat.CSV,
    ".npz": TableFormat.NPZ,
    ".png": TableFormat.PNG,
}


def check_output(path: Path, *, force: bool) -> None:
    """Refuse a file that cannot be written, before any work is spent on it.

    Args:
        path: File to write.
        force: Whether an existing file may be replaced.

    Raises:
        InputError: It exists, is a folder, or its folder is not there.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder.", remedy="Give the name of a file.")
    if path.exists() and not force:
        raise InputError(f"{path} exists.", remedy="Choose another name, or add --force to replace it.")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder.", remedy="Make it first, or choose another one.")


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a path to write to, which takes its name only when the block ends well.

    Args:
        path: File to make.
        force: Whether an existing file may be replaced.

    Yields:
        A path beside it, which does not exist yet.

    Raises:
        InputError: The file exists without ``force``, or cannot be written.
    """
    check_output(path, force=force)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        check_output(path, force=force)  # hours may have passed
        part.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: {reason}.", remedy="Choose a folder with room that can be written.") from error
    finally:
        part.unlink(missing_ok=True)


def table_format(target: Path | None, chosen: TableFormat | None) -> TableFormat:
    """Decide how rows are written: as chosen, or by the ending of the file.

    Args:
        target: File, or None for standard output.
        chosen: What the user asked for, if anything.

    Raises:
        InputError: The ending is unknown, or the form does not go with the target.
    """
    if target is None:
        if chosen not in (None, TableFormat.CSV):
            name = str(chosen).capitalize()
            raise InputError(f"{name} cannot be written to standard output.", remedy=f"Add -o FILE.{chosen}.")
        return TableFormat.CSV
    by_ending = next((form for ending, form in _ENDINGS.items() if target.name.lower().endswith(ending)), None)
    form = chosen or by_ending
    if form is None:
        raise InputError(
            f"{target}: rows are not written as {target.suffix or 'a file without ending'}.",
            remedy="Use .parquet, .csv or .csv.gz, or .npz for images, or add --format.",
        )
    if form is not TableFormat.CSV and target.suffix.lower() == _COMPRESSED:
        name = str(form).capitalize()
        raise InputError(f"{target}: {name} is already compressed.", remedy=f"Use the ending .{form}.")
    return form


@contextmanager
def table_writer(
    target: Path | None, *, form: TableFormat, metadata: Mapping[str, str], force: bool
) -> Iterator[Callable[["pa.Table"], None]]:
    """Write tables one after the other; the file is there when the block ends well, or not at all.

    Args:
        target: File, or None for standard output.
        form: As of :func:`table_format`.
        metadata: Texts for the file's own metadata, where the form has any (Parquet).
        force: Whether an existing file may be replaced.

    Yields:
        A function that writes one more table; all have the same columns.

    Raises:
        InputError: The file exists without ``force``, or cannot be written.
    """
    if target is None:
        with _writing(sys.stdout.buffer, form, metadata) as write:
            yield write
        sys.stdout.buffer.flush()
        return
    with new_file(target, force=force) as part, part.open("xb") as raw:
        if target.suffix.lower() == _COMPRESSED:
            # Neither name nor time goes into the file: the same rows make the same bytes.
            packed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
            with packed, _writing(packed, form, metadata) as write:
                yield write
        else:
            with _writing(raw, form, metadata) as write:
                yield write


@contextmanager
def _writing(
    sink: IO[bytes] | gzip.GzipFile, form: TableFormat, metadata: Mapping[str, str]
) -> Iterator[Callable[["pa.Table"], None]]:
    """Open the writer with the columns of the first table; the sink stays open."""
    import pyarrow.csv as arrow_csv  # Arrow: slow to import
    import pyarrow.parquet as parquet

    writers: list[Any] = []

    def write(table: "pa.Table") -> None:
        if form is TableFormat.PARQUET:
            table = table.replace_schema_metadata(dict(metadata))
        if not writers:
            made = parquet.ParquetWriter if form is TableFormat.PARQUET else arrow_csv.CSVWriter
            writers.append(made(sink, table.schema))
        writers[0].write_table(table)

    try:
        yield write
    except BaseException:
        for writer in writers:
            # Left open it would complain when it is collected; the first error is the one to tell.
            with suppress(OSError, ValueError):
                writer.close()
        raise
    for writer in writers:
        writer.close()
