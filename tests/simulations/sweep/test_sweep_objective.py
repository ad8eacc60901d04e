"""What a trial is judged by."""

import numpy as np
import pytest
import torch

from evaluation.fidelity import pair_distances
from evaluation.images import image_set
from evaluation.table import coded_table
from evaluation.utility import Learner, train_on_synthetic_test_on_real
from protocol.errors import InputError
from records.schema import Schema
from simulations.sweep.objective import (
    DISTANCES,
    PREDICTION,
    Objective,
    known_measures,
    measure,
    measure_images,
    usual_measure,
)

KNOWN = (*PREDICTION, *DISTANCES)
COLUMNS = [
    {"name": "age", "kind": "integer", "lower": 0, "upper": 9},
    {"name": "colour", "kind": "categorical", "categories": ["red", "green", "blue"]},
    {"name": "ill", "kind": "boolean"},
]


def table(count: int, *, seed: int, slope: float = 1.0, target: str | None = "ill"):
    generator = np.random.default_rng(seed)
    age, colour = generator.integers(0, 10, count), generator.integers(0, 3, count)
    ill = generator.random(count) < 0.5 + slope * (age - 4.5) / 10
    head = {} if target is None else {"target": target}
    return coded_table(Schema.from_mapping({**head, "columns": COLUMNS}), np.stack([age, colour, ill], axis=1))


def measured(text: str, synthetic, **options):
    return measure(Objective.parse(text, known=KNOWN), train=table(400, seed=1, **options),
                   held_out=table(200, seed=2, **options), synthetic=synthetic,
                   generator=np.random.default_rng(0))  # fmt: skip


def test_measures_are_those_of_the_evaluation():
    synthetic = table(500, seed=3)
    found = measured("auroc", synthetic)
    scores = train_on_synthetic_test_on_real(
        learner=Learner.BOOSTED_TREES, real_train=None, real_test=table(200, seed=2), synthetic=synthetic
    ).synthetic
    pairs = pair_distances(table(400, seed=1).codes, synthetic.codes, synthetic.cardinalities)
    assert found["auroc"] == scores.auroc
    assert found["accuracy"] == scores.accuracy
    assert found["tvd2"] == pytest.approx(pairs[np.triu_indices(3, k=1)].mean())
    assert set(found) == {*PREDICTION, "tvd1", "tvd2"}
    assert set(measured("tvd3=1,detection=2", synthetic)) == set(KNOWN)


@pytest.mark.parametrize("name", ["auroc", "tvd2", "auroc=1,tvd2=2", "detection"])
def test_a_generator_that_knows_more_scores_higher(name):
    objective = Objective.parse(name, known=KNOWN)
    good, poor = table(500, seed=3), table(500, seed=3, slope=-1.0)
    assert objective.score(measured(name, good)) > objective.score(measured(name, poor))


def test_distances_are_subtracted():
    objective = Objective.parse("auroc=1,tvd2=2", known=KNOWN)
    assert objective.score({"auroc": 0.9, "tvd2": 0.05}) == pytest.approx(0.8)
    assert str(objective) == "auroc - 2 tvd2"
    assert str(Objective.parse("tvd2", known=KNOWN)) == "tvd2"
    assert Objective.parse("tvd2", known=KNOWN).score({"tvd2": 0.25}) == -0.25


@pytest.mark.parametrize("text", ["", "auc", "auroc,auroc", "auroc=x", "auroc=0", "auroc=-1", "auroc=inf", "tvd2=-1"])
def test_what_is_no_objective_is_refused(text):
    with pytest.raises(InputError):
        Objective.parse(text, known=KNOWN)


def test_without_a_target_there_is_no_prediction():
    synthetic = table(500, seed=3, target=None)
    assert set(measured("tvd2", synthetic, target=None)) == {"tvd1", "tvd2"}
    with pytest.raises(InputError, match="no target"):
        measured("auroc", synthetic, target=None)


def test_images_are_judged_by_measures_of_images():
    schema = Schema.from_mapping({
        "target": "kind",
        "image": {"height": 8, "width": 8, "channels": 1, "levels": 4},
        "columns": [{"name": "kind", "kind": "categorical", "categories": ["dark", "light"]}],
    })  # fmt: skip

    def images(count: int, *, seed: int, contrast: int):
        generator = np.random.default_rng(seed)
        kind = generator.integers(0, 2, count)
        pixels = np.clip(generator.integers(0, 2, (count, 64)) + contrast * kind[:, None], 0, 3)
        return image_set(schema, np.concatenate([kind[:, None], pixels], axis=1).astype(np.int32))

    objective = Objective.parse("accuracy=1,feature_distance=1", known=known_measures(images=True))
    found = [
        measure_images(objective, images(100, seed=1, contrast=2), images(200, seed=2, contrast=contrast), seed=0,
                       device=torch.device("cpu")) for contrast in (2, 0)
    ]  # fmt: skip
    assert set(found[0]) == {*PREDICTION, "feature_distance"}
    assert objective.score(found[0]) > objective.score(found[1]) + 0.2
    assert str(objective) == "accuracy - feature_distance"
    with pytest.raises(InputError, match="names 'tvd2'"):
        Objective.parse("tvd2", known=known_measures(images=True))


@pytest.mark.parametrize(
    ("schema", "usual"),
    [
        ({"target": "ill"}, "auroc"),
        ({}, "tvd2"),
        ({"image": {}}, "feature_distance"),
        ({"target": "a", "image": {}}, "auroc"),
    ],
)
def test_what_counts_where_nobody_says(schema, usual):
    assert usual_measure(schema) == usual
    assert usual in known_measures(images="image" in schema)
