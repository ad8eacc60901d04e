"""Records to codes and back: the only form in which a model meets a record."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from protocol.errors import RecordsError
from records.bins import Bins, Codes, Floats
from records.column import OTHER, Column, Kind, OutOfBounds
from records.identifiers import looks_like_free_text, looks_like_identifier
from records.images import IMAGE_COLUMN, column_images, decode_images, encode_images, image_column
from records.reading import Reading, days, distinct, flat, numbers, texts, truth
from records.rejects import Fault, Rejects
from records.schema import Schema

_WHOLE_AS_FLOAT = r"^([+-]?[0-9]+)\.0*$"
_NOWHERE = -1


class _ColumnCodec(Protocol):
    """Codes of one column."""

    def encode(self, array: pa.Array, rejects: Rejects) -> Codes: ...

    def decode(self, codes: Codes, *, generator: np.random.Generator) -> pa.Array: ...


class Codec:
    """Encodes records by a schema, and decodes codes into records.

    Args:
        schema: The data dictionary.
        fixed: For columns that are not read from a source, the code that every record gets there.

    Examples:
        >>> schema = Schema(columns=(Column(name="age", kind=Kind.INTEGER, lower=0, upper=89, missing=True),))
        >>> codec = Codec(schema)
        >>> codes = codec.encode(pa.table({"age": [0, None, 89]}), source="example")
        >>> codes[:, 0].tolist()
        [0, 90, 89]
        >>> codec.decode(codes, generator=np.random.default_rng(0))["age"].to_pylist()
        [0, None, 89]
    """

    def __init__(self, schema: Schema, *, fixed: Mapping[str, int] = MappingProxyType({})) -> None:
        self.schema = schema
        self._fixed = dict(fixed)
        self._columns = tuple(_column_codec(column, schema) for column in schema.columns)

    def encode(self, batch: pa.RecordBatch | pa.Table, *, source: str) -> Codes:
        """Encode records, refusing all of them when one value does not fit.

        Args:
            batch: n records; columns may be texts or typed.
            source: Name of the file or table, for errors.

        Returns:
            int32 [n, C], column j in ``0..K_j-1``; where the schema has an image, its pixel codes come after them.
            Fewer than n, where records break a constraint that says to drop them.

        Raises:
            RecordsError: A column is lacking or not mentioned in the schema, or values do not fit.
        """
        rejects = Rejects()
        codes, kept = self.encode_counting(batch, rejects, source=source)
        rejects.refuse(source)
        return codes[kept]

    def encode_counting(
        self, batch: pa.RecordBatch | pa.Table, rejects: Rejects, *, source: str
    ) -> tuple[Codes, npt.NDArray[np.bool_]]:
        """Encode records and count, rather than refuse, values that do not fit.

        Args:
            batch: n records.
            rejects: Receives the counts. Codes are void until its ``refuse`` has passed.
            source: Name of the file or table, for errors.

        Returns:
            int32 [n, C], and bool [n]: the records to keep, all but those that a constraint says to drop.

        Raises:
            RecordsError: A column is lacking or not mentioned in the schema.
        """
        check_columns(batch, self.schema, source=source, fixed=self._fixed.keys())
        rejects.rows += batch.num_rows
        codes = np.empty((batch.num_rows, len(self._columns)), dtype=np.int32)
        for index, (name, column) in enumerate(zip(self.schema.names, self._columns, strict=True)):
            if name in self._fixed:
                codes[:, index] = self._fixed[name]
            else:
                codes[:, index] = column.encode(flat(batch.column(name)), rejects)
        kept = self._checked(batch, codes, rejects)
        if self.schema.image is None:
            return codes, kept
        pixels = column_images(batch.column(IMAGE_COLUMN), source=source)
        return np.concatenate([codes, encode_images(pixels, self.schema.image, source=source)], axis=1), kept

    def _checked(self, batch: pa.RecordBatch | pa.Table, codes: Codes, rejects: Rejects) -> npt.NDArray[np.bool_]:
        """Hold records that fit so far against the schema's constraints, on their values rather than their cells."""
        book = self.schema.rule_book
        if not book.rules or not rejects.none:
            return np.ones(len(codes), dtype=np.bool_)
        values = {index: self._values(batch, index) for index in book.measured}
        fixed = {index for index, name in enumerate(self.schema.names) if name in self._fixed}
        return book.check(codes, values, rejects, fixed=fixed)

    def _values(self, batch: pa.RecordBatch | pa.Table, index: int) -> Floats:
        column, name = self._columns[index], self.schema.names[index]
        if name in self._fixed or not isinstance(column, _CellCodec):
            return np.full(batch.num_rows, np.nan)
        return column.values(flat(batch.column(name)))

    def decode(
        self,
        codes: Codes,
        *,
        generator: np.random.Generator,
        values: Mapping[int, Floats] = MappingProxyType({}),
    ) -> pa.Table:
        """Turn codes into records: numbers and dates are drawn within their cell, evenly on its scale.

        Encoding the result gives back exactly ``codes``.

        Args:
            codes: int [n, C], column j in ``0..K_j-1``, and pixel codes after them where the schema has an image.
            generator: Source of randomness.
            values: For the index of a number or date column, values float64 [n] that are written instead of drawn
                ones, NaN for missing; see `records.completion`.

        Returns:
            n records: string, int64, float64, bool and date32 columns, null where missing; images as a column of
            tensors [height, width, channels] of unsigned bytes.

        Raises:
            RecordsError: The codes have another shape or are out of range.
        """
        check_codes(codes, self.schema)
        arrays = [
            column.written(values[index])
            if index in values and isinstance(column, _CellCodec)
            else column.decode(np.ascontiguousarray(codes[:, index], dtype=np.int32), generator=generator)
            for index, column in enumerate(self._columns)
        ]
        table = pa.table(arrays, names=list(self.schema.names))
        if self.schema.image is None:
            return table
        pixels = decode_images(codes[:, len(self._columns) :], self.schema.image)
        return table.append_column(IMAGE_COLUMN, image_column(pixels))

    def numeric(self, codes: Codes) -> Floats:
        """Give each code its number: mid-point of a cell, rank of an ordinal category, truth value as 0 or 1.

        Dates count in days since 1970-01-01. Meant for correlations.

        Args:
            codes: int [n, C], column j in ``0..K_j-1``.

        Returns:
            float64 [n, C]; NaN where missing, and everywhere in a categorical column.

        Raises:
            RecordsError: The codes have another shape or are out of range.
        """
        check_codes(codes, self.schema)
        numbers_of = [column.code_numbers[codes[:, index]] for index, column in enumerate(self.schema.columns)]
        return np.stack(numbers_of, axis=1)


