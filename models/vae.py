"""The variational auto-encoder of a table (Kingma and Welling, 2014), with an autoregressive decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from models.autoregressive import AutoregressiveDecoder, FactorisedDecoder
from models.family import Family
from models.latent_noise import record_noise
from models.layout import OneHotLayout
from protocol.errors import StudyError


class Decoder(StrEnum):
    """How the decoder factorises a record."""

    AUTOREGRESSIVE = "autoregressive"
    FACTORISED = "factorised"


@dataclass(frozen=True, kw_only=True)
class VaeOptions:
    """What a study may choose about the auto-encoder.

    Args:
        latent: Size of the latent vector, at least 1.
        encoder_widths: Hidden widths of the encoder; empty for a linear encoder.
        decoder: ``autoregressive`` (the default) or ``factorised`` (the ablation).
        kl_weight: Weight of the Kullback-Leibler term (1 is the evidence lower bound).
    """

    latent: int = 4
    encoder_widths: tuple[int, ...] = ()
    decoder: Decoder = Decoder.AUTOREGRESSIVE
    kl_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        if self.latent < 1 or any(width < 1 for width in self.encoder_widths):
            raise StudyError(
                f"model.options: latent={self.latent}, encoder_widths={list(self.encoder_widths)}.",
                remedy="Sizes are whole numbers of at least 1.",
            )
        if not 0 < self.kl_weight < float("inf"):
            raise StudyError(f"model.options.kl_weight={self.kl_weight}.", remedy="Give a positive number.")


class VariationalAutoencoder(Family):
    """Encoder ``q(z | x)``, decoder ``p(x | z)``, standard normal prior."""

    def __init__(self, layout: OneHotLayout, options: VaeOptions) -> None:
        super().__init__(layout)
        self.options = options
        self.encoder = _encoder(layout.width, options)
        self.decoder = (
            AutoregressiveDecoder(layout, latent=options.latent)
            if options.decoder is Decoder.AUTOREGRESSIVE
            else FactorisedDecoder(layout, latent=options.latent)
        )
        self.initialise(generator=torch.Generator().manual_seed(0))

    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw new initial weights; an autoregressive decoder starts at zero."""
        super().initialise(generator=generator)
        if isinstance(self.decoder, AutoregressiveDecoder):
            self.decoder.initialise()

    @property
    def shared(self) -> nn.Module:
        """Encoder and decoder: an encoder kept at a site would tie each record's gradient to the others."""
        return self

    @property
    def generator(self) -> nn.Module:
        """The decoder; with the prior it is the generative model."""
        return self.decoder

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound of every record.

        Args:
            codes: ``[n, columns]``, integers.
            generator: Source of the step's key to the latent noise.

        Returns:
            ``[n]``, nats. Row i depends on record i alone.
        """
        mean, log_variance = self.encoder(self.layout.places(codes)).chunk(2, dim=1)
        noise = record_noise(codes, self.options.latent, generator=generator)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
        reconstruction: Tensor = self.decoder.negative_log_likelihood(codes, latent)
        losses: Tensor = reconstruction + self.options.kl_weight * divergence
        return losses

    @torch.no_grad()
    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw from prior and decoder; see :meth:`Family.draw`."""
        device = next(self.parameters()).device
        latent = torch.randn(count, self.options.latent, generator=generator, device=device)
        return self.decoder.sample(latent, allowed=allowed, generator=generator)


def _encoder(inputs: int, options: VaeOptions) -> nn.Sequential:
    """Return a perceptron of the one-hot vector, given as the places of its ones.

    Its first layer needs no bias: every column has exactly one one, so that the weights of any column can be
        one.
    """
    widths = (*options.encoder_widths, 2 * options.latent)
    layers: list[nn.Module] = [nn.EmbeddingBag(inputs, widths[0], mode="sum")]
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.ReLU(), nn.Linear(before, after)]
    return nn.Sequential(*layers)
