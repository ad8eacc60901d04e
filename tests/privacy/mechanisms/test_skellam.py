"""Exactness of the Skellam sampler: tables enumerated, short cuts against slow twins, laws against the definition."""

import bisect
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import special, stats

from privacy.mechanisms import skellam
from privacy.mechanisms.folded_hat import acceptance_factor
from privacy.mechanisms.lazy_comparison import exponential_bounds
from privacy.mechanisms.skellam import build_hat, is_below, renyi_bound, sample_skellam
from privacy.mechanisms.skellam_probability import _cosine, _pi, probability_bounds
from protocol.errors import InputError, PrivacyError
from protocol.randomness import DeterministicRandom

VARIANCES = [1.0, 1.7, 10.3, 56.2, 64.0, 1000.1, 2.0**14 - 1, 2.0**14, 40_000.0, 2.0**32, 2.0**60]


def series_bounds(magnitude, variance, *, terms):
    """exp(-v) I_k(v) by the power series of I_k (DLMF 10.25.2), each sum a fraction."""
    half, low = Fraction(variance) / 2, Fraction(0)
    term = half**magnitude / math.factorial(magnitude)
    for j in range(1, terms):
        low += term
        term *= half**2 / (j * (j + magnitude))
    below, above = exponential_bounds(Fraction(variance), places=60)
    return low * below, (low + 2 * term) * above


@pytest.mark.parametrize("variance", [1.0, 2.5, 40.0, 300.0])
def test_probability_bounds_enclose_the_power_series(variance):
    for magnitude in {0, 1, 3, int(5 * math.sqrt(variance)), int(20 * math.sqrt(variance))}:
        for bits in (0, 7, 90, 150):
            low, high = probability_bounds(magnitude, variance=Fraction(variance), bits=bits)
            truth = series_bounds(magnitude, variance, terms=int(variance) + 150)
            assert truth[1] - truth[0] < Fraction(1, 10**55)
            assert low < truth[0]
            assert truth[1] < high
            assert high - low == Fraction(1, 2**bits)


# exp(-1) I_0(1) from I_0(1) = 1.26606587775200833559824462521471753760767031135496..., OEIS A197036
BESSEL = Fraction(126606587775200833559824462521471753760767031135496, 10**50)


def test_probability_bounds_enclose_a_known_value():
    low, high = probability_bounds(0, variance=Fraction(1), bits=150)
    below, above = exponential_bounds(Fraction(1), places=60)
    assert low < BESSEL * below
    assert (BESSEL + Fraction(1, 10**50)) * above < high


@pytest.mark.parametrize("variance", [1e4, 123456.7, 1e8])
def test_probability_bounds_agree_with_scipy(variance):
    for spread in (0, 1, 4):
        magnitude = int(spread * math.sqrt(variance))
        low, high = probability_bounds(magnitude, variance=Fraction(variance), bits=100)
        assert float(low + high) / 2 == pytest.approx(special.ive(magnitude, variance), rel=1e-9)


@pytest.mark.parametrize("variance", [1.0, 500.0, 2.0**37, 2.0**60])
def test_more_digits_give_bounds_inside_those_of_fewer(variance):
    for magnitude in (0, int(3 * math.sqrt(variance)), int(30 * math.sqrt(variance))):
        low, high = probability_bounds(magnitude, variance=Fraction(variance), bits=600)
        for bits in (0, 50, 130, 300):
            outer = probability_bounds(magnitude, variance=Fraction(variance), bits=bits)
            assert outer[0] <= low < high <= outer[1]


# pi = 3.14159265358979323846264338327950288419716939937510..., OEIS A000796
PI = Fraction(314159265358979323846264338327950288419716939937510, 10**50)


def test_pi_and_cosine_are_known_values():
    assert abs(Fraction(_pi(150), 2**150) - PI) < Fraction(2, 2**150)
    unit = 2**150
    half_root = math.isqrt(2 * unit**2) // 2
    for eighth, value in enumerate([unit, half_root, 0, -half_root, -unit, -half_root, 0, half_root, unit]):
        assert abs(_cosine(eighth, log_turn=3, fraction_bits=150) - value) < 105


def exact_acceptance(hat, magnitude):
    low, high = probability_bounds(magnitude, variance=Fraction(hat.variance), bits=150)
    return acceptance_factor(hat, magnitude) * low, acceptance_factor(hat, magnitude) * high


