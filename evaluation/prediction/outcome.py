"""What a classifier is asked to predict: the classes of the target column."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.table import NUMERIC_KINDS, CodedTable
from protocol.errors import RecordsError


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The classes of a target.

    Attributes:
        column: Position of the target.
        classes: Readable name of each class; with two, the last one is the positive class.
        boundary: For a numeric target the last code of the lower class; None where every code is a class.
        missing_code: Code of a missing target, None where it is never missing.
    """

    column: int
    classes: tuple[str, ...]
    boundary: int | None
    missing_code: int | None

    def known(self, table: CodedTable) -> NDArray[np.bool_]:
        """Which rows have a known target, ``[n]``."""
        codes = table.codes[:, self.column]
        return np.ones(len(codes), dtype=np.bool_) if self.missing_code is None else codes != self.missing_code

    def labels(self, table: CodedTable) -> NDArray[np.int64]:
        """Class of every row, ``[n]``; meaningless where the target is not known."""
        codes = table.codes[:, self.column]
        return codes if self.boundary is None else (codes > self.boundary).astype(np.int64)


def define_outcome(real_test: CodedTable) -> Outcome:
    """Say which classes are predicted.

    Every code of the target is a class, save the one for missing. A numeric target with more than two codes
    becomes "up to the median of the real test rows" against "above it".

    Raises:
        RecordsError: There is no target, or no test row knows it.
    """
    column = real_test.target_index
    if column is None:
        raise RecordsError("the schema names no target.", remedy="Name a target, or leave utility out.")
    codes = real_test.codes[:, column]
    cardinality = real_test.cardinalities[column]
    missing_code = cardinality - 1 if real_test.may_be_missing[column] else None
    known = codes if missing_code is None else codes[codes != missing_code]
    if not known.size:
        raise RecordsError(
            f"no real test row has a known {real_test.target!r}.",
            remedy="Give test rows with a known target.",
        )
    names = real_test.labels[column][: cardinality - (missing_code is not None)]
    if real_test.kinds[column] not in NUMERIC_KINDS or len(names) <= 2:
        return Outcome(column=column, classes=names, boundary=None, missing_code=missing_code)
    boundary = int(np.quantile(known, 0.5, method="inverted_cdf"))
    halves = (f"up to {names[boundary]}", f"above {names[boundary]}")
    return Outcome(column=column, classes=halves, boundary=boundary, missing_code=missing_code)
