"""What the gradient of a decoder's numbers per code counts: the codes that a batch has, and the records behind them.

A decoder with one number per code gets, as its gradient, what it predicts minus what is: summed over a batch, the
probability of each code, less an indicator of the code that the record has, times the record's clip factor. Before the
first step the probabilities are the same for every record and known to all, so that what is left is, without noise, a
count of every code, in which each record weighs its clip factor. The layers between columns give, in the same way,
tables of two columns. A record can be in the batch only if all its cells in these tables hold something; and of such
records those are in it whose weighted sum is the tables.

Sources: Zhao, Mopuri, Bilen 2020 (labels from the signs of signals); Lawson, Hanson 1974, chapter 23 (least squares
with weights that are not negative).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from privacy.audit.channel.public_inputs import Codes, Matrix, PublicInputs, extended

_LEAST_SHARE = 0.02  # of a record's mean weight: less is rounding
_LEAST_FEATURE = 0.05  # of a code: smaller ones would magnify rounding
_LEAST_SIGNAL = 1e-4
_UNEXPLAINED = 1e-2  # share of the tables that may be left over
_MOST_BEGINNINGS = 4_000
_MOST_RECORDS = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeSignals:
    """The gradient of numbers per code, and of the layers between columns, all in the model's order of columns.

    Attributes:
        totals: For every column float64 [codes]: predicted minus true, summed over the batch.
        shares: For every column [codes], the probabilities that the model gives every record; empty where they are not
            the same for all.
        tables: For every column float64 [features of the columns before, features of its own]: the features that
            entered times predicted minus true, summed; None where the model has no such layer.
    """

    totals: tuple[Matrix, ...]
    shares: tuple[Matrix, ...] = ()
    tables: tuple[Matrix | None, ...] = ()

    def present(self, *, count: int) -> tuple[NDArray[np.int64], ...]:
        """The codes of each column that records of the batch may have.

        Where shares are not known, those with a negative total, which no code has by prediction alone.
        """
        if not self.shares:
            return tuple(
                np.flatnonzero(each < -_LEAST_SIGNAL * np.abs(each).max(initial=1e-300)) for each in self.totals
            )
        weight, counts = self.counts()
        return tuple(np.flatnonzero(each > _LEAST_SHARE * weight / count) for each in counts)

    def counts(self) -> tuple[float, tuple[Matrix, ...]]:
        """The weight of all records together, and that of the records with each code of each column.

        A code that nobody has shows the whole weight times its share; other codes show less. If every code of every
        column is in the batch, the weight is too small.
        """
        paired = list(zip(self.totals, self.shares, strict=True))
        weight = max(float((total / share).max()) for total, share in paired)
        return weight, tuple(weight * share - total for total, share in paired)


def counted_records(signals: CodeSignals, inputs: PublicInputs, *, count: int) -> Codes | None:
    """The records whose weighted counts are seen.

    Args:
        signals: What is seen, without noise.
        inputs: How records enter the model.
        count: Number of records in the batch.

    Returns:
        int32 [at most count, columns], columns in the order of ``inputs``, records that are alike once; None where
        none explain what is seen, or too many might.
    """
    if not signals.shares or not signals.tables:
        return None
    weight, counts = signals.counts()
    if not weight > 0.0:
        return None
    least = _LEAST_SHARE * weight / count
    pairs = _pairs(signals, inputs, counts)
    found = np.zeros((1, 0), dtype=np.int32)
    for column, codes in enumerate(signals.present(count=count)):
        if not 0 < len(found) * len(codes) <= _MOST_BEGINNINGS:
            return None
        longer = extended(found, codes)
        pair = pairs[column]
        if pair is not None:
            most = _most_weight(pair, inputs.vectors(found), inputs.features[column][codes])
            longer = longer[most.ravel() > least]
        found = longer
    if not 0 < len(found) <= _MOST_RECORDS:
        return None
    weights, unexplained = _weights(found, inputs, counts, pairs)
    found = found[weights > least]
    return found if 0 < len(found) <= count and unexplained < _UNEXPLAINED else None


def _pairs(signals: CodeSignals, inputs: PublicInputs, counts: Sequence[Matrix]) -> list[Matrix | None]:
    """What was true, without what was predicted: sums over records of the features before, times those of a column."""
    pairs = list[Matrix | None]()
    before = np.zeros(0)
    for place, (table, features) in enumerate(zip(signals.tables, inputs.features, strict=True)):
        predicted = np.outer(before, features.T @ signals.shares[place])
        pairs.append(None if table is None or not len(before) else predicted - table)
        before = np.concatenate([before, features.T @ counts[place]])
    return pairs


def _most_weight(pair: Matrix, vectors: Matrix, features: Matrix) -> Matrix:
    """The most that a record can weigh for all it shares in a table: beginnings by codes.

    No record takes away from a cell, so that each weighs at most what the cell holds over its own part of it.
    """
    entered = np.where(vectors > _LEAST_FEATURE, vectors, np.nan)
    columns = []
    for own in features:
        held = own > _LEAST_FEATURE
        cells = (pair[:, held] / own[held]).min(axis=1, initial=np.inf)
        columns.append(np.fmin.reduce(cells / entered, axis=1))
    return np.stack(columns, axis=1)


def _weights(
    found: Codes, inputs: PublicInputs, counts: Sequence[Matrix], pairs: Sequence[Matrix | None]
) -> tuple[Matrix, float]:
    """Weights that are not negative and add up to what was counted; and the share of it that they leave over."""
    vectors, blocks, seen = inputs.vectors(found), list[Matrix](), list[Matrix]()
    for column, (features, pair) in enumerate(zip(inputs.features, pairs, strict=True)):
        blocks.append(np.eye(len(features))[found[:, column]])
        seen.append(counts[column])
        if pair is not None:
            before, own = vectors[:, : inputs.offsets[column]], features[found[:, column]]
            blocks.append(np.einsum("nf,nm->nfm", before, own).reshape(len(found), -1))
            seen.append(pair.ravel())
    records, target = np.concatenate(blocks, axis=1).T, np.concatenate(seen)
    # Rotated to as many equations as there are unknowns: what the rotation leaves over no weights explain.
    orthogonal, upper = np.linalg.qr(records)
    weights: Matrix = nnls(upper, orthogonal.T @ target)[0]
    left = float(np.linalg.norm(records @ weights - target))
    return weights, left / float(np.linalg.norm(target))
