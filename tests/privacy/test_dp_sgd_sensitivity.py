"""Sensitivity, the one promise of DP-SGD: one unit more or less moves the sum by at most the clip norm."""

import math

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from torch import nn

from models.families import build_family
from privacy import book_keeping
from privacy.bags import PlaceMatrix
from privacy.book_keeping import clip_factors
from privacy.dp_sgd import chunked_gradient_sum, clipped_gradient_sum, reference_gradient_sum
from privacy.indicator_linear import IndicatorLinear
from privacy.layer_gradients import LayerCall

CARDINALITIES = (2, 3)
ORDINARY = st.floats(-4.0, 4.0, width=32)
EXTREME = st.sampled_from([0.0, -0.0, 1e38, -1e38, 3e38, 1e-38, 1e-45, 1e19, math.inf, -math.inf, math.nan, 1.0, -1.0])


class Steep(nn.Module):
    """A small network without sums of different sizes, whose rounding a batch's size could change."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 2), nn.Linear(1, 1, bias=False)

    def forward(self, x):
        hidden = self.first(x)
        return (self.second(hidden[:, :1]) * hidden[:, 1:]).squeeze(1)


def networks():
    """Any record type; weights are filled in later."""
    return {
        "steep": (Steep(), lambda module, rows: module(rows[:, :1])),
        "vae": (build_family("vae", {"latent": 1}, cardinalities=CARDINALITIES, label=None), family_loss),
        "critic": (
            build_family("gan", {"critic_widths": [2]}, cardinalities=CARDINALITIES, label=None).shared,
            lambda module, rows: nn.functional.softplus(module(rows)).squeeze(1),
        ),
    }


def family_loss(family, rows):
    """Content-keyed noise: the same record has the same loss in any batch under one key."""
    return family.unit_loss(rows, generator=torch.Generator().manual_seed(1))


@st.composite
def neighbours(draw, *, name=None):
    """A network, a batch, and the same batch without one of its units."""
    name = name or draw(st.sampled_from(["steep", "vae", "critic"]))
    module, loss = networks()[name]
    values = st.one_of(ORDINARY, EXTREME) if draw(st.booleans()) else ORDINARY
    pool = draw(st.lists(values, min_size=1, max_size=8))
    with torch.no_grad():
        place = 0
        for parameter in module.parameters():
            flat = [pool[(place + k) % len(pool)] for k in range(parameter.numel())]
            parameter.copy_(torch.tensor(flat).view_as(parameter))
            place += 3
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    units = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    if name == "vae":
        code = st.tuples(*(st.integers(0, size - 1) for size in CARDINALITIES))
        rows = torch.tensor([draw(code) for _ in units])
    else:
        width = sum(CARDINALITIES)
        row = st.lists(values, min_size=width, max_size=width)
        distinct = draw(st.lists(row, min_size=1, max_size=4))
        rows = torch.tensor([draw(st.sampled_from(distinct)) for _ in units])
    gone = draw(st.integers(0, len(sizes) - 1))
    clip_norm = draw(st.sampled_from([1.0, 1e-3, 0.1, 1e6]))
    return module, loss, rows, units, units != gone, clip_norm


def distance(sum_of, example):
    """How far one unit moves the sum, in clip norms."""
    module, loss, rows, units, rest, clip_norm = example
    sums = [
        sum_of(module, lambda r=r: loss(module, r), units=u, clip_norm=clip_norm)
        for r, u in ((rows, units), (rows[rest], units[rest]))
    ]
    if not all(bool(total.isfinite().all()) for total in sums):
        return float("inf")
    return float((sums[0] - sums[1]).norm()) / clip_norm


def by_record(module, loss, *, units, clip_norm):
    """Every record a unit of its own."""
    del units
    return clipped_gradient_sum(module, loss, units=None, clip_norm=clip_norm)


@settings(max_examples=300, deadline=None)
@given(neighbours())
def test_one_unit_moves_the_sum_by_at_most_the_clip_norm(example):
    assert distance(clipped_gradient_sum, example) <= 1.0


@settings(max_examples=100, deadline=None)
@given(neighbours())
def test_one_record_moves_the_sum_by_at_most_the_clip_norm(example):
    module, loss, rows, _, _, clip_norm = example
    rest = torch.arange(len(rows)) != 0
    assert distance(by_record, (module, loss, rows, torch.arange(len(rows)), rest, clip_norm)) <= 1.0


@settings(max_examples=40, deadline=None)
@given(neighbours())
def test_the_reference_is_as_sensitive(example):
    assert distance(reference_gradient_sum, example) <= 1.0


@settings(max_examples=60, deadline=None)
@given(neighbours(), st.integers(1, 4))
def test_chunks_do_not_add_sensitivity(example, chunk):
    module, loss, rows, units, rest, clip_norm = example
    sums = [
        chunked_gradient_sum(module, lambda part: loss(module, part), r, units=u, clip_norm=clip_norm, chunk=chunk)
        for r, u in ((rows, units), (rows[rest], units[rest]))
    ]
    assert float((sums[0] - sums[1]).norm()) <= clip_norm


def gradients_of_units(module, loss, units):
    """One gradient per unit and parameter, by one backward pass per unit."""
    losses = loss()
    parameters = list(module.parameters())
    for unit in sorted(set(units.tolist())):
        part = losses[units == unit].mean()
        found = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
        yield [
            (torch.zeros_like(p) if g is None else g).detach().flatten().double()
            for p, g in zip(parameters, found, strict=True)
        ]


def without_clipping(module, loss, *, units, clip_norm):
    del clip_norm
    parts = [torch.cat(layers) for layers in gradients_of_units(module, loss, units)]
    return torch.stack([part.nan_to_num() for part in parts] or [torch.zeros(1)]).sum(dim=0)


def clipped_by_layer(module, loss, *, units, clip_norm):
    total = 0.0
    for layers in gradients_of_units(module, loss, units):
        parts = [part * clip_factors(part.norm(), clip_norm) for part in layers]
        total = total + torch.cat(parts).nan_to_num()
    return total if isinstance(total, torch.Tensor) else torch.zeros(1)


def clipped_after_averaging(module, loss, *, units, clip_norm):
    parts = [torch.cat(layers).nan_to_num() for layers in gradients_of_units(module, loss, units)]
    if not parts:
        return torch.zeros(1)
    mean = torch.stack(parts).mean(dim=0)
    return mean * clip_factors(mean.norm(), clip_norm) * len(parts)


def clipped_by_record_instead_of_unit(module, loss, *, units, clip_norm):
    del units
    return clipped_gradient_sum(module, loss, units=None, clip_norm=clip_norm)


@pytest.mark.parametrize(
    "twin",
    [without_clipping, clipped_by_layer, clipped_after_averaging, clipped_by_record_instead_of_unit],
    ids=lambda twin: twin.__name__,
)
def test_broken_twins_are_found_out(twin):
    """The property above, asked of sums that are not clipped as they should be, finds an example."""

    def broken(example):
        if example[4].sum() == 0 or not example[2].double().isfinite().all():
            return False
        return distance(twin, example) > 1.0 + 1e-6

    found = find(neighbours(name="critic"), broken, settings=settings(max_examples=3000, deadline=None, database=None))
    assert distance(twin, found) > 1.0


def test_the_search_for_broken_twins_finds_nothing_in_what_is_right():
    with pytest.raises(NoSuchExample):
        find(
            neighbours(name="critic"),
            lambda example: distance(clipped_gradient_sum, example) > 1.0,
            settings=settings(max_examples=200, deadline=None, database=None),
        )


def test_batch_norm_would_break_the_promise():
    """Why it is refused: one record decides over the gradients of all others."""
    module = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, affine=False), nn.Linear(1, 1))
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.5)
    rows = torch.linspace(-1.0, 1.0, 8)[:, None]
    rows[0] = 1e4
    units = torch.arange(8)
    sums = []
    for part in (slice(0, 8), slice(1, 8)):
        total = torch.zeros(4, dtype=torch.float64)
        for layers in gradients_of_units(module, lambda p=part: module(rows[p]).square().squeeze(1), units[part]):
            gradient = torch.cat(layers)
            total += gradient * clip_factors(gradient.norm(), 1.0)
        sums.append(total)
    assert float((sums[0] - sums[1]).norm()) > 1.05


def test_duplicates_by_the_thousand_stay_under_the_clip_norm():
    """Sums in float32 could not promise it: their rounding is larger than the margin of the clipping."""
    module = nn.Linear(3, 1)
    row = torch.tensor([[0.1, 0.7, -1.3]])
    sums = [
        clipped_gradient_sum(module, lambda n=n: module(row.expand(n, 3)).squeeze(1) * 7.0, units=None, clip_norm=0.1)
        for n in (4096, 4095)
    ]
    moved = float((sums[0] - sums[1]).norm())
    assert 0.0999 < moved <= 0.1
    narrow = [total.float() for total in sums]
    assert abs(float((narrow[0] - narrow[1]).norm()) - moved) > 0.1 * 2.0**-20


@pytest.mark.parametrize("name", ["vae", "gan"])
@pytest.mark.parametrize("clip_norm", [0.01, 1.0])
def test_the_order_of_records_has_no_influence(name, clip_norm):
    family = build_family(name, {}, cardinalities=(3, 4, 2), label=None)
    made = torch.Generator().manual_seed(2)
    codes = torch.stack([torch.randint(size, (40,), generator=made) for size in (3, 4, 2)], dim=1)
    shuffled = codes[torch.randperm(40, generator=made)]
    sums = [
        clipped_gradient_sum(family.shared, lambda c=c: family_loss(family, c), units=None, clip_norm=clip_norm)
        for c in (codes, shuffled)
    ]
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=1e-5 * clip_norm)


def largest_norm_of_cancelling_records(scale):
    """The largest clipped gradient of one person with two nearly equal records and opposite signals."""
    generator = torch.Generator().manual_seed(5)
    module = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    worst = 0.0
    for _ in range(40):
        rows = torch.rand(2, 6, generator=generator)
        rows[1] = rows[0] * (1 + 1e-6)
        signs = torch.tensor([1.0, -1.0])
        total = clipped_gradient_sum(
            module, lambda r=rows, s=signs: module(r).squeeze(1) * s, units=torch.tensor([0, 0]), clip_norm=1.0
        )
        worst = max(worst, float(total.norm()))
    return worst


@pytest.mark.parametrize("scale", [1.0, 1e8, 1e10, 1e12, 1e17])
def test_a_unit_whose_records_nearly_cancel_stays_under_the_clip_norm(scale):
    """Rounding must not make the person's norm look small."""
    assert largest_norm_of_cancelling_records(scale) <= 1.0


