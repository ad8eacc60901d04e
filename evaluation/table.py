"""Coded tables: what every metric of this package reads.

A record is a row of integer codes, one per column of the schema. A column that may be missing keeps its last
code for "missing". Metrics take the plain arrays of a table, so that they can be used, and tested, without
one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocol.errors import RecordsError, SchemaError
from records.codec import Codec
from records.schema import Schema

NUMERIC_KINDS = frozenset({"integer", "continuous", "date"})
ORDERED_KINDS = NUMERIC_KINDS | {"ordinal"}


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedTable:
    """Records as integer codes, with what the public schema says of each column.

    Attributes:
        names: Column names, ``C`` of them.
        kinds: Kind of each column: categorical, ordinal, integer, continuous, boolean or date.
        cardinalities: Number of codes of each column, the code for missing included.
        may_be_missing: Whether the last code of the column means "missing".
        labels: For each column one readable label per code.
        values: For each column the number a code stands for (float64 ``[K]``): the middle of a bin, NaN where
            the code is missing or the column is not numeric.
        target: Name of the column to predict, or None.
        codes: int64 ``[n, C]``, read-only.

    Raises:
        SchemaError: The descriptions disagree in length, or the target is no column.
        RecordsError: ``codes`` has another shape, or codes outside their column's cardinality.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    cardinalities: tuple[int, ...]
    may_be_missing: tuple[bool, ...]
    labels: tuple[tuple[str, ...], ...]
    values: tuple[NDArray[np.float64], ...]
    target: str | None
    codes: NDArray[np.int64]

    def __post_init__(self) -> None:
        self._check_descriptions()
        codes = np.array(self.codes, dtype=np.int64, copy=True)
        if codes.ndim != 2 or codes.shape[1] != len(self.names):
            raise RecordsError(
                f"codes have the shape {codes.shape}, the schema has {len(self.names)} columns.",
                remedy="Encode the records with the same schema.",
            )
        for name, column, cardinality in zip(self.names, codes.T, self.cardinalities, strict=True):
            outside = int(np.count_nonzero((column < 0) | (column >= cardinality)))
            if outside:
                raise RecordsError(
                    f"column {name!r} has {outside} codes outside 0..{cardinality - 1}.",
                    remedy="Encode the records with the same schema.",
                )
        codes.setflags(write=False)
        object.__setattr__(self, "codes", codes)

    def _check_descriptions(self) -> None:
        columns = len(self.names)
        described = (self.kinds, self.cardinalities, self.may_be_missing, self.labels, self.values)
        if any(len(description) != columns for description in described):
            raise SchemaError(
                f"the descriptions of the {columns} columns differ in length.",
                remedy="Give every column a kind, a cardinality, labels and values.",
            )
        for name, cardinality, labels, values in zip(
            self.names, self.cardinalities, self.labels, self.values, strict=True
        ):
            if cardinality < 1 or len(labels) != cardinality or values.shape != (cardinality,):
                raise SchemaError(
                    f"column {name!r}: {cardinality} codes, {len(labels)} labels, values {values.shape}.",
                    remedy="Give one label and one value per code.",
                )
        if self.target is not None and self.target not in self.names:
            raise SchemaError(
                f"the target {self.target!r} is not a column.", remedy="Name one of the schema's columns."
            )

    @property
    def rows(self) -> int:
        """Number of records."""
        return int(self.codes.shape[0])

    @property
    def target_index(self) -> int | None:
        """Position of the target among the columns, None without a target."""
        return None if self.target is None else self.names.index(self.target)

    @property
    def is_numeric(self) -> NDArray[np.bool_]:
        """Which columns are numbers, ``[C]``: of a numeric kind, and some code stands for a number."""
        return np.array(
            [
                kind in NUMERIC_KINDS and bool(np.isfinite(values).any())
                for kind, values in zip(self.kinds, self.values, strict=True)
            ],
            dtype=np.bool_,
        )

    def numeric(self) -> NDArray[np.float64]:
        """Return the numbers that the codes stand for, float64 ``[n, C]``, NaN where there is none."""
        numbers = np.full(self.codes.shape, np.nan)
        for index, values in enumerate(self.values):
            numbers[:, index] = values[self.codes[:, index]]
        return numbers

    def with_codes(self, codes: ArrayLike) -> Self:
        """Return a table of other records under the same schema; ``codes`` is ``[m, C]``."""
        return type(self)(
            names=self.names,
            kinds=self.kinds,
            cardinalities=self.cardinalities,
            may_be_missing=self.may_be_missing,
            labels=self.labels,
            values=self.values,
            target=self.target,
            codes=np.asarray(codes, dtype=np.int64),
        )

    def take(self, rows: ArrayLike) -> Self:
        """Return the table of the given rows (positions, repeats allowed)."""
        return self.with_codes(self.codes[np.asarray(rows, dtype=np.int64)])


def coded_table(schema: Schema, codes: ArrayLike) -> CodedTable:
    """Describe coded records by their schema.

    Args:
        schema: The public data dictionary.
        codes: Integer codes ``[n, C]`` as the schema's codec makes them.

    Returns:
        The table that the metrics read.

    Raises:
        RecordsError: The codes do not fit the schema, or the records have images.
    """
    if schema.image is not None:
        raise RecordsError(
            "the records have images, which the measures of tables do not know.",
            remedy="Use the measures of images: cloister evaluate chooses them by the schema.",
        )
    columns = [schema.column(name) for name in schema.names]
    return CodedTable(
        names=tuple(schema.names),
        kinds=tuple(str(column.kind) for column in columns),
        cardinalities=tuple(schema.cardinalities),
        may_be_missing=tuple(bool(column.missing) for column in columns),
        labels=tuple(tuple(str(label) for label in schema.code_labels(name)) for name in schema.names),
        values=_values_of_codes(Codec(schema), schema.cardinalities),
        target=schema.target,
        codes=np.asarray(codes, dtype=np.int64),
    )


def _values_of_codes(codec: Codec, cardinalities: Sequence[int]) -> tuple[NDArray[np.float64], ...]:
    """Ask the codec once for every code: row ``k`` holds code ``k``, or the last one of a shorter column."""
    every_code = np.minimum(
        np.arange(max(cardinalities), dtype=np.int64)[:, None],
        np.array(cardinalities, dtype=np.int64)[None, :] - 1,
    )
    numbers = np.asarray(codec.numeric(every_code), dtype=np.float64)
    return tuple(numbers[:cardinality, index].copy() for index, cardinality in enumerate(cardinalities))
