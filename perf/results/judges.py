"""The measures of the results table: how useful and how faithful drawn rows are."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evaluation.fidelity import column_distances, pair_distances
from evaluation.images.evaluation import evaluate_images
from evaluation.images.image_set import image_set
from evaluation.table import CodedTable, coded_table
from evaluation.utility import Learner, train_on_synthetic_test_on_real
from perf.results.sets import Prepared
from records.dataset import Records

FEWEST_ROWS = 10_000
"""Small sets are judged by so many synthetic rows: drawing is free, and the judge should not suffer from few."""

Measures = dict[str, float]


def synthetic_rows(train: Records) -> int:
    """Return how many rows a generator draws: as many as it was trained on, at least :data:`FEWEST_ROWS`."""
    return max(len(train), FEWEST_ROWS)


def measure(prepared: Prepared, synthetic: NDArray[np.int32]) -> Measures:
    """Judge drawn rows.

    Args:
        prepared: The set's two halves.
        synthetic: Codes ``[n, columns]``.

    Returns:
        ``auroc`` and ``accuracy`` on real test rows of scikit-learn's boosted trees (``random_state=0``) and
        ``auroc_logistic`` of its logistic regression, both trained on the drawn rows; ``tvd1`` and ``tvd2``, the mean
        total variation distances to the real training rows over all columns and all pairs of columns; for sets with
        sites of their own also ``auroc@SITE``, on the test rows of that site alone. Of images: ``auroc`` and
        ``accuracy`` of a small convolutional net, ``tvd1`` of the columns beside the image, and ``feature_distance``,
        the kernel distance to real test images in a fixed feature space.
    """
    train, test = prepared.pooled, prepared.held_out
    if train.schema.image is not None:
        return _images(train, test, synthetic)
    table = coded_table(train.schema, synthetic)
    return {
        **_predictions(table, _coded(test)),
        **_distances(table, _coded(train)),
        **_by_site(table, prepared.test if prepared.is_federated else {}),
    }


def site_auroc(synthetic: CodedTable, test: Records) -> float:
    """Return the boosted trees' area under the ROC curve on one site's test rows."""
    utility = train_on_synthetic_test_on_real(
        learner=Learner.BOOSTED_TREES, real_train=None, real_test=_coded(test), synthetic=synthetic
    )
    return utility.synthetic.auroc


def _images(train: Records, test: Records, synthetic: NDArray[np.int32]) -> Measures:
    real, held_out, made = (image_set(train.schema, codes) for codes in (train.codes, test.codes, synthetic))
    # Nothing is learnt from real images here: they are a yardstick of their own.
    found = evaluate_images(None, held_out, made, trained_on=False, seed=0)
    far = column_distances(real.table.codes, made.table.codes, real.table.cardinalities)
    scores = found.synthetic
    predicted = {} if scores is None else {"auroc": scores.auroc, "accuracy": scores.accuracy}
    return {**predicted, "tvd1": float(far.mean()), "feature_distance": found.feature_distance}


def _predictions(synthetic: CodedTable, test: CodedTable) -> Measures:
    trees, logistic = (
        train_on_synthetic_test_on_real(learner=learner, real_train=None, real_test=test, synthetic=synthetic).synthetic
        for learner in (Learner.BOOSTED_TREES, Learner.LOGISTIC_REGRESSION)
    )
    return {"auroc": trees.auroc, "accuracy": trees.accuracy, "auroc_logistic": logistic.auroc}


def _distances(synthetic: CodedTable, train: CodedTable) -> Measures:
    cardinalities = train.cardinalities
    pairs = pair_distances(train.codes, synthetic.codes, cardinalities)
    return {
        "tvd1": float(column_distances(train.codes, synthetic.codes, cardinalities).mean()),
        "tvd2": float(pairs[np.triu_indices(len(cardinalities), k=1)].mean()),
    }


def _by_site(synthetic: CodedTable, test: Mapping[str, Records]) -> Measures:
    return {f"auroc@{site}": site_auroc(synthetic, records) for site, records in test.items()}


def _coded(records: Records) -> CodedTable:
    return coded_table(records.schema, records.codes)
