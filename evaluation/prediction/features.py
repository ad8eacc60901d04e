"""The feature matrices that classifiers read."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from evaluation.table import CodedTable


def plain_features(table: CodedTable, *, without: int | None) -> NDArray[np.int64]:
    """Return the integer codes as they are, ``[n, C]``, less the column at position ``without``."""
    return table.codes if without is None else np.delete(table.codes, without, axis=1)


def one_hot_features(
    train: CodedTable, test: CodedTable, *, without: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Code two tables for a linear model.

    A numeric column becomes its number, centred and scaled by the *training* rows (0 where missing), and,
    where it may be missing, a flag; any other column becomes one indicator per code.

    Args:
        train: Rows that set centre and scale.
        test: Rows coded alike.
        without: Position of the column to leave out.

    Returns:
        Train and test matrices, float64 CSR of the same width.
    """
    is_numeric = train.is_numeric
    blocks: tuple[list[sparse.csr_matrix], list[sparse.csr_matrix]] = ([], [])
    for index in range(len(train.names)):
        if index == without:
            continue
        if is_numeric[index]:
            made = _numeric_block(train, test, index)
        else:
            made = (_indicators(train, index), _indicators(test, index))
        for part, block in zip(blocks, made, strict=True):
            part.append(block)
    return sparse.hstack(blocks[0], format="csr"), sparse.hstack(blocks[1], format="csr")


def _indicators(table: CodedTable, index: int) -> sparse.csr_matrix:
    rows = table.rows
    return sparse.csr_matrix(
        (np.ones(rows), table.codes[:, index], np.arange(rows + 1)), shape=(rows, table.cardinalities[index])
    )


def _numeric_block(train: CodedTable, test: CodedTable, index: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    values = train.values[index]
    known = values[train.codes[:, index]]
    known = known[np.isfinite(known)]
    centre = float(known.mean()) if known.size else 0.0
    spread = float(known.std()) if known.size else 0.0
    standard = (values - centre) / (spread if spread > 0 else 1.0)
    columns = [np.nan_to_num(standard)]
    if train.may_be_missing[index]:
        columns.append(np.isnan(values).astype(np.float64))
    per_code = np.stack(columns, axis=1)
    return (
        sparse.csr_matrix(per_code[train.codes[:, index]]),
        sparse.csr_matrix(per_code[test.codes[:, index]]),
    )
