"""Cells at quantiles of released counts hold about equal shares, and values with cells of their own keep them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import SchemaError
from records.column import Column, Kind
from records.learned_bins import learning_columns, with_learned_bins
from records.schema import Schema

COST = {"name": "cost", "kind": "continuous", "lower": 0, "upper": 1000, "bins": 1000, "points": [0], "missing": True}
STAY = {"name": "stay", "kind": "integer", "lower": 0, "upper": 99}
SEX = {"name": "sex", "kind": "boolean"}


def schema_with(*columns: dict[str, object]) -> Schema:
    return Schema.from_mapping({"description": "Bills.", "columns": [{**column} for column in columns]})


def lognormal_codes(schema: Schema, count: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    cost = np.minimum(generator.lognormal(2.0, 1.0, count), 1000.0)
    cost[generator.random(count) < 0.3] = 0.0
    column = schema.column("cost")
    codes = np.zeros((count, len(schema.columns)), dtype=np.int32)
    codes[:, 0] = column.cells.codes(cost)
    codes[generator.random(count) < 0.1, 0] = column.cardinality - 1
    return codes


def test_cells_of_a_long_tail_hold_about_equal_shares_beside_points_and_missing_values() -> None:
    schema = schema_with({**COST, "learn_bins": True}, SEX)
    codes = lognormal_codes(schema, 40_000)
    learnt = with_learned_bins(schema, codes, bins=8, source="Learnt from a release.")
    column = learnt.column("cost")
    assert column.cardinality == 8 + 1 + 1  # with those for zero and for missing
    generator = np.random.default_rng(1)
    fresh = np.minimum(generator.lognormal(2.0, 1.0, 40_000), 1000.0)
    shares = np.bincount(column.cells.codes(fresh), minlength=9)[1:] / 40_000
    assert shares.min() > 0.5 / 8
    assert shares.max() < 2 / 8
    uniform = schema_with({**COST, "bins": 8}, SEX).column("cost")
    assert np.bincount(uniform.cells.codes(fresh), minlength=9).max() / 40_000 > 0.95  # the twin without learning
    assert (column.points, column.missing, column.lower, column.upper) == ((0.0,), True, 0.0, 1000.0)
    assert learnt.description == "Bills. Learnt from a release."
    assert not column.learn_bins
    assert learnt.column("sex") == schema.column("sex")


def test_every_edge_is_one_of_the_public_ones_and_the_schema_survives_its_file() -> None:
    schema = schema_with({**COST, "learn_bins": True}, {**STAY, "learn_bins": True}, SEX)
    codes = lognormal_codes(schema, 2000)
    codes[:, 1] = np.random.default_rng(2).geometric(0.2, 2000).clip(max=99)
    learnt = with_learned_bins(schema, codes, bins=5, source="")
    for name in ("cost", "stay"):
        assert set(learnt.column(name).cells.edges) <= set(schema.column(name).cells.edges)
    assert Schema.from_mapping(learnt.to_mapping()) == learnt


@given(
    counts=st.lists(st.integers(0, 50), min_size=12, max_size=12).filter(sum),
    bins=st.integers(2, 14),
    kind=st.sampled_from([Kind.INTEGER, Kind.CONTINUOUS]),
    points=st.sets(st.integers(0, 11), max_size=3),
)
def test_any_counts_give_cells_that_cover_the_public_bounds(
    counts: list[int], bins: int, kind: Kind, points: set[int]
) -> None:
    column = Column(
        name="stay", kind=kind, lower=0, upper=11, bins=12, points=tuple(sorted(points)), learn_bins=True, missing=True
    )
    schema = Schema(columns=(column,))
    codes = np.repeat(np.arange(12), counts)[:, None] % column.values_cardinality
    learnt = with_learned_bins(schema, codes, bins=bins, source="").column("stay")
    assert learnt.cells.edges[0] == column.cells.edges[0]
    assert learnt.cells.edges[-1] == column.cells.edges[-1]
    own = {column.position(point) for point in column.points}
    assert own <= set(learnt.cells.edges)
    if column.cells.count - len(points) <= bins:
        assert learnt.cells.edges.tolist() == column.cells.edges.tolist()
    assert learnt.values_cardinality <= bins + 2 * len(points) + 1


@pytest.mark.parametrize(("upper", "bins", "cells"), [(1, 16, 2), (2, 16, 3), (10, 16, 11), (50, 8, None)])
def test_few_values_keep_their_cells_and_a_crowd_at_the_upper_bound_its_own(
    upper: int, bins: int, cells: int | None
) -> None:
    schema = schema_with({"name": "stay", "kind": "integer", "lower": 0, "upper": upper, "learn_bins": True})
    generator = np.random.default_rng(0)
    codes = np.where(generator.random(1000) < 0.8, upper, generator.integers(0, upper + 1, 1000))[:, None]
    learnt = with_learned_bins(schema, codes, bins=bins, source="").column("stay")
    assert learnt.code_labels[-1] == str(upper)
    if cells is not None:
        assert learnt.cardinality == cells


def test_a_column_whose_cells_a_constraint_needs_keeps_them() -> None:
    mapping = {
        "columns": [{**STAY, "learn_bins": True}, {**COST, "learn_bins": True}, SEX],
        "constraints": [{"column": "sex", "when": ["stay = 3"], "value": "true"}],
    }
    schema = Schema.from_mapping(mapping)
    codes = np.zeros((500, 3), dtype=np.int32)
    codes[:, 0], codes[:, 1] = np.arange(500) % 100, np.arange(500)
    learnt = with_learned_bins(schema, codes, bins=4, source="")
    assert learnt.column("stay").cardinality == schema.column("stay").cardinality
    assert learnt.column("cost").cardinality < 10
    assert not learnt.column("stay").learn_bins
    free = Schema.from_mapping({"columns": mapping["columns"]})
    assert with_learned_bins(free, codes, bins=4, source="").column("stay").cardinality <= 5


def test_it_is_refused_where_no_column_allows_it_or_nothing_can_be_learnt() -> None:
    closed, open_ = schema_with(COST, SEX), schema_with({**COST, "learn_bins": True}, SEX)
    codes = lognormal_codes(open_, 10)
    with pytest.raises(SchemaError, match="No column allows"):
        with_learned_bins(closed, codes, bins=4, source="")
    with pytest.raises(SchemaError, match="bins = 1"):
        with_learned_bins(open_, codes, bins=1, source="")
    with pytest.raises(SchemaError, match="no records"):
        with_learned_bins(open_, codes[:0], bins=4, source="")
    assert learning_columns(open_) == ("cost",)
    with pytest.raises(SchemaError, match="learn_bins does not go with kind = 'boolean'"):
        schema_with({**SEX, "learn_bins": True})
