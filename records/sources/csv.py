"""Text files of separated fields, read as texts in blocks; compression is told by the file name."""

import csv
import io
import itertools
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv

from protocol.errors import RecordsError
from records.schema import Format
from records.sources.source import forbidden

BLOCK_BYTES = 4 << 20
_RELEASE_SECONDS = 10.0
SEPARATORS = (",", ";", "\t", "|", " ")


@dataclass(frozen=True)
class CsvSource:
    """A text file.

    Attributes:
        path: The file.
        form: How it is written.
        drop: Columns that are left out.
    """

    path: Path
    form: Format
    drop: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    def column_names(self) -> tuple[str, ...]:
        """Read the first line, or take the names that the form gives.

        Raises:
            RecordsError: The file is empty, of another encoding, or not separated as the form says.
        """
        return tuple(self._names()[0])

    def without(self, absent: Collection[str]) -> "CsvSource":
        """Return the source of a file without header that has none of some columns, if its first line is shorter so.

        Args:
            absent: Names in the form that the file may do without.

        Raises:
            RecordsError: The file is empty, or of another encoding.
        """
        names = tuple(name for name in self.form.names if name not in absent)
        if len(names) == len(self.form.names) or len(self._first_record()[0]) != len(names):
            return self
        return replace(self, form=replace(self.form, names=names))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the file; every column is text, an empty field is an empty text.

        Yields:
            Blocks of records.

        Raises:
            RecordsError: The file is empty, of another encoding, or its lines differ in number of fields.
        """
        names, lines = self._names()
        ragged = _RaggedRows()
        released = threading.Event()
        released.set()  # nothing is lent yet
        kept = [name for name in names if name not in self.drop]
        last = ""
        try:
            for batch in self._reader(names, lines, ragged, released):
                if batch.num_rows:
                    last = batch.column(names[-1])[-1].as_py()
                yield batch.select(kept)
        except (pa.ArrowInvalid, OSError, UnicodeError, LookupError) as error:
            raise self._unreadable(error) from None  # Arrow's own message quotes values
        finally:
            # A reader that failed lives on in Arrow's own thread for a moment. If Python ends meanwhile, letting go of
            # what Python lent it aborts the process, whatever its exit status was to be.
            released.wait(_RELEASE_SECONDS)
        if ragged.count:
            raise RecordsError(
                f"{self.name}: {ragged.count:,} rows have another number of fields than {len(names)}.",
                remedy="Mend these rows, or check separator and quote in [format].",
            )
        if "\n" in last or "\r" in last:
            self._check_closed()

    def _reader(
        self, names: list[str], lines: int, ragged: "_RaggedRows", released: threading.Event
    ) -> arrow_csv.CSVStreamingReader:
        # The last column is read even when it is dropped: an open quotation mark swallows lines into it.
        wanted = [name for name in names[:-1] if name not in self.drop] + names[-1:]
        return arrow_csv.open_csv(
            str(self.path),
            read_options=arrow_csv.ReadOptions(
                column_names=names, skip_rows=lines, block_size=BLOCK_BYTES, encoding=self.form.encoding
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=self.form.separator,
                quote_char=self.form.quote or False,
                newlines_in_values=bool(self.form.quote),
                invalid_row_handler=_lent(ragged.skip, released),
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=wanted,
                strings_can_be_null=False,
                null_values=[],
            ),
        )

    def _check_closed(self) -> None:
        """Refuse a file whose last field goes over several lines without a quotation mark at its end."""
        end = ""
        with open_text(self.path, self.form) as stream:
            for line in stream:
                end = line.rstrip() or end
        if not end.endswith(self.form.quote):
            raise RecordsError(
                f"{self.name}: a quotation mark is opened and never closed.",
                remedy='Mend it, or set quote = "" in [format] if it is a plain character.',
            )

    def _names(self) -> tuple[list[str], int]:
        """Give the names of the columns, and the number of lines before the first record."""
        header, lines = self._first_record()
        if not self.form.header:
            self._check_separator(len(header), len(self.form.names), header)
            return list(self.form.names), lines
        names = [name.strip() for name in header]
        if len(names) == 1:
            self._check_separator(1, 2, header)
        if len(set(names)) < len(names):
            raise RecordsError(
                f"{self.name}: two columns of the header have the same name.",
                remedy="Rename one, or set header = false with names in [format] if there is no header.",
            )
        return names, lines

    def _check_separator(self, found: int, wanted: int, fields: list[str]) -> None:
        # A blank comes last: names of columns may hold some.
        likely = max(
            SEPARATORS, key=lambda character: (character != " " and character in fields[0], fields[0].count(character))
        )
        if found == 1 and wanted > 1 and fields[0].count(likely):
            raise RecordsError(
                f"{self.name}: separator {self.form.separator!r} does not occur in the first line.",
                remedy=f"Write the file with the separator {self.form.separator!r}; or, where the schema is yours to "
                f"change, set separator = {_toml_text(likely)} in its [format].",
            )

    def _first_record(self) -> tuple[list[str], int]:
        """Give the fields of the first line that holds any, and the lines before the first record."""
        try:
            with open_text(self.path, self.form) as stream:
                skipped, lines = self._after_comments(stream)
                reader = csv.reader(lines, dialect=dialect(self.form))
                for fields in reader:
                    if any(field.strip() for field in fields):
                        return fields, skipped + (reader.line_num if self.form.header else 0)
        except (OSError, EOFError, UnicodeError, csv.Error) as error:
            raise self._unreadable(error) from None
        raise RecordsError(f"{self.name}: the file is empty.", remedy="Give a file with records.")

    def _after_comments(self, stream: Iterator[str]) -> tuple[int, Iterator[str]]:
        """Pass over the lines to skip; give their number and the lines that follow."""
        skipped = sum(1 for _ in itertools.islice(stream, self.form.skip_rows))
        for line in stream:
            if not (self.form.comment and line.startswith(self.form.comment)):
                return skipped, itertools.chain([line], stream)
            skipped += 1
        return skipped, iter(())

    def _unreadable(self, error: Exception) -> RecordsError:
        text = str(error)
        if (found := forbidden(self.path, error)) is not None:
            return found
        if isinstance(error, UnicodeError) or "UTF8" in text:
            return RecordsError(
                f"{self.name}: the text is not {self.form.encoding}.",
                remedy='Set encoding in [format] of the schema, often "latin-1".',
            )
        if "Could not skip" in text or "Empty CSV" in text:
            return RecordsError(f"{self.name}: holds no records.", remedy="Give a file with records below its header.")
        return RecordsError(
            f"{self.name}: cannot be read as separated text ({type(error).__name__}).",
            remedy="Check that the file is whole, and written as [format] of the study's schema says.",
        )


def _lent(handler: Callable[[object], str], released: threading.Event) -> Callable[[object], str]:
    """Return a handler of its own for one reader; the event is set when nobody holds it any more."""
    lent = partial(handler)
    released.clear()
    weakref.finalize(lent, released.set).atexit = False
    return lent


class _RaggedRows:
    """Counts rows of another length; Arrow calls it from its own threads, one at a time per reader."""

    def __init__(self) -> None:
        self.count = 0

    def skip(self, row: object) -> str:  # noqa: ARG002 -- the row holds values, and only its existence matters
        """Count a row and let Arrow go on, so that one report covers the file."""
        self.count += 1
        return "skip"


def open_text(path: Path, form: Format) -> io.TextIOWrapper:
    """Open a file as text, decompressing by its name.

    Args:
        path: The file.
        form: Gives the encoding; a byte-order mark is left out.

    Returns:
        A stream that keeps line ends as they are.
    """
    encoding = "utf-8-sig" if form.encoding.lower() in ("utf-8", "utf8") else form.encoding
    return io.TextIOWrapper(pa.input_stream(str(path), compression="detect"), encoding=encoding, newline="")


def dialect(form: Format) -> type[csv.Dialect]:
    """Give the dialect for Python's own reader, used for a few first lines only.

    Args:
        form: How the file is written.

    Returns:
        A dialect for ``csv.reader``.
    """

    class Dialect(csv.excel):
        delimiter = form.separator
        quotechar = form.quote or None
        quoting = csv.QUOTE_MINIMAL if form.quote else csv.QUOTE_NONE

    return Dialect


def _toml_text(character: str) -> str:
    return r'"\t"' if character == "\t" else f'"{character}"'