def test_without_the_allowance_for_rounding_a_person_escapes_the_clip(monkeypatch):
    """The broken twin of the test above."""
    monkeypatch.setattr(book_keeping, "_ROUNDING", 0.0)
    assert max(largest_norm_of_cancelling_records(scale) for scale in (1e10, 1e12, 1e17)) > 1.0


def largest_norm_of_cancelling_calls(units):
    """The largest clipped gradient of one unit that calls a layer twice, so that the squares cancel in float64.

    The numbers are drawn so that ``a b - c d`` is small and not zero, while its square comes out as zero.
    """
    made = torch.Generator().manual_seed(0)
    a, b, c = (torch.rand(50_000, generator=made, dtype=torch.float64).float() + 1.0 for _ in range(3))
    d = (a.double() * b.double() / c.double()).float()
    left, right = a.double() * b.double(), c.double() * d.double()
    vanishes = a.double() ** 2 * b.double() ** 2 + c.double() ** 2 * d.double() ** 2 - 2.0 * left * right == 0.0
    module = nn.Linear(1, 1, bias=False)
    count = 1 if units is None else len(units)
    units = None if units is None else torch.tensor(units)

    def loss(k):
        one, two = a[k].expand(count, 1), c[k].expand(count, 1)
        return (module(one) * b[k] - module(two) * d[k]).squeeze(1) * 1e15

    return max(
        float(clipped_gradient_sum(module, lambda: loss(k), units=units, clip_norm=1.0).norm())  # noqa: B023
        for k in ((left != right) & vanishes).nonzero().flatten()[:100].tolist()
    )


