"""Rounds of statistics in the plan: what they cost, what training then costs, and that both keep the promise."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.calibration import StatisticsShare, calibrate_noise_multiplier
from privacy.mechanisms.gaussian import GaussianMechanism, NoNoise
from privacy.plan import PrivacyPlan
from protocol.errors import AccountingError, PrivacyError, StudyError
from protocol.study import Study
from protocol.terms import ContributionKind, Relation, Sampler

MakeStudy = Callable[..., Study]


def both(tiny_study: MakeStudy, *, rounds: int = 2, share: float = 0.3, **sections: Any) -> Study:
    mapping = tiny_study(**sections).to_mapping()
    return Study.from_mapping(mapping | {"statistics": {"rounds": rounds, "share": share}})


def alone(tiny_study: MakeStudy, *, rounds: int = 2, **privacy: Any) -> Study:
    training = {"strategy": "statistics", "rounds": rounds}
    return tiny_study(training=training, privacy={"sample_rate": 1.0} | privacy)


def by_brute_force(study: Study, plan: PrivacyPlan) -> float:
    """Google's accountant, fed with the events of every round one by one, written out here."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    for number in range(1, plan.rounds + 1):
        stage = plan.stage(number)
        single = dp_event.GaussianDpEvent(stage.noise_multiplier)
        steps = study.training.local_steps if stage.kind is ContributionKind.UPDATES else 1
        for _ in range(steps):
            sampled = stage.kind is not ContributionKind.STATISTICS
            rate = study.privacy.sample_rate
            accountant.compose(dp_event.PoissonSampledDpEvent(rate, single) if sampled else single)
    return float(accountant.get_epsilon(plan.delta))


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"rounds": 5}, "privacy": {"epsilon": 2.0}},
        {"training": {"rounds": 2, "strategy": "updates", "local_steps": 3}, "privacy": {"epsilon": 1.0}},
        {"training": {"rounds": 6}, "privacy": {"epsilon": 0.5, "sample_rate": 0.1}},
    ],
)
def test_statistics_and_training_together_keep_the_promise_and_use_it_up(
    tiny_study: MakeStudy, sections: dict[str, Any]
) -> None:
    share = 0.3
    study = both(tiny_study, share=share, **sections)
    plan = PrivacyPlan.from_study(study)
    target = study.privacy.epsilon
    assert target is not None
    assert 0.995 * target < by_brute_force(study, plan) <= target * (1 + 1e-6)
    statement = plan.statement(rounds=plan.rounds, simulated=True)
    assert 0.995 * target < statement.epsilon <= target
    # The broken twin charges its statistics to nobody.
    without = replace(study, statistics=type(study.statistics)())
    assert by_brute_force(without, replace(plan, study=without)) < 0.95 * target


@pytest.mark.parametrize("rounds", [1, 3])
def test_statistics_alone_keep_the_promise_and_use_it_up(tiny_study: MakeStudy, rounds: int) -> None:
    study = alone(tiny_study, rounds=rounds)
    plan = PrivacyPlan.from_study(study)
    (stage,) = plan.stages
    assert (stage.kind, stage.first, stage.rounds, stage.last) == (ContributionKind.STATISTICS, 1, rounds, rounds)
    # The Gaussian mechanism in closed form (Balle, Wang 2018, theorem 8), of all rounds as one.
    mu = math.sqrt(rounds) / plan.noise_multiplier

    def delta(epsilon: float) -> float:
        above = stats.norm.cdf(-epsilon / mu + mu / 2)
        return float(above - math.exp(epsilon) * stats.norm.cdf(-epsilon / mu - mu / 2))

    assert delta(5.0) <= plan.delta * (1 + 1e-6)
    assert delta(0.995 * 5.0) > plan.delta
    assert by_brute_force(study, plan) <= 5.0 * (1 + 1e-6)


def test_the_share_is_that_of_the_squared_central_limit_parameter(tiny_study: MakeStudy) -> None:
    study = both(tiny_study, rounds=3, share=0.25, training={"rounds": 50}, privacy={"sample_rate": 0.1})
    statistics, training = PrivacyPlan.from_study(study).stages
    of_statistics = 3 / statistics.noise_multiplier**2
    of_training = 0.1**2 * 50 * math.expm1(1 / training.noise_multiplier**2)
    assert of_statistics / (of_statistics + of_training) == pytest.approx(0.25)


