"""Decoders: likelihoods against a one-hot twin, sampling against enumeration, the edges of inversion."""

import itertools

import pytest
import torch
from scipy import stats
from torch.nn import functional

from models.autoregressive import AutoregressiveDecoder, FactorisedDecoder, draw_codes
from models.geometry import column_features
from models.layout import OneHotLayout
from protocol.errors import InputError

CARDINALITIES = (3, 2, 4)
LAYOUT = OneHotLayout(cardinalities=CARDINALITIES)
RECORDS = torch.tensor(list(itertools.product(*(range(size) for size in CARDINALITIES))))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stirred(decoder, seed=1):
    made = generator(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=made))
    return decoder


def decoders():
    return {
        "autoregressive": stirred(AutoregressiveDecoder(LAYOUT, latent=2)),
        "reversed": stirred(AutoregressiveDecoder(LAYOUT, latent=2, order=(2, 0, 1))),
        "factorised": stirred(FactorisedDecoder(LAYOUT, latent=2)),
    }


def slow_likelihood(decoder, codes, latent, splines=8):
    """The obviously right twin: features looked up one by one and one matrix product per column, record by record."""
    layout, losses = decoder.layout, []
    for row, z in zip(codes.tolist(), latent, strict=True):
        known, total = decoder.latent_scale * z, torch.zeros(())
        for j, column in enumerate(decoder.order):
            features = column_features(layout, splines=splines)[column]
            shape = decoder.shapes.weight[layout.offsets[column] :][: layout.cardinalities[column], 0]
            logits = shape + features @ (decoder.heads[j].weight @ known)
            total = total - functional.log_softmax(logits, dim=0)[row[column]]
            known = torch.cat([known, decoder.input_scale * features[row[column]]])
        losses.append(total)
    return torch.stack(losses)


@pytest.mark.parametrize("order", [None, (2, 0, 1)])
def test_likelihood_equals_products_of_features(order):
    decoder = stirred(AutoregressiveDecoder(LAYOUT, latent=2, order=order))
    latent = torch.randn(len(RECORDS), 2, generator=generator())
    torch.testing.assert_close(
        decoder.negative_log_likelihood(RECORDS, latent), slow_likelihood(decoder, RECORDS, latent)
    )


@pytest.mark.parametrize("splines", [0, 8])
def test_likelihood_of_lines_and_groups_equals_products_of_features(splines):
    layout = OneHotLayout(cardinalities=(40, 3, 6), ordered=(39, 0, 0), groups=((), (), (0, 1, 1, 2, 0, 2)))
    decoder = stirred(AutoregressiveDecoder(layout, latent=2, splines=splines))
    assert decoder.features.indicators is (splines == 0)
    made = generator(3)
    codes = torch.stack([torch.randint(size, (50,), generator=made) for size in layout.cardinalities], dim=1)
    latent = torch.randn(50, 2, generator=made)
    slow = slow_likelihood(decoder, codes, latent, splines=splines)
    torch.testing.assert_close(decoder.negative_log_likelihood(codes, latent), slow)


def test_columns_with_the_fewest_codes_come_first():
    assert AutoregressiveDecoder(LAYOUT, latent=1).order == (1, 0, 2)


def test_set_shapes_gives_every_column_its_shares():
    decoder = AutoregressiveDecoder(LAYOUT, latent=2)
    shares = [torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.2, 0.3, 0.4])]
    decoder.set_shapes([part.log() for part in shares])
    losses = decoder.negative_log_likelihood(RECORDS, torch.zeros(24, 2))
    expected = torch.stack([shares[0][row[0]] * shares[1][row[1]] * shares[2][row[2]] for row in RECORDS])
    torch.testing.assert_close((-losses).exp(), expected)


@pytest.mark.parametrize("name", decoders())
def test_probabilities_of_all_records_add_up_to_one(name):
    latent = torch.tensor([[0.3, -1.2]]).expand(len(RECORDS), 2)
    total = (-decoders()[name].negative_log_likelihood(RECORDS, latent)).exp().sum().detach()
    assert float(total) == pytest.approx(1.0, abs=1e-5)


def frequencies(codes):
    place = (codes * torch.tensor([8, 4, 1])).sum(dim=1)
    return torch.bincount(place, minlength=24).double().numpy()


@pytest.mark.parametrize("name", decoders())
def test_draws_follow_the_likelihood(name):
    decoder, z = decoders()[name], torch.tensor([[0.3, -1.2]])
    expected = (-decoder.negative_log_likelihood(RECORDS, z.expand(24, 2))).exp().double().detach()
    codes, weight = decoder.sample(z.expand(40_000, 2), allowed={}, generator=generator())
    assert torch.equal(weight, torch.zeros(40_000))
    expected = (40_000 * expected / expected.sum()).numpy()
    observed = frequencies(codes)
    keep = expected > 5
    assert stats.chisquare(*lumped(observed, expected, keep)).pvalue > 1e-4
    # A sampler that forgets the columns before draws the product of the marginals, and is found out.
    apart = torch.stack([codes[torch.randperm(40_000, generator=generator(j)), j] for j in range(3)], dim=1)
    if name != "factorised":
        assert stats.chisquare(*lumped(frequencies(apart), expected, keep)).pvalue < 1e-10


