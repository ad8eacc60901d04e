"""The clipped gradient sum: against one record at a time, against Opacus, and where it must refuse."""

import copy

import pytest
import torch
from torch import nn

from models.families import build_family
from privacy.bags import PlaceMatrix
from privacy.dp_sgd import (
    chunked_gradient_sum,
    clipped_gradient_sum,
    is_linear_network,
    parameter_count,
    reference_gradient_sum,
)
from privacy.indicator_linear import IndicatorLinear
from privacy.layer_gradients import LayerCall
from protocol.errors import PrivacyError

CARDINALITIES = (3, 2, 4)
UNEVEN = [0, 0, 0, 1, 2, 2, 4, 4, 4, 4, 4, 7]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_codes(count, seed=0):
    made = generator(seed)
    return torch.stack([torch.randint(size, (count,), generator=made) for size in CARDINALITIES], dim=1)


def stirred(family, seed=0):
    """Weights away from their start, where an autoregressive decoder is all zero."""
    made = generator(seed)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=made))
    return family


def one_by_one(module, unit_loss, records, *, units, clip_norm):
    """The obviously right twin: one backward pass per unit."""
    units = list(range(len(records))) if units is None else units.tolist()
    parameters = [p for p in module.parameters() if p.requires_grad]
    total = torch.zeros(parameter_count(module), dtype=torch.float64)
    for unit in sorted(set(units)):
        rows = records[[place for place, of in enumerate(units) if of == unit]]
        gradients = torch.autograd.grad(unit_loss(rows).mean(), parameters, allow_unused=True)
        flat = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten().double()
                for p, g in zip(parameters, gradients, strict=True)
            ]
        )
        if flat.isfinite().all():
            total += flat * min(1.0, clip_norm / max(float(flat.norm()), 1e-300))
    return total


class Twice(nn.Module):
    """A layer that is called twice in one forward pass."""

    def __init__(self):
        super().__init__()
        self.square, self.head = nn.Linear(9, 9), nn.Linear(9, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.square(torch.tanh(self.square(x)))))


class Named(nn.Module):
    """Layers that see more and more columns of places, some of which are named twice, and one that sees numbers."""

    def __init__(self, *, apart):
        super().__init__()
        self.apart = apart
        self.vector = nn.Linear(9, 2)
        self.whole = IndicatorLinear(12, 3, scale=0.6)
        self.heads = nn.ModuleList(IndicatorLinear(2 + 4 * seen, 2, scale=1.3) for seen in (3, 0, 1, 2))
        self.numbers = IndicatorLinear(2 + 3, 2)

    def forward(self, x):
        places = x[:, :3].abs().mul(2.0).long().clamp(max=3) + (torch.tensor([0, 4, 8]) if self.apart else 0)
        vector, rest = torch.tanh(self.vector(x)), x[:, 3:]
        # Not in order, and some of the columns alone.
        parts = [head(vector, places[:, :seen]) for seen, head in zip((3, 0, 1, 2), self.heads, strict=True)]
        parts += [self.whole(places), self.numbers(vector, rest[:, :3])]
        return torch.cat(parts, dim=1)


class BothWays(nn.Module):
    """A layer that is told of the same and of other inputs by their places, in numbers, and in parts."""

    def __init__(self):
        super().__init__()
        self.layer = IndicatorLinear(9, 2, scale=0.8)

    def forward(self, x):
        places = x[:, :2].abs().mul(2.0).long().clamp(max=8)
        shapes = self.layer(places), self.layer(x), self.layer(x[:, :4], x[:, 4:]), self.layer(x[:, :5], places % 4)
        return torch.cat([*shapes, self.layer(places[:, :1]), self.layer(places.flip(1))], dim=1)


class SameSignal(nn.Module):
    """Layers whose outputs are added: one signal comes back to all of them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(IndicatorLinear(4, 3, scale=0.5) for _ in range(3))
        self.bag = nn.EmbeddingBag(4, 3, mode="sum")
        self.head = nn.Linear(9, 3)

    def forward(self, x):
        places = x[:, :3].abs().mul(2.0).long().clamp(max=3)
        parts = [layer(places[:, : j + 1]) for j, layer in enumerate(self.layers)]
        return torch.stack([*parts, self.bag(places), self.head(x)]).sum(dim=0)


class Wasteful(nn.Module):
    """A layer that is called for nothing, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.used, self.idle, self.unused = nn.Linear(9, 2), nn.Linear(9, 2), nn.Linear(4, 4)

    def forward(self, x):
        self.idle(x)
        return self.used(x)


