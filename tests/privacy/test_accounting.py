"""Three accountants, published figures, an outside oracle, and what must be refused."""

import math
import time
from dataclasses import replace
from typing import Any

import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from privacy import accounting
from privacy.accounting import check_delta, cross_check, default_delta, epsilon
from privacy.events import Mechanism, NoisyRelease
from protocol.errors import AccountingError
from protocol.terms import ContributionKind, Relation, Sampler, Unit

ADD, REPLACE = Relation.ADD_REMOVE, Relation.REPLACE_ONE

# n = 60,000, B = 600, delta 1e-5: noise, steps, PLD, PRV, RDP; measured with dp-accounting 0.6 and Opacus 1.6
REFERENCE = [
    (1.0, 2000, 2.584, 2.594, 2.866),
    (0.7, 2000, 6.209, 6.219, 7.065),
    (0.5, 500, 10.283, 10.294, 12.120),
]


def release(noise: float = 1.0, rate: float = 0.01, count: int = 1, **changes: Any) -> NoisyRelease:
    fields: dict[str, Any] = {
        "mechanism": Mechanism.GAUSSIAN,
        "noise_multiplier": noise,
        "sample_rate": rate,
        "sampler": Sampler.POISSON,
        "count": count,
        "kind": ContributionKind.GRADIENTS,
        "relation": ADD,
        "unit": Unit.RECORD,
    }
    return NoisyRelease(**{**fields, **changes})


@pytest.mark.parametrize(("noise", "steps", "pld", "prv", "rdp"), REFERENCE)
def test_reference_figures(noise: float, steps: int, pld: float, prv: float, rdp: float) -> None:
    check = cross_check([release(noise, 0.01, steps)], delta=1e-5, relation=ADD)
    assert check.pld == pytest.approx(pld, rel=5e-3)
    assert check.fourier == pytest.approx(pld, rel=5e-3)
    assert check.fourier == pytest.approx(prv, rel=1e-2)
    assert check.renyi == pytest.approx(rdp, rel=5e-3)
    assert check.pld != pytest.approx(rdp, rel=5e-3)


def test_reference_figure_under_replace_one() -> None:
    assert epsilon([release(1.0, 0.01, 2000)], delta=1e-5, relation=REPLACE) == pytest.approx(4.193, rel=5e-3)


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.01, 2000), (0.7, 0.01, 500), (2.0, 0.05, 1000)])
def test_agrees_with_opacus_prv(noise: float, rate: float, steps: int) -> None:
    from opacus.accountants import PRVAccountant

    oracle = PRVAccountant()
    oracle.history = [(noise, rate, steps)]
    theirs = oracle.get_epsilon(1e-5)
    ours = epsilon([release(noise, rate, steps)], delta=1e-5, relation=ADD)
    assert abs(ours - theirs) <= max(0.01 * ours, 0.01)
    wrong = epsilon([release(1.05 * noise, rate, steps)], delta=1e-5, relation=ADD)
    assert abs(wrong - theirs) > max(0.01 * ours, 0.01)


@pytest.mark.parametrize("delta", [1e-5, 1e-8])
@pytest.mark.parametrize(
    ("noise", "rate", "count"),
    [
        (1.0, 1.0, 1),
        (0.3, 1.0, 1),
        (1000.0, 1.0, 50),
        (1.0, 1e-4, 10000),
        (1.0, 1e-5, 100000),
        (0.5, 1e-5, 1000),
        (3.0, 0.5, 100),
        (2.0, 0.999, 5),
        (20.0, 0.1, 20000),
    ],
)
@pytest.mark.parametrize("relation", Relation)
def test_accountants_agree_everywhere(noise: float, rate: float, count: int, delta: float, relation: Relation) -> None:
    check = cross_check([release(noise, rate, count)], delta=delta, relation=relation)
    assert 0.0 <= check.pld <= check.renyi + 0.01
    assert check.fourier <= check.pld + 1e-3 * max(1.0, check.pld)


@pytest.mark.parametrize("rate", [1.0, 0.02])
def test_the_discrete_gaussian_is_covered(rate: float) -> None:
    """On a grid of 2^10 steps per sensitivity the discrete law costs what the continuous one does."""
    discrete = privacy_loss_distribution.from_discrete_gaussian_mechanism(
        1024.0,
        sensitivity=1024,
        sampling_prob=rate,
        value_discretization_interval=1e-4,
        use_connect_dots=True,
    ).self_compose(50)
    ours = epsilon([release(1.0, rate, 50)], delta=1e-5, relation=ADD)
    assert discrete.get_epsilon_for_delta(1e-5) == pytest.approx(ours, rel=1e-3)


@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    noise=st.floats(0.8, 20.0),
    rate=st.floats(1e-3, 0.1),
    count=st.integers(1, 200),
)
def test_monotone(noise: float, rate: float, count: int) -> None:
    def of(event: NoisyRelease, delta: float = 1e-5) -> float:
        return epsilon([event], delta=delta, relation=ADD)

    start = of(release(noise, rate, count))
    slack = 1e-3 * start + 1e-3
    assert of(release(noise * 1.2, rate, count)) <= start + slack
    assert of(release(noise, rate * 0.8, count)) <= start + slack
    assert of(release(noise, rate, count + 50)) >= start - slack
    assert of(release(noise, rate, count), 1e-4) <= start + slack
    assert epsilon([release(noise, rate, count)], delta=1e-5, relation=REPLACE) >= start - slack


