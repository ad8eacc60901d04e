"""The attack with reference models, against its definition spelled out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.audit.intervals import auroc
from privacy.audit.model.reference_attack import log_ratios, outdone_share
from protocol.errors import InputError

numbers = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


def slow_share(ratios, population, gamma):
    """Zarifzadeh, Liu, Shokri 2024, equation 1, pair by pair; a tie counts half."""
    return [
        sum(1.0 if np.exp(x - z) > gamma else 0.5 if x - z == np.log(gamma) else 0.0 for z in population)
        / len(population)
        for x in ratios
    ]


@given(numbers, numbers, st.sampled_from([1.0]))
def test_share_is_the_one_of_the_paper(ratios, population, gamma):
    assert outdone_share(ratios, population, gamma=gamma).tolist() == pytest.approx(
        slow_share(ratios, population, gamma)
    )


@given(numbers, numbers)
def test_a_factor_asks_for_more(ratios, population):
    shares = [outdone_share(ratios, population, gamma=gamma) for gamma in (0.6, 1.3, 2.9)]
    assert (np.diff(shares, axis=0) <= 0).all()
    assert outdone_share(ratios, population, gamma=1.3).tolist() == pytest.approx(slow_share(ratios, population, 1.3))


def test_ratios_are_differences_from_the_mean_reference():
    target, references = np.array([-3.0, -4.0]), np.array([[-3.0, -8.0], [-5.0, -2.0], [-4.0, -2.0]])
    assert log_ratios(target, references).tolist() == [1.0, 0.0]


def test_references_take_out_how_common_a_record_is():
    """Records of very different frequency: the plain score drowns in it, the ratio does not."""
    generator = np.random.default_rng(0)
    common, included = 10.0 * generator.standard_normal(2000), np.arange(2000) % 2 == 0

    def model(sees: bool) -> np.ndarray:
        return common + generator.standard_normal(2000) + (included if sees else 0.0)

    target, references = model(True), np.stack([model(False) for _ in range(4)])
    plain = auroc(target[included], target[~included], confidence=0.95)
    ratios = log_ratios(target, references)
    compared = auroc(ratios[included], ratios[~included], confidence=0.95)
    assert plain.high < 0.58
    assert compared.low > 0.65
    more = log_ratios(target, references[:1])
    assert auroc(more[included], more[~included], confidence=0.95).value < compared.value
    # The broken twin: references that saw the records take out what is looked for.
    ratios = log_ratios(target, np.stack([model(True) for _ in range(4)]))
    blind = auroc(ratios[included], ratios[~included], confidence=0.999)
    assert blind.low < 0.5 < blind.high


@pytest.mark.parametrize(("target", "references"), [([1.0], []), ([1.0], [[1.0, 2.0]]), ([[1.0]], [[1.0]])])
def test_misfits_are_refused(target, references):
    with pytest.raises(InputError):
        log_ratios(target, references)


@pytest.mark.parametrize(("population", "gamma"), [([], 1.0), ([0.0], 0.0), ([0.0], float("inf"))])
def test_shares_of_nothing_are_refused(population, gamma):
    with pytest.raises(InputError):
        outdone_share([0.0], population, gamma=gamma)
