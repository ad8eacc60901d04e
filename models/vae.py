"""The variational auto-encoder of a table (Kingma and Welling, 2014), with an autoregressive decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from models.autoregressive import AutoregressiveDecoder, FactorisedDecoder
from models.family import Family
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
        widths = (layout.width, *options.encoder_widths)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        layers.append(nn.Linear(widths[-1], 2 * options.latent))
        self.encoder = nn.Sequential(*layers)
        self.decoder = (
            AutoregressiveDecoder(layout, latent=options.latent)
            if options.decoder is Decoder.AUTOREGRESSIVE
            else FactorisedDecoder(layout, latent=options.latent)
        )

    @property
    def shared(self) -> nn.Module:
        """Encoder and decoder: an encoder kept at a site would tie every record's gradient to all the others."""
        return self

    @property
    def generator(self) -> nn.Module:
        """The decoder; with the prior it is the generative model."""
        return self.decoder

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound of every record.

        Args:
            codes: ``[n, columns]``, integers.
            generator: Source of the latent noise, one draw per record.

        Returns:
            ``[n]``, nats. Row i depends on record i alone.
        """
        mean, log_variance = self.encoder(self.layout.encode(codes)).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
        return self.decoder.negative_log_likelihood(codes, latent) + self.options.kl_weight * divergence

    @torch.no_grad()
    def draw(
        self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw from prior and decoder; see :meth:`Family.draw`."""
        device = next(self.parameters()).device
        latent = torch.randn(count, self.options.latent, generator=generator, device=device)
        return self.decoder.sample(latent, allowed=allowed, generator=generator)
