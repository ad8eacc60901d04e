"""The variational auto-encoder of images (Kingma and Welling, 2014), conditional on the columns beside them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.images.convolution import Grow, Norm, Shrink, grey
from models.images.family import ColumnModel, ImageFamily, ImageOptions
from models.images.shape import ImageShape, split_codes
from models.latent_noise import record_noise
from models.layout import OneHotLayout
from protocol.errors import StudyError


@dataclass(frozen=True, kw_only=True)
class ImageVaeOptions(ImageOptions):
    """What a study may choose about the auto-encoder of images.

    Args:
        widths: Channels of the encoder's convolutions, each of which halves the sides; the decoder mirrors them. One
            to three.
        kl_weight: Weight of the Kullback-Leibler term (1 is the evidence lower bound).
    """

    widths: tuple[int, ...] = (16, 32, 32)
    kl_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse sizes out of range."""
        super().__post_init__()
        check_widths("widths", self.widths)
        if not 0 < self.kl_weight < float("inf"):
            raise StudyError(f"model.options.kl_weight={self.kl_weight}.", remedy="Give a positive number.")


class ImageDecoder(nn.Module):
    """``p(columns)`` and ``p(image | z, columns)``: what a release holds.

    Args:
        columns: The model of the columns.
        image: The shape of the images.
        options: Of the family.
    """

    def __init__(self, columns: ColumnModel, image: ImageShape, options: ImageVaeOptions) -> None:
        super().__init__()
        self.columns = columns
        self.image = Grow(options.latent + columns.size, image, options.widths[::-1], batch_norm=False)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Return logits ``[n, channels, height, width]``."""
        logits: Tensor = self.image(torch.cat([latent, condition], dim=1))
        return logits


class ImageAutoencoder(ImageFamily):
    """Encoder ``q(z | image, columns)``, decoder ``p(image | z, columns)``, standard normal prior.

    A pixel's grey value is taken for the probability of white: the reconstruction term is the cross-entropy. What is
    drawn is that probability, the mean image, as is usual: noise of single pixels carries nothing.
    """

    options: ImageVaeOptions

    def __init__(self, layout: OneHotLayout, image: ImageShape, options: ImageVaeOptions) -> None:
        super().__init__(layout, image, options)
        self.encoder = Shrink(image, options.widths, norm=Norm.GROUP)
        self.decoder = ImageDecoder(ColumnModel(layout), image, options)
        self.posterior = nn.Linear(self.encoder.size + self.columns.size, 2 * options.latent)
        self.initialise(generator=torch.Generator().manual_seed(0))

    @property
    def columns(self) -> ColumnModel:
        """The decoder's model of the columns."""
        return self.decoder.columns

    @property
    def shared(self) -> nn.Module:
        """Encoder and decoder: an encoder kept at a site would tie each record's gradient to the others."""
        return self

    @property
    def generator(self) -> nn.Module:
        """The decoder; with the prior it is the generative model."""
        return self.decoder

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound of every record, with that of its columns.

        Args:
            codes: ``[n, columns + pixels]``, integers.
            generator: Source of the step's key to the latent noise.

        Returns:
            ``[n]``, nats. Row i depends on record i alone.
        """
        columns, images = split_codes(codes, self.image)
        condition = self.columns.condition(columns)
        noise = record_noise(codes, self.options.latent, generator=generator)
        with self.precision(codes.device):
            features = torch.cat([self.encoder(images), condition], dim=1)
            mean, log_variance = self.posterior(features).float().chunk(2, dim=1)
            latent = mean + noise * torch.exp(0.5 * log_variance)
            logits = self.decoder(latent, condition).float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
        pixels = functional.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(dim=1)
        losses: Tensor = pixels + self.options.kl_weight * divergence + self.columns.negative_log_likelihood(columns)
        return losses

    def images_of(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Return the mean images; see :meth:`ImageFamily.images_of`."""
        return grey(self.decoder(latent, condition))


def check_widths(key: str, widths: tuple[int, ...]) -> None:
    """Refuse widths of convolutions that cannot be.

    Raises:
        StudyError: If there are none, or more than three, or one is below 1.
    """
    if not 1 <= len(widths) <= 3 or min(widths) < 1:
        raise StudyError(
            f"model.options.{key}={list(widths)}.", remedy="Give one to three whole numbers of at least 1."
        )
