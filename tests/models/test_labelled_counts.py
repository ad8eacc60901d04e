"""Counts of pairs by label: exact, bounded for every record, and read back as shares."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.geometry import coarse_cells
from models.labelled_counts import MOST_LABELS, LabelledCounts
from models.layout import OneHotLayout
from models.marginals import MarginalCounts

LAYOUT = OneHotLayout(cardinalities=(3, 40, 2, 4), ordered=(0, 40, 0, 0))
RECORDS = torch.stack(
    [torch.randint(size, (500,), generator=torch.Generator().manual_seed(size)) for size in LAYOUT.cardinalities], dim=1
)


def test_counts_equal_those_of_a_loop():
    counts = LabelledCounts(LAYOUT, label=2, pair_cells=5)
    weights = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cells = coarse_cells(LAYOUT, most=5)
    columns = [torch.zeros(size) for size in LAYOUT.cardinalities]
    pairs = {(0, 1): torch.zeros(2, 3, 5), (0, 3): torch.zeros(2, 3, 4), (1, 3): torch.zeros(2, 5, 4)}
    for row, weight in zip(RECORDS.tolist(), weights.tolist(), strict=True):
        for j, code in enumerate(row):
            columns[j][code] += weight
        for (i, j), table in pairs.items():
            table[row[2], cells[i][row[i]], cells[j][row[j]]] += weight
    assert counts.pairs == tuple(pairs)
    found = counts.weighted_sum(1, RECORDS, weights)
    assert found.shape == (counts.dimension(1),)
    torch.testing.assert_close(found.float(), torch.cat([*columns, *(t.flatten() for t in pairs.values())]))


@given(
    row=st.tuples(st.integers(0, 2), st.integers(0, 39), st.integers(0, 1), st.integers(0, 3)),
    other=st.tuples(st.integers(0, 2), st.integers(0, 39), st.integers(0, 1), st.integers(0, 3)),
    share=st.floats(0.0, 1.0),
)
def test_no_unit_is_longer_than_the_bound(row, other, share):
    """A record, and a person whose records share a weight of one; nothing shorter than the bound would do."""
    counts = LabelledCounts(LAYOUT, label=2)
    one = torch.linalg.vector_norm(counts.weighted_sum(1, torch.tensor([row]), torch.ones(1)))
    assert float(one) <= counts.norm(1) * (1 + 1e-12)
    assert float(one) > 0.99 * counts.norm(1)
    assert float(counts.norms(1, torch.tensor([row]))) == counts.norm(1)
    mean = counts.weighted_sum(1, torch.tensor([row, other]), torch.tensor([share, 1.0 - share], dtype=torch.float64))
    assert float(torch.linalg.vector_norm(mean)) <= counts.norm(1) * (1 + 1e-12)


def test_labels_cost_no_noise():
    assert LabelledCounts(LAYOUT, label=2).norm(1) < MarginalCounts(LAYOUT, pairs=True).norm(1)


@pytest.mark.parametrize(
    ("cardinalities", "label"), [((3, 4, 5), None), ((3, 2), 1), ((3, 4, MOST_LABELS + 1), 2)], ids=str
)
def test_pairs_are_plain_where_labels_are_none_or_many_or_leave_no_pair(cardinalities, label):
    layout = OneHotLayout(cardinalities=cardinalities)
    plain, counts = MarginalCounts(layout, pairs=True), LabelledCounts(layout, label=label)
    records = torch.stack([torch.arange(7) % size for size in cardinalities], dim=1)
    assert counts.label is None
    assert counts.norm(1) == plain.norm(1)
    weights = torch.ones(7, dtype=torch.float64)
    assert torch.equal(counts.weighted_sum(1, records, weights), plain.weighted_sum(1, records, weights))


@pytest.mark.parametrize("rough", [1.0, 0.4, 3.0])
def test_shares_are_of_the_whole_whatever_the_public_number_of_records(rough):
    counts = LabelledCounts(LAYOUT, label=2, pair_cells=4)
    means = counts.weighted_sum(1, RECORDS, torch.ones(500, dtype=torch.float64)) / 500 * rough
    found = counts.read(means, deviation=0.01 * rough)
    assert found.deviation == pytest.approx(0.01)
    for table in (*found.columns, *found.pairs):
        assert float(table.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(found.pairs[0].sum(dim=2).sum(dim=1), found.columns[2])
