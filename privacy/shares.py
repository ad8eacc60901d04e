"""Noise in shares: how much each site adds, so that the sum is private though some sites drop out or collude.

Under the secure sum nobody sees a single site's vector, so each site may add a part of the noise. What counts is what
is left for an opponent: of n sites, d may drop out after the noise was drawn, and c may tell the opponent their
shares. The other n - d - c shares must add up to the whole noise.

The sum of discrete Gaussians is not a discrete Gaussian. Kairouz, Liu and Steinke (2021, "The Distributed Discrete
Gaussian Mechanism for Federated Learning with Secure Aggregation") bound the largest divergence between the two, per
coordinate, by 10 * sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k / (k + 1)), with sigma the share's scale in grid steps. On
grids of 2^10 steps and more this is smaller than any number a computer holds; :meth:`NoiseShares.log10_excess` says
how small, and a plan whose excess could be noticed is refused.

A site clamps its *exact* sum so that ten standard deviations of noise fit above it, and does not clamp what is noisy:
the coordinator's sum of words is then a function of the integer sum alone. A site whose noise is larger than that takes
no part in the round; this happens with a probability below 2e-23 per coordinate, and all of it together must stay
below a thousandth of delta.
"""

import math
from dataclasses import dataclass

from protocol.errors import PrivacyError, StudyError

FEWEST_SITES = 5
_NOTICEABLE_LOG10 = -30.0
_CLAMP_PROBABILITY = 2e-23  # two-sided tail of ten standard deviations: 1.5e-23
_NEGLIGIBLE_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True)
class NoiseShares:
    """The placement of one noise over several sites.

    Attributes:
        noise_multiplier: Noise over sensitivity that the opponent must face.
        sites: Number of sites.
        dropouts: Most sites that may be missing from a sum; with more, the sum is not opened.
        colluders: Most sites that may tell the opponent their shares. Whoever is a site itself knows one share, so
            that at least one is always counted.

    Raises:
        StudyError: If the sites are too few for a sum that hides anybody, or none would be left to add noise.

    Example:
        >>> round(NoiseShares(noise_multiplier=1.0, sites=10, dropouts=2, colluders=2).share_multiplier, 4)
        0.4082
    """

    noise_multiplier: float
    sites: int
    dropouts: int
    colluders: int

    def __post_init__(self) -> None:
        """Check that the promise can be kept."""
        if self.sites < FEWEST_SITES:
            raise StudyError(
                f'privacy.trust is "sum" with {self.sites} sites.',
                remedy=f'A sum over fewer than {FEWEST_SITES} hides too little: use trust = "none".',
            )
        if self.dropouts < 0 or self.colluders < 0 or self.survivors < self.threshold:
            raise StudyError(
                f"federation: {self.dropouts} dropouts and {self.colluders} colluders of {self.sites} sites.",
                remedy=f"At most {self.sites - self.threshold} may drop out.",
            )
        if self.colluders > self.most_colluders or self.honest < 1:
            raise StudyError(
                f"federation.colluders is {self.colluders} of {self.sites} sites with {self.dropouts} dropouts.",
                remedy=f"The secure sum bears {self.most_colluders}, and honest sites must remain.",
            )

    @property
    def threshold(self) -> int:
        """Fewest sites that can open a sum: floor(2n/3) + 1."""
        return 2 * self.sites // 3 + 1

    @property
    def most_colluders(self) -> int:
        """Most colluders with whom two survivor lists of one round cannot both be signed; see the secure sum."""
        return 2 * self.threshold - self.sites - 1

    @property
    def survivors(self) -> int:
        """Fewest contributions in a sum that may be opened."""
        return self.sites - self.dropouts

    @property
    def honest(self) -> int:
        """Shares that certainly stand between the opponent and the sum."""
        return self.sites - self.dropouts - max(1, self.colluders)

    @property
    def share_multiplier(self) -> float:
        """Noise over sensitivity that one site adds."""
        return self.noise_multiplier / math.sqrt(self.honest)

    def log10_excess(self, *, sigma: float, dimension: int) -> float:
        """Return the base-10 logarithm of what the sum of shares may cost beyond one discrete Gaussian, per step.

        Args:
            sigma: Scale of one share in grid steps.
            dimension: Coordinates of a contribution.

        Returns:
            log10 of an addition to epsilon at delta zero: twice the divergence, times the coordinates.
        """
        slowest = -2.0 * math.pi**2 * sigma**2 / 2.0  # the term with k = 1 is the largest of n - 1
        terms = max(1, self.sites - 1)
        return (slowest + math.log(20.0 * terms * dimension)) / math.log(10.0)

    def check_grid(self, *, sigma: float, dimension: int, steps: int, delta: float) -> None:
        """Refuse a grid on which the sum of shares is noticeably not a discrete Gaussian.

        Args:
            sigma: Scale of one share in grid steps.
            dimension: Coordinates of a contribution.
            steps: Number of contributions of a site in the whole study.
            delta: The delta of the promise.

        Raises:
            PrivacyError: If a step could cost more than 1e-30 beyond what is accounted for, or clamping more than a
                thousandth of delta.
        """
        clamped = _CLAMP_PROBABILITY * self.sites * dimension * steps
        if clamped > _NEGLIGIBLE_SHARE * delta:
            raise PrivacyError(
                f"clamping of shares may add {clamped:.1e} to delta = {delta:.1e}.", remedy="Use a larger delta."
            )
        excess = self.log10_excess(sigma=sigma, dimension=dimension)
        if excess > _NOTICEABLE_LOG10:
            raise PrivacyError(
                f"shares of {sigma:.3g} grid steps cost 10^{excess:.0f} beyond what is accounted for.",
                remedy="Use a finer grid or more noise.",
            )
