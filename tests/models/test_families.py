"""The closed table of families: parsing, refusing, and what every family promises."""

import pytest
import torch
from torch import nn

from models.families import FAMILIES, build_family
from models.gan import AdversarialLoss
from models.vae import Decoder
from privacy.dp_sgd import is_linear_network
from protocol.errors import StudyError

CARDINALITIES = (3, 2, 4)
TRAINED = [name for name in FAMILIES if name != "moments"]  # which has no loss, and says so: see test_moments


def build(name, options=None, *, label=1):
    return build_family(name, options or {}, cardinalities=CARDINALITIES, label=label)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def codes(count):
    made = generator(9)
    return torch.stack([torch.randint(size, (count,), generator=made) for size in CARDINALITIES], dim=1)


def test_options_become_their_types():
    vae = build("vae", {"latent": 3, "encoder_widths": [8, 4], "decoder": "factorised", "kl_weight": 1})
    assert vae.options.encoder_widths == (8, 4)
    assert vae.options.decoder is Decoder.FACTORISED
    assert isinstance(vae.options.kl_weight, float)
    gan = build("gan", {"loss": "least_squares", "class_shares": [0.25, 0.75], "temperature": 1, "critic_widths": []})
    assert gan.options.loss is AdversarialLoss.LEAST_SQUARES
    assert gan.options.class_shares == (0.25, 0.75)
    assert gan.options.critic_widths == ()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_label_is_the_target_unless_the_options_say_otherwise(name):
    assert build(name).options.label == 1
    assert build(name, label=None).options.label is None
    assert build(name, {"label": 2}).options.label == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vea", {}, "model.family='vea'.*vae, gan"),
        (
            "vae",
            {"latnet": 3},
            r"model.options.latnet does not exist.*decoder, encoder_widths, input_scale, kl_weight, label, latent",
        ),
        ("vae", {"label": 3}, "model.options.label=3.*below 3"),
        ("vaegan", {"label": -1}, "model.options.label=-1"),
        ("vae", {"latent": "4"}, "model.options.latent='4'.*whole number"),
        ("vae", {"latent": 4.0}, "model.options.latent=4.0.*whole number"),
        ("vae", {"latent": True}, "model.options.latent=True"),
        ("vae", {"latent": 0}, "latent=0"),
        ("vae", {"encoder_widths": 8}, "encoder_widths=8 is no list"),
        ("vae", {"encoder_widths": [8, "9"]}, r"encoder_widths\[1\]='9'"),
        ("vae", {"encoder_widths": [0]}, "at least 1"),
        ("vae", {"decoder": "autoregresive"}, "decoder='autoregresive'.*autoregressive, factorised"),
        ("vae", {"decoder": ["factorised"]}, "decoder="),
        ("vae", {"kl_weight": "1"}, "kl_weight='1'.*a number"),
        ("vae", {"kl_weight": float("nan")}, "kl_weight"),
        ("gan", {"loss": "hinge"}, "loss='hinge'.*non_saturating, least_squares, wasserstein"),
        ("gan", {"loss": "wasserstein", "weight_limit": 0.0}, "weight_limit=0.0"),
        ("gan", {"adversarial_weight": -1.0}, "adversarial_weight=-1.0"),
        ("vaegan", {"critic_weight": 0.0}, "critic_weight=0.0"),
        ("vaegan", {"critic_widths": [0]}, "at least 1"),
        ("vaegan", {"latent": 0}, "latent=0"),
        ("gan", {"temperature": 0.0}, "temperature=0.0"),
        ("gan", {"generator_rate": float("inf")}, "generator_rate=inf"),
        ("gan", {"generator_widths": []}, "at least 1"),
        ("gan", {"class_shares": [0.5, 0.25, 0.25]}, "class_shares has 3 numbers.*2 codes"),
        ("gan", {"class_shares": [0.5, 0.0]}, "class_shares"),
        ("gan", {"label": 3}, "label=3.*below 3"),
        ("gan", {"label": -1}, "label=-1"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(name, options, message):
    with pytest.raises(StudyError, match=message):
        build(name, options)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_come_from_generators_alone(name):
    global_state = torch.get_rng_state()
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    family = build(name)
    family.initialise(generator=generator(1))
    again = build(name)
    torch.set_rng_state(global_state)
    again.initialise(generator=generator(1))
    other = build(name)
    other.initialise(generator=generator(2))
    weights = [dict(each.named_parameters()) for each in (family, again, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert any(not torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


@pytest.mark.parametrize("options", [{}, {"encoder_widths": [5]}, {"decoder": "factorised"}, {"critic_widths": [4, 4]}])
@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_of_a_record_depends_on_that_record_alone(name, options):
    if not set(options) <= set(type(build(name).options).__dataclass_fields__):
        pytest.skip("an option of another family")
    family, records = build(name, options), codes(20)
    losses = family.unit_loss(records, generator=generator(3)).detach()
    assert losses.shape == (20,)
    for rows in ([7], [19, 3, 7], list(range(5, 15))):
        alone = family.unit_loss(records[rows], generator=generator(3)).detach()
        torch.testing.assert_close(alone, losses[rows], rtol=1e-5, atol=1e-6)
    changed = records.clone()
    changed[0] = (changed[0] + 1) % torch.tensor(CARDINALITIES)
    moved = family.unit_loss(changed, generator=generator(3)).detach()
    assert float((moved - losses)[1:].abs().max()) < 1e-6
    assert abs(float(moved[0] - losses[0])) > 1e-6


def test_a_loss_that_centres_the_batch_would_be_found_out():
    class Centred(nn.Module):
        def forward(self, scores):
            return scores - scores.mean()

    losses = Centred()(torch.arange(5.0))
    assert not torch.equal(losses[:2], Centred()(torch.arange(2.0)))


@pytest.mark.parametrize("name", TRAINED)
def test_no_records_have_no_losses(name):
    assert build(name).unit_loss(codes(0), generator=generator()).shape == (0,)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_shared_takes_the_fast_path(name):
    assert is_linear_network(build(name).shared)
    assert is_linear_network(build(name, {"decoder": "factorised"} if name == "vae" else {}).shared)


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_fit_the_table_and_their_seed(name):
    family = build(name)
    rows, weight = family.draw(50, allowed={}, generator=generator())
    assert rows.dtype == torch.long
    assert rows.shape == (50, 3)
    assert bool(((rows >= 0) & (rows < torch.tensor(CARDINALITIES))).all())
    assert torch.equal(weight, torch.zeros(50))
    assert torch.equal(rows, family.draw(50, allowed={}, generator=generator())[0])
    assert not torch.equal(rows, family.draw(50, allowed={}, generator=generator(1))[0])