@pytest.mark.parametrize("variance", VARIANCES)
def test_hat_is_above_the_target_and_the_squeeze_below_the_acceptance(variance):
    hat = build_hat(variance)
    width = 1 << hat.width_bits
    sigma = math.sqrt(variance)
    assert sum(hat.weights) == 2**64
    assert width == 1 or sigma / 128 < width <= sigma / 64
    last = len(hat.weights) - 2
    for block in {0, 1, 2, *range(0, last, max(1, last // 25)), last}:
        for magnitude in {block * width, block * width + width // 2, (block + 1) * width - 1}:
            low, high = exact_acceptance(hat, magnitude)
            assert high <= 1
            assert int(hat.squeeze[block]) <= low * 2**28
            if block < last:
                assert low > (Fraction(4, 5) if magnitude else Fraction(49, 100))  # few proposals are wasted


@pytest.mark.parametrize("variance", VARIANCES)
def test_hat_of_the_tail_is_above_the_target(variance):
    hat = build_hat(variance)
    wide = 1 << hat.tail_width_bits
    assert hat.tail_start >= 7.5 * math.sqrt(variance)
    assert wide >= math.sqrt(variance) / 8
    assert hat.squeeze[-1] == 0
    for step in (0, 1, 2, 10):
        _, high = probability_bounds(hat.tail_start + step * wide, variance=Fraction(variance), bits=250)
        assert high * hat.scale / (1 << hat.width_bits) <= Fraction(hat.weights[-1], wide << (step + 1))


@pytest.mark.parametrize("variance", [2.0**14, 20_000.5, 1e6, 2.0**31, 2.0**60])
def test_wide_formula_is_within_its_proven_error(variance):
    magnitudes = [int(spread * math.sqrt(variance)) for spread in (0, 0.01, 0.5, 1, 2, 3.3, 5, 7, 7.9)]
    values = skellam._wide_probability(np.array(magnitudes, dtype=np.float64), variance=variance)
    for magnitude, value in zip(magnitudes, values.tolist(), strict=True):
        low, _ = probability_bounds(magnitude, variance=Fraction(variance), bits=200)
        assert abs(Fraction(value) / low - 1) < 0.2 / variance**2 + 2.0**-42


@pytest.mark.parametrize("variance", [1.0, 3.3, 777.7, 2.0**14 - 1])
def test_narrow_table_is_within_its_proven_error(variance):
    table = build_hat(variance).narrow
    for magnitude in range(0, table.size, max(1, table.size // 20)):
        low, _ = probability_bounds(magnitude, variance=Fraction(variance), bits=200)
        assert abs(Fraction(float(table[magnitude])) / low - 1) < 2.0**-50


def worst_relative_error(hat, variance):
    """Largest relative error of what the tables lead to, against exp(-v) I_k(v)."""
    chosen = dict.fromkeys(range(1024), 0)
    for column, (threshold, alias) in enumerate(zip(hat.threshold.tolist(), hat.alias.tolist(), strict=True)):
        chosen[column] += threshold
        chosen[alias] += 2**54 - threshold
    width = 1 << hat.width_bits
    mass = np.array(
        [
            float(Fraction(chosen[m // width], 2**64 * width) * sum(exact_acceptance(hat, m)) / 2)
            for m in range(hat.tail_start)
        ]
    )
    truth = special.ive(np.arange(hat.tail_start), variance)
    truth[0] *= 0.5
    return np.abs((mass / mass.sum()) / (truth / truth.sum()) - 1).max()


@pytest.mark.parametrize("variance", [1.0, 6.25, 150.0])
def test_enumerated_probabilities_are_those_of_the_definition(variance):
    assert worst_relative_error(build_hat(variance), variance) < 1e-11


def test_enumeration_notices_a_variance_wrong_by_a_millionth():
    assert worst_relative_error(build_hat(6.25), 6.25 * (1 + 1e-6)) > 1e-7


@pytest.mark.parametrize("variance", [1.0, 50.0, 2.0**14, 1e7, 2.0**60])
def test_float_decisions_equal_exact_decisions(variance, monkeypatch):
    fast = sample_skellam(8_000, variance=variance, random=DeterministicRandom("twin"))
    exact_calls = []

    def counted(*args, **kwargs):
        exact_calls.append(1)
        return is_below(*args, **kwargs)

    monkeypatch.setattr(skellam, "is_below", counted)
    monkeypatch.setattr(skellam, "_FLOAT_ERROR", 2.0)
    exact = sample_skellam(8_000, variance=variance, random=DeterministicRandom("twin"))
    np.testing.assert_array_equal(fast, exact)
    if variance >= 2**14:
        assert len(exact_calls) > 20


class Words:
    """Hands out the given 64-bit words."""

    def __init__(self, *words):
        self.words = list(words)

    def seed64(self):
        return self.words.pop(0)


@pytest.mark.parametrize(("magnitude", "variance"), [(0, 1.0), (70, 5000.0), (2**30, 2.0**60)])
def test_comparison_draws_digits_until_it_is_certain(magnitude, variance):
    factor = Fraction(math.floor(math.sqrt(variance)))
    first, rest = divmod(factor * probability_bounds(magnitude, variance=Fraction(variance), bits=250)[0] * 2**64, 1)
    second = int(rest * 2**64)
    for words, answer in [
        ([first - 1, 7], True),
        ([first + 1, 7], False),
        ([first, second - 1, 7], True),
        ([first, second + 1, 7], False),
    ]:
        source = Words(*words)
        found = is_below(factor, magnitude=magnitude, variance=variance, digits=0, digit_count=0, random=source)
        assert found is answer
        assert source.words == [7]


def test_tail_has_the_conditional_distribution():
    hat = build_hat(4096.0)
    random = DeterministicRandom("tail")
    draws = [skellam._draw_tail(hat, random=random) for _ in range(900)]
    kept = np.array([magnitude for magnitude, accepted in draws if accepted]) - hat.tail_start
    truth = special.ive(np.arange(400) + hat.tail_start, 4096.0)
    rate = hat.scale * truth.sum() / (hat.weights[-1] << hat.width_bits)
    assert stats.binomtest(kept.size, len(draws), rate).pvalue > 1e-3
    assert chi_square(kept, truth / truth.sum()) > 1e-3
    wider = special.ive(np.arange(400) + hat.tail_start, 9216.0)
    assert chi_square(kept, wider / wider.sum()) < 1e-4


def chi_square(values, probabilities):
    """p-value of integers 0, 1, ... against probabilities; cells are merged until each expects 10."""
    counts = np.bincount(values, minlength=probabilities.size)
    expected = np.append(probabilities, max(0.0, 1 - probabilities.sum())) * values.size
    counts = np.append(counts[: probabilities.size], counts[probabilities.size :].sum())
    cells, seen, hoped = [], 0.0, 0.0
    for count, hope in zip(counts.tolist(), expected.tolist(), strict=True):
        seen, hoped = seen + count, hoped + hope
        if hoped >= 10:
            cells.append([seen, hoped])
            seen, hoped = 0.0, 0.0
    cells[-1][0] += seen
    cells[-1][1] += hoped
    observed, wanted = np.array(cells).T
    return stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue


def law_p_value(sample, variance):
    """p-value of a sample against exp(-v) I_k(v) for every integer within 12 standard deviations."""
    reach = int(12 * math.sqrt(variance)) + 12
    return chi_square(sample + reach, special.ive(np.abs(np.arange(-reach, reach + 1)), variance))


@pytest.mark.parametrize("variance", [1.0, 7.5, 400.0, 2.0**14 + 3])
def test_distribution_is_that_of_the_definition_and_of_no_other_scale(variance):
    for factor, same in [(1.0, True), (2 / 3, False), (1.5, False)]:
        drawn = max(1.0, variance * factor**2)
        sample = sample_skellam(60_000, variance=drawn, random=DeterministicRandom("law"))
        p_value = law_p_value(sample, variance)
        assert p_value > 1e-3 if same or drawn == variance else p_value < 1e-9


@pytest.mark.parametrize("variance", [2.0**32, 2.0**60])
def test_wide_distribution_is_normal_at_this_resolution_and_at_no_other_scale(variance):
    # The kurtosis exceeds 3 by 1 / v, and a step is 2^-16 standard deviations or less.
    for factor, same in [(1.0, True), (2 / 3, False), (1.5, False)]:
        sample = sample_skellam(100_000, variance=variance, random=DeterministicRandom("wide")) * factor
        p_value = stats.kstest(sample / math.sqrt(variance), "norm").pvalue
        assert p_value > 1e-3 if same else p_value < 1e-9
    low_bits = sample_skellam(100_000, variance=variance, random=DeterministicRandom("bits")) & 63
    assert stats.chisquare(np.bincount(low_bits, minlength=64)).pvalue > 1e-3


def staircase(monkeypatch):
    """The broken twin: nothing is rejected, so that the law is that of the hat."""
    propose = skellam._propose

    def keep_all(count, *, hat, random):
        values, rejected = propose(count, hat=hat, random=random)
        return values, rejected[:0]

    monkeypatch.setattr(skellam, "_propose", keep_all)


def first_offsets_p_value(variance):
    """How well the offsets inside the outer blocks, where P falls most within a block, fit the law."""
    sample = np.abs(sample_skellam(3_000_000, variance=variance, random=DeterministicRandom("stairs")))
    width = 1 << build_hat(variance).width_bits
    low = width * math.ceil(1.5 * math.sqrt(variance) / width)
    kept = sample[(sample >= low) & (sample < 2 * low)]
    truth = special.ive(np.arange(low, 2 * low), variance).reshape(-1, width).sum(axis=0)
    return chi_square(kept % width, truth / truth.sum())


def test_sampler_that_rejects_nothing_is_noticed(monkeypatch):
    variance = 2.0**14
    assert first_offsets_p_value(variance) > 1e-3
    staircase(monkeypatch)
    assert first_offsets_p_value(variance) < 1e-9


def test_rounded_normal_noise_of_the_same_variance_is_noticed():
    normal = np.random.default_rng(5).normal(0.0, math.sqrt(2.0 - 1 / 12), 60_000)
    assert law_p_value(np.rint(normal).astype(np.int64), 2.0) < 1e-9


class TwoPoissons:
    """Difference of two Poisson numbers by inversion, with bounds of 256 binary digits on the distribution."""

    def __init__(self, variance, *, random):
        mean, self.random, self.low, self.high = Fraction(variance) / 2, random, [], []
        below, above = exponential_bounds(mean, places=100)
        term = total = Fraction(1)
        for n in range(1, int(mean + 30 * math.sqrt(mean)) + 60):
            self.low.append(math.floor(total * below * 2**256))
            self.high.append(math.ceil(total * above * 2**256))
            term *= mean / n
            total += term

    def poisson(self):
        uniform = int.from_bytes(self.random.bytes(32), "big")
        place = bisect.bisect_right(self.low, uniform)
        assert bisect.bisect_right(self.high, uniform) == place < len(self.low)  # 256 digits were enough
        return place

    def draw(self):
        return self.poisson() - self.poisson()


@pytest.mark.parametrize("variance", [1.5, 30.25, 600.0])
def test_distribution_equals_that_of_two_poisson_numbers(variance):
    twin = TwoPoissons(variance, random=DeterministicRandom("slow"))
    slow = np.array([twin.draw() for _ in range(20_000)])
    edges = np.unique(np.round(math.sqrt(variance) * np.linspace(-2, 2, 12))) + 0.5
    for factor, same in [(1.0, True), (2 / 3, False), (1.5, False)]:
        drawn = max(1.0, variance * factor**2)
        fast = sample_skellam(100_000, variance=drawn, random=DeterministicRandom("fast"))
        table = [np.bincount(np.searchsorted(edges, v), minlength=edges.size + 1) for v in (slow, fast)]
        p_values = [stats.chi2_contingency(table).pvalue, stats.ks_2samp(slow, fast).pvalue]
        # With ties the p-value of Kolmogorov-Smirnov is too large, never too small.
        assert min(p_values) > 1e-3 if same else min(p_values) < 1e-9


@pytest.mark.parametrize(("sites", "variance"), [(3, 1.0), (8, 2.5), (20, 900.0)])
def test_sum_of_shares_has_the_law_of_one_sample(sites, variance):
    random = DeterministicRandom("shares")
    total = sum(sample_skellam(60_000, variance=variance, random=random.child(site)) for site in range(sites))
    whole = sample_skellam(60_000, variance=sites * variance, random=random)
    assert law_p_value(total, sites * variance) > 1e-3
    assert law_p_value(whole, sites * variance) > 1e-3
    assert stats.ks_2samp(total, whole).pvalue > 1e-3
    for factor in (0.8, 1.25):
        assert law_p_value(total, factor * sites * variance) < 1e-9


def test_same_seed_same_noise_and_other_seed_other_noise():
    draws = [sample_skellam(50_000, variance=1e8, random=DeterministicRandom(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).mean() > 0.99
    assert draws[0].dtype == np.int64


@pytest.mark.parametrize("variance", [0.0, -1.0, 0.99, 2.0**60 * 1.01, float("nan"), float("inf")])
def test_variance_out_of_range_is_refused(variance):
    with pytest.raises(PrivacyError, match="noise variance"):
        sample_skellam(10, variance=variance, random=DeterministicRandom(1))


@pytest.mark.parametrize("size", [0, -1])
def test_size_out_of_range_is_refused(size):
    with pytest.raises(InputError, match="size"):
        sample_skellam(size, variance=1.0, random=DeterministicRandom(1))


def test_tables_are_shared_and_cannot_be_changed():
    hat = build_hat(25.0)
    assert build_hat(25.0) is hat
    for table in (hat.threshold, hat.alias, hat.squeeze, hat.ratio, hat.narrow):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0


def renyi_divergence(order, shift, variance):
    """D_order(Z || Z + shift) of a Skellam number Z, summed over all integers that matter."""
    reach = int(order * (40 * math.sqrt(variance) + 40)) + 10 * abs(shift)
    integers = np.arange(-reach, reach + 1)
    first = log_probability(np.abs(integers), variance)
    second = log_probability(np.abs(integers - shift), variance)
    return special.logsumexp(order * first - (order - 1) * second) / (order - 1)


def log_probability(magnitudes, variance):
    """Logarithms of exp(-v) I_k(v) from the ratios of the recurrence, run downwards from far away."""
    last = int(magnitudes.max())
    ratios, ratio = np.empty(last + 1), 0.0
    for k in range(last + 200, 0, -1):
        ratio = 1 / (2 * k / variance + ratio)
        if k <= last:
            ratios[k - 1] = ratio
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios[:last]))])
    return (logs + math.log(special.ive(0, variance)))[magnitudes]


def test_log_probabilities_of_the_brute_force_are_right():
    for magnitude in (0, 4, 30):
        low, _ = probability_bounds(magnitude, variance=Fraction(12), bits=200)
        assert log_probability(np.array([magnitude, 50]), 12.0)[0] == pytest.approx(math.log(low), abs=1e-10)


@pytest.mark.parametrize("variance", [1.0, 4.0, 30.0, 400.0])
@pytest.mark.parametrize("shift", [1, 2, 5])
def test_renyi_bound_is_above_the_divergence(variance, shift):
    for order in (1.01, 1.5, 2, 2.5, 3, 8, 17.3, 32):
        truth = renyi_divergence(order, shift, variance)
        bound = renyi_bound(order=order, l1_sensitivity=shift, l2_sensitivity=shift, variance=variance)
        assert 0 < truth <= bound
        if order == round(order) and variance >= 100 * shift:
            assert bound < 1.1 * truth


def test_renyi_bound_of_a_vector_covers_the_sum_of_its_coordinates():
    shifts = [3, 1, 1, 2]
    l1, l2 = sum(shifts), math.sqrt(sum(shift**2 for shift in shifts))
    for order in (2, 6):
        truth = sum(renyi_divergence(order, shift, 60.0) for shift in shifts)
        assert truth <= renyi_bound(order=order, l1_sensitivity=l1, l2_sensitivity=l2, variance=60.0)


@pytest.mark.parametrize("order", [2, 3.5, 8])
def test_twice_the_variance_taken_for_it_is_noticed(order):
    truth = renyi_divergence(order, 1, 30.0)
    assert renyi_bound(order=order, l1_sensitivity=1, l2_sensitivity=1, variance=60.0) < truth


def test_renyi_bound_is_the_printed_formula_and_rises_with_the_order():
    near = renyi_bound(order=3, l1_sensitivity=4.0, l2_sensitivity=2.0, variance=50.0)
    assert near == pytest.approx(3 * 4 / 100 + (5 * 4 + 24) / 10_000)
    far = renyi_bound(order=40, l1_sensitivity=4.0, l2_sensitivity=2.0, variance=2.0)
    assert far == pytest.approx(40 * 4 / 4 + 3)
    orders = [1.001, 1.2, 1.9, 2, 2.1, 3, 3.5, 4]
    bounds = [renyi_bound(order=a, l1_sensitivity=2.0, l2_sensitivity=2.0, variance=9.0) for a in orders]
    assert bounds == sorted(bounds)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"order": 1.0}, "order"),
        ({"order": float("nan")}, "order"),
        ({"order": float("inf")}, "order"),
        ({"variance": 0.0}, "variance"),
        ({"variance": float("nan")}, "variance"),
        ({"l1_sensitivity": 1.0}, "sensitivities"),
        ({"l2_sensitivity": -1.0}, "sensitivities"),
        ({"l1_sensitivity": float("inf")}, "sensitivities"),
        ({"l2_sensitivity": float("nan")}, "sensitivities"),
    ],
)
def test_renyi_bound_refuses_what_it_does_not_cover(changed, message):
    right = {"order": 2.0, "l1_sensitivity": 3.0, "l2_sensitivity": 2.0, "variance": 10.0}
    assert renyi_bound(**right) > 0
    with pytest.raises(PrivacyError, match=message):
        renyi_bound(**(right | changed))
