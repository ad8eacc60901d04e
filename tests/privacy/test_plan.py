"""The plan: what a study's terms come to, from the study alone."""

from collections.abc import Callable
from typing import Any

import pytest

from privacy.accounting import epsilon
from privacy.mechanisms.gaussian import GaussianMechanism, NoNoise
from privacy.plan import PrivacyPlan
from protocol.errors import AccountingError, PrivacyError
from protocol.study import Study
from protocol.terms import ContributionKind, Relation, Sampler, Unit

MakeStudy = Callable[..., Study]


@pytest.mark.parametrize("strategy", ["gradients", "updates"])
def test_all_rounds_together_keep_the_promise_and_use_it_up(tiny_study: MakeStudy, strategy: str) -> None:
    study = tiny_study(training={"strategy": strategy, "rounds": 4, "local_steps": 5})
    plan = PrivacyPlan.from_study(study)
    assert plan.private
    event = plan.round_event
    assert event is not None
    assert event.count == (5 if strategy == "updates" else 1)
    spent = epsilon([event.times(4 * event.count)], delta=1e-4, relation=Relation.ADD_REMOVE)
    assert 0.995 * 5.0 < spent <= 5.0


def test_the_event_says_what_the_study_says(tiny_study: MakeStudy) -> None:
    study = tiny_study(schema={"person": "who"}, privacy={"unit": "person", "sample_rate": 0.25})
    event = PrivacyPlan.from_study(study).round_event
    assert event is not None
    assert (event.unit, event.sample_rate, event.sampler) == (Unit.PERSON, 0.25, Sampler.POISSON)
    assert (event.kind, event.relation) == (ContributionKind.GRADIENTS, Relation.ADD_REMOVE)


def test_a_given_noise_multiplier_is_taken_as_it_is(given_noise: MakeStudy) -> None:
    plan = PrivacyPlan.from_study(given_noise(1.75))
    assert plan.noise_multiplier == 1.75
    mechanism = plan.step_mechanism(10)
    assert isinstance(mechanism, GaussianMechanism)
    assert mechanism.sigma == 1.75 * mechanism.grid.sensitivity


def test_no_noise_is_never_private_and_never_an_event(given_noise: MakeStudy) -> None:
    plan = PrivacyPlan.from_study(given_noise(0.0))
    assert not plan.private
    assert plan.round_event is None
    assert isinstance(plan.step_mechanism(10), NoNoise)


def test_deterministic_noise_costs_as_much_and_is_worth_nothing(
    tiny_study: MakeStudy, without_noise: MakeStudy
) -> None:
    plan = PrivacyPlan.from_study(without_noise())
    assert not plan.private
    assert plan.round_event == PrivacyPlan.from_study(tiny_study()).round_event


def test_divisors_are_public(tiny_study: MakeStudy) -> None:
    plan = PrivacyPlan.from_study(tiny_study(federation={"sites": 4, "public_records": 1000}))
    assert plan.expected_units == 500.0
    assert plan.expected_units_per_site == 125.0


@pytest.mark.parametrize(("size", "expected"), [(100, 1e-5), (10_000, 1e-5), (1_000_000, 1e-7)])
def test_delta_is_by_default_small_for_the_public_size(tiny_study: MakeStudy, size: int, expected: float) -> None:
    mapping = tiny_study(federation={"public_records": size}).to_mapping()
    del mapping["privacy"]["delta"]
    assert PrivacyPlan.from_study(Study.from_mapping(mapping)).delta == pytest.approx(expected)


@pytest.mark.parametrize("terms", [{"delta": 0.01}, {"delta": 0.5}])
def test_a_delta_that_gives_whole_people_away_is_refused(tiny_study: MakeStudy, terms: dict[str, Any]) -> None:
    with pytest.raises(AccountingError, match="delta"):
        PrivacyPlan.from_study(tiny_study(privacy=terms))


def test_a_study_that_does_not_fit_the_wire_is_refused(given_noise: MakeStudy) -> None:
    with pytest.raises(PrivacyError):
        PrivacyPlan.from_study(given_noise(1e6)).step_mechanism(1000)


@pytest.mark.parametrize("dimension", [1, 1000, 1_000_000])
def test_contributions_of_a_whole_federation_fit_their_words(tiny_study: MakeStudy, dimension: int) -> None:
    study = tiny_study(privacy={"delta": 1e-7}, federation={"public_records": 1_000_000})
    plan = PrivacyPlan.from_study(study)
    grid = plan.step_mechanism(dimension).grid
    assert grid.limit < 2**31
    assert grid.steps * plan.expected_units < grid.limit
