"""What families ask for in rounds of statistics: norms that are true, and bounds that hold for any record."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.families import FAMILIES, IMAGE_FAMILIES, build_family
from models.family import Family
from models.statistics import Statistics
from protocol.image_shape import ImageShape

CARDINALITIES = (5, 3, 12, 2)
IMAGE = ImageShape(height=8, width=8, channels=1, levels=4)
RECORDS = 40


def family_of(name: str, *, image: bool) -> Family:
    more: dict[str, Any] = {"image": IMAGE} if image else {}
    return build_family(name, {}, cardinalities=CARDINALITIES, label=3, **more)


def codes_of(*, image: bool, seed: int) -> Tensor:
    """Records anywhere in their domain, the corners of it among them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (*CARDINALITIES, *([IMAGE.levels] * (IMAGE.height * IMAGE.width * IMAGE.channels) if image else []))
    columns = [torch.randint(0, size, (RECORDS,), generator=generator) for size in sizes]
    codes = torch.stack(columns, dim=1)
    codes[0] = 0
    codes[1] = torch.tensor(sizes) - 1
    return codes


def one_by_one(statistics: Statistics, number: int, codes: Tensor) -> Tensor:
    """The slow twin, which believes nothing but what is added up."""
    return Statistics.norms(statistics, number, codes)


FOUND = [
    pytest.param(name, image, id=f"{name}{'-image' if image else ''}")
    for names, image in ((FAMILIES, False), (IMAGE_FAMILIES, True))
    for name in names
    if family_of(name, image=image).statistics is not None
]


def test_there_are_families_with_statistics() -> None:
    assert len(FOUND) >= 2


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize(("name", "image"), FOUND)
def test_norms_are_those_of_what_is_added_up_whatever_the_weights(name: str, image: bool, scale: float) -> None:
    family, generator = family_of(name, image=image), torch.Generator().manual_seed(7)
    for parameter in family.shared.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    statistics = family.statistics
    assert statistics is not None
    with torch.no_grad():
        for number in range(1, min(3, family.statistics_rounds) + 1):
            codes = codes_of(image=image, seed=number)
            slow = one_by_one(statistics, number, codes)
            # What a site takes for the norm may be larger than it is, and never smaller.
            assert bool((statistics.norms(number, codes) >= slow * (1 - 1e-6)).all())
            assert statistics.norms(number, codes[:0]).shape == (0,)
            if scale <= 1.0:
                assert bool((slow <= statistics.norm(number) * (1 + 1e-6)).all()), "the public bound does not hold"
            # The broken twin: half of the norms is not enough for somebody.
            assert not bool((0.5 * statistics.norms(number, codes) >= slow * (1 - 1e-6)).all()) or not slow.any()


@pytest.mark.parametrize(("name", "image"), FOUND)
def test_sums_are_linear_and_as_long_as_they_say(name: str, image: bool) -> None:
    family = family_of(name, image=image)
    statistics = family.statistics
    assert statistics is not None
    with torch.no_grad():
        for number in range(1, min(3, family.statistics_rounds) + 1):
            codes = codes_of(image=image, seed=3)
            weights = torch.rand(RECORDS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            whole = statistics.weighted_sum(number, codes, weights)
            apart = sum(statistics.weighted_sum(number, codes[[row]], weights[[row]]) for row in range(RECORDS))
            assert whole.shape == (statistics.dimension(number),)
            assert whole.dtype == torch.float64
            assert torch.allclose(whole, torch.as_tensor(apart), rtol=1e-5, atol=1e-6)
            assert not statistics.weighted_sum(number, codes[:0], weights[:0]).any()
            assert 0 < statistics.norm(number) < math.inf
