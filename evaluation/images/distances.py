"""How far two sets of images are from each other, and whether synthetic images repeat training ones."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from protocol.errors import RecordsError

MOST_IMAGES = 2000
_SEED = 20181
_WIDTHS = (32, 64)
_CELLS = 2
_AT_ONCE = 512


def features(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return features of images in a fixed, public space.

    Two layers of random convolutions with rectifiers and pooling, always the same: they know textures and strokes, and
    nothing about any data set. Random features compare images that are no photographs better than a net trained on
    photographs does (Naeem et al., 2020, section 4).

    Args:
        images: ``[n, channels, height, width]`` from 0 to 1, sides of at least 8.

    Returns:
        ``[n, 256]``.
    """
    generator = torch.Generator().manual_seed(_SEED)
    before, filters = images.shape[1], []
    for width in _WIDTHS:
        weights = torch.randn(width, before, 3, 3, generator=generator)
        filters.append(weights * (2.0 / (9 * before)) ** 0.5)
        before = width
    parts = [_features(torch.as_tensor(images[i : i + _AT_ONCE]), filters) for i in range(0, len(images), _AT_ONCE)]
    found: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return found


def _features(images: Tensor, filters: list[Tensor]) -> Tensor:
    maps = 2.0 * images - 1.0
    for weights in filters:
        maps = functional.avg_pool2d(functional.relu(functional.conv2d(maps, weights, padding=1)), 2)
    return functional.adaptive_avg_pool2d(maps, _CELLS).flatten(1)


def kernel_distance(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return the squared maximum mean discrepancy of two sets of features, unbiased.

    The kernel is ``(x . y / d + 1)^3``; the distance is 0 on average where both come from one distribution, and may
    then be slightly negative (Binkowski et al., 2018, "Demystifying MMD GANs").

    Args:
        left: ``[n, d]``, n of at least 2.
        right: ``[m, d]``, m of at least 2.

    Raises:
        RecordsError: A set has fewer than two rows.

    Examples:
        >>> same = np.zeros((3, 2))
        >>> kernel_distance(same, same), kernel_distance(same, same + 1.0)
        (0.0, 7.0)
    """
    if min(len(left), len(right)) < 2:
        raise RecordsError(f"{len(left)} and {len(right)} images.", remedy="Give at least two of each.")
    within = sum(_without_diagonal(each) for each in (left, right))
    return float(within - 2.0 * _kernel(left, right).mean())


def _kernel(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    products: NDArray[np.float64] = (left @ right.T / left.shape[1] + 1.0) ** 3
    return products


def _without_diagonal(rows: NDArray[np.float64]) -> float:
    products = _kernel(rows, rows)
    return float((products.sum() - np.trace(products)) / (len(rows) * (len(rows) - 1)))


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Whether synthetic images are nearer to training images than images of the same kind have to be.

    Attributes:
        closer_to_train: Share of synthetic images whose nearest real image is a training one, among as many training
            as test images. 0.5 is ideal; well above it means that training images are repeated.
        copies: Synthetic images that are a training image, pixel by pixel.
        synthetic: How many synthetic images were looked at.
        each: How many training, and as many test images, they were compared with.
    """

    closer_to_train: float
    copies: int
    synthetic: int
    each: int


def nearest(
    synthetic: NDArray[np.float32],
    train: NDArray[np.float32],
    test: NDArray[np.float32],
    *,
    generator: np.random.Generator,
) -> Nearest:
    """Compare synthetic images with training and test images; ties count as a half.

    Args:
        synthetic: ``[n, channels, height, width]``, at least one.
        train: Images that the generator was trained on, at least one.
        test: Images that it never saw, at least one.
        generator: Chooses at most 2,000 images of each.
    """
    each = min(len(train), len(test), MOST_IMAGES)
    rows = _some(synthetic, MOST_IMAGES, generator)
    distances = [_least(rows, _some(real, each, generator)) for real in (train, test)]
    closer = (distances[0] < distances[1]) + 0.5 * (distances[0] == distances[1])
    known = {image.tobytes() for image in train}
    return Nearest(
        closer_to_train=float(closer.mean()),
        copies=sum(image.tobytes() in known for image in synthetic),
        synthetic=len(rows),
        each=each,
    )


def _some(images: NDArray[np.float32], most: int, generator: np.random.Generator) -> NDArray[np.float32]:
    if len(images) <= most:
        return images
    return images[generator.choice(len(images), size=most, replace=False)]


def _least(rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the squared distance of each image to the nearest of the others, ``[n]``."""
    left, right = (images.reshape(len(images), -1).astype(np.float64) for images in (rows, others))
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2.0 * left @ right.T
    # Rounding may put equal images a little apart, on either side of zero.
    least: NDArray[np.float64] = np.round(np.maximum(squares, 0.0), 6).min(axis=1)
    return least
