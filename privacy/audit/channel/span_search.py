"""Records read off the gradient of a linear layer that they enter as one-hot vectors: exact, and only without noise.

The gradient of a linear layer is a sum, over records, of what entered it times the signal that came back. So every
column of the gradient is a combination of the records' one-hot vectors, whatever the weights, the loss and the clip
factors are, and with enough outputs these columns span the same space as the records. A vector of zeros and ones with
a single one per column of the table lies in that space by accident only. The search goes through the table's columns
from left to right and keeps the beginnings of records that lie in the space.

Where a layer's outputs are the logits of a column, less is left to search: once the beginnings of all records are
known, least squares gives every record's own signal, which is negative at the code that the record has and positive
at all others.

Sources: Phong, Aono, Hayashi, Wang, Moriai 2018, section 3 (inputs from the gradient of a linear layer); Dimitrov,
Baader, Müller, Vechev 2024 (batches from its low rank); Zhao, Mopuri, Bilen 2020 (labels from the signs of signals).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import InputError

Codes = NDArray[np.int32]
Matrix = NDArray[np.float64]

_IN_SPAN = 1e-5  # squared distance from the space, over the squared length of the vector
_LEAST_SINGULAR = 1e-5  # below that share of the largest singular value there is rounding only
_UNEXPLAINED = 1e-2  # share of the gradients' norm that may be left over where a search has succeeded
_MOST_BEGINNINGS = 20_000
_LEAST_SIGNAL = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class InputGradient:
    """The gradient of a linear layer that the first columns of a record enter.

    Attributes:
        entered: Number of columns of the table that enter, from the left, at least 1.
        rows: float64 [places, outputs], one row for each code of these columns, in order.
        logits: Whether the outputs are added up to the logits of the next column.
    """

    entered: int
    rows: Matrix
    logits: bool = False


def span_search(layers: Sequence[InputGradient], *, cardinalities: Sequence[int], count: int) -> Codes | None:
    """Reconstruct the records of a batch from gradients without noise.

    Args:
        layers: The layers that records enter, with gradients summed over the batch.
        cardinalities: Number of codes of every column.
        count: Number of records in the batch, at least 1.

    Returns:
        int32 [count, columns] in any order; None where no such records explain the gradients.

    Raises:
        InputError: If ``count`` is below 1, or a gradient has another number of rows than its columns have codes.

    Example:
        >>> inputs = np.array([[1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0]])  # codes (0, 0) and (1, 1)
        >>> signals = np.array([[0.3, -0.2], [0.1, 0.5]])
        >>> layer = InputGradient(entered=2, rows=inputs.T @ signals)
        >>> span_search([layer], cardinalities=(3, 2), count=2).tolist()
        [[0, 0], [1, 1]]
    """
    offsets = offsets_of(cardinalities)
    if count < 1 or any(len(each.rows) != offsets[each.entered] for each in layers):
        raise InputError(
            f"{count} records, and gradients of {[each.rows.shape for each in layers]}.",
            remedy="Give at least one record, and one row for each code that enters.",
        )
    found = np.zeros((1, 0), dtype=np.int32)
    for column, codes in enumerate(cardinalities):
        found = _longer(found, layers, offsets, codes=codes, column=column, count=count)
        if not 1 <= len(found) <= _MOST_BEGINNINGS:
            return None
    return _explaining(layers, found, offsets, count)


def offsets_of(cardinalities: Sequence[int]) -> NDArray[np.int64]:
    """Where the block of each column begins in a one-hot vector, and the length of the whole, [columns + 1]."""
    return np.concatenate([[0], np.cumsum(cardinalities)]).astype(np.int64)


def one_hot(codes: Codes, offsets: NDArray[np.int64]) -> Matrix:
    """One-hot vectors, float64 [n, places], of codes [n, columns]; column j starts at place ``offsets[j]``."""
    columns = codes.shape[1]
    vectors = np.zeros((len(codes), int(offsets[columns])))
    np.put_along_axis(vectors, codes + offsets[:columns], 1.0, axis=1)
    return vectors


def _longer(
    found: Codes,
    layers: Sequence[InputGradient],
    offsets: NDArray[np.int64],
    *,
    codes: int,
    column: int,
    count: int,
) -> Codes:
    """The beginnings with a code of the next column behind them; none where that column cannot be told."""
    signal = _signals(layers, found, offsets)
    if signal is not None and len(found) == count:
        return _read_off(found, signal)
    basis = _basis(layers, offsets, column + 1, count)
    longer = found[:0] if basis is None else _in_span(_extended(found, codes), basis, offsets, count)
    return longer if len(longer) or signal is None else _read_off(found, signal)


def _basis(layers: Sequence[InputGradient], offsets: NDArray[np.int64], columns: int, count: int) -> Matrix | None:
    """An orthonormal basis [places, rank] of what is seen of the first columns; None where it may be a part of it."""
    covering = [each for each in layers if each.entered >= columns]
    # The signals of logits add up to zero, so that one output tells nothing.
    if sum(each.rows.shape[1] - each.logits for each in covering) < count:
        return None
    beginnings = np.concatenate([each.rows[: offsets[columns]] for each in covering], axis=1)
    left, singular, _ = np.linalg.svd(beginnings, full_matrices=False)
    rank = int((singular > _LEAST_SINGULAR * singular[0]).sum()) if singular[0] > 0 else 0
    basis: Matrix = left[:, : min(rank, count)]
    return basis


def _extended(found: Codes, codes: int) -> Codes:
    """Every beginning with every code of the next column behind it."""
    last = np.tile(np.arange(codes, dtype=np.int32), len(found))
    return np.column_stack([np.repeat(found, codes, axis=0), last]).astype(np.int32)


def _in_span(found: Codes, basis: Matrix, offsets: NDArray[np.int64], count: int) -> Codes:
    """The beginnings that lie in the space; where they are too many and independent, those that are used."""
    projected = np.zeros((len(found), basis.shape[1]))
    for column in range(found.shape[1]):
        projected += basis[found[:, column] + offsets[column]]
    inside = np.flatnonzero(1.0 - np.square(projected).sum(axis=1) / found.shape[1] < _IN_SPAN)
    kept: Codes = found[inside]
    if not count < len(kept) <= basis.shape[0]:
        return kept
    inputs = one_hot(kept, offsets)
    if np.linalg.matrix_rank(inputs) < len(kept):
        return kept
    used = np.linalg.norm(np.linalg.lstsq(inputs.T, basis, rcond=None)[0], axis=1)
    return _most_used(kept, used, count)


def _signals(layers: Sequence[InputGradient], found: Codes, offsets: NDArray[np.int64]) -> Matrix | None:
    """The signal at the next column's logits for every beginning, [beginnings, codes]; None where no layer shows it."""
    layer = next((each for each in layers if each.logits and each.entered == found.shape[1]), None)
    return None if layer is None else _solved(one_hot(found, offsets), layer.rows)