def frozen(module, *names):
    for name in names:
        module.get_parameter(name).requires_grad_(requires_grad=False)
    return module


def two_layers():
    return nn.Sequential(nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 2))


def dense_networks():
    return {
        "hidden": two_layers(),
        "no bias": nn.Sequential(nn.Linear(9, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False)),
        "twice": Twice(),
        "wasteful": Wasteful(),
        "frozen layer": frozen(two_layers(), "0.weight", "0.bias"),
        "frozen bias": frozen(two_layers(), "0.bias"),
        "frozen weight": frozen(two_layers(), "2.weight"),
        "places": Named(apart=True),
        "places twice": Named(apart=False),
        "frozen places": frozen(Named(apart=True), "heads.0.weight", "whole.weight"),
        "both ways": BothWays(),
        "same signal": SameSignal(),
        "in place": nn.Sequential(nn.Linear(9, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)),
    }


FAMILY_OPTIONS = {
    "autoregressive": ("vae", {}),
    "a weight per code": ("vae", {"splines": 0}),
    "splines": ("vae", {"splines": 2}),
    "hidden encoder": ("vae", {"encoder_widths": [6, 5]}),
    "factorised": ("vae", {"decoder": "factorised", "encoder_widths": [6]}),
    "critic": ("gan", {"critic_widths": [6, 5], "generator_widths": [4]}),
}


def table_family(kind, options):
    """Columns of few codes; for those with splines, the last of them is on a line."""
    many = (3, 2, 40) if "splines" in options else CARDINALITIES
    return build_family(kind, options, cardinalities=many, ordered=(0, 0, many[2] - 1), label=None)


def family_case(name):
    """A family, its shared part, and a loss that gives a record the same noise whatever it is batched with."""
    kind, options = FAMILY_OPTIONS[name]
    family = stirred(table_family(kind, options))
    return family.shared, lambda codes: family.unit_loss(codes, generator=generator(5))


def dense_case(name):
    module = copy.deepcopy(dense_networks()[name])
    with torch.no_grad():
        for place, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(place)))
    return module, lambda rows: module(rows).square().sum(dim=1)


def case(name):
    if name in FAMILY_OPTIONS:
        return *family_case(name), random_codes(12)
    return *dense_case(name), torch.randn(12, 9, generator=generator(3))


CASES = [*FAMILY_OPTIONS, *dense_networks()]


@pytest.mark.parametrize("units", [None, UNEVEN], ids=["records", "persons"])
@pytest.mark.parametrize("clip_norm", [0.3, 3.0, 1e6])
@pytest.mark.parametrize("name", CASES)
def test_book_keeping_equals_opacus_and_one_record_at_a_time(name, units, clip_norm):
    module, unit_loss, records = case(name)
    units = None if units is None else torch.tensor(units)
    assert is_linear_network(module)
    fast = clipped_gradient_sum(module, lambda: unit_loss(records), units=units, clip_norm=clip_norm)
    slow = one_by_one(module, unit_loss, records, units=units, clip_norm=clip_norm)
    assert fast.dtype == torch.float64
    assert float(slow.norm()) > 0.01
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5 * float(slow.norm()))
    if name == "in place":
        return  # Opacus' hooks forbid it
    reference = reference_gradient_sum(module, lambda: unit_loss(records), units=units, clip_norm=clip_norm)
    torch.testing.assert_close(fast, reference, rtol=1e-5, atol=1e-5 * float(slow.norm()))


def broken_twin(module, unit_loss, records, *, units, clip_norm, fault):
    """One backward pass per unit, with a fault planted."""
    counts = torch.tensor([units.tolist().count(unit) for unit in units.tolist()])
    if fault == "sum instead of mean":
        return one_by_one(module, lambda rows: unit_loss(rows) * len(rows), records, units=units, clip_norm=clip_norm)
    if fault == "records instead of units":
        units = torch.arange(len(records))
        assert counts.max() > 1
        return one_by_one(module, unit_loss, records, units=units, clip_norm=clip_norm)
    assert fault == "norm without bias"
    total = torch.zeros(parameter_count(module), dtype=torch.float64)
    for unit in sorted(set(units.tolist())):
        rows = records[units == unit]
        gradients = torch.autograd.grad(unit_loss(rows).mean(), list(module.parameters()))
        norm = float(torch.cat([g.flatten() for g in gradients if g.dim() == 2]).double().norm())
        total += torch.cat([g.flatten().double() for g in gradients]) * min(1.0, clip_norm / norm)
    return total


