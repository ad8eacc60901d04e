"""Features of codes: what neighbours and groups share, and what they do not."""

import pytest
import torch

from models.geometry import FeatureMap, ShortFeatures, coarse_cells, column_features
from models.layout import OneHotLayout
from protocol.errors import InputError

LAYOUT = OneHotLayout(
    cardinalities=(3, 101, 16, 1000, 6),
    ordered=(0, 100, 16, 0, 0),
    groups=((), (), (), (), (0, 1, 1, 2, 0, 2)),
)


def test_few_codes_have_an_indicator_each():
    features = column_features(LAYOUT)
    assert torch.equal(features[0], torch.eye(3))
    assert torch.equal(features[2], torch.eye(16))


def test_a_line_is_piecewise_linear_in_its_rank():
    hats = column_features(LAYOUT, splines=5)[1]
    assert hats.shape == (101, 6)
    torch.testing.assert_close(hats.sum(dim=1), torch.ones(101))
    # Any straight line over the ranks is a combination of hats; a step between neighbours is not.
    ranks = torch.arange(100.0)
    for target, reachable in ((2.0 * ranks + 1.0, True), ((ranks > 50).float(), False)):
        found = torch.linalg.lstsq(hats[:100, :5], target[:, None]).solution
        assert torch.allclose(hats[:100, :5] @ found, target[:, None], atol=1e-3) is reachable
    # The code for missing stands for itself.
    assert hats[100].tolist() == [0, 0, 0, 0, 0, 1]
    assert float(hats[:100, 5].abs().max()) == 0.0


def test_without_splines_every_code_of_a_line_has_an_indicator():
    assert torch.equal(column_features(LAYOUT, splines=0)[1], torch.eye(101))


def test_groups_share_an_indicator():
    features = column_features(LAYOUT)[4]
    assert features.argmax(dim=1).tolist() == [0, 1, 1, 2, 0, 2]
    own = OneHotLayout(cardinalities=(3,), groups=((2, 0, 1),))
    assert torch.equal(column_features(own)[0], torch.eye(3))


def test_many_codes_without_groups_share_a_fixed_number_of_indicators():
    features = column_features(LAYOUT)[3]
    assert features.shape == (1000, 128)
    assert torch.equal(features.sum(dim=1), torch.ones(1000))
    assert set(features.sum(dim=0).tolist()) == {7.0, 8.0}
    assert torch.equal(features, column_features(LAYOUT)[3])


@pytest.mark.parametrize("column", range(5))
def test_no_feature_vector_is_longer_than_one(column):
    assert float(torch.linalg.vector_norm(column_features(LAYOUT)[column], dim=1).max()) <= 1.0 + 1e-6


def test_features_of_records_follow_the_order():
    features = FeatureMap(LAYOUT)
    codes = torch.tensor([[2, 100, 5, 999, 3], [0, 0, 0, 0, 0]])
    expected = torch.cat([column_features(LAYOUT)[j][codes[:, j]] for j in (4, 0, 1)], dim=1)
    assert torch.equal(features(codes, (4, 0, 1)), expected)
    assert features(codes).shape == (2, sum(features.sizes))
    assert not features.state_dict()


def test_places_say_where_the_ones_of_the_features_are():
    made = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(size, (50,), generator=made) for size in LAYOUT.cardinalities], dim=1)
    features = ShortFeatures(LAYOUT, splines=0)
    assert features.indicators
    for order in (None, (4, 0, 3, 2, 1)):
        places = features(codes, order)
        assert places.dtype == torch.int64
        expected = FeatureMap(LAYOUT, splines=0)(codes, order)
        assert torch.equal(torch.zeros_like(expected).scatter_add_(1, places, torch.ones(places.shape)), expected)
    assert features.ends((4, 0, 3, 2, 1)) == (0, 1, 2, 3, 4, 5)
    assert not features.state_dict()


@pytest.mark.parametrize(("column", "code"), [(0, -1), (1, 101), (3, 1000)])
def test_codes_that_a_column_does_not_have_are_not_taken_for_those_of_the_next(column, code):
    assert LAYOUT.cardinalities[column] in {code, LAYOUT.cardinalities[0]}
    codes = torch.zeros(3, 5, dtype=torch.int16)
    codes[1, column] = code
    for order in (None, (4, 3, 2, 1, 0)):
        with pytest.raises(InputError, match=f"Column {column} has a code outside 0 ... "):
            ShortFeatures(LAYOUT, splines=0)(codes, order)


def test_features_that_are_no_indicators_stay_numbers():
    codes = torch.tensor([[2, 100, 5, 999, 3], [0, 0, 0, 0, 0]])
    features = ShortFeatures(LAYOUT)
    assert not features.indicators
    assert torch.equal(features(codes), FeatureMap(LAYOUT)(codes))
    assert features.ends((1, 0, 4)) == (0, 9, 12, 15)


@pytest.mark.parametrize("most", [2, 7, 16, 2000])
def test_coarse_cells_have_no_gaps_and_keep_neighbours_together(most):
    for column, cells in enumerate(coarse_cells(LAYOUT, most=most)):
        assert len(cells) == LAYOUT.cardinalities[column]
        assert set(cells.tolist()) == set(range(int(cells.max()) + 1))
        line = LAYOUT.ordered[column]
        assert bool((cells[:line].diff() >= 0).all())
        assert int(cells.max()) < most + len(cells) - line if line else int(cells.max()) < most
    # What stands behind a line never shares a cell with it.
    missing = coarse_cells(LAYOUT, most=most)[1]
    assert int(missing[100]) not in missing[:100].tolist()