def _read_off(found: Codes, signal: Matrix) -> Codes:
    """Every beginning with the codes at which its signal is negative behind it."""
    taken = signal < -_LEAST_SIGNAL * np.abs(signal).max(initial=1e-300)
    taken[np.arange(len(signal)), signal.argmin(axis=1)] = True
    which, codes = np.nonzero(taken)
    return np.column_stack([found[which], codes]).astype(np.int32)


def _explaining(layers: Sequence[InputGradient], found: Codes, offsets: NDArray[np.int64], count: int) -> Codes | None:
    """As many records as there are, some of them repeated; None where they do not explain what was seen."""
    unexplained, used = _fit(layers, found, offsets)
    if len(found) > count:
        found = _most_used(found, used, count)
        unexplained, used = _fit(layers, found, offsets)
    if unexplained > _UNEXPLAINED:
        return None
    copies = np.ones(len(found), dtype=np.int64)
    for _ in range(count - len(found)):
        copies[np.argmax(used / copies)] += 1
    return np.repeat(found, copies, axis=0)


def _fit(layers: Sequence[InputGradient], found: Codes, offsets: NDArray[np.int64]) -> tuple[float, Matrix]:
    """The share of the gradients' norm that records do not explain, and the norm of each record's signals."""
    inputs, used, left, seen = one_hot(found, offsets), np.zeros(len(found)), 0.0, 0.0
    for each in layers:
        beginnings = inputs[:, : offsets[each.entered]]
        signal = _solved(beginnings, each.rows)
        used += np.square(signal).sum(axis=1)
        left += float(np.square(each.rows - beginnings.T @ signal).sum())
        seen += float(np.square(each.rows).sum())
    norms: Matrix = np.sqrt(used)
    return float(np.sqrt(left / seen)) if seen > 0.0 else 1.0, norms


def _solved(inputs: Matrix, rows: Matrix) -> Matrix:
    """The signal of every record, [n, outputs], by least squares."""
    signal: Matrix = np.linalg.lstsq(inputs.T, rows, rcond=None)[0].astype(np.float64)
    return signal


def _most_used(found: Codes, used: Matrix, count: int) -> Codes:
    """Those that explain most, in the order in which they were found."""
    most: Codes = found[np.sort(np.argsort(-used)[:count])]
    return most
