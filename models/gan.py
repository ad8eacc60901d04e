"""A generative adversarial network of a table whose generator never meets a record (Goodfellow et al., 2014).

Only the critic is trained on records: sites send clipped and noised gradients of the critic's loss on real
records. The fake half of that loss and every generator step are computed from what has been released, so they cost no
privacy. The fake half is clipped record by record exactly as the real half is; otherwise the critic would be pulled
towards the fakes.

Where a statistics round released counts of columns and pairs, the generator is first fitted to them, and held to them
while it plays against the critic: the critic is left with what pairs do not hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.adversarial import AdversarialLoss, fake_gradient, table_critic
from models.autoregressive import draw_allowed, draw_codes
from models.family import Family
from models.layout import OneHotLayout
from models.marginals import PAIR_CELLS, MarginalCounts, code_logits
from models.optimiser_state import load_optimiser_state, optimiser_state
from models.residual_generator import ResidualGenerator, column_shares, draw_columns, even_labels, straight_through
from models.statistics import Statistics
from models.table_match import TableMatch
from protocol.errors import StudyError


@dataclass(frozen=True, kw_only=True)
class GanOptions:
    """What a study may choose about the adversarial network.

    Args:
        latent: Size of the generator's noise vector.
        generator_widths: Hidden widths of the generator (residual blocks with batch norm; it sees no record).
        critic_widths: Hidden widths of the critic; empty for a linear critic.
        temperature: Of the straight-through Gumbel softmax.
        loss: ``non_saturating``, ``least_squares`` or ``wasserstein``.
        weight_limit: Bound on every weight of a critic that plays for ``wasserstein``, kept after every step of the
            server: it bounds the critic's slope without a gradient penalty, which would mix records.
        critic_steps: Critic steps (rounds) between turns of the generator.
        generator_steps: Generator steps per turn.
        fake_batch: Fake records per critic and per generator step.
        generator_rate: Learning rate of the generator's Adam.
        adversarial_weight: Weight of the critic in the generator's loss; 0 leaves released counts alone (the
            ablation, which needs a statistics round).
        table_weight: Weight of the released counts in the generator's loss.
        table_steps: Steps in which the generator is fitted to released counts before it plays.
        pair_cells: Most coarse cells of a column in a released table of pairs.
        class_shares: Public share of every code of the target column, in any scale; empty to learn them from
            released counts, or from the critic where there are none.
        label: Index of the target column, or None for an unconditional generator. A study may leave it out:
            it is then the schema's target.
    """

    latent: int = 64
    generator_widths: tuple[int, ...] = (256, 256)
    critic_widths: tuple[int, ...] = (128,)
    temperature: float = 0.5
    loss: AdversarialLoss = AdversarialLoss.NON_SATURATING
    weight_limit: float = 0.1
    critic_steps: int = 4
    generator_steps: int = 1
    fake_batch: int = 1024
    generator_rate: float = 1e-3
    adversarial_weight: float = 1.0
    table_weight: float = 1.0
    table_steps: int = 800
    pair_cells: int = PAIR_CELLS
    class_shares: tuple[float, ...] = ()
    label: int | None = None

    def __post_init__(self) -> None:
        """Refuse sizes, rates and weights that cannot train."""
        steps = (self.critic_steps, self.generator_steps, self.table_steps)
        sizes = (self.latent, self.fake_batch, self.pair_cells, *steps, *self.generator_widths, *self.critic_widths)
        if min(sizes) < 1 or not self.generator_widths:
            raise StudyError(f"model.options: sizes {sizes}.", remedy="Sizes are whole numbers of at least 1.")
        for key in ("temperature", "generator_rate", "table_weight", "weight_limit", "class_shares"):
            value = getattr(self, key)
            if not all(0 < number < float("inf") for number in (value if key == "class_shares" else (value,))):
                raise StudyError(f"model.options.{key}={value}.", remedy="Give positive numbers.")
        if not 0 <= self.adversarial_weight < float("inf"):
            remedy = "Give 0 or a positive number."
            raise StudyError(f"model.options.adversarial_weight={self.adversarial_weight}.", remedy=remedy)


class AdversarialNetwork(Family):
    """Critic at the sites, generator at the server."""

    def __init__(self, layout: OneHotLayout, options: GanOptions) -> None:
        super().__init__(layout)
        self.options = options
        if options.label is not None and not 0 <= options.label < layout.columns:
            remedy = f"Give a column index below {layout.columns}."
            raise StudyError(f"model.options.label={options.label}.", remedy=remedy)
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
        self.critic = table_critic(layout.width, options.critic_widths)
        self._counts = MarginalCounts(layout, pairs=True, label=options.label, pair_cells=options.pair_cells)
        self._released: tuple[Tensor, float] | None = None
        self._match: TableMatch | None = None
        self.initialise(generator=torch.Generator().manual_seed(0))

    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw new initial weights, and forget the generator's optimiser and what was released."""
        super().initialise(generator=generator)
        if self._generator.label_logits.requires_grad:
            nn.init.zeros_(self._generator.label_logits)
        self._generator_optimiser = self._optimiser()
        self._critic_steps_done = 0
        self._released = self._match = None

    @property
    def shared(self) -> nn.Module:
        """The critic: the only part that records touch."""
        return self.critic

    @property
    def companion(self) -> nn.Module:
        """The generator: a site that takes several steps by itself needs its fakes."""
        return self._generator

    @property
    def generator(self) -> nn.Module:
        """The generator, which only the server trains."""
        return self._generator

    @property
    def statistics(self) -> Statistics:
        """Counts of every column and of every pair of columns, by label where labels are few."""
        return self._counts

    def learn_statistics(self, number: int, means: Tensor, *, deviation: float, generator: torch.Generator) -> None:
        """Fit the generator to the released counts, which it is held to from now on; see `Family.learn_statistics`."""
        del number
        self._remember(means, deviation)
        found = self._counts.read(means, deviation=deviation)
        logits = code_logits(found.columns, deviation=found.deviation)
        self._generator.set_shapes(logits)
        if self._generator.label_logits.requires_grad and self.options.label is not None:
            with torch.no_grad():
                self._generator.label_logits.copy_(logits[self.options.label])
        steps, optimiser = self.options.table_steps, self._optimiser()
        for step in range(steps):
            # A constant rate for half of the steps, then a straight line towards zero.
            optimiser.param_groups[0]["lr"] = self.options.generator_rate * min(1.0, 2.0 * (1.0 - step / steps))
            self._step(optimiser, adversarial=False, generator=generator)

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the critic's loss on real records, ``[n]``."""
        del generator
        return self.options.loss.of(self.critic(self.layout.encode(codes)).squeeze(1), real=True)

    def public_gradient(self, *, clip_norm: float, generator: torch.Generator) -> Tensor | None:
        """Return the critic's mean gradient on fake records, each clipped as a real one is."""
        with torch.no_grad():
            fakes = self._fakes(*self._generated(generator=generator), generator=generator)
        return fake_gradient(self.critic, fakes, loss=self.options.loss, clip_norm=clip_norm)

    def free_steps(self, *, generator: torch.Generator) -> None:
        """Bound the critic where its loss asks for it, and give the generator its turn when it has one."""
        if self.options.loss is AdversarialLoss.WASSERSTEIN:
            with torch.no_grad():
                for weight in self.critic.parameters():
                    weight.clamp_(-self.options.weight_limit, self.options.weight_limit)
        self._critic_steps_done += 1
        if self._critic_steps_done % self.options.critic_steps:
            return
        for _ in range(self.options.generator_steps):
            self._step(self._generator_optimiser, adversarial=True, generator=generator)

    def training_state(self) -> dict[str, Tensor]:
        """Return the moments of the generator's optimiser, how many critic steps were taken, and what was released."""
        state = {"critic_steps": torch.tensor(self._critic_steps_done)} | optimiser_state(self._generator_optimiser)
        if self._released is not None:
            means, deviation = self._released
            state |= {"released.means": means, "released.deviation": torch.tensor(deviation, dtype=torch.float64)}
        return state

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`training_state`."""
        self._critic_steps_done = int(state["critic_steps"])
        self._released = self._match = None
        if "released.means" in state:
            self._remember(state["released.means"], float(state["released.deviation"]))
        own = ("critic_steps", "released.means", "released.deviation")
        load_optimiser_state(self._generator_optimiser, {name: state[name] for name in state if name not in own})

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

    def _optimiser(self) -> torch.optim.Optimizer:
        """Return a new optimiser of the generator."""
        return torch.optim.Adam(self._trainable(), lr=self.options.generator_rate, betas=(0.5, 0.9))

    def _remember(self, means: Tensor, deviation: float) -> None:
        """Keep what was released, as a loss of the generator."""
        self._released = means.detach().cpu().clone(), deviation
        found = self._counts.read(self._released[0], deviation=deviation)
        self._match = TableMatch(self._counts, found, device=self.device)

    def _step(self, optimiser: torch.optim.Optimizer, *, adversarial: bool, generator: torch.Generator) -> None:
        """Take one generator step against the critic, the released counts, or both."""
        labels, logits = self._generated(generator=generator)
        losses = []
        if adversarial and self.options.adversarial_weight:
            scores = self.critic(self._fakes(labels, logits, generator=generator)).squeeze(1)
            losses.append(self.options.adversarial_weight * self.options.loss.of(scores, real=True).mean())
        if self._match is not None:
            shares = column_shares(self.layout, logits, given=self._given(labels))
            losses.append(self.options.table_weight * self._match.loss(shares, labels))
        if not losses:
            raise StudyError(
                "model.options.adversarial_weight=0 without released counts: nothing trains the generator.",
                remedy="Give a positive weight, or a statistics round.",
            )
        # Gradients by name, not by backward(): the critic's must stay those that sites have sent. Those of label
        # shares are missing where the shares are known.
        weights = self._trainable()
        gradients = torch.autograd.grad(torch.stack(losses).sum(), weights, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

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

    def _generated(self, *, generator: torch.Generator) -> tuple[Tensor | None, Tensor]:
        """Return one-hot labels ``[n, classes]`` of a batch of fakes, and logits ``[n, width]`` of all columns."""
        count, labels = self.options.fake_batch, None
        if self.classes:
            known = self._generator.label_logits
            if self._match is not None:
                drawn = even_labels(functional.softmax(known, dim=0), count, generator=generator)
                labels = functional.one_hot(drawn, self.classes).float()
            else:
                every, temperature = known.expand(count, -1), self.options.temperature
                labels = straight_through(every, temperature=temperature, generator=generator)
        logits: Tensor = self._generator(self._inputs(labels, count, generator=generator))
        return labels, logits

    def _given(self, labels: Tensor | None) -> dict[int, Tensor]:
        """Return the blocks of columns that are not generated: the label's, where there is one."""
        return {} if labels is None or self.options.label is None else {self.options.label: labels}

    def _fakes(self, labels: Tensor | None, logits: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return fakes ``[n, width]``, one-hot forwards and soft backwards."""
        given, temperature = self._given(labels), self.options.temperature
        return draw_columns(self.layout, logits, given=given, temperature=temperature, generator=generator)
