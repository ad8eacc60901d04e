"""Counts of columns and pairs, by label too: exact, bounded for every record, and read back as shares."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.geometry import coarse_cells
from models.layout import OneHotLayout
from models.marginals import MOST_LABELS, MarginalCounts, code_logits

LAYOUT = OneHotLayout(cardinalities=(3, 40, 2), ordered=(0, 40, 0))
WIDE = OneHotLayout(cardinalities=(3, 40, 2, 4), ordered=(0, 40, 0, 0))


def records_of(layout):
    made = [torch.randint(size, (500,), generator=torch.Generator().manual_seed(size)) for size in layout.cardinalities]
    return torch.stack(made, dim=1)


RECORDS = records_of(LAYOUT)


def test_counts_equal_those_of_a_loop():
    counts = MarginalCounts(LAYOUT, pairs=True, pair_cells=5)
    weights = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cells = coarse_cells(LAYOUT, most=5)
    columns = [[0.0] * size for size in LAYOUT.cardinalities]
    pairs = {(0, 1): torch.zeros(3, 5), (0, 2): torch.zeros(3, 2), (1, 2): torch.zeros(5, 2)}
    for row, weight in zip(RECORDS.tolist(), weights.tolist(), strict=True):
        for j, code in enumerate(row):
            columns[j][code] += weight
        for (i, j), table in pairs.items():
            table[cells[i][row[i]], cells[j][row[j]]] += weight
    expected = torch.cat([*(torch.tensor(c) for c in columns), *(t.flatten() for t in pairs.values())])
    found = counts.weighted_sum(1, RECORDS, weights)
    assert found.shape == (counts.dimension(1),)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), expected)


def test_counts_by_label_equal_those_of_a_loop():
    counts, records = MarginalCounts(WIDE, pairs=True, label=2, pair_cells=5), records_of(WIDE)
    weights = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cells = coarse_cells(WIDE, most=5)
    columns = [torch.zeros(size) for size in WIDE.cardinalities]
    pairs = {(0, 1): torch.zeros(2, 3, 5), (0, 3): torch.zeros(2, 3, 4), (1, 3): torch.zeros(2, 5, 4)}
    for row, weight in zip(records.tolist(), weights.tolist(), strict=True):
        for j, code in enumerate(row):
            columns[j][code] += weight
        for (i, j), table in pairs.items():
            table[row[2], cells[i][row[i]], cells[j][row[j]]] += weight
    assert counts.pairs == tuple(pairs)
    found = counts.weighted_sum(1, records, weights)
    assert found.shape == (counts.dimension(1),)
    torch.testing.assert_close(found.float(), torch.cat([*columns, *(t.flatten() for t in pairs.values())]))


def test_labels_cost_no_noise():
    plain, by_label = MarginalCounts(WIDE, pairs=True), MarginalCounts(WIDE, pairs=True, label=2)
    assert by_label.norm(1) < plain.norm(1)


@pytest.mark.parametrize(
    ("cardinalities", "label"), [((3, 4, 5), None), ((3, 2), 1), ((3, 4, MOST_LABELS + 1), 2)], ids=str
)
def test_pairs_are_plain_where_labels_are_none_or_many_or_leave_no_pair(cardinalities, label):
    layout = OneHotLayout(cardinalities=cardinalities)
    plain, counts = MarginalCounts(layout, pairs=True), MarginalCounts(layout, pairs=True, label=label)
    records = torch.stack([torch.arange(7) % size for size in cardinalities], dim=1)
    assert counts.label is None
    assert counts.labels == 1
    assert counts.norm(1) == plain.norm(1)
    weights = torch.ones(7, dtype=torch.float64)
    assert torch.equal(counts.weighted_sum(1, records, weights), plain.weighted_sum(1, records, weights))


def test_a_label_changes_nothing_where_no_pairs_are_counted():
    alone = MarginalCounts(LAYOUT, label=2)
    assert alone.label is None
    assert alone.dimension(1) == MarginalCounts(LAYOUT).dimension(1) == LAYOUT.width


@given(
    row=st.tuples(st.integers(0, 2), st.integers(0, 39), st.integers(0, 1)),
    other=st.tuples(st.integers(0, 2), st.integers(0, 39), st.integers(0, 1)),
    share=st.floats(0.0, 1.0),
    ways=st.sampled_from([{}, {"pairs": True}, {"pairs": True, "label": 2}]),
)
def test_no_unit_is_longer_than_the_bound(row, other, share, ways):
    """A record, and a person whose records share a weight of one; nothing shorter than the bound would do."""
    counts = MarginalCounts(LAYOUT, **ways)
    one = torch.linalg.vector_norm(counts.weighted_sum(1, torch.tensor([row]), torch.ones(1)))
    assert float(one) <= counts.norm(1) * (1 + 1e-12)
    assert float(one) > 0.99 * counts.norm(1)
    assert float(counts.norms(1, torch.tensor([row]))) == counts.norm(1)
    mean = counts.weighted_sum(1, torch.tensor([row, other]), torch.tensor([share, 1.0 - share], dtype=torch.float64))
    assert float(torch.linalg.vector_norm(mean)) <= counts.norm(1) * (1 + 1e-12)


def test_no_records_count_nothing():
    counts = MarginalCounts(LAYOUT, pairs=True)
    nothing = counts.weighted_sum(1, RECORDS[:0], torch.zeros(0))
    assert torch.equal(nothing, torch.zeros(counts.dimension(1), dtype=torch.float64))


@pytest.mark.parametrize("rough", [1.0, 0.4, 3.0])
def test_shares_are_of_the_whole_whatever_the_public_number_of_records(rough):
    counts = MarginalCounts(LAYOUT, pairs=True, pair_cells=4)
    total = counts.weighted_sum(1, RECORDS, torch.ones(500))
    found = counts.read(total / (500 * rough), deviation=0.001)
    assert found.deviation == pytest.approx(0.001 * rough)
    for table in (*found.columns, *found.pairs):
        assert float(table.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(found.columns[2], torch.bincount(RECORDS[:, 2], minlength=2) / 500.0, check_dtype=False)
    assert [tuple(table.shape) for table in found.pairs] == [(1, 3, 4), (1, 3, 2), (1, 4, 2)]


@pytest.mark.parametrize("rough", [1.0, 0.4, 3.0])
def test_shares_by_label_are_of_the_whole_too(rough):
    counts, records = MarginalCounts(WIDE, pairs=True, label=2, pair_cells=4), records_of(WIDE)
    means = counts.weighted_sum(1, records, torch.ones(500, dtype=torch.float64)) / 500 * rough
    found = counts.read(means, deviation=0.01 * rough)
    assert found.deviation == pytest.approx(0.01)
    for table in (*found.columns, *found.pairs):
        assert float(table.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(found.pairs[0].sum(dim=2).sum(dim=1), found.columns[2])


def test_logits_of_noisy_shares_are_finite_and_lift_what_noise_hides():
    (logits,) = code_logits([torch.tensor([0.7, 0.3, -0.02, 0.0])], deviation=0.03)
    assert bool(logits.isfinite().all())
    shares = logits.exp()
    assert float(shares.sum()) == pytest.approx(1.0)
    assert float(shares[0] / shares[1]) == pytest.approx(7 / 3)
    assert float(shares[2]) == float(shares[3]) == pytest.approx(0.01 / 1.02)
