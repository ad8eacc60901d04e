"""What a study's privacy terms come to: stages of rounds, their noise, events and mechanisms.

A run has one stage or two: rounds of statistics, if the study asks for any, and rounds of training. Both sides derive
all of it from the study alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from privacy import wording
from privacy.accounting import check_delta, default_delta
from privacy.calibration import StatisticsShare, calibrate_noise_multiplier
from privacy.events import NoisyRelease
from privacy.mechanisms.gaussian import GaussianMechanism, NoNoise
from privacy.mechanisms.grid import IntegerGrid
from privacy.shares import NoiseShares
from privacy.stage import Stage
from privacy.statement import Statement
from protocol.errors import StudyError
from protocol.study import Study
from protocol.terms import ContributionKind, NoiseOrigin, Trust

STATISTICS_NORM = 1.0
"""Euclidean bound of one unit's part of a sum of statistics: they are divided by their public bound before."""


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """The numbers behind a study's promise; all public.

    Attributes:
        study: The study.
        delta: The delta of the promise.
        noise_multiplier: Noise over sensitivity of one step of the last stage, which is the training, or statistics
            that are all of a study; zero goes without privacy. That of statistics before a training follows from it.
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
            statistics=statistics_share(study),
        )
        return cls(study=study, delta=delta, noise_multiplier=noise)

    @property
    def private(self) -> bool:
        """Whether a run of the study may carry a statement."""
        return self.noise_multiplier > 0 and self.study.privacy.noise is NoiseOrigin.SYSTEM

    @property
    def rounds(self) -> int:
        """All rounds of a run."""
        return self.study.rounds

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of a run, in order: rounds of statistics, where the study has some, and then the others."""
        opening = self.study.statistics.rounds
        last = self._stage(
            self.study.training.strategy,
            first=opening + 1,
            rounds=self.study.training.rounds,
            noise_multiplier=self.noise_multiplier,
        )
        if not opening:
            return (last,)
        noise = self._statistics_noise()
        statistics = self._stage(ContributionKind.STATISTICS, first=1, rounds=opening, noise_multiplier=noise)
        return statistics, last

    def stage(self, number: int) -> Stage:
        """Return the stage that a round is in.

        Args:
            number: Of the round, from 1 to :attr:`rounds`.

        Raises:
            StudyError: If the run has no such round.
        """
        for stage in self.stages:
            if stage.first <= number <= stage.last:
                return stage
        raise StudyError(f"Round {number} is not in the study.", remedy=f"It has rounds 1 to {self.rounds}.")

    def _stage(self, kind: ContributionKind, *, first: int, rounds: int, noise_multiplier: float) -> Stage:
        """Return a stage of the study's terms."""
        terms, everybody = self.study.privacy, kind is ContributionKind.STATISTICS
        shares = None
        if kind is not ContributionKind.UPDATES and self.shares is not None:
            shares = replace(self.shares, noise_multiplier=noise_multiplier)
        return Stage(
            kind=kind,
            first=first,
            rounds=rounds,
            steps=_steps_per_round(self.study) if kind is ContributionKind.UPDATES else 1,
            noise_multiplier=noise_multiplier,
            sample_rate=1.0 if everybody else terms.sample_rate,
            clip_norm=STATISTICS_NORM if everybody else terms.clip_norm,
            unit=terms.unit,
            relation=terms.relation,
            expected_units=self.study.federation.public_records * (1.0 if everybody else terms.sample_rate),
            sites=self.study.federation.sites,
            contributors=self.contributors,
            shares=shares,
            all_rounds=self.rounds,
            delta=self.delta,
        )

    def _statistics_noise(self) -> float:
        """Return the noise of a round of statistics before a training."""
        share = statistics_share(self.study)
        if share is None or self.noise_multiplier == 0:
            return 0.0
        return share.noise_multiplier(
            self.noise_multiplier,
            sample_rate=self.study.privacy.sample_rate,
            steps=self.study.training.rounds * _steps_per_round(self.study),
        )

    @property
    def round_event(self) -> NoisyRelease | None:
        """What one round of the last stage costs each site; None where the study adds no noise.

        It is not what each round of a run costs: for that, ask the round's :meth:`stage`.
        """
        return self.stages[-1].event

    def events(self, *, rounds: int) -> list[NoisyRelease]:
        """Return what the first so many rounds of a run release, one event for each stage that they reach."""
        done = ((stage.event, stage.rounds_until(rounds)) for stage in self.stages)
        return [event.times(event.count * count) for event, count in done if event is not None and count]

    def statement(self, *, rounds: int, simulated: bool, ledger_entries: Sequence[str] = ()) -> Statement:
        """Return what a run promises to every unit of every site.

        Args:
            rounds: Rounds that were, or will be, completed, of all stages: the first so many.
            simulated: Whether sites and ledgers were simulated.
            ledger_entries: Hashes of the ledger entries that paid.
        """
        terms = self.study.privacy
        return Statement.from_events(
            self.events(rounds=rounds),
            delta=self.delta,
            relation=terms.relation,
            unit=terms.unit,
            trust=terms.trust,
            # Without noise there is no event: the statement must then say that nothing holds, not that nothing was
            # spent.
            origin=NoiseOrigin.SYSTEM if self.private else NoiseOrigin.DETERMINISTIC,
            simulated=simulated,
            ledger_entries=ledger_entries,
            circumstances=wording.circumstances(self.study),
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
        """How the noise of the last stage is placed over the sites; None where each adds the whole.

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

    def mechanism(self, stage: Stage, dimension: int) -> GaussianMechanism | NoNoise:
        """Return what bounds and blurs the sum of one step of a stage, ``[dimension]``."""
        return stage.mechanism(dimension)

    def step_mechanism(self, dimension: int) -> GaussianMechanism | NoNoise:
        """Return what bounds and blurs the sum of one step's clipped gradients, ``[dimension]``."""
        return self.mechanism(self.stages[-1], dimension)

    def update_grid(self, dimension: int) -> IntegerGrid:
        """Return the grid on which a site's change of the weights, already noised, is sent."""
        return IntegerGrid.fit(
            clip_norm=self.study.training.update_norm,
            dimension=dimension,
            expected_units=1.0,
            noise_multiplier=0.0,
            contributors=self.contributors,
        )


def statistics_share(study: Study) -> StatisticsShare | None:
    """Return what a study's rounds of statistics may cost beside its training; None where it has none before it."""
    terms = study.statistics
    return StatisticsShare(rounds=terms.rounds, share=terms.share) if terms.rounds else None


def _steps_per_round(study: Study) -> int:
    """Return the number of noisy steps that a site takes in a round."""
    return study.training.local_steps if study.training.strategy is ContributionKind.UPDATES else 1
