"""What a study's privacy terms come to: noise, event per round, mechanism.

Both sides derive it from the study alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from privacy.accounting import check_delta, default_delta
from privacy.calibration import calibrate_noise_multiplier
from privacy.events import Mechanism, NoisyRelease
from privacy.mechanisms.gaussian import GaussianMechanism, NoNoise
from privacy.mechanisms.grid import IntegerGrid
from privacy.shares import NoiseShares
from privacy.statement import Statement
from protocol.study import Study
from protocol.terms import ContributionKind, NoiseOrigin, Sampler, Trust


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """The numbers behind a study's promise; all public.

    Attributes:
        study: The study.
        delta: The delta of the promise.
        noise_multiplier: Noise over sensitivity of one step; zero trains without privacy.
    """

    study: Study
    delta: float
    noise_multiplier: float

    @classmethod
    def from_study(cls, study: Study) -> Self:
        """Calibrate the noise where the study names an epsilon.

        Raises:
            AccountingError: If delta is too large for the number of records, or no noise meets the target.
        """
        terms, size = study.privacy, study.federation.public_records
        delta = default_delta(size) if terms.delta is None else check_delta(terms.delta, public_size=size)
        if terms.epsilon is None:
            return cls(study=study, delta=delta, noise_multiplier=terms.noise_multiplier or 0.0)
        noise = calibrate_noise_multiplier(
            epsilon=terms.epsilon,
            delta=delta,
            sample_rate=terms.sample_rate,
            steps=study.training.rounds * _steps_per_round(study),
            relation=terms.relation,
        )
        return cls(study=study, delta=delta, noise_multiplier=noise)

    @property
    def private(self) -> bool:
        """Whether a run of the study may carry a statement."""
        return self.noise_multiplier > 0 and self.study.privacy.noise is NoiseOrigin.SYSTEM

    @cached_property
    def round_event(self) -> NoisyRelease | None:
        """What one round costs each site; None where the study adds no noise."""
        if self.noise_multiplier == 0:
            return None
        terms = self.study.privacy
        return NoisyRelease(
            mechanism=Mechanism.GAUSSIAN,
            noise_multiplier=self.noise_multiplier,
            sample_rate=terms.sample_rate,
            sampler=Sampler.POISSON,
            count=_steps_per_round(self.study),
            kind=self.study.training.strategy,
            relation=terms.relation,
            unit=terms.unit,
        )

    def statement(self, *, rounds: int, simulated: bool, ledger_entries: Sequence[str] = ()) -> Statement:
        """Return what a run promises to every unit of every site.

        Args:
            rounds: Rounds that were, or will be, completed.
            simulated: Whether sites and ledgers were simulated.
            ledger_entries: Hashes of the ledger entries that paid.
        """
        terms, event = self.study.privacy, self.round_event
        return Statement.from_events(
            [] if event is None else [event.times(event.count * rounds)],
            delta=self.delta,
            relation=terms.relation,
            unit=terms.unit,
            trust=terms.trust,
            # Without noise there is no event: the statement must then say that nothing holds, not that nothing was
            # spent.
            origin=NoiseOrigin.SYSTEM if self.private else NoiseOrigin.DETERMINISTIC,
            simulated=simulated,
            ledger_entries=ledger_entries,
        )

    @property
    def expected_units(self) -> float:
        """Expected number of units in one step over the whole federation: the public divisor of a sum."""
        return self.study.privacy.sample_rate * self.study.federation.public_records

    @property
    def expected_units_per_site(self) -> float:
        """The public divisor of a step at one site: an equal share."""
        return self.expected_units / self.study.federation.sites

    @property
    def rows_per_pass(self) -> int:
        """Rows of every pass through the model at a site: public, so that a pass tells nothing about who is in it.

        Room for the expected units of a site with an equal share, and six standard deviations, at most 8,192.
        """
        expected = self.expected_units_per_site
        return min(8192, 64 * math.ceil((expected + 6.0 * math.sqrt(expected) + 1.0) / 64))

    @cached_property
    def shares(self) -> NoiseShares | None:
        """How the noise is placed over the sites; None where each adds the whole.

        Local training adds the whole noise at every step, whatever the trust: its steps are summed at no one.

        Raises:
            StudyError: If the sites are too few for the stated drop-outs and colluders.
        """
        terms, federation = self.study.privacy, self.study.federation
        if terms.trust is not Trust.SUM:
            return None
        return NoiseShares(
            noise_multiplier=self.noise_multiplier,
            sites=federation.sites,
            dropouts=federation.dropouts,
            colluders=federation.colluders,
        )

    @property
    def contributors(self) -> int:
        """Most contributions that are added up before anybody can read them: the word must hold their sum."""
        return self.study.federation.sites if self.study.privacy.trust is Trust.SUM else 1

    def step_mechanism(self, dimension: int) -> GaussianMechanism | NoNoise:
        """Return what bounds and blurs the sum of one step's clipped gradients, ``[dimension]``."""
        shared = self.shares is not None and self.study.training.strategy is ContributionKind.GRADIENTS
        multiplier = self.noise_multiplier
        if shared and self.shares is not None:
            multiplier = self.shares.share_multiplier
        grid = IntegerGrid.fit(
            clip_norm=self.study.privacy.clip_norm,
            dimension=dimension,
            expected_units=max(1.0, self.expected_units / self.contributors),
            noise_multiplier=multiplier,
            contributors=self.contributors if shared else 1,
        )
        if multiplier == 0:
            return NoNoise(grid=grid)
        mechanism = GaussianMechanism(grid=grid, noise_multiplier=multiplier, shared=shared)
        if shared and self.shares is not None:
            self.shares.check_grid(
                sigma=mechanism.sigma, dimension=dimension, steps=self.study.training.rounds, delta=self.delta
            )
        return mechanism

    def update_grid(self, dimension: int) -> IntegerGrid:
        """Return the grid on which a site's change of the weights, already noised, is sent."""
        return IntegerGrid.fit(
            clip_norm=self.study.training.update_norm,
            dimension=dimension,
            expected_units=1.0,
            noise_multiplier=0.0,
            contributors=self.contributors,
        )


def _steps_per_round(study: Study) -> int:
    """Return the number of noisy steps that a site takes in a round."""
    return study.training.local_steps if study.training.strategy is ContributionKind.UPDATES else 1
