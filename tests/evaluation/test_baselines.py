from collections import Counter

import numpy as np
import pytest

from evaluation.baselines import bootstrap_rows, independent_columns, permuted_labels
from protocol.errors import RecordsError


def test_independent_columns_draw_each_code_as_often_as_the_real_rows():
    codes = np.array([[0, 2], [0, 2], [0, 0], [3, 0]])
    drawn = independent_columns(codes, [4, 3], rows=20_000, generator=np.random.default_rng(0))
    shares = [Counter(drawn[:, index].tolist()) for index in range(2)]
    # Slow twin: pick a random real row for every cell. Five standard errors are 0.018.
    for index, expected in enumerate(({0: 0.75, 3: 0.25}, {0: 0.5, 2: 0.5})):
        assert set(shares[index]) == set(expected)
        for code, share in expected.items():
            assert abs(shares[index][code] / 20_000 - share) < 0.018
    joint = np.mean((drawn[:, 0] == 3) & (drawn[:, 1] == 2))
    assert abs(joint - 0.125) < 0.018


def test_permuted_labels_move_nothing_but_the_target(make_table):
    codes = make_table(500, 0).codes
    permuted = permuted_labels(codes, target=4, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(permuted[:, :4], codes[:, :4])
    assert sorted(permuted[:, 4]) == sorted(codes[:, 4])
    assert (permuted[:, 4] != codes[:, 4]).any()


def test_bootstrap_repeats_real_rows(make_table):
    codes = make_table(50, 0).codes
    drawn = bootstrap_rows(codes, rows=200, generator=np.random.default_rng(0))
    assert drawn.shape == (200, 5)
    assert set(map(tuple, drawn.tolist())) <= set(map(tuple, codes.tolist()))


def test_generators_decide_and_no_row_is_refused():
    codes = np.arange(20).reshape(10, 2) % 3
    same = [bootstrap_rows(codes, rows=9, generator=np.random.default_rng(7)).tolist() for _ in range(2)]
    assert same[0] == same[1]
    empty = codes[:0]
    with pytest.raises(RecordsError, match="no real row"):
        bootstrap_rows(empty, rows=3, generator=np.random.default_rng(0))
    with pytest.raises(RecordsError, match="no real row"):
        independent_columns(empty, [3, 3], rows=3, generator=np.random.default_rng(0))