@pytest.mark.parametrize("fault", ["sum instead of mean", "records instead of units", "norm without bias"])
def test_the_comparison_rejects_broken_twins(fault):
    module, unit_loss, records = case("hidden")
    units = torch.tensor(UNEVEN)
    for clip_norm in (0.3, 1e6):
        right = clipped_gradient_sum(module, lambda: unit_loss(records), units=units, clip_norm=clip_norm)  # noqa: B023
        wrong = broken_twin(module, unit_loss, records, units=units, clip_norm=clip_norm, fault=fault)
        if (clip_norm == 0.3 and fault == "sum instead of mean") or (clip_norm == 1e6 and "bias" in fault):
            continue  # where all is clipped, or nothing, the fault has no effect
        assert float((wrong - right).norm()) > 1e-3 * float(right.norm())


def no_place_twice(monkeypatch):
    """All places of a record are taken for different ones."""
    monkeypatch.setattr(PlaceMatrix, "apart", lambda _self, _width: True)


def places_without_their_scale(monkeypatch):
    """A one is counted for every place."""
    monkeypatch.setattr(LayerCall, "scale", 1.0)


def a_column_too_few(monkeypatch):
    """The sums by place forget the last column."""
    right = PlaceMatrix.sums
    monkeypatch.setattr(
        PlaceMatrix, "sums", lambda self, signals, *, starts, rows: right(self, signals, starts=starts[:-1], rows=rows)
    )


def every_column_to_every_layer(monkeypatch):
    """The sums by place add a column to layers that did not see it."""
    right = PlaceMatrix.sums
    monkeypatch.setattr(
        PlaceMatrix,
        "sums",
        lambda self, signals, *, starts, rows: right(self, signals, starts=[0] * len(starts), rows=rows),
    )


@pytest.mark.parametrize("units", [None, UNEVEN], ids=["records", "persons"])
@pytest.mark.parametrize(
    "fault",
    [None, no_place_twice, places_without_their_scale, a_column_too_few, every_column_to_every_layer],
    ids=lambda fault: fault and fault.__name__,
)
def test_the_comparison_rejects_what_is_wrong_with_places(monkeypatch, fault, units):
    module, unit_loss, records = case("places twice")
    units = None if units is None else torch.tensor(units)
    slow = one_by_one(module, unit_loss, records, units=units, clip_norm=1.0)
    if fault is not None:
        fault(monkeypatch)
    fast = clipped_gradient_sum(module, lambda: unit_loss(records), units=units, clip_norm=1.0)
    apart = float((fast - slow).norm() / slow.norm())
    assert apart < 1e-5 if fault is None else apart > 1e-3