def check_codes(codes: npt.NDArray[np.integer], schema: Schema) -> None:
    """Refuse codes that the schema does not have.

    Args:
        codes: int [n, C].
        schema: The data dictionary.

    Raises:
        RecordsError: Wrong shape or type, or a code out of range.
    """
    wanted = len(schema.code_cardinalities)
    if codes.ndim != 2 or codes.shape[1] != wanted or not np.issubdtype(codes.dtype, np.integer):
        raise RecordsError(
            f"Codes are {codes.dtype} of shape {codes.shape}.",
            remedy=f"Give integers of shape (n, {wanted}).",
        )
    if not len(codes):
        return
    outside = (codes.min(axis=0) < 0) | (codes.max(axis=0) >= np.asarray(schema.code_cardinalities))
    if outside[len(schema.columns) :].any():
        raise RecordsError("Pixels: codes out of range.", remedy="Codes must lie in 0..levels-1.")
    if outside.any():
        column = schema.columns[int(np.argmax(outside))]
        raise RecordsError(
            f"Column {column.name}: codes out of range.",
            remedy=f"Codes must lie in 0..{column.cardinality - 1}.",
        )


def check_columns(
    batch: pa.RecordBatch | pa.Table, schema: Schema, *, source: str, fixed: Collection[str] = ()
) -> None:
    """Refuse records whose columns are not those of the schema.

    Args:
        batch: Records; dropped columns and the person key may be absent.
        schema: The data dictionary.
        source: Name of the file or table, for errors.
        fixed: Columns that are not read from the source, and may be absent.

    Raises:
        RecordsError: A column is lacking, occurs twice, or is not mentioned in the schema.
    """
    present, known = list(batch.schema.names), set(schema.source_names)
    needed = set(schema.names).difference(fixed) | ({IMAGE_COLUMN} if schema.image is not None else set())
    found = needed.intersection(present)
    if len(found) * 2 < len(needed):
        # The names found may be values of a first record, so none is told.
        raise RecordsError(
            f"{source}: only {len(found)} of {len(needed)} columns of the schema were found.",
            remedy="Check [format]: separator, skip_rows, and header = false with names for a bare file.",
        )
    lacking = [name for name in (*schema.names, *sorted(needed)) if name in needed - found]
    if lacking:
        raise RecordsError(
            f"{source}: column {lacking[0]}: is not there.",
            remedy="Mend its name, or the schema; a study may state that a site lacks it, under [federation.lacking].",
        )
    twice = [name for name in present if present.count(name) > 1]
    if twice:
        raise RecordsError(f"{source}: column {twice[0]}: occurs twice.", remedy="Give every column its own name.")
    for name in present:
        if name not in known:
            raise _unmentioned(name, flat(batch.column(name)), source)


