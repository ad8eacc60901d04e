"""The server's optimiser and its moving average, against numbers worked by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.family import Family
from models.layout import OneHotLayout
from protocol.study import Optimiser, Training
from strategies.server_model import ServerModel

GENERATOR = torch.Generator()


class TwoWeights(Family):
    """Shares two of its weights; the third is the generator's own, and the fourth is frozen."""

    def __init__(self) -> None:
        super().__init__(OneHotLayout(cardinalities=(2,)))
        self.module = nn.ParameterDict(
            {
                "a": nn.Parameter(torch.tensor([1.0])),
                "frozen": nn.Parameter(torch.tensor([7.0]), requires_grad=False),
                "b": nn.Parameter(torch.tensor([2.0])),
            }
        )
        self.own = nn.ParameterDict({"c": nn.Parameter(torch.tensor([0.0]))})
        self.own.register_buffer("steps", torch.tensor(0))

    @property
    def shared(self) -> nn.Module:
        return self.module

    @property
    def generator(self) -> nn.Module:
        return self.own

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def free_steps(self, *, generator: torch.Generator) -> None:
        del generator
        with torch.no_grad():
            self.own["c"] += 1.0
            self.own.steps += 1

    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def stepped(gradients: list[list[float]], **training: Any) -> ServerModel:
    model = ServerModel(TwoWeights(), Training(**training))
    for gradient in gradients:
        model.step(torch.tensor(gradient, dtype=torch.float64), generator=GENERATOR)
    return model


def test_what_sites_receive_are_the_shared_trainable_weights() -> None:
    model = stepped([])
    assert model.dimension == 2
    weights = model.weights()
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, [1.0, 2.0])
    weights[:] = 9.0
    np.testing.assert_array_equal(model.weights(), [1.0, 2.0])


def test_descent_with_momentum() -> None:
    model = stepped([[1.0, -2.0]], optimiser=Optimiser.SGD, learning_rate=0.1, momentum=0.5)
    np.testing.assert_allclose(model.weights(), [0.9, 2.2], rtol=1e-6)
    model.step(torch.tensor([3.0, 0.0]), generator=GENERATOR)
    # Velocity: 0.5 * (1, -2) + (3, 0) = (3.5, -1).
    np.testing.assert_allclose(model.weights(), [0.9 - 0.35, 2.2 + 0.1], rtol=1e-6)


def test_adam() -> None:
    model = stepped([[4.0, -0.5]], learning_rate=0.1, momentum=0.9, second_moment=0.999)
    # Kingma and Ba, 2015: the first step has the length of the learning rate, whatever the gradient.
    np.testing.assert_allclose(model.weights(), [0.9, 2.1], rtol=1e-6)
    model.step(torch.tensor([0.0, -0.5]), generator=GENERATOR)
    # First moments 0.36 / 0.19 and -0.5; second moments 0.016 * 0.999 / 0.001999 and 0.25.
    first = 0.9 - 0.1 * (0.9 * 0.4 / 0.19) / np.sqrt(0.999 * 0.016 / 0.001999)
    np.testing.assert_allclose(model.weights(), [first, 2.2], rtol=1e-5)


def test_nothing_is_left_of_a_gradient() -> None:
    model = stepped([[1.0, 1.0]], optimiser=Optimiser.SGD, learning_rate=1.0, momentum=0.0)
    model.step(torch.zeros(2), generator=GENERATOR)
    np.testing.assert_array_equal(model.weights(), [0.0, 1.0])
    assert model.family.shared["frozen"].item() == 7.0


@pytest.mark.parametrize(
    ("averaging", "expected"),
    [
        # The generator's weight is 1, 2, 3 after the three steps. Without averaging, the last one.
        (0.0, [1.0, 2.0, 3.0]),
        # The first is taken over; then 2/11 and 3/12 of the average are kept, less than 0.99 would.
        (0.99, [1.0, 2 / 11 * 1 + 9 / 11 * 2, 0.25 * (2 / 11 + 18 / 11) + 0.75 * 3]),
        # 0.1 is less than both.
        (0.1, [1.0, 0.1 * 1 + 0.9 * 2, 0.1 * 1.9 + 0.9 * 3]),
    ],
)
def test_the_moving_average_forgets_its_start(averaging: float, expected: list[float]) -> None:
    model = stepped([], averaging=averaging)
    for step, value in enumerate(expected, start=1):
        model.step(torch.zeros(2), generator=GENERATOR)
        released = model.released_state()
        assert released["c"].item() == pytest.approx(value, rel=1e-6)
        assert released["steps"].item() == step, "a counter is no weight: it is not averaged"


def test_only_the_generator_is_released_and_as_a_copy() -> None:
    model = stepped([[0.0, 0.0]])
    released = model.released_state()
    assert set(released) == {"c", "steps"}
    released["c"] += 5
    assert model.released_state()["c"].item() == 1.0
