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
from torch import nn

from client.training import Trainer
from models.family import Family
from privacy.audit.channel.inversion import Observation
from privacy.audit.channel.span_search import Codes, InputGradient
from privacy.plan import PrivacyPlan
from privacy.shares import FEWEST_SITES
from protocol.errors import InputError
from protocol.randomness import RandomSource
from protocol.study import FederationTerms, Study
from protocol.terms import ContributionKind, NoiseOrigin, Trust, Unit
from records.dataset import Records
from records.schema import Schema
from strategies.study_model import build_study_model, study_schema

MOST_SITES = 10
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
        """The weights that the first round sends to the sites, [d]; anybody can compute them from the study."""
        with torch.no_grad():
            trainable = [each for each in self._family.shared.parameters() if each.requires_grad]
            return nn.utils.parameters_to_vector(trainable).numpy().copy()

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
        total = np.zeros(len(self.weights), dtype=np.int64)
        present = np.arange(len(codes)) != (-1 if left_out is None else left_out)
        for site in range(self.sites):
            rows = np.arange(site * self.batch, (site + 1) * self.batch)
            total += self._contribution(codes[rows[present[rows]]], random=random.child("site", site))
        vector = total.astype(np.float64) * self._scale
        layers = input_layers(self._family, vector)
        return Observation(vector=vector, layers=layers, count=self.records, noise=self._noise)

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
    def _family(self) -> Family:
        return build_study_model(self.study)

    @cached_property
    def _schema(self) -> Schema:
        return study_schema(self.study)

    @cached_property
    def _scale(self) -> float:
        """From grid steps to a sum of clipped gradients; a change of the weights is taken for steps in one place."""
        training, dimension = self.study.training, len(self.weights)
        if training.strategy is ContributionKind.GRADIENTS:
            return self.plan.step_mechanism(dimension).grid.step
        walked = training.local_learning_rate * training.local_steps / self.plan.expected_units_per_site
        return -self.plan.update_grid(dimension).step / walked

    @cached_property
    def _noise(self) -> float:
        """Standard deviation of the noise of a coordinate of the sum."""
        mechanism = self.plan.step_mechanism(len(self.weights))
        noise = mechanism.sigma * mechanism.grid.step * math.sqrt(self.sites)
        steps = self.study.training.local_steps
        return noise if self.study.training.strategy is ContributionKind.GRADIENTS else noise / math.sqrt(steps)


def input_layers(family: Family, vector: NDArray[np.float64]) -> tuple[InputGradient, ...]:
    """The gradients of the layers that one-hot records enter.

    Args:
        family: The model.
        vector: Gradient of its shared part, flat [d].

    Returns:
        For a variational auto-encoder, the encoder's first layer and the decoder's layers between columns; for an
        adversarial network, the critic's first layer.

    Raises:
        InputError: If the family is unknown to the attack.
    """
    parts: dict[str, NDArray[np.float64]] = {}
    start = 0
    for name, parameter in family.shared.named_parameters():
        if parameter.requires_grad:
            parts[name] = vector[start : start + parameter.numel()].reshape(tuple(parameter.shape))
            start += parameter.numel()
    columns = family.layout.columns
    if "0.weight" in parts:
        return (InputGradient(entered=columns, rows=parts["0.weight"].T),)
    if "encoder.0.weight" not in parts:
        raise InputError(f"The family {type(family).__name__} has no layer known here.", remedy="Use vae or gan.")
    heads = (f"decoder.column_heads.{column - 1}.weight" for column in range(1, columns))
    return (
        InputGradient(entered=columns, rows=parts["encoder.0.weight"]),
        *(
            InputGradient(entered=column, rows=parts[name], logits=True)
            for column, name in enumerate(heads, start=1)
            if name in parts
        ),
    )
