"""The integer grid that contributions are put on before noise is added.

A float64 is not a real number: the floats that "value plus Laplace noise" can produce have gaps, and the
gaps depend on the value, so that the low digits of a noisy float betray what the noise should hide (Mironov
2012, "On significance of the least significant bits for differential privacy"). Sums of integers have no
gaps. So a contribution is rounded to a grid first, integer noise is added, and the cost of rounding is
written into the sensitivity.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import PrivacyError

FEWEST_STEPS = 1 << 10
MOST_STEPS = 1 << 24  # finer gains nothing: rounding then costs less than 2^-10 of the clip norm up to 2^28 coordinates
LARGEST_LIMIT = 1 << 50  # every integer up to here, and its half, is a float64

_TAIL_SIGMAS = 10.0  # a normal variable passes this with probability 2e-23


@dataclass(frozen=True, kw_only=True)
class IntegerGrid:
    """How a real vector becomes integers, and back.

    Attributes:
        clip_norm: Euclidean bound of one unit's part of the sum.
        steps: Grid steps per clip norm, at least 2^10.
        dimension: Coordinates of a contribution.
        limit: Largest magnitude of one coordinate of a contribution, before and after noise.

    Example:
        >>> grid = IntegerGrid(clip_norm=1.0, steps=1024, dimension=2, limit=5000)
        >>> grid.quantise(np.array([0.5, -100.0]))
        array([  512, -5000])
    """

    clip_norm: float
    steps: int
    dimension: int
    limit: int

    def __post_init__(self) -> None:
        if not (0.0 < self.clip_norm < math.inf):
            raise PrivacyError(f"the clip norm is {self.clip_norm!r}.", remedy="Give a positive, finite number.")
        if not FEWEST_STEPS <= self.steps <= MOST_STEPS:
            raise PrivacyError(f"the grid has {self.steps!r} steps per clip norm.", remedy="Give 2^10 to 2^24 steps.")
        if self.dimension < 1:
            raise PrivacyError(
                f"the dimension of the grid is {self.dimension!r}.", remedy="Give at least one coordinate."
            )
        if not self.steps <= self.limit <= LARGEST_LIMIT:
            raise PrivacyError(
                f"the limit of a coordinate is {self.limit!r} grid steps.",
                remedy=f"Give at least one clip norm ({self.steps} steps) and at most 2^50.",
            )

    @classmethod
    def fit(
        cls,
        *,
        clip_norm: float,
        dimension: int,
        expected_units: float,
        noise_multiplier: float,
        contributors: int = 1,
        word_bits: int = 32,
    ) -> "IntegerGrid":
        """The finest power-of-two grid whose sums fit the wire's words. Every argument is a public constant.

        The limit is the largest for which ``contributors`` contributions add up below 2^(word_bits-1). The
        steps are the most for which a coordinate stays inside it even if all units (their expected number
        and six standard deviations of Poisson sampling) point the same way and the noise is ten sigma:
        clamping practically never happens.

        Args:
            clip_norm: Euclidean bound of one unit's part of the sum.
            dimension: Coordinates of a contribution.
            expected_units: Expected number of units in one contribution.
            noise_multiplier: Noise scale over sensitivity, zero for none.
            contributors: Most contributions that are ever added up.
            word_bits: Width of a signed word on the wire, 16 to 64.

        Raises:
            PrivacyError: The grid would be coarser than 2^10 steps, or an argument is out of range.

        Example:
            >>> IntegerGrid.fit(clip_norm=1.0, dimension=10, expected_units=64, noise_multiplier=1.0).steps
            16777216
        """
        if not 16 <= word_bits <= 64:
            raise PrivacyError(f"a word has {word_bits!r} bits.", remedy="Give 16 to 64 bits.")
        if contributors < 1 or not 0.0 <= expected_units < math.inf or not 0.0 <= noise_multiplier < math.inf:
            raise PrivacyError(
                f"the grid is for {contributors!r} contributors of {expected_units!r} units "
                f"with noise multiplier {noise_multiplier!r}.",
                remedy="Give at least one contributor, and finite numbers that are not negative.",
            )
        limit = min((2 ** (word_bits - 1) - 1) // contributors, LARGEST_LIMIT)
        units = max(1.0, expected_units + 6.0 * math.sqrt(expected_units))
        steps = MOST_STEPS
        while steps >= FEWEST_STEPS:
            if units * steps <= limit:
                grid = cls(clip_norm=clip_norm, steps=steps, dimension=dimension, limit=limit)
                if units * steps + _TAIL_SIGMAS * noise_multiplier * grid.sensitivity <= limit:
                    return grid
            steps //= 2
        raise PrivacyError(
            f"{contributors} contributors of {expected_units} units with noise multiplier {noise_multiplier} "
            f"do not fit {word_bits}-bit words at 2^10 grid steps per clip norm.",
            remedy="Use wider words, fewer units per round, fewer sites or less noise.",
        )

    @property
    def step(self) -> float:
        """The value of one grid step, in the unit of the clip norm."""
        return self.clip_norm / self.steps

    @property
    def sensitivity(self) -> float:
        r"""Largest distance, in grid steps, of quantised vectors whose originals are a clip norm apart.

        **Formal guarantee.** For float64 vectors s, s' with ||s - s'|| <= clip_norm over the reals,
        ||quantise(s) - quantise(s')|| <= sensitivity.

        **Edge cases.** The vectors are taken as given. Summing n clipped vectors in floating point of unit
        roundoff u can move either sum by n^2 u clip norms and the order of summation matters (Casacuberta
        et al. 2022): sum in float64, where that is 1e-10 for a thousand units, and clip by that much more.

        Proof. Let e = limit * 2^-51. Scaling takes two roundings and clamping is monotone, so that a
        quantised coordinate is the rounding of one within e of the clamped real coordinate; clamping is
        non-expansive. Rounding moves a number by at most 1/2. With a_i the distances in real steps, ||a||
        <= steps, the integer distances are therefore z_i <= a_i + 2e + 1. Let k_i = max(z_i - 1, 0), an
        integer at most a_i + 2e; then ||k|| <= r = steps + 2e sqrt(d), and ||z||^2 <= sum (k_i + 1)^2 =
        ||k||^2 + 2 sum k_i + d. The middle sum is at most sqrt(d) r by Cauchy-Schwarz, and at most r^2
        because k_i <= k_i^2 for integers. Hence

            ||z||^2 <= r^2 + 2 min(r^2, sqrt(d) r) + d,

        which is (r + sqrt(d))^2 as long as sqrt(d) <= r, and less beyond. The last factor covers the
        rounding of this computation itself.
        """
        root = math.sqrt(self.dimension)
        reach = self.steps + 2.0 * (self.limit * 2.0**-51) * root
        square = reach**2 + 2.0 * min(reach**2, root * reach) + self.dimension
        return math.sqrt(square) * (1.0 + 2.0**-48)

    def quantise(self, vector: NDArray[np.floating]) -> NDArray[np.int64]:
        """Round to the grid, half to even, and clamp each coordinate to the limit.

        Clamping comes before noise: it projects onto a box, which brings no two vectors further apart.

        Args:
            vector: float [dimension], in the unit of the clip norm.

        Returns:
            int64 [dimension], in grid steps.

        Raises:
            PrivacyError: The shape or the type is another, or a coordinate is not finite.
        """
        if vector.shape != (self.dimension,) or vector.dtype not in (np.float32, np.float64):
            raise PrivacyError(
                f"the contribution is {vector.dtype} {list(vector.shape)}.",
                remedy=f"Give float32 or float64 [{self.dimension}], as the grid was made for.",
            )
        if not np.isfinite(vector).all():
            raise PrivacyError(
                "the contribution has coordinates that are not finite.",
                remedy="Set non-finite parts to zero for each unit, before clipping.",
            )
        with np.errstate(over="ignore"):  # a coordinate that overflows is clamped like any other large one
            scaled = vector.astype(np.float64) / self.clip_norm
            scaled *= self.steps
        np.clip(scaled, -self.limit, self.limit, out=scaled)
        return np.rint(scaled, out=scaled).astype(np.int64)

    def dequantise(self, integers: NDArray[np.integer]) -> NDArray[np.float64]:
        """The real values of grid integers; a sum of contributions may exceed the limit of one.

        Args:
            integers: int [any shape], in grid steps.

        Returns:
            float64 [same shape], in the unit of the clip norm.
        """
        return integers.astype(np.float64) * self.step
