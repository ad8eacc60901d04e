"""Counts of every column under each label, and what a decoder may start with from them.

Which label goes with which code is what a classifier trained on synthetic rows must find in them, and gradients tell
it slowly where the label is rare. Counted once, it costs one table per column, as the column by itself does.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.autoregressive import AutoregressiveDecoder
from models.layout import OneHotLayout
from models.marginals import MarginalCounts, code_logits, least_noisy_mean
from models.statistics import Statistics

MOST_FEATURES = 512
"""Columns of more features start without: the weights of each label take the time of their number cubed."""
_SPREAD = 0.5
"""Standard deviation that a weight is expected to have before anything is known: what noise alone could say is less."""
_STEPS = 30
_LONGEST_STEP = 1.0
_ENOUGH = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledColumns:
    """Released tables.

    Attributes:
        columns: For every column the shares of its codes under each label, float64 ``[L, K_j]``, noisy; that of the
            label is None.
        labels: Shares of the labels, ``[L]``: a mean over all tables, so that its noise is small.
        deviation: Standard deviation of the noise of every share of a column.
        label_deviation: That of the shares of the labels.
    """

    columns: tuple[Tensor | None, ...]
    labels: Tensor
    deviation: float
    label_deviation: float


class LabelColumnCounts(Statistics):
    """How often every code of every other column occurs under each label.

    A record is in exactly one cell of each of the tables: its vector has the norm of their number's square root. They
    are the counts of single columns of another table, whose columns are pairs of a label and a column.

    Args:
        layout: The table's columns, two or more.
        label: Index of the label.

    Example:
        >>> counts = LabelColumnCounts(OneHotLayout(cardinalities=(2, 3, 5)), label=0)
        >>> counts.dimension(1), round(counts.norm(1) ** 2)
        (16, 2)
    """

    def __init__(self, layout: OneHotLayout, *, label: int) -> None:
        self.label = label
        self.labels = layout.cardinalities[label]
        self.others = tuple(column for column in range(layout.columns) if column != label)
        self._sizes = torch.tensor([layout.cardinalities[column] for column in self.others])
        self._counts = MarginalCounts(
            OneHotLayout(cardinalities=tuple(self.labels * layout.cardinalities[column] for column in self.others))
        )

    def dimension(self, number: int) -> int:
        """Return the number of cells of all tables."""
        return self._counts.dimension(number)

    def norm(self, number: int) -> float:
        """Return the square root of the number of tables."""
        return self._counts.norm(number)

    def norms(self, number: int, codes: Tensor) -> Tensor:
        """Return the same for every record; see :meth:`Statistics.norms`."""
        return self._counts.norms(number, codes)

    def weighted_sum(self, number: int, codes: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted counts of all cells; see :meth:`Statistics.weighted_sum`."""
        codes = codes.long()
        pairs = codes[:, [self.label]] * self._sizes.to(codes.device) + codes[:, list(self.others)]
        return self._counts.weighted_sum(number, pairs, weights)

    def read(self, means: Tensor, *, deviation: float) -> LabelledColumns:
        """Return the tables that a released vector ``[dimension]`` holds, as shares of the whole."""
        found = self._counts.read(means, deviation=deviation)
        tables = [table.view(self.labels, -1) for table in found.columns]
        sizes = self._sizes.tolist()
        columns: list[Tensor | None] = list(tables)
        columns.insert(self.label, None)
        return LabelledColumns(
            columns=tuple(columns),
            labels=least_noisy_mean([table.sum(dim=1) for table in tables], sizes),
            deviation=found.deviation,
            label_deviation=found.deviation / math.sqrt(sum(1.0 / size for size in sizes)),
        )


def label_weights(shares: Tensor, logits: Tensor, features: Tensor, *, deviation: float) -> Tensor:
    """Return weights of the features of a column's codes that tell what one label makes of them.

    The most likely weights ``w`` where the released shares are those of ``softmax(logits + features w)`` with noise,
    and every weight is normal with a deviation of one half beforehand: what is within the noise stays near zero.
    Gauss-Newton steps. The features of every code add up to one, so that a constant may be added to all weights: they
    come such that ``logits + features w`` are the logarithms of shares that add up to one.

    Args:
        shares: Noisy shares of the codes among the records of a label, ``[K]``, about one in all.
        logits: Log-shares among all records, ``[K]``.
        features: ``[K, M]``, every row of which adds up to one.
        deviation: Standard deviation of the noise of ``shares``; 0 for none.

    Returns:
        float64 ``[M]``.

    Example:
        >>> shares, logits = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5]).log()
        >>> weights = label_weights(shares, logits, torch.eye(2), deviation=0.001)
        >>> torch.softmax(logits + weights, dim=0).round(decimals=2)
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    shares, logits, features = shares.double(), logits.double(), features.double()
    prior = torch.eye(features.shape[1], dtype=torch.float64, device=features.device)
    prior = prior * (max(deviation, 1e-6) / _SPREAD) ** 2
    weights = features.new_zeros(features.shape[1])
    for _ in range(_STEPS):
        chances = torch.softmax(logits + features @ weights, dim=0)
        slopes = chances[:, None] * (features - chances @ features)
        target = slopes.T @ (shares - chances) - prior @ weights
        step = torch.linalg.solve(slopes.T @ slopes + prior, target)
        weights = weights + step.clamp(-_LONGEST_STEP, _LONGEST_STEP)
        if float(step.abs().max()) < _ENOUGH:
            break
    return weights - torch.logsumexp(logits + features @ weights, dim=0)


def start_by_label(decoder: AutoregressiveDecoder, found: LabelledColumns, *, label: int) -> None:
    """Set a decoder's column shapes, and what each column has to do with the label: the weights of naive Bayes.

    Args:
        decoder: Its label must have an indicator for each code.
        found: What was released.
        label: Index of the label.
    """
    noise, labels = found.deviation, len(found.labels)
    logits = [
        code_logits([found.labels], deviation=found.label_deviation)[0]
        if table is None
        else code_logits([table.sum(dim=0)], deviation=noise * math.sqrt(labels))[0]
        for table in found.columns
    ]
    decoder.set_shapes(logits)
    shares = found.labels.clamp(min=max(found.label_deviation, 1e-9), max=1.0)
    for column, table in enumerate(found.columns):
        features = decoder.features.of(column)
        if table is not None and features.shape[1] <= MOST_FEATURES:
            weights = [
                label_weights(row / share, logits[column], features, deviation=noise / float(share))
                for row, share in zip(table, shares, strict=True)
            ]
            decoder.set_dependence(column, on=label, weights=torch.stack(weights, dim=1))