def test_composition_adds_counts_and_ignores_order_and_kind() -> None:
    parts = [
        release(1.0, 0.01, 300),
        release(2.0, 0.1, 10),
        release(1.0, 0.01, 700, kind=ContributionKind.UPDATES),
    ]
    whole = [release(2.0, 0.1, 10), release(1.0, 0.01, 1000)]
    assert epsilon(parts, delta=1e-5, relation=ADD) == epsilon(whole, delta=1e-5, relation=ADD)


def test_gaussians_without_sampling_merge_exactly() -> None:
    """Precisions add: 100 steps at 10 are one at 1."""
    many = epsilon([release(10.0, 1.0, 100, sampler=Sampler.ALL)], delta=1e-5, relation=ADD)
    assert many == epsilon([release(1.0, 1.0)], delta=1e-5, relation=ADD)


def test_nothing_costs_nothing() -> None:
    assert epsilon([], delta=1e-5, relation=ADD) == 0.0


def test_a_sensitivity_under_replace_one() -> None:
    bounded = release(2.0, 1.0, 3, sampler=Sampler.ALL, relation=REPLACE)
    plain = epsilon([release(2.0, 1.0, 3)], delta=1e-5, relation=ADD)
    assert epsilon([bounded], delta=1e-5, relation=REPLACE) == pytest.approx(plain, rel=1e-3)
    with pytest.raises(AccountingError, match="replace_one"):
        epsilon([bounded], delta=1e-5, relation=ADD)


def test_refuses_units_that_do_not_compose() -> None:
    with pytest.raises(AccountingError, match="units"):
        epsilon([release(), release(unit=Unit.PERSON)], delta=1e-5, relation=ADD)


@pytest.mark.parametrize("stranger", [None, {"noise_multiplier": 1.0}, "gaussian", (1.0, 0.01)])
def test_refuses_what_is_no_event(stranger: Any) -> None:
    with pytest.raises(AccountingError):
        epsilon([release(), stranger], delta=1e-5, relation=ADD)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, math.inf, 1e-13, True, "1e-5"])
def test_refuses_a_bad_delta(delta: Any) -> None:
    with pytest.raises(AccountingError):
        epsilon([release()], delta=delta, relation=ADD)


def test_refuses_a_relation_that_is_a_string() -> None:
    with pytest.raises(AccountingError):
        epsilon([release()], delta=1e-5, relation="add_remove")  # type: ignore[arg-type]


def test_refuses_an_epsilon_that_protects_nobody() -> None:
    with pytest.raises(AccountingError, match="protects nobody"):
        epsilon([release(0.045, 1.0)], delta=1e-5, relation=ADD)


@pytest.mark.parametrize(
    ("name", "factor"), [("fourier_epsilon", 1.03), ("fourier_epsilon", 0.97), ("renyi_epsilon", 0.8)]
)
def test_a_broken_accountant_is_found(monkeypatch: pytest.MonkeyPatch, name: str, factor: float) -> None:
    """Either accountant, made wrong, stops the report."""
    sound = getattr(accounting, name)
    accounting._check_steps.cache_clear()
    monkeypatch.setattr(accounting, name, lambda *args, **kwargs: factor * sound(*args, **kwargs))
    with pytest.raises(AccountingError, match="disagree"):
        epsilon([release(1.0, 0.01, 2000)], delta=1e-5, relation=ADD)
    accounting._check_steps.cache_clear()


def test_an_under_reporting_record_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of error that Opacus' GDP accountant makes."""
    sound = accounting._pld_epsilon
    accounting._check_steps.cache_clear()
    monkeypatch.setattr(accounting, "_pld_epsilon", lambda *args: 0.76 * sound(*args))
    with pytest.raises(AccountingError, match="disagree"):
        epsilon([release(1.0, 0.01, 2000)], delta=1e-5, relation=ADD)
    accounting._check_steps.cache_clear()


def test_a_thousand_steps_take_less_than_two_seconds() -> None:
    start = time.process_time()
    epsilon([release(0.93, 0.013, 1000)], delta=1e-5, relation=ADD)
    assert time.process_time() - start < 2.0


def test_default_delta() -> None:
    assert default_delta(100) == 1e-5
    assert default_delta(60_000) == pytest.approx(1 / 600_000)
    with pytest.raises(AccountingError):
        default_delta(0)
    with pytest.raises(AccountingError):
        default_delta(True)


def test_delta_below_one_over_the_public_size() -> None:
    assert check_delta(0.9e-3, public_size=1000) == 0.9e-3
    for size in (1000, 2000):
        with pytest.raises(AccountingError, match="Use at most"):
            check_delta(1e-3, public_size=size)


def test_events_are_not_changed() -> None:
    event = release(1.0, 0.01, 5)
    epsilon([event], delta=1e-5, relation=ADD)
    assert event == replace(event)
