"""Guess how a text file is written, from its first lines."""

import csv
import dataclasses
import itertools
from collections import Counter
from pathlib import Path

from protocol.errors import RecordsError
from records.schema import Format
from records.sources.csv import SEPARATORS, dialect, open_text
from records.sources.source import forbidden

SAMPLE_LINES = 200
_MOST_SKIPPED = 5
_ENCODINGS = ("utf-8", "latin-1")


def sniffed_form(location: str | Path) -> Format:
    """Guess separator, header, lines to skip and encoding.

    Args:
        location: As for :func:`records.sources.open_source`; what is no text file gets the default form.

    Returns:
        The form. Columns of a file without header are named ``column_1``, ``column_2`` and so on.

    Raises:
        RecordsError: The file is empty or cannot be read.
    """
    if "://" in str(location) or Path(location).suffix in (".parquet", ".pq"):
        return Format()
    path = Path(location)
    encoding, lines = _sample(path)
    if not any(line.strip() for line in lines):
        raise RecordsError(f"{path.name}: the file is empty.", remedy="Give a file with records.")
    form, rows = max(
        ((form, _rows(lines, form)) for form in _candidates(encoding)),
        key=lambda pair: _evenness(pair[1]),
    )
    width = _usual_width(rows)
    skipped = next((index for index, row in enumerate(rows[:_MOST_SKIPPED]) if len(row) == width), 0)
    body = rows[skipped:]
    form = dataclasses.replace(form, skip_rows=skipped, decimal=_decimal(body, form.separator))
    if _has_header(body):
        return form
    names = tuple(f"column_{number}" for number in range(1, width + 1))
    return dataclasses.replace(form, header=False, names=names)


def _sample(path: Path) -> tuple[str, list[str]]:
    for encoding in _ENCODINGS:
        try:
            with open_text(path, Format(encoding=encoding)) as stream:
                for _ in stream:  # the first bad byte may be anywhere in the file
                    pass
            with open_text(path, Format(encoding=encoding)) as stream:
                return encoding, list(itertools.islice(stream, SAMPLE_LINES))
        except UnicodeError:
            continue
        except (OSError, EOFError) as error:
            if (found := forbidden(path, error)) is not None:
                raise found from None
            raise RecordsError(
                f"{path.name}: cannot be read ({type(error).__name__}).",
                remedy="Check that the file is there and whole.",
            ) from None
    raise RecordsError(f"{path.name}: is not text.", remedy="Give a text file, a Parquet file or a database.")


def _candidates(encoding: str) -> list[Format]:
    return [Format(separator=separator, encoding=encoding) for separator in SEPARATORS]


def _rows(lines: list[str], form: Format) -> list[list[str]]:
    try:
        rows = list(csv.reader(lines, dialect=dialect(form)))
    except csv.Error:
        return []
    return [[field.strip() for field in row] for row in rows if row]


def _usual_width(rows: list[list[str]]) -> int:
    return Counter(len(row) for row in rows).most_common(1)[0][0] if rows else 0


def _evenness(rows: list[list[str]]) -> tuple[bool, float, int]:
    """Rank a separator: it parts lines at all, most lines alike, and into many fields."""
    width = _usual_width(rows)
    alike = sum(len(row) == width for row in rows) / max(len(rows), 1)
    return width > 1 and alike > 0.5, alike, width


def _decimal(rows: list[list[str]], separator: str) -> str:
    """Guess the decimal mark: a comma when fields such as 3,5 occur and fields such as 3.5 do not."""
    if separator == ",":
        return "."
    fields = [field for row in rows for field in row]
    commas = sum(_is_number(field.replace(",", ".", 1)) for field in fields if "," in field)
    points = sum(_is_number(field) for field in fields if "." in field)
    return "," if commas > points else "."


def _has_header(rows: list[list[str]]) -> bool:
    """Guess whether the first row names the columns: different texts, no number, none occurring below."""
    first, rest = rows[0], rows[1:]
    if any(_is_number(field.replace(",", ".")) or field == "?" for field in first) or len(set(first)) < len(first):
        return False
    below = [{row[index] for row in rest if index < len(row)} for index in range(len(first))]
    return not any(name and name in fields for name, fields in zip(first, below, strict=True))


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
