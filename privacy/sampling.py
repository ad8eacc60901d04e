"""Poisson sampling of privacy units: every unit by an independent coin of the study's public rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.randomness import RandomSource


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitIndex:
    """Which records belong to which unit, so that a sample of units is a slice of rows.

    Attributes:
        order: int64 ``[n]``, the rows sorted by unit.
        starts: int64 ``[units + 1]``, where each unit's rows begin in ``order``.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, units: NDArray[np.int64]) -> "UnitIndex":
        """Build the index from the dense unit of every record, ``[n]``."""
        count = int(units.max()) + 1 if units.size else 0
        starts = np.concatenate([[0], np.bincount(units, minlength=count).cumsum()]).astype(np.int64)
        return cls(order=np.argsort(units, kind="stable").astype(np.int64), starts=starts)

    @property
    def units(self) -> int:
        """Number of units: private, and used for nothing but tossing that many coins."""
        return len(self.starts) - 1

    def everybody(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all rows ``[n]``, grouped by unit, and the unit of each ``[n]``, ascending: no coin is tossed."""
        return self.order, np.repeat(np.arange(self.units), np.diff(self.starts))

    def poisson_sample(self, *, rate: float, random: RandomSource) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Toss one coin per unit.

        Args:
            rate: Public probability of every unit, exact.
            random: Source of the coins.

        Returns:
            Rows of the chosen units ``[m]``, grouped by unit, and the dense index of their unit in the sample
            ``[m]``, ascending. Both may be empty: an empty batch is a batch.

        Example:
            >>> from protocol.randomness import DeterministicRandom
            >>> index = UnitIndex.of(np.array([1, 0, 1]))
            >>> index.poisson_sample(rate=1.0, random=DeterministicRandom(0))
            (array([1, 0, 2]), array([0, 1, 1]))
        """
        chosen = np.flatnonzero(random.bernoulli(self.units, rate))
        sizes = np.diff(self.starts)[chosen]
        within = np.arange(int(sizes.sum())) - np.repeat(sizes.cumsum() - sizes, sizes)
        rows = self.order[np.repeat(self.starts[:-1][chosen], sizes) + within]
        return rows, np.repeat(np.arange(len(chosen)), sizes)
