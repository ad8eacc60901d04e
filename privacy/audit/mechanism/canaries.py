"""Canaries: units whose clipped gradient is known beforehand, so that a release tells who was in the batch.

The loss of a canary is ``scale * <weights, direction>``; its gradient is ``scale * direction`` whatever the weights
are, and clipping makes it one clip norm long. The directions of a set touch no coordinate twice, so that every canary
is a test of its own: with independent noise in every coordinate one release gives as many independent numbers as it
has canaries (Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning", section 4, use one).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from protocol.errors import InputError
from protocol.randomness import RandomSource

_OVER_CLIP = 4.0  # how many clip norms the gradient of an ordinary canary has in every tensor that it touches
HUGE = 1e30


class CanaryKind(StrEnum):
    """What a canary's gradient looks like before it is clipped.

    ``DIRAC`` has one coordinate, ``SPREAD`` one in every tensor that has room, ``ZERO`` none at all, ``HUGE`` one of
    1e30, and ``NON_FINITE`` one that is infinite or no number.
    """

    DIRAC = "dirac"
    SPREAD = "spread"
    ZERO = "zero"
    HUGE = "huge"
    NON_FINITE = "non-finite"


@dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """A set of canaries with disjoint directions of length one.

    Attributes:
        dimension: Coordinates of a contribution, d.
        kinds: Kind of every canary, [K].
        scales: float64 [K], what the direction is multiplied with in the loss.
        owners: int64 [m], the canary that each entry belongs to.
        coordinates: int64 [m], the coordinate of each entry; no two are alike.
        weights: float64 [m], the direction's value there.

    Raises:
        InputError: If the arrays do not fit each other, or two directions share a coordinate.
    """

    dimension: int
    kinds: tuple[CanaryKind, ...]
    scales: NDArray[np.float64]
    owners: NDArray[np.int64]
    coordinates: NDArray[np.int64]
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        entries = {len(self.owners), len(self.coordinates), len(self.weights)}
        if len(entries) != 1 or len(self.scales) != len(self.kinds):
            raise InputError(f"The canaries' arrays have {sorted(entries)} entries.", remedy="Give one of each.")
        if len(np.unique(self.coordinates)) != len(self.coordinates):
            raise InputError("Two canaries share a coordinate.", remedy="Use design_canaries.")

    def __len__(self) -> int:
        """Number of canaries, K."""
        return len(self.kinds)

    @cached_property
    def directions(self) -> Any:  # noqa: ANN401 - scipy has no types
        """Sparse [K, d], one direction of length one in every row."""
        shape = (len(self), self.dimension)
        return csr_array((self.weights, (self.owners, self.coordinates)), shape=shape)

    @cached_property
    def contributions(self) -> NDArray[np.float64]:
        """How far a canary in the batch moves the sum along its direction, in clip norms, float64 [K]: one or zero."""
        moves = [kind not in (CanaryKind.ZERO, CanaryKind.NON_FINITE) for kind in self.kinds]
        return np.array(moves, dtype=np.float64)

    def of(self, kind: CanaryKind) -> NDArray[np.int64]:
        """Indices of the canaries of a kind, int64 [K of that kind]."""
        return np.flatnonzero([each is kind for each in self.kinds])

    def scores(self, releases: NDArray[np.float64]) -> NDArray[np.float64]:
        """Inner products with all directions, float64 [T, K].

        Args:
            releases: float64 [T, d], in clip norms.
        """
        return np.asarray((self.directions @ releases.T).T)

    def expected(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """What the canaries add up to in clip norms, float64 [T, d].

        Args:
            counts: int [T, K], how often each canary is in each release.
        """
        return np.asarray((self.directions.T @ (counts * self.contributions).T).T)


def design_canaries(
    sizes: Sequence[int],
    *,
    reachable: NDArray[np.bool_],
    counts: Mapping[CanaryKind, int],
    clip_norm: float,
    random: RandomSource,
) -> Canaries:
    """Choose directions at random, no coordinate twice.

    Every spread canary takes a coordinate of each tensor that has room for it; the first takes one of every tensor
    there is. Each other canary takes one coordinate of what is left. At least a fifth of the coordinates stays free.

    Args:
        sizes: Number of coordinates of every tensor, in the order of the contribution.
        reachable: bool [d], the coordinates that a canary's loss can be made of.
        counts: How many canaries of each kind are wanted; there may be fewer where there is no room.
        clip_norm: Of the study.
        random: Source of the choice.

    Raises:
        InputError: If nothing is reachable, or ``reachable`` does not fit the sizes.

    Example:
        >>> from protocol.randomness import DeterministicRandom
        >>> wanted = {CanaryKind.DIRAC: 3, CanaryKind.SPREAD: 2}
        >>> found = design_canaries(
        ...     [16, 8], reachable=np.ones(24, dtype=bool), counts=wanted, clip_norm=1.0, random=DeterministicRandom(0)
        ... )
        >>> [str(kind) for kind in found.kinds], len(found.coordinates)
        (['spread', 'spread', 'dirac', 'dirac', 'dirac'], 7)
    """
    dimension = sum(sizes)
    if reachable.shape != (dimension,) or not reachable.any():
        raise InputError(f"{reachable.sum()} of {dimension} coordinates can be reached.", remedy="Use linear layers.")
    shuffled = _shuffled(np.flatnonzero(reachable), random)
    ends = np.cumsum(sizes)
    tensors = np.searchsorted(ends, shuffled, side="right")
    by_tensor = [shuffled[tensors == tensor] for tensor in range(len(sizes))]
    chosen = [
        (CanaryKind.SPREAD, np.array(coordinates, dtype=np.int64))
        for number in range(counts.get(CanaryKind.SPREAD, 0))
        if (coordinates := [held[number] for held in by_tensor if number < max(len(held) // 4, min(1, len(held)))])
    ]
    used = {int(place) for _, places in chosen for place in places}
    free = [int(place) for place in shuffled if int(place) not in used]
    free = free[: max(0, len(shuffled) - len(used) - len(shuffled) // 5)]
    rare = (CanaryKind.ZERO, CanaryKind.HUGE, CanaryKind.NON_FINITE, CanaryKind.DIRAC)
    wanted = [kind for kind in rare for _ in range(counts.get(kind, 0))]
    chosen += [(kind, np.array([place])) for kind, place in zip(wanted, free, strict=False)]
    return _assemble(chosen, dimension=dimension, clip_norm=clip_norm)


def _assemble(chosen: Sequence[tuple[CanaryKind, NDArray[np.int64]]], *, dimension: int, clip_norm: float) -> Canaries:
    strange = [np.inf, -np.inf, np.nan]
    scales = []
    for number, (kind, places) in enumerate(chosen):
        ordinary = _OVER_CLIP * clip_norm * len(places) ** 0.5
        special = {CanaryKind.ZERO: 0.0, CanaryKind.HUGE: HUGE, CanaryKind.NON_FINITE: strange[number % 3]}
        scales.append(special.get(kind, ordinary))
    lengths = np.array([len(places) for _, places in chosen], dtype=np.int64)
    return Canaries(
        dimension=dimension,
        kinds=tuple(kind for kind, _ in chosen),
        scales=np.array(scales),
        owners=np.repeat(np.arange(len(chosen)), lengths),
        coordinates=np.concatenate([places for _, places in chosen]),
        weights=np.repeat(lengths.astype(np.float64) ** -0.5, lengths),
    )


def _shuffled(values: NDArray[np.int64], random: RandomSource) -> NDArray[np.int64]:
    """The values in random order; a tie of two 64-bit words would merely keep their order."""
    return values[np.argsort(random.uint64(len(values)), kind="stable")]
