"""A generative adversarial network of images whose generator never meets a record (Goodfellow et al., 2014).

As in :mod:`models.gan` only the critic is trained on records; the fake half of its loss, clipped image by image as the
real half is, and every step of the generator are computed at the server from what has been released. The columns
beside the image are a small model of their own, which is trained on records too, and which both nets are conditional
on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.adversarial import AdversarialLoss
from models.images.convolution import Grow, Norm, Shrink, grey
from models.images.family import ColumnModel, ImageFamily, ImageOptions
from models.images.shape import ImageShape, split_codes
from models.images.vae import check_widths
from models.layout import OneHotLayout
from models.optimiser_state import load_optimiser_state, optimiser_state
from privacy.dp_sgd import chunked_gradient_sum
from protocol.errors import StudyError


@dataclass(frozen=True, kw_only=True)
class ImageGanOptions(ImageOptions):
    """What a study may choose about the adversarial network of images.

    Args:
        critic_widths: Channels of the critic's convolutions, each of which halves the sides. One to three.
        generator_widths: Channels of the generator's, each of which doubles them (with batch norm; it sees no record).
        critic_norm: ``none`` or ``group``.
        loss: What critic and generator play for; as of the family of tables.
        critic_steps: Critic steps (rounds) per generator step.
        fake_batch: Fake records per critic and per generator step.
        generator_rate: Learning rate of the generator's Adam.
        weight_limit: Bound on every weight of the critic, for the Wasserstein loss alone.
    """

    latent: int = 64
    critic_widths: tuple[int, ...] = (16, 32, 32)
    generator_widths: tuple[int, ...] = (64, 32)
    critic_norm: Norm = Norm.NONE
    loss: AdversarialLoss = AdversarialLoss.NON_SATURATING
    critic_steps: int = 4
    fake_batch: int = 256
    generator_rate: float = 1e-3
    weight_limit: float = 0.05

    def __post_init__(self) -> None:
        """Refuse sizes and rates that cannot train."""
        super().__post_init__()
        check_widths("critic_widths", self.critic_widths)
        check_widths("generator_widths", self.generator_widths)
        if min(self.critic_steps, self.fake_batch) < 1:
            sizes = (self.critic_steps, self.fake_batch)
            raise StudyError(f"model.options: sizes {sizes}.", remedy="Sizes are whole numbers of at least 1.")
        for key in ("generator_rate", "weight_limit"):
            if not 0 < getattr(self, key) < float("inf"):
                raise StudyError(f"model.options.{key}={getattr(self, key)}.", remedy="Give a positive number.")


class Critic(nn.Module):
    """A score of image and columns, with the model of the columns: all that records touch.

    The columns enter as a projection (Miyato and Koyama, 2018): score = psi(h) + <V c, h>, where h are the features of
    the image and c those of the columns.

    Args:
        columns: The model of the columns.
        image: The shape of the images.
        options: Of the family.
    """

    def __init__(self, columns: ColumnModel, image: ImageShape, options: ImageGanOptions) -> None:
        super().__init__()
        self.columns = columns
        self.trunk = Shrink(image, options.critic_widths, norm=options.critic_norm)
        self.score = nn.Linear(self.trunk.size, 1)
        self.projection = nn.Linear(columns.size, self.trunk.size, bias=False)

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """Return scores ``[n]``."""
        features = self.trunk(images)
        scores: Tensor = self.score(features).squeeze(1) + (self.projection(condition) * features).sum(dim=1)
        return scores


class ImageGenerator(nn.Module):
    """Latent vector and columns in, image out; with the model of the columns it is what a release holds.

    Args:
        columns: The model of the columns, the critic's own.
        image: The shape of the images.
        options: Of the family.
    """

    def __init__(self, columns: ColumnModel, image: ImageShape, options: ImageGanOptions) -> None:
        super().__init__()
        self.columns = columns
        self.image = Grow(options.latent + columns.size, image, options.generator_widths, batch_norm=True)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Return images ``[n, channels, height, width]`` from 0 to 1."""
        return grey(self.image(torch.cat([latent, condition], dim=1)))


