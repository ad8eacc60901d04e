"""The audit of the mechanism: quiet on honest twins, with a lower bound that comes near the claim and stays below."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from models.families import FAMILIES
from privacy.audit.finding import Finding, Tier, Verdict
from protocol.errors import FederationError, PrivacyError
from protocol.randomness import SystemRandom
from protocol.study import Study
from simulations.audit.mechanism.assessment import assess
from simulations.audit.mechanism.audit import (
    FULL,
    QUICK,
    Caught,
    audit_twin,
    catch_mutants,
    claim_of,
    collect,
    mechanism_audit,
    table,
)
from simulations.audit.mechanism.evidence import Effort
from simulations.audit.mechanism.mutants import MUTANTS
from simulations.audit.mechanism.twin import Parts, TwinTrainer

ClaimingStudy = Callable[..., Study]
AUDITS, MOST_ALARMS = (200, 10) if os.environ.get("CLOISTER_HYPOTHESIS") == "nightly" else (6, 2)
SUM: dict[str, Any] = {"trust": "sum", "sites": 6, "dropouts": 1, "colluders": 1}
CHOICES: list[dict[str, Any]] = [
    {},
    {"family": "gan", "unit": "person"},
    {"strategy": "updates"},
    {"family": "gan", "strategy": "updates"},
    {"family": "vaegan"},
    SUM | {"family": "gan"},
    {"trust": "sum", "sites": 5, "strategy": "updates", "unit": "person"},
    {"rate": 0.01},
    {"rate": 1.0},
    SUM | {"rate": 1.0},
    {"family": "moments", "strategy": "statistics", "rate": 1.0, "rounds": 1},
    SUM | {"family": "gan", "strategy": "statistics", "rate": 1.0, "rounds": 1, "unit": "person"},
]
CAUGHT = (Caught(mutant="no noise at all", tests=("all of them",), seconds=1.0, processor_seconds=1.0),)
MISSED = (*CAUGHT, Caught(mutant="noise times 0.5", tests=(), seconds=1.0, processor_seconds=1.0))


class Failing(TwinTrainer):
    """A trainer that never gives a sum."""

    def _sum(self, weights: Any, *, random: Any) -> Any:
        del weights, random
        raise FederationError("The trainer is broken.", remedy="It is meant to be.")


def alarms(study: Study) -> tuple[str, ...]:
    """What one quick audit of the honest twin raises."""
    claim = claim_of(study)
    evidence = collect(study, random=SystemRandom(), budget_seconds=0.0, effort=QUICK)
    return assess(evidence, study, claim).alarms


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_an_honest_twin_raises_nothing(claiming_study: ClaimingStudy, choice: dict[str, Any]) -> None:
    study = claiming_study(**choice)
    # One audit in a hundred or so may raise something; two in a row that raise the same are a defect.
    first = set(alarms(study))
    assert not first or not first & set(alarms(study))


def test_every_family_is_audited() -> None:
    assert {choice.get("family", "vae") for choice in CHOICES} == set(FAMILIES)


def test_false_alarms_are_as_rare_as_promised(claiming_study: ClaimingStudy) -> None:
    study = claiming_study()
    assert sum(bool(alarms(study)) for _ in range(AUDITS)) <= MOST_ALARMS


def test_the_lower_bound_comes_near_the_claim_and_stays_below(claiming_study: ClaimingStudy) -> None:
    study = claiming_study(noise=0.7, rate=0.5, rounds=10)
    claim = claim_of(study)
    evidence = collect(study, random=SystemRandom(), budget_seconds=0.0, effort=FULL)
    (bound,) = assess(evidence, study, claim, compose_all=True).bounds
    assert 0.8 * claim.epsilon < bound.lower_bound
    assert bound.lower_bound < claim.epsilon * 1.02
    assert bound.rate <= 0.51


def test_findings_say_what_was_looked_at(claiming_study: ClaimingStudy) -> None:
    study = claiming_study(rounds=20)
    found = mechanism_audit(study, random=SystemRandom(), budget_seconds=0.0, caught=CAUGHT, effort=QUICK)
    assert [finding.tier for finding in found] == [Tier.MECHANISM] * 7
    assert {finding.verdict for finding in found} <= {Verdict.CONSISTENT, Verdict.VIOLATED}
    assert found[0].lower_bound is not None
    assert found[0].ceiling is not None
    assert found[0].curve is not None
    assert found[0].claim == claim_of(study)
    assert "no noise at all: all of them." in found[-1].words
    assert [Finding.from_mapping(finding.to_mapping()) for finding in found] == list(found)


def test_there_is_one_bound_for_each_thing_that_an_opponent_sees(claiming_study: ClaimingStudy) -> None:
    study = claiming_study(**SUM)
    found = mechanism_audit(study, random=SystemRandom(), budget_seconds=0.0, caught=CAUGHT, effort=QUICK)
    subjects = [finding.subject for finding in found if finding.lower_bound is not None]
    assert subjects == ["tiny: the opened sum", "tiny: the sum less what colluders know"]


@pytest.mark.parametrize("caught", [MISSED, ()], ids=["missed", "none audited"])
def test_nothing_is_concluded_where_a_broken_twin_was_missed(
    claiming_study: ClaimingStudy, caught: tuple[Caught, ...]
) -> None:
    study = claiming_study()
    found = mechanism_audit(study, random=SystemRandom(), budget_seconds=0.0, caught=caught, effort=QUICK)
    assert {finding.verdict for finding in found} == {Verdict.NO_VERDICT}
    assert not caught or "noise times 0.5: NOT CAUGHT." in found[-1].words


def test_broken_twins_in_lines() -> None:
    assert table(MISSED) == ("no noise at all: all of them", "noise times 0.5: NOT CAUGHT")


def test_too_few_canaries_are_called_too_few(claiming_study: ClaimingStudy) -> None:
    # At this claim even a twin without noise could not be told from the right one by a handful of canaries.
    study = claiming_study(noise=0.4, rate=0.2, rounds=40)
    few = Effort(rounds=2, canaries=60)
    found = mechanism_audit(study, random=SystemRandom(), budget_seconds=0.0, caught=CAUGHT, effort=few)
    assert found[0].verdict is Verdict.UNDERPOWERED
    assert found[0].needed is not None
    assert found[0].canaries < found[0].needed < 100 * found[0].canaries


def test_a_broken_mechanism_is_called_violated_in_plain_words(
    claiming_study: ClaimingStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = next(mutant.parts for mutant in MUTANTS if mutant.name == "noise times 0.5")
    monkeypatch.setattr("simulations.audit.mechanism.audit.HONEST", parts)
    study = claiming_study(unit="person")
    found = mechanism_audit(study, random=SystemRandom(), budget_seconds=0.0, caught=CAUGHT, effort=QUICK)
    bound, size = found[0], found[1]
    assert bound.verdict is size.verdict is Verdict.VIOLATED
    assert bound.lower_bound is not None
    assert bound.lower_bound > claim_of(study).epsilon
    assert any(words.startswith("Does not hold: the noise has the planned size.") for words in size.words)
    assert any("An honest mechanism" in words for words in size.words)
    assert any("made-up person" in words for words in bound.words)
    text = " ".join(words for finding in found for words in finding.words)
    assert not [jargon for jargon in ("p =", "p-value", "inf ", "nan", "Clopper", "Holm") if jargon in text]


def test_a_twin_that_cannot_be_audited_is_not_caught(claiming_study: ClaimingStudy) -> None:
    study = claiming_study()
    found = audit_twin(
        study, claim_of(study), name="no sums", parts=Parts(trainer=Failing), random=SystemRandom(), effort=QUICK
    )
    assert found.tests == ()
    assert found.problem.startswith("could not be audited: Round 1 has 0 of 3")
    assert table([found])[0].startswith("no sums: NOT CAUGHT: it could not be audited")


def test_an_audit_that_breaks_off_has_no_verdict(
    claiming_study: ClaimingStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.audit.mechanism.audit.HONEST", Parts(trainer=Failing))
    first, twins = mechanism_audit(claiming_study(), random=SystemRandom(), budget_seconds=0.0, caught=CAUGHT)
    assert first.verdict is Verdict.NO_VERDICT
    assert any("Round 1 has 0 of 3" in words for words in first.words)
    assert twins.verdict is Verdict.CONSISTENT


def test_a_study_without_a_claim_is_not_audited(given_noise: Callable[..., Study], without_noise: Any) -> None:
    for study in (given_noise(0.0), without_noise()):
        with pytest.raises(PrivacyError, match="promises nothing"):
            catch_mutants(study, random=SystemRandom())
