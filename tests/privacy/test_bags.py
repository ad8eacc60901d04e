"""Bags turned inside out, against a loop over all entries."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.bags import BagSorter


def slow_sum(indices, signal, rows):
    total = torch.zeros(rows, signal.shape[1], dtype=signal.dtype)
    for record, row in enumerate(indices.tolist()):
        for index in row:
            total[index] += signal[record]
    return total


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_sums_of_prefixes_equal_a_loop(data):
    count, width, rows = (
        data.draw(st.integers(1, 7)),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 6)),
    )
    entry = st.integers(0, rows - 1)
    flat = data.draw(st.lists(entry, min_size=count * width, max_size=count * width))
    matrix = torch.tensor(flat).view(count, width)
    signal = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    views = [matrix[:, :end] for end in range(1, width + 1)] + [matrix.clone()]
    sorter = BagSorter(views)
    for view in views:
        bags = sorter.bags(view)
        torch.testing.assert_close(bags.sum(signal, rows=rows), slow_sum(view, signal, rows))
        if bags.distinct:
            assert all(len(set(row)) == len(row) for row in view.tolist())


def test_columns_that_share_no_index_are_known_to_be_distinct_and_others_are_not():
    apart = torch.tensor([[0, 2], [1, 3], [0, 3]])
    assert BagSorter([apart]).bags(apart).distinct
    touching = torch.tensor([[0, 1], [1, 1]])
    assert not BagSorter([touching]).bags(touching).distinct


@pytest.mark.parametrize("transposed", [False, True])
def test_one_sort_serves_all_prefixes(monkeypatch, transposed):
    matrix = torch.arange(12).view(4, 3) % 5
    matrix = matrix.T.contiguous().T if transposed else matrix
    calls = []
    sort = torch.Tensor.sort

    def counted(self, *args, **keywords):
        calls.append(self.numel())
        return sort(self, *args, **keywords)

    views = [matrix[:, :2], matrix, matrix[:, :1]]
    sorter = BagSorter(views)
    monkeypatch.setattr(torch.Tensor, "sort", counted)
    for view in views:
        sorter.bags(view)
    assert calls == [12]
