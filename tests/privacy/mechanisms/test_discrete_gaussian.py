"""Exactness of the sampler: its tables are enumerated, its short cuts compared with slow twins."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from privacy.mechanisms import discrete_gaussian
from privacy.mechanisms.discrete_gaussian import (
    acceptance_factor,
    build_hat,
    exponential_bounds,
    is_below,
    sample_discrete_gaussian,
)
from protocol.errors import InputError, PrivacyError
from protocol.randomness import DeterministicRandom

SIGMAS = [0.3, 0.7, 1.0, 2.5, 15.99, 63.5, 64.0, 200.0, 1000.1, 2.0**16, 2.0**40]


class Words:
    """Hands out the given 64-bit words."""

    def __init__(self, *words):
        self.words = list(words)

    def seed64(self):
        return self.words.pop(0)


def selection_weights(hat):
    """Of the 2^64 words, how many lead the alias table to each block."""
    chosen = dict.fromkeys(range(1024), 0)
    for column, (threshold, alias) in enumerate(zip(hat.threshold.tolist(), hat.alias.tolist(), strict=True)):
        chosen[column] += threshold
        chosen[alias] += 2**54 - threshold
    return chosen


def exact_acceptance(hat, magnitude):
    low, high = exponential_bounds(Fraction(magnitude) ** 2 / (2 * Fraction(hat.sigma) ** 2), places=40)
    return acceptance_factor(hat, magnitude) * low, acceptance_factor(hat, magnitude) * high


@pytest.mark.parametrize("sigma", SIGMAS)
def test_alias_table_selects_each_block_with_exactly_its_weight(sigma):
    hat = build_hat(sigma)
    chosen = selection_weights(hat)
    assert sum(hat.weights) == 2**64
    assert [chosen.pop(block) for block in range(len(hat.weights))] == list(hat.weights)
    assert set(chosen.values()) <= {0}


@pytest.mark.parametrize("sigma", SIGMAS)
def test_hat_is_above_the_target_and_the_squeeze_below_the_acceptance(sigma):
    hat = build_hat(sigma)
    width = 1 << hat.width_bits
    assert width == 1 or sigma / 128 < width <= sigma / 64
    for block in range(len(hat.weights) - 1):
        ends = {block * width, min(block * width + 1, (block + 1) * width - 1), (block + 1) * width - 1}
        for magnitude in ends:
            low, high = exact_acceptance(hat, magnitude)
            assert high <= 1
            assert int(hat.squeeze[block]) <= low * 2**28


@pytest.mark.parametrize("sigma", SIGMAS)
def test_hat_of_the_tail_is_above_the_target(sigma):
    hat = build_hat(sigma)
    wide = 1 << hat.tail_width_bits
    assert hat.tail_start >= 7.5 * sigma
    assert hat.squeeze[-1] == 0
    for step in (0, 1, 2, 10):
        _, high = exponential_bounds(
            Fraction(hat.tail_start + step * wide) ** 2 / (2 * Fraction(sigma) ** 2), places=30
        )
        density_of_hat = Fraction(hat.weights[-1], wide << (step + 1))
        assert high * hat.scale / (1 << hat.width_bits) <= density_of_hat


def worst_relative_error(hat, sigma):
    """Largest relative error of what the tables lead to, against exp(-k^2 / 2 sigma^2) / Z."""
    width = 1 << hat.width_bits
    chosen = selection_weights(hat)
    mass = np.array(
        [
            float(Fraction(chosen[m // width], 2**64 * width) * sum(exact_acceptance(hat, m)) / 2)
            for m in range(hat.tail_start)
        ]
    )
    truth = np.exp(-0.5 * (np.arange(hat.tail_start) / sigma) ** 2)
    truth[0] *= 0.5
    return np.abs((mass / mass.sum()) / (truth / truth.sum()) - 1).max()


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 2.5, 10.3, 140.0])
def test_enumerated_probabilities_are_those_of_the_definition(sigma):
    assert worst_relative_error(build_hat(sigma), sigma) < 1e-12


def test_enumeration_notices_a_scale_wrong_by_a_millionth():
    assert worst_relative_error(build_hat(2.5), 2.5 * (1 + 1e-6)) > 1e-7


class Stream:
    """A deterministic source that remembers the words it handed out, array by array."""

    def __init__(self, seed):
        self.source, self.drawn = DeterministicRandom(seed), []

    def uint64(self, n):
        self.drawn.append(self.source.uint64(n))
        return self.drawn[-1].copy()


def propose_slowly(hat, selector, word, extra):
    """One proposal from Python integers: a value and whether it is accepted. Every bit is used once.

    ``selector``: 10 bits of column, 54 of threshold. ``word`` from the top: 28 bits of coin, one of sign, the
    rest of offset. ``extra``: the coin's further bits.
    """
    threshold, column = divmod(selector, 1024)
    block = column if threshold < int(hat.threshold[column]) else int(hat.alias[column])
    coin, rest = divmod(word, 1 << 36)
    negative, rest = divmod(rest, 1 << 35)
    assert 1 << hat.width_bits <= 1 << 35
    magnitude = (block << hat.width_bits) + rest % (1 << hat.width_bits)
    low, high = exact_acceptance(hat, magnitude)
    uniform = Fraction((coin << 64) | extra, 1 << 92)
    assert not low - Fraction(1, 1 << 92) < uniform < high
    return -magnitude if negative else magnitude, uniform < low


@pytest.mark.parametrize("sigma", [0.3, 3.3, 200.0, 1e5, 2.0**40])
def test_proposals_equal_a_slow_twin(sigma):
    hat, stream, count = build_hat(sigma), Stream("proposals"), 3000
    values, rejected = discrete_gaussian._propose(count, hat=hat, random=stream)
    selector, word, extra = (drawn.tolist() for drawn in stream.drawn)
    extra, refused = iter(extra), set(rejected.tolist())
    for place in range(count):
        value, accepted = propose_slowly(hat, selector[place], word[place], 0)
        block = abs(value) >> hat.width_bits
        if word[place] >> 36 >= int(hat.squeeze[block]):
            value, accepted = propose_slowly(hat, selector[place], word[place], next(extra))
        assert (int(values[place]), place not in refused) == (value, accepted)
    assert next(extra, None) is None
    if sigma > 128:
        assert refused


def test_rejected_places_are_drawn_again_until_none_is_left(monkeypatch):
    script = [([10, 11, 12, 13, 14, 15], [1, 3, 5]), ([20, 21, 22], [0, 2]), ([30, 31], [1]), ([40], [])]

    def propose(count, **_tables):
        values, rejected = script.pop(0)
        assert len(values) == count
        return np.array(values), np.array(rejected, dtype=np.intp)

    monkeypatch.setattr(discrete_gaussian, "_propose", propose)
    drawn = sample_discrete_gaussian(6, sigma=5.0, random=DeterministicRandom(1))
    assert drawn.tolist() == [10, 30, 12, 21, 14, 40]


def test_rejected_places_are_found_again_in_every_chunk(monkeypatch):
    whole = sample_discrete_gaussian(5000, sigma=1000.0, random=DeterministicRandom("chunks"))
    monkeypatch.setattr(discrete_gaussian, "_CHUNK", 64)
    seen = []
    propose = discrete_gaussian._propose

    def watched(count, *, hat, random):
        values, rejected = propose(count, hat=hat, random=random)
        values[rejected] = -(10**9)
        seen.append(rejected.size)
        return values, rejected

    monkeypatch.setattr(discrete_gaussian, "_propose", watched)
    parts = sample_discrete_gaussian(5000, sigma=1000.0, random=DeterministicRandom("chunks"))
    assert sum(seen) > 5
    assert np.abs(parts).max() < 10_000
    assert np.abs(whole).max() < 10_000


@pytest.mark.parametrize("sigma", [0.3, 3.3, 90.0, 200.0, 1e5, 2.0**40])
def test_float_decisions_equal_exact_decisions(sigma, monkeypatch):
    fast = sample_discrete_gaussian(40_000, sigma=sigma, random=DeterministicRandom("twin"))
    exact_calls = []

    def counted(*args, **kwargs):
        exact_calls.append(1)
        return is_below(*args, **kwargs)

    monkeypatch.setattr(discrete_gaussian, "is_below", counted)
    monkeypatch.setattr(discrete_gaussian, "_FLOAT_ERROR", 2.0)
    exact = sample_discrete_gaussian(40_000, sigma=sigma, random=DeterministicRandom("twin"))
    np.testing.assert_array_equal(fast, exact)
    if sigma > 128:
        assert len(exact_calls) > 100


# 1/e = 0.36787944117144232159552377016146086744581113103176..., OEIS A068985
INVERSE_E = Fraction(36787944117144232159552377016146086744581113103176, 10**50)


def test_exponential_bounds_enclose_known_values():
    for places in (20, 30, 45):
        low, high = exponential_bounds(Fraction(1), places=places)
        assert low < INVERSE_E < high
        assert high - low < Fraction(10, 10**places)
    low, high = exponential_bounds(Fraction(0), places=20)
    assert low < 1 < high
    low, high = exponential_bounds(Fraction(800), places=20)
    assert low < high
    assert float(low * 10**340) == pytest.approx(math.exp(-800 + 340 * math.log(10)), rel=1e-9)


def test_comparison_draws_digits_until_it_is_certain():
    first, rest = divmod(INVERSE_E * 2**64, 1)
    second = int(rest * 2**64)
    for words, answer in [
        ([first - 1, 7], True),
        ([first + 1, 7], False),
        ([first, second - 1, 7], True),
        ([first, second + 1, 7], False),
    ]:
        source = Words(*words)
        assert is_below(Fraction(1), exponent=Fraction(1), digits=0, digit_count=0, random=source) is answer
        assert source.words == [7]


@pytest.mark.parametrize("sigma", [3.0, 50.0])
def test_tail_has_the_conditional_distribution(sigma):
    hat = build_hat(sigma)
    random = DeterministicRandom("tail")
    draws = [discrete_gaussian._draw_tail(hat, random=random) for _ in range(6000)]
    kept = np.array([magnitude for magnitude, accepted in draws if accepted]) - hat.tail_start
    cells = np.arange(400) + hat.tail_start
    mass = np.exp(-0.5 * (cells / sigma) ** 2).sum()
    rate = hat.scale * mass / (hat.weights[-1] << hat.width_bits)
    assert stats.binomtest(kept.size, len(draws), rate).pvalue > 1e-3
    truth = np.exp(-0.5 * (cells**2 - hat.tail_start**2) / sigma**2)
    assert chi_square(kept, truth / truth.sum()) > 1e-3
    wider = np.exp(-0.5 * (cells**2 - hat.tail_start**2) / (1.5 * sigma) ** 2)
    assert chi_square(kept, wider / wider.sum()) < 1e-6


def chi_square(values, probabilities):
    """p-value of integers 0, 1, ... against probabilities; cells that expect fewer than 10 are merged."""
    counts = np.bincount(values, minlength=probabilities.size)
    expected = probabilities * values.size
    keep = int(np.flatnonzero(expected >= 10)[-1]) + 1
    observed = np.append(counts[:keep], counts[keep:].sum())
    hoped = np.append(expected[:keep], expected[keep:].sum())
    if hoped[-1] < 5:
        observed[-2] += observed[-1]
        hoped[-2] += hoped[-1]
        observed, hoped = observed[:-1], hoped[:-1]
    return stats.chisquare(observed, hoped * observed.sum() / hoped.sum()).pvalue


class CanonneKamathSteinke:
    """Canonne, Kamath, Steinke 2020, algorithms 1 to 3, one sample at a time in exact fractions."""

    def __init__(self, random):
        self.random = random

    def below(self, n):
        """Uniform in 0 ... n-1, by rejection."""
        bits = (n - 1).bit_length()
        while True:
            value = self.random.seed64() >> (64 - bits) if bits else 0
            if value < n:
                return value

    def coin(self, chance):
        return self.below(chance.denominator) < chance.numerator

    def coin_exponential(self, gamma):
        """True with probability exp(-gamma)."""
        while gamma > 1:
            if not self.coin_exponential(Fraction(1)):
                return False
            gamma -= 1
        k = 1
        while self.coin(gamma / k):
            k += 1
        return k % 2 == 1

    def laplace(self, scale):
        while True:
            low = self.below(scale)
            if not self.coin_exponential(Fraction(low, scale)):
                continue
            high = 0
            while self.coin_exponential(Fraction(1)):
                high += 1
            magnitude, negative = low + scale * high, self.below(2)
            if magnitude or not negative:
                return -magnitude if negative else magnitude

    def gaussian(self, sigma):
        scale = math.floor(sigma) + 1
        square = Fraction(sigma) ** 2
        while True:
            value = self.laplace(scale)
            if self.coin_exponential((abs(value) - square / scale) ** 2 / (2 * square)):
                return value


@pytest.mark.parametrize("sigma", [0.75, 3.5, 40.25])
def test_distribution_equals_that_of_the_published_algorithm(sigma):
    twin = CanonneKamathSteinke(DeterministicRandom("slow"))
    slow = np.array([twin.gaussian(sigma) for _ in range(12_000)])
    edges = np.unique(np.round(sigma * np.linspace(-2, 2, 12))) + 0.5
    for factor, same in [(1.0, True), (2 / 3, False), (1.5, False)]:
        fast = sample_discrete_gaussian(100_000, sigma=sigma * factor, random=DeterministicRandom("fast"))
        table = [np.bincount(np.searchsorted(edges, v), minlength=edges.size + 1) for v in (slow, fast)]
        p_values = [stats.chi2_contingency(table).pvalue, stats.ks_2samp(slow, fast).pvalue]
        # With ties the p-value of Kolmogorov-Smirnov is too large, never too small.
        assert min(p_values) > 1e-3 if same else min(p_values) < 1e-9


def test_same_seed_same_noise_and_other_seed_other_noise():
    draws = [sample_discrete_gaussian(100_000, sigma=1e4, random=DeterministicRandom(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).mean() > 0.99
    assert draws[0].dtype == np.int64


@pytest.mark.parametrize("sigma", [0.0, -1.0, 0.29, 2.0**40 + 1, float("nan"), float("inf")])
def test_scale_out_of_range_is_refused(sigma):
    with pytest.raises(PrivacyError, match="noise scale"):
        sample_discrete_gaussian(10, sigma=sigma, random=DeterministicRandom(1))


@pytest.mark.parametrize("size", [0, -1])
def test_size_out_of_range_is_refused(size):
    with pytest.raises(InputError, match="size"):
        sample_discrete_gaussian(size, sigma=1.0, random=DeterministicRandom(1))


def test_tables_are_shared_and_cannot_be_changed():
    hat = build_hat(5.0)
    assert build_hat(5.0) is hat
    with pytest.raises(ValueError, match="read-only"):
        hat.threshold[0] = 0