def test_other_layers_and_tied_weights_go_to_the_reference():
    convolution = nn.Sequential(nn.Unflatten(1, (1, 9)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(14, 1))
    first, second = nn.Linear(9, 9), nn.Linear(9, 9)
    second.weight = first.weight
    tied = nn.Sequential(first, nn.Tanh(), second)
    records = torch.randn(6, 9, generator=generator())
    for module in (convolution, tied):

        def unit_loss(rows, module=module):
            return module(rows).square().sum(dim=1)

        assert not is_linear_network(module)
        total = clipped_gradient_sum(module, lambda: unit_loss(records), units=None, clip_norm=0.5)  # noqa: B023
        expected = one_by_one(module, unit_loss, records, units=None, clip_norm=0.5)
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sum_of", [clipped_gradient_sum, reference_gradient_sum])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("units", [None, UNEVEN], ids=["records", "persons"])
def test_a_unit_that_is_not_finite_contributes_zero_and_touches_no_other(sum_of, bad, units):
    module, unit_loss, records = case("hidden")
    units = torch.arange(12) if units is None else torch.tensor(units)
    poisoned = records.clone()
    poisoned[3] = bad  # the third record is a unit of its own either way
    total = sum_of(module, lambda: unit_loss(poisoned), units=units, clip_norm=1.0)
    if bad == 3e38:
        # Tanh saturates, so that this one is finite and may count.
        assert total.isfinite().all()
        return
    rest = torch.arange(12) != 3
    without = sum_of(module, lambda: unit_loss(records[rest]), units=units[rest], clip_norm=1.0)
    torch.testing.assert_close(total, without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_no_records_give_zero(name):
    module, unit_loss, records = case(name)
    none = records[:0]
    for units in (None, torch.zeros(0, dtype=torch.long)):
        for total in (
            clipped_gradient_sum(module, lambda: unit_loss(none), units=units, clip_norm=1.0),  # noqa: B023
            chunked_gradient_sum(module, unit_loss, none, units=units, clip_norm=1.0),
        ):
            assert torch.equal(total, torch.zeros(parameter_count(module), dtype=torch.float64))


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("units", [None, UNEVEN], ids=["records", "persons"])
@pytest.mark.parametrize("name", ["autoregressive", "hidden"])
def test_chunks_change_nothing_but_memory(name, units, chunk):
    module, unit_loss, records = case(name)
    units = None if units is None else torch.tensor(units)
    sizes = []

    def counted(part):
        sizes.append(len(part))
        return unit_loss(part)

    total = chunked_gradient_sum(module, counted, records, units=units, clip_norm=0.5, chunk=chunk)
    whole = clipped_gradient_sum(module, lambda: unit_loss(records), units=units, clip_norm=0.5)
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-5)
    assert sum(sizes) == len(records)
    assert max(sizes) <= max(chunk, 1 if units is None else 5)
    assert len(sizes) >= (len(records) / max(sizes))


class Centred(nn.BatchNorm1d):
    pass


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(5),
        nn.SyncBatchNorm(5),
        Centred(5),
        nn.BatchNorm1d(5, track_running_stats=False).eval(),
        nn.BatchNorm1d(5, affine=False),
        nn.InstanceNorm1d(5, track_running_stats=True),
        nn.EmbeddingBag(5, 2, mode="sum", max_norm=1.0),
        nn.EmbeddingBag(5, 2, mode="sum", scale_grad_by_freq=True),
        nn.MultiheadAttention(5, 1),
        nn.GRU(5, 5),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("sum_of", [clipped_gradient_sum, reference_gradient_sum])
def test_layers_that_mix_records_are_refused_before_anything_runs(sum_of, layer):
    module = nn.Sequential(nn.Linear(9, 5), layer)
    with pytest.raises(PrivacyError, match=r"1 \(\w+\) lets records of a batch meet"):
        sum_of(module, lambda: pytest.fail("ran"), units=None, clip_norm=1.0)


@pytest.mark.parametrize("sum_of", [clipped_gradient_sum, reference_gradient_sum])
@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("inf"), float("nan")])
def test_clip_norms_that_bound_nothing_are_refused(sum_of, clip_norm):
    module, unit_loss, records = case("hidden")
    with pytest.raises(PrivacyError, match="Clip norm"):
        sum_of(module, lambda: unit_loss(records), units=None, clip_norm=clip_norm)


@pytest.mark.parametrize("sum_of", [clipped_gradient_sum, reference_gradient_sum])
def test_units_out_of_order_and_losses_of_other_shapes_are_refused(sum_of):
    module, unit_loss, records = case("hidden")
    with pytest.raises(PrivacyError, match="out of order"):
        sum_of(module, lambda: unit_loss(records), units=torch.tensor([1] * 11 + [0]), clip_norm=1.0)
    with pytest.raises(PrivacyError, match="for 3 records"):
        sum_of(module, lambda: unit_loss(records), units=torch.arange(3), clip_norm=1.0)
    with pytest.raises(PrivacyError, match="shape"):
        sum_of(module, lambda: unit_loss(records).mean(), units=None, clip_norm=1.0)
    with pytest.raises(PrivacyError, match="12 rows"):
        sum_of(module, lambda: unit_loss(records)[:5], units=None, clip_norm=1.0)
    with pytest.raises(PrivacyError, match="3 units"):
        chunked_gradient_sum(module, unit_loss, records, units=torch.arange(3), clip_norm=1.0)
    with pytest.raises(PrivacyError, match="Chunks of 0"):
        chunked_gradient_sum(module, unit_loss, records, units=None, clip_norm=1.0, chunk=0)


