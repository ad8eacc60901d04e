"""What a site computes on its records in one round: a clipped gradient sum, or a locally trained change."""

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.dp_sgd import chunked_gradient_sum, parameter_count
from privacy.plan import PrivacyPlan
from privacy.sampling import UnitIndex
from protocol.errors import RecordsError, WireError
from protocol.randomness import RandomSource
from protocol.terms import Unit
from records.dataset import Records
from strategies.study_model import build_study_model


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
    def dimension(self) -> int:
        """Number of coordinates of a contribution."""
        return parameter_count(self._module.shared)

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
        codes = self._codes[torch.as_tensor(rows, device=self._device)]
        seed = random.child("latent").seed64() >> 1

        def unit_loss(part: torch.Tensor) -> torch.Tensor:
            # Seeded alike for every chunk: a record's loss must not depend on which chunk it is in.
            return self._module.unit_loss(part, generator=torch.Generator(self._device).manual_seed(seed))

        return chunked_gradient_sum(
            self._module.shared,
            unit_loss,
            codes,
            units=torch.as_tensor(units, device=self._device) if self._by_person else None,
            clip_norm=self._plan.study.privacy.clip_norm,
            chunk=self._plan.rows_per_pass,
            padded=True,
        ).numpy()

    def local_update(self, weights: NDArray[np.float32], *, random: RandomSource) -> NDArray[np.float64]:
        """Return the change of the weights after local DP-SGD: private, because every step is noised.

        Args:
            weights: float32 ``[d]``, where training starts.
            random: Source of samples, latent draws and noise.

        Returns:
            float64 ``[d]``, of at most the study's update norm.

        Raises:
            WireError: If the model has another number of weights.
        """
        training = self._plan.study.training
        mechanism = self._plan.step_mechanism(self.dimension)
        current = weights.astype(np.float64)
        for step in range(training.local_steps):
            source = random.child("step", step)
            exact = self.gradient_sum(current.astype(np.float32), random=source)
            noisy = mechanism.privatise(exact, random=source.child("noise"))
            mean = mechanism.grid.dequantise(noisy) / self._plan.expected_units_per_site
            current -= training.local_learning_rate * mean
        change = current - weights
        norm = float(np.linalg.norm(change))
        return change * min(1.0, training.update_norm / norm) if norm > 0 else change

    def check_size(self, weights: NDArray[np.float32]) -> None:
        """Refuse weights of another model.

        Raises:
            WireError: If the model has another number of weights.
        """
        if weights.shape != (self.dimension,):
            raise WireError(
                f"The model has {self.dimension} weights, the message {weights.size}.",
                remedy="Both ends must use the same study and the same Cloister.",
            )

    def _load(self, weights: NDArray[np.float32]) -> None:
        self.check_size(weights)
        trainable = [p for p in self._module.shared.parameters() if p.requires_grad]
        # A copy: the vector of a message may be read-only.
        torch.nn.utils.vector_to_parameters(torch.tensor(weights, device=self._device), trainable)
