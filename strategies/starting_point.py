"""Starting from the weights of a public release: what they are, how they are known, and how they are loaded."""

import copy
import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from models.family import Family
from protocol.errors import StudyError
from protocol.messages import vector_hash
from protocol.study import Study
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model

State = Mapping[str, Tensor]


def starting_state(model: ServerModel) -> dict[str, Tensor]:
    """Return all weights and buffers of a trained model, the generator's as they are released.

    Sites' records enter the others, such as an encoder or a critic, through noisy sums alone, as they do the
    generator.
    """
    family = copy.deepcopy(model.family)
    family.generator.load_state_dict(model.released_state())
    return {name: value.detach().cpu().clone().contiguous() for name, value in family.state_dict().items()}


def state_hash(state: State) -> str:
    """Return the SHA-256 of weights: of their names, types, shapes and values, 64 hexadecimal digits.

    Example:
        >>> state_hash({"bias": torch.zeros(2)}) == state_hash({"bias": torch.zeros(2, 1)})
        False
    """
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        # A scalar has no bytes to view until it is given a dimension.
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def sent_hash(study: Study, state: State) -> str:
    """Return the SHA-256 of what sites receive in the first round of a study that starts from these weights.

    Raises:
        StudyError: If the weights are of another model.
    """
    model = build_study_model(study)
    _load(model, state)
    return vector_hash(ServerModel(model, study.training).weights())


def load_start(model: Family, study: Study, state: State | None) -> None:
    """Load the weights that a study starts from into its new model; without any, nothing is done.

    Raises:
        StudyError: If they are not those that the study names, or it names some and there are none.
    """
    init = study.model.init
    if init is None and state is None:
        return
    if init is None:
        raise StudyError("The study names no weights to start from.", remedy="Leave the release out.")
    if state is None:
        raise StudyError(
            f"The study starts from the public release {init.release!r}, which is not given.",
            remedy="Give it: --init RELEASE.",
        )
    if state_hash(state) != init.weights:
        raise StudyError(
            f"The starting weights are {state_hash(state)[:16]}…, the study names {init.weights[:16]}….",
            remedy=f"Give the release of {init.release!r} that the study was made with.",
        )
    _load(model, state)


def _load(model: Family, state: State) -> None:
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise StudyError(
            "The starting weights are of another model.", remedy="Use a release of the same family, options and schema."
        ) from error
