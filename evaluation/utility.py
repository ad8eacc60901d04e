"""How useful synthetic records are: train on synthetic, test on real (TSTR).

A classifier that learnt from synthetic rows alone predicts the target of real rows that nobody trained on;
beside it stands the same classifier trained on real rows. The protocol is Esteban, Hyland and Ratsch 2017,
"Real-valued (medical) time series generation with recurrent conditional GANs", section 4.
"""

import warnings
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from evaluation.prediction.features import one_hot_features, plain_features
from evaluation.prediction.outcome import Outcome, define_outcome
from evaluation.prediction.scores import Scores, score
from evaluation.table import CodedTable

BENCHMARK_TRAIN_SHARE = 0.8
_ITERATIONS = 300
# scikit-learn's boosted trees stop early, on a stratified hold-out, above this number of rows.
_EARLY_STOPPING_ROWS = 10_000


class Learner(StrEnum):
    """Which classifier is trained."""

    BOOSTED_TREES = "boosted_trees"
    LOGISTIC_REGRESSION = "logistic_regression"


@dataclass(frozen=True, kw_only=True, eq=False)
class Utility:
    """What one classifier achieves on real test rows.

    Attributes:
        learner: The classifier.
        classes: Names of the classes; with two, the last one is the positive class.
        majority_share: Share of the most common class among the real test rows: the accuracy of always
            guessing it.
        synthetic: Scores after training on synthetic rows.
        real: Scores after training on real rows, None where none were given.
    """

    learner: Learner
    classes: tuple[str, ...]
    majority_share: float
    synthetic: Scores
    real: Scores | None


def benchmark_split(rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the train and test rows of the project's benchmark.

    Train is the first 80 % of ``numpy.random.default_rng(0).permutation(rows)``, test the rest. The seed is
    part of the definition of the benchmark; nothing private depends on it.

    >>> [part.size for part in benchmark_split(10)]
    [8, 2]
    """
    order = np.random.default_rng(0).permutation(rows)
    train_rows = int(BENCHMARK_TRAIN_SHARE * rows)
    return order[:train_rows], order[train_rows:]


def train_on_synthetic_test_on_real(
    *, learner: Learner, real_train: CodedTable | None, real_test: CodedTable, synthetic: CodedTable
) -> Utility:
    """Train one classifier on synthetic rows, the same on real rows, and test both on real rows.

    All columns but the target are features. Rows whose target is missing are left out. A training table
    without two classes teaches nothing: its scores are those of a constant guess (AUROC 0.5) with a note,
    never an error.

    Args:
        learner: Boosted trees read the integer codes as they are (``random_state=0``, all else as
            scikit-learn has it); logistic regression reads one-hot codes and, for numeric columns,
            standardised middles of bins with a flag for missing.
        real_train: Real rows to train the comparison on, or None.
        real_test: Real rows to test on; no row of them may have been used to train the generator.
        synthetic: Synthetic rows.

    Returns:
        The scores.

    Raises:
        RecordsError: The tables have no target.
    """
    outcome = define_outcome(real_test)
    labels = outcome.labels(real_test)[outcome.known(real_test)]
    return Utility(
        learner=learner,
        classes=outcome.classes,
        majority_share=float(np.bincount(labels).max() / labels.size),
        synthetic=_train_and_score(learner, synthetic, real_test, outcome),
        real=None if real_train is None else _train_and_score(learner, real_train, real_test, outcome),
    )


def _train_and_score(learner: Learner, train: CodedTable, test: CodedTable, outcome: Outcome) -> Scores:
    """Train on the rows of ``train`` whose target is known, score on those of ``test``."""
    test = test.take(np.flatnonzero(outcome.known(test)))
    usable, notes = _usable_rows(train, outcome)
    train = train.take(usable)
    labels = outcome.labels(train)
    probabilities = np.zeros((test.rows, len(outcome.classes)))
    present = np.unique(labels)
    if present.size < 2 or len(train.names) < 2:
        probabilities[:, present if present.size else slice(None)] = 1.0
        note = "The training rows hold fewer than two classes, or no feature: every prediction is the same."
        return score(outcome.labels(test), probabilities, notes=(*notes, note))
    predicted, more_notes = _FIT[learner](train, labels, test, outcome.column)
    probabilities[:, present] = predicted
    return score(outcome.labels(test), probabilities, notes=(*notes, *more_notes))


def _usable_rows(train: CodedTable, outcome: Outcome) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Positions of the rows to train on: the target is known, and its class occurs more than once."""
    known = np.flatnonzero(outcome.known(train))
    labels = outcome.labels(train)[known]
    counts = np.bincount(labels, minlength=len(outcome.classes))
    if known.size <= _EARLY_STOPPING_ROWS or not (counts == 1).any():
        return known, ()
    # From this size on boosted trees hold out a stratified share, which a class of one row cannot be split
    # into.
    note = f"{int((counts == 1).sum())} classes with a single training row were left out of training."
    return known[counts[labels] > 1], (note,)


def _fit_boosted_trees(
    train: CodedTable, labels: NDArray[np.int64], test: CodedTable, target: int
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    model = HistGradientBoostingClassifier(random_state=0)
    model.fit(plain_features(train, without=target), labels)
    return model.predict_proba(plain_features(test, without=target)), ()


def _fit_logistic_regression(
    train: CodedTable, labels: NDArray[np.int64], test: CodedTable, target: int
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    train_features, test_features = one_hot_features(train, test, without=target)
    model = LogisticRegression(max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        # Stopping early is reported as a note, beside the score that it concerns.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train_features, labels)
    stopped = int(np.max(model.n_iter_)) >= _ITERATIONS
    notes = (f"Logistic regression was stopped after {_ITERATIONS} iterations.",) if stopped else ()
    return model.predict_proba(test_features), notes


_FIT = {
    Learner.BOOSTED_TREES: _fit_boosted_trees,
    Learner.LOGISTIC_REGRESSION: _fit_logistic_regression,
}
