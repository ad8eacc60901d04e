"""How close synthetic records are to real ones: distances between their distributions.

The total variation distance between two histograms is half the sum of the absolute differences of their
shares: the part of one table's rows that would have to be changed for the histograms to agree; 0 equal, 1
    disjoint.
Every distance here is between two finite samples, so that even a perfect generator does not reach 0: compare
with `evaluation.baselines`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from evaluation.association import associations
from protocol.errors import RecordsError

TRIPLES = 200
_DENSE_CELLS = 1 << 20
_LARGEST_DOMAIN = 1 << 62


@dataclass(frozen=True, kw_only=True, eq=False)
class Fidelity:
    """Distances between a real and a synthetic table.

    Attributes:
        columns: Total variation distance of every column, ``[C]``.
        pairs: The same of every pair of columns, symmetric ``[C, C]`` with a zero diagonal.
        triples: Which triples of columns were compared, ``[T, 3]``.
        triple_distances: Their total variation distances, ``[T]``.
        real_associations: Strength of association of every pair in the real table, ``[C, C]``; see
            `evaluation.association`.
        synthetic_associations: The same in the synthetic table.
        real_missing: Share of missing values of every column of the real table, ``[C]``.
        synthetic_missing: The same of the synthetic table.
    """

    columns: NDArray[np.float64]
    pairs: NDArray[np.float64]
    triples: NDArray[np.int64]
    triple_distances: NDArray[np.float64]
    real_associations: NDArray[np.float64]
    synthetic_associations: NDArray[np.float64]
    real_missing: NDArray[np.float64]
    synthetic_missing: NDArray[np.float64]

    @property
    def one_way(self) -> float:
        """Mean distance over the columns."""
        return float(self.columns.mean())

    @property
    def two_way(self) -> float:
        """Mean distance over all pairs of columns; 0 where there is no pair."""
        return _mean_above_diagonal(self.pairs)

    @property
    def three_way(self) -> float:
        """Mean distance over the compared triples; 0 where there is none."""
        return float(self.triple_distances.mean()) if self.triple_distances.size else 0.0

    @property
    def association_difference(self) -> float:
        """Mean absolute difference of the associations over all pairs; 0 where there is no pair."""
        return _mean_above_diagonal(np.abs(self.real_associations - self.synthetic_associations))

    @property
    def missing_difference(self) -> NDArray[np.float64]:
        """Synthetic minus real share of missing values, ``[C]``."""
        return self.synthetic_missing - self.real_missing


def compare(
    real: NDArray[np.int64],
    synthetic: NDArray[np.int64],
    cardinalities: Sequence[int],
    *,
    values: Sequence[NDArray[np.float64]],
    is_numeric: NDArray[np.bool_],
    may_be_missing: Sequence[bool],
    generator: np.random.Generator,
) -> Fidelity:
    """Measure every distance between two coded tables.

    Args:
        real: Codes ``[n, C]``.
        synthetic: Codes ``[m, C]``.
        cardinalities: Number of codes of each column.
        values: For each column the number each code stands for, ``[K]``, NaN where there is none.
        is_numeric: Which columns are numbers, ``[C]``.
        may_be_missing: Whether the last code of a column means "missing".
        generator: Chooses the triples where there are more than `TRIPLES`.

    Returns:
        The distances.

    Raises:
        RecordsError: A table is empty or the numbers of columns differ.
    """
    _check_pair(real, synthetic, cardinalities)
    triples = choose_triples(len(cardinalities), limit=TRIPLES, generator=generator)
    return Fidelity(
        columns=column_distances(real, synthetic, cardinalities),
        pairs=pair_distances(real, synthetic, cardinalities),
        triples=triples,
        triple_distances=triple_distances(real, synthetic, cardinalities, triples=triples),
        real_associations=associations(real, values=values, is_numeric=is_numeric),
        synthetic_associations=associations(synthetic, values=values, is_numeric=is_numeric),
        real_missing=missing_shares(real, cardinalities, may_be_missing),
        synthetic_missing=missing_shares(synthetic, cardinalities, may_be_missing),
    )


def column_distances(
    real: NDArray[np.int64], synthetic: NDArray[np.int64], cardinalities: Sequence[int]
) -> NDArray[np.float64]:
    """Return the total variation distance of every column, ``[C]``.

    >>> column_distances(np.array([[0], [1]]), np.array([[0], [0]]), [2])
    array([0.5])
    """
    _check_pair(real, synthetic, cardinalities)
    return np.array([_distance(real, synthetic, cardinalities, (index,)) for index in range(len(cardinalities))])


def pair_distances(
    real: NDArray[np.int64], synthetic: NDArray[np.int64], cardinalities: Sequence[int]
) -> NDArray[np.float64]:
    """Return the total variation distance of every pair of columns, symmetric ``[C, C]``, zero diagonal.

    >>> pair_distances(np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 0]]), [2, 2])
    array([[0., 1.],
           [1., 0.]])
    """
    _check_pair(real, synthetic, cardinalities)
    distances = np.zeros((len(cardinalities), len(cardinalities)))
    for pair in combinations(range(len(cardinalities)), 2):
        distances[pair] = distances[pair[::-1]] = _distance(real, synthetic, cardinalities, pair)
    return distances


def triple_distances(
    real: NDArray[np.int64],
    synthetic: NDArray[np.int64],
    cardinalities: Sequence[int],
    *,
    triples: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the total variation distance of the given triples of columns (``[T, 3]``), ``[T]``."""
    _check_pair(real, synthetic, cardinalities)
    return np.array(
        [_distance(real, synthetic, cardinalities, tuple(triple)) for triple in triples.tolist()],
        dtype=np.float64,
    )


