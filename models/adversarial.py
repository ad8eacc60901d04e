"""The critic of a table and what it plays for, as adversarial families share them."""

from enum import StrEnum

from torch import Tensor, nn
from torch.nn import functional

from privacy.dp_sgd import clipped_gradient_sum


class AdversarialLoss(StrEnum):
    """What critic and generator play for."""

    NON_SATURATING = "non_saturating"
    LEAST_SQUARES = "least_squares"
    WASSERSTEIN = "wasserstein"

    def of(self, scores: Tensor, *, real: bool) -> Tensor:
        """Return the loss per record of scores that ought to say ``real``; Wasserstein: Arjovsky et al. (2017)."""
        if self is AdversarialLoss.LEAST_SQUARES:
            return (scores - (1.0 if real else 0.0)).square()
        if self is AdversarialLoss.WASSERSTEIN:
            return -scores if real else scores
        return functional.softplus(-scores if real else scores)


def fake_gradient(critic: nn.Module, fakes: Tensor, *, loss: AdversarialLoss, clip_norm: float) -> Tensor:
    """Return a critic's mean gradient on fake records, each clipped as a real one is; flat ``[d]``, float64.

    Were only the real ones clipped, fakes would weigh more, and the critic would learn little but to say no.

    Args:
        critic: Gives ``[n, 1]`` scores.
        fakes: ``[n, width]``, one-hot.
        loss: What the critic plays for.
        clip_norm: The study's clip norm.
    """
    total = clipped_gradient_sum(
        critic, lambda: loss.of(critic(fakes).squeeze(1), real=False), units=None, clip_norm=clip_norm
    )
    return total / len(fakes)


def table_critic(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Return a perceptron that scores records by themselves: no layer lets the records of a batch meet."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.LeakyReLU(0.2)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))
