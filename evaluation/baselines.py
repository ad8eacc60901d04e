"""Generators that need no training, between which every other one should lie.

They read real records without any noise: they are yardsticks for a report that stays where the records are,
and nothing that may be released.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.fidelity import marginal
from protocol.errors import RecordsError


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """How far a generator that needs no training is from the real rows.

    Attributes:
        name: What generated the rows, in words.
        is_real: Whether its rows are real ones.
        one_way: Mean total variation distance over the columns.
        two_way: The same over the pairs.
        three_way: The same over the triples that were compared.
    """

    name: str
    is_real: bool
    one_way: float
    two_way: float
    three_way: float


def independent_columns(
    codes: NDArray[np.int64], cardinalities: Sequence[int], *, rows: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw every column on its own from its histogram: right marginals, no relationships.

    Args:
        codes: Real training codes ``[n, C]``.
        cardinalities: Number of codes of each column.
        rows: How many rows to draw.
        generator: Source of the draws.

    Returns:
        Codes ``[rows, C]``.

    Raises:
        RecordsError: There is no row to learn from.
    """
    _check_rows(codes)
    drawn = [
        generator.choice(cardinality, size=rows, p=marginal(codes[:, index], cardinality))
        for index, cardinality in enumerate(cardinalities)
    ]
    return np.stack(drawn, axis=1).astype(np.int64)


def permuted_labels(codes: NDArray[np.int64], *, target: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Shuffle the target column among the rows: the null of every prediction. Returns ``[n, C]``."""
    permuted = codes.copy()
    permuted[:, target] = generator.permutation(codes[:, target])
    return permuted


def bootstrap_rows(codes: NDArray[np.int64], *, rows: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw real rows with replacement, ``[rows, C]``: the fidelity of a generator that repeats them."""
    _check_rows(codes)
    return codes[generator.integers(len(codes), size=rows)]


def _check_rows(codes: NDArray[np.int64]) -> None:
    if not len(codes):
        raise RecordsError("there is no real row to draw from.", remedy="Give at least one row.")
