"""A layer that is told of ones by their places, against the same layer on the vector written out."""

import pytest
import torch
from torch import nn

from privacy.indicator_linear import IndicatorLinear
from protocol.errors import InputError

PLACES = torch.tensor([[0, 2], [1, 1], [3, 0]])
VECTOR = torch.tensor([[0.5, -1.0], [2.0, 0.0], [0.0, 3.0]])


def layer(*, scale=0.7):
    made = IndicatorLinear(6, 4, scale=scale)
    with torch.no_grad():
        made.weight.copy_(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    return made


def counts(places, size):
    return torch.stack([torch.bincount(row, minlength=size) for row in places]).float()


def calls():
    ones = 0.7 * counts(PLACES, 4)
    return {
        "numbers": ((torch.cat([VECTOR, ones], dim=1),), torch.cat([VECTOR, ones], dim=1)),
        "places": ((PLACES,), 0.7 * counts(PLACES, 6)),
        "vector and places": ((VECTOR, PLACES), torch.cat([VECTOR, ones], dim=1)),
        "int32 places": ((PLACES.int(),), 0.7 * counts(PLACES, 6)),
        "no place at all": ((PLACES[:, :0],), torch.zeros(3, 6)),
        "two parts": ((VECTOR, ones), torch.cat([VECTOR, ones], dim=1)),
        "no places": ((torch.cat([VECTOR, ones], dim=1), PLACES[:, :0]), torch.cat([VECTOR, ones], dim=1)),
        "no records": ((VECTOR[:0], PLACES[:0]), torch.zeros(0, 6)),
    }


@pytest.mark.parametrize("name", calls())
def test_every_call_is_a_linear_layer_of_what_entered(name):
    arguments, entered = calls()[name]
    made = layer()
    torch.testing.assert_close(made.entered(*arguments), entered)
    output, expected = made(*arguments), entered @ made.weight.T
    torch.testing.assert_close(output, expected)
    gradients = [torch.autograd.grad(each.square().sum(), made.weight)[0] for each in (output, expected)]
    torch.testing.assert_close(*gradients)


def test_it_has_the_weight_of_an_ordinary_layer_and_no_bias():
    ordinary = nn.Linear(6, 4, bias=False)
    made = layer()
    assert {name: p.shape for name, p in made.named_parameters()} == {"weight": ordinary.weight.shape}
    ordinary.load_state_dict(made.state_dict())
    assert torch.equal(ordinary.weight, made.weight)


@pytest.mark.parametrize("place", [-1, 4])
def test_places_that_are_not_there_are_refused(place):
    with pytest.raises((RuntimeError, IndexError)):
        layer()(VECTOR, torch.tensor([[0, 1], [place, 1], [0, 1]]))


def test_numbers_that_do_not_fill_the_input_are_refused():
    """No places say that nothing more entered; no numbers are an input of the wrong width."""
    for arguments in ((VECTOR,), (VECTOR, torch.zeros(3, 0)), (VECTOR, torch.zeros(3, 1)), (torch.zeros(3, 7),)):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            layer()(*arguments)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.bool])
def test_places_of_other_types_are_refused(dtype):
    for arguments in ((PLACES.to(dtype),), (VECTOR, PLACES.to(dtype)), (VECTOR, PLACES[:, :0].to(dtype))):
        with pytest.raises(InputError, match=rf"Places of type {dtype}\. Give them"):
            layer()(*arguments)


@pytest.mark.parametrize("scale", [float("inf"), float("nan"), 1e39, 1e200, -1e200, 0.0, 1e-200])
def test_scales_that_the_weights_cannot_be_multiplied_with_are_refused(scale):
    with pytest.raises(InputError, match="Scale"):
        layer(scale=scale)


def test_the_scale_stays_the_same():
    made = layer(scale=-2)
    assert made.scale == -2.0
    with pytest.raises(AttributeError):
        made.scale = 1.0


def test_what_entered_is_written_out_in_the_precision_that_is_asked_for():
    for dtype, scale in ((torch.float64, 0.7), (None, float(torch.tensor(0.7)))):
        entered = layer().entered(VECTOR, PLACES, dtype=dtype)
        assert entered.dtype == (dtype or torch.float32)
        assert entered[0].tolist() == [0.5, -1.0, scale, 0.0, scale, 0.0]