def choose_triples(columns: int, *, limit: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return all triples of columns, or ``limit`` different ones at random if there are more; ``[T, 3]``."""
    if comb(columns, 3) <= 4 * limit:
        every = np.array(list(combinations(range(columns), 3)), dtype=np.int64).reshape(-1, 3)
        if len(every) <= limit:
            return every
        return every[np.sort(generator.choice(len(every), size=limit, replace=False))]
    # Far more triples than asked for: draw until enough differ, rather than list millions of them.
    chosen: set[tuple[int, ...]] = set()
    while len(chosen) < limit:
        chosen.add(tuple(sorted(generator.choice(columns, size=3, replace=False).tolist())))
    return np.array(sorted(chosen), dtype=np.int64)


def missing_shares(
    codes: NDArray[np.int64], cardinalities: Sequence[int], may_be_missing: Sequence[bool]
) -> NDArray[np.float64]:
    """Return the share of missing values of every column, ``[C]``; 0 where nothing may be missing."""
    last = np.array(cardinalities, dtype=np.int64) - 1
    shares: NDArray[np.float64] = (codes == last).mean(axis=0)
    return np.where(np.array(may_be_missing, dtype=np.bool_), shares, 0.0)


def marginal(codes: NDArray[np.int64], cardinality: int) -> NDArray[np.float64]:
    """Return the share of each code of one column (``[n]``), ``[K]``."""
    return np.bincount(codes, minlength=cardinality) / codes.size


def _distance(
    real: NDArray[np.int64],
    synthetic: NDArray[np.int64],
    cardinalities: Sequence[int],
    columns: tuple[int, ...],
) -> float:
    """Total variation distance of the joint histogram of some columns."""
    both = [np.zeros(len(real), dtype=np.int64), np.zeros(len(synthetic), dtype=np.int64)]
    domain = 1
    for index in columns:
        if domain * cardinalities[index] >= _LARGEST_DOMAIN:
            both, domain = _compact(both)
        both = [
            part * cardinalities[index] + table[:, index] for part, table in zip(both, (real, synthetic), strict=True)
        ]
        domain *= cardinalities[index]
    if domain > min(_DENSE_CELLS, 4 * (len(real) + len(synthetic))):
        both, domain = _compact(both)
    return float(0.5 * np.abs(marginal(both[0], domain) - marginal(both[1], domain)).sum())


def _compact(both: list[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], int]:
    """Renumber the cells that occur, so that no table of a large domain is ever laid out."""
    cells, renumbered = np.unique(np.concatenate(both), return_inverse=True)
    return np.split(renumbered.astype(np.int64), [len(both[0])]), len(cells)


def _mean_above_diagonal(matrix: NDArray[np.float64]) -> float:
    upper = matrix[np.triu_indices(len(matrix), k=1)]
    return float(upper.mean()) if upper.size else 0.0


def _check_pair(real: NDArray[np.int64], synthetic: NDArray[np.int64], cardinalities: Sequence[int]) -> None:
    for name, codes in (("real", real), ("synthetic", synthetic)):
        if codes.ndim != 2 or codes.shape[1] != len(cardinalities) or not codes.size:
            raise RecordsError(
                f"the {name} table has the shape {codes.shape}, not rows of {len(cardinalities)} columns.",
                remedy="Give both tables at least one row, in codes of the same schema.",
            )
