"""Can a classifier tell synthetic rows from real ones?

The classifier two-sample test of Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests", with the
area under the curve in place of the accuracy. 0.5 is ideal: the rows cannot be told apart. *Below* 0.5 is a
warning: rows that occur on both sides mislead the classifier, as when a generator repeats real records.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from evaluation.prediction.scores import NO_SKILL
from protocol.errors import RecordsError

DETECTION_ROWS = 20_000
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well a classifier tells synthetic rows from real ones.

    Attributes:
        auroc: Mean area under the curve over the folds; 0.5 where there are too few rows.
        folds: The area of each fold.
        rows: How many rows of *each* kind were used.
        notes: What a reader must know, as sentences.
    """

    auroc: float
    folds: tuple[float, ...]
    rows: int
    notes: tuple[str, ...] = ()


def detect(
    real: NDArray[np.int64],
    synthetic: NDArray[np.int64],
    *,
    generator: np.random.Generator,
    most_rows: int = DETECTION_ROWS,
) -> Detection:
    """Train boosted trees to tell real from synthetic rows, cross-validated in five folds.

    Args:
        real: Codes ``[n, C]``.
        synthetic: Codes ``[m, C]``.
        generator: Chooses the rows (as many of each kind) and the folds.
        most_rows: Most rows to use of each kind.

    Returns:
        The detection; with fewer than two rows of a kind AUROC stands at 0.5 with a note.

    Raises:
        RecordsError: The tables differ in their columns.
    """
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise RecordsError(
            f"the tables have the shapes {real.shape} and {synthetic.shape}.",
            remedy="Give both tables in codes of the same schema.",
        )
    rows = min(len(real), len(synthetic), most_rows)
    if rows < 2:
        note = "Fewer than two rows of a kind: detection is not defined and stands at 0.5."
        return Detection(auroc=NO_SKILL, folds=(), rows=rows, notes=(note,))
    chosen = [table[generator.choice(len(table), size=rows, replace=False)] for table in (real, synthetic)]
    folds = _areas(np.concatenate(chosen), np.repeat([0, 1], rows), min(_FOLDS, rows), generator)
    return Detection(auroc=float(np.mean(folds)), folds=folds, rows=rows)


def _areas(
    features: NDArray[np.int64], is_synthetic: NDArray[np.int64], folds: int, generator: np.random.Generator
) -> tuple[float, ...]:
    splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=int(generator.integers(2**31)))
    areas = []
    for train, test in splitter.split(features, is_synthetic):
        model = HistGradientBoostingClassifier(random_state=0).fit(features[train], is_synthetic[train])
        areas.append(float(roc_auc_score(is_synthetic[test], model.predict_proba(features[test])[:, 1])))
    return tuple(areas)
