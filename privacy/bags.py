"""Sums of signals by index: the gradient of a bag of embeddings, turned inside out.

The gradient of row r of the table is the sum of the signals of all records that name r. That is again a bag:
one per row of the table, which holds records. Sorting the indices makes these bags. The layers of an
autoregressive decoder see ever longer prefixes of the same columns, so that one sort serves them all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class _Order:
    """All entries of an index matrix ``[n, columns]``, sorted by value.

    Attributes:
        values: The indices, ascending, ``[n * columns]``.
        records: The record that each came from.
        columns: The column that each came from.
        distinct: Whether no record names an index twice.
        by_column: Whether the entries are sorted by column as well, so that a prefix of the columns is a
            prefix here.
    """

    values: Tensor
    records: Tensor
    columns: Tensor
    distinct: bool
    by_column: bool


@dataclass(frozen=True, kw_only=True)
class Bags:
    """The records that name each index in the first ``width`` columns of an index matrix.

    Attributes:
        values: The indices, ascending.
        records: The record that each came from.
        distinct: True only if no record names an index twice.
    """

    values: Tensor
    records: Tensor
    distinct: bool

    def sum(self, signal: Tensor, *, rows: int) -> Tensor:
        """Return for every index below ``rows`` the sum of the signals ``[n, outputs]`` of its records."""
        if self.values.numel() == 0:
            return signal.new_zeros(rows, signal.shape[1])
        starts = torch.searchsorted(self.values, torch.arange(rows, device=signal.device))
        return functional.embedding_bag(self.records, signal, offsets=starts, mode="sum")


class BagSorter:
    """Sorts every index matrix once, whatever prefixes of it were used.

    Args:
        matrices: The index matrices, ``[n, columns]`` each, some of them views of one another.
    """

    def __init__(self, matrices: Iterable[Tensor]) -> None:
        self._widest: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        self._orders: dict[tuple[int, tuple[int, ...]], _Order] = {}
        for matrix in matrices:
            known = self._widest.get(_place(matrix))
            if known is None or known.shape[1] < matrix.shape[1]:
                self._widest[_place(matrix)] = matrix

    def bags(self, matrix: Tensor) -> Bags:
        """Return the bags of one of the matrices."""
        place = _place(matrix)
        if place not in self._orders:
            self._orders[place] = _order(self._widest[place])
        order = self._orders[place]
        if order.by_column:
            end = matrix.numel()
            return Bags(values=order.values[:end], records=order.records[:end], distinct=order.distinct)
        inside = order.columns < matrix.shape[1]
        return Bags(values=order.values[inside], records=order.records[inside], distinct=order.distinct)


def _place(matrix: Tensor) -> tuple[int, tuple[int, ...]]:
    """Return what two matrices share if and only if the narrower is a prefix of the columns of the wider."""
    return matrix.data_ptr(), (matrix.shape[0], *matrix.stride(), matrix.element_size())


def _order(matrix: Tensor) -> _Order:
    """Sort the entries of an index matrix."""
    count, width = matrix.shape
    # Column by column, so that equal entries of one record need not be neighbours but those of one column
    # are.
    values, positions = matrix.T.flatten().sort(stable=True)
    columns = torch.div(positions, count, rounding_mode="floor")
    ascending = bool((columns.diff() >= 0).all())
    records = positions - columns * count
    # Sorted by column, an index belongs to the columns between its first and its last entry.
    distinct = ascending and not bool(((values.diff() == 0) & (columns.diff() > 0)).any())
    return _Order(values=values, records=records, columns=columns, distinct=distinct or width == 1, by_column=ascending)
