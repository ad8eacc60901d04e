from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import fidelity as fidelity_module
from evaluation.baselines import bootstrap_rows, independent_columns
from evaluation.fidelity import (
    choose_triples,
    column_distances,
    compare,
    missing_shares,
    pair_distances,
    triple_distances,
)
from protocol.errors import RecordsError


def slow_distance(real, synthetic, columns):
    """Count tuples in dictionaries: obviously right, obviously slow."""
    left = Counter(tuple(row[index] for index in columns) for row in real.tolist())
    right = Counter(tuple(row[index] for index in columns) for row in synthetic.tolist())
    return 0.5 * sum(abs(left[cell] / len(real) - right[cell] / len(synthetic)) for cell in left | right)


def tables(seed, cardinalities, rows=(60, 45)):
    generator = np.random.default_rng(seed)
    return [np.stack([generator.integers(0, k, n) for k in cardinalities], axis=1) for n in rows]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), cardinalities=st.lists(st.integers(1, 7), min_size=3, max_size=5))
def test_fast_distances_equal_the_slow_twin(seed, cardinalities):
    real, synthetic = tables(seed, cardinalities)
    columns = range(len(cardinalities))
    triples = np.array(list(combinations(columns, 3)))
    np.testing.assert_allclose(
        column_distances(real, synthetic, cardinalities),
        [slow_distance(real, synthetic, (j,)) for j in columns],
    )
    pairs = pair_distances(real, synthetic, cardinalities)
    for pair in combinations(columns, 2):
        assert pairs[pair] == pairs[pair[::-1]] == pytest.approx(slow_distance(real, synthetic, pair))
    np.testing.assert_allclose(
        triple_distances(real, synthetic, cardinalities, triples=triples),
        [slow_distance(real, synthetic, triple) for triple in triples.tolist()],
    )


def test_domains_beyond_any_table_and_beyond_64_bits_are_exact():
    cardinalities = [2**31 - 1] * 3
    real, synthetic = tables(0, cardinalities)
    synthetic[:20] = real[:20]
    found = triple_distances(real, synthetic, cardinalities, triples=np.array([[0, 1, 2]]))
    assert found[0] == pytest.approx(slow_distance(real, synthetic, (0, 1, 2)))
    assert 0 < found[0] < 1


def test_dense_and_compact_counting_agree(monkeypatch):
    real, synthetic = tables(3, [5, 6, 7], rows=(300, 200))
    dense = pair_distances(real, synthetic, [5, 6, 7])
    monkeypatch.setattr(fidelity_module, "_DENSE_CELLS", 0)
    np.testing.assert_allclose(pair_distances(real, synthetic, [5, 6, 7]), dense)


def test_distances_by_hand():
    real = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    synthetic = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
    # Both marginals agree; half of the joint mass sits in cells that the real table gives a quarter each.
    np.testing.assert_array_equal(column_distances(real, synthetic, [2, 2]), [0.0, 0.0])
    assert pair_distances(real, synthetic, [2, 2])[0, 1] == 0.5


def test_all_triples_where_few_and_200_different_ones_where_many():
    generator = np.random.default_rng(0)
    assert choose_triples(5, limit=200, generator=generator).tolist() == [list(t) for t in combinations(range(5), 3)]
    assert choose_triples(2, limit=200, generator=generator).shape == (0, 3)
    for columns in (14, 60):
        chosen = choose_triples(columns, limit=200, generator=generator)
        assert len({tuple(triple) for triple in chosen.tolist()}) == 200
        assert (np.diff(chosen, axis=1) > 0).all()
        assert chosen.max() < columns


def test_triples_follow_the_generator():
    first, again, other = (
        choose_triples(40, limit=200, generator=np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_missing_shares_count_the_last_code_only_where_it_means_missing():
    codes = np.array([[2, 1], [0, 1], [2, 1], [1, 0]])
    np.testing.assert_array_equal(missing_shares(codes, [3, 2], [True, False]), [0.5, 0.0])
    slow = [sum(row[0] == 2 for row in codes.tolist()) / 4, 0.0]
    assert missing_shares(codes, [3, 2], [True, False]).tolist() == slow


def test_summary_means_equal_the_slow_twin(make_table):
    real, synthetic = make_table(400, 1), make_table(300, 2)
    found = compare(
        real.codes,
        synthetic.codes,
        real.cardinalities,
        values=real.values,
        is_numeric=real.is_numeric,
        may_be_missing=real.may_be_missing,
        generator=np.random.default_rng(0),
    )
    for order, value in ((1, found.one_way), (2, found.two_way), (3, found.three_way)):
        slow = [slow_distance(real.codes, synthetic.codes, subset) for subset in combinations(range(5), order)]
        assert value == pytest.approx(np.mean(slow))
    gap = np.abs(found.real_associations - found.synthetic_associations)
    assert found.association_difference == pytest.approx(np.mean([gap[p] for p in combinations(range(5), 2)]))
    assert found.missing_difference[1] == 0.0


def test_independent_columns_keep_marginals_and_lose_pairs(make_table):
    real = make_table(4000, 1)
    generator = np.random.default_rng(0)
    independent = independent_columns(real.codes, real.cardinalities, rows=4000, generator=generator)
    redrawn = bootstrap_rows(real.codes, rows=4000, generator=generator)
    upper = np.triu_indices(5, k=1)
    lost = pair_distances(real.codes, independent, real.cardinalities)[upper].mean()
    kept = pair_distances(real.codes, redrawn, real.cardinalities)[upper].mean()
    assert column_distances(real.codes, independent, real.cardinalities).mean() < 0.04
    assert 2 * kept < lost


@pytest.mark.parametrize("bad", [np.zeros((0, 2), dtype=np.int64), np.zeros((3, 1), dtype=np.int64)])
def test_empty_or_foreign_tables_are_refused(bad):
    good = np.zeros((3, 2), dtype=np.int64)
    assert column_distances(good, good, [1, 1]).tolist() == [0.0, 0.0]
    with pytest.raises(RecordsError, match="synthetic table"):
        column_distances(good, bad, [1, 1])
    with pytest.raises(RecordsError, match="real table"):
        pair_distances(bad, good, [1, 1])
