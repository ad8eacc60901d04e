"""The variational auto-encoder of a table (Kingma and Welling, 2014), with an autoregressive decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.autoregressive import INPUT_SCALE, LATENT_SCALE, AutoregressiveDecoder, FactorisedDecoder
from models.family import Family
from models.geometry import SPLINES, ShortFeatures
from models.label_columns import LabelColumnCounts, start_by_label
from models.latent_noise import record_noise
from models.layout import OneHotLayout
from models.marginals import MOST_LABELS, MarginalCounts, code_logits
from models.statistics import Statistics
from privacy.indicator_linear import IndicatorLinear
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
        splines: Hat functions over a line of codes, such as the cells of a number, at least 2; 0 for a weight per
            code, which pays where the noise is small.
        input_scale: How fast dependencies between columns are learnt beside the shapes of the columns.
        latent_scale: The same for the latent vector, in the encoder and in an autoregressive decoder.
        label: Index of the column by which a statistics round counts the others, if it has few codes, or None. A study
            may leave it out: it is then the schema's target.
    """

    latent: int = 2
    encoder_widths: tuple[int, ...] = ()
    decoder: Decoder = Decoder.AUTOREGRESSIVE
    kl_weight: float = 1.0
    splines: int = SPLINES
    input_scale: float = INPUT_SCALE
    latent_scale: float = LATENT_SCALE
    label: int | None = None

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        if self.latent < 1 or any(width < 1 for width in self.encoder_widths):
            raise StudyError(
                f"model.options: latent={self.latent}, encoder_widths={list(self.encoder_widths)}.",
                remedy="Sizes are whole numbers of at least 1.",
            )
        if self.splines < 2 and self.splines != 0:
            raise StudyError(f"model.options.splines={self.splines}.", remedy="Give 0, or at least 2.")
        for key in ("kl_weight", "input_scale", "latent_scale"):
            if not 0 < getattr(self, key) < float("inf"):
                raise StudyError(f"model.options.{key}={getattr(self, key)}.", remedy="Give a positive number.")


class VariationalAutoencoder(Family):
    """Encoder ``q(z | x)``, decoder ``p(x | z)``, standard normal prior."""

    def __init__(self, layout: OneHotLayout, options: VaeOptions) -> None:
        super().__init__(layout)
        self.options = options
        if options.label is not None and not 0 <= options.label < layout.columns:
            remedy = f"Give a column index below {layout.columns}."
            raise StudyError(f"model.options.label={options.label}.", remedy=remedy)
        self.encoder = _encoder(layout, options)
        self.decoder = (
            AutoregressiveDecoder(
                layout,
                latent=options.latent,
                splines=options.splines,
                input_scale=options.input_scale,
                latent_scale=options.latent_scale,
            )
            if options.decoder is Decoder.AUTOREGRESSIVE
            else FactorisedDecoder(layout, latent=options.latent)
        )
        self._counts = self._counted()
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

    @property
    def statistics(self) -> Statistics:
        """Counts of every column, under each label where labels are few and the decoder can start with them."""
        return self._counts

    def _counted(self) -> MarginalCounts | LabelColumnCounts:
        label = self.options.label
        if label is None or self.layout.columns < 2 or self.layout.cardinalities[label] > MOST_LABELS:
            return MarginalCounts(self.layout)
        if not isinstance(self.decoder, AutoregressiveDecoder):
            return MarginalCounts(self.layout)
        codes, features = self.decoder.features.of(label).shape
        return LabelColumnCounts(self.layout, label=label) if codes == features else MarginalCounts(self.layout)

    def learn_statistics(self, number: int, means: Tensor, *, deviation: float, generator: torch.Generator) -> None:
        """Start with the released shapes of the columns, and with what labels make of them."""
        del number, generator
        if isinstance(self._counts, LabelColumnCounts) and isinstance(self.decoder, AutoregressiveDecoder):
            start_by_label(self.decoder, self._counts.read(means, deviation=deviation), label=self._counts.label)
        elif isinstance(self._counts, MarginalCounts):
            found = self._counts.read(means, deviation=deviation)
            self.decoder.set_shapes(code_logits(found.columns, deviation=found.deviation))

    def posterior(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of ``q(z | x)``, ``[n, latent]`` each, of codes ``[n, columns]``."""
        mean, log_variance = (self.options.latent_scale * self.encoder(codes)).chunk(2, dim=1)
        return mean, log_variance

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound of every record.

        Args:
            codes: ``[n, columns]``, integers.
            generator: Source of the step's key to the latent noise.

        Returns:
            ``[n]``, nats. Row i depends on record i alone.
        """
        mean, log_variance = self.posterior(codes)
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


def _encoder(layout: OneHotLayout, options: VaeOptions) -> nn.Sequential:
    """Return a perceptron of the features of a record.

    Its first layer needs no bias: every column has features that add up to one, so that their weights can be one.
    """
    features = ShortFeatures(layout, splines=options.splines)
    widths = (sum(features.sizes), *options.encoder_widths, 2 * options.latent)
    layers: list[nn.Module] = [features]
    for place, (before, after) in enumerate(pairwise(widths)):
        layer = nn.Linear(before, after) if place else IndicatorLinear(before, after)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
