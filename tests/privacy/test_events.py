"""Events refuse whatever an accountant could misread."""

import math
from typing import Any

import pytest

from privacy.events import Mechanism, NoisyRelease
from protocol.errors import AccountingError
from protocol.terms import ContributionKind, Relation, Sampler, Unit

FIELDS: dict[str, Any] = {
    "mechanism": Mechanism.GAUSSIAN,
    "noise_multiplier": 1.0,
    "sample_rate": 0.01,
    "sampler": Sampler.POISSON,
    "count": 10,
    "kind": ContributionKind.GRADIENTS,
    "relation": Relation.ADD_REMOVE,
    "unit": Unit.RECORD,
}


@pytest.mark.parametrize("kind", ContributionKind)
@pytest.mark.parametrize("unit", Unit)
def test_round_trip(kind: ContributionKind, unit: Unit) -> None:
    event = NoisyRelease(**{**FIELDS, "kind": kind, "unit": unit})
    assert NoisyRelease.from_mapping(event.to_mapping()) == event


def test_integers_become_floats() -> None:
    event = NoisyRelease(**{**FIELDS, "noise_multiplier": 2, "sample_rate": 1})
    assert isinstance(event.noise_multiplier, float)
    assert isinstance(event.sample_rate, float)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", True),
        ("noise_multiplier", "1.0"),
        ("noise_multiplier", 10**400),
        ("sample_rate", 0.0),
        ("sample_rate", 1.0000001),
        ("sample_rate", math.nan),
        ("sample_rate", False),
        ("count", 0),
        ("count", -1),
        ("count", 1.0),
        ("count", True),
        ("count", 10**7 + 1),
        ("mechanism", "gaussian"),
        ("sampler", "poisson"),
        ("kind", "gradients"),
        ("relation", "add_remove"),
        ("unit", "record"),
        ("sampler", Sampler.ALL),  # at a rate below 1
        ("relation", Relation.REPLACE_ONE),  # under Poisson sampling
    ],
)
def test_refuses_a_bad_field(name: str, value: object) -> None:
    with pytest.raises(AccountingError):
        NoisyRelease(**{**FIELDS, name: value})


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"version": "1"},
        {"mechanism": "laplace"},
        {"sampler": "shuffle"},
        {"unit": None},
        {"kind": ["gradients"]},
        {"count": "10"},
        {"noise_multiplier": None},
        {"surplus": 1},
    ],
)
def test_refuses_a_bad_mapping(change: dict[str, object]) -> None:
    mapping = {**NoisyRelease(**FIELDS).to_mapping(), **change}
    with pytest.raises(AccountingError):
        NoisyRelease.from_mapping(mapping)


@pytest.mark.parametrize("name", [*FIELDS, "version"])
def test_refuses_a_missing_field(name: str) -> None:
    mapping = NoisyRelease(**FIELDS).to_mapping()
    del mapping[name]
    with pytest.raises(AccountingError):
        NoisyRelease.from_mapping(mapping)


def test_refuses_what_is_no_mapping() -> None:
    with pytest.raises(AccountingError):
        NoisyRelease.from_mapping([])  # type: ignore[arg-type]
