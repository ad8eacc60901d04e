"""Counts of columns and of pairs of columns, as a statistics round releases them: with noise, for everybody."""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Marginals:
    """Released tables.

    Attributes:
        columns: For every column the shares of its codes, float64 ``[K_j]``, noisy: they may be negative and need not
            add up to one.
        pairs: For every pair of columns the shares of its coarse cells, ``[C_i, C_j]``, in the order of
            ``itertools.combinations``; empty where no pairs were asked for.
        deviation: Standard deviation of the noise of every share.
    """

    columns: tuple[Tensor, ...]
    pairs: tuple[Tensor, ...]
    deviation: float


class MarginalCounts(Statistics):
    """How often every code, and every coarse pair of codes, occurs.

    A record is in exactly one cell of each of the P tables, so that its vector has the norm sqrt(P), whatever the
    record. One round.

    Args:
        layout: The table's columns.
        pairs: Whether to count pairs of columns too.
        pair_cells: Most coarse cells of a column in a pair.
    """

    def __init__(self, layout: OneHotLayout, *, pairs: bool = False, pair_cells: int = PAIR_CELLS) -> None:
        self.layout = layout
        self.cells = coarse_cells(layout, most=pair_cells)
        self.cell_counts = tuple(int(cells.max()) + 1 for cells in self.cells)
        self.pairs = tuple(combinations(range(layout.columns), 2)) if pairs else ()
        self._sizes = (*layout.cardinalities, *(self.cell_counts[i] * self.cell_counts[j] for i, j in self.pairs))

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
        codes = codes.long()
        coarse = [cells.to(codes.device)[codes[:, j]] for j, cells in enumerate(self.cells)] if self.pairs else []
        places = [codes[:, j] for j in range(self.layout.columns)]
        places += [coarse[i] * self.cell_counts[j] + coarse[j] for i, j in self.pairs]
        weights = weights.double()
        return torch.cat(
            [torch.bincount(place, weights, minlength=size) for place, size in zip(places, self._sizes, strict=True)]
        )

    def read(self, means: Tensor, *, deviation: float) -> Marginals:
        """Return the tables that a released vector ``[dimension]`` holds, as shares of the whole.

        Every record is in every table: the mean of the tables' totals, whose noise is small, says how large the whole
        is, where the public number of records was rough.
        """
        columns = self.layout.columns
        total = float(means.double().sum()) / len(self._sizes)
        scale = 1.0 / max(total, 10.0 * deviation, 1e-9)
        tables, deviation = torch.split(means.double() * scale, list(self._sizes)), deviation * scale
        return Marginals(
            columns=tuple(tables[:columns]),
            pairs=tuple(
                table.view(self.cell_counts[i], self.cell_counts[j])
                for (i, j), table in zip(self.pairs, tables[columns:], strict=True)
            ),
            deviation=deviation,
        )


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
