"""Training that goes on from a saved state is, to the last bit, training that never stopped."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from protocol.errors import InputError
from protocol.study import Study
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model

MakeStudy = Callable[..., Study]
GAN: dict[str, Any] = {
    "family": "gan",
    "options": {"latent": 4, "generator_widths": [8, 8], "critic_widths": [8], "fake_batch": 16, "critic_steps": 2},
}
KINDS: dict[str, dict[str, Any]] = {
    "vae-adam": {},
    "vae-descent": {"training": {"optimiser": "sgd", "momentum": 0.5}},
    "vae-no-momentum": {"training": {"optimiser": "sgd", "momentum": 0.0, "averaging": 0.0}},
    "gan": {"model": GAN},
    "gan-counts": {"model": GAN | {"options": GAN["options"] | {"table_steps": 3}}, "counts": True},
    "vaegan": {"model": {"family": "vaegan", "options": {"critic_widths": [4], "fake_batch": 16}}},
    "gan-shares": {"model": GAN | {"options": GAN["options"] | {"class_shares": [1.0, 3.0]}}},
}


def new(study: Study) -> ServerModel:
    return ServerModel(build_study_model(study), study.training)


def learn(model: ServerModel) -> None:
    """Learn from made-up counts, as a statistics round does."""
    assert model.family.statistics is not None
    made = torch.Generator().manual_seed(99)
    means = torch.rand(model.family.statistics.dimension(1), generator=made, dtype=torch.float64)
    model.learn_statistics(1, means, deviation=0.01, generator=made)


def train(model: ServerModel, first: int, last: int) -> None:
    """Step along made-up gradients, as the strategy of gradients does."""
    for number in range(first, last + 1):
        generator = torch.Generator().manual_seed(number)
        gradient = torch.randn(model.dimension, generator=generator, dtype=torch.float64)
        public = model.family.public_gradient(clip_norm=1.0, generator=generator)
        model.step(gradient if public is None else gradient + public, generator=generator)


def same(one: ServerModel, other: ServerModel) -> bool:
    found, expected = one.training_state(), other.training_state()
    return found.keys() == expected.keys() and all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [0, 1, 3, 4])
def test_it_goes_on_bit_by_bit(tiny_study: MakeStudy, kind: str, stop: int) -> None:
    sections = dict(KINDS[kind])
    counts = sections.pop("counts", False)
    study = tiny_study(**sections)
    whole, first, second = (new(study) for _ in range(3))
    if counts:
        learn(whole)
        learn(first)
    train(whole, 1, 7)
    train(first, 1, stop)
    second.load_training_state(load(save(first.training_state())))
    assert same(first, second)
    train(second, stop + 1, 7)
    assert same(whole, second)
    assert all(torch.equal(a, b) for a, b in zip(
        whole.released_state().values(), second.released_state().values(), strict=True))  # fmt: skip


@pytest.mark.parametrize("part", ["family", "own", "optimiser", "average"])
def test_every_part_of_the_state_matters(tiny_study: MakeStudy, part: str) -> None:
    """The broken twin: one part is that of a model which has not been trained."""
    study = tiny_study(model=GAN)
    whole, first, second = (new(study) for _ in range(3))
    train(whole, 1, 7)
    train(first, 1, 3)
    mixed = first.training_state() | {
        name: value for name, value in _one_step(study).items() if name.startswith(f"{part}/")
    }
    second.load_training_state(mixed)
    train(second, 4, 7)
    assert not same(whole, second)


def _one_step(study: Study) -> dict[str, torch.Tensor]:
    model = new(study)
    train(model, 1, 2)
    return model.training_state()


def test_what_is_saved_shares_nothing_with_the_model(tiny_study: MakeStudy) -> None:
    model = new(tiny_study(model=GAN))
    train(model, 1, 2)
    state = model.training_state()
    before = {name: value.clone() for name, value in state.items()}
    train(model, 3, 4)
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_the_state_of_another_model_is_refused(tiny_study: MakeStudy) -> None:
    model, other = new(tiny_study()), new(tiny_study(model=GAN))
    for state in (other.training_state(), {}, {"nowhere/x": torch.zeros(1)}):
        with pytest.raises(InputError, match="another model"):
            model.load_training_state(state)
