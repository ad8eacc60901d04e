"""What every way of combining contributions offers to the server's loop."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.plan import PrivacyPlan
from protocol.terms import ContributionKind
from strategies.server_model import ServerModel


class Strategy(ABC):
    """Turns the sum of a round's contributions into the next model.

    Args:
        plan: The study's privacy plan.
        model: The server's model.
    """

    kind: ClassVar[ContributionKind]

    def __init__(self, plan: PrivacyPlan, model: ServerModel) -> None:
        self.plan = plan
        self.model = model

    @property
    def dimension(self) -> int:
        """Number of coordinates of a contribution."""
        return self.model.dimension

    @property
    @abstractmethod
    def step(self) -> float:
        """The value of one grid step of a contribution."""

    @abstractmethod
    def apply(self, total: NDArray[np.float64], *, contributors: int, generator: torch.Generator) -> None:
        """Step the model.

        Args:
            total: :attr:`dimension` coordinates, the sum of the contributions, in the unit of the clip norm.
            contributors: How many sites contributed.
            generator: Source of the server's own draws; nothing here needs to be secret.
        """
