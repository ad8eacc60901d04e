"""Sums by place, against a loop over all entries."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.bags import PlaceMatrix, Prefixes, place_of


def slow_sum(places, signal, starts, rows):
    total = torch.zeros(rows, signal.shape[1], dtype=signal.dtype)
    for record, row in enumerate(places.tolist()):
        for place, start in zip(row, starts, strict=False):
            total[place, start:] += signal[record, start:]
    return total


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_sums_equal_a_loop(data):
    count, width, rows = data.draw(st.integers(0, 7)), data.draw(st.integers(0, 4)), data.draw(st.integers(1, 6))
    entry = st.integers(0, rows - 1)
    flat = data.draw(st.lists(entry, min_size=count * width, max_size=count * width))
    matrix = torch.tensor(flat, dtype=torch.long).view(count, width)
    signal = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    starts = sorted(data.draw(st.lists(st.integers(0, 2), min_size=width, max_size=width)))
    found = PlaceMatrix(matrix).sums(signal, starts=starts, rows=rows)
    torch.testing.assert_close(found, slow_sum(matrix, signal, starts, rows))
    # Of columns without an output nothing is added.
    found = PlaceMatrix(matrix).sums(signal, starts=starts[:1], rows=rows)
    torch.testing.assert_close(found, slow_sum(matrix, signal, starts[:1], rows))
    if count:
        for end in range(width + 1):
            distinct = all(len(set(row[:end])) == end for row in matrix.tolist())
            assert distinct or not PlaceMatrix(matrix).apart(end)


def test_columns_that_share_no_place_are_known_to_be_apart_and_others_are_not():
    matrix = PlaceMatrix(torch.tensor([[0, 2, 4], [1, 3, 2], [0, 3, 5]]))
    assert [matrix.apart(width) for width in range(4)] == [True, True, True, False]


def test_strided_signals_are_summed_as_they_are():
    wide = torch.arange(24, dtype=torch.float64).view(4, 6)
    matrix = torch.tensor([[0, 3], [1, 3], [1, 2], [0, 2]])
    found = PlaceMatrix(matrix[:, :2]).sums(wide[:, 1:4], starts=[0, 2], rows=4)
    torch.testing.assert_close(found, slow_sum(matrix, wide[:, 1:4], [0, 2], 4))


@pytest.mark.parametrize("transposed", [False, True])
def test_prefixes_of_one_matrix_find_it_and_copies_do_not(transposed):
    matrix = torch.arange(12).view(4, 3)
    matrix = matrix.T.contiguous().T if transposed else matrix
    copy = matrix[:, :2].clone()
    prefixes = Prefixes()
    for each in (matrix[:, :2], matrix, matrix[:, :1], copy):
        prefixes.add(each)
    assert torch.equal(prefixes.widest(matrix[:, :1]), matrix)
    assert torch.equal(prefixes.widest(copy), copy)
    assert place_of(matrix) != place_of(matrix[:, 1:])
    assert place_of(matrix) != place_of(matrix[:2])
    assert place_of(matrix) != place_of(matrix[:, ::2])
    assert place_of(matrix) != place_of(matrix.int())
