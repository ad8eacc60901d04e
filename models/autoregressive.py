"""Decoders of a table: a distribution over every column, given a latent vector.

The autoregressive decoder factorises ``p(x | z) = prod_j p(x_j | x_<j, z)`` with one linear layer per column. It
carries the dependencies between columns that a latent vector cannot learn under noise, and it has no hidden layer
that would spend the clip norm. The factorised decoder, ``prod_j p(x_j | z)``, is its ablation.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layout import OneHotLayout


class AutoregressiveDecoder(nn.Module):
    """``p(x_j | x_<j, z)`` by one linear layer per column, zero at the start (every code equally likely).

    Args:
        layout: The table's columns.
        latent: Size of the latent vector.
        order: The order in which columns are generated, a permutation of their indices.
    """

    def __init__(self, layout: OneHotLayout, *, latent: int, order: Sequence[int] | None = None) -> None:
        super().__init__()
        self.layout = layout
        self.latent = latent
        self.order = tuple(order) if order is not None else tuple(range(layout.columns))
        self.ordered = OneHotLayout(cardinalities=tuple(layout.cardinalities[j] for j in self.order))
        self.heads = nn.ModuleList(
            nn.Linear(latent + start, size)
            for start, size in zip(self.ordered.offsets, self.ordered.cardinalities, strict=True)
        )
        for head in self.heads:
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]  # ModuleList erases the layer's type
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]  # as above

    def negative_log_likelihood(self, codes: Tensor, latent: Tensor) -> Tensor:
        """Return ``-log p(x | z)`` per record, ``[n]``, of codes ``[n, columns]`` and latents ``[n, latent]``."""
        ordered = codes[:, list(self.order)].long()
        known = torch.cat([latent, self.ordered.encode(ordered).to(latent.dtype)], dim=1)
        losses = [
            functional.cross_entropy(head(known[:, : self.latent + start]), ordered[:, j], reduction="none")
            for j, (head, start) in enumerate(zip(self.heads, self.ordered.offsets, strict=True))
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
            Codes ``[n, columns]`` (int64), and the log-probability ``[n]`` that the unrestricted model would have
            met every restriction at its turn: the weight of the record as a sample of the conditional.
        """
        count, device = latent.shape[0], latent.device
        known = torch.zeros(count, self.latent + self.ordered.width, device=device)
        known[:, : self.latent] = latent
        codes = torch.zeros(count, self.layout.columns, dtype=torch.long, device=device)
        weight = torch.zeros(count, device=device)
        for head, start, column in zip(self.heads, self.ordered.offsets, self.order, strict=True):
            probabilities = functional.softmax(head(known[:, : self.latent + start]), dim=1)
            if column in allowed:
                probabilities = probabilities * allowed[column].to(device)
                weight += probabilities.sum(dim=1).log()
            drawn = draw_codes(probabilities, generator=generator)
            codes[:, column] = drawn
            known.scatter_(1, (self.latent + start + drawn)[:, None], 1.0)
        return codes, weight


class FactorisedDecoder(nn.Module):
    """``p(x_j | z)``, columns independent given the latent: the ordinary VAE decoder, kept as the ablation."""

    def __init__(self, layout: OneHotLayout, *, latent: int) -> None:
        super().__init__()
        self.layout = layout
        self.head = nn.Linear(latent, layout.width)

    def negative_log_likelihood(self, codes: Tensor, latent: Tensor) -> Tensor:
        """Return ``-log p(x | z)`` per record, ``[n]``, of codes ``[n, columns]`` and latents ``[n, latent]``."""
        blocks = self.layout.split(self.head(latent))
        losses = [functional.cross_entropy(b, codes[:, j].long(), reduction="none") for j, b in enumerate(blocks)]
        return torch.stack(losses).sum(dim=0)

    @torch.no_grad()
    def sample(
        self, latent: Tensor, *, allowed: Mapping[int, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw one record per latent vector; as :meth:`AutoregressiveDecoder.sample`."""
        codes, weight = [], torch.zeros(latent.shape[0], device=latent.device)
        for column, block in enumerate(self.layout.split(self.head(latent))):
            probabilities = functional.softmax(block, dim=1)
            if column in allowed:
                probabilities = probabilities * allowed[column].to(latent.device)
                weight += probabilities.sum(dim=1).log()
            codes.append(draw_codes(probabilities, generator=generator))
        return torch.stack(codes, dim=1), weight


def draw_codes(probabilities: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw one index per row of non-negative weights ``[n, K]`` by inversion; rows need not add up to one."""
    cumulative = probabilities.cumsum(dim=1)
    total = cumulative[:, -1:]
    points = torch.rand(total.shape, generator=generator, device=total.device, dtype=total.dtype) * total
    drawn = torch.searchsorted(cumulative, points, right=True).squeeze(1)
    # Rounding may put a point on the total itself; the last code with any weight is then the answer.
    last = probabilities.shape[1] - 1 - (probabilities.flip(1) > 0).to(torch.uint8).argmax(dim=1)
    return torch.minimum(drawn, last)
