"""Views of a record: the same image moved by a few pixels or mirrored, each a row of the record's own unit.

Averaging the gradients of several views before clipping costs no privacy, for a view is a function of its record and
of the step's key alone (De et al., 2022, "Unlocking high-accuracy differentially private image classification through
scale", section 3.4). Which changes leave an image what it is, is public knowledge and stands in the study.
"""

import torch
from torch import Tensor

from models.images.shape import ImageShape
from models.latent_noise import record_noise


def record_views(
    codes: Tensor, image: ImageShape, *, count: int, shift: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Return views of records.

    Args:
        codes: ``[n, columns + image.size]``, integers.
        image: The shape of the images.
        count: Views of each record; the first is the record itself.
        shift: Most pixels of a move in each direction; what comes in repeats the border.
        flip: Whether half of the moved copies are mirrored left to right.
        generator: Source of the step's key, on the device of ``codes``.

    Returns:
        ``[n * count, columns + image.size]``, the views of a record next to each other. They depend on the key and on
        their record alone.

    Example:
        >>> shape = ImageShape(height=8, width=8)
        >>> codes = torch.arange(65)[None]
        >>> record_views(codes, shape, count=3, shift=1, flip=False, generator=torch.Generator()).shape
        torch.Size([3, 65])
    """
    if count == 1:
        return codes
    columns = codes.shape[1] - image.size
    # A normal number's rank is uniform.
    ranks = torch.special.ndtr(record_noise(codes, 3 * (count - 1), generator=generator)).view(-1, 3)
    moves = (ranks[:, :2] * (2 * shift + 1)).long().clamp(max=2 * shift) - shift
    copies = codes.repeat_interleave(count - 1, dim=0)
    pixels = copies[:, columns:].view(-1, image.channels, image.height, image.width)
    pixels = _moved(pixels, moves[:, 0], dim=2)
    pixels = _moved(pixels, moves[:, 1], dim=3)
    if flip:
        pixels = torch.where((ranks[:, 2] < 0.5)[:, None, None, None], pixels.flip(3), pixels)
    changed = torch.cat([copies[:, :columns], pixels.flatten(1)], dim=1).view(len(codes), count - 1, codes.shape[1])
    return torch.cat([codes[:, None], changed], dim=1).flatten(0, 1)


def _moved(pixels: Tensor, by: Tensor, *, dim: int) -> Tensor:
    """Move each image ``by`` places along a dimension, repeating the border."""
    size = pixels.shape[dim]
    places = (torch.arange(size, device=pixels.device) - by[:, None]).clamp(0, size - 1)
    shape = [len(pixels), 1, 1, 1]
    shape[dim] = size
    return pixels.gather(dim, places.view(shape).expand_as(pixels))
