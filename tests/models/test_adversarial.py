"""What critics play for, and that fakes are clipped one by one, as records are."""

import pytest
import torch
from torch import nn

from models.adversarial import AdversarialLoss, fake_gradient, table_critic

SCORES = torch.tensor([-2.0, 0.0, 3.0])


@pytest.mark.parametrize(
    ("loss", "real", "expected"),
    [
        # ln(1 + exp(2)), ln 2, ln(1 + exp(-3)) by hand, and so on.
        ("non_saturating", True, [2.126928, 0.693147, 0.048587]),
        ("non_saturating", False, [0.126928, 0.693147, 3.048587]),
        ("least_squares", True, [9.0, 1.0, 4.0]),
        ("least_squares", False, [4.0, 0.0, 9.0]),
        ("wasserstein", True, [2.0, 0.0, -3.0]),
        ("wasserstein", False, [-2.0, 0.0, 3.0]),
    ],
)
def test_losses_by_hand(loss, real, expected):
    assert AdversarialLoss(loss).of(SCORES, real=real).tolist() == pytest.approx(expected, abs=1e-5)


def looped(critic, fakes, loss, clip_norm):
    """Clip every fake's gradient by itself, slowly."""
    total = torch.zeros(sum(p.numel() for p in critic.parameters()), dtype=torch.float64)
    for fake in fakes:
        one = loss.of(critic(fake[None]).squeeze(1), real=False).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(one, list(critic.parameters()))]).double()
        total += gradient * min(1.0, clip_norm / float(gradient.norm()))
    return total / len(fakes)


@pytest.mark.parametrize("loss", list(AdversarialLoss))
def test_every_fake_is_clipped_by_itself(loss):
    made = torch.Generator().manual_seed(1)
    critic, fakes = table_critic(6, (5, 4)), torch.rand(9, 6, generator=made)
    for parameter in critic.parameters():
        nn.init.normal_(parameter, std=0.5, generator=made)
    found = fake_gradient(critic, fakes, loss=loss, clip_norm=0.05)
    torch.testing.assert_close(found, looped(critic, fakes, loss, 0.05), rtol=1e-4, atol=1e-7)
    # The broken twin: the mean is clipped, not the fakes.
    free = looped(critic, fakes, loss, 1e9)
    assert float((found - free * min(1.0, 0.05 / float(free.norm()))).norm()) > 1e-4


@pytest.mark.parametrize("widths", [(), (5,), (5, 4)])
def test_a_critic_scores_records_by_themselves(widths):
    critic = table_critic(6, widths)
    fakes = torch.rand(9, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(critic(fakes)[3:4], critic(fakes[3:4]))
    assert sum(isinstance(layer, nn.Linear) for layer in critic) == len(widths) + 1
