"""Decoders of a table: a distribution over every column, given a latent vector.

The autoregressive decoder factorises ``p(x | z) = prod_j p(x_j | x_<j, z)`` with one linear layer per column.
It carries the dependencies between columns that a latent vector cannot learn under noise, and it has no
hidden layer that would spend the clip norm. Long lines of codes are seen through a few public features. The
factorised decoder, ``prod_j p(x_j | z)``, is its ablation.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.geometry import SPLINES, ShortFeatures
from models.layout import OneHotLayout
from privacy.indicator_linear import IndicatorLinear
from protocol.errors import InputError

INPUT_SCALE = 0.7
LATENT_SCALE = 0.3


class AutoregressiveDecoder(nn.Module):
    """``p(x_j | x_<j, z)`` by one linear layer per column, zero at the start (every code equally likely).

    A column's logits are ``b_j + F_j (W_j [r z, s f(x_<j)])``, where ``f`` are the features of the columns before
    (:func:`models.geometry.column_features`), ``F_j`` those of the column's own codes, and ``b_j`` one number per
    code. So the shape of a column is learnt code by code, and what it has to do with other columns from few weights.

    The factors ``s`` and ``r`` say how fast dependencies are learnt beside the columns' own shapes: under a clip norm
    that all weights share, more of the one is less of the other.

    Args:
        layout: The table's columns.
        latent: Size of the latent vector.
        order: The order in which columns are generated, a permutation of their indices; None for those with the
            fewest codes first: what is drawn early has few weights, and is learnt best.
        splines: Hat functions over a line of codes; 0 for an indicator per code.
        input_scale: The factor ``s``.
        latent_scale: The factor ``r``.

    Raises:
        InputError: If ``order`` is no permutation.
    """

    def __init__(
        self,
        layout: OneHotLayout,
        *,
        latent: int,
        order: Sequence[int] | None = None,
        splines: int = SPLINES,
        input_scale: float = INPUT_SCALE,
        latent_scale: float = LATENT_SCALE,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.latent = latent
        fewest_first = sorted(range(layout.columns), key=layout.cardinalities.__getitem__)
        self.order = tuple(fewest_first if order is None else order)
        if sorted(self.order) != list(range(layout.columns)):
            raise InputError(f"Column order {self.order}.", remedy="Name every column once.")
        self.features = ShortFeatures(layout, splines=splines)
        self.input_scale = input_scale
        self.latent_scale = latent_scale
        sizes = [self.features.sizes[column] for column in self.order]
        self.starts = tuple(sum(sizes[:j]) for j in range(len(sizes) + 1))
        self.shapes = nn.Linear(1, layout.width, bias=False)
        self.ends = self.features.ends(self.order)
        self.heads = nn.ModuleList(
            IndicatorLinear(latent + start, size, scale=input_scale)
            for start, size in zip(self.starts, sizes, strict=False)
        )
        self.initialise()

    def initialise(self) -> None:
        """Set all weights to zero."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()

    @torch.no_grad()
    def set_shapes(self, logits: Sequence[Tensor]) -> None:
        """Set the number ``b_j`` of every code: logits ``[K_j]`` of every column, in column order."""
        self.shapes.weight.copy_(torch.cat([part.to(self.shapes.weight) for part in logits])[:, None])

    @torch.no_grad()
    def set_dependence(self, column: int, *, on: int, weights: Tensor) -> None:
        """Set what two columns have to do with each other: weights ``[M_column, M_on]``, by the features of both.

        Whichever comes later in the order depends on the other.
        """
        first, second = self.order.index(on), self.order.index(column)
        if first > second:
            first, second, weights = second, first, weights.T
        block = slice(self.latent + self.starts[first], self.latent + self.starts[first + 1])
        head = cast(nn.Linear, self.heads[second]).weight
        head[:, block] = (weights / self.input_scale).to(head)

    def negative_log_likelihood(self, codes: Tensor, latent: Tensor) -> Tensor:
        """Return ``-log p(x | z)``, ``[n]``, of codes ``[n, columns]`` and latents ``[n, latent]``."""
        codes = codes.long()
        known = self._scaled(self.features(codes, self.order))
        latent, shapes = self.latent_scale * latent, self._shapes(latent)
        losses = [
            functional.cross_entropy(self._logits(j, latent, known, shapes), codes[:, column], reduction="none")
            for j, column in enumerate(self.order)
        ]
        return torch.stack(losses).sum(dim=0)

    @torch.no_grad()
    def sample(
        self, latent: Tensor, *, allowed: Mapping[int, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw one record per latent vector, column by column.

        Args:
            latent: ``[n, latent]``.
            allowed: For a column index, the mask ``[K_j]`` of codes that may be drawn.
            generator: Source of the draws.

        Returns:
            Codes ``[n, columns]`` (int64), and the log-probability ``[n]`` that the unrestricted model would
            have met every restriction at its turn: the weight of the record as a sample of the conditional.
                Where it is
            minus infinity the record is void and its codes may break a restriction.
        """
        codes = torch.empty(latent.shape[0], self.layout.columns, dtype=torch.long, device=latent.device)
        known = (codes if self.features.indicators else latent).new_zeros(latent.shape[0], self.ends[-1])
        weight = torch.zeros(latent.shape[0], device=latent.device)
        latent, shapes = self.latent_scale * latent, self._shapes(latent)
        for j, column in enumerate(self.order):
            logits = self._logits(j, latent, known, shapes)
            drawn, log_mass = draw_allowed(logits, allowed=allowed.get(column), generator=generator)
            weight += log_mass
            codes[:, column] = drawn
            known[:, self.ends[j] : self.ends[j + 1]] = self._entry(j, drawn)
        return codes, weight

    def _scaled(self, known: Tensor) -> Tensor:
        """Return features times their factor, which the heads know of those that are given by place."""
        return known if self.features.indicators else self.input_scale * known

    def _entry(self, j: int, drawn: Tensor) -> Tensor:
        """Return what the codes ``[n]`` of the j-th column in order say to the columns behind it."""
        features = self.features.of(self.order[j])
        if self.features.indicators:
            return self.starts[j] + features.argmax(dim=1)[drawn, None]
        return self._scaled(features[drawn])

    def _shapes(self, latent: Tensor) -> Sequence[Tensor]:
        """Return the numbers ``b_j``, a view ``[n, K_j]`` for every column."""
        return self.layout.split(self.shapes(latent.new_ones(latent.shape[0], 1)))

    def _logits(self, j: int, latent: Tensor, known: Tensor, shapes: Sequence[Tensor]) -> Tensor:
        """Return the logits ``[n, K]`` of the j-th column in order, of scaled latents and what is known of it."""
        column = self.order[j]
        if self.latent + self.starts[j] == 0:
            return shapes[column]
        signal = self.heads[j](latent, known[:, : self.ends[j]])
        features = self.features.of(column)
        logits: Tensor = shapes[column] + (signal if _is_identity(features) else signal @ features.T)
        return logits


class FactorisedDecoder(nn.Module):
    """``p(x_j | z)``, columns independent given the latent: the ordinary decoder, kept as the ablation."""

    def __init__(self, layout: OneHotLayout, *, latent: int) -> None:
        super().__init__()
        self.layout = layout
        self.head = nn.Linear(latent, layout.width)

    @torch.no_grad()
    def set_shapes(self, logits: Sequence[Tensor]) -> None:
        """Set the bias of every code: logits ``[K_j]`` of every column."""
        self.head.bias.copy_(torch.cat([part.to(self.head.bias) for part in logits]))

    def negative_log_likelihood(self, codes: Tensor, latent: Tensor) -> Tensor:
        """Return ``-log p(x | z)``, ``[n]``, of codes ``[n, columns]`` and latents ``[n, latent]``."""
        blocks = self.layout.split(self.head(latent))
        losses = [functional.cross_entropy(b, codes[:, j].long(), reduction="none") for j, b in enumerate(blocks)]
        return torch.stack(losses).sum(dim=0)

    @torch.no_grad()
    def sample(
        self, latent: Tensor, *, allowed: Mapping[int, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw one record per latent vector; as :meth:`AutoregressiveDecoder.sample`."""
        codes, weight = [], torch.zeros(latent.shape[0], device=latent.device)
        for column, logits in enumerate(self.layout.split(self.head(latent))):
            drawn, log_mass = draw_allowed(logits, allowed=allowed.get(column), generator=generator)
            weight += log_mass
            codes.append(drawn)
        return torch.stack(codes, dim=1), weight


def _is_identity(features: Tensor) -> bool:
    """Return whether every code has an indicator of its own: only such features are square."""
    return features.shape[0] == features.shape[1]


def draw_allowed(
    logits: Tensor, *, allowed: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | float]:
    """Draw one code per row of logits from those that are allowed.

    Args:
        logits: ``[n, K]``.
        allowed: Boolean mask ``[K]``; None allows all.
        generator: Source of the draws.

    Returns:
        Codes ``[n]``, and the log-probability ``[n]`` of the allowed codes together, at most zero (0.0 if all
        are).
    """
    probabilities = functional.softmax(logits, dim=1)
    if allowed is None:
        return draw_codes(probabilities, generator=generator), 0.0
    probabilities = probabilities * allowed.to(probabilities.device)
    log_mass = probabilities.sum(dim=1).log().clamp(max=0.0)
    return draw_codes(probabilities, generator=generator), log_mass


def draw_codes(weights: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw one index per row of non-negative weights by inversion; rows need not add up to one.

    Args:
        weights: ``[n, K]``, finite. An index of weight zero is never drawn, unless a row has no other.
        generator: Source of the draws, on the device of ``weights``.

    Returns:
        int64 ``[n]``.

    Raises:
        InputError: If a weight is not a number or infinite.

    Example:
        >>> draw_codes(torch.tensor([[0.0, 2.0, 0.0]]), generator=torch.Generator()).tolist()
        [1]
    """
    cumulative = weights.cumsum(dim=1)
    total = cumulative[:, -1:]
    if not bool(total.isfinite().all()):
        raise InputError(
            "The model gives probabilities that are not finite.",
            remedy="Its training diverged: train it anew.",
        )
    points = torch.rand(total.shape, generator=generator, device=total.device, dtype=total.dtype) * total
    drawn = torch.searchsorted(cumulative, points, right=True).squeeze(1).clamp(max=weights.shape[1] - 1)
    # Rounding may put a point on the total, or let a parallel sum dip: the likeliest index is then the
    # answer.
    void = weights.gather(1, drawn[:, None]).squeeze(1) <= 0
    if bool(void.any()):
        drawn = torch.where(void, weights.argmax(dim=1), drawn)
    return drawn
