"""What the coordinator sees of one round, in four settings, made by the real trainer, mechanism and noise shares.

The twin is the study's first round on a small batch whose every record takes part: weights, clip norm, divisor, noise
and its placement are the study's own; the rate is 1, so that sampling hides nobody.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from client.training import Trainer
from models.family import Family
from privacy.audit.channel.inversion import Observation
from privacy.audit.channel.public_inputs import Codes
from privacy.dp_sgd import parameter_count
from privacy.plan import PrivacyPlan
from privacy.shares import FEWEST_SITES
from protocol.errors import InputError
from protocol.randomness import DeterministicRandom, RandomSource
from protocol.study import FederationTerms, Study
from protocol.terms import ContributionKind, NoiseOrigin, Trust, Unit
from records.dataset import Records
from records.schema import Schema
from simulations.audit.channel.layers import code_signals, input_layers, public_inputs
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model, study_schema

MOST_SITES = 10
_WALKS = 48  # of a site without records, from which the attacker learns what fakes add
_OWN_FAKES = 0x0A77ACCE  # seed of these walks: any would do
_CPU = torch.device("cpu")


class Setting(StrEnum):
    """What stands between a batch and whoever reads the channel."""

    NO_PROTECTION = "no protection"
    SECURE_SUM = "secure sum only"
    LOCAL_NOISE = "local noise"
    SHARED_NOISE = "shared noise"

    @property
    def noisy(self) -> bool:
        """Whether there is noise, and so a promise; the other settings are what it is held against."""
        return self in (Setting.LOCAL_NOISE, Setting.SHARED_NOISE)

    @property
    def summed(self) -> bool:
        """Whether only the sum over the sites is seen."""
        return self in (Setting.SECURE_SUM, Setting.SHARED_NOISE)


@dataclass(frozen=True, kw_only=True)
class ChannelTwin:
    """One round of a study, as the coordinator sees it.

    Attributes:
        study: The study that is audited.
        setting: What stands between.
        batch: Number of records in the batch of a site, at least 1.

    Raises:
        InputError: If ``batch`` is below 1.
    """

    study: Study
    setting: Setting
    batch: int

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"A batch of {self.batch} records.", remedy="Attack at least one record.")

    @cached_property
    def sites(self) -> int:
        """Number of sites whose contributions are seen in one sum: the study's own, from 5 to 10."""
        return min(max(self.study.federation.sites, FEWEST_SITES), MOST_SITES) if self.setting.summed else 1

    @property
    def records(self) -> int:
        """Number of records in what is seen."""
        return self.sites * self.batch

    @cached_property
    def plan(self) -> PrivacyPlan:
        """The plan of the twin's round."""
        plan = PrivacyPlan.from_study(self.study)
        privacy = replace(
            self.study.privacy,
            epsilon=None,
            noise_multiplier=plan.noise_multiplier if self.setting.noisy else 0.0,
            delta=plan.delta,
            sample_rate=1.0,
            trust=Trust.SUM if self.setting.summed else Trust.NONE,
            noise=NoiseOrigin.SYSTEM,
        )
        # At rate 1 the public size is what makes the divisor of a step; the study's divisor is kept. No drop-outs nor
        # colluders beyond the one that is always counted: no study has less noise in its sum.
        size = max(2, round(self.sites * plan.expected_units_per_site))
        federation = FederationTerms(sites=self.sites, public_records=size)
        return PrivacyPlan.from_study(replace(self.study, privacy=privacy, federation=federation))

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """What the first round sends to the sites, with the weights behind it that they need beside the shared ones.

        Fresh ones: after a round of statistics they would be others, from which an attack reads less.

        Anybody can compute it from the study.
        """
        return ServerModel(self._family, self.study.training).weights()

    @cached_property
    def dimension(self) -> int:
        """Number of coordinates of what is seen: of shared weights."""
        return parameter_count(self._family.shared)

    def observe(self, codes: Codes, *, random: RandomSource, left_out: int | None = None) -> Observation:
        """Let sites contribute, and return what is seen.

        Args:
            codes: int32 [sites * batch, columns], site by site.
            random: Source of latent draws and noise.
            left_out: Place of a record that takes no part, which the attacker is not told; None if all do.

        Raises:
            InputError: If there is another number of records, or the family is unknown to the attack.
        """
        if len(codes) != self.records:
            raise InputError(f"{len(codes)} records for a sum of {self.records}.", remedy="Give as many.")
        total = np.zeros(self.dimension, dtype=np.int64)
        present = np.arange(len(codes)) != (-1 if left_out is None else left_out)
        for site in range(self.sites):
            rows = np.arange(site * self.batch, (site + 1) * self.batch)
            total += self._contribution(codes[rows[present[rows]]], random=random.child("site", site))
        vector = total.astype(np.float64) * self._scale
        noise = self._noise
        if self.takes_fakes:
            expected, spread = self._expected_fakes
            vector, noise = vector - expected, math.hypot(noise, spread)
        return Observation(
            vector=vector,
            layers=input_layers(self._family, vector),
            count=self.records,
            noise=noise,
            inputs=public_inputs(self._family),
            signals=code_signals(self._family, vector),
        )

    def _contribution(self, codes: Codes, *, random: RandomSource) -> NDArray[np.int64]:
        """What a site sends, in grid steps, before any mask: as the door makes it."""
        # Persons are protected one by one: each record is about another.
        persons = np.arange(len(codes), dtype=np.int64) if self.study.privacy.unit is Unit.PERSON else None
        trainer = Trainer(self.plan, Records(codes=codes, persons=persons, schema=self._schema), device=_CPU)
        if self.study.training.strategy is ContributionKind.GRADIENTS:
            exact = trainer.gradient_sum(self.weights, random=random)
            sent = self.plan.step_mechanism(trainer.dimension).privatise(exact, random=random.child("noise"))
            return sent.astype(np.int64)
        change = trainer.local_update(self.weights, random=random)
        return self.plan.update_grid(trainer.dimension).quantise(change)

    @cached_property
    def takes_fakes(self) -> bool:
        """Whether a site's own steps also follow gradients on fakes, which it draws by itself."""
        if self.study.training.strategy is not ContributionKind.UPDATES:
            return False
        public = self._family.public_gradient(
            clip_norm=self.study.privacy.clip_norm, generator=torch.Generator().manual_seed(0)
        )
        return public is not None

    @cached_property
    def _expected_fakes(self) -> tuple[NDArray[np.float64], float]:
        """What fakes add to what is seen, [d], and the standard deviation of a coordinate.

        Whoever has the weights can draw fakes too; the attacker's own are not those of the sites.
        """
        bare, nobody = replace(self, setting=Setting.NO_PROTECTION), np.zeros((0, len(self._schema.columns)), np.int32)
        own = DeterministicRandom(_OWN_FAKES)
        walks = [bare._contribution(nobody, random=own.child(walk)) * bare._scale for walk in range(_WALKS)]
        spread = math.sqrt(self.sites * float(np.var(walks, axis=0, ddof=1).mean()) * (1.0 + self.sites / _WALKS))
        return self.sites * np.mean(walks, axis=0), spread

    @cached_property
    def _family(self) -> Family:
        return build_study_model(self.study)

    @cached_property
    def _schema(self) -> Schema:
        return study_schema(self.study)

    @cached_property
    def _scale(self) -> float:
        """From grid steps to a sum of clipped gradients; a change of the weights is taken for steps in one place."""
        training, dimension = self.study.training, self.dimension
        if training.strategy is ContributionKind.GRADIENTS:
            return self.plan.step_mechanism(dimension).grid.step
        walked = training.local_learning_rate * training.local_steps / self.plan.expected_units_per_site
        return -self.plan.update_grid(dimension).step / walked

    @cached_property
    def _noise(self) -> float:
        """Standard deviation of the noise of a coordinate of the sum."""
        mechanism = self.plan.step_mechanism(self.dimension)
        noise = mechanism.sigma * mechanism.grid.step * math.sqrt(self.sites)
        steps = self.study.training.local_steps
        return noise if self.study.training.strategy is ContributionKind.GRADIENTS else noise / math.sqrt(steps)
