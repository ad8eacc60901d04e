"""Decoders of a table: a distribution over every column, given a latent vector.

The autoregressive decoder factorises ``p(x | z) = prod_j p(x_j | x_<j, z)`` with one linear layer per column.
It carries the dependencies between columns that a latent vector cannot learn under noise, and it has no
hidden layer that would spend the clip norm. The factorised decoder, ``prod_j p(x_j | z)``, is its ablation.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layout import OneHotLayout
from protocol.errors import InputError


class AutoregressiveDecoder(nn.Module):
    """``p(x_j | x_<j, z)`` by one linear layer per column, zero at the start (every code equally likely).

    A column's logits are ``W_j z + b_j + sum_(i<j) E_j[x_i]``. The sum is a bag of embeddings: the linear
    layer of the one-hot vectors of the columns before, without the multiplications by zero.

    Args:
        layout: The table's columns.
        latent: Size of the latent vector.
        order: The order in which columns are generated, a permutation of their indices.

    Raises:
        InputError: If ``order`` is no permutation.
    """

    def __init__(self, layout: OneHotLayout, *, latent: int, order: Sequence[int] | None = None) -> None:
        super().__init__()
        self.layout = layout
        self.latent = latent
        self.order = tuple(order) if order is not None else tuple(range(layout.columns))
        if sorted(self.order) != list(range(layout.columns)):
            raise InputError(f"Column order {self.order}.", remedy="Name every column once.")
        self.ordered = OneHotLayout(cardinalities=tuple(layout.cardinalities[j] for j in self.order))
        self.latent_heads = nn.ModuleList(nn.Linear(latent, size) for size in self.ordered.cardinalities)
        self.column_heads = nn.ModuleList(
            nn.EmbeddingBag(start, size, mode="sum", _weight=torch.zeros(start, size))
            for start, size in zip(self.ordered.offsets[1:], self.ordered.cardinalities[1:], strict=True)
        )
        self.initialise()

    def initialise(self) -> None:
        """Set all weights to zero."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()

    def negative_log_likelihood(self, codes: Tensor, latent: Tensor) -> Tensor:
        """Return ``-log p(x | z)``, ``[n]``, of codes ``[n, columns]`` and latents ``[n, latent]``."""
        ordered = codes[:, list(self.order)].long()
        places = self.ordered.places(ordered)
        losses = [
            functional.cross_entropy(self._logits(j, latent, places), ordered[:, j], reduction="none")
            for j in range(self.layout.columns)
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
        # Column by column in memory, so that the columns drawn so far are a prefix.
        places = torch.empty(codes.shape[::-1], dtype=torch.long, device=latent.device).T
        weight = torch.zeros(latent.shape[0], device=latent.device)
        for j, column in enumerate(self.order):
            logits = self._logits(j, latent, places)
            drawn, log_mass = draw_allowed(logits, allowed=allowed.get(column), generator=generator)
            weight += log_mass
            codes[:, column] = drawn
            places[:, j] = drawn + self.ordered.offsets[j]
        return codes, weight

    def _logits(self, j: int, latent: Tensor, places: Tensor) -> Tensor:
        """Return the logits ``[n, K]`` of the j-th column in order; ``places`` holds those before it."""
        logits: Tensor = self.latent_heads[j](latent)
        return logits if j == 0 else logits + self.column_heads[j - 1](places[:, :j])


class FactorisedDecoder(nn.Module):
    """``p(x_j | z)``, columns independent given the latent: the ordinary decoder, kept as the ablation."""

    def __init__(self, layout: OneHotLayout, *, latent: int) -> None:
        super().__init__()
        self.layout = layout
        self.head = nn.Linear(latent, layout.width)

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
