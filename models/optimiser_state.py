"""The state of an optimiser as named tensors, so that it can be written down without pickling anything."""

from collections.abc import Mapping

import torch
from torch import Tensor


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's moments and counters, named ``PLACE.NAME`` by the place of their weight.

    Rates and other settings are not in it: they come from the study.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> descent = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.sum().backward(); descent.step()
        >>> optimiser_state(descent)
        {'0.momentum_buffer': tensor([1., 1.])}
    """
    state = optimiser.state_dict()["state"]
    return {
        f"{place}.{name}": torch.as_tensor(value).detach().cpu().clone()
        for place, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Go on from what :func:`optimiser_state` returned; settings stay those of ``optimiser``."""
    places: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        place, _, name = key.partition(".")
        places.setdefault(int(place), {})[name] = value.clone()
    optimiser.load_state_dict({"state": places, "param_groups": optimiser.state_dict()["param_groups"]})
