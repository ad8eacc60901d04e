"""The variational auto-encoder of a table whose decoder also plays against a critic (after Larsen et al., 2016).

The critic is trained on records together with the auto-encoder, in one loss and under one clip norm. What it says of
fakes is public: at every step the decoder is pulled towards those of its own draws that the critic takes for real.
A table's codes are discrete, so the pull is a weighted likelihood in place of a gradient through the draw: for the
logistic loss the critic's score is the log-ratio of the densities of real and fake records, and its exponential is how
much too seldom the decoder draws a record (Che et al., 2017).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.adversarial import AdversarialLoss
from models.geometry import FeatureMap
from models.layout import OneHotLayout
from models.vae import VaeOptions, VariationalAutoencoder
from privacy.dp_sgd import clipped_gradient_sum
from protocol.errors import StudyError

_LOSS = AdversarialLoss.NON_SATURATING
_MOST_RATIO = 3.0
"""Bound on the score of a fake in the decoder's loss, so that no single fake decides a step."""


@dataclass(frozen=True, kw_only=True)
class VaeGanOptions(VaeOptions):
    """What a study may choose about the auto-encoder and its critic.

    Args:
        critic_widths: Hidden widths of the critic; empty for a linear critic.
        critic_weight: Weight of the critic's loss beside the evidence lower bound, of records and of fakes.
        critic_scale: How fast the critic is learnt beside the auto-encoder.
        adversarial_weight: Weight of the critic in the decoder's gradient; 0 leaves an ordinary auto-encoder with a
            critic beside it (the ablation).
        fake_batch: Fake records per step.
    """

    critic_widths: tuple[int, ...] = (32,)
    critic_weight: float = 1.0
    critic_scale: float = 0.3
    adversarial_weight: float = 0.1
    fake_batch: int = 1024

    def __post_init__(self) -> None:
        """Refuse sizes and weights that cannot train."""
        super().__post_init__()
        sizes = (self.fake_batch, *self.critic_widths)
        if min(sizes) < 1:
            raise StudyError(f"model.options: sizes {sizes}.", remedy="Sizes are whole numbers of at least 1.")
        for key in ("critic_weight", "critic_scale", "adversarial_weight"):
            value = getattr(self, key)
            if not 0 <= value < float("inf") or (value == 0 and key != "adversarial_weight"):
                raise StudyError(f"model.options.{key}={value}.", remedy="Give a positive number.")


class Scaled(nn.Module):
    """A factor between layers: an optimiser that gives all weights equal steps moves the layer behind it less."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs times the factor."""
        return self.factor * inputs


class AdversarialAutoencoder(VariationalAutoencoder):
    """Encoder, decoder and critic, all trained at the sites; the decoder learns from the critic's word on fakes too."""

    def __init__(self, layout: OneHotLayout, options: VaeGanOptions) -> None:
        super().__init__(layout, options)
        self.adversarial = options
        features = FeatureMap(layout, splines=options.splines)
        widths = (sum(features.sizes), *options.critic_widths, 1)
        layers: list[nn.Module] = [features]
        for inputs, outputs in pairwise(widths):
            layers += [Scaled(options.critic_scale), nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers[:-1])
        self.initialise(generator=torch.Generator().manual_seed(0))

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound and the critic's loss of every record, ``[n]``."""
        return self._loss(codes, real=True, generator=generator)

    def public_gradient(self, *, clip_norm: float, generator: torch.Generator) -> Tensor | None:
        """Return the gradient on fakes: the critic's, each clipped as a real one is, and the decoder's pull.

        A record's gradient is clipped as a whole, so a fake's is too, of which only the critic's part is kept.
        """
        device, count = self.device, self.adversarial.fake_batch
        latent = torch.randn(count, self.options.latent, generator=generator, device=device)
        fakes, _ = self.decoder.sample(latent, allowed={}, generator=generator)
        clipped = clipped_gradient_sum(
            self.shared,
            lambda: self._loss(fakes, real=False, generator=generator),
            units=None,
            clip_norm=clip_norm,
        )
        of_critic = self._placed({f"critic.{name}": torch.ones_like(p) for name, p in self.critic.named_parameters()})
        return clipped / count * of_critic + self._pull(fakes, latent)

    def _loss(self, codes: Tensor, *, real: bool, generator: torch.Generator) -> Tensor:
        """Return the loss of every record, ``[n]``, that the critic ought to call ``real``."""
        lower_bound = super().unit_loss(codes, generator=generator)
        return lower_bound + self.adversarial.critic_weight * _LOSS.of(self.critic(codes).squeeze(1), real=real)

    def _pull(self, fakes: Tensor, latent: Tensor) -> Tensor:
        """Return the gradient that makes fakes likelier that the critic misses, and others less likely."""
        weight = self.adversarial.adversarial_weight
        if weight == 0:
            return self._placed({})
        with torch.no_grad():
            ratios = self.critic(fakes).squeeze(1).clamp(-_MOST_RATIO, _MOST_RATIO).exp()
            missed = ratios / ratios.mean() - 1.0
        loss = weight * (missed * self.decoder.negative_log_likelihood(fakes, latent)).mean()
        names, weights = zip(*self.decoder.named_parameters(), strict=True)
        # Gradients by name, not by backward(): those that sites have sent must stay what they are.
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return self._placed(
            {f"decoder.{name}": each for name, each in zip(names, gradients, strict=True) if each is not None}
        )

    def _placed(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return a flat vector ``[d]``, float64, of parts by the name of their weight, and zeros elsewhere."""
        flat = [parts.get(name, torch.zeros_like(p)).detach().flatten() for name, p in self.shared.named_parameters()]
        return torch.cat(flat).double().cpu()
