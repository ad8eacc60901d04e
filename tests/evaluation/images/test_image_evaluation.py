"""Measures of images: right by hand, right at the ends, and wrong where they ought to be."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.images import ImageSet, classifier, evaluate_images, image_set, train_classifier
from evaluation.images.distances import features, kernel_distance, nearest
from evaluation.table import coded_table
from protocol.errors import RecordsError
from records.schema import Schema

SCHEMA = Schema.from_mapping(
    {
        "target": "kind",
        "image": {"height": 8, "width": 8, "levels": 16},
        "columns": [
            {"name": "ward", "kind": "categorical", "categories": ["a", "b"]},
            {"name": "kind", "kind": "categorical", "categories": ["lying", "upright"], "missing": True},
        ],
    }
)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """Bars are easier than images, and need fewer steps."""
    monkeypatch.setattr(classifier, "LEAST_STEPS", 60)


def bars(count, *, seed, blank=False):
    """Records of a lying or an upright bar in noise."""
    made = np.random.default_rng(seed)
    kinds, places = made.integers(0, 2, count), made.integers(0, 8, count)
    pixels = made.integers(0, 6, (count, 8, 8))
    if not blank:
        pixels[np.arange(count), places] = 15
        pixels = np.where(kinds[:, None, None] == 1, pixels.transpose(0, 2, 1), pixels)
    codes = np.concatenate([made.integers(0, 2, (count, 1)), kinds[:, None], pixels.reshape(count, -1)], axis=1)
    return codes.astype(np.int32)


def shown(count, *, seed, blank=False):
    return image_set(SCHEMA, bars(count, seed=seed, blank=blank))


def measured(synthetic, **changes):
    settings = {"trained_on": True, "seed": 0} | changes
    return evaluate_images(shown(300, seed=1), shown(200, seed=2), synthetic, **settings)


def test_codes_become_images():
    codes = bars(4, seed=1)
    found = image_set(SCHEMA, codes)
    np.testing.assert_allclose(found.images[:, 0].reshape(4, -1), codes[:, 2:] / 15, atol=1e-6)
    np.testing.assert_array_equal(found.table.codes, codes[:, :2])
    with pytest.raises(RecordsError, match="no image"):
        image_set(replace(SCHEMA, image=None), codes)
    with pytest.raises(RecordsError, match="Give 66 codes"):
        image_set(SCHEMA, codes[:, :2])
    with pytest.raises(RecordsError, match="one image for each record"):
        ImageSet(images=found.images[:3], table=found.table)


def test_measures_of_tables_do_not_take_images():
    with pytest.raises(RecordsError, match="measures of images"):
        coded_table(SCHEMA, bars(4, seed=1))


def test_the_classifier_learns_and_comes_from_its_generator():
    train, test = shown(300, seed=1), shown(200, seed=2)
    labels, right = train.table.codes[:, 1], test.table.codes[:, 1]
    model, again, other = (
        train_classifier(train.images, labels, classes=2, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    chances = model.probabilities(test.images)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    assert (chances.argmax(axis=1) == right).mean() > 0.95
    np.testing.assert_array_equal(chances, again.probabilities(test.images))
    assert not np.array_equal(chances, other.probabilities(test.images))


def test_the_kernel_distance_is_that_of_its_definition():
    made = np.random.default_rng(0)
    left, right = made.normal(size=(5, 3)), made.normal(1.0, size=(4, 3))

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    within = sum(
        sum(kernel(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j)
        / (len(rows) * (len(rows) - 1))
        for rows in (left, right)
    )
    between = np.mean([kernel(x, y) for x in left for y in right])
    assert kernel_distance(left, right) == pytest.approx(within - 2 * between)
    with pytest.raises(RecordsError, match="at least two"):
        kernel_distance(left[:1], right)


def test_features_are_the_same_everywhere_and_know_strokes():
    same = [features(shown(300, seed=seed).images) for seed in (1, 2)]
    blank = features(shown(300, seed=3, blank=True).images)
    assert same[0].shape == (300, 256)
    np.testing.assert_allclose(features(shown(300, seed=1).images[7:8]), same[0][7:8], rtol=1e-4, atol=1e-6)
    assert abs(kernel_distance(*same)) < 0.1 * kernel_distance(same[0], blank)


def test_copies_are_found_and_new_images_are_not():
    train, test, new = (shown(200, seed=seed).images for seed in (1, 2, 3))
    generator = np.random.default_rng(0)
    stolen = nearest(train[:50], train, test, generator=generator)
    assert (stolen.copies, stolen.closer_to_train, stolen.synthetic, stolen.each) == (50, 1.0, 50, 200)
    honest = nearest(new, train, test, generator=generator)
    assert honest.copies == 0
    assert abs(honest.closer_to_train - 0.5) < 0.15
    tied = nearest(new, train, train, generator=np.random.default_rng(0))
    assert tied.closer_to_train == 0.5


def test_good_images_score_and_bad_ones_do_not():
    good, bad = measured(shown(300, seed=4)), measured(shown(300, seed=5, blank=True))
    assert good.synthetic is not None
    assert bad.synthetic is not None
    assert good.real is not None
    assert good.synthetic.accuracy > 0.95
    assert good.real.accuracy > 0.95
    assert bad.synthetic.accuracy < 0.7
    assert bad.feature_distance > 10 * abs(good.feature_distance)
    assert good.columns["kind"] < 0.1
    assert good.synthetic_shares == pytest.approx((0.5, 0.5), abs=0.1)


def test_a_single_class_and_a_missing_one_are_told():
    codes = bars(100, seed=4)
    codes[:60, 1], codes[60:, 1] = 2, 1
    found = measured(image_set(SCHEMA, codes))
    assert found.synthetic is not None
    assert found.synthetic.auroc == 0.5
    assert found.synthetic_shares == (0.0, 1.0)
    assert any("fewer than two classes" in note for note in found.notes)


def test_without_training_images_or_target_less_is_said():
    alone = evaluate_images(None, shown(60, seed=2), shown(60, seed=3), trained_on=False, seed=0)
    assert (alone.real, alone.test_distance, alone.nearest, alone.train_images) == (None, None, None, None)
    assert any("No real training images" in note for note in alone.notes)
    aimless = replace(SCHEMA, target=None)
    sets = [image_set(aimless, bars(40, seed=seed)) for seed in (1, 2, 3)]
    found = evaluate_images(*sets, trained_on=False, seed=0)
    assert (found.synthetic, found.classes, found.nearest) == (None, (), None)
    assert json.loads(found.to_json())["utility"] == {"synthetic": None, "real": None}


def test_sets_that_do_not_fit_are_refused():
    with pytest.raises(RecordsError, match="synthetic has 1 images"):
        measured(shown(300, seed=1).take([0]))
    other = image_set(replace(SCHEMA, target=None), bars(40, seed=1))
    with pytest.raises(RecordsError, match="other images or columns"):
        measured(other)


def test_the_report_says_everything_and_warns():
    found = measured(shown(100, seed=4))
    told = json.loads(found.to_json(statement={"epsilon": 1.0}, statement_lines=["A promise."]))
    assert told["kind"] == "images"
    assert told["statement"] == {"epsilon": 1.0}
    assert told["nearest"]["copies"] == 0
    assert set(told["columns"]) == {"ward", "kind"}
    page = found.to_html(statement_lines=["A promise."])
    for text in ("A promise.", "Closer to training", "Feature distance", "upright", "without noise"):
        assert text in page
    assert "<img" not in page
