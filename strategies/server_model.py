"""The server's copy of the model: its optimiser, and the moving average of its weights that is released."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.family import Family
from models.optimiser_state import load_optimiser_state, optimiser_state
from protocol.errors import InputError
from protocol.study import Optimiser, Training


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
        self._average = _average(family.generator, training.averaging)

    @property
    def dimension(self) -> int:
        """Number of shared weights."""
        return sum(p.numel() for p in self._parameters)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self._parameters[0].device

    def weights(self) -> NDArray[np.float32]:
        """Return the shared weights, float32 ``[d]``: what sites receive."""
        flat: NDArray[np.float32] = nn.utils.parameters_to_vector(self._parameters).detach().cpu().float().numpy()
        return flat.copy()

    def step(self, gradient: Tensor, *, generator: torch.Generator) -> None:
        """Take one optimiser step along a gradient, float64 ``[d]``, and let the family train on its own."""
        start = 0
        for parameter in self._parameters:
            part = gradient[start : start + parameter.numel()]
            parameter.grad = part.to(parameter.device, parameter.dtype).view_as(parameter)
            start += parameter.numel()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.family.free_steps(generator=generator)
        self._average.update_parameters(self.family.generator)

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
            "optimiser": optimiser_state(self._optimiser),
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
            load_optimiser_state(self._optimiser, parts["optimiser"])
            self._average.load_state_dict(parts["average"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                "The saved state is of another model.", remedy="Use the study and the Cloister that it was saved with."
            ) from error


def _optimiser(parameters: list[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """Return the optimiser that the study names."""
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