def test_stages_say_which_round_costs_what(tiny_study: MakeStudy) -> None:
    study = both(tiny_study, training={"rounds": 3})
    plan = PrivacyPlan.from_study(study)
    assert (plan.rounds, [stage.kind.value for stage in plan.stages]) == (5, ["statistics", "gradients"])
    assert [plan.stage(number).kind.value for number in range(1, 6)] == ["statistics"] * 2 + ["gradients"] * 3
    for number in (0, 6):
        with pytest.raises(StudyError, match=f"Round {number} is not in the study"):
            plan.stage(number)
    event = plan.stage(1).event
    assert event is not None
    assert (event.kind, event.sampler, event.sample_rate, event.count) == (
        ContributionKind.STATISTICS,
        Sampler.ALL,
        1.0,
        1,
    )
    assert plan.stage(3).event == plan.round_event


@pytest.mark.parametrize(("done", "counts"), [(0, []), (1, [1]), (2, [2]), (4, [2, 2]), (5, [2, 3])])
def test_a_statement_covers_the_rounds_that_were_done(tiny_study: MakeStudy, done: int, counts: list[int]) -> None:
    plan = PrivacyPlan.from_study(both(tiny_study, training={"rounds": 3}))
    assert [event.count for event in plan.events(rounds=done)] == counts
    told = plan.statement(rounds=done, simulated=True)
    assert [event.count for event in told.events] == counts


def test_a_statement_says_both_in_words(tiny_study: MakeStudy) -> None:
    plan = PrivacyPlan.from_study(both(tiny_study))
    told = "\n".join(plan.statement(rounds=plan.rounds, simulated=False).sentences())
    assert "2 noisy sums of statistics" in told
    assert "every record taking part" in told
    assert "3 noisy sums of gradients" in told


def test_a_given_noise_is_that_of_training_and_none_is_none_for_both(given_noise: MakeStudy) -> None:
    plan = PrivacyPlan.from_study(both(lambda **more: given_noise(1.75, **more)))
    statistics, training = plan.stages
    assert training.noise_multiplier == plan.noise_multiplier == 1.75
    assert statistics.noise_multiplier > 0
    silent = PrivacyPlan.from_study(both(lambda **more: given_noise(0.0, **more)))
    assert [stage.event for stage in silent.stages] == [None, None]
    assert all(isinstance(stage.mechanism(5), NoNoise) for stage in silent.stages)
    assert not silent.private


@pytest.mark.parametrize("trust", ["none", "sum"])
def test_a_sum_of_statistics_is_bounded_by_one_and_noised_as_planned(tiny_study: MakeStudy, trust: str) -> None:
    federation = {"sites": 7, "dropouts": 1, "colluders": 1} if trust == "sum" else {}
    study = both(tiny_study, privacy={"trust": trust, "clip_norm": 7.0}, federation=federation)
    plan = PrivacyPlan.from_study(study)
    stage = plan.stages[0]
    mechanism = plan.mechanism(stage, 40)
    assert isinstance(mechanism, GaussianMechanism)
    assert (mechanism.grid.clip_norm, mechanism.shared) == (1.0, trust == "sum")
    scale = mechanism.sigma / mechanism.grid.sensitivity
    assert scale == pytest.approx(stage.noise_multiplier / (5**0.5 if trust == "sum" else 1.0))
    assert stage.deviation(40, contributors=5) == pytest.approx(mechanism.sigma * mechanism.grid.step * 5**0.5)
    assert stage.expected_units == 100, "all units, whatever the rate of the training"


def test_local_training_adds_whole_noise_and_its_statistics_add_shares(tiny_study: MakeStudy) -> None:
    study = both(
        tiny_study,
        training={"strategy": "updates", "local_steps": 2},
        privacy={"trust": "sum"},
        federation={"sites": 7, "dropouts": 1},
    )
    statistics, training = PrivacyPlan.from_study(study).stages
    assert statistics.shares is not None
    assert statistics.shares.noise_multiplier == statistics.noise_multiplier
    assert training.shares is None


