"""How far the tables of a generator are from the released ones, as a loss that it can be trained with.

A generator that, given its noise, draws columns one by one and independently has a pair table that is a product of two
small matrices: it is met without drawing a row (as in Liu, Vietri and Wu, 2021). All of it is post-processing.
"""

import torch
from torch import Tensor

from models.marginals import MarginalCounts, Marginals

_SLACK = 1e-3


class TableMatch:
    """How far the tables of such a generator are from the released ones.

    Args:
        counts: What was counted.
        found: What was released.
        device: Where the generator lives.

    Attributes:
        noise: The squared distance that the noise of the release alone makes, on average: that of the true tables.
    """

    def __init__(self, counts: MarginalCounts, found: Marginals, *, device: torch.device) -> None:
        self._label = counts.label
        starts = [sum(counts.cell_counts[:j]) for j in range(len(counts.cells))]
        self._width = sum(counts.cell_counts)
        self._cell = torch.cat([cells + start for cells, start in zip(counts.cells, starts, strict=True)]).to(device)
        self._columns = torch.cat(found.columns).float().to(device)
        self._pairs = torch.zeros(counts.labels, self._width, self._width, device=device)
        self._known = torch.zeros_like(self._pairs)
        for (i, j), table in zip(counts.pairs, found.pairs, strict=True):
            rows = slice(starts[i], starts[i] + counts.cell_counts[i])
            columns = slice(starts[j], starts[j] + counts.cell_counts[j])
            self._pairs[:, rows, columns] = table.to(self._pairs)
            self._known[:, rows, columns] = 1.0
        cells = len(self._columns) + float(self._known.sum())
        self.noise = cells * found.deviation**2
        self._scale = 1.0 / (self.noise + cells * _SLACK**2)

    def loss(self, shares: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean squared difference of all cells of a batch, in units of what can be told apart.

        A cell counts by the noise of the release, and by no less than a thousandth of the whole: what is known better
        than that would drown the rest of a loss.

        Args:
            shares: Probabilities of the codes of all columns, ``[n, width]``, by row.
            labels: One-hot labels ``[n, L]``; None where there are none.
        """
        weights = shares.new_full((len(shares),), 1.0 / len(shares))
        return self._scale * self.squares(shares, labels, weights=weights)

    def squares(self, shares: Tensor, labels: Tensor | None, *, weights: Tensor) -> Tensor:
        """Return the sum of squared differences over all cells.

        Args:
            shares: Probabilities of the codes of all columns, ``[n, width]``, by row.
            labels: Probabilities of the labels, ``[n, L]``; None where pairs are not counted by label.
            weights: Weights of the rows, ``[n]``, that add up to one.
        """
        coarse = shares.new_zeros(len(shares), self._width).index_add(1, self._cell, shares)
        by_label = weights[None] if self._label is None or labels is None else (labels * weights[:, None]).T
        pairs = torch.matmul((by_label[:, :, None] * coarse).mT, coarse)
        columns = (weights @ shares - self._columns).square().sum()
        return columns + ((pairs - self._pairs) * self._known).square().sum()
