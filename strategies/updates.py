"""Updates: a round is some local steps of DP-SGD at every site, whose changes of the weights are averaged.

With SGD, momentum 0 and learning rate 1 at the server this is federated averaging (McMahan et al., 2017);
with momentum or Adam it is the corresponding adaptive method (Reddi et al., 2021). Sites weigh the same: a
weight by the number of records would give the number away.
"""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.plan import PrivacyPlan
from protocol.errors import StudyError
from protocol.terms import ContributionKind
from strategies.server_model import ServerModel
from strategies.strategy import Strategy


class FederatedUpdates(Strategy):
    """One server step per round, against the mean change of the weights."""

    kind: ClassVar[ContributionKind] = ContributionKind.UPDATES

    def __init__(self, plan: PrivacyPlan, model: ServerModel) -> None:
        super().__init__(plan, model)
        if plan.study.model.family == "gan":
            raise StudyError(
                "model.family is 'gan' with training.strategy 'updates'.",
                remedy="The generator stays at the server: use strategy 'gradients'.",
            )

    @property
    def step(self) -> float:
        """The value of one grid step of a contribution."""
        return self.plan.update_grid(self.model.dimension).step

    def apply(self, total: NDArray[np.float64], *, contributors: int, generator: torch.Generator) -> None:
        """Step against the mean change; see :meth:`Strategy.apply`."""
        self.model.step(torch.as_tensor(-total / contributors), generator=generator)
