"""Updates: a round is some local steps of DP-SGD at every site, whose changes of the weights are averaged.

With SGD, momentum 0 and learning rate 1 at the server this is federated averaging (McMahan et al., 2017);
with momentum or Adam it is the corresponding adaptive method (Reddi et al., 2021). Sites weigh the same: a
weight by the number of records would give the number away.

Where the loss has a part that no record enters, such as the fake half of a critic's, a site adds it to each of its
local steps, after the noise. Each step is a function of weights that are already private and of what the server sent,
which is private too: post-processing, however often. A generator that a site needs for it comes with the weights, is
never trained there, and takes its own steps at the server, once per round.
"""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from protocol.terms import ContributionKind
from strategies.strategy import Strategy


class FederatedUpdates(Strategy):
    """One server step per round, against the mean change of the weights."""

    kind: ClassVar[ContributionKind] = ContributionKind.UPDATES

    @property
    def step(self) -> float:
        """The value of one grid step of a contribution."""
        return self.plan.update_grid(self.model.dimension).step

    def apply(self, total: NDArray[np.float64], *, contributors: int, generator: torch.Generator) -> None:
        """Step against the mean change; see :meth:`Strategy.apply`."""
        self.model.step(torch.as_tensor(-total / contributors), generator=generator)
