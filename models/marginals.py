"""Counts of columns and of pairs of columns, as a statistics round releases them: with noise, for everybody.

Pairs may be counted each label by itself: what a classifier needs to know, at hardly more noise. A table of two columns
and the label holds every pair with the label, and the pair itself as the sum over labels. It is one table all the same:
a record is in one cell of it, so that the noise of a cell is no larger than without the label.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from models.geometry import coarse_cells
from models.layout import OneHotLayout
from models.statistics import Statistics

PAIR_CELLS = 16
"""Most cells of a column in a table of two columns."""
MOST_LABELS = 4
"""With more labels the tables would be thin, and pairs are counted without them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Marginals:
    """Released tables.

    Attributes:
        columns: For every column the shares of its codes, float64 ``[K_j]``, noisy: they may be negative and need not
            add up to one.
        pairs: For every pair of columns the shares of its coarse cells by label, ``[L, C_i, C_j]``, in the order of
            :attr:`MarginalCounts.pairs`; L is 1 where labels are not told apart. Noisy too.
        deviation: Standard deviation of the noise of every share.
    """

    columns: tuple[Tensor, ...]
    pairs: tuple[Tensor, ...]
    deviation: float


class MarginalCounts(Statistics):
    """How often every code, and every coarse pair of codes, occurs; pairs by label where there is one.

    A record is in exactly one cell of each of the P tables, so that its vector has the norm sqrt(P), whatever the
    record. One round.

    Args:
        layout: The table's columns.
        pairs: Whether to count pairs of columns too.
        label: Index of the label by which pairs are told apart, or None. A label of more than :data:`MOST_LABELS`
            codes, or one that leaves no pair of other columns, is a column like any other.
        pair_cells: Most coarse cells of a column in a pair.

    Attributes:
        label: Index of the label by which pairs are told apart; None where they are not.
        labels: L, the number of its codes; 1 where there is none.
        pairs: The pairs of columns that are counted, the label in none of them.
        cells: For every column the coarse cell of each code.
        cell_counts: For every column the number C of its coarse cells.

    Example:
        >>> counts = MarginalCounts(OneHotLayout(cardinalities=(2, 3, 2)), pairs=True, label=2)
        >>> counts.pairs, counts.dimension(1), round(counts.norm(1) ** 2)
        (((0, 1),), 19, 4)
    """

    def __init__(
        self, layout: OneHotLayout, *, pairs: bool = False, label: int | None = None, pair_cells: int = PAIR_CELLS
    ) -> None:
        self.layout = layout
        self.label = label if pairs and _tells_apart(layout, label) else None
        self.labels = 1 if self.label is None else layout.cardinalities[self.label]
        self.cells = coarse_cells(layout, most=pair_cells)
        self.cell_counts = tuple(int(cells.max()) + 1 for cells in self.cells)
        others = [column for column in range(layout.columns) if column != self.label]
        self.pairs = tuple(combinations(others, 2)) if pairs else ()
        self._shapes = tuple((self.labels, self.cell_counts[i], self.cell_counts[j]) for i, j in self.pairs)
        self._sizes = (*layout.cardinalities, *(math.prod(shape) for shape in self._shapes))

    def dimension(self, number: int) -> int:
        """Return the number of cells of all tables."""
        del number
        return sum(self._sizes)

    def norm(self, number: int) -> float:
        """Return the square root of the number of tables."""
        del number
        return math.sqrt(len(self._sizes))

    def norms(self, number: int, codes: Tensor) -> Tensor:
        """Return the same for every record: it follows from nothing but that a code lies in one cell."""
        return torch.full((len(codes),), self.norm(number), dtype=torch.float64, device=codes.device)

    def weighted_sum(self, number: int, codes: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted counts of all cells; see :meth:`Statistics.weighted_sum`."""
        del number
        codes, weights = codes.long(), weights.double()
        coarse = [cells.to(codes.device)[codes[:, j]] for j, cells in enumerate(self.cells)] if self.pairs else []
        label = 0 if self.label is None else codes[:, self.label]
        places = [codes[:, j] for j in range(self.layout.columns)]
        places += [
            (label * rows + coarse[i]) * columns + coarse[j]
            for (i, j), (_, rows, columns) in zip(self.pairs, self._shapes, strict=True)
        ]
        return torch.cat(
            [torch.bincount(place, weights, minlength=size) for place, size in zip(places, self._sizes, strict=True)]
        )

    def read(self, means: Tensor, *, deviation: float) -> Marginals:
        """Return the tables that a released vector ``[dimension]`` holds, as shares of the whole.

        Every record is in every table: the mean of the tables' totals, small tables above all since they have the least
        noise, says how large the whole is, where the public number of records was rough.
        """
        released = torch.split(means.double(), list(self._sizes))
        total = float(least_noisy_mean([table.sum() for table in released], self._sizes))
        scale = 1.0 / max(total, 10.0 * deviation, 1e-9)
        tables = [table * scale for table in released]
        columns = self.layout.columns
        return Marginals(
            columns=tuple(tables[:columns]),
            pairs=tuple(table.view(shape) for table, shape in zip(tables[columns:], self._shapes, strict=True)),
            deviation=deviation * scale,
        )


def least_noisy_mean(totals: Sequence[Tensor], cells: Sequence[int]) -> Tensor:
    """Return the mean of sums over so many equally noisy cells each, weighted by the inverse of their variance."""
    weights = torch.tensor([1.0 / count for count in cells], dtype=torch.float64, device=totals[0].device)
    weighted = [weight * total for weight, total in zip(weights / weights.sum(), totals, strict=True)]
    return torch.stack(weighted).sum(dim=0)


def _tells_apart(layout: OneHotLayout, label: int | None) -> bool:
    """Return whether pairs are worth counting by this label: it has few codes, and leaves a pair of other columns."""
    return label is not None and layout.columns > 2 and layout.cardinalities[label] <= MOST_LABELS


def code_logits(tables: Sequence[Tensor], *, deviation: float) -> tuple[Tensor, ...]:
    """Return log-shares ``[K_j]`` from noisy shares: what a model starts the shapes of its columns with.

    A share below the noise says nothing but that it is small: it is lifted to a third of the noise's deviation, or to
    a thousandth of an equal share where there is no noise.
    """
    logits = []
    for table in tables:
        least = max(deviation / 3.0, 1e-3 / len(table))
        shares = table.double().clamp(min=least)
        logits.append((shares / shares.sum()).log())
    return tuple(logits)
