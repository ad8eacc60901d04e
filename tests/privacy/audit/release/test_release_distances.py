"""Distances in whole numbers, against distances in fractions, column by column and row by row."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.audit.release.distances import BLOCK, UNIT, blocks, nearest
from privacy.audit.release.tables import AttackTables, Columns
from protocol.errors import InputError, RecordsError, SchemaError


def slow_distance(columns: Columns, one: np.ndarray, other: np.ndarray) -> Fraction:
    """By the definition, in fractions."""
    total = Fraction(0)
    for ordered, a, b in zip(columns.ordered, one.tolist(), other.tolist(), strict=True):
        if a == b:
            continue
        on_line = ordered > 1 and a < ordered and b < ordered
        total += Fraction(abs(a - b), ordered - 1) if on_line else 1
    return total


def all_distances(columns, rows, table, chosen=None):
    return np.concatenate([gaps for _, gaps in blocks(columns, rows, table, chosen=chosen)])


def test_four_records_by_hand():
    columns = Columns(names=("age", "ward"), cardinalities=(6, 3), ordered=(5, 0))  # age 5 means missing
    table = np.array([[0, 0], [4, 0], [1, 2], [5, 0]], dtype=np.int32)
    found = all_distances(columns, table, table) / UNIT
    np.testing.assert_array_equal(found, [[0, 1, 1.25, 1], [1, 0, 1.75, 1], [1.25, 1.75, 0, 2], [1, 1, 2, 0]])
    np.testing.assert_array_equal(nearest(columns, table[:1], table[1:]) / UNIT, [1.0])


def test_as_the_slow_twin(columns, draw):
    generator = np.random.default_rng(1)
    rows, table = draw(BLOCK + 5, generator), draw(30, generator)
    slow = [[float(slow_distance(columns, one, other)) for other in table] for one in rows]
    # Steps are rounded down to whole numbers, each by less than a millionth of a unit per cell.
    np.testing.assert_allclose(all_distances(columns, rows, table) / UNIT, slow, atol=1e-4)


def test_ties_are_exact(columns, draw):
    """In floating point 1/11 + 10/11 need not be 1; a tie broken by rounding is broken the same way every time."""
    generator = np.random.default_rng(2)
    rows, table = draw(20, generator), draw(200, generator)
    fast = all_distances(columns, rows, table, chosen=(2, 7))
    slow = [
        [abs(int(a[2] - b[2])) * Fraction(1, 11) + abs(int(a[7] - b[7])) * Fraction(1, 19) for b in table] for a in rows
    ]
    for one, other in zip(fast, slow, strict=True):
        same_slow = np.array([[x == y for y in other] for x in other])
        assert np.all((one[:, None] == one[None, :])[same_slow])


def test_zero_means_equal_and_nothing_else():
    columns = Columns(names=("money",), cardinalities=(100_001,), ordered=(100_000,))
    table = np.array([[0], [1], [99_999], [100_000]], dtype=np.int32)
    found = all_distances(columns, table, table)
    assert np.array_equal(found == 0, np.eye(4, dtype=bool))
    assert found.max() == UNIT


@given(st.data())
def test_distance_is_symmetric_and_bounded(data):
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    ordered = tuple(data.draw(st.sampled_from([0, size - 1, size])) for size in sizes)
    columns = Columns(names=tuple(map(str, range(len(sizes)))), cardinalities=tuple(sizes), ordered=ordered)
    rows = np.array([[data.draw(st.integers(0, size - 1)) for size in sizes] for _ in range(4)], dtype=np.int32)
    found = all_distances(columns, rows, rows)
    np.testing.assert_array_equal(found, found.T)
    assert found.max() <= UNIT * len(sizes)
    assert not np.diagonal(found).any()


def test_no_columns_is_refused(columns, draw):
    rows = draw(3, np.random.default_rng(0))
    with pytest.raises(InputError, match="0 columns"):
        next(blocks(columns, rows, rows, chosen=()))


@pytest.mark.parametrize(("ordered", "cardinality"), [(1, 3), (4, 3), (0, 0)])
def test_columns_that_contradict_themselves_are_refused(ordered, cardinality):
    with pytest.raises(SchemaError, match="Column a"):
        Columns(names=("a",), cardinalities=(cardinality,), ordered=(ordered,))


def test_tables_that_do_not_fit_are_refused(columns, draw):
    rows = draw(4, np.random.default_rng(0))
    good = {"columns": columns, "synthetic": rows, "members": rows, "controls": rows, "reference": rows}
    too_high = rows.copy()
    too_high[0, 6] = 2
    for change, message in [
        ({"synthetic": rows[:, :3]}, "synthetic is int32 of shape"),
        ({"synthetic": rows.astype(float)}, "synthetic is float64"),
        ({"reference": rows[:0]}, "reference has no rows"),
        ({"members": rows[:3]}, "3 members and 4 controls"),
        ({"members": rows[:1], "controls": rows[:1]}, "1 targets"),
        ({"controls": too_high}, "column g"),
        ({"controls": -rows - 1}, "column a"),
    ]:
        with pytest.raises(RecordsError, match=message):
            AttackTables(**(good | change))
    assert AttackTables(**good).first(3).pairs == 3
