"""The independent accountant against slow, obviously right twins."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from privacy.loss_transform import Direction, Step, fourier_epsilon, renyi_epsilon, step_spread


def step(noise: float, rate: float, count: int) -> Step:
    return Step(noise_multiplier=noise, sample_rate=rate, count=count)


def gaussian_epsilon(noise: float, delta: float) -> float:
    """Closed form: Balle and Wang 2018, theorem 8."""

    def excess(epsilon: float) -> float:
        upper = norm.cdf(0.5 / noise - epsilon * noise)
        return float(upper - math.exp(epsilon) * norm.cdf(-0.5 / noise - epsilon * noise) - delta)

    return float(brentq(excess, 0.0, 500.0, xtol=1e-12)) if excess(0.0) > 0 else 0.0


def single_step_epsilon(noise: float, rate: float, delta: float) -> float:
    """Hockey-stick divergence of one sampled step against none: the tail right of one point."""

    def excess(epsilon: float) -> float:
        point = noise**2 * math.log((math.exp(epsilon) - (1 - rate)) / rate) + 0.5
        upper = rate * norm.sf((point - 1) / noise) + (1 - rate) * norm.sf(point / noise)
        return float(upper - math.exp(epsilon) * norm.sf(point / noise) - delta)

    return float(brentq(excess, 1e-9, 100.0, xtol=1e-12)) if excess(1e-9) > 0 else 0.0


def brute_force_epsilon(noise: float, rate: float, direction: Direction, delta: float) -> float:
    """Two steps on a plain two-dimensional grid of outputs."""
    outputs = np.linspace(-9 * noise - 1, 9 * noise + 1, 1500)
    width = outputs[1] - outputs[0]
    without = norm.pdf(outputs / noise) / noise
    plus = rate * norm.pdf((outputs - 1) / noise) / noise + (1 - rate) * without
    minus = rate * norm.pdf((outputs + 1) / noise) / noise + (1 - rate) * without
    upper, lower = {
        Direction.REMOVE: (plus, without),
        Direction.ADD: (without, plus),
        Direction.REPLACE: (plus, minus),
    }[direction]
    upper_two, lower_two = np.outer(upper, upper) * width**2, np.outer(lower, lower) * width**2

    def excess(epsilon: float) -> float:
        return float(np.maximum(upper_two - math.exp(epsilon) * lower_two, 0.0).sum() - delta)

    return float(brentq(excess, 0.0, 60.0, xtol=1e-9))


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize(("noise", "count"), [(1.0, 1), (0.3, 1), (20.0, 1), (5.0, 100), (30.0, 10000)])
@pytest.mark.parametrize("direction", [Direction.REMOVE, Direction.ADD])
def test_gaussian_matches_the_closed_form(noise: float, count: int, delta: float, direction: Direction) -> None:
    exact = gaussian_epsilon(noise / math.sqrt(count), delta)
    found = fourier_epsilon([step(noise, 1.0, count)], direction, delta=delta)
    assert found == pytest.approx(exact, rel=1e-4, abs=1e-5)


def test_replacing_doubles_the_sensitivity_without_sampling() -> None:
    found = fourier_epsilon([step(3.0, 1.0, 4)], Direction.REPLACE, delta=1e-5)
    assert found == pytest.approx(gaussian_epsilon(0.75, 1e-5), rel=1e-4)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.1), (1.0, 0.01), (1.0, 0.001), (0.5, 0.01), (4.0, 0.5)])
def test_one_sampled_step_matches_its_tail(noise: float, rate: float, delta: float) -> None:
    exact = single_step_epsilon(noise, rate, delta)
    found = fourier_epsilon([step(noise, rate, 1)], Direction.REMOVE, delta=delta)
    assert found == pytest.approx(exact, rel=1e-3, abs=2e-5)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.2), (0.8, 0.05)])
def test_two_steps_match_brute_force(noise: float, rate: float, direction: Direction) -> None:
    exact = brute_force_epsilon(noise, rate, direction, 1e-4)
    assert fourier_epsilon([step(noise, rate, 2)], direction, delta=1e-4) == pytest.approx(exact, rel=2e-3)
    assert fourier_epsilon([step(1.02 * noise, rate, 2)], direction, delta=1e-4) != pytest.approx(exact, rel=2e-3)


def test_unlike_steps_compose_in_any_order() -> None:
    steps = [step(1.0, 0.01, 500), step(2.0, 0.1, 30), step(8.0, 1.0, 2)]
    one = fourier_epsilon(steps, Direction.REMOVE, delta=1e-6)
    other = fourier_epsilon(steps[::-1], Direction.REMOVE, delta=1e-6)
    split = fourier_epsilon([step(1.0, 0.01, 200), step(1.0, 0.01, 300), *steps[1:]], Direction.REMOVE, delta=1e-6)
    assert one == pytest.approx(other, rel=1e-6)
    assert one == pytest.approx(split, rel=1e-5)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(
    ("noise", "rate", "count"), [(1.0, 0.01, 1000), (0.5, 0.001, 300), (3.0, 1.0, 1), (10.0, 0.1, 5000)]
)
def test_renyi_lies_above(noise: float, rate: float, count: int, direction: Direction) -> None:
    exact = fourier_epsilon([step(noise, rate, count)], direction, delta=1e-5)
    assert exact <= renyi_epsilon([step(noise, rate, count)], direction, delta=1e-5)


def test_renyi_of_a_gaussian_matches_its_formula() -> None:
    """Mironov 2017: alpha / (2 sigma^2), converted by Canonne, Kamath, Steinke 2020, proposition 12."""
    orders = 1.0 + np.geomspace(1e-3, 1e4, 20000)
    bounds = orders / 8.0 + np.log1p(-1 / orders) - (math.log(1e-5) + np.log(orders)) / (orders - 1)
    found = renyi_epsilon([step(2.0, 1.0, 1)], Direction.REMOVE, delta=1e-5)
    assert bounds.min() <= found <= bounds.min() * 1.002


def test_spread_of_a_gaussian_step() -> None:
    assert step_spread(4.0, 1.0, Direction.REMOVE) == pytest.approx(0.25, rel=1e-6)


def test_far_beyond_every_guarantee_is_infinite_not_small() -> None:
    assert fourier_epsilon([step(0.05, 0.001, 10)], Direction.REMOVE, delta=1e-10) > 300.0
