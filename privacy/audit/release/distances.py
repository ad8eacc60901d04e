"""Distances between records of categories, ordered cells and missing values, in whole numbers.

Gower's distance (Gower 1971, "A general coefficient of similarity and some of its properties"), summed over the
columns: two categories are one unit apart unless they are equal, two ordered cells by their share of the range, and
a missing value is one unit from everything else. One unit is the whole number `UNIT`, so that equal distances are
equal: in floating point ties would be broken by rounding, and in tables of categories most distances are ties.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from privacy.audit.release.tables import Codes, Columns
from protocol.errors import InputError

Gaps = npt.NDArray[np.int32]

UNIT = 1 << 20
MOST_COLUMNS = 2047  # beyond it a sum of units no longer fits 32 bits
BLOCK = 32  # rows whose distances to some thousand others still fit the cache


def gap_table(columns: Columns, column: int, codes: Codes) -> Gaps:
    """How far each of some codes is from every code of the column.

    Args:
        columns: What the columns are.
        column: Position of the column.
        codes: int [b].

    Returns:
        int32 [b, K], 0 for the code itself and at most `UNIT`.
    """
    cardinality, ordered = columns.cardinalities[column], columns.ordered[column]
    gaps = np.full((len(codes), cardinality), UNIT, dtype=np.int32)
    if ordered > 1:
        step = UNIT // (ordered - 1)  # at least 1: equal steps, and no two cells at distance 0
        placed = np.flatnonzero(codes < ordered)
        line = np.arange(ordered, dtype=np.int32)
        gaps[placed, :ordered] = np.abs(codes[placed, None] - line[None, :]) * np.int32(step)
    gaps[np.arange(len(codes)), codes] = 0
    return gaps


def blocks(
    columns: Columns, rows: Codes, table: Codes, *, chosen: Sequence[int] | None = None
) -> Iterator[tuple[slice, Gaps]]:
    """Distances of all rows to all rows of a table, some rows at a time, so that memory stays bounded.

    Args:
        columns: What the columns are.
        rows: int32 [n, C].
        table: int32 [s, C].
        chosen: Columns that count; all of them where it is None.

    Yields:
        Which rows, and their distances, int32 [b, s]; the array is new each time.

    Raises:
        InputError: There are no columns, or too many.

    Example:
        >>> columns = Columns(names=("age", "ward"), cardinalities=(5, 3), ordered=(5, 0))
        >>> table = np.array([[0, 0], [1, 2]], dtype=np.int32)
        >>> [(gaps / UNIT).tolist() for _, gaps in blocks(columns, table, table)]
        [[[0.0, 1.25], [1.25, 0.0]]]
    """
    counted = tuple(range(columns.count)) if chosen is None else tuple(chosen)
    if not 1 <= len(counted) <= MOST_COLUMNS:
        raise InputError(f"Distances over {len(counted)} columns.", remedy=f"Use 1 to {MOST_COLUMNS} columns.")
    for start in range(0, len(rows), BLOCK):
        part = slice(start, min(start + BLOCK, len(rows)))
        total = np.zeros((part.stop - part.start, len(table)), dtype=np.int32)
        for column in counted:
            total += column_gaps(columns, column, rows[part, column], table[:, column])
        yield part, total


def column_gaps(columns: Columns, column: int, codes: Codes, others: Codes) -> Gaps:
    """Distances within one column between codes [b] and others [s], int32 [b, s]."""
    # mode="clip" skips the check of every index; the tables were checked when they were made.
    return np.take(gap_table(columns, column, codes), others, axis=1, mode="clip")


def nearest(columns: Columns, rows: Codes, table: Codes) -> npt.NDArray[np.int64]:
    """Distance of each row to the nearest row of a table.

    Args:
        columns: What the columns are.
        rows: int32 [n, C].
        table: int32 [s, C], at least one row.

    Returns:
        int64 [n], in units of `UNIT`; 0 for an exact copy and for nothing else.
    """
    found = np.empty(len(rows), dtype=np.int64)
    for part, gaps in blocks(columns, rows, table):
        found[part] = gaps.min(axis=1)
    return found