def lumped(observed, expected, keep):
    rest = expected[~keep].sum()
    if rest == 0:
        return observed[keep], expected[keep]
    return [*observed[keep], observed[~keep].sum()], [*expected[keep], rest]


@pytest.mark.parametrize("name", decoders())
def test_restrictions_hold_and_the_weight_is_what_they_cost(name):
    decoder, latent = decoders()[name], torch.tensor([[0.3, -1.2]]).expand(5000, 2)
    allowed = {1: torch.tensor([False, True]), 2: torch.tensor([True, False, False, True])}
    codes, weight = decoder.sample(latent, allowed=allowed, generator=generator())
    assert set(codes[:, 1].tolist()) == {1}
    assert set(codes[:, 2].tolist()) <= {0, 3}
    assert float(weight.max()) <= 0.0
    # q(x) = p(x) / w(x) must be a distribution over what is allowed: its sum over the support is one.
    found = torch.unique(codes, dim=0)
    support = RECORDS[(RECORDS[:, 1] == 1) & ((RECORDS[:, 2] == 0) | (RECORDS[:, 2] == 3))]
    assert len(found) == len(support)
    first = [int((codes == row).all(dim=1).nonzero()[0]) for row in support]
    log_p = -decoder.negative_log_likelihood(support, latent[: len(support)])
    assert float((log_p - weight[first]).exp().sum().detach()) == pytest.approx(1.0, abs=1e-4)


def test_a_new_autoregressive_decoder_thinks_all_records_equally_likely():
    decoder = AutoregressiveDecoder(LAYOUT, latent=2)
    losses = decoder.negative_log_likelihood(RECORDS, torch.randn(24, 2, generator=generator()))
    torch.testing.assert_close(losses, torch.full((24,), 24.0).log())


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 1), (0, 1, 3)])
def test_orders_that_are_no_permutation_are_refused(order):
    with pytest.raises(InputError, match="Column order"):
        AutoregressiveDecoder(LAYOUT, latent=2, order=order)


def test_one_column_and_no_records_are_fine():
    decoder = AutoregressiveDecoder(OneHotLayout(cardinalities=(3,)), latent=1)
    assert decoder.negative_log_likelihood(torch.tensor([[2]]), torch.zeros(1, 1)).shape == (1,)
    codes, weight = decoder.sample(torch.zeros(0, 1), allowed={}, generator=generator())
    assert codes.shape == (0, 1)
    assert weight.shape == (0,)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 1e-44])
@pytest.mark.parametrize(
    "weights",
    [
        [0.0, 0.0, 1.0],
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [1.0, 0.0, 1e-3, 0.0, 2.0, 0.0],
        [0.0] * 50 + [1.0] + [0.0] * 50 + [1e-7] + [0.0] * 20,
    ],
)
def test_codes_of_weight_zero_are_never_drawn(weights, scale):
    rows = (torch.tensor([weights]) * scale).expand(20_000, -1)
    drawn = draw_codes(rows, generator=generator())
    assert bool((rows[0][drawn] > 0).all())


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-24])
def test_points_on_the_edges_fall_on_codes_with_weight(monkeypatch, uniform):
    def constant(shape, **keywords):
        return torch.full(tuple(shape), uniform, dtype=keywords["dtype"])

    monkeypatch.setattr(torch, "rand", constant)
    rows = torch.tensor([[0.0, 0.1, 0.0, 0.7, 0.2, 0.0], [0.0, 0.0, 1 / 3, 1 / 3, 1 / 3, 0.0]]) * 3.0
    drawn = draw_codes(rows, generator=generator())
    assert drawn.tolist() == ([1, 2] if uniform == 0.0 else [4, 4])


def test_inversion_without_the_mend_would_draw_a_void_code():
    """Rounding up to the total makes the search run off the end, or onto trailing zeros."""
    weights = torch.tensor([[0.5, 0.5, 0.0]])
    naive = torch.searchsorted(weights.cumsum(dim=1), weights.sum(dim=1, keepdim=True), right=True)
    assert int(naive) == 3


def test_frequencies_follow_the_weights():
    weights = torch.tensor([0.2, 0.0, 3.0, 1.0, 0.05])
    drawn = draw_codes(weights.expand(50_000, -1), generator=generator())
    observed = torch.bincount(drawn, minlength=5)[weights > 0].numpy()
    expected = (weights / weights.sum() * 50_000)[weights > 0].double().numpy()
    expected *= 50_000 / expected.sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-4
    assert stats.chisquare(observed, expected[[1, 0, 2, 3]]).pvalue < 1e-10


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(InputError, match="diverged"):
        draw_codes(torch.tensor([[1.0, bad]]), generator=generator())
