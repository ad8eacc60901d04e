"""A generative adversarial network of a table whose generator never meets a record (Goodfellow et al., 2014).

Only the critic is trained on records: sites send clipped and noised gradients of the critic's loss on real
records. The fake half of that loss and every generator step are computed at the server from what has been
released, so they cost no privacy. The fake half is clipped record by record exactly as the real half is;
otherwise the critic would be pulled towards the fakes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.autoregressive import draw_allowed, draw_codes
from models.family import Family
from models.layout import OneHotLayout
from models.optimiser_state import load_optimiser_state, optimiser_state
from privacy.dp_sgd import clipped_gradient_sum
from protocol.errors import StudyError


class AdversarialLoss(StrEnum):
    """What critic and generator play for."""

    NON_SATURATING = "non_saturating"
    LEAST_SQUARES = "least_squares"


@dataclass(frozen=True, kw_only=True)
class GanOptions:
    """What a study may choose about the adversarial network.

    Args:
        latent: Size of the generator's noise vector.
        generator_widths: Hidden widths of the generator (residual blocks with batch norm; it sees no record).
        critic_widths: Hidden widths of the critic; empty for a linear critic.
        temperature: Of the straight-through Gumbel softmax.
        loss: ``non_saturating`` or ``least_squares``.
        critic_steps: Critic steps (rounds) per generator step.
        fake_batch: Fake records per critic and per generator step.
        generator_rate: Learning rate of the generator's Adam.
        class_shares: Public share of every code of the target column, in any scale; empty to learn them from
            the critic.
        label: Index of the target column, or None for an unconditional generator. A study may leave it out:
            it is then the schema's target.
    """

    latent: int = 64
    generator_widths: tuple[int, ...] = (256, 256)
    critic_widths: tuple[int, ...] = (128,)
    temperature: float = 0.5
    loss: AdversarialLoss = AdversarialLoss.NON_SATURATING
    critic_steps: int = 4
    fake_batch: int = 1024
    generator_rate: float = 1e-3
    class_shares: tuple[float, ...] = ()
    label: int | None = None

    def __post_init__(self) -> None:
        """Refuse sizes and rates that cannot train."""
        sizes = (self.latent, self.critic_steps, self.fake_batch, *self.generator_widths, *self.critic_widths)
        if min(sizes) < 1 or not self.generator_widths:
            raise StudyError(f"model.options: sizes {sizes}.", remedy="Sizes are whole numbers of at least 1.")
        for key in ("temperature", "generator_rate", "class_shares"):
            value = getattr(self, key)
            if not all(0 < number < float("inf") for number in (value if key == "class_shares" else (value,))):
                raise StudyError(f"model.options.{key}={value}.", remedy="Give positive numbers.")


class ResidualGenerator(nn.Module):
    """Noise and label in, logits of every column out. Hidden layers see all that came before them.

    Args:
        inputs: Size of noise and one-hot label together.
        widths: Of the hidden layers.
        outputs: Number of logits.
        shares: Public share of every label; where they are zero, the shares are learnt from the critic instead.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], outputs: int, *, shares: Tensor) -> None:
        super().__init__()
        public = bool(shares.any())
        self.label_logits = nn.Parameter(
            shares.log() if public else torch.zeros_like(shares), requires_grad=len(shares) > 0 and not public
        )
        self.blocks = nn.ModuleList()
        for width in widths:
            self.blocks.append(nn.Sequential(nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()))
            inputs += width
        self.head = nn.Linear(inputs, outputs)

    def forward(self, noise: Tensor) -> Tensor:
        """Return logits ``[n, outputs]`` of inputs ``[n, inputs]``."""
        for block in self.blocks:
            noise = torch.cat([block(noise), noise], dim=1)
        logits: Tensor = self.head(noise)
        return logits


