"""What codes of a column have in common, by public knowledge alone: few numbers in place of many indicators.

Noise of a gradient grows with the number of its coordinates, and a table of weights between two columns of a hundred
codes each has ten thousand. Codes on a line that are neighbours behave alike, and so do codes of one group: a model
that sees a column through such features learns from fewer, less noisy weights. Which codes are neighbours is said by
the schema, never by the records.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layout import OneHotLayout
from protocol.errors import InputError

SPLINES = 8
"""Hat functions over a line of codes."""
_SHORT_LINE = 16
"""Lines of at most so many codes are not smoothed."""
_MOST_INDICATORS = 128
"""Unordered columns with more codes, and no groups, share indicators."""
_MIX = 0x9E3779B1


def column_features(layout: OneHotLayout, *, splines: int = SPLINES) -> tuple[Tensor, ...]:
    """Return for every column the features of its codes, float32 ``[K_j, M_j]``; each row's norm is at most 1.

    - codes on a line of more than 16: ``splines`` hat functions at equal distances over the ranks of the codes (linear
      B-splines: between two knots a code belongs to both, in parts that add up to one), and an indicator for each code
      behind;
    - codes with groups: an indicator per group;
    - other codes: an indicator each, up to 128; beyond that 128 indicators that codes share by a fixed hash.

    Args:
        layout: The table's columns.
        splines: Hat functions per line, at least 2; 0 gives lines an indicator per code.

    Source:
        B-splines of degree one: de Boor, A Practical Guide to Splines (1978), chapter IX. Hashing: Weinberger et al.
        (2009).

    Example:
        >>> [tuple(rows.shape) for rows in column_features(OneHotLayout(cardinalities=(3, 101), ordered=(0, 100)))]
        [(3, 3), (101, 9)]
    """
    return tuple(
        _features(size, line, group, splines)
        for size, line, group in zip(layout.cardinalities, layout.ordered, layout.groups, strict=True)
    )


def coarse_cells(layout: OneHotLayout, *, most: int) -> tuple[Tensor, ...]:
    """Return for every column the coarse cell of each code, int64 ``[K_j]``, from ``0`` without gaps.

    Codes on a line are cut into at most ``most`` runs of nearly equal length; each code behind them keeps a cell of
    its own. Groups are cells where there are at most ``most`` of them; other codes share cells by a fixed hash.
    """
    return tuple(
        _cells(size, line, group, most)
        for size, line, group in zip(layout.cardinalities, layout.ordered, layout.groups, strict=True)
    )


class FeatureMap(nn.Module):
    """The features of whole records. It has no weights, and adds nothing to those of a release: the schema gives it.

    Args:
        layout: The table's columns.
        splines: Hat functions over a line of codes; 0 for an indicator per code.

    Attributes:
        sizes: Number of features of every column.
        indicators: Whether every code has one feature, of value 1: then their places say all.
    """

    def __init__(self, layout: OneHotLayout, *, splines: int = SPLINES) -> None:
        super().__init__()
        for column, rows in enumerate(column_features(layout, splines=splines)):
            self.register_buffer(f"column_{column}", rows, persistent=False)
        found = [self.of(column) for column in range(layout.columns)]
        self.sizes = tuple(rows.shape[1] for rows in found)
        self.indicators = all(bool(((rows == 0) | (rows == 1)).all() & (rows.sum(dim=1) == 1).all()) for rows in found)
        self.register_buffer("cells", torch.cat([rows.argmax(dim=1) for rows in found]), persistent=False)
        self._cardinalities, self._offsets = layout.cardinalities, layout.offsets

    def of(self, column: int) -> Tensor:
        """Return the features of a column's codes, ``[K, M]``."""
        rows: Tensor = self.get_buffer(f"column_{column}")
        return rows

    def forward(self, codes: Tensor, order: Sequence[int] | None = None) -> Tensor:
        """Return the features ``[n, sum of M]`` of codes ``[n, columns]``, columns in the given order."""
        columns = range(codes.shape[1]) if order is None else order
        return torch.cat([self.of(column)[codes[:, column].long()] for column in columns], dim=1)

    def places(self, codes: Tensor, order: Sequence[int] | None = None) -> Tensor:
        """Return where the ones of the features are, int64 ``[n, columns]``, columns in the given order.

        Only where all features are indicators.

        Raises:
            InputError: If a column has a code that its layout does not have.
        """
        columns = list(range(codes.shape[1]) if order is None else order)
        starts = torch.tensor([0, *(self.sizes[column] for column in columns[:-1])], device=codes.device).cumsum(dim=0)
        offsets = torch.tensor([self._offsets[column] for column in columns], device=codes.device)
        limits = torch.tensor([self._cardinalities[column] for column in columns], device=codes.device)
        codes = codes[:, columns].long()
        wrong = (codes < 0) | (codes >= limits)
        if bool(wrong.any()):  # or else it would be read as a code of a neighbour
            column = columns[int(wrong.any(dim=0).nonzero()[0])]
            raise InputError(
                f"Column {column} has a code outside 0 ... {self._cardinalities[column] - 1}.",
                remedy="Encode the records with the schema that the layout is of.",
            )
        cells: Tensor = self.get_buffer("cells")
        return cells[codes + offsets] + starts


class ShortFeatures(FeatureMap):
    """The features of whole records in the form that an indicator layer reads best: as places where that says all."""

    def forward(self, codes: Tensor, order: Sequence[int] | None = None) -> Tensor:
        """Return places, int64 ``[n, columns]``, or else features, ``[n, sum of M]``; columns in the given order."""
        return self.places(codes, order) if self.indicators else super().forward(codes, order)

    def ends(self, order: Sequence[int]) -> tuple[int, ...]:
        """Return how many coordinates of the short form belong to the first 0, 1, 2, ... columns in this order."""
        sizes = [1 if self.indicators else self.sizes[column] for column in order]
        return tuple(sum(sizes[:j]) for j in range(len(sizes) + 1))


def _features(size: int, line: int, group: tuple[int, ...], splines: int) -> Tensor:
    if group and max(group) + 1 < size:
        return _indicators(torch.tensor(group))
    if splines and line > _SHORT_LINE:
        knots = torch.arange(splines) / (splines - 1)
        ranks = torch.arange(line) / (line - 1)
        hats = (1.0 - (ranks[:, None] - knots).abs() * (splines - 1)).clamp(min=0.0)
        features = torch.zeros(size, splines + size - line)
        features[:line, :splines] = hats
        features[line:, splines:] = torch.eye(size - line)
        return features
    if size <= _MOST_INDICATORS:
        return torch.eye(size)
    return _indicators(_hashed(size, _MOST_INDICATORS))


def _cells(size: int, line: int, group: tuple[int, ...], most: int) -> Tensor:
    if group and max(group) < most:
        return torch.tensor(group)
    if line:
        runs = min(line, most)
        return torch.cat([torch.arange(line) * runs // line, runs + torch.arange(size - line)])
    return torch.arange(size) if size <= most else _hashed(size, most)


def _hashed(size: int, cells: int) -> Tensor:
    """Return a cell for every code, the same on every machine, without gaps (Knuth's multiplicative hashing)."""
    spread = (torch.arange(size) * _MIX) % (1 << 32)
    return spread.argsort().argsort() % cells


def _indicators(cells: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(cells).float()