def test_calls_that_the_book_keeping_would_get_wrong_are_refused():
    layer, records = nn.Linear(9, 1), torch.randn(4, 9, generator=generator())
    bag = nn.EmbeddingBag(9, 1, mode="sum")

    def in_place():
        inputs = records.clone()
        output = layer(inputs)
        inputs.add_(1.0)
        return output.squeeze(1)

    named, places = IndicatorLinear(9, 1), torch.zeros(4, 2, dtype=torch.long)

    def moved():
        output = named(records[:, :2], places)
        places.add_(1)
        return output.squeeze(1)

    calls = {
        "one row per record": (layer, lambda: layer(records[:, None, :])[:, 0, 0]),
        "was not called": (bag, lambda: bag(torch.zeros(4, dtype=torch.long), torch.arange(4)).squeeze(1)),
        "none of the model's layers": (layer, lambda: records.sum(dim=1)),
        "changed in place": (layer, in_place),
        "depends on none": (layer, lambda: (layer(records), torch.ones(4, requires_grad=True) * 1.0)[1]),
        "A layer IndicatorLinear was not": (named, lambda: named(first=records).squeeze(1)),
        "IndicatorLinear was changed in place": (named, moved),
        "saw 8 rows": (named, lambda: named(torch.ones(8, 2, dtype=torch.long)).squeeze(1)[:4]),
    }
    for message, (module, loss) in calls.items():
        with pytest.raises(PrivacyError, match=message):
            clipped_gradient_sum(module, loss, units=None, clip_norm=1.0)


def test_layers_unknown_to_opacus_are_refused_with_a_remedy():
    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(9))
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            return x @ self.weight

    module = Buffered()
    with pytest.raises(PrivacyError, match="not known"):
        clipped_gradient_sum(module, lambda: module(torch.ones(2, 9)), units=None, clip_norm=1.0)


def traces(module):
    """All attributes and hooks of a module, its parts and its parameters."""
    held = [*module.modules(), *module.parameters()]
    hooks = [(len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]
    return [sorted(vars(each)) for each in held], hooks, [m.training for m in module.modules()]


@pytest.mark.parametrize("mode", ["works", "fails"])
@pytest.mark.parametrize("sum_of", [clipped_gradient_sum, reference_gradient_sum])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_behind(name, sum_of, mode):
    if name == "in place" and sum_of is reference_gradient_sum:
        pytest.skip("Opacus' hooks forbid it")
    module, unit_loss, records = case(name)
    module.eval()
    held = [torch.ones_like(p) for p in module.parameters()]
    weights = [p.detach().clone() for p in module.parameters()]
    for parameter, gradient in zip(module.parameters(), held, strict=True):
        parameter.grad = gradient
    before = traces(module)

    def loss():
        losses = unit_loss(records)
        if mode == "fails":
            raise ValueError("on purpose")
        return losses

    if mode == "fails":
        with pytest.raises(ValueError, match="on purpose"):
            sum_of(module, loss, units=None, clip_norm=1.0)
    else:
        sum_of(module, loss, units=None, clip_norm=1.0)
    assert traces(module) == before
    for parameter, gradient, weight in zip(module.parameters(), held, weights, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, torch.ones_like(gradient))
        assert torch.equal(parameter, weight)


def test_opacus_registry_is_left_as_it_was():
    from opacus.grad_sample import GradSampleModule

    before = dict(GradSampleModule.GRAD_SAMPLERS)
    module, unit_loss, records = case("autoregressive")
    reference_gradient_sum(module, lambda: unit_loss(records), units=None, clip_norm=1.0)
    assert dict(GradSampleModule.GRAD_SAMPLERS) == before


@pytest.mark.gpu
@pytest.mark.parametrize("units", [None, UNEVEN], ids=["records", "persons"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "in place"])
def test_both_paths_agree_on_a_gpu(name, units):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if name in FAMILY_OPTIONS:
        kind, options = FAMILY_OPTIONS[name]
        family = stirred(table_family(kind, options)).cuda()
        module, records = family.shared, random_codes(12).cuda()

        def unit_loss(codes):
            return family.unit_loss(codes, generator=torch.Generator("cuda").manual_seed(5))
    else:
        module, unit_loss = dense_case(name)
        module.cuda()
        records = torch.randn(12, 9, generator=generator(3)).cuda()
    units = None if units is None else torch.tensor(units)
    fast = clipped_gradient_sum(module, lambda: unit_loss(records), units=units, clip_norm=0.5)
    slow = reference_gradient_sum(module, lambda: unit_loss(records), units=units, clip_norm=0.5)
    assert fast.device.type == slow.device.type == "cpu"
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_a_layer_with_two_names_is_refused():
    """Opacus walks over names: it would note the layer's gradient twice."""

    class TwoNames(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(2)
            self.first = nn.Linear(2, 1)
            self.second = self.first

    layers = TwoNames()
    with pytest.raises(PrivacyError, match="two names"):
        clipped_gradient_sum(
            layers, lambda: layers.second(layers.norm(torch.ones(3, 2))).squeeze(1), units=None, clip_norm=1.0
        )
