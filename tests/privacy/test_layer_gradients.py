"""Gradients of linear layers that are never written out, against the same gradients written out."""

import pytest
import torch
from torch import nn

from privacy.dp_sgd import clipped_gradient_sum, reference_gradient_sum
from privacy.indicator_linear import IndicatorLinear
from privacy.layer_gradients import LayerCall, LayerGradients
from protocol.errors import PrivacyError

UNITS = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(module):
    """Weights that are all of a size."""
    with torch.no_grad():
        for place, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(place)))
    return module


def one_by_one(module, unit_loss, records, *, units, clip_norm):
    """The obviously right twin: one backward pass per unit."""
    units = torch.arange(len(records)) if units is None else units
    total = torch.zeros(sum(p.numel() for p in module.parameters()), dtype=torch.float64)
    for unit in units.unique():
        gradients = torch.autograd.grad(unit_loss(records[units == unit]).mean(), list(module.parameters()))
        flat = torch.cat([each.flatten().double() for each in gradients])
        total += flat * min(1.0, clip_norm / float(flat.norm()))
    return total


class Flipped(nn.Module):
    """One layer on the same places in two orders: in one matrix columns 0 and 1 are apart, across the two they meet."""

    def __init__(self):
        super().__init__()
        self.layer = IndicatorLinear(6, 2, scale=2.0)

    def forward(self, x):
        places = x[:, :2].abs().mul(2.0).long().clamp(max=2) + torch.tensor([0, 3])
        return torch.cat([self.layer(places), 1.5 * self.layer(places.flip(1))], dim=1)


class Strided(nn.Module):
    """Layers on the first and on every other column of one matrix, which begin at the same number in memory."""

    def __init__(self):
        super().__init__()
        self.numbers = nn.ModuleList(nn.Linear(width, 2) for width in (3, 2, 4))
        self.places = nn.ModuleList(IndicatorLinear(5, 2) for _ in range(3))

    def forward(self, x):
        places = x.abs().mul(2.0).long().clamp(max=4)
        views = [[whole[:, ::2], whole[:, :2], whole[:, :4]] for whole in (x, places)]
        layers = [*self.numbers, *self.places]
        return torch.cat([layer(view) for layer, view in zip(layers, views[0] + views[1], strict=True)], dim=1)


class NoPlaces(nn.Module):
    """A layer that is told of no place in one call, and of some in the next."""

    def __init__(self):
        super().__init__()
        self.layer = IndicatorLinear(5, 2)

    def forward(self, x):
        places = x[:, :2].abs().long().clamp(max=4)
        return torch.cat([self.layer(places[:, :0]) + 1.0, self.layer(places), self.layer(places.int())], dim=1)


@pytest.mark.parametrize("units", [None, UNITS], ids=["records", "persons"])
@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
@pytest.mark.parametrize("network", [Flipped, Strided, NoPlaces])
def test_sums_equal_one_record_at_a_time(network, clip_norm, units):
    module, records = drawn(network()), torch.randn(8, 5, generator=generator(3))

    def unit_loss(rows):
        return module(rows).square().sum(dim=1)

    slow = one_by_one(module, unit_loss, records, units=units, clip_norm=clip_norm)
    for sum_of in (clipped_gradient_sum, reference_gradient_sum):
        found = sum_of(module, lambda: unit_loss(records), units=units, clip_norm=clip_norm)
        torch.testing.assert_close(found, slow, rtol=1e-5, atol=1e-5 * float(slow.norm()))


def call_of_everything(layer, *, seed):
    """A layer on a vector and places behind it, and the signal that came back."""
    made = generator(seed)
    inputs = torch.randn(8, 2, generator=made), torch.randint(4, (8, 3), generator=made)
    return LayerCall(layer=layer, inputs=inputs, signal=torch.randn(8, 2, generator=made))


def written_out(call):
    entered = torch.zeros(8, 6, dtype=torch.float64)
    entered[:, :2] = call.inputs[0]
    for record, row in enumerate(call.inputs[1].tolist()):
        for place in row:
            entered[record, 2 + place] += call.layer.scale
    return call.signal.double()[:, :, None] * entered[:, None, :]


def test_squares_and_products_are_those_of_the_outer_products():
    once, twice = IndicatorLinear(6, 2, scale=0.7), IndicatorLinear(6, 2, scale=-3.0)
    calls = [call_of_everything(layer, seed=seed) for seed, layer in enumerate((twice, once, twice))]
    gradients = LayerGradients(calls)
    outer = [written_out(call).flatten(1) for call in calls]
    whole = torch.cat([outer[0] + outer[2], outer[1]], dim=1)
    squares, parts = gradients.squares()
    torch.testing.assert_close(squares, whole.square().sum(dim=1))
    lengths = [each.norm(dim=1) for each in outer]
    torch.testing.assert_close(parts, (lengths[0] + lengths[2]).square() + lengths[1].square())
    first, second = torch.arange(7), torch.arange(1, 8)
    torch.testing.assert_close(gradients.products((first, second)), (whole[first] * whole[second]).sum(dim=1))
    weights = torch.arange(8.0, dtype=torch.float64)
    found = gradients.weighted_sum(weights, trainable=[twice.weight, once.weight])
    torch.testing.assert_close(found, torch.cat([weights @ (outer[0] + outer[2]), weights @ outer[1]]))


def test_layers_that_are_called_once_are_given_no_allowance_beyond_their_norm():
    gradients = LayerGradients([call_of_everything(IndicatorLinear(6, 2), seed=seed) for seed in (0, 1)])
    squares, parts = gradients.squares()
    assert torch.equal(squares, parts)


def test_what_entered_is_written_out_in_float64():
    call = call_of_everything(IndicatorLinear(6, 2, scale=0.7), seed=0)
    assert torch.equal(call.signal.double()[:, :, None] * call.entered[:, None, :], written_out(call))


def test_inputs_of_different_widths_are_refused():
    """A width of one would otherwise be taken for the same number in every column."""
    layer, inputs = nn.Linear(3, 2), torch.ones(4, 3)
    calls = [LayerCall(layer=layer, inputs=(part,), signal=torch.ones(4, 2)) for part in (inputs, inputs[:, :1])]
    with pytest.raises(PrivacyError, match="3 and 1 columns"):
        LayerGradients(calls).squares()


class Subclass(IndicatorLinear):
    """A layer whose second argument nothing but the layer itself knows how to read."""

    def forward(self, first, second=None):
        output = super().forward(first)
        return output if second is None else output * second


@pytest.mark.parametrize("sum_of", [clipped_gradient_sum, reference_gradient_sum])
def test_subclasses_without_a_sampler_are_refused(sum_of):
    module, inputs = Subclass(3, 2), torch.ones(4, 3)
    with pytest.raises(PrivacyError, match="Subclass, a subclass of IndicatorLinear"):
        sum_of(module, lambda: module(inputs, inputs[:, :1]).sum(dim=1), units=None, clip_norm=1.0)


def test_an_argument_that_is_none_is_refused():
    module, inputs = IndicatorLinear(3, 2), torch.ones(4, 3)
    with pytest.raises(PrivacyError, match="IndicatorLinear was not called on one row per record"):
        clipped_gradient_sum(module, lambda: module(inputs, None).sum(dim=1), units=None, clip_norm=1.0)