def largest_norm_of_two_ways(units):
    """The largest clipped gradient of one unit that is told of nearly the same by place and in numbers."""
    count = 1 if units is None else len(units)
    places = torch.zeros(count, 1, dtype=torch.long)
    units = None if units is None else torch.tensor(units)

    def norm(scale, step, steep):
        module, numbers = IndicatorLinear(1, 1, scale=scale), torch.full((count, 1), scale) * (1.0 + step * 1e-7)

        def loss():
            return (module(places) - module(numbers)).squeeze(1) * steep

        return float(clipped_gradient_sum(module, loss, units=units, clip_norm=1.0).norm())

    scales = (0.6, 0.7)  # rounded up by float32, and down
    steps = (*range(-100, 101, 8), *range(-3000, 3001, 300))
    return max(norm(scale, step, steep) for scale in scales for step in steps for steep in (1e6, 1e12))


ONE_UNIT = pytest.mark.parametrize("units", [None, [0], [0, 0]], ids=["record", "person of one", "person of two"])
CANCELLING = pytest.mark.parametrize("largest", [largest_norm_of_cancelling_calls, largest_norm_of_two_ways])


@ONE_UNIT
@CANCELLING
def test_calls_of_a_layer_that_nearly_cancel_stay_under_the_clip_norm(largest, units):
    assert largest(units) <= 1.0


