"""A density of records, learnt from a table of categories and ordered cells.

A kernel estimate for categories (Aitchison, Aitken 1976, "Multivariate binary discrimination by the kernel method"):
around each record of the table a value stays with a chance, or is drawn from the population's histogram of its column,
so that agreement on a rare value counts for more. In a column of ordered cells half of what stays is spread over near
cells. Kernels see single records; what joins columns in a tree (Chow, Liu 1968) and boosted trees that tell two tables
apart saw less of what generators remember when all were tried.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from privacy.audit.release.distances import BLOCK
from privacy.audit.release.tables import Codes, Columns, Floats
from protocol.errors import RecordsError

BANDWIDTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
MOST_CELLS = 256  # of an ordered column; neighbours are joined where there are more
FEWEST_REFERENCE = 2
_SPREAD = 0.5  # share of what stays that goes to near cells
_WIDTH = 0.05  # width of "near", as a share of the range
_TUNING_ROWS = 300

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """What an attacker knows of the population: how common every value is, and how alike two records are.

    Attributes:
        columns: What the columns are.
        histograms: Smoothed share of every code, neighbours joined; float64 [K'] for each column.
        near: How what stays is spread, float64 [K', K'] with columns that sum to one; None where nothing is spread.
        bandwidth: Chance that a value does not stay, in (0, 1).
    """

    columns: Columns
    histograms: tuple[Floats, ...]
    near: tuple[Floats | None, ...]
    bandwidth: float

    @classmethod
    def learn(cls, columns: Columns, reference: Codes) -> "Population":
        """Learns histograms, and the bandwidth under which records left out of the reference are likeliest.

        Args:
            columns: What the columns are.
            reference: int32 [r, C], in random order.

        Returns:
            The population.

        Raises:
            RecordsError: There are fewer than two records.
        """
        if len(reference) < FEWEST_REFERENCE:
            raise RecordsError("The reference has fewer than two records.", remedy="Hold out more records.")
        table, sizes = _joined(columns, reference), _sizes(columns)
        histograms = tuple(_histogram(table[:, j], size) for j, size in enumerate(sizes))
        near = tuple(
            _near(histogram, min(ordered, MOST_CELLS))
            for histogram, ordered in zip(histograms, columns.ordered, strict=True)
        )
        first = cls(columns=columns, histograms=histograms, near=near, bandwidth=BANDWIDTHS[0])
        tried = [replace(first, bandwidth=bandwidth) for bandwidth in BANDWIDTHS]
        tuning = table[:_TUNING_ROWS]
        return max(tried, key=lambda each: float(each._densities(tuning, table, left_out=True).mean()))

    def log_density(self, rows: Codes, table: Codes) -> Floats:
        """Log-density at some records, learnt from a table.

        Args:
            rows: int32 [n, C].
            table: int32 [s, C], at least one record, none of them among the rows.

        Returns:
            float64 [n]; over all possible records the density sums to one (of joined cells).
        """
        return self._densities(_joined(self.columns, rows), _joined(self.columns, table), left_out=False)

    def _densities(self, rows: Codes, table: Codes, *, left_out: bool) -> Floats:
        """Joined codes; ``left_out``: row k is record k of the table and does not count for itself."""
        found = np.empty(len(rows))
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            sums = np.zeros((len(part), len(table)), dtype=np.float32)
            for column in range(self.columns.count):
                weights = self._weights(column, part[:, column])
                sums += np.take(weights, table[:, column], axis=1, mode="clip")
            if left_out:
                sums[np.arange(len(part)), start + np.arange(len(part))] = -np.inf
            highest = sums.max(axis=1, keepdims=True)
            shares = np.exp(sums - highest).sum(axis=1, dtype=np.float64) / (len(table) - left_out)
            found[start : start + len(part)] = highest[:, 0] + np.log(shares)
        return found

    def _weights(self, column: int, codes: Codes) -> Weights:
        """Log-chance of each code [b] near each code of the table [K'], float32 [b, K']."""
        histogram, near = self.histograms[column], self.near[column]
        chances = np.repeat(self.bandwidth * histogram[codes, None], len(histogram), axis=1)
        if near is None:
            chances[np.arange(len(codes)), codes] += 1.0 - self.bandwidth
        else:
            chances += (1.0 - self.bandwidth) * near[codes]
        return np.log(chances).astype(np.float32)


def _histogram(codes: Codes, size: int) -> Floats:
    """Share of every code with half a record added to each (Jeffreys), float64 [K']."""
    shares = (np.bincount(codes, minlength=size) + 0.5) / (len(codes) + 0.5 * size)
    return shares.astype(np.float64)


def _near(histogram: Floats, ordered: int) -> Floats | None:
    """Half stays, half goes to cells by nearness times how common they are; other codes, as missing, stay."""
    if ordered < 2:
        return None
    near = np.eye(len(histogram))
    line = np.arange(ordered)
    bell = np.exp(-np.abs(line[:, None] - line[None, :]) / max(1.0, _WIDTH * ordered)) * histogram[:ordered, None]
    near[:ordered, :ordered] *= 1.0 - _SPREAD
    near[:ordered, :ordered] += _SPREAD * bell / bell.sum(axis=0)
    return near


def _sizes(columns: Columns) -> tuple[int, ...]:
    """Number of codes of each column once neighbours are joined."""
    return tuple(
        size - max(0, ordered - MOST_CELLS)
        for size, ordered in zip(columns.cardinalities, columns.ordered, strict=True)
    )


def _joined(columns: Columns, table: Codes) -> Codes:
    """Join neighbouring cells of ordered columns with more than `MOST_CELLS` of them."""
    joined = np.array(table, dtype=np.int32, order="F")
    for column, ordered in enumerate(columns.ordered):
        if ordered > MOST_CELLS:
            codes = table[:, column].astype(np.int64)
            cells = np.where(codes < ordered, codes * MOST_CELLS // ordered, codes - ordered + MOST_CELLS)
            joined[:, column] = cells
    return joined