class AdversarialNetwork(Family):
    """Critic at the sites, generator at the server."""

    def __init__(self, layout: OneHotLayout, options: GanOptions) -> None:
        super().__init__(layout)
        self.options = options
        if options.label is not None and not 0 <= options.label < layout.columns:
            raise StudyError(
                f"model.options.label={options.label}.", remedy=f"Give a column index below {layout.columns}."
            )
        self.classes = 0 if options.label is None else layout.cardinalities[options.label]
        if options.class_shares and len(options.class_shares) != self.classes:
            raise StudyError(
                f"model.options.class_shares has {len(options.class_shares)} numbers.",
                remedy=f"The target column has {self.classes} codes: give as many.",
            )
        self._generator = ResidualGenerator(
            options.latent + self.classes,
            options.generator_widths,
            layout.width,
            shares=torch.tensor(options.class_shares or (0.0,) * self.classes),
        )
        widths = (layout.width, *options.critic_widths)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        self.initialise(generator=torch.Generator().manual_seed(0))

    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw new initial weights, and forget the generator's optimiser."""
        super().initialise(generator=generator)
        if self._generator.label_logits.requires_grad:
            nn.init.zeros_(self._generator.label_logits)
        self._generator_optimiser = torch.optim.Adam(
            self._trainable(), lr=self.options.generator_rate, betas=(0.5, 0.9)
        )
        self._critic_steps_done = 0

    @property
    def shared(self) -> nn.Module:
        """The critic: the only part that records touch."""
        return self.critic

    @property
    def generator(self) -> nn.Module:
        """The generator, which never leaves the server during training."""
        return self._generator

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the critic's loss on real records, ``[n]``."""
        del generator
        return self._loss(self.critic(self.layout.encode(codes)).squeeze(1), real=True)

    def public_gradient(self, *, clip_norm: float, generator: torch.Generator) -> Tensor | None:
        """Return the critic's mean gradient on fake records, each clipped as a real one is."""
        with torch.no_grad():
            fakes = self._fakes(self.options.fake_batch, generator=generator)
        total = clipped_gradient_sum(
            self.critic,
            lambda: self._loss(self.critic(fakes).squeeze(1), real=False),
            units=None,
            clip_norm=clip_norm,
        )
        return total / self.options.fake_batch

    def free_steps(self, *, generator: torch.Generator) -> None:
        """Take one generator step after every ``critic_steps`` steps of the critic."""
        self._critic_steps_done += 1
        if self._critic_steps_done % self.options.critic_steps:
            return
        weights = self._trainable()
        scores = self.critic(self._fakes(self.options.fake_batch, generator=generator)).squeeze(1)
        # Gradients by name, not by backward(): the critic's must stay those that sites have sent.
        for weight, gradient in zip(
            weights, torch.autograd.grad(self._loss(scores, real=True).mean(), weights), strict=True
        ):
            weight.grad = gradient
        self._generator_optimiser.step()
        self._generator_optimiser.zero_grad(set_to_none=True)

    def training_state(self) -> dict[str, Tensor]:
        """Return the moments of the generator's optimiser, and how many critic steps were taken."""
        moments = optimiser_state(self._generator_optimiser)
        return {"critic_steps": torch.tensor(self._critic_steps_done)} | moments

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`training_state`."""
        self._critic_steps_done = int(state["critic_steps"])
        moments = {name: value for name, value in state.items() if name != "critic_steps"}
        load_optimiser_state(self._generator_optimiser, moments)

    @torch.no_grad()
    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw records; a restricted label is conditioned on, other columns are restricted at their turn.

        Batch norm uses its running statistics, so that a record does not depend on those drawn beside it.
        """
        label = self.options.label
        labels = self._labels(count, allowed=None if label is None else allowed.get(label), generator=generator)
        one_hot = None if labels is None else functional.one_hot(labels, self.classes).float()
        inputs = self._inputs(one_hot, count, generator=generator)
        training = self._generator.training
        self._generator.eval()
        try:
            logits = self._generator(inputs)
        finally:
            self._generator.train(training)
        codes, weight = [], torch.zeros(count, device=logits.device)
        for column, block in enumerate(self.layout.split(logits)):
            if column == label and labels is not None:
                codes.append(labels)
                continue
            drawn, log_mass = draw_allowed(block, allowed=allowed.get(column), generator=generator)
            weight += log_mass
            codes.append(drawn)
        return torch.stack(codes, dim=1), weight

    def _trainable(self) -> list[nn.Parameter]:
        """Return the generator's weights that are trained: all but public label shares."""
        return [weight for weight in self._generator.parameters() if weight.requires_grad]

    def _loss(self, scores: Tensor, *, real: bool) -> Tensor:
        """Return the loss per record of scores that ought to say ``real``."""
        if self.options.loss is AdversarialLoss.LEAST_SQUARES:
            return (scores - (1.0 if real else 0.0)).square()
        return functional.softplus(-scores if real else scores)

    def _labels(self, count: int, *, allowed: Tensor | None, generator: torch.Generator) -> Tensor | None:
        """Draw labels by their shares."""
        if not self.classes:
            return None
        shares = functional.softmax(self._generator.label_logits, dim=0)
        if allowed is not None:
            shares = shares * allowed.to(shares.device)
        return draw_codes(shares.expand(count, -1), generator=generator)

    def _inputs(self, labels: Tensor | None, count: int, *, generator: torch.Generator) -> Tensor:
        """Return noise with the one-hot label behind it, ``[n, latent + classes]``."""
        noise = torch.randn(count, self.options.latent, generator=generator, device=generator.device)
        return noise if labels is None else torch.cat([noise, labels], dim=1)

    def _fakes(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Return fakes ``[n, width]``, one-hot forwards and soft backwards."""
        labels = None
        if self.classes:
            labels = self._straight_through(self._generator.label_logits.expand(count, -1), generator=generator)
        logits = self._generator(self._inputs(labels, count, generator=generator))
        blocks = [
            labels
            if column == self.options.label and labels is not None
            else self._straight_through(block, generator=generator)
            for column, block in enumerate(self.layout.split(logits))
        ]
        return torch.cat(blocks, dim=1)

    def _straight_through(self, logits: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw one-hot vectors ``[n, K]``, with the gradient of the soft draw (Jang, Gu and Poole, 2017)."""
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(1e-20, 1 - 1e-7)
        soft = functional.softmax((logits - (-uniform.log()).log()) / self.options.temperature, dim=1)
        hard = functional.one_hot(soft.argmax(dim=1), logits.shape[1]).to(soft.dtype)
        return hard + soft - soft.detach()