@ONE_UNIT
@CANCELLING
def test_without_the_allowance_for_rounding_calls_that_cancel_escape_the_clip(monkeypatch, largest, units):
    """The broken twin of the test above."""
    monkeypatch.setattr(book_keeping, "_ROUNDING", 0.0)
    assert largest(units) > 1.0


@ONE_UNIT
def test_a_scale_that_is_rounded_in_one_place_escapes_the_clip(monkeypatch, units):
    """Another broken twin: what entered is written out in float32, while sums take the scale as it is."""
    monkeypatch.setattr(LayerCall, "entered", property(lambda call: call.layer.entered(*call.inputs).double()))
    assert largest_norm_of_two_ways(units) > 2.0


@pytest.mark.parametrize("units", [None, [0, 0, 1, 1]], ids=["records", "persons"])
def test_a_place_that_is_named_twice_does_not_escape_the_clip(monkeypatch, units):
    """What entered is then a two: with a norm that takes it for two ones the sum would be too long."""
    module = IndicatorLinear(5, 2, scale=3.0)
    places = torch.tensor([[1, 1], [1, 1], [4, 4], [4, 4]])
    units = None if units is None else torch.tensor(units)

    def longest():
        total = clipped_gradient_sum(module, lambda: module(places).sum(dim=1), units=units, clip_norm=1.0)
        return float(total.norm())

    count = math.sqrt(2) * (2 if units is None else 1)  # two directions, and how many in each
    assert longest() == pytest.approx(count, rel=1e-5)
    assert longest() <= count
    monkeypatch.setattr(PlaceMatrix, "apart", lambda _self, _width: True)
    assert longest() > 1.4 * count


def test_padded_chunks_give_the_same_sum():
    module = nn.Linear(3, 2)
    records = torch.linspace(-1.0, 1.0, 51).view(17, 3)
    units = torch.arange(17) // 2

    def loss(part):
        return module(part).square().sum(dim=1)

    for inside in (None, units):
        plain = chunked_gradient_sum(module, loss, records, units=inside, clip_norm=0.5)
        for chunk in (4, 16, 64):
            padded = chunked_gradient_sum(module, loss, records, units=inside, clip_norm=0.5, chunk=chunk, padded=True)
            torch.testing.assert_close(padded, plain, atol=1e-6, rtol=1e-6)
