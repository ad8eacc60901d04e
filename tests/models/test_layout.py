"""The one-hot layout."""

import pytest
import torch

from models.layout import OneHotLayout
from protocol.errors import InputError


def test_encoding_splits_into_one_hot_blocks():
    layout = OneHotLayout(cardinalities=(2, 1, 3))
    codes = torch.tensor([[0, 0, 2], [1, 0, 0]], dtype=torch.int16)
    assert layout.encode(codes).tolist() == [[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 0, 0]]
    assert layout.places(codes).tolist() == [[0, 2, 5], [1, 2, 3]]
    for block, column in zip(layout.split(layout.encode(codes)), codes.T, strict=True):
        assert torch.equal(block.argmax(dim=1), column.long())
        assert torch.equal(block.sum(dim=1), torch.ones(2))


def test_no_records_encode_to_no_rows():
    assert OneHotLayout(cardinalities=(2, 3)).encode(torch.zeros(0, 2, dtype=torch.long)).shape == (0, 5)


@pytest.mark.parametrize("cardinalities", [(), (2, 0), (-1,)])
def test_tables_without_codes_are_refused(cardinalities):
    with pytest.raises(InputError, match="at least one code"):
        OneHotLayout(cardinalities=cardinalities)


@pytest.mark.parametrize(
    "geometry",
    [
        {"ordered": (3, 0)},
        {"ordered": (2,)},
        {"groups": ((0, 1, 1), ())},
        {"groups": ((), (0, 2, 1))},
        {"groups": ((), (0, 2, 2, 2))},
    ],
)
def test_a_geometry_of_another_table_is_refused(geometry):
    with pytest.raises(InputError, match="geometry"):
        OneHotLayout(cardinalities=(2, 4), **geometry)
