"""A small convolutional classifier: trained on synthetic images, tested on real ones.

Two convolutions of 5 x 5 and two fully connected layers, after LeCun et al. (1998); always the same net and the same
number of steps, whatever the images came from, so that scores can be compared.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

BATCH = 128
MOST_STEPS = 3000
LEAST_STEPS = 300
_PASSES = 12
_RATE = 1e-3
_WIDTHS = (16, 32)
_HIDDEN = 128
_AT_ONCE = 1024


class Classifier(nn.Module):
    """Images in, logits of classes out.

    Args:
        shape: Channels, height, width; sides of at least 8.
        classes: Number of classes.
        generator: Source of the initial weights.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, *, generator: torch.Generator) -> None:
        super().__init__()
        channels, height, width = shape
        self.first = nn.Conv2d(channels, _WIDTHS[0], kernel_size=5, padding=2)
        self.second = nn.Conv2d(_WIDTHS[0], _WIDTHS[1], kernel_size=5, padding=2)
        self.third = nn.Linear(_WIDTHS[1] * (height // 4) * (width // 4), _HIDDEN)
        self.last = nn.Linear(_HIDDEN, classes)
        for layer in (self.first, self.second, self.third, self.last):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            layer.bias = nn.Parameter(torch.zeros(len(layer.weight)))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[n, classes]`` of images ``[n, channels, height, width]``."""
        maps = functional.max_pool2d(functional.relu(self.first(images - 0.5)), 2)
        maps = functional.max_pool2d(functional.relu(self.second(maps)), 2)
        logits: Tensor = self.last(functional.relu(self.third(maps.flatten(1))))
        return logits

    @torch.no_grad()
    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each class, ``[n, classes]``."""
        device = self.last.weight.device
        parts = [
            functional.softmax(self(torch.as_tensor(images[start : start + _AT_ONCE]).to(device)).double(), dim=1)
            for start in range(0, len(images), _AT_ONCE)
        ]
        found: NDArray[np.float64] = torch.cat(parts).cpu().numpy()
        return found


def train_classifier(
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    classes: int,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> Classifier:
    """Train a new classifier.

    Args:
        images: ``[n, channels, height, width]`` from 0 to 1, at least one.
        labels: ``[n]``, 0 to classes - 1.
        classes: Number of classes.
        generator: Source of initial weights and batches, on the CPU.
        device: Where to train; the CPU if None.

    Returns:
        The classifier after Adam's (Kingma and Ba, 2015) 12 passes over the images, at least 300 and at most 3,000
        steps of 128 images, with a learning rate that falls to zero along a cosine.
    """
    shape = (images.shape[1], images.shape[2], images.shape[3])
    model = Classifier(shape, classes, generator=generator).to(device)
    steps = min(MOST_STEPS, max(LEAST_STEPS, _PASSES * -(-len(images) // BATCH)))
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    held, right = torch.tensor(images).to(device), torch.tensor(labels).to(device)
    for rows in _batches(len(images), steps, generator):
        optimiser.zero_grad()
        # By name: autograd.grad gives what backward() would leave on the weights, with a type.
        loss = functional.cross_entropy(model(held[rows]), right[rows])
        loss.backward()  # type: ignore[no-untyped-call]  # torch gives this method no type
        optimiser.step()
        schedule.step()
    return model


def _batches(count: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield rows of so many batches, every image once per pass."""
    order, start = torch.randperm(count, generator=generator), 0
    for _ in range(steps):
        if start >= count:
            order, start = torch.randperm(count, generator=generator), 0
        yield order[start : start + BATCH]
        start += BATCH
