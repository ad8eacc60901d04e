"""Convolutional blocks that treat every record by itself: group normalisation, or none, in place of batch norm."""

import math
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.images.shape import ImageShape

_GROUP_CHANNELS = 4


class Norm(StrEnum):
    """How a layer's output is normalised."""

    GROUP = "group"
    NONE = "none"


def sides(image: ImageShape, halvings: int) -> list[tuple[int, int]]:
    """Return the sides of the feature maps, from the image's own downwards.

    Example:
        >>> sides(ImageShape(height=28, width=28), 2)
        [(28, 28), (14, 14), (7, 7)]
    """
    return [(max(image.height >> k, 1), max(image.width >> k, 1)) for k in range(halvings + 1)]


class Shrink(nn.Module):
    """Image in, feature vector out: each convolution halves the sides.

    Args:
        image: The shape of the images.
        widths: Channels after each convolution, at most three of them.
        norm: Normalisation of their outputs.
    """

    def __init__(self, image: ImageShape, widths: tuple[int, ...], *, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = image.channels
        for width in widths:
            layers.append(nn.Conv2d(before, width, kernel_size=4, stride=2, padding=1))
            if norm is Norm.GROUP:
                layers.append(group_norm(width))
            layers.append(nn.LeakyReLU(0.2))
            before = width
        self.layers = nn.Sequential(*layers)
        height, width = sides(image, len(widths))[-1]
        self.size = before * height * width

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``[n, size]`` of images ``[n, channels, height, width]`` from 0 to 1."""
        features: Tensor = self.layers(2.0 * images - 1.0).flatten(1)
        return features


class Grow(nn.Module):
    """Vector in, logits of an image out: each step doubles the sides, by repeating pixels, and convolves.

    Args:
        inputs: Size of the vector.
        image: The shape of the images.
        widths: Channels before each step, at most three of them.
        batch_norm: Whether to normalise over the batch: only for a net that never meets a record.
    """

    def __init__(self, inputs: int, image: ImageShape, widths: tuple[int, ...], *, batch_norm: bool) -> None:
        super().__init__()
        self.sides = sides(image, len(widths))[::-1]
        self.first = (widths[0], *self.sides[0])
        self.head = nn.Linear(inputs, math.prod(self.first))
        outputs = (*widths[1:], image.channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if batch_norm else group_norm(width) for width in widths)
        self.steps = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, padding=1) for before, after in zip(widths, outputs, strict=True)
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Return logits ``[n, channels, height, width]`` of vectors ``[n, inputs]``."""
        maps = self.head(vectors).view(-1, *self.first)
        for norm, step, size in zip(self.norms, self.steps, self.sides[1:], strict=True):
            maps = step(functional.interpolate(functional.leaky_relu(norm(maps), 0.2), size=size, mode="nearest"))
        logits: Tensor = maps
        return logits


def group_norm(width: int) -> nn.GroupNorm:
    """Return group normalisation (Wu and He, 2018) with groups of four channels, or as many as divide the width."""
    return nn.GroupNorm(width // math.gcd(width, _GROUP_CHANNELS), width)


def grey(logits: Tensor) -> Tensor:
    """Return pixels from 0 to 1 of logits."""
    return torch.sigmoid(logits.float())
