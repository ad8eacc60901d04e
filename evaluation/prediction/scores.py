"""How good predicted probabilities are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

NO_SKILL = 0.5
_GRID = np.linspace(0.0, 1.0, 201)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What a classifier achieved on test rows.

    Attributes:
        auroc: Area under the receiver operating characteristic; with more than two classes the mean of one
            class against the rest over the classes that occur in the test rows. `NO_SKILL` where it is not
            defined.
        accuracy: Share of the test rows whose most probable class is the right one.
        average_precision: Area under the precision-recall curve (of the positive class, or the same mean).
        true_positive_rate: The curve's height at the false positive rates of `false_positive_rate`,
            ``[201]``; None where it is not defined.
        notes: What a reader must know, as sentences.
    """

    auroc: float
    accuracy: float
    average_precision: float
    true_positive_rate: NDArray[np.float64] | None
    notes: tuple[str, ...] = ()


def false_positive_rate() -> NDArray[np.float64]:
    """Return the false positive rates at which every curve is read, ``[201]``, 0 to 1."""
    return _GRID.copy()


def score(labels: NDArray[np.int64], probabilities: NDArray[np.float64], *, notes: tuple[str, ...] = ()) -> Scores:
    """Score predicted probabilities.

    Args:
        labels: Right classes, ``[n]``, 0 to K-1.
        probabilities: Predicted probability of each class, ``[n, K]``.
        notes: Sentences to keep with the scores.

    Returns:
        The scores. Where the test rows hold a single class, AUROC is not defined: `NO_SKILL` and a note.

    >>> score(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])).auroc
    1.0
    """
    classes = probabilities.shape[1]
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    candidates = [1] if classes == 2 else range(classes)
    judged = [index for index in candidates if 0 < np.count_nonzero(labels == index) < labels.size]
    if not judged:
        return Scores(
            auroc=NO_SKILL,
            accuracy=accuracy,
            average_precision=float(bool(classes == 2 and (labels == 1).all())),
            true_positive_rate=None,
            notes=(*notes, "The real test rows hold a single class: AUROC is not defined and stands at 0.5."),
        )
    return Scores(
        auroc=float(np.mean([roc_auc_score(labels == index, probabilities[:, index]) for index in judged])),
        accuracy=accuracy,
        average_precision=float(
            np.mean([average_precision_score(labels == index, probabilities[:, index]) for index in judged])
        ),
        true_positive_rate=np.mean([_curve(labels == index, probabilities[:, index]) for index in judged], axis=0),
        notes=notes,
    )


def _curve(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height of the ROC curve at the grid; of several heights at one rate the highest counts."""
    false_rates, true_rates, _ = roc_curve(positive, scores)
    last = np.append(np.diff(false_rates) > 0, True)
    heights: NDArray[np.float64] = np.interp(_GRID, false_rates[last], true_rates[last])
    return heights
