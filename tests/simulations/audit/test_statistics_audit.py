"""The audit of the mechanism covers rounds of statistics: broken twins are caught, the honest twin is not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from privacy.accounting import epsilon
from privacy.audit.finding import Claim, Verdict
from privacy.audit.trade_off import sampled_gaussian
from privacy.dp_sgd import parameter_count
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.randomness import SystemRandom
from protocol.study import StatisticsTerms, Study
from protocol.terms import ContributionKind, Relation
from records.dataset import Records
from simulations.audit.channel.audit import channel_audit
from simulations.audit.mechanism.audit import (
    Caught,
    audit_twin,
    broken_twins,
    catch_mutants,
    claim_of,
    mechanism_audit,
)
from simulations.audit.mechanism.evidence import Effort, gather
from simulations.audit.mechanism.run import stage_studies
from simulations.audit.mechanism.twin import HONEST
from simulations.audit.model.audit import claimed_steps, model_audit
from simulations.audit.model.claimed_noise import claimed_noise
from simulations.audit.model.deadline import Deadline
from simulations.audit.model.pool import Extra, uniform_codes
from simulations.audit.model.twin import train_twin
from strategies.study_model import study_schema

SCHEMA = {
    "person": "who",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 69},
        {"name": "size", "kind": "integer", "lower": 0, "upper": 39},
        {"name": "ill", "kind": "boolean"},
    ],
}
SMALL = Effort(rounds=6, canaries=200)
SEEN = "the other broken twins, on another study"


def study_of(*, trust: str = "none", unit: str = "record", alone: bool = False) -> Study:
    federation = {"sites": 5, "dropouts": 1, "colluders": 1} if trust == "sum" else {"sites": 2}
    mapping: dict[str, Any] = {
        "study": {"name": "counted"},
        "schema": SCHEMA,
        "model": {"family": "vae", "options": {"latent": 2}},
        "training": {"rounds": 1, "strategy": "statistics"} if alone else {"rounds": 40},
        "privacy": {
            "noise_multiplier": 1.5,
            "delta": 1e-5,
            "sample_rate": 1.0 if alone else 0.2,
            "trust": trust,
            "unit": unit,
        },
        "federation": federation | {"public_records": 300},
    }
    return Study.from_mapping(mapping if alone else mapping | {"statistics": {"rounds": 1, "share": 0.3}})


@pytest.mark.parametrize("trust", ["none", "sum"])
def test_the_stages_as_studies_of_their_own_cost_what_the_study_costs(trust: str) -> None:
    study = study_of(trust=trust)
    plan = PrivacyPlan.from_study(study)
    parts = [PrivacyPlan.from_study(part) for part in stage_studies(study)]
    assert [part.study.training.strategy.value for part in parts] == ["gradients", "statistics"]
    events = [event for part in parts for event in part.events(rounds=part.rounds)]
    whole = plan.events(rounds=plan.rounds)
    assert {event.kind: event for event in events} == {event.kind: event for event in whole}
    for part, stage in zip(parts, reversed(plan.stages), strict=True):
        assert part.stages[-1].mechanism(100).sigma == pytest.approx(stage.mechanism(100).sigma)
    assert epsilon(events, delta=plan.delta, relation=Relation.ADD_REMOVE) == claim_of(study).epsilon


def test_the_honest_twin_of_statistics_is_not_caught() -> None:
    study = study_of(alone=True)

    def tests() -> set[str]:
        found = audit_twin(study, claim_of(study), name="honest", parts=HONEST, random=SystemRandom(), effort=SMALL)
        assert found.problem == ""
        return set(found.tests)

    first = tests()
    assert not first or not first & tests()


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("statistics charged to nobody", "ledger"),
        ("statistics without a clip", "at most the clip norm"),
        ("bound of statistics too small", "at most the clip norm"),
        ("noise times 0.5", "planned size"),
        ("the same noise in every round", "two contributions"),
    ],
)
def test_a_broken_twin_of_statistics_is_caught_by_the_test_that_is_there_for_it(name: str, test: str) -> None:
    (caught,) = catch_mutants(study_of(alone=True), random=SystemRandom(), names=[name], effort=SMALL)
    assert caught.problem == ""
    assert any(test in each for each in caught.tests), caught.tests


def test_a_person_counted_record_by_record_is_caught() -> None:
    study = study_of(alone=True, unit="person")
    names = ["clip per record instead of per person"]
    (caught,) = catch_mutants(study, random=SystemRandom(), names=names, effort=SMALL)
    assert any("at most the clip norm" in each for each in caught.tests), caught.tests


def test_shares_of_statistics_that_forget_drop_outs_are_caught() -> None:
    study = study_of(alone=True, trust="sum")
    names = ["shares that forget drop-outs and colluders"]
    (caught,) = catch_mutants(study, random=SystemRandom(), names=names, effort=SMALL)
    assert any("planned size" in each for each in caught.tests), caught.tests


def test_a_study_with_both_has_the_broken_twins_of_both() -> None:
    names = broken_twins(study_of())
    assert "clip missing" in names
    assert "statistics: statistics charged to nobody" in names
    assert "statistics: clip missing" not in names, "there are no gradients in them"
    assert not any(name.startswith("statistics") for name in broken_twins(study_of(alone=True)) if ":" in name)
    wanted = ["statistics: statistics charged to nobody"]
    (caught,) = catch_mutants(study_of(), random=SystemRandom(), names=wanted, effort=SMALL)
    assert (caught.mutant, caught.kind) == (wanted[0], ContributionKind.STATISTICS)
    assert any("ledger" in each for each in caught.tests)


def test_an_audit_looks_at_both_stages_and_holds_each_against_the_whole_claim() -> None:
    caught = [Caught(mutant=SEEN, tests=("lower bound",), seconds=0.0, processor_seconds=0.0)]
    study = study_of()
    found = mechanism_audit(study, random=SystemRandom(), budget_seconds=0.0, caught=caught, effort=SMALL)
    subjects = {finding.subject for finding in found}
    assert {"counted: what one site sends", "counted-statistics: what one site sends"} <= subjects
    assert {finding.claim for finding in found} == {claim_of(study)}
    assert all(finding.verdict is not Verdict.VIOLATED for finding in found)
    bounds = [finding.lower_bound for finding in found if finding.lower_bound is not None]
    assert len(bounds) == 2
    assert all(0.0 <= bound <= claim_of(study).epsilon for bound in bounds)


def test_what_a_twin_of_statistics_releases_is_its_canaries_and_the_planned_noise() -> None:
    evidence = gather(study_of(alone=True), HONEST, effort=SMALL, random=SystemRandom())
    views = [view for views in evidence.views.values() for view in views]
    noise = np.concatenate([view.noise.ravel() for view in views])
    spread = 1.0 / (2 * noise.size) ** 0.5
    assert abs(float(np.sqrt(np.mean(noise**2))) - 1.0) < 5 * spread
    assert evidence.largest_move == pytest.approx(1.0, abs=1e-5)
    assert evidence.paid == evidence.left > 0


def test_attacks_on_training_refuse_a_study_without_any() -> None:
    study = study_of(alone=True)
    with pytest.raises(InputError, match="statistics alone"):
        model_audit(study, random=SystemRandom())
    with pytest.raises(InputError, match="statistics alone"):
        channel_audit(study, random=SystemRandom())


@pytest.mark.parametrize("trust", ["none", "sum"])
def test_a_twin_for_attacks_on_the_model_has_statistics_and_shows_the_training_alone(trust: str) -> None:
    study = study_of(trust=trust)
    study = replace(study, training=replace(study.training, rounds=3))
    schema = study_schema(study)
    generator = np.random.default_rng(0)
    base = Records(
        codes=uniform_codes(schema.cardinalities, 60, generator=generator),
        persons=np.arange(60),
        schema=schema,
    )
    nobody = Extra(codes=base.codes[:0], sites=np.zeros(0, dtype=np.int64))
    twin = train_twin(study, base, nobody, generator=generator, deadline=Deadline(120.0))
    size = parameter_count(twin.insider.shared)
    assert twin.weights.shape == (3, size)
    assert twin.words.shape == (1 if trust == "sum" else 2, 3, size)


def test_what_a_claim_allows_an_attacker_includes_the_statistics() -> None:
    """Otherwise what statistics rightly show of a record would contradict the claim."""
    study = study_of()
    claimed = claimed_steps(study, None)
    assert claimed.claim.epsilon == claim_of(study).epsilon
    without = replace(claimed, statistics=None)
    assert claimed.curve(0.6) < 0.97 * without.curve(0.6), "more may be told than training shows"
    # Epsilon of the mechanism that the curve is of, at the planned noise, is the claim's.
    family = sampled_gaussian(claimed.sample_rate, claimed.steps, statistics=claimed.statistics)
    found = family.epsilon(1.0 / claimed.noise_multiplier, claimed.claim.delta)
    assert found == pytest.approx(claimed.claim.epsilon, rel=1e-3)
    claim = Claim(epsilon=2.0, delta=1e-5, relation=Relation.ADD_REMOVE)
    assert claimed_noise(study, claim) > claimed_noise(replace(study, statistics=StatisticsTerms()), claim)
