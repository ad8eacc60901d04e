"""The server's copy of the model: its optimiser, and the moving average of its weights that is released."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.family import Family
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
