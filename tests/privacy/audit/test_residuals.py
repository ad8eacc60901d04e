"""Each test of residuals is right about honest noise as often as it says, and finds the defect that it is there for."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from privacy.audit.mechanism.residuals import (
    Check,
    Property,
    _hypergeometric,
    bound_checks,
    canary_check,
    exact_check,
    failures,
    fresh_check,
    lattice_check,
    noise_checks,
    noise_size,
    sampler_checks,
    separate_checks,
)
from privacy.mechanisms.discrete_gaussian import sample_discrete_gaussian
from protocol.errors import InputError
from protocol.randomness import SystemRandom

SIZES = [60, 8, 1, 31]
RATE = 0.2


def honest(generator: np.random.Generator, rows: int = 25) -> np.ndarray:
    return generator.normal(size=(rows, sum(SIZES)))


def coins(generator: np.random.Generator, rate: float = RATE) -> dict[str, np.ndarray]:
    sites = {"one": 90, "two": 12, "three": 0}
    return {site: generator.random((30, units)) < rate for site, units in sites.items()}


def lowest(checks: list[Check]) -> dict[Property, float]:
    """The least p-value of each property, times the number of checks of it."""
    found: dict[Property, list[float]] = {}
    for check in checks:
        found.setdefault(check.what, []).append(check.p_value)
    return {what: min(1.0, len(values) * min(values)) for what, values in found.items()}


MAKERS: dict[str, Callable[[np.random.Generator], Iterable[Check]]] = {
    "noise": lambda g: noise_checks(honest(g), sizes=SIZES, where="x"),
    "lattice": lambda g: [lattice_check(g.integers(-5000, 5000, (25, 100)), where="x")],
    "fresh": lambda g: [fresh_check(honest(g), where="x")],
    "separate": lambda g: separate_checks(honest(g), sizes=SIZES, where="x"),
    "canary": lambda g: [canary_check(g.normal(size=50), where="x")],
    "sampler": lambda g: sampler_checks(coins(g), rate=RATE),
    # Where hardly anybody is drawn the laws are far from normal.
    "rare sampler": lambda g: sampler_checks(coins(g, 0.01), rate=0.01),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_honest_numbers_fail_no_more_often_than_they_may(maker):
    generator, runs = np.random.default_rng(list(MAKERS).index(maker)), 300
    found = [lowest(list(MAKERS[maker](generator))) for _ in range(runs)]
    for what in found[0]:
        p_values = np.array([each[what] for each in found])
        for error in (0.2, 0.02):
            assert (p_values <= error).sum() <= binom.isf(1e-4, runs, error), f"{what} at {error}"


@pytest.mark.parametrize(("units", "first", "second"), [(90, 18, 21), (12, 0, 5), (12, 9, 8), (5, 5, 5)])
def test_the_law_of_overlaps_is_hypergeometric(units, first, second):
    slow = hypergeom(units, first, second).pmf(np.arange(min(first, second) + 1))
    np.testing.assert_allclose(_hypergeometric(units, first, second), slow, rtol=1e-11, atol=1e-300)


def test_every_test_by_chance_is_held_against_honest_numbers():
    exact = {Property.ALONE, Property.BOUND, Property.DERIVED, Property.PAID}
    generator = np.random.default_rng(0)
    tested = {check.what for make in MAKERS.values() for check in make(generator)}
    assert tested == set(Property) - exact


def broken_noise(kind: str) -> np.ndarray:
    noise = honest(np.random.default_rng(0))
    if kind == "half":
        noise *= 0.5
    elif kind == "twice":
        noise *= 2.0
    elif kind == "bare":
        noise[:, -31:] = 0.0
    elif kind == "shifted":
        noise += 0.3
    elif kind == "uniform":
        noise = np.random.default_rng(0).uniform(-(3**0.5), 3**0.5, noise.shape)
    elif kind == "repeated":
        noise[7] = noise[3]
    elif kind == "negated":
        noise[7] = -noise[3]
    elif kind == "one for all":
        noise[:] = noise[:, :1]
    elif kind == "two tensors":
        noise[:, -31:-23] = noise[:, 60:68]
    return noise


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("half", Property.SCALE),
        ("twice", Property.SCALE),
        ("bare", Property.SCALE),
        ("shifted", Property.CENTRE),
        ("uniform", Property.SHAPE),
        ("repeated", Property.FRESH),
        ("negated", Property.FRESH),
        ("one for all", Property.SEPARATE),
        ("two tensors", Property.SEPARATE),
    ],
)
def test_broken_noise_is_found(kind, what):
    noise = broken_noise(kind)
    checks = [
        *noise_checks(noise, sizes=SIZES, where="x"), *separate_checks(noise, sizes=SIZES, where="x"),
        fresh_check(noise, where="x"),
    ]  # fmt: skip
    assert what in {check.what for check in failures(checks, error=1e-4)}


def test_a_single_tensor_without_noise_is_named():
    failed = failures(noise_checks(broken_noise("bare"), sizes=SIZES, where="north"), error=1e-4)
    assert [check.where for check in failed if check.what is Property.SCALE] == ["north, tensor 3"]


def test_noise_on_a_coarser_grid_than_it_should_be_is_found():
    words = sample_discrete_gaussian(4000, sigma=1000.0, random=SystemRandom()).reshape(40, 100)
    assert lattice_check(words, where="x").p_value > 1e-6
    assert lattice_check(words // 4 * 4, where="x").p_value < 1e-12
    assert lattice_check(np.zeros_like(words), where="x").p_value < 1e-12


def test_the_size_of_noise_is_measured_with_an_interval():
    found = noise_size(1.1 * honest(np.random.default_rng(5)), error=0.01)
    assert 1.0 < found.low < 1.1 < found.high < 1.2
    assert found.confidence == 0.99


def test_a_canary_that_moves_a_sum_too_far_is_found():
    shifts = np.random.default_rng(0).normal(0.5, 1.0, 400)
    assert canary_check(shifts, where="x").p_value < 1e-12
    assert canary_check(np.array([1e300, np.inf]), where="x").p_value == 0.0


def broken_coins(kind: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    taken = np.zeros((30, 90), dtype=bool)
    for step in range(30):
        if kind == "fixed size":
            taken[step, generator.permutation(90)[:18]] = True
        elif kind == "epochs":
            if step % 5 == 0:
                order = generator.permutation(90)
            taken[step, order[18 * (step % 5) : 18 * (step % 5) + 18]] = True
        elif kind == "favourites":
            taken[step] = generator.random(90) < np.where(np.arange(90) < 45, 0.38, 0.02)
        elif kind == "sticky":
            fresh = generator.random(90) < RATE
            taken[step] = np.where(generator.random(90) < 0.5, taken[step - 1] if step else fresh, fresh)
        else:
            taken[step] = generator.random(90) < 2 * RATE
    return {"one": taken}


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("twice the rate", Property.RATE),
        ("fixed size", Property.SIZES),
        ("epochs", Property.TURNS),
        ("epochs", Property.MEMORY),
        ("favourites", Property.TURNS),
        ("sticky", Property.MEMORY),
    ],
)
def test_another_sampler_is_found(kind, what):
    failed = failures(sampler_checks(broken_coins(kind), rate=RATE), error=1e-4)
    assert what in {check.what for check in failed}


def test_the_rate_is_looked_at_site_by_site():
    generator = np.random.default_rng(0)
    batches = {"few": generator.random((30, 10)) < 0.9, "many": generator.random((30, 2000)) < RATE}
    failed = failures(sampler_checks(batches, rate=RATE), error=1e-4)
    assert [check.where for check in failed if check.what is Property.RATE] == ["few at rate 0.2"]


def test_taking_all_is_no_sampling():
    checks = list(sampler_checks({"one": np.ones((5, 4), dtype=bool)}, rate=1.0))
    assert [(check.what, check.p_value) for check in checks] == [(Property.RATE, 1.0)]


@pytest.mark.parametrize(
    ("moves", "gaps", "failed"),
    [
        ([0.3, 1.0], [0.0, 1e-5], set()),
        ([0.3, 1.2], [0.0, 0.0], {Property.BOUND}),
        ([0.3, np.nan], [0.0, 0.0], {Property.BOUND}),
        ([0.3, 0.9], [0.0, 0.2], {Property.ALONE}),
    ],
)
def test_bounds_of_a_unit_are_exact(moves, gaps, failed):
    checks = bound_checks(np.array(moves), np.array(gaps), where="x")
    assert {check.what for check in failures(checks, error=1e-9)} == failed


def test_corrected_for_their_number():
    """Holm 1979, by hand: of 0.001, 0.01, 0.02, 0.5 at 0.05, the limits are 0.0125, 0.0167, 0.025, 0.05."""
    checks = [Check(what=Property.SCALE, where=str(p), p_value=p) for p in (0.5, 0.02, 0.001, 0.01)]
    assert [check.p_value for check in failures(checks, error=0.05)] == [0.001, 0.01, 0.02]
    assert [check.p_value for check in failures(checks, error=0.03)] == [0.001, 0.01]
    assert failures([exact_check(Property.PAID, holds=True, where="x")], error=0.5) == ()


def test_a_p_value_is_a_probability():
    with pytest.raises(InputError, match="p-value"):
        Check(what=Property.SCALE, where="x", p_value=1.5)
