"""Statistics: a round is one noisy sum of a public function of every unit, from which the server's model learns."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.statistics import Statistics
from privacy.plan import PrivacyPlan
from privacy.stage import Stage
from protocol.terms import ContributionKind
from strategies.server_model import ServerModel
from strategies.strategy import Strategy
from strategies.study_model import statistics_of


class ReleasedStatistics(Strategy):
    """One round of statistics; all that the family does with what was released is post-processing.

    The divisor is the public number of units. Where sites are missing it shrinks with the number of sites that
    answered, which is public too.

    Args:
        plan: The study's privacy plan.
        model: The server's model.
        number: Of the round, among all rounds of the run.
    """

    kind: ClassVar[ContributionKind] = ContributionKind.STATISTICS

    def __init__(self, plan: PrivacyPlan, model: ServerModel, *, number: int) -> None:
        super().__init__(plan, model)
        self._stage: Stage = plan.stage(number)
        self._number = number - self._stage.first + 1
        self._statistics: Statistics = statistics_of(plan.study, model.family)

    @property
    def dimension(self) -> int:
        """Number of coordinates of phi."""
        return self._statistics.dimension(self._number)

    @property
    def step(self) -> float:
        """The value of one grid step of a contribution."""
        return self.plan.mechanism(self._stage, self.dimension).grid.step

    def apply(self, total: NDArray[np.float64], *, contributors: int, generator: torch.Generator) -> None:
        """Let the family learn; see :meth:`Strategy.apply`."""
        present = contributors / self.plan.study.federation.sites
        scale = self._statistics.norm(self._number) / (self._stage.expected_units * present)
        deviation = self._stage.deviation(self.dimension, contributors=contributors)
        self.model.learn_statistics(
            self._number, torch.as_tensor(total * scale), deviation=deviation * scale, generator=generator
        )