class ImageAdversarialNetwork(ImageFamily):
    """Critic at the sites, generator at the server, both conditional on the columns."""

    options: ImageGanOptions

    def __init__(self, layout: OneHotLayout, image: ImageShape, options: ImageGanOptions) -> None:
        super().__init__(layout, image, options)
        self.critic = Critic(ColumnModel(layout), image, options)
        self._generator = ImageGenerator(self.columns, image, options)
        self.initialise(generator=torch.Generator().manual_seed(0))

    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw new initial weights, and forget the generator's optimiser."""
        super().initialise(generator=generator)
        self._optimiser = torch.optim.Adam(
            self._generator.image.parameters(), lr=self.options.generator_rate, betas=(0.5, 0.9)
        )
        self._critic_steps_done = 0

    @property
    def columns(self) -> ColumnModel:
        """The model of the columns, which is the critic's and the generator's."""
        return self.critic.columns

    @property
    def shared(self) -> nn.Module:
        """The critic, with the model of the columns."""
        return self.critic

    @property
    def companion(self) -> nn.Module:
        """The net of images: the fakes of a site's own steps come from it; the columns' model is shared anyway."""
        return self._generator.image

    @property
    def generator(self) -> nn.Module:
        """The generator, which never leaves the server during training."""
        return self._generator

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the critic's loss on real records, and that of the columns, ``[n]``."""
        del generator
        columns, images = split_codes(codes, self.image)
        with self.precision(codes.device):
            scores = self.critic(images, self.columns.condition(columns)).float()
        return self.options.loss.of(scores, real=True) + self.columns.negative_log_likelihood(columns)

    def public_gradient(self, *, clip_norm: float, generator: torch.Generator) -> Tensor | None:
        """Return the critic's mean gradient on fake images, each clipped as a real one is."""
        with torch.no_grad():
            images, condition = self._fakes(self.options.fake_batch, generator=generator)
        size = self.image.size

        def loss(rows: Tensor) -> Tensor:
            return self.options.loss.of(
                self.critic(rows[:, :size].view(-1, *images.shape[1:]), rows[:, size:]), real=False
            )

        rows = torch.cat([images.flatten(1), condition], dim=1)
        total = chunked_gradient_sum(
            self.critic, loss, rows, units=None, clip_norm=clip_norm, chunk=self.most_rows_per_pass
        )
        return total / self.options.fake_batch

    def free_steps(self, *, generator: torch.Generator) -> None:
        """Bound the critic where its loss asks for it, and take a generator step every ``critic_steps`` steps."""
        if self.options.loss is AdversarialLoss.WASSERSTEIN:
            self._bound_critic()
        self._critic_steps_done += 1
        if self._critic_steps_done % self.options.critic_steps:
            return
        scores = self.critic(*self._fakes(self.options.fake_batch, generator=generator))
        weights = list(self._generator.image.parameters())
        # Gradients by name, not by backward(): the critic's must stay those that sites have sent.
        found = torch.autograd.grad(self.options.loss.of(scores, real=True).mean(), weights)
        for weight, gradient in zip(weights, found, strict=True):
            weight.grad = gradient
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def training_state(self) -> dict[str, Tensor]:
        """Return the moments of the generator's optimiser, and how many critic steps were taken."""
        return {"critic_steps": torch.tensor(self._critic_steps_done)} | optimiser_state(self._optimiser)

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`training_state`."""
        self._critic_steps_done = int(state["critic_steps"])
        load_optimiser_state(self._optimiser, {k: value for k, value in state.items() if k != "critic_steps"})

    def images_of(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Return the generator's images; see :meth:`ImageFamily.images_of`.

        Batch norm uses its running statistics, so that an image does not depend on those drawn beside it.
        """
        training = self._generator.training
        self._generator.eval()
        try:
            images: Tensor = self._generator(latent, condition)
        finally:
            self._generator.train(training)
        return images

    def _fakes(self, count: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return fake images and the features of their columns."""
        columns, _ = self.columns.sample(count, allowed={}, generator=generator)
        condition = self.columns.condition(columns)
        latent = torch.randn(count, self.options.latent, generator=generator, device=columns.device)
        return self._generator(latent, condition), condition

    @torch.no_grad()
    def _bound_critic(self) -> None:
        """Keep every weight of the critic small; the model of the columns is none of its weights."""
        for part in (self.critic.trunk, self.critic.score, self.critic.projection):
            for weight in part.parameters():
                weight.clamp_(-self.options.weight_limit, self.options.weight_limit)
