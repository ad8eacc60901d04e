"""A stage: rounds of one kind that follow one another, and the noise, the rate and the bound that they share."""

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from privacy.events import Mechanism, NoisyRelease
from privacy.mechanisms.gaussian import GaussianMechanism, NoNoise
from privacy.mechanisms.grid import IntegerGrid
from privacy.shares import NoiseShares
from protocol.errors import PrivacyError
from protocol.terms import ContributionKind, Relation, Sampler, Unit

_ROUNDING_COST = 0.02  # of the noise: what rounding on the grid may add to it, for room that few federations need


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Rounds of one kind; every number follows from the study and is public.

    Attributes:
        kind: What sites contribute.
        first: Number of its first round, from 1, among all rounds of the run.
        rounds: Number of its rounds.
        steps: Noisy steps that a site takes in a round.
        noise_multiplier: Noise over sensitivity of one step; zero for none.
        sample_rate: With which a unit takes part in a step; statistics are of all units.
        clip_norm: Euclidean bound of one unit's part of a sum.
        unit: Whom the bound is about.
        relation: Which data sets are neighbours.
        expected_units: Expected number of units in one step over the whole federation: the public divisor of a sum.
        sites: Number of sites.
        contributors: Most contributions that are added up before anybody can read them.
        shares: How the noise is placed over the sites; None where each adds the whole.
        all_rounds: Rounds of the run, of all stages.
        delta: The delta of the promise.
    """

    kind: ContributionKind
    first: int
    rounds: int
    steps: int
    noise_multiplier: float
    sample_rate: float
    clip_norm: float
    unit: Unit
    relation: Relation
    expected_units: float
    sites: int
    contributors: int
    shares: NoiseShares | None
    all_rounds: int
    delta: float

    @property
    def last(self) -> int:
        """Number of its last round."""
        return self.first + self.rounds - 1

    def rounds_until(self, number: int) -> int:
        """Return how many of its rounds are over when so many rounds of the run are."""
        return min(max(number - self.first + 1, 0), self.rounds)

    @cached_property
    def event(self) -> NoisyRelease | None:
        """What one round costs each site; None where the study adds no noise."""
        if self.noise_multiplier == 0:
            return None
        everybody = self.kind is ContributionKind.STATISTICS
        return NoisyRelease(
            mechanism=Mechanism.GAUSSIAN,
            noise_multiplier=self.noise_multiplier,
            sample_rate=self.sample_rate,
            sampler=Sampler.ALL if everybody else Sampler.POISSON,
            count=self.steps,
            kind=self.kind,
            relation=self.relation,
            unit=self.unit,
        )

    def mechanism(self, dimension: int) -> GaussianMechanism | NoNoise:
        """Return what bounds and blurs the sum of one step, ``[dimension]``.

        Raises:
            PrivacyError: If the sum does not fit the words of a message, or the shares cost what is not accounted for.
        """
        multiplier = self.noise_multiplier if self.shares is None else self.shares.share_multiplier
        grid = self._grid(dimension, multiplier)
        if multiplier == 0:
            return NoNoise(grid=grid)
        mechanism = GaussianMechanism(grid=grid, noise_multiplier=multiplier, shared=self.shares is not None)
        if self.shares is not None:
            # Every round of the run can be clamped, so that each stage is held to the number of all of them.
            self.shares.check_grid(sigma=mechanism.sigma, dimension=dimension, steps=self.all_rounds, delta=self.delta)
        return mechanism

    def _grid(self, dimension: int, multiplier: float) -> IntegerGrid:
        """Return the grid of a contribution, which has room for so many units whose parts all point one way.

        Gradients of many units point in all directions. Statistics are counts, which pile up, and one site may hold
        most of the units: as far as a coarser grid costs next to no noise there is room for that, and if not, for an
        equal share.
        """

        def fitted(units: float) -> IntegerGrid:
            return IntegerGrid.fit(
                clip_norm=self.clip_norm,
                dimension=dimension,
                expected_units=units,
                noise_multiplier=multiplier,
                contributors=1 if self.shares is None else self.contributors,
            )

        if self.kind is not ContributionKind.STATISTICS:
            return fitted(max(1.0, self.expected_units / self.contributors))
        equal, room = max(1.0, self.expected_units / self.sites), self.expected_units
        while room > equal:
            with suppress(PrivacyError):
                grid = fitted(room)
                if grid.sensitivity <= (1.0 + _ROUNDING_COST) * grid.steps:
                    return grid
            room /= 2.0
        return fitted(equal)

    def deviation(self, dimension: int, *, contributors: int) -> float:
        """Return the standard deviation of the noise in each coordinate of the sum of contributions, in clip norms."""
        mechanism = self.mechanism(dimension)
        return mechanism.sigma / mechanism.grid.steps * math.sqrt(contributors)
