import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, pearsonr

from evaluation.association import associations, correlation_ratio, cramers_v, pearson


def slow_cramers_v(first, second):
    """Bergsma 2013, equations for the corrected V, on the full contingency table."""
    table = np.array([[np.sum((first == a) & (second == b)) for b in np.unique(second)] for a in np.unique(first)])
    n, (r, c) = table.sum(), table.shape
    if min(r, c) < 2:
        return 0.0
    phi = chi2_contingency(table, correction=False).statistic / n
    corrected = max(0.0, phi - (r - 1) * (c - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    return min(1.0, math.sqrt(corrected / smaller)) if smaller > 0 else 0.0


def slow_correlation_ratio(numbers, groups):
    """One minus unbiased variance within groups over unbiased variance, in plain loops."""
    rows = [(x, g) for x, g in zip(numbers.tolist(), groups.tolist(), strict=True) if not math.isnan(x)]
    mean = sum(x for x, _ in rows) / len(rows)
    total = sum((x - mean) ** 2 for x, _ in rows)
    names = {g for _, g in rows}
    within = 0.0
    for name in names:
        own = [x for x, g in rows if g == name]
        within += sum((x - sum(own) / len(own)) ** 2 for x in own)
    explained = 1 - (within / (len(rows) - len(names))) / (total / (len(rows) - 1))
    return math.sqrt(max(0.0, explained))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), rows=st.integers(12, 80), strength=st.floats(0, 1))
def test_fast_associations_equal_their_slow_twins(seed, rows, strength):
    generator = np.random.default_rng(seed)
    first = generator.integers(0, 4, rows)
    second = np.where(generator.random(rows) < strength, first, generator.integers(0, 3, rows))
    numbers = first + generator.normal(size=rows)
    others = strength * numbers + generator.normal(size=rows)
    numbers[generator.random(rows) < 0.1] = np.nan
    known = np.isfinite(numbers)
    assert cramers_v(first, second) == pytest.approx(slow_cramers_v(first, second), abs=1e-9)
    assert correlation_ratio(numbers, second) == pytest.approx(slow_correlation_ratio(numbers, second), abs=1e-6)
    assert pearson(numbers, others) == pytest.approx(pearsonr(numbers[known], others[known]).statistic, abs=1e-9)


def test_perfect_and_absent_relationships():
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 5, 5000)
    assert cramers_v(codes, 4 - codes) == pytest.approx(1.0)
    assert correlation_ratio(codes * 2.0, codes) == pytest.approx(1.0)
    assert cramers_v(codes, generator.permutation(codes)) < 0.04
    assert correlation_ratio(generator.normal(size=5000), codes) < 0.05


def test_correction_keeps_small_tables_from_looking_related():
    generator = np.random.default_rng(1)
    small = [cramers_v(*generator.integers(0, 8, (2, 60))) for _ in range(200)]
    uncorrected = math.sqrt(49 / 60 / 7)
    assert np.mean(small) < 0.4 * uncorrected


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_columns_that_do_not_vary_are_related_to_nothing(rows):
    assert pearson(np.ones(rows), np.arange(rows, dtype=float)) == 0.0
    assert cramers_v(np.zeros(rows, dtype=np.int64), np.arange(rows)) == 0.0
    assert correlation_ratio(np.full(rows, np.nan), np.arange(rows)) == 0.0


def test_huge_numbers_do_not_overflow():
    assert pearson(np.array([1e300, 2e300, 3e300]), np.array([1.0, 2.0, 3.0])) == pytest.approx(1.0)


def test_matrix_chooses_the_measure_by_kind(make_table):
    table = make_table(500, 0)
    matrix = associations(table.codes, values=table.values, is_numeric=table.is_numeric)
    numbers, codes = table.numeric(), table.codes
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix[0, 1] == pytest.approx(pearson(numbers[:, 0], numbers[:, 1]))
    assert matrix[0, 1] > 0.9
    assert matrix[1, 4] == pytest.approx(slow_correlation_ratio(numbers[:, 1], codes[:, 4]))
    assert matrix[3, 4] == pytest.approx(slow_cramers_v(codes[:, 3], codes[:, 4]))
