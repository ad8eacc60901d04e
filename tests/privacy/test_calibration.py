"""Calibration ends on the private side, and not far from the edge."""

import math
from typing import Any

import pytest

from privacy.accounting import check_tally
from privacy.calibration import calibrate_noise_multiplier
from protocol.errors import AccountingError
from protocol.terms import Relation


@pytest.mark.parametrize("relation", Relation)
@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [
        (2.0, 1e-5, 0.01, 2000),
        (8.0, 1e-5, 0.02, 300),
        (4.0, 1e-5, 0.05, 300),
        (1.0, 1e-6, 1.0, 1),
        (0.1, 1e-5, 0.01, 1000),
        (20.0, 1e-5, 0.2, 10),
    ],
)
def test_least_noise_that_keeps_the_target(
    target: float, delta: float, rate: float, steps: int, relation: Relation
) -> None:
    noise = calibrate_noise_multiplier(epsilon=target, delta=delta, sample_rate=rate, steps=steps, relation=relation)
    found = check_tally({(noise, rate): steps}, delta=delta, relation=relation).pld
    assert 0.999 * target <= found <= target
    less = check_tally({(0.998 * noise, rate): steps}, delta=delta, relation=relation).pld
    assert less > target


def test_a_loose_target_gets_the_least_noise() -> None:
    noise = calibrate_noise_multiplier(
        epsilon=300.0, delta=1e-5, sample_rate=1.0, steps=1, relation=Relation.ADD_REMOVE
    )
    assert noise == 0.1


def test_an_impossible_target_is_refused() -> None:
    with pytest.raises(AccountingError, match="Even a noise"):
        calibrate_noise_multiplier(
            epsilon=0.001, delta=1e-10, sample_rate=1.0, steps=10**6, relation=Relation.ADD_REMOVE
        )


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.0},
        {"epsilon": math.nan},
        {"epsilon": True},
        {"epsilon": 301.0},
        {"delta": 0.0},
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
        {"steps": 0},
        {"steps": 1.5},
        {"relation": "add_remove"},
    ],
)
def test_refuses_a_bad_argument(change: dict[str, Any]) -> None:
    arguments = {
        "epsilon": 1.0,
        "delta": 1e-5,
        "sample_rate": 0.1,
        "steps": 10,
        "relation": Relation.ADD_REMOVE,
    }
    with pytest.raises(AccountingError):
        calibrate_noise_multiplier(**{**arguments, **change})
