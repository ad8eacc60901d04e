"""The server's copy of the model: its optimiser, and the moving average of its weights that is released."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.family import Family
from models.optimiser_state import load_optimiser_state, optimiser_state
from protocol.errors import InputError, StudyError
from protocol.study import Optimiser, Training
from protocol.terms import ContributionKind


class ServerModel:
    """A model that is stepped with what sites released; all of it is post-processing.

    Args:
        family: The model, on its device.
        training: The study's training section.
    """

    def __init__(self, family: Family, training: Training) -> None:
        self.family = family
        self._parameters = [p for p in family.shared.parameters() if p.requires_grad]
        self._optimiser = _optimiser(self._parameters, training)
        self._training = training
        self._average = _average(family.generator, training.averaging)

    @property
    def dimension(self) -> int:
        """Number of shared weights; none where a family learns from statistics alone."""
        return sum(p.numel() for p in self._parameters)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.family.device

    def weights(self) -> NDArray[np.float32]:
        """Return what sites receive, float32: the shared weights ``[d]``, and behind them what local steps need beside.

        Where there is nothing, it is a single zero.
        """
        received = [*self._parameters, *companion_weights(self.family, self._training.strategy)]
        if not received:
            return np.zeros(1, dtype=np.float32)
        flat: NDArray[np.float32] = nn.utils.parameters_to_vector(received).detach().cpu().float().numpy()
        return flat.copy()

    @property
    def _learning_rate(self) -> float:
        """That of the next step; the average counts the steps that were taken, and survives a restart."""
        training, taken = self._training, int(self._average.n_averaged)
        left = max(training.rounds - taken, 1)
        return training.learning_rate * min(1.0, left / (training.cooldown or 1))

    def step(self, gradient: Tensor, *, generator: torch.Generator) -> None:
        """Take one optimiser step along a gradient, float64 ``[d]``, and let the family train on its own."""
        if self._optimiser is None:
            raise StudyError(
                "The family has no weights to train with gradients or updates.",
                remedy='Write training.strategy = "statistics" into the study.',
            )
        start = 0
        for parameter in self._parameters:
            part = gradient[start : start + parameter.numel()]
            parameter.grad = part.to(parameter.device, parameter.dtype).view_as(parameter)
            start += parameter.numel()
        for group in self._optimiser.param_groups:
            group["lr"] = self._learning_rate
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.family.free_steps(generator=generator)
        self._average.update_parameters(self.family.generator)

    def learn_statistics(self, number: int, means: Tensor, *, deviation: float, generator: torch.Generator) -> None:
        """Let the family learn from a round of statistics, and begin the average anew: it must forget the start.

        Arguments as of `models.family.Family.learn_statistics`.
        """
        self.family.learn_statistics(number, means.to(self.device), deviation=deviation, generator=generator)
        self._average = _average(self.family.generator, self._training.averaging)

    def released_state(self) -> dict[str, Tensor]:
        """Return the averaged weights of the generator, by name."""
        return {name: value.detach().cpu().clone() for name, value in self._average.module.state_dict().items()}

    def training_state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, by name: from it training goes on bit by bit.

        That is the family's weights and buffers, shared or not, what it remembers of its own training, the server's
        optimiser, and the average. What follows from the study alone is not in it.
        """
        parts = {
            "family": self.family.state_dict(),
            "own": self.family.training_state(),
            "optimiser": {} if self._optimiser is None else optimiser_state(self._optimiser),
            "average": self._average.state_dict(),
        }
        return {
            f"{part}/{name}": value.detach().cpu().clone().contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`training_state` returned.

        Raises:
            InputError: If it is of another model.
        """
        parts: dict[str, dict[str, Tensor]] = {"family": {}, "own": {}, "optimiser": {}, "average": {}}
        try:
            for key, value in state.items():
                part, _, name = key.partition("/")
                parts[part][name] = value
            self.family.load_state_dict(parts["family"])
            self.family.load_training_state(parts["own"])
            if self._optimiser is not None:
                load_optimiser_state(self._optimiser, parts["optimiser"])
            self._average.load_state_dict(parts["average"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                "The saved state is of another model.", remedy="Use the study and the Cloister that it was saved with."
            ) from error


def companion_weights(family: Family, strategy: ContributionKind) -> list[nn.Parameter]:
    """Return released weights that sites receive beside the shared ones, and never train.

    A site that takes several steps by itself computes the public part of the loss by itself, and may need more for it
    than it trains: the generator of fakes. In all other strategies that part is the server's, and nothing but the
    shared weights travels.
    """
    if strategy is not ContributionKind.UPDATES or family.companion is None:
        return []
    return list(family.companion.parameters())


def _optimiser(parameters: list[nn.Parameter], training: Training) -> torch.optim.Optimizer | None:
    """Return the optimiser that the study names; None where there is nothing to train."""
    if not parameters:
        return None
    if training.optimiser is Optimiser.ADAM:
        return torch.optim.Adam(
            parameters, lr=training.learning_rate, betas=(training.momentum, training.second_moment)
        )
    return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.momentum)


def _average(module: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average that forgets its start: early on it averages fewer steps."""

    def blend(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        steps = float(count)
        kept = min(decay, (1.0 + steps) / (10.0 + steps))
        return average * kept + current * (1.0 - kept) if average.is_floating_point() else current

    return AveragedModel(module, avg_fn=blend, use_buffers=True)
