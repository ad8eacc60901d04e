"""A canary's gradient is known, whatever the weights, and the other records of a batch do not notice it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from models.families import build_family
from privacy.audit.mechanism.canaries import CanaryKind, design_canaries
from privacy.dp_sgd import clipped_gradient_sum, reference_gradient_sum
from protocol.errors import CloisterError
from protocol.randomness import SystemRandom
from records.schema import Schema
from simulations.audit.mechanism.canary_family import (
    CanaryFamily,
    CanaryRecords,
    canary_records,
    plain_records,
    reachable_coordinates,
    tensor_sizes,
)

CARDINALITIES = (5, 3, 4)
COUNTS = {
    CanaryKind.DIRAC: 12,
    CanaryKind.SPREAD: 3,
    CanaryKind.ZERO: 2,
    CanaryKind.HUGE: 2,
    CanaryKind.NON_FINITE: 3,
}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("vae", {"latent": 2}),
    ("vae", {"latent": 2, "decoder": "factorised", "encoder_widths": [6, 5]}),
    ("gan", {"critic_widths": [7], "generator_widths": [4]}),
]
WIDE = 1e12


@pytest.fixture(params=FAMILIES, ids=lambda found: f"{found[0]}-{len(found[1])}")
def family(request):
    """A family with canaries, at weights of some round."""
    name, options = request.param
    inner = build_family(name, options, cardinalities=CARDINALITIES, label=None)
    canaries = design_canaries(
        tensor_sizes(inner.shared),
        reachable=reachable_coordinates(inner.shared),
        counts=COUNTS,
        clip_norm=1.0,
        random=SystemRandom(),
    )
    generator = torch.Generator().manual_seed(3)
    for parameter in inner.shared.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return CanaryFamily(inner, canaries), canaries


def codes_of(canaries: np.ndarray) -> torch.Tensor:
    codes = np.zeros((len(canaries), len(CARDINALITIES) + 1), dtype=np.int32)
    codes[:, :-1] = np.random.default_rng(1).integers(0, CARDINALITIES, (len(canaries), len(CARDINALITIES)))
    codes[:, -1] = canaries + 1
    return torch.from_numpy(codes)


def total(
    family: CanaryFamily, codes: torch.Tensor, *, clip_norm: float, how: Callable[..., Any] = clipped_gradient_sum
) -> np.ndarray:
    def loss() -> torch.Tensor:
        return family.unit_loss(codes, generator=torch.Generator().manual_seed(0))

    return how(family.shared, loss, units=None, clip_norm=clip_norm).numpy()


@pytest.mark.parametrize("how", [clipped_gradient_sum, reference_gradient_sum])
def test_gradient_is_scale_times_direction(family, how):
    model, canaries = family
    directions = canaries.directions.toarray()
    for kind in (CanaryKind.DIRAC, CanaryKind.SPREAD, CanaryKind.ZERO):
        for number in canaries.of(kind):
            found = total(model, codes_of(np.array([number])), clip_norm=WIDE, how=how)
            np.testing.assert_allclose(found, canaries.scales[number] * directions[number], atol=1e-5)


@pytest.mark.parametrize("how", [clipped_gradient_sum, reference_gradient_sum])
def test_clipped_canaries_add_up_to_what_they_say(family, how):
    model, canaries = family
    everyone = np.arange(len(canaries))
    found = total(model, codes_of(everyone), clip_norm=0.25, how=how)
    np.testing.assert_allclose(found, 0.25 * canaries.expected(np.ones((1, len(canaries)), dtype=int))[0], atol=1e-5)


def test_other_records_have_the_loss_of_the_family(family):
    model, canaries = family
    plain = codes_of(np.full(6, -1))
    own = total(model, plain, clip_norm=0.5)

    def loss() -> torch.Tensor:
        return model.inner.unit_loss(plain[:, :-1], generator=torch.Generator().manual_seed(0))

    np.testing.assert_allclose(
        own, clipped_gradient_sum(model.shared, loss, units=None, clip_norm=0.5).numpy(), atol=1e-6
    )
    together = total(model, torch.cat([plain, codes_of(np.arange(len(canaries)))]), clip_norm=0.5)
    added = 0.5 * canaries.expected(np.ones((1, len(canaries)), dtype=int))[0]
    np.testing.assert_allclose(together, own + added, atol=1e-5)


def test_who_came_by_is_told_once(family):
    model, canaries = family
    model.unit_loss(codes_of(np.array([4, -1, 1, 4])), generator=torch.Generator())
    assert model.seen == 3
    assert np.flatnonzero(model.take_seen()).tolist() == [1, 4]
    assert model.take_seen().sum() == 0
    assert len(model.take_seen()) == len(canaries)


def test_all_linear_layers_can_be_reached(family):
    model, _ = family
    assert reachable_coordinates(model.shared).all()
    mixed = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    assert reachable_coordinates(mixed).tolist() == [True] * 6 + [False] * 4


def test_units_of_persons_have_records_of_their_own():
    columns = [{"name": "a", "kind": "boolean"}]
    schema = Schema.from_mapping({"person": "who", "columns": columns})
    found = canary_records(np.array([5, 7, 2]), schema=schema, records_each=(2, 1))
    assert found.codes[:, -1].tolist() == [6, 6, 8, 3, 3]
    assert found.units.tolist() == [0, 0, 1, 2, 2]
    plain = plain_records(np.zeros((2, 1), dtype=np.int32), persons=np.array([0, 0]), schema=schema)
    assert plain.codes[:, -1].tolist() == [0, 0]


def test_codes_beside_the_flag_are_checked():
    schema = Schema.from_mapping({"columns": [{"name": "a", "kind": "boolean"}]})
    with pytest.raises(CloisterError):
        CanaryRecords(codes=np.array([[7, 1]], dtype=np.int32), persons=None, schema=schema)
