"""Shared noise: calibration at the stated drop-outs and colluders, and what is refused."""

import math

import numpy as np
import pytest

from privacy.mechanisms.discrete_gaussian import sample_discrete_gaussian
from privacy.shares import NoiseShares
from protocol.errors import PrivacyError, StudyError
from protocol.randomness import DeterministicRandom


def shares(**changes: float) -> NoiseShares:
    values: dict[str, float] = {"noise_multiplier": 1.2, "sites": 10, "dropouts": 2, "colluders": 2}
    return NoiseShares(**(values | changes))  # type: ignore[arg-type]  # whole numbers where they must be


def test_the_honest_survivors_shares_add_up_to_the_promise() -> None:
    found = shares()
    assert found.honest == 6
    assert math.isclose(found.honest * found.share_multiplier**2, 1.2**2)


def test_less_noise_than_local_by_the_root_of_the_honest() -> None:
    """Local noise of ten sites against shares: sqrt(10) z against sqrt(10 / 6) z, a factor of 2.45."""
    found = shares()
    local, shared = math.sqrt(10) * 1.2, math.sqrt(10) * found.share_multiplier
    assert round(local / shared, 2) == 2.45


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"sites": 4, "dropouts": 0, "colluders": 0}, "with 4 sites"),
        ({"dropouts": 4}, "At most 3 may drop out"),
        ({"dropouts": 0, "colluders": 4}, "bears 3"),
        ({"sites": 5, "dropouts": 1, "colluders": 3}, "bears 2"),
        ({"dropouts": -1}, "may drop out"),
    ],
)
def test_what_cannot_hide_anybody_is_refused(changes: dict[str, float], word: str) -> None:
    with pytest.raises(StudyError, match=word):
        shares(**changes)


def test_five_sites_are_enough() -> None:
    assert shares(sites=5, dropouts=1, colluders=1).honest == 3


def test_one_who_looks_is_always_counted() -> None:
    """A site knows its own share: with no colluder stated, the promise to every single site must still hold."""
    assert shares(colluders=0).honest == shares(colluders=1).honest == 7


def test_excess_matches_the_sum_worked_out() -> None:
    """Kairouz, Liu and Steinke 2021: per coordinate 10 sum_k exp(-2 pi^2 sigma^2 k/(k+1)); twice, times d."""
    found, sigma, dimension = shares(), 0.9, 7
    exact = sum(math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, 10))
    bound = found.log10_excess(sigma=sigma, dimension=dimension)
    assert bound >= math.log10(2 * 10 * exact * dimension)
    assert bound <= math.log10(2 * 10 * exact * dimension) + 1.0


def test_a_coarse_grid_is_refused_and_a_fine_one_is_not() -> None:
    shares().check_grid(sigma=400.0, dimension=10**6, steps=1000, delta=1e-9)
    with pytest.raises(PrivacyError, match="beyond what is accounted for"):
        shares().check_grid(sigma=1.0, dimension=10**6, steps=1000, delta=1e-9)
    with pytest.raises(PrivacyError, match="clamping"):
        shares().check_grid(sigma=400.0, dimension=10**6, steps=10**6, delta=1e-12)


def scale_is_right(total: np.ndarray, *, sigma: float) -> bool:
    """Whether the standard deviation is within five standard errors of sigma."""
    return abs(float(total.std()) / sigma - 1.0) < 5.0 / math.sqrt(2 * total.size)


def test_the_sum_of_shares_has_the_promised_scale_and_broken_shares_do_not() -> None:
    random, size, sensitivity = DeterministicRandom("shares"), 20_000, 2**12
    found = shares()
    each = [
        sample_discrete_gaussian(size, sigma=found.share_multiplier * sensitivity, random=random.child(site))
        for site in range(found.honest)
    ]
    promised = found.noise_multiplier * sensitivity
    assert scale_is_right(np.sum(each, axis=0), sigma=promised)
    assert not scale_is_right(np.sum(each[1:], axis=0), sigma=promised), "one honest share less must show"
    assert not scale_is_right(np.sum(each, axis=0) * 2 / 3, sigma=promised)
    assert not scale_is_right(np.sum(each, axis=0) * 3 / 2, sigma=promised)