def _unmentioned(name: str, values: pa.Array, source: str) -> RecordsError:
    if looks_like_identifier(name) or looks_like_free_text(values):
        return RecordsError(
            f"{source}: column {name}: looks like an identifier or free text, and is not in the schema.",
            remedy="Add it to drop in the schema, or make it the person key.",
        )
    return RecordsError(
        f"{source}: column {name}: is not mentioned in the schema.",
        remedy="Add it to columns, or to drop to leave it out.",
    )


def _column_codec(column: Column, schema: Schema) -> _ColumnCodec:
    tokens = (*schema.missing_values, *column.missing_values)
    if column.cells is not None:
        return _CellCodec(column=column, cells=column.cells, tokens=tokens, decimal=schema.format.decimal)
    if column.kind is Kind.BOOLEAN:
        meaning = {word.lower(): code for code in (0, 1) for word in column.words(truth=bool(code))}
        values = pa.array([False, True, None], pa.bool_())
    else:
        meaning = {category: code for code, category in enumerate(column.categories)}
        meaning |= {alias: meaning[category] for alias, category in column.aliases}
        values = pa.array([*column.categories, *([OTHER] if column.other else []), None], pa.string())
    return _NamedCodec(column=column, tokens=tokens, meaning=meaning, values=values)


@dataclass(frozen=True, kw_only=True, eq=False)
class _NamedCodec:
    """Codes of a categorical, ordinal or boolean column.

    Attributes:
        column: The column.
        tokens: Texts that mean missing.
        meaning: Code of each known text.
        values: Arrow array: the value of each code, and null last.
    """

    column: Column
    tokens: tuple[str, ...]
    meaning: dict[str, int]
    values: pa.Array

    def encode(self, array: pa.Array, rejects: Rejects) -> Codes:
        indices, unique = _distinct_or_whole(array)
        text = texts(unique)
        if text is None:
            rejects.add(self.column.name, Fault.UNREADABLE, int((indices >= 0).sum()))
            return np.zeros(len(array), dtype=np.int32)
        per_text = np.append(self._codes_of(text, truths=pa.types.is_boolean(unique.type)), self._missing_code())
        codes: Codes = per_text[indices].astype(np.int32)
        self._count(codes, rejects)
        return codes

    def _codes_of(self, text: pa.Array, *, truths: bool) -> npt.NDArray[np.int64]:
        """Give the code of each different text; -1 if it is unknown, -2 if it is missing but may not be."""
        if truths and self.column.kind is Kind.BOOLEAN:
            return truth(pc.equal(text, "true")).astype(np.int64)
        codes = self._looked_up(text)
        whole = pc.replace_substring_regex(text, _WHOLE_AS_FLOAT, r"\1")  # "39.0" for the category "39"
        codes = np.where(codes == _NOWHERE, self._looked_up(whole), codes)
        if self.column.other:
            codes = np.where(codes == _NOWHERE, len(self.column.categories), codes)
        empty = pa.array(("", *self.tokens), pa.string())
        gone = truth(pc.or_(pc.is_null(text), pc.or_(pc.is_in(text, empty), pc.is_in(whole, empty))))
        return np.where(gone, self._missing_code(), codes)

    def _looked_up(self, text: pa.Array) -> npt.NDArray[np.int64]:
        asked = pc.utf8_lower(text) if self.column.kind is Kind.BOOLEAN else text
        found = pc.index_in(asked, value_set=pa.array(list(self.meaning), pa.string()))
        table = np.array([*self.meaning.values(), _NOWHERE], dtype=np.int64)
        return np.asarray(table[pc.fill_null(found, -1).to_numpy(zero_copy_only=False)], dtype=np.int64)

    def _missing_code(self) -> int:
        return self.column.values_cardinality if self.column.missing else -2

    def _count(self, codes: Codes, rejects: Rejects) -> None:
        boolean = self.column.kind is Kind.BOOLEAN
        unknown = Fault.NOT_BOOLEAN if boolean else Fault.UNKNOWN
        rejects.add(self.column.name, unknown, int((codes == _NOWHERE).sum()))
        rejects.add(self.column.name, Fault.MISSING, int((codes == -2).sum()))

    def decode(self, codes: Codes, *, generator: np.random.Generator) -> pa.Array:  # noqa: ARG002 -- one protocol
        # The missing code is the last one and falls on the null that ends ``values``.
        return pc.take(self.values, pa.array(codes))


