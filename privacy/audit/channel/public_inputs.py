"""How records enter a model: column by column, through features of their codes that anybody can compute."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from protocol.errors import InputError

Codes = NDArray[np.int32]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PublicInputs:
    """The features of every column's codes, columns in the order in which the model generates them.

    Attributes:
        features: For every column, in this order, float64 [codes, features]; the identity where each code has an
            indicator of its own.
        order: The column's index in a record; empty for that of the record itself.

    Raises:
        InputError: If the order does not name every column once.

    Example:
        >>> inputs = PublicInputs(features=(np.eye(2), np.array([[1.0], [1.0], [0.5]])), order=(1, 0))
        >>> inputs.vectors(inputs.ordered(np.array([[2, 0]], dtype=np.int32))).tolist()
        [[1.0, 0.0, 0.5]]
    """

    features: tuple[Matrix, ...]
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.order:
            object.__setattr__(self, "order", tuple(range(len(self.features))))
        if sorted(self.order) != list(range(len(self.features))):
            raise InputError(f"Column order {self.order}.", remedy="Name every column once.")

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where the features of each column begin, and how many there are together, [columns + 1]."""
        return offsets_of([each.shape[1] for each in self.features])

    def identity(self, column: int) -> bool:
        """Whether each code of the column, in order, has an indicator of its own: only such features are square."""
        codes, features = self.features[column].shape
        return bool(codes == features)

    def ordered(self, codes: Codes) -> Codes:
        """Codes [n, columns] of records, columns in the order of generation."""
        permuted: Codes = codes[:, list(self.order)]
        return permuted

    def restored(self, codes: Codes) -> Codes:
        """The inverse of :meth:`ordered`."""
        records = np.empty_like(codes)
        records[:, list(self.order)] = codes
        return records

    def vectors(self, codes: Codes) -> Matrix:
        """Features [n, features] of the beginnings of records: codes [n, j] of the first columns in order."""
        parts = [each[codes[:, place]] for place, each in enumerate(self.features[: codes.shape[1]])]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(codes), 0))


def indicators(cardinalities: Sequence[int]) -> PublicInputs:
    """One-hot records: every code of every column has an indicator of its own."""
    return PublicInputs(features=tuple(np.eye(codes) for codes in cardinalities))


def offsets_of(cardinalities: Sequence[int]) -> NDArray[np.int64]:
    """Where the block of each column begins in a one-hot vector, and the length of the whole, [columns + 1]."""
    return np.concatenate([[0], np.cumsum(cardinalities)]).astype(np.int64)


def one_hot(codes: Codes, offsets: NDArray[np.int64]) -> Matrix:
    """One-hot vectors, float64 [n, places], of codes [n, columns]; column j starts at place ``offsets[j]``."""
    columns = codes.shape[1]
    vectors = np.zeros((len(codes), int(offsets[columns])))
    np.put_along_axis(vectors, codes + offsets[:columns], 1.0, axis=1)
    return vectors


def extended(found: Codes, codes: NDArray[np.int64]) -> Codes:
    """Every beginning of a record with each of some codes of the next column behind it."""
    last = np.tile(codes, len(found))
    return np.column_stack([np.repeat(found, len(codes), axis=0), last]).astype(np.int32)
