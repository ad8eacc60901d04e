"""What a release of released moments holds: a mixture of Gaussians per class, in few directions."""

import torch
from torch import Tensor, nn

from models.autoregressive import draw_codes
from models.images.moment_rounds import Axes


class Mixtures(nn.Module):
    """What a release holds: shares, means and covariances, and the directions that they are told in.

    Args:
        axes: Shapes of the directions and centres.
        tables: Codes of every column but the label; the module holds the logits ``[classes, K_j]`` of these.
    """

    def __init__(self, axes: Axes, tables: list[int]) -> None:
        super().__init__()
        classes, components, size = axes.centres.shape
        self.directions = _held(axes.directions.detach().clone())
        self.class_logits = _held(torch.zeros(classes))
        self.shares = _held(torch.full((classes, components), 1.0 / components))
        self.means = _held(torch.zeros(classes, components, size))
        self.factors = _held(torch.zeros(classes, components, size, size))
        self.tables = nn.ParameterList([_held(torch.zeros(classes, codes)) for codes in tables])

    def hold(self, *, shares: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Keep components ``[classes, components, ...]``; one per class stands for all of its class."""
        values, vectors = torch.linalg.eigh(covariances)
        factors = vectors * values.clamp(min=0.0).sqrt()[..., None, :]
        self.shares.copy_((shares / shares.sum(dim=1, keepdim=True)).expand_as(self.shares))
        self.means.copy_(means.expand_as(self.means))
        self.factors.copy_(factors.expand_as(self.factors))

    def draw(self, classes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the frequencies ``[n, features]``, float32, of an image of each class ``[n]``."""
        chosen = draw_codes(self.shares[classes], generator=generator)
        noise = torch.randn(len(classes), self.means.shape[2], generator=generator, device=classes.device)
        numbers = self.means[classes, chosen] + (self.factors[classes, chosen] @ noise[:, :, None])[:, :, 0]
        constant = self.means.shape[2] - self.directions.shape[0]
        return torch.cat([numbers[:, :constant], numbers[:, constant:] @ self.directions], dim=1)


def _held(values: Tensor) -> nn.Parameter:
    """Return a weight that is set and never trained."""
    return nn.Parameter(values, requires_grad=False)