def test_statistics_that_do_not_fit_the_wire_are_refused(tiny_study: MakeStudy) -> None:
    study = alone(tiny_study, epsilon=0.05, delta=1e-9)
    crowded = replace(study, federation=replace(study.federation, public_records=10**7))
    with pytest.raises(PrivacyError, match="do not fit"):
        PrivacyPlan.from_study(crowded).stages[0].mechanism(100)
    # Five million at each of two sites do not fit a message; a million at each of ten do.
    spread = replace(crowded, federation=replace(crowded.federation, sites=10))
    grid = PrivacyPlan.from_study(spread).stages[0].mechanism(100).grid
    assert grid.limit / grid.steps >= 10**6


@pytest.mark.parametrize(("records", "whole"), [(1000, True), (100_000, True), (10**6, False)])
def test_counts_of_a_site_that_holds_nearly_everybody_fit_a_sum(
    tiny_study: MakeStudy, records: int, whole: bool
) -> None:
    """Counts pile up: where an equal share was all there is room for, the largest site's would be cut off."""
    terms = {"trust": "sum", "delta": 1e-9, "epsilon": 5.0}
    federation = {"sites": 10, "dropouts": 1, "public_records": records}
    study = both(tiny_study, rounds=1, privacy=terms, federation=federation)
    statistics, training = PrivacyPlan.from_study(study).stages
    grid = statistics.mechanism(500).grid
    assert (grid.limit / grid.steps >= records) is whole
    assert grid.limit / grid.steps >= records / 10, "an equal share always fits"
    assert grid.limit * 10 < 2**31
    if whole:
        assert grid.sensitivity <= 1.02 * grid.steps, "room is not bought with noise"
    equal = training.mechanism(500).grid
    assert equal.steps > grid.steps or not whole


@settings(max_examples=60)
@given(
    low=st.floats(0.1, 1e4),
    ratio=st.floats(1.0, 50.0),
    rounds=st.integers(1, 20),
    share=st.floats(0.001, 0.999),
    rate=st.floats(1e-4, 1.0),
    steps=st.integers(1, 10_000),
)
def test_the_noise_of_statistics_never_falls_as_that_of_training_rises(
    low: float, ratio: float, rounds: int, share: float, rate: float, steps: int
) -> None:
    found = StatisticsShare(rounds=rounds, share=share)
    first = found.noise_multiplier(low, sample_rate=rate, steps=steps)
    second = found.noise_multiplier(low * ratio, sample_rate=rate, steps=steps)
    assert 0.01 <= first <= second * (1 + 1e-12) <= 1e6 * (1 + 1e-12)


@pytest.mark.parametrize("epsilon", [0.05, 8.0])
def test_calibration_with_statistics_takes_more_noise(epsilon: float) -> None:
    terms: dict[str, Any] = {
        "epsilon": epsilon, "delta": 1e-5, "sample_rate": 0.1, "steps": 100, "relation": Relation.ADD_REMOVE,
    }  # fmt: skip
    plain = calibrate_noise_multiplier(**terms)
    noise = calibrate_noise_multiplier(**terms, statistics=StatisticsShare(rounds=1, share=0.5))
    assert noise > 1.1 * plain


def test_an_impossible_target_with_statistics_is_refused() -> None:
    with pytest.raises(AccountingError):
        calibrate_noise_multiplier(
            epsilon=0.001,
            delta=1e-12,
            sample_rate=1.0,
            steps=10**6,
            relation=Relation.ADD_REMOVE,
            statistics=StatisticsShare(rounds=1, share=0.1),
        )


def test_deviation_is_what_a_sum_of_draws_has(tiny_study: MakeStudy) -> None:
    from protocol.randomness import SystemRandom

    stage = PrivacyPlan.from_study(both(tiny_study)).stages[0]
    mechanism = stage.mechanism(4000)
    draws = sum(mechanism.privatise(np.zeros(4000), random=SystemRandom()).astype(np.int64) for _ in range(3))
    told = stage.deviation(4000, contributors=3)
    assert float(np.std(draws * mechanism.grid.step)) == pytest.approx(told, rel=0.06)
