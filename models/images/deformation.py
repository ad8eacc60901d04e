"""Small random deformations of drawn images: turned, sheared, stretched and moved by a little.

A mixture of Gaussians knows only directions that the released moments show above their noise. That a thing which is
turned or moved by a little stays what it is, is public knowledge, as for `models.images.augmentation`; here it is used
on images that are synthetic already, and costs no privacy.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Standard deviations at strength 1: radians, shear, stretch, and the move as a share of half a side.
_TURN, _SHEAR, _STRETCH, _MOVE = 0.15, 0.1, 0.1, 0.07


def deformed(images: Tensor, *, strength: float, generator: torch.Generator) -> Tensor:
    """Return images after a random affine map each; what comes in from outside repeats the border.

    Args:
        images: ``[n, channels, height, width]``.
        strength: How much; 0 returns the images as they are.
        generator: Source of the maps, on the device of the images.

    Returns:
        ``[n, channels, height, width]``.
    """
    if strength == 0.0 or not len(images):
        return images
    numbers = strength * torch.randn(len(images), 6, generator=generator, device=images.device)
    turn, shear = _TURN * numbers[:, 0], _SHEAR * numbers[:, 1]
    across, down = 1.0 + _STRETCH * numbers[:, 2], 1.0 + _STRETCH * numbers[:, 3]
    maps = torch.zeros(len(images), 2, 3, device=images.device)
    maps[:, 0, 0], maps[:, 0, 1] = turn.cos() * across, shear - turn.sin()
    maps[:, 1, 0], maps[:, 1, 1] = turn.sin(), turn.cos() * down
    maps[:, :, 2] = _MOVE * numbers[:, 4:]
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
