"""The generator of an adversarial network: noise and a label in, probabilities of every column out."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layout import OneHotLayout


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

    def set_shapes(self, logits: tuple[Tensor, ...]) -> None:
        """Start all columns with shapes, log-shares ``[K_j]``, and dependencies that are weak."""
        with torch.no_grad():
            self.head.weight.mul_(0.3)
            self.head.bias.copy_(torch.cat(logits))


def even_labels(shares: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Return labels, int64 ``[count]``, that occur as often as their shares say, give or take one each.

    Example:
        >>> torch.bincount(even_labels(torch.tensor([0.25, 0.75]), 8, generator=torch.Generator())).tolist()
        [2, 6]
    """
    cumulative = shares.detach().cumsum(dim=0)
    start = torch.rand(1, generator=generator, device=shares.device)
    points = (torch.arange(count, device=shares.device) + start) / count * cumulative[-1]
    return torch.searchsorted(cumulative, points, right=True).clamp(max=len(shares) - 1)


def straight_through(logits: Tensor, *, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one-hot vectors ``[n, K]``, with the gradient of the soft draw (Jang, Gu and Poole, 2017)."""
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(1e-20, 1 - 1e-7)
    soft = functional.softmax((logits - (-uniform.log()).log()) / temperature, dim=1)
    hard = functional.one_hot(soft.argmax(dim=1), logits.shape[1]).to(soft.dtype)
    return hard + soft - soft.detach()


def draw_columns(
    layout: OneHotLayout, logits: Tensor, *, given: dict[int, Tensor], temperature: float, generator: torch.Generator
) -> Tensor:
    """Return records ``[n, width]``, one-hot forwards and soft backwards.

    Args:
        layout: The table's columns.
        logits: ``[n, width]``.
        given: One-hot blocks ``[n, K_j]`` of columns that are not to be drawn.
        temperature: Of the soft draw.
        generator: Source of the draws.
    """
    blocks = [
        given[column] if column in given else straight_through(block, temperature=temperature, generator=generator)
        for column, block in enumerate(layout.split(logits))
    ]
    return torch.cat(blocks, dim=1)


def column_shares(layout: OneHotLayout, logits: Tensor, *, given: dict[int, Tensor]) -> Tensor:
    """Return the probabilities ``[n, width]`` of the codes of every column; those of ``given`` columns are theirs."""
    blocks = [given.get(column, functional.softmax(block, dim=1)) for column, block in enumerate(layout.split(logits))]
    return torch.cat(blocks, dim=1)
