"""The auto-encoder with a critic: one clip for a record's whole gradient, fakes alike, and a pull that is right."""

import itertools

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from models.families import build_family
from privacy.dp_sgd import clipped_gradient_sum, reference_gradient_sum

CARDINALITIES = (2, 2, 2)
RECORDS = torch.tensor(list(itertools.product(range(2), repeat=3)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vaegan(**options):
    options = {"critic_widths": [6], "fake_batch": 512} | options
    family = build_family("vaegan", options, cardinalities=CARDINALITIES, label=None)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.normal_(std=0.3, generator=generator(parameter.numel()))
    return family


def parts(family, vector):
    """Split a flat gradient by encoder, decoder and critic."""
    found, start = {}, 0
    for name, parameter in family.shared.named_parameters():
        key = name.split(".")[0]
        found.setdefault(key, []).append(vector[start : start + parameter.numel()])
        start += parameter.numel()
    assert start == len(vector)
    return {key: torch.cat(values) for key, values in found.items()}


def test_the_loss_is_the_bound_and_the_critics():
    family = vaegan(critic_weight=2.0)
    plain = build_family("vae", {}, cardinalities=CARDINALITIES, label=None)
    plain.encoder, plain.decoder = family.encoder, family.decoder
    expected = plain.unit_loss(RECORDS, generator=generator()) + 2.0 * torch.nn.functional.softplus(
        -family.critic(RECORDS).squeeze(1)
    )
    torch.testing.assert_close(family.unit_loss(RECORDS, generator=generator()), expected)


def test_a_release_holds_the_decoder_alone():
    family = vaegan()
    assert family.generator is family.decoder
    assert {name.split(".")[0] for name, _ in family.shared.named_parameters()} == {"encoder", "decoder", "critic"}


def test_the_fast_clipped_sum_is_that_of_materialised_gradients():
    family = vaegan()
    fast, slow = (
        route(family.shared, lambda: family.unit_loss(RECORDS, generator=generator()), units=None, clip_norm=0.5)
        for route in (clipped_gradient_sum, reference_gradient_sum)
    )
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


def test_halves_of_the_critic_balance_where_records_are_fakes():
    """Where the critic cannot tell them apart, clipped records and clipped fakes cancel; the twin clips less."""
    family = vaegan(critic_widths=[], adversarial_weight=0.0, fake_batch=8192, critic_weight=0.3)
    with torch.no_grad():
        for parameter in family.critic.parameters():
            parameter.zero_()
    latent = torch.randn(8192, family.options.latent, generator=generator(1))
    fakes = family.decoder.sample(latent, allowed={}, generator=generator(2))[0]

    def real(clip_norm):
        return parts(family, clipped_gradient_sum(
            family.shared, lambda: family.unit_loss(fakes, generator=generator()), units=None, clip_norm=clip_norm
        ) / 8192)["critic"]  # fmt: skip

    fake = parts(family, family.public_gradient(clip_norm=0.2, generator=generator(3)))["critic"]
    assert float((real(0.2) + fake).norm()) < 0.1 * float(fake.norm())
    assert float((real(0.4) + fake).norm()) > 0.5 * float(fake.norm())


def test_without_a_pull_fakes_train_the_critic_alone():
    found = parts(vaegan(), vaegan(adversarial_weight=0.0).public_gradient(clip_norm=1.0, generator=generator()))
    assert float(found["critic"].norm()) > 0.0
    assert float(found["encoder"].norm()) == float(found["decoder"].norm()) == 0.0
    pulled = parts(vaegan(), vaegan().public_gradient(clip_norm=1.0, generator=generator()))
    assert torch.equal(pulled["critic"], found["critic"])
    assert float(pulled["encoder"].norm()) == 0.0
    assert float(pulled["decoder"].norm()) > 0.0


def test_the_pull_makes_what_the_critic_misses_likelier():
    """A critic that knows the log-ratio of two tables: the decoder goes from the one to the other."""
    family = vaegan(critic_widths=[], critic_scale=1.0, adversarial_weight=1.0, fake_batch=4096)
    wanted = torch.tensor([0.8, 0.2])
    with torch.no_grad():
        for parameter in (*family.critic.parameters(), *family.decoder.parameters()):
            parameter.zero_()
        # Columns are equally likely at first; the critic wants the first column to be 0 in four of five records.
        family.critic[-1].weight[0, :2] = (wanted / 0.5).log()
    rate = 2.0
    for step in range(40):
        pull = parts(family, family.public_gradient(clip_norm=1.0, generator=generator(step)))["decoder"]
        moved = parameters_to_vector(family.decoder.parameters()).detach() - rate * pull.float()
        torch.nn.utils.vector_to_parameters(moved, family.decoder.parameters())
        # The critic would follow: what is left to want is the ratio of the wanted to what is drawn now.
        drawn = family.draw(8192, allowed={}, generator=generator(1000 + step))[0]
        shares = torch.bincount(drawn[:, 0], minlength=2) / 8192
        with torch.no_grad():
            family.critic[-1].weight[0, :2] = (wanted / shares).log()
    assert shares.tolist() == pytest.approx(wanted.tolist(), abs=0.05)
    assert float((drawn[:, 1] == 0).double().mean()) == pytest.approx(0.5, abs=0.05)


def test_a_public_gradient_leaves_everything_as_it_was():
    family = vaegan()
    before = parameters_to_vector(family.parameters()).clone()
    held = torch.ones_like(family.critic[-1].weight)
    family.critic[-1].weight.grad = held
    family.public_gradient(clip_norm=1.0, generator=generator())
    assert torch.equal(parameters_to_vector(family.parameters()), before)
    assert family.critic[-1].weight.grad is held
