"""Counts, means and covariances of cells, as a noisy sum tells them."""

from torch import Tensor

from models.images.moment_rounds import CENTRE_SHARE, SPREAD_SHARE, Seen
from models.images.shrinkage import nearest_covariance

LEAST_VARIANCE = 1e-3
"""Least variance of a direction of images whose pixels lie between 0 and 1."""
# Least share of a cell, in shares of the mean cell.
_LEAST_SHARE = 0.02


class NoisyCells:
    """Noisy sums over cells, as means in the unit of the directions, and how noisy these are.

    Args:
        seen: Sums over the public number of records.
        deviation: Standard deviation of their noise, before parts were scaled.
        radius: Of the ball in which records were seen, in the unit of the directions.

    Attributes:
        counts: Shares of the cells, ``[classes, components]``; a cell drowned in noise has a small positive one.
        means: Mean of each cell, seen from its centre, ``[classes, components, d]``.
        mean_noise: Variance of the noise in each coordinate of the means, ``[classes, components]``.
        spread_noise: Variance of the noise on the diagonal of the second moments, ``[classes, components]``.
        class_noise: The same of a whole class, ``[classes]``.
    """

    def __init__(self, seen: Seen, *, deviation: float, radius: float) -> None:
        least = _LEAST_SHARE * seen.counts.clamp(min=0.0).mean().clamp(min=1e-12)
        self.counts = seen.counts.clamp(min=float(least))
        self._spreads = seen.spreads * radius**2
        self.means = seen.means * radius / self.counts[..., None]
        self.mean_noise = (deviation / CENTRE_SHARE**0.5 * radius / self.counts).square()
        noise = deviation / SPREAD_SHARE**0.5 * radius**2
        self.spread_noise = (noise / self.counts).square()
        self._totals = self.counts.sum(dim=1)
        self.class_noise = seen.counts.shape[1] * (noise / self._totals).square()

    def around(self, shifts: Tensor) -> Tensor:
        """Return the covariances of the cells around means ``[classes, components, d]``."""
        return self._spreads / self.counts[..., None, None] - _outer(shifts)

    def by_class(self, shifts: Tensor) -> Tensor:
        """Return the covariances within the cells of each class, ``[classes, d, d]``."""
        within = self._spreads - self.counts[..., None, None] * _outer(shifts)
        return within.sum(dim=1) / self._totals[:, None, None]

    def pooled(self, shifts: Tensor) -> Tensor:
        """Return the covariance within all cells, ``[d, d]``."""
        shares = self._totals / self._totals.sum()
        return nearest_covariance((self.by_class(shifts) * shares[:, None, None]).sum(dim=0), floor=LEAST_VARIANCE)


def _outer(rows: Tensor) -> Tensor:
    return rows[..., :, None] * rows[..., None, :]
