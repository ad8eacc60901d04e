"""Gradients: a round is one step of DP-SGD, taken on the sum over all sites."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from protocol.terms import ContributionKind
from strategies.strategy import Strategy


class GradientDescent(Strategy):
    """One server step per round, along the mean of the released gradients and the public part of the loss.

    The divisor is the public expected number of units. Where sites are missing it shrinks with the number of
    sites that answered, which is public too.
    """

    kind: ClassVar[ContributionKind] = ContributionKind.GRADIENTS

    @property
    def step(self) -> float:
        """The value of one grid step of a contribution."""
        return self.plan.step_mechanism(self.model.dimension).grid.step

    def apply(self, total: NDArray[np.float64], *, contributors: int, generator: torch.Generator) -> None:
        """Step along the mean gradient; see :meth:`Strategy.apply`."""
        present = contributors / self.plan.study.federation.sites
        gradient = torch.as_tensor(total / (self.plan.expected_units * present))
        public = self.model.family.public_gradient(clip_norm=self.plan.study.privacy.clip_norm, generator=generator)
        if public is not None:
            gradient = gradient + public
        self.model.step(gradient, generator=generator)
