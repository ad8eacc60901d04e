"""Sums of signals by place: the gradient of weights that are chosen by an index, turned inside out.

The gradient of the weights of a place is the sum of the signals of all records that name it. For each column of the
index matrix that is a bag of records per place, which sorting the column gives. The layers of an autoregressive
decoder see ever longer prefixes of the same columns: one sort serves them all, and what a column adds to all layers
that see it is summed at once.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional


class PlaceMatrix:
    """The places that records name.

    Args:
        places: int64 ``[n, m]``, not negative; ``n`` and ``m`` may be zero.
    """

    def __init__(self, places: Tensor) -> None:
        self._places = places

    def apart(self, width: int) -> bool:
        """Return whether no two of the first ``width`` columns can name the same place: their ranges lie in order."""
        return all(before[1] < after[0] for before, after in pairwise(self._ranges[:width]))

    def sums(self, signals: Tensor, *, starts: Sequence[int], rows: int) -> Tensor:
        """Return for every place below ``rows`` the sum of the signals of the records that name it.

        Args:
            signals: ``[n, outputs]``.
            starts: For every column the first output that it adds to, ascending; columns without one add to none.
            rows: More than the largest place.

        Returns:
            ``[rows, outputs]``.
        """
        totals = signals.new_zeros(rows, signals.shape[1])
        for column, start in enumerate(starts[: len(self._ranges)]):
            lowest, highest = self._ranges[column]
            values, records = self._sorted[column]
            bags = torch.searchsorted(values, torch.arange(lowest, highest + 1, device=values.device))
            totals[lowest : highest + 1, start:] += functional.embedding_bag(
                records, signals[:, start:], offsets=bags, mode="sum"
            )
        return totals

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        """The smallest and the largest place of every column; none where there are no records."""
        if self._places.numel() == 0:
            return []
        lowest, highest = torch.aminmax(self._places, dim=0)
        return list(zip(lowest.tolist(), highest.tolist(), strict=True))

    @cached_property
    def _sorted(self) -> list[tuple[Tensor, Tensor]]:
        """Every column's places, ascending, and the record that each came from."""
        values, records = self._places.T.contiguous().sort(dim=1)
        return list(zip(values, records, strict=True))


class Prefixes:
    """Finds for a matrix the widest of those that it is a prefix of, column by column, in the same memory."""

    def __init__(self) -> None:
        self._widest: dict[tuple[object, ...], Tensor] = {}

    def add(self, matrix: Tensor) -> None:
        """Take note of a matrix ``[n, m]``."""
        known = self._widest.get(place_of(matrix))
        if known is None or known.shape[1] < matrix.shape[1]:
            self._widest[place_of(matrix)] = matrix

    def widest(self, matrix: Tensor) -> Tensor:
        """Return the widest matrix that was added, of which this one is a prefix."""
        return self._widest[place_of(matrix)]


def place_of(matrix: Tensor) -> tuple[object, ...]:
    """Return what two living matrices share if and only if the narrower is a prefix of the columns of the wider."""
    return matrix.data_ptr(), matrix.dtype, matrix.shape[0], *matrix.stride()
