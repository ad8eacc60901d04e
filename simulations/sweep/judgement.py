"""How a charged trial is judged: by a noisy sum over held-out units, to which each adds one bounded vector.

**Sensitivity.** The classifier is trained on synthetic rows, which are post-processing. Each held-out
unit adds one vector to the sum: for ``accuracy`` 1 where its record is classified rightly, else 0; for
``balanced_accuracy`` two unit vectors, one that counts its class and one that counts it as right. Its norm is at most
1, or the square root of 2. A person is judged by one record, the person's first. The divisor of ``accuracy`` is the
public number of records.
"""

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from evaluation.table import CodedTable
from privacy.mechanisms.gaussian import GaussianMechanism
from privacy.mechanisms.grid import IntegerGrid
from protocol.randomness import RandomSource

CHARGED_MEASURES = ("accuracy", "balanced_accuracy")
"""By what a charged trial may be judged: sums to which every unit adds a bounded vector."""


def one_record_each(units: NDArray[np.int64], judged: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the position of the first record of every judged unit.

    Args:
        units: Unit of each record, ``[n]``.
        judged: Which records are of judged units, ``[n]``.

    >>> one_record_each(np.array([0, 1, 0, 1]), np.array([True, False, True, False]))
    array([0])
    """
    rows = np.flatnonzero(judged)
    return rows[np.unique(units[rows], return_index=True)[1]].astype(np.int64)


def judgement(name: str, synthetic: CodedTable, held_out: CodedTable) -> NDArray[np.float64]:
    """Return what each held-out row adds to the sum, ``[rows, d]``: a function of the row and of synthetic rows alone.

    Args:
        name: One of `CHARGED_MEASURES`.
        synthetic: Rows to train the classifier on.
        held_out: Rows to judge by, one per unit.

    Returns:
        float64; norm of every row at most `judgement_norm`. A row whose target is missing adds zero.
    """
    target = synthetic.target_index or 0
    classes = _classes(held_out, target)
    labels = held_out.codes[:, target]
    known = labels < classes
    right = (_predicted(synthetic, held_out, target, classes) == labels) & known
    if name == "accuracy":
        return np.asarray(right[:, None], dtype=np.float64)
    counted = np.zeros((len(labels), 2 * classes))
    rows = np.flatnonzero(known)
    counted[rows, labels[rows]] = 1.0
    counted[rows, classes + labels[rows]] = right[rows]
    return counted


def judgement_norm(name: str) -> float:
    """Largest norm of what one unit adds to a judgement."""
    return 1.0 if name == "accuracy" else math.sqrt(2.0)


def noisy_sum(
    contributions: NDArray[np.float64], *, expected: float, noise: float, random: RandomSource
) -> NDArray[np.float64]:
    """Return the noisy sum of rows, ``[d]``: discrete Gaussian noise on the integer grid, as a site's messages have it.

    Args:
        contributions: float64 ``[rows, d]``, 0 or 1.
        expected: Public expected number of rows, which sets the grid alone.
        noise: Noise over sensitivity.
        random: Of the noise.
    """
    dimension = contributions.shape[1]
    norm = judgement_norm("accuracy" if dimension == 1 else "balanced_accuracy")
    grid = IntegerGrid.fit(clip_norm=norm, dimension=dimension, expected_units=expected, noise_multiplier=noise)
    mechanism = GaussianMechanism(grid=grid, noise_multiplier=noise)
    return np.asarray(grid.dequantise(mechanism.privatise(contributions.sum(axis=0), random=random)), dtype=np.float64)


def reading(name: str, noisy: NDArray[np.float64], *, expected: float) -> float:
    """Return a measure from its noisy sum; post-processing.

    Args:
        name: One of `CHARGED_MEASURES`.
        noisy: As of :func:`noisy_sum`.
        expected: Public expected number of held-out units.
    """
    if name == "accuracy":
        return float(noisy[0]) / expected
    counts, rights = np.split(noisy, 2)
    return float(np.mean(np.clip(rights / np.maximum(counts, 1.0), 0.0, 1.0)))


def _classes(table: CodedTable, target: int) -> int:
    return table.cardinalities[target] - table.may_be_missing[target]


def _predicted(synthetic: CodedTable, held_out: CodedTable, target: int, classes: int) -> NDArray[np.int64]:
    """Train boosted trees on synthetic rows, and predict the class of every held-out row."""
    train = synthetic.take(np.flatnonzero(synthetic.codes[:, target] < classes))
    labels = train.codes[:, target]
    if not held_out.rows or len(np.unique(labels)) < 2:
        return np.full(held_out.rows, labels[0] if len(labels) else 0, dtype=np.int64)
    features = [np.delete(table.codes, target, axis=1) for table in (train, held_out)]
    model = HistGradientBoostingClassifier(random_state=0, early_stopping=False).fit(features[0], labels)
    return np.asarray(model.predict(features[1]), dtype=np.int64)
