"""Codes of a record with an image, and the images in them as a network sees them.

The codes of a record are its columns' codes, and after them one code per pixel in the order channel, row, column.
"""

import torch
from torch import Tensor

from protocol.image_shape import ImageShape

__all__ = ["ImageShape", "pixel_codes", "split_codes", "to_images"]


def split_codes(codes: Tensor, image: ImageShape) -> tuple[Tensor, Tensor]:
    """Part the codes of records.

    Args:
        codes: ``[n, columns + image.size]``, integers.
        image: The shape of the images.

    Returns:
        The columns' codes ``[n, columns]`` and the images, float32 ``[n, channels, height, width]`` from 0 to 1.

    Example:
        >>> shape = ImageShape(height=8, width=8, levels=3)
        >>> columns, images = split_codes(torch.cat([torch.tensor([7]), torch.ones(64)])[None].int(), shape)
        >>> columns.tolist(), images.shape, images.max().item()
        ([[7]], torch.Size([1, 1, 8, 8]), 0.5)
    """
    columns = codes.shape[1] - image.size
    return codes[:, :columns], to_images(codes[:, columns:], image)


def to_images(pixels: Tensor, image: ImageShape) -> Tensor:
    """Return images, float32 ``[n, channels, height, width]`` from 0 to 1, of pixel codes ``[n, image.size]``."""
    return (pixels.float() / (image.levels - 1)).view(-1, image.channels, image.height, image.width)


def pixel_codes(images: Tensor, image: ImageShape) -> Tensor:
    """Return the nearest pixel codes, int64 ``[n, image.size]``, of images ``[n, channels, height, width]``.

    Values below 0 and above 1 become 0 and 1.
    """
    return torch.round(images.clamp(0.0, 1.0) * (image.levels - 1)).long().flatten(1)
