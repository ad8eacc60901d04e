"""A generator that meets released counts of columns and pairs of columns, and nothing else: one round is enough.

A statistics round releases, with noise, how often every code and every coarse pair of codes occurs, pairs under each
label by itself where labels are few. The server then fits a mixture of independent columns to these counts, for as
many steps as it likes: all of it is post-processing.
The pair tables of such a mixture are products of small matrices, so that they are met without drawing a single row.

Source: fitting a generator to noisy queries: Liu, Vietri and Wu (2021); mixtures of products as its form: Aydore et al.
(2021). When to stop: the discrepancy principle (Morozov, 1966): who meets noisy counts better than their noise fits
the noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.autoregressive import draw_codes
from models.family import Family
from models.layout import OneHotLayout
from models.marginals import PAIR_CELLS, MarginalCounts, code_logits
from models.statistics import Statistics
from models.table_match import TableMatch
from protocol.errors import StudyError

_LOOK_EVERY = 25


@dataclass(frozen=True, kw_only=True)
class MomentsOptions:
    """What a study may choose about the generator.

    Args:
        components: Components of the mixture.
        pair_cells: Most coarse cells of a column in a table of two columns.
        steps: Most steps of the fit; it ends earlier where the counts are met as well as their noise allows.
        rate: Learning rate of the fit's Adam.
        spread: Standard deviation of the logits by which components differ before the fit. What the fit leaves of it
            ties columns together that nothing released does; too little leaves components alike.
        by_label: Whether pairs are counted under each label by itself, where the label has few codes.
        label: Index of the label, or None. A study may leave it out: it is then the schema's target.
    """

    components: int = 512
    pair_cells: int = PAIR_CELLS
    steps: int = 1500
    rate: float = 0.05
    spread: float = 0.5
    by_label: bool = True
    label: int | None = None

    def __post_init__(self) -> None:
        """Refuse sizes and rates that cannot fit anything."""
        if min(self.components, self.steps) < 1 or self.pair_cells < 2:
            raise StudyError(
                f"model.options: components={self.components}, steps={self.steps}, pair_cells={self.pair_cells}.",
                remedy="Give at least 1 component, 1 step and 2 cells.",
            )
        for key in ("rate", "spread"):
            if not 0 < getattr(self, key) < float("inf"):
                raise StudyError(f"model.options.{key}={getattr(self, key)}.", remedy="Give a positive number.")


class ProductMixture(nn.Module):
    """A mixture whose components draw every column by itself.

    Args:
        layout: The table's columns.
        components: Number of components.
    """

    def __init__(self, layout: OneHotLayout, *, components: int) -> None:
        super().__init__()
        self.layout = layout
        self.weights = nn.Parameter(torch.zeros(components))
        self.codes = nn.Parameter(torch.zeros(components, layout.width))

    def shares(self) -> Tensor:
        """Return the share of each component, ``[components]``."""
        return functional.softmax(self.weights, dim=0)

    def probabilities(self) -> list[Tensor]:
        """Return for every column the probability of its codes in each component, ``[components, K_j]``."""
        return [functional.softmax(block, dim=1) for block in self.layout.split(self.codes)]


class MomentGenerator(Family):
    """Fitted at the server to released counts; sites are asked for nothing else."""

    def __init__(self, layout: OneHotLayout, options: MomentsOptions) -> None:
        super().__init__(layout)
        self.options = options
        if options.label is not None and not 0 <= options.label < layout.columns:
            remedy = f"Give a column index below {layout.columns}."
            raise StudyError(f"model.options.label={options.label}.", remedy=remedy)
        label = options.label if options.by_label else None
        self._counts = MarginalCounts(layout, pairs=True, label=label, pair_cells=options.pair_cells)
        self._mixture = ProductMixture(layout, components=options.components)
        # A request always carries weights; this family has none to send.
        self._asked = nn.Linear(1, 1, bias=False)
        self.initialise(generator=torch.Generator().manual_seed(0))

    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw new initial weights: components differ, or they would stay alike for ever."""
        with torch.no_grad():
            nn.init.zeros_(self._asked.weight)
            nn.init.zeros_(self._mixture.weights)
            nn.init.normal_(self._mixture.codes, std=self.options.spread, generator=generator)

    @property
    def shared(self) -> nn.Module:
        """One number that means nothing: sites load no weights to count."""
        return self._asked

    @property
    def generator(self) -> nn.Module:
        """The mixture."""
        return self._mixture

    @property
    def statistics(self) -> Statistics:
        """Counts of every column and of every pair of columns, by label where labels are few."""
        return self._counts

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Refuse: there is nothing to train on records.

        Raises:
            StudyError: Always.
        """
        del codes, generator
        raise StudyError(
            "model.family is 'moments', which is not trained by gradients.",
            remedy='Set training.strategy = "statistics" and privacy.sample_rate = 1.',
        )

    def learn_statistics(self, number: int, means: Tensor, *, deviation: float, generator: torch.Generator) -> None:
        """Fit the mixture to the released counts; see :meth:`Family.learn_statistics`."""
        del number
        self.initialise(generator=generator)
        device = self._mixture.codes.device
        found = self._counts.read(means.to(device), deviation=deviation)
        with torch.no_grad():
            shapes = torch.cat(code_logits(found.columns, deviation=found.deviation))
            self._mixture.codes.add_(shapes.to(self._mixture.codes))
        match = TableMatch(self._counts, found, device=device)
        optimiser = torch.optim.Adam(self._mixture.parameters(), lr=self.options.rate)
        for step in range(self.options.steps):
            optimiser.zero_grad(set_to_none=True)
            columns = self._mixture.probabilities()
            labels = None if self._counts.label is None else columns[self._counts.label]
            loss = match.squares(torch.cat(columns, dim=1), labels, weights=self._mixture.shares())
            if step % _LOOK_EVERY == 0 and float(loss.detach()) <= match.noise:
                break
            torch.autograd.backward([loss])
            optimiser.step()

    @torch.no_grad()
    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw records; a restriction changes how likely the components are, so that all weigh the same."""
        columns = self._mixture.probabilities()
        logs = functional.log_softmax(self._mixture.weights, dim=0)
        for column, mask in allowed.items():
            columns[column] = columns[column] * mask.to(columns[column])
            logs = logs + columns[column].sum(dim=1).log()
        weight = torch.logsumexp(logs, dim=0).clamp(max=0.0)
        if not bool(weight.isfinite()):
            return self._void(count, weight)
        chosen = draw_codes((logs - logs.max()).exp().expand(count, -1), generator=generator)
        codes = torch.stack([draw_codes(column[chosen], generator=generator) for column in columns], dim=1)
        return codes, weight.expand(count) if allowed else torch.zeros(count, device=codes.device)

    def _void(self, count: int, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return records that count for nothing, under conditions that have no probability."""
        codes = torch.zeros(count, self.layout.columns, dtype=torch.long, device=weight.device)
        return codes, torch.full((count,), float("-inf"), device=weight.device)
