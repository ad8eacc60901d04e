"""Read Arrow columns of whatever type a source delivers as texts, numbers or days.

Columns of few different values are looked at once per value, the others once per row, and never in a
Python loop over rows.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from records.bins import Floats
from records.column import number_of

Mask = npt.NDArray[np.bool_]

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_NOT_FINITE = r"(?i)^[+-]?(nan|inf|infinity)$"
_ISO_DATE = r"^\d{4}-\d{2}-\d{2}$"
_MIDNIGHT = r"[ T]00:00(:00(\.0+)?)?$"
_PADDING = r"(^|[^0-9])0+([0-9])"


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """A column read as numbers (or days since 1970-01-01).

    Attributes:
        values: float64 [n]; meaningless where ``missing`` or ``unreadable``.
        missing: bool [n].
        unreadable: bool [n].
    """

    values: Floats
    missing: Mask
    unreadable: Mask


def flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Give one plain array: chunks joined, dictionaries decoded, wide texts narrowed."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # an empty chunked array stays chunked
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array


def texts(array: pa.Array) -> pa.Array | None:
    """Write values as trimmed text; None when the type has no text (binary, lists, structures).

    Args:
        array: Plain array, as of :func:`flat`.

    Returns:
        String array [n] with nulls kept, or None.
    """
    try:
        return pc.utf8_trim_whitespace(pc.cast(array, pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def truth(mask: pa.Array) -> Mask:
    """Turn an Arrow boolean array into NumPy, null counting as False."""
    return np.asarray(pc.fill_null(mask, fill_value=False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def is_text(array: pa.Array) -> bool:
    """Tell whether the values are texts."""
    kind = array.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def numbers(array: pa.Array, *, tokens: tuple[str, ...], decimal: str) -> Reading:
    """Read a column as float64.

    Args:
        array: Plain array of n values, text or numeric.
        tokens: Texts that mean missing; one that is a number also counts in any other spelling of it.
        decimal: Decimal mark of texts.

    Returns:
        The reading.
    """
    reading = _text_numbers(array, tokens, decimal) if is_text(array) else _typed_numbers(array)
    sentinels = [number for number in map(number_of, tokens) if number is not None]
    missing = reading.missing | np.isin(reading.values, sentinels) if sentinels else reading.missing
    if not is_text(array) and "nan" in (token.lower() for token in tokens):
        missing = missing | np.isnan(reading.values)
    return Reading(values=reading.values, missing=missing, unreadable=reading.unreadable & ~missing)


def _text_numbers(array: pa.Array, tokens: tuple[str, ...], decimal: str) -> Reading:
    trimmed = texts(array)
    missing = pc.or_(pc.is_null(trimmed), pc.is_in(trimmed, value_set=pa.array(("", *tokens), pa.string())))
    present = pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)
    clash = None
    if decimal == ",":
        # "1.234" is a thousand in such a file, and must not be read as one and a bit.
        clash = pc.match_substring(present, ".")
        present = pc.replace_substring(present, ",", ".")
    try:
        values = pc.cast(present, pa.float64())
        readable = pc.is_valid(present)
    except pa.ArrowInvalid:
        readable = pc.or_(pc.match_substring_regex(present, _NUMBER), pc.match_substring_regex(present, _NOT_FINITE))
        values = pc.cast(pc.if_else(readable, present, pa.scalar(None, pa.string())), pa.float64())
    gone = truth(missing)
    unreadable = ~truth(readable) & ~gone
    if clash is not None:
        unreadable |= truth(clash)
    return Reading(values=_floats(values), missing=gone, unreadable=unreadable)


def _typed_numbers(array: pa.Array) -> Reading:
    missing = truth(pc.is_null(array))
    kind = array.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or _exact(kind)):
        return Reading(values=np.zeros(len(array)), missing=missing, unreadable=~missing)
    wide = pc.cast(array, pa.uint8()) if pa.types.is_boolean(kind) else array
    return Reading(values=_floats(pc.cast(wide, pa.float64(), safe=False)), missing=missing, unreadable=missing & False)


def _exact(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind) or pa.types.is_null(kind))


def _floats(array: pa.Array) -> Floats:
    return np.asarray(pc.fill_null(array, 0.0).to_numpy(zero_copy_only=False), dtype=np.float64)


def days(array: pa.Array, *, tokens: tuple[str, ...], written: str | None) -> Reading:
    """Read a column as whole days since 1970-01-01; a time of day is left out.

    Args:
        array: Plain array of n values: texts, dates or timestamps.
        tokens: Texts that mean missing.
        written: How texts are written, as for strptime; None for ISO 8601 dates.

    Returns:
        The reading.
    """
    indices, unique = distinct(array)
    text = texts(_dates(unique))
    if text is None or not (is_text(array) or pa.types.is_temporal(array.type) or pa.types.is_null(array.type)):
        absent = indices < 0
        return Reading(values=np.zeros(len(array)), missing=absent, unreadable=~absent)
    gone = truth(pc.or_(pc.is_null(text), pc.is_in(text, value_set=pa.array(("", *tokens), pa.string()))))
    present = pc.if_else(pa.array(gone), pa.scalar(None, pa.string()), text)
    dates = _parsed(present, written if is_text(array) else None)
    values = np.asarray(pc.fill_null(pc.cast(dates, pa.int32()), 0).to_numpy(zero_copy_only=False), dtype=np.float64)
    bad = ~truth(pc.is_valid(dates)) & ~gone
    # Index -1 (null) reaches the entry appended last.
    return Reading(
        values=np.append(values, 0.0)[indices],
        missing=np.append(gone, np.True_)[indices],
        unreadable=np.append(bad, np.False_)[indices],
    )


def distinct(array: pa.Array) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Split a column into its different values and, for each row, the index of its value (-1 for null)."""
    encoded = array.dictionary_encode()
    indices = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return np.asarray(indices, dtype=np.int32), encoded.dictionary


def _dates(values: pa.Array) -> pa.Array:
    if not pa.types.is_timestamp(values.type):
        return values
    local = pc.local_timestamp(values) if values.type.tz is not None else values
    return pc.cast(local, pa.date32(), safe=False)


def _parsed(text: pa.Array, written: str | None) -> pa.Array:
    """Read different texts as dates; null where a text is none (30 February included)."""
    if written is not None:
        return _by_format(text, written)
    try:
        return pc.cast(text, pa.date32())
    except pa.ArrowInvalid:
        iso = pc.replace_substring_regex(text, _MIDNIGHT, "")
        dates = pc.match_substring_regex(iso, _ISO_DATE)
        return _by_format(pc.if_else(dates, iso, pa.scalar(None, pa.string())), "%Y-%m-%d")


def _by_format(text: pa.Array, written: str) -> pa.Array:
    stamps = pc.strptime(text, format=written, unit="s", error_is_null=True)
    # strptime turns 30 February into 2 March, always an early day of the next month: writing such dates again
    # tells the two apart.
    early = pc.less_equal(pc.day(stamps), 3)
    again = pc.strftime(pc.if_else(early, stamps, pa.scalar(None, stamps.type)), format=written)
    same = pc.or_(pc.invert(early), pc.fill_null(pc.equal(_unpadded(again), _unpadded(text)), fill_value=False))
    return pc.cast(pc.if_else(same, stamps, pa.scalar(None, stamps.type)), pa.date32(), safe=False)


def _unpadded(text: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(pc.utf8_lower(text), _PADDING, r"\1\2")
