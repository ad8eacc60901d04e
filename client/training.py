"""What a site computes on its records in one round: sums of clipped gradients or statistics, or a trained change."""

import numpy as np
import torch
from numpy.typing import NDArray

from models.family import Family
from privacy.dp_sgd import chunked_gradient_sum, parameter_count
from privacy.plan import PrivacyPlan
from privacy.sampling import UnitIndex
from privacy.statistics_sum import bounded_statistics_sum
from protocol.errors import RecordsError, WireError
from protocol.randomness import RandomSource
from protocol.terms import ContributionKind, Unit
from records.dataset import Records
from strategies.server_model import companion_weights
from strategies.study_model import build_study_model, statistics_of


class Trainer:
    """One study's model on one site's records.

    Args:
        plan: The study's privacy plan.
        records: The site's records, encoded by the study's schema.
        device: Where to compute.

    Raises:
        RecordsError: If the study protects persons and the records have no person key.
    """

    def __init__(self, plan: PrivacyPlan, records: Records, *, device: torch.device) -> None:
        study = plan.study
        self._plan = plan
        self._device = device
        self._module = build_study_model(study).to(device)
        trainable = [p for p in self._module.shared.parameters() if p.requires_grad]
        self._received = [*trainable, *companion_weights(self._module, study.training.strategy)]
        self._codes = torch.as_tensor(records.codes).to(device)
        by_person = study.privacy.unit is Unit.PERSON
        if by_person and records.persons is None:
            raise RecordsError(
                "The study protects persons, and the records do not say whose they are.",
                remedy="Name the person key in the schema.",
            )
        self._by_person = by_person
        self._index = UnitIndex.of(records.units if by_person else np.arange(len(records), dtype=np.int64))

    @property
    def model(self) -> Family:
        """The study's model."""
        return self._module

    @property
    def dimension(self) -> int:
        """Number of shared weights: of coordinates of a contribution to training."""
        return parameter_count(self._module.shared)

    def contribution_size(self, number: int) -> int:
        """Return the number of coordinates of a contribution to a round.

        Args:
            number: Of the round, among all rounds of the run.
        """
        stage = self._plan.stage(number)
        if stage.kind is not ContributionKind.STATISTICS:
            return self.dimension
        return statistics_of(self._plan.study, self._module).dimension(number - stage.first + 1)

    def statistics_sum(self, weights: NDArray[np.float32], *, number: int) -> NDArray[np.float64]:
        """Return the sum of the study's statistics over all units: exact, not private.

        Args:
            weights: float32 ``[d]``, the shared weights, on which the statistics may depend.
            number: Of the round, among all rounds of the run.

        Returns:
            float64 ``[contribution_size(number)]``; each unit adds a vector of norm at most 1, the mean over its
            records.

        Raises:
            WireError: If the model has another number of weights.
        """
        self._load(weights)
        statistics = statistics_of(self._plan.study, self._module)
        place = number - self._plan.stage(number).first + 1
        rows, units = self._index.everybody()
        return bounded_statistics_sum(
            self._codes[torch.as_tensor(rows, device=self._device)].long(),
            units=torch.as_tensor(units, device=self._device) if self._by_person else None,
            norms=lambda codes: statistics.norms(place, codes),
            weighted_sum=lambda codes, counted: statistics.weighted_sum(place, codes, counted),
            bound=statistics.norm(place),
            dimension=statistics.dimension(place),
        ).numpy()

    def gradient_sum(self, weights: NDArray[np.float32], *, random: RandomSource) -> NDArray[np.float64]:
        """Return the sum of clipped gradients of a Poisson sample, ``[d]``: exact, not private.

        Args:
            weights: float32 ``[d]``, where the gradients are taken.
            random: Source of the sample and of the latent draws.

        Returns:
            float64 ``[d]``; each unit adds a vector of at most the clip norm.

        Raises:
            WireError: If the model has another number of weights.
        """
        self._load(weights)
        rows, units = self._index.poisson_sample(
            rate=self._plan.study.privacy.sample_rate, random=random.child("sample")
        )
        seed = random.child("latent").seed64() >> 1
        codes = self._module.views(
            self._codes[torch.as_tensor(rows, device=self._device)],
            generator=torch.Generator(self._device).manual_seed(random.child("views").seed64() >> 1),
        )
        views = self._module.views_per_record

        def unit_loss(part: torch.Tensor) -> torch.Tensor:
            # Seeded alike for every chunk: a record's loss must not depend on which chunk it is in.
            return self._module.unit_loss(part, generator=torch.Generator(self._device).manual_seed(seed))

        return chunked_gradient_sum(
            self._module.shared,
            unit_loss,
            codes,
            # Views of a record belong to its unit: their gradients are averaged before the unit is clipped.
            units=torch.as_tensor(units, device=self._device).repeat_interleave(views)
            if self._by_person or views > 1
            else None,
            clip_norm=self._plan.study.privacy.clip_norm,
            chunk=min(self._plan.rows_per_pass * views, self._module.most_rows_per_pass),
            padded=True,
        ).numpy()

    def local_update(self, weights: NDArray[np.float32], *, random: RandomSource) -> NDArray[np.float64]:
        """Return the change of the weights after local DP-SGD: private, because every step is noised.

        Args:
            weights: float32 ``[d]``, where training starts, and behind them what the family needs beside.
            random: Source of samples, latent draws, fakes and noise.

        Returns:
            float64 ``[d]``, of at most the study's update norm.

        Raises:
            WireError: If the model has another number of weights.
        """
        training = self._plan.study.training
        mechanism = self._plan.step_mechanism(self.dimension)
        self.check_size(weights)
        start, beside = weights[: self.dimension], weights[self.dimension :]
        current = start.astype(np.float64)
        for step in range(training.local_steps):
            source = random.child("step", step)
            exact = self.gradient_sum(np.concatenate([current.astype(np.float32), beside]), random=source)
            noisy = mechanism.privatise(exact, random=source.child("noise"))
            mean = mechanism.grid.dequantise(noisy) / self._plan.expected_units_per_site
            public = self._public_gradient(random=source.child("public"))
            if public is not None:
                mean = mean + public
            current -= training.local_learning_rate * mean
        change = current - start
        norm = float(np.linalg.norm(change))
        return change * min(1.0, training.update_norm / norm) if norm > 0 else change

    def _public_gradient(self, *, random: RandomSource) -> NDArray[np.float64] | None:
        """Return the mean gradient, at the weights last loaded, of loss terms that no record enters; None for none.

        It is added after the noise, to one step of a site's own: those weights are private, and it sees nothing else.
        """
        seed = random.seed64() >> 1
        public = self._module.public_gradient(
            clip_norm=self._plan.study.privacy.clip_norm, generator=torch.Generator(self._device).manual_seed(seed)
        )
        return None if public is None else public.cpu().numpy()

    def check_size(self, weights: NDArray[np.float32]) -> None:
        """Refuse weights of another model.

        Raises:
            WireError: If the model has another number of weights.
        """
        # Where nothing is trained at the sites, the message carries a single zero.
        expected = sum(weight.numel() for weight in self._received)
        if weights.shape != (max(1, expected),):
            raise WireError(
                f"The model has {expected} weights, the message {weights.size}.",
                remedy="Both ends must use the same study and the same Cloister.",
            )

    def _load(self, weights: NDArray[np.float32]) -> None:
        self.check_size(weights)
        if not self._received:
            return
        # A copy: the vector of a message may be read-only.
        torch.nn.utils.vector_to_parameters(torch.tensor(weights, device=self._device), self._received)
