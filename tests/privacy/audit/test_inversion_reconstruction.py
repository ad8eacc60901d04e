"""How good a reconstruction is, and what that says about epsilon."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import norm

from privacy.audit.channel.reconstruction import (
    epsilon_bound,
    matched,
    most_right,
    right_cells,
    share_interval,
    strength,
)
from privacy.audit.finding import Interval
from protocol.errors import InputError


def interval(low: float, high: float) -> Interval:
    return Interval(value=(low + high) / 2, low=low, high=high, confidence=0.95)


def test_pairing_is_the_best_of_all() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        truth, guess = generator.integers(0, 3, (2, 5, 4)).astype(np.int32)
        best = max((truth == guess[list(order)]).sum() for order in permutations(range(5)))
        assert right_cells(truth, guess).sum() == best
        assert sorted(matched(truth, guess)) == list(range(5))
    with pytest.raises(InputError, match="as many records"):
        matched(truth, guess[:4])


def test_interval_holds_the_mean_of_batches_that_vary() -> None:
    generator, held, rounds = np.random.default_rng(0), 0, 400
    for _ in range(rounds):
        shares = generator.beta(2.0, 4.0, 20)
        found = share_interval(shares, confidence=0.95)
        held += found.low <= 1.0 / 3.0 <= found.high
    assert held >= 0.93 * rounds


def test_interval_of_equal_batches_has_a_width() -> None:
    """Never wrong in as many batches as rounds: a rate of one in fifteen is still likely after 40."""
    assert share_interval(np.zeros(40), confidence=0.95).high > 1.0 - 0.025 ** (1.0 / 60.0)
    few, many = share_interval(np.ones(8), confidence=0.95), share_interval(np.ones(80), confidence=0.95)
    assert few.low < many.low < 1.0
    with pytest.raises(InputError, match="two batches"):
        share_interval(np.ones(1), confidence=0.95)
    with pytest.raises(InputError, match="two batches"):
        share_interval(np.array([0.2, 1.2]), confidence=0.95)


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
def test_no_event_on_a_gaussian_beats_the_bound(mu: float) -> None:
    """The event of chance c that a shift of mu makes most likely is a half-line: its chance is the bound."""
    for chance in (0.05, 0.4, 0.9):
        threshold = norm.isf(chance)
        assert most_right(chance, mu) == pytest.approx(norm.sf(threshold - mu), abs=1e-12)
        assert strength(most_right(chance, mu), chance) == pytest.approx(mu)
        assert norm.cdf(norm.ppf(chance / 2) + mu) < most_right(chance, mu)  # a worse event does not reach it


def test_bound_is_below_what_was_spent_and_above_half_of_it_only_if_it_was_spent() -> None:
    """Golden: a Gaussian mechanism of mu = 1 spends 4.377 at 1e-5 (Balle, Wang 2018, theorem 8)."""

    def spent(mu: float, delta: float) -> float:
        low, high = 0.0, 100.0
        for _ in range(100):
            middle = (low + high) / 2
            exact = norm.cdf(mu / 2 - middle / mu) - np.exp(middle) * norm.cdf(-mu / 2 - middle / mu)
            low, high = (middle, high) if exact > delta else (low, middle)
        return high

    assert spent(1.0, 1e-5) == pytest.approx(4.377, abs=1e-3)
    reached = interval(most_right(0.3, 1.0), most_right(0.3, 1.0) + 0.02)
    assert epsilon_bound(reached, [interval(0.2, 0.3)], delta=1e-5) == pytest.approx(4.377, abs=0.01)
    # Half the noise is twice the strength: what it lets an attacker reach contradicts the claim.
    broken = interval(most_right(0.3, 2.0), most_right(0.3, 2.0) + 0.02)
    assert epsilon_bound(broken, [interval(0.2, 0.3)], delta=1e-5) > 2 * 4.377


def test_highest_reference_counts() -> None:
    reached = interval(0.6, 0.7)
    assert epsilon_bound(reached, [interval(0.1, 0.2), interval(0.5, 0.65)], delta=1e-5) == 0.0
    assert epsilon_bound(reached, [interval(0.1, 0.2)], delta=1e-5) > 1.0
    assert epsilon_bound(interval(0.0, 0.1), [interval(0.0, 0.0)], delta=1e-5) == 0.0
    assert epsilon_bound(interval(1.0, 1.0), [interval(1.0, 1.0)], delta=1e-5) == 0.0
    with pytest.raises(InputError, match="compare"):
        epsilon_bound(reached, [], delta=1e-5)