def _distinct_or_whole(array: pa.Array) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Split into different values; a type that Arrow cannot hash is passed on whole."""
    try:
        return distinct(array)
    except pa.ArrowNotImplementedError:
        return np.where(truth(pc.is_null(array)), -1, np.arange(len(array))).astype(np.int32), array


@dataclass(frozen=True, kw_only=True, eq=False)
class _CellCodec:
    """Codes of an integer, continuous or date column."""

    column: Column
    cells: Bins
    tokens: tuple[str, ...]
    decimal: str

    def encode(self, array: pa.Array, rejects: Rejects) -> Codes:
        reading = self._read(array)
        fits = self._fitting(reading, rejects)
        values = np.where(fits, np.clip(reading.values, self._lower, self._upper), self._lower)
        codes = self.cells.codes(values)
        if self.column.missing:
            codes[reading.missing] = self.cells.count
        else:
            rejects.add(self.column.name, Fault.MISSING, int(reading.missing.sum()))
        return codes

    def values(self, array: pa.Array) -> Floats:
        """Read n values, float64 [n]: dates in days since 1970-01-01, NaN where missing."""
        reading = self._read(array)
        return np.where(reading.missing, np.nan, reading.values)

    @property
    def _lower(self) -> float:
        return float(self.cells.edges[0])

    @property
    def _upper(self) -> float:
        last = self.cells.edges[-1]
        return float(last - 1 if self.cells.whole else np.nextafter(last, -np.inf))

    def _read(self, array: pa.Array) -> Reading:
        if self.column.kind is Kind.DATE:
            return days(array, tokens=self.tokens, written=self.column.format)
        return numbers(array, tokens=self.tokens, decimal=self.decimal)

    def _fitting(self, reading: Reading, rejects: Rejects) -> npt.NDArray[np.bool_]:
        """Count what does not fit, each row under the first fault it has, and mask what does."""
        left = ~reading.missing
        for fault, broken, detail in self._faults(reading):
            rejects.add(self.column.name, fault, int((left & broken).sum()), detail=detail)
            left = left & ~broken
        return left

    def _faults(self, reading: Reading) -> list[tuple[Fault, npt.NDArray[np.bool_], str]]:
        values, column = reading.values, self.column
        date = column.kind is Kind.DATE
        faults = [
            (Fault.NOT_A_DATE if date else Fault.NOT_A_NUMBER, reading.unreadable, ""),
            (Fault.NOT_FINITE, ~np.isfinite(values), ""),
        ]
        if column.kind is Kind.INTEGER:
            faults.append((Fault.NOT_WHOLE, values != np.floor(values), ""))
        if column.out_of_bounds is OutOfBounds.REFUSE:
            faults.append((Fault.BELOW, values < self._lower, str(column.lower)))
            faults.append((Fault.ABOVE, values > self._upper, str(column.upper)))
        return faults

    def decode(self, codes: Codes, *, generator: np.random.Generator) -> pa.Array:
        gone = codes == self.cells.count
        values = self.cells.draw(np.where(gone, 0, codes), generator=generator)
        return self.written(np.where(gone, np.nan, values))

    def written(self, values: Floats) -> pa.Array:
        """Write values, float64 [n] with NaN for missing, in the type of the column."""
        gone = np.isnan(values)
        wanted: Callable[[], pa.DataType] = {
            Kind.INTEGER: pa.int64,
            Kind.CONTINUOUS: pa.float64,
            Kind.DATE: pa.date32,
        }[self.column.kind]
        if not self.cells.whole:
            return pa.array(values, mask=gone, type=wanted())
        held = np.where(gone, 0, values).astype(np.int32 if self.column.kind is Kind.DATE else np.int64)
        return pc.cast(pa.array(held, mask=gone), wanted())
