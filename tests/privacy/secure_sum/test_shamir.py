"""Sharing over GF(2^8), against slow twins and against published products."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.secure_sum.shamir import multiply, open_shares, share
from protocol.errors import PrivacyError
from protocol.randomness import DeterministicRandom, SystemRandom


def slow_product(first, second):
    """Multiply as polynomials over GF(2), then divide by x^8 + x^4 + x^3 + x + 1."""
    product = 0
    for bit in range(8):
        if second >> bit & 1:
            product ^= first << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


def slow_open(shares):
    """Lagrange at zero, byte by byte, with division by search."""
    quotient = {(slow_product(a, b), b): a for a in range(256) for b in range(1, 256)}
    result = []
    for place in range(len(next(iter(shares.values())))):
        value = 0
        for point, text in shares.items():
            term = text[place]
            for other in shares:
                if other != point:
                    term = quotient[slow_product(term, other), other ^ point]
            value ^= term
        result.append(value)
    return bytes(result)


def test_products_are_those_of_the_slow_twin():
    every = np.arange(256, dtype=np.uint8)
    table = np.array([multiply(every[np.newaxis], np.array([[public]], dtype=np.uint8))[0] for public in every])
    assert table.tolist() == [[slow_product(secret, public) for secret in range(256)] for public in range(256)]


def test_published_product():
    """FIPS 197, section 4.2: {57} times {83} is {c1}."""
    assert multiply(np.array([[0x57]], dtype=np.uint8), np.array([[0x83]], dtype=np.uint8)) == 0xC1


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=8), st.integers(1, 6), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_threshold_shares_open_the_secret(secret, threshold, more, choose):
    points = choose.sample(range(1, 256), threshold + more)
    shares = share(secret, points=points, threshold=threshold, random=SystemRandom())
    for subset in itertools.islice(itertools.combinations(points, threshold), 5):
        some = {point: shares[point] for point in subset}
        assert open_shares(some, threshold=threshold) == secret
    assert slow_open(some) == secret
    assert open_shares(shares, threshold=threshold) == secret


def cells_of_two_shares(secret, threshold):
    """Leading halves of the first two shares of 50,000 equal bytes, which are shared independently: p-value."""
    shares = share(secret * 50_000, points=[1, 2, 3], threshold=threshold, random=DeterministicRandom("cells"))
    first, second = (np.frombuffer(shares[point], dtype=np.uint8) >> 4 for point in (1, 2))
    return stats.chisquare(np.bincount(16 * first + second, minlength=256)).pvalue


@pytest.mark.parametrize("secret", [b"\x00", b"\xff"])
def test_one_share_too_few_says_nothing(secret):
    """Two shares of three: whatever the secret, every pair of bytes is equally likely."""
    assert cells_of_two_shares(secret, threshold=3) > 1e-6


def test_threshold_too_low_is_caught_by_the_same_statistic():
    """The broken twin: with a threshold of two, two shares tell the secret, and are not independent."""
    assert cells_of_two_shares(b"\xff", threshold=2) < 1e-6


def test_wrong_share_gives_another_secret():
    shares = share(b"secret", points=[1, 2, 3], threshold=3, random=SystemRandom())
    assert open_shares(shares | {2: b"wrong!"}, threshold=3) != b"secret"


@pytest.mark.parametrize(("points", "threshold"), [([0, 1], 1), ([1, 256], 1), ([1, 1], 1), ([1, 2], 0), ([1, 2], 256)])
def test_points_and_threshold_are_checked(points, threshold):
    with pytest.raises(PrivacyError):
        share(b"x", points=points, threshold=threshold, random=SystemRandom())


def test_too_few_or_unequal_shares_are_refused():
    with pytest.raises(PrivacyError, match="1 shares of 2"):
        open_shares({1: b"a"}, threshold=2)
    with pytest.raises(PrivacyError, match="lengths differ"):
        open_shares({1: b"a", 2: b"bc"}, threshold=2)
