"""Records read off the gradient of a linear layer that they enter through public features: exact, without noise only.

The gradient of a linear layer is a sum, over records, of what entered it times the signal that came back. So every
column of the gradient is a combination of the records' feature vectors, whatever the weights, the loss and the clip
factors are, and with enough outputs these columns span the same space as the records. The vector of another record
lies in that space by accident only. The search goes through the table's columns in the order in which the model
generates them, and keeps the beginnings of records that lie in the space.

Where a layer's outputs are added up to the logits of a column, less is left to search: once the beginnings of all
records are known, least squares gives every record's own signal, which is negative at the code that the record has and
positive at all others; or, where codes share features, at the features of that code. Codes that share all features are
told apart by nothing here: the caller says which codes the batch has.

Sources: Phong, Aono, Hayashi, Wang, Moriai 2018, section 3 (inputs from the gradient of a linear layer); Dimitrov,
Baader, Müller, Vechev 2024 (batches from its low rank); Zhao, Mopuri, Bilen 2020 (labels from the signs of signals).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.audit.channel.public_inputs import Codes, Matrix, PublicInputs, extended, indicators
from protocol.errors import InputError

_IN_SPAN = 1e-5  # squared distance from the space, over the squared length of the vector
_LEAST_SINGULAR = 1e-5  # below that share of the largest singular value there is rounding only
_UNEXPLAINED = 1e-2  # share of the gradients' norm that may be left over where a search has succeeded
_MOST_BEGINNINGS = 20_000
_LEAST_SIGNAL = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class InputGradient:
    """The gradient of a linear layer that the first columns of a record enter.

    Attributes:
        entered: Number of columns that enter, from the first in the model's order, at least 1.
        rows: float64 [features, outputs], one row for each feature of these columns, in order.
        logits: Whether the outputs, one for each feature of the next column, are added up to its logits.
    """

    entered: int
    rows: Matrix
    logits: bool = False


def span_search(
    layers: Sequence[InputGradient],
    *,
    cardinalities: Sequence[int],
    count: int,
    inputs: PublicInputs | None = None,
    present: Sequence[NDArray[np.int64]] = (),
) -> Codes | None:
    """Reconstruct the records of a batch from gradients without noise.

    Args:
        layers: The layers that records enter, with gradients summed over the batch.
        cardinalities: Number of codes of every column.
        count: Number of records in the batch, at least 1.
        inputs: How records enter; None for one-hot vectors.
        present: For every column, in the order of ``inputs``, the codes that the batch may have; it counts where codes
            share features. Empty for all.

    Returns:
        int32 [count, columns] in any order; None where no such records explain the gradients.

    Raises:
        InputError: If ``count`` is below 1, or a gradient has another number of rows than its columns have features.

    Example:
        >>> inputs = np.array([[1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0]])  # codes (0, 0) and (1, 1)
        >>> signals = np.array([[0.3, -0.2], [0.1, 0.5]])
        >>> layer = InputGradient(entered=2, rows=inputs.T @ signals)
        >>> span_search([layer], cardinalities=(3, 2), count=2).tolist()
        [[0, 0], [1, 1]]
    """
    inputs = indicators(cardinalities) if inputs is None else inputs
    if count < 1 or any(len(each.rows) != inputs.offsets[each.entered] for each in layers):
        raise InputError(
            f"{count} records, and gradients of {[each.rows.shape for each in layers]}.",
            remedy="Give at least one record, and one row for each code, or feature of codes, that enters.",
        )
    found = np.zeros((1, 0), dtype=np.int32)
    for column, features in enumerate(inputs.features):
        codes = np.arange(len(features)) if not present or inputs.identity(column) else present[column]
        found = _longer(found, layers, inputs, codes=codes, count=count)
        if not 1 <= len(found) <= _MOST_BEGINNINGS:
            return None
    return explaining(layers, found, inputs, count=count)


def explaining(layers: Sequence[InputGradient], found: Codes, inputs: PublicInputs, *, count: int) -> Codes | None:
    """As many records as there are, out of those found, some of them repeated.

    Args:
        layers: The layers that records enter.
        found: int32 [m, columns], columns in the order of ``inputs``.
        inputs: How records enter.
        count: Number of records in the batch.

    Returns:
        int32 [count, columns], columns in the order of the table; None where they do not explain what was seen.
    """
    if len(found) > count:
        # Records whose codes share all features explain the same: one of them stands for all.
        found = found[np.sort(np.unique(inputs.vectors(found), axis=0, return_index=True)[1])]
    unexplained, used = _fit(layers, found, inputs)
    if len(found) > count:
        found = _most_used(found, used, count)
        unexplained, used = _fit(layers, found, inputs)
    if unexplained > _UNEXPLAINED:
        return None
    copies = np.ones(len(found), dtype=np.int64)
    for _ in range(count - len(found)):
        copies[np.argmax(used / copies)] += 1
    return inputs.restored(np.repeat(found, copies, axis=0))


def _longer(
    found: Codes, layers: Sequence[InputGradient], inputs: PublicInputs, *, codes: NDArray[np.int64], count: int
) -> Codes:
    """The beginnings with a code of the next column behind them; none where that column cannot be told."""
    column = found.shape[1]
    signal = _signals(layers, found, inputs)
    # Neighbours on a line share features, so that a signal tells them roughly: the space is asked first.
    if signal is not None and len(found) == count and inputs.identity(column):
        return _read_off(found, signal, codes)
    if not len(codes):
        return found[:0]
    basis = _basis(layers, inputs.offsets, column + 1, count)
    longer = found[:0] if basis is None else _in_span(extended(found, codes), basis, inputs, count)
    if len(longer) or signal is None:
        return longer
    return _read_off(found, signal @ inputs.features[column][codes].T, codes)


def _basis(layers: Sequence[InputGradient], offsets: NDArray[np.int64], columns: int, count: int) -> Matrix | None:
    """An orthonormal basis [features, rank] of what is seen of the first columns; None where it may be part of it."""
    covering = [each for each in layers if each.entered >= columns]
    # The signals of logits add up to zero, so that one output tells nothing.
    if sum(each.rows.shape[1] - each.logits for each in covering) < count:
        return None
    beginnings = np.concatenate([each.rows[: offsets[columns]] for each in covering], axis=1)
    left, singular, _ = np.linalg.svd(beginnings, full_matrices=False)
    rank = int((singular > _LEAST_SINGULAR * singular[0]).sum()) if singular[0] > 0 else 0
    basis: Matrix = left[:, : min(rank, count)]
    return basis


def _in_span(found: Codes, basis: Matrix, inputs: PublicInputs, count: int) -> Codes:
    """The beginnings that lie in the space; where they are too many and independent, those that are used."""
    projected, squares = np.zeros((len(found), basis.shape[1])), np.zeros(len(found))
    for column, features in enumerate(inputs.features[: found.shape[1]]):
        block = slice(inputs.offsets[column], inputs.offsets[column + 1])
        projected += (features @ basis[block])[found[:, column]]
        squares += np.square(features).sum(axis=1)[found[:, column]]
    inside = np.flatnonzero(1.0 - np.square(projected).sum(axis=1) / squares < _IN_SPAN)
    kept: Codes = found[inside]
    if not count < len(kept) <= basis.shape[0]:
        return kept
    vectors = inputs.vectors(kept)
    if np.linalg.matrix_rank(vectors) < len(kept):
        return kept
    used = np.linalg.norm(np.linalg.lstsq(vectors.T, basis, rcond=None)[0], axis=1)
    return _most_used(kept, used, count)


def _signals(layers: Sequence[InputGradient], found: Codes, inputs: PublicInputs) -> Matrix | None:
    """The signal at the next column's features, [beginnings, features]; None where no layer shows it."""
    layer = next((each for each in layers if each.logits and each.entered == found.shape[1]), None)
    return None if layer is None else _solved(inputs.vectors(found), layer.rows)


def _read_off(found: Codes, signal: Matrix, codes: NDArray[np.int64]) -> Codes:
    """Every beginning with the codes at which its signal, [beginnings, codes], is negative behind it."""
    taken = signal < -_LEAST_SIGNAL * np.abs(signal).max(initial=1e-300)
    taken[np.arange(len(signal)), signal.argmin(axis=1)] = True
    which, places = np.nonzero(taken)
    return np.column_stack([found[which], codes[places]]).astype(np.int32)


def _fit(layers: Sequence[InputGradient], found: Codes, inputs: PublicInputs) -> tuple[float, Matrix]:
    """The share of the gradients' norm that records do not explain, and the norm of each record's signals."""
    vectors, used, left, seen = inputs.vectors(found), np.zeros(len(found)), 0.0, 0.0
    for each in layers:
        beginnings = vectors[:, : inputs.offsets[each.entered]]
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
