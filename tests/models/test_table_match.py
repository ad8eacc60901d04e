"""The distance of a generator's tables from released ones: that of a loop, and least where they agree."""

import pytest
import torch

from models.layout import OneHotLayout
from models.marginals import MarginalCounts
from models.table_match import TableMatch

LAYOUT = OneHotLayout(cardinalities=(3, 20, 2), ordered=(0, 20, 0))
CPU = torch.device("cpu")


def batch(count=12, seed=0):
    made = torch.Generator().manual_seed(seed)
    blocks = [torch.rand(count, size, generator=made).softmax(dim=1) for size in LAYOUT.cardinalities]
    labels = torch.nn.functional.one_hot(torch.randint(2, (count,), generator=made), 2).float()
    blocks[2] = labels
    return torch.cat(blocks, dim=1), labels


def released(label, *, deviation=0.002, records=200):
    counts = MarginalCounts(LAYOUT, pairs=True, label=label, pair_cells=4)
    made = torch.Generator().manual_seed(3)
    codes = torch.stack([torch.randint(size, (records,), generator=made) for size in LAYOUT.cardinalities], dim=1)
    means = counts.weighted_sum(1, codes, torch.ones(records, dtype=torch.float64)) / records
    return counts, counts.read(means, deviation=deviation), codes


@pytest.mark.parametrize("label", [2, None])
def test_it_is_that_of_a_loop_over_the_tables(label):
    counts, found, _ = released(label)
    shares, labels = batch()
    squares, cells = 0.0, 0
    blocks = LAYOUT.split(shares)
    for block, table in zip(blocks, found.columns, strict=True):
        squares += float((block.mean(dim=0) - table).square().sum())
        cells += len(table)
    for (i, j), table in zip(counts.pairs, found.pairs, strict=True):
        mine = torch.zeros_like(table)
        for row in range(len(shares)):
            for a in range(LAYOUT.cardinalities[i]):
                for b in range(LAYOUT.cardinalities[j]):
                    slice_ = int(labels[row].argmax()) if label == 2 else 0
                    mine[slice_, counts.cells[i][a], counts.cells[j][b]] += blocks[i][row, a] * blocks[j][row, b]
        squares += float((mine / len(shares) - table).square().sum())
        cells += table.numel()
    expected = squares / cells / (0.002**2 + 0.001**2)
    loss = TableMatch(counts, found, device=CPU).loss(shares, labels if label == 2 else None)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_it_is_zero_at_the_records_themselves_and_nowhere_near():
    counts, found, codes = released(2)
    match = TableMatch(counts, found, device=CPU)
    own, labels = LAYOUT.encode(codes), torch.nn.functional.one_hot(codes[:, 2], 2).float()
    assert float(match.loss(own, labels)) < 1e-6
    # The broken twin: the same columns, each shuffled by itself.
    made = torch.Generator().manual_seed(8)
    shuffled = torch.stack([column[torch.randperm(len(codes), generator=made)] for column in codes.T[:2]], dim=1)
    other = torch.cat([shuffled, codes[:, 2:]], dim=1)
    assert float(match.loss(LAYOUT.encode(other), labels)) > 1.0


def test_more_noise_counts_less():
    shares, labels = batch()
    losses = [
        float(TableMatch(*released(2, deviation=noise)[:2], device=CPU).loss(shares, labels)) for noise in (0.001, 0.1)
    ]
    assert losses[0] > 100 * losses[1]


@pytest.mark.parametrize("label", [2, None])
def test_weighted_rows_count_as_often_as_they_weigh(label):
    """Against rows repeated."""
    match = TableMatch(*released(label)[:2], device=CPU)
    shares, labels = batch()
    times = torch.arange(1, 13)
    repeated, of_repeated = (each.repeat_interleave(times, dim=0) for each in (shares, labels))
    weighted = match.squares(shares, labels, weights=times / 78)
    equal = match.squares(repeated, of_repeated, weights=torch.full((78,), 1 / 78))
    assert float(weighted) == pytest.approx(float(equal), rel=1e-4)
    assert float(weighted) != pytest.approx(float(match.squares(shares, labels, weights=times.flip(0) / 78)), rel=1e-2)


def test_probable_labels_are_as_good_as_rows_of_each_label():
    match = TableMatch(*released(2)[:2], device=CPU)
    shares, labels = batch()
    others, soft = shares[:, :23], labels * 0.6 + 0.2
    split = torch.cat([torch.cat([others, code.expand(12, 2)], dim=1) for code in torch.eye(2)])
    each = match.squares(split, split[:, 23:], weights=soft.T.flatten() / 12)
    whole = match.squares(torch.cat([others, soft], dim=1), soft, weights=torch.full((12,), 1 / 12))
    assert float(whole) == pytest.approx(float(each), rel=1e-4)


def test_the_noise_is_what_the_true_tables_are_off_by_on_average():
    counts, exact, codes = released(2, deviation=0.0)
    made, deviation = torch.Generator().manual_seed(5), 0.01
    means = counts.weighted_sum(1, codes, torch.ones(len(codes), dtype=torch.float64)) / len(codes)
    shares, labels = LAYOUT.encode(codes), torch.nn.functional.one_hot(codes[:, 2], 2).float()
    found, expected = [], 0.0
    for _ in range(50):
        noisy = means + deviation * torch.randn(means.shape, generator=made, dtype=torch.float64)
        match = TableMatch(counts, counts.read(noisy, deviation=deviation), device=CPU)
        found.append(float(match.squares(shares, labels, weights=torch.full((len(codes),), 1 / len(codes)))))
        expected += match.noise / 50
    assert sum(found) / 50 == pytest.approx(expected, rel=0.1)
    assert TableMatch(counts, exact, device=CPU).noise == 0.0
