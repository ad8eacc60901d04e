"""Drawing records that meet a condition."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.family import Family


def sample_where(
    family: Family, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator
) -> Tensor:
    """Return codes ``[count, columns]``."""
    return family.draw(count, allowed=allowed, generator=generator)[0]
