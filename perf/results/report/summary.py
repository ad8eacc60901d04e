"""Runs of one cell, averaged over their seeds with an interval."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from perf.results.result import Promise, Result
from perf.results.setting import Setting

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: Mean.
        half_width: Half the width of Student's interval at :data:`CONFIDENCE`; NaN of a single seed.
        seeds: How many.
    """

    mean: float
    half_width: float
    seeds: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Estimate":
        """Return mean and interval.

        >>> round(Estimate.of([0.0, 1.0, 2.0]).half_width, 3)  # 4.303 * 1 / sqrt(3)
        2.484
        """
        count = len(numbers)
        half_width = math.nan
        if count > 1:
            quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
            half_width = quantile * float(np.std(numbers, ddof=1)) / math.sqrt(count)
        return cls(mean=float(np.mean(numbers)), half_width=half_width, seeds=count)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All runs of one cell.

    Attributes:
        setting: The setting, without a seed.
        runs: The runs, by seed.
    """

    setting: Setting
    runs: tuple[Result, ...]

    def estimate(self, measure: str) -> Estimate | None:
        """Average a measure; None where a run lacks it."""
        if any(measure not in run.measures for run in self.runs):
            return None
        return Estimate.of([run.measures[measure] for run in self.runs])

    @property
    def seconds(self) -> float:
        """Mean wall time of training."""
        return float(np.mean([run.seconds for run in self.runs]))

    @property
    def peak_mb(self) -> float:
        """Most memory of any run, in MiB."""
        return max(run.peak_mb for run in self.runs)

    @property
    def promise(self) -> Promise | None:
        """What was promised to the records: the weakest of the runs; None for yardsticks."""
        promises = [run.promise for run in self.runs if run.promise is not None]
        return max(promises, key=lambda promise: (not promise.private, promise.epsilon), default=None)


def cells(results: Iterable[Result]) -> list[Cell]:
    """Group runs by cell, in the order of their first run."""
    groups: dict[Setting, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.setting.cell].append(result)
    return [
        Cell(setting=setting, runs=tuple(sorted(runs, key=lambda run: run.setting.seed)))
        for setting, runs in groups.items()
    ]
