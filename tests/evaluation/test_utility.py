import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from evaluation.baselines import independent_columns, permuted_labels
from evaluation.detection import detect
from evaluation.prediction.features import one_hot_features
from evaluation.prediction.outcome import define_outcome
from evaluation.prediction.scores import false_positive_rate, score
from evaluation.table import CodedTable
from evaluation.utility import Learner, benchmark_split, train_on_synthetic_test_on_real
from protocol.errors import RecordsError


def slow_auroc(labels, scores):
    """Share of (positive, negative) pairs in the right order, ties half."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    return np.mean([(p > q) + 0.5 * (p == q) for p in positive for q in negative])


def with_target(table, target):
    changes = {name: getattr(table, name) for name in CodedTable.__dataclass_fields__}
    return CodedTable(**(changes | {"target": target}))


def test_benchmark_split_is_the_published_one():
    train, test = benchmark_split(101)
    order = np.random.default_rng(0).permutation(101)
    assert train.tolist() == order[:80].tolist()
    assert test.tolist() == order[80:].tolist()


def test_auroc_equals_the_slow_twin():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 90)
    probability = np.round(np.clip(0.3 * labels + generator.random(90) * 0.7, 0, 1), 1)
    found = score(labels, np.stack([1 - probability, probability], axis=1))
    assert found.auroc == pytest.approx(slow_auroc(labels, probability))
    assert found.accuracy == pytest.approx(np.mean((probability > 0.5) == labels))
    assert found.true_positive_rate.shape == false_positive_rate().shape
    assert found.true_positive_rate[-1] == 1.0
    assert (np.diff(found.true_positive_rate) >= 0).all()


def test_several_classes_are_judged_one_against_the_rest():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 60)
    probabilities = generator.dirichlet(np.ones(4), 60) + np.eye(4)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = score(labels, probabilities)
    slow = np.mean([slow_auroc((labels == k).astype(int), probabilities[:, k]) for k in range(3)])
    assert found.auroc == pytest.approx(slow)


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_among_test_rows_has_a_defined_answer(only):
    found = score(np.full(5, only), np.tile([0.3, 0.7], (5, 1)))
    assert (found.auroc, found.accuracy) == (0.5, float(only))
    assert "single class" in found.notes[0]


def test_boosted_trees_are_the_benchmarks(make_table):
    real, test = make_table(600, 0), make_table(400, 1)
    model = HistGradientBoostingClassifier(random_state=0).fit(real.codes[:, :4], real.codes[:, 4])
    expected = roc_auc_score(test.codes[:, 4], model.predict_proba(test.codes[:, :4])[:, 1])
    found = train_on_synthetic_test_on_real(
        learner=Learner.BOOSTED_TREES, real_train=None, real_test=test, synthetic=real
    )
    assert found.synthetic.auroc == expected
    assert found.real is None


@pytest.mark.parametrize("learner", list(Learner))
def test_relationships_are_useful_and_permuted_labels_are_not(make_table, learner):
    real, test, good = make_table(1500, 0), make_table(1500, 1), make_table(1500, 2)
    generator = np.random.default_rng(0)
    null = real.with_codes(permuted_labels(real.codes, target=4, generator=generator))
    kept = train_on_synthetic_test_on_real(learner=learner, real_train=real, real_test=test, synthetic=good)
    lost = train_on_synthetic_test_on_real(learner=learner, real_train=None, real_test=test, synthetic=null)
    assert kept.synthetic.auroc == pytest.approx(kept.real.auroc, abs=0.03)
    assert kept.synthetic.auroc > 0.85
    # A linear model of noise may point anywhere, but not near the truth by luck.
    assert 0.2 < lost.synthetic.auroc < 0.8
    assert kept.classes == real.labels[4]
    assert kept.majority_share >= 0.5


@pytest.mark.parametrize("learner", list(Learner))
@pytest.mark.parametrize("only", [0, 1])
def test_synthetic_rows_of_a_single_class_get_one_half_and_a_note(make_table, learner, only):
    codes = make_table(80, 0).codes.copy()
    codes[:, 4] = only
    test = make_table(200, 1)
    found = train_on_synthetic_test_on_real(
        learner=learner, real_train=None, real_test=test, synthetic=test.with_codes(codes)
    ).synthetic
    assert found.auroc == 0.5
    assert found.accuracy == pytest.approx(np.mean(test.codes[:, 4] == only))
    assert "fewer than two classes" in found.notes[0]


@pytest.mark.parametrize("learner", list(Learner))
def test_a_class_that_training_never_saw_costs_but_does_not_crash(make_table, learner):
    train, test = with_target(make_table(300, 0), "pain"), with_target(make_table(300, 1), "pain")
    two = train.take(np.flatnonzero(train.codes[:, 3] < 2))
    full = train_on_synthetic_test_on_real(learner=learner, real_train=train, real_test=test, synthetic=two)
    assert 0.5 < full.synthetic.auroc < full.real.auroc


def test_rows_without_a_target_are_left_out(make_table):
    train, test = with_target(make_table(400, 0), "ward"), with_target(make_table(400, 1), "ward")
    found = train_on_synthetic_test_on_real(
        learner=Learner.BOOSTED_TREES, real_train=None, real_test=test, synthetic=train
    )
    known = test.codes[test.codes[:, 2] < 3, 2]
    assert found.classes == ("north", "south", "<b>east</b>")
    assert found.majority_share == pytest.approx(np.bincount(known).max() / known.size)
    nobody = test.take(np.flatnonzero(test.codes[:, 2] == 3))
    with pytest.raises(RecordsError, match="no real test row has a known 'ward'"):
        define_outcome(nobody)


def test_a_numeric_target_is_halved_at_its_median(make_table):
    table = with_target(make_table(501, 0), "age")
    outcome = define_outcome(table)
    known = table.codes[table.codes[:, 0] < 40, 0]
    assert outcome.boundary == int(np.sort(known)[(known.size - 1) // 2])
    assert outcome.classes[0] == f"up to {20 + outcome.boundary}"
    np.testing.assert_array_equal(outcome.labels(table), table.codes[:, 0] > outcome.boundary)


def test_no_target_is_refused(make_table):
    with pytest.raises(RecordsError, match="names no target"):
        define_outcome(with_target(make_table(5, 0), None))


def test_one_hot_features_equal_the_slow_twin(make_table):
    train, test = make_table(60, 0), make_table(40, 1)
    fast = one_hot_features(train, test, without=4)
    numbers = train.numeric()
    for table, matrix in zip((train, test), fast, strict=True):
        slow = []
        for row, own in zip(table.codes, table.numeric(), strict=True):
            features = []
            for j in (0, 1):
                missing = np.isnan(own[j])
                features.append(0.0 if missing else (own[j] - np.nanmean(numbers[:, j])) / np.nanstd(numbers[:, j]))
                features += [float(missing)] if j == 0 else []
            features += [float(row[2] == code) for code in range(4)] + [float(row[3] == code) for code in range(3)]
            slow.append(features)
        np.testing.assert_allclose(matrix.toarray(), slow, atol=1e-12)


def test_many_rows_with_a_lonely_class_still_train(make_table):
    table = make_table(10_050, 0)
    codes = table.codes.copy()
    codes[:, 3] = np.minimum(codes[:, 3], 1)
    codes[0, 3] = 2
    train, test = with_target(table.with_codes(codes), "pain"), with_target(make_table(300, 1), "pain")
    found = train_on_synthetic_test_on_real(
        learner=Learner.BOOSTED_TREES, real_train=None, real_test=test, synthetic=train
    )
    assert found.synthetic.notes == ("1 classes with a single training row were left out of training.",)
    assert found.synthetic.auroc > 0.5


def test_detection_tells_broken_rows_but_not_fresh_ones(make_table):
    real, fresh = make_table(2000, 0), make_table(2000, 1)
    broken = independent_columns(real.codes, real.cardinalities, rows=2000, generator=np.random.default_rng(0))
    same = detect(real.codes, fresh.codes, generator=np.random.default_rng(0))
    other = detect(real.codes, broken, generator=np.random.default_rng(0))
    assert same.auroc == pytest.approx(0.5, abs=0.05)
    assert other.auroc > 0.8
    assert len(same.folds) == 5
    assert same.auroc == pytest.approx(np.mean(same.folds))


def test_detection_uses_as_many_rows_of_each_and_no_more_than_allowed(make_table):
    real, synthetic = make_table(300, 0), make_table(90, 1)
    assert detect(real.codes, synthetic.codes, generator=np.random.default_rng(0)).rows == 90
    assert detect(real.codes, synthetic.codes, generator=np.random.default_rng(0), most_rows=40).rows == 40


def test_repeated_records_push_detection_below_one_half():
    codes = np.arange(3000).reshape(-1, 1)
    found = detect(codes, codes, generator=np.random.default_rng(0))
    assert found.auroc < 0.5


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_detection_of_a_handful_is_defined(make_table, rows):
    found = detect(make_table(rows, 0).codes, make_table(9, 1).codes, generator=np.random.default_rng(0))
    assert 0 <= found.auroc <= 1
    assert bool(found.notes) is (rows < 2)


def test_detection_refuses_other_columns(make_table):
    codes = make_table(9, 0).codes
    with pytest.raises(RecordsError, match="shapes"):
        detect(codes, codes[:, :2], generator=np.random.default_rng(0))
