"""The Gaussian mechanism on the integer grid: what every contribution passes through before it leaves a site.

The noise is the discrete Gaussian of Canonne, Kamath, Steinke 2020 in each coordinate, scaled to the grid's
sensitivity. Shifting it by an integer vector gives the privacy loss of a continuous normal of the same sigma,
seen on a lattice (ibid., section 2: the same concentrated DP). On the coarsest grid, at 300 steps of noise,
delta for a shift of one coordinate differs from the continuous one by less than one part in 10^5, which the
tests compute; on finer grids by far less. So accountants of the continuous normal are used for it.
"""

import math
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from privacy.mechanisms.discrete_gaussian import checked_sigma, sample_discrete_gaussian
from privacy.mechanisms.grid import IntegerGrid
from protocol.errors import PrivacyError
from protocol.randomness import RandomSource

_SHARE_TAIL = 10.0  # standard deviations of room above the exact vector, as `IntegerGrid.fit` leaves them

Words: TypeAlias = NDArray[np.int32] | NDArray[np.int64]


@final
@dataclass(frozen=True, kw_only=True)
class GaussianMechanism:
    """Quantise, add discrete Gaussian noise, clamp to the wire's range.

    **Formal guarantees.** For two vectors at most a clip norm apart, the outputs are as hard to tell apart
    as N(0, s^2) and N(1, s^2) with s the noise multiplier (see the module's text for the lattice). The
    sensitivity includes rounding. The final clamp is post-processing. Amplification by sampling is not
    accounted for here.

    **Edge cases.** The zero vector of an empty batch is noised like any other. Non-finite coordinates are
    refused and nothing is released.

    Attributes:
        grid: The integer grid, with clip norm and sensitivity.
        noise_multiplier: Noise scale over sensitivity, positive.
        shared: Whether this is a share of the noise of a sum. Clamping a share after its noise would not be
            post-processing of the sum; so the exact vector is clamped ten sigma lower instead, and the noisy one never.

    Example:
        >>> from protocol.randomness import SystemRandom
        >>> grid = IntegerGrid(clip_norm=1.0, steps=65536, dimension=3, limit=2**24)
        >>> mechanism = GaussianMechanism(grid=grid, noise_multiplier=1.0)
        >>> mechanism.privatise(np.zeros(3), random=SystemRandom()).dtype
        dtype('int32')
    """

    grid: IntegerGrid
    noise_multiplier: float
    shared: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.noise_multiplier < math.inf:
            raise PrivacyError(
                f"the noise multiplier is {self.noise_multiplier!r}.",
                remedy="Give a positive number; a run without privacy uses NoNoise and is marked so.",
            )
        checked_sigma(self.sigma)

    @property
    def sigma(self) -> float:
        """Noise scale in grid steps."""
        return self.noise_multiplier * self.grid.sensitivity

    @property
    def private(self) -> bool:
        """True: what this releases is private, provided that its random source is."""
        return True

    def privatise(self, vector: NDArray[np.floating], *, random: RandomSource) -> Words:
        """The noisy contribution.

        Args:
            vector: float [dimension], a sum to which each unit adds at most a clip norm.
            random: Where the noise comes from.

        Returns:
            int32 [dimension] in grid steps, or int64 where the grid's limit needs it; within the limit.

        Raises:
            PrivacyError: The vector has another shape or a coordinate that is not finite.
        """
        if self.shared:
            room = self.grid.limit - math.ceil(_SHARE_TAIL * self.sigma)
            exact = replace(self.grid, limit=room).quantise(vector)
            return exact + sample_discrete_gaussian(self.grid.dimension, sigma=self.sigma, random=random)
        noisy = self.grid.quantise(vector)
        noisy += sample_discrete_gaussian(self.grid.dimension, sigma=self.sigma, random=random)
        return _as_words(noisy, limit=self.grid.limit)


@final
@dataclass(frozen=True, kw_only=True)
class NoNoise:
    """The same door without noise: the baseline of federated training without privacy. Never private.

    Attributes:
        grid: The integer grid.
    """

    grid: IntegerGrid

    @property
    def sigma(self) -> float:
        """Zero."""
        return 0.0

    @property
    def private(self) -> bool:
        """False: nothing that this releases may carry a statement."""
        return False

    def privatise(self, vector: NDArray[np.floating], *, random: RandomSource) -> Words:
        """The quantised contribution without any noise.

        Args:
            vector: float [dimension].
            random: Not drawn from; both mechanisms are called alike.

        Returns:
            int32 or int64 [dimension] in grid steps, within the limit.

        Raises:
            PrivacyError: The vector has another shape or a coordinate that is not finite.
        """
        del random
        return _as_words(self.grid.quantise(vector), limit=self.grid.limit)


Mechanism: TypeAlias = GaussianMechanism | NoNoise


def _as_words(values: NDArray[np.int64], *, limit: int) -> Words:
    """Clamp in place, and narrow if the limit allows."""
    np.clip(values, -limit, limit, out=values)
    return values.astype(np.int32) if limit < 2**31 else values
