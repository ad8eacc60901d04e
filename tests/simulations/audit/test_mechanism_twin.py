"""The twin runs the real thing: what it notes is what left, and what it replaces is replaced nowhere else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client.training import Trainer
from privacy.audit.mechanism.residuals import Property
from privacy.plan import PrivacyPlan
from protocol.errors import FederationError
from protocol.randomness import SystemRandom
from protocol.study import Study
from protocol.terms import Trust
from simulations.audit.mechanism.canary_family import canary_records
from simulations.audit.mechanism.evidence import Effort, Evidence, audited_study
from simulations.audit.mechanism.mutants import MUTANTS
from simulations.audit.mechanism.run import Member, RunLog, run_twin, twin_study
from simulations.audit.mechanism.twin import HONEST
from simulations.audit.mechanism.views import COLLUDERS, LOCAL_STEP, OPENED, SENT, SHARE, Observer, Roles
from strategies.study_model import study_schema

ClaimingStudy = Callable[..., Study]
SUM: dict[str, Any] = {"trust": "sum", "sites": 6, "dropouts": 1, "colluders": 1}
NO_NOISE = next(mutant for mutant in MUTANTS if mutant.name == "no noise at all").parts


def evidence_of(study: Study, parts: Any = HONEST, rounds: int = 4) -> Evidence:
    return Evidence(study, parts, effort=Effort(rounds=rounds, canaries=90), random=SystemRandom())


def ran(study: Study, parts: Any = HONEST, rounds: int = 4) -> Evidence:
    found = evidence_of(study, parts, rounds)
    found.run(random=SystemRandom())
    return found


@pytest.fixture
def small_run(claiming_study: ClaimingStudy) -> Callable[..., tuple[Study, RunLog, Evidence]]:
    """Return a function that runs three rounds of a twin with one site of every kind."""

    def run(roles: Roles, **choice: Any) -> tuple[Study, RunLog, Evidence]:
        evidence = evidence_of(claiming_study(**choice))
        twin = twin_study(evidence.study, sites=len(roles.present) + len(roles.away), rounds=3)
        schema = study_schema(twin)
        members = {
            site: Member(
                records=canary_records(np.arange(number, 40 + number), schema=schema, records_each=(1,)),
                away=site in roles.away,
            )
            for number, site in enumerate((*roles.present, *roles.away))
        }
        return twin, run_twin(twin, members, evidence.canaries, parts=HONEST, random=SystemRandom()), evidence

    return run


def test_a_twin_keeps_the_numbers_that_matter(tiny_study: Callable[..., Study]) -> None:
    study = tiny_study(federation={"sites": 10, "public_records": 4000})
    plan, twin = PrivacyPlan.from_study(study), PrivacyPlan.from_study(twin_study(study, sites=3, rounds=7))
    assert twin.noise_multiplier == plan.noise_multiplier
    assert twin.expected_units_per_site == plan.expected_units_per_site
    assert twin.rows_per_pass == plan.rows_per_pass
    assert (twin.study.privacy.sample_rate, twin.study.privacy.clip_norm, twin.delta) == (0.5, 1.0, plan.delta)
    assert twin.study.training.rounds == 7


def test_what_left_is_what_the_mechanism_gave(small_run: Any) -> None:
    _, log, _ = small_run(Roles(honest=("north", "south")))
    for site in log.sites.values():
        np.testing.assert_array_equal(np.stack(site.left), np.stack(site.words))
        assert len(site.taken) == 3
    np.testing.assert_array_equal(np.stack(log.opened), sum(np.stack(site.left) for site in log.sites.values()))
    assert len(np.unique(np.stack(log.weights), axis=0)) == 3, "every round has weights of its own"


def test_sites_that_drop_out_send_nothing_and_the_sum_is_that_of_the_others(small_run: Any) -> None:
    roles = Roles(honest=("a", "b", "c", "d"), colluding=("e",), away=("f",))
    _, log, _ = small_run(roles, **SUM)
    assert log.sites["f"].left == []
    assert log.sites["f"].words == []
    exact = sum(np.stack(log.sites[site].words) for site in roles.present)
    np.testing.assert_array_equal(np.stack(log.opened), exact)
    masked = sum(np.stack(log.sites[site].left).astype(np.int64) for site in roles.present)
    assert (masked != exact).any(), "what left was masked"


def test_more_drop_outs_than_stated_end_the_run(small_run: Any) -> None:
    with pytest.raises(FederationError):
        small_run(Roles(honest=("a", "b", "c"), colluding=("d",), away=("e", "f")), **SUM)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({}, {SENT}),
        ({"strategy": "updates"}, {LOCAL_STEP, SENT}),
        (SUM, {SHARE, OPENED, COLLUDERS}),
        (SUM | {"strategy": "updates", "unit": "person"}, {LOCAL_STEP, OPENED, COLLUDERS}),
    ],
)
def test_without_noise_every_view_is_what_the_canaries_add(
    claiming_study: ClaimingStudy, choice: dict[str, Any], names: set[str]
) -> None:
    evidence = ran(claiming_study(**choice), NO_NOISE)
    assert {name for name, _ in evidence.views} == names
    for views in evidence.views.values():
        for view in views:
            expected = view.counts * evidence.canaries.contributions
            np.testing.assert_allclose(view.scores, expected, atol=1e-4)
            assert view.counts.sum() > 0 or view.where == "empty" or evidence.roles.honest[-1] == view.where


@pytest.mark.parametrize("choice", [{}, {"strategy": "updates"}, SUM, SUM | {"strategy": "updates"}])
def test_the_planned_noise_of_every_view_is_what_it_has(claiming_study: ClaimingStudy, choice: dict[str, Any]) -> None:
    evidence = ran(claiming_study(**choice), rounds=12)
    for (name, where), views in evidence.views.items():
        noise = np.concatenate([view.noise for view in views])
        error = np.sqrt(0.5 / noise.size)
        assert abs(noise.std() - 1.0) < 5 * error, f"{name}, {where}"
    assert all(check.p_value == 1.0 for check in evidence.checks if check.what is Property.DERIVED)


def test_colluders_face_the_claimed_noise_and_no_more(claiming_study: ClaimingStudy) -> None:
    study = claiming_study(**SUM)
    evidence = ran(study)
    (seen,) = (views[0] for (name, _), views in evidence.views.items() if name == COLLUDERS)
    assert seen.planned == pytest.approx(PrivacyPlan.from_study(study).noise_multiplier, rel=1e-3)


def test_a_change_that_was_bounded_is_no_linear_view_and_still_follows_from_the_sums(
    claiming_study: ClaimingStudy,
) -> None:
    from dataclasses import replace

    study = claiming_study(strategy="updates")
    bounded = replace(study, training=replace(study.training, update_norm=0.01))
    evidence = ran(bounded)
    assert {name for name, _ in evidence.views} == {LOCAL_STEP}
    assert [check.p_value for check in evidence.checks if check.what is Property.DERIVED] == [1.0]


def test_anything_else_that_left_would_be_found(small_run: Any) -> None:
    twin, log, evidence = small_run(Roles(honest=("north", "south")), strategy="updates")
    observer = Observer(twin, evidence.canaries, Roles(honest=("north", "south")))
    assert observer.derived(log).p_value == 1.0
    log.sites["north"].left[1] = log.sites["north"].left[1] + 2
    assert observer.derived(log).p_value == 0.0


def test_many_sites_are_brought_down_to_twelve(claiming_study: ClaimingStudy) -> None:
    study = claiming_study(trust="sum", sites=40, dropouts=8, colluders=4, public_records=4000)
    terms = audited_study(study).federation
    assert (terms.sites, terms.dropouts, terms.colluders, terms.public_records) == (12, 2, 1, 1200)
    few = claiming_study(**SUM)
    assert audited_study(few) == few


def test_sites_hold_different_numbers_of_canaries_and_all_of_them(claiming_study: ClaimingStudy) -> None:
    evidence = evidence_of(claiming_study(**SUM))
    sizes = [len(held) for held in evidence.held.values()]
    assert sum(sizes) == len(evidence.canaries)
    assert len(set(sizes)) > 2
    assert 0 in [len(evidence.held[site]) for site in evidence.roles.honest]
    assert evidence.study.privacy.trust is Trust.SUM


def test_seldom_drawn_units_are_drawn_at_two_rates(claiming_study: ClaimingStudy) -> None:
    evidence = evidence_of(claiming_study(rate=0.01))
    evidence.run(random=SystemRandom())
    evidence.sample(random=SystemRandom())
    assert {rate for _, rate in evidence.samples} == {0.05, 0.01}


def test_production_trainers_are_not_the_twins() -> None:
    assert Trainer.gradient_sum.__module__ == "client.training"
    assert "Twin" not in Trainer.__name__


def test_no_more_noise_is_kept_than_is_looked_at(
    claiming_study: ClaimingStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.audit.mechanism.evidence._MOST_NUMBERS", 10 * 200)
    evidence = evidence_of(claiming_study(), rounds=30)
    rows = max(8, 2000 // sum(evidence.sizes))
    for _ in range(2):
        evidence.run(random=SystemRandom())
    for views in evidence.views.values():
        assert sum(len(view.noise) for view in views) == rows
        assert all(view.noise.base is None for view in views)
        assert all(len(view.scores) == rows for view in views), "rounds too"
    assert all(sum(len(words) for words in found) == rows for found in evidence.words.values())
