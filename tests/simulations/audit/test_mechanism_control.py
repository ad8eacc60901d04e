"""Controls that can fail: an attack that sees nothing concludes nothing, and no broken twin is caught by accident."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import perf.audit
from privacy.audit.finding import Claim, Finding, Verdict
from privacy.audit.mechanism.canaries import Canaries
from privacy.audit.mechanism.residuals import Property
from privacy.audit.mechanism.step_bound import expected_bound
from protocol.randomness import SystemRandom
from protocol.study import Study
from simulations.audit.mechanism import audit, mutants
from simulations.audit.mechanism.assessment import KIND_SHARES, LOWER_BOUND, Assessment, assess
from simulations.audit.mechanism.audit import QUICK, Caught, audit_twin, catch_mutants, claim_of, mechanism_audit, table
from simulations.audit.mechanism.catching import CAUGHT_BY, convincing
from simulations.audit.mechanism.control import positive_control
from simulations.audit.mechanism.evidence import Effort, Evidence, gather
from simulations.audit.mechanism.findings import bound_findings
from simulations.audit.mechanism.mutants import CONTROL, MUTANTS
from simulations.audit.mechanism.twin import HONEST, Parts

ClaimingStudy = Callable[..., Study]
CAUGHT = (Caught(mutant="a twin", tests=("a test",), seconds=1.0, processor_seconds=1.0),)
SMALL = Effort(rounds=4, canaries=120)
SUM: dict[str, Any] = {"trust": "sum", "sites": 5, "dropouts": 1, "colluders": 1}
PARTS = {mutant.name: mutant.parts for mutant in MUTANTS}


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every score be noise, whoever was in a step."""
    generator = np.random.default_rng(0)

    def scores(canaries: Canaries, releases: np.ndarray) -> np.ndarray:
        return generator.normal(0.0, 1.5, (len(releases), len(canaries)))

    monkeypatch.setattr(Canaries, "scores", scores)


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Parts, Effort]]:
    """The runs that audits make, as they are made."""
    made: list[tuple[Parts, Effort]] = []

    def counted(study: Study, parts: Parts, *, effort: Effort, random: Any) -> Evidence:
        made.append((parts, effort))
        return gather(study, parts, effort=effort, random=random)

    monkeypatch.setattr(audit, "gather", counted)
    return made


def audited(study: Study, *, caught: tuple[Caught, ...] = CAUGHT, effort: Effort = SMALL, **options: Any) -> Finding:
    """The first bound of a short audit."""
    return mechanism_audit(
        study, random=SystemRandom(), budget_seconds=0.0, caught=caught, effort=effort, **options
    )[0]  # fmt: skip


def roomy(study: Study) -> Claim:
    """A claim with so much room that a right twin keeps it in every run of these tests, not in most."""
    claim = claim_of(study)
    return replace(claim, epsilon=1.3 * claim.epsilon)


def assessed(study: Study, change: Callable[[Evidence], None] = lambda _: None) -> Assessment:
    """What is concluded from the right twin, whose evidence may be changed."""
    evidence = gather(study, HONEST, effort=SMALL, random=SystemRandom())
    change(evidence)
    return assess(evidence, study, roomy(study), compose_all=True)


def found_in(assessment: Assessment, study: Study) -> Finding:
    return next(iter(bound_findings(assessment, study, missed=(), seconds=1.0)))


@pytest.mark.usefixtures("blind")
def test_an_attack_that_sees_nothing_is_never_called_consistent(claiming_study: ClaimingStudy) -> None:
    study = claiming_study()
    found = audited(study)
    assert found.lower_bound is not None
    assert found.lower_bound < 0.1 * claim_of(study).epsilon
    assert found.verdict is Verdict.UNDERPOWERED
    assert not any("does contradict it" in words for words in found.words)
    assert any("By the same attack on its sums" in words for words in found.words)


@pytest.mark.usefixtures("blind")
def test_nor_is_it_where_the_broken_twins_were_audited_blindly_before(claiming_study: ClaimingStudy) -> None:
    study = claiming_study()
    caught = (*CAUGHT, *catch_mutants(study, random=SystemRandom(), names=[CONTROL.name], effort=SMALL))
    assert audited(study, caught=caught).verdict in {Verdict.UNDERPOWERED, Verdict.NO_VERDICT}


def test_a_bound_without_a_control_is_underpowered(claiming_study: ClaimingStudy) -> None:
    study = claiming_study()
    assert found_in(assessed(study), study).verdict is Verdict.UNDERPOWERED


def test_the_positive_control_is_run_and_runs_no_more_than_once(
    claiming_study: ClaimingStudy, gathered: list[tuple[Parts, Effort]]
) -> None:
    study = claiming_study()
    found = audited(study, claim=roomy(study))
    assert found.verdict is Verdict.CONSISTENT
    assert any("does contradict it on a twin without privacy" in words for words in found.words)
    assert [parts for parts, _ in gathered] == [HONEST, CONTROL.parts]
    gathered.clear()
    (kept,) = catch_mutants(study, random=SystemRandom(), names=[CONTROL.name], effort=SMALL)
    assert audited(study, caught=(kept,), claim=roomy(study)).verdict is Verdict.CONSISTENT
    assert [parts for parts, _ in gathered] == [CONTROL.parts, HONEST], "what the broken twin showed is scored again"


def test_a_control_that_was_too_short_is_run_at_full_length(
    claiming_study: ClaimingStudy, gathered: list[tuple[Parts, Effort]]
) -> None:
    study = claiming_study(noise=0.4, rounds=40)
    (short,) = catch_mutants(study, random=SystemRandom(), names=[CONTROL.name], effort=Effort(rounds=2, canaries=60))
    gathered.clear()
    found = audited(study, caught=(*CAUGHT, short), effort=QUICK, claim=roomy(study))
    assert gathered == [(HONEST, QUICK), (CONTROL.parts, QUICK)]
    assert found.verdict is Verdict.CONSISTENT


def test_the_control_has_no_more_canaries_than_the_subject(claiming_study: ClaimingStudy) -> None:
    study = claiming_study()
    (bound,) = assessed(study).bounds
    large = assess(gather(study, CONTROL.parts, effort=QUICK, random=SystemRandom()), study, roomy(study))
    control = positive_control(bound, large.bounds)
    assert control is not None
    assert control.complete
    assert control.contradicts
    assert (control.step.present, control.step.absent) == (len(bound.present), len(bound.absent))
    assert large.bounds[0].number > bound.number
    assert control.grows(bound.number) == pytest.approx(control.shown.lower_bound, rel=0.05)
    assert positive_control(bound, ()) is None


def test_the_negative_control_fails_where_scores_follow_the_coins(claiming_study: ClaimingStudy) -> None:
    study = claiming_study()

    def leak(evidence: Evidence) -> None:
        for key, views in evidence.views.items():
            evidence.views[key] = [replace(view, scores=view.scores + 9.0 * view.counts) for view in views]

    honest, leaking = (found_in(assessed(study, change), study) for change in (lambda _: None, leak))
    assert honest.control is not None
    assert leaking.control is not None
    assert abs(honest.control.value - 0.5) < 0.2
    assert leaking.control.low > 0.6
    assert leaking.verdict is Verdict.VIOLATED


def test_the_claim_may_be_that_of_a_release(claiming_study: ClaimingStudy) -> None:
    study = claiming_study(noise=0.7, rate=0.5, rounds=10)
    own = claim_of(study)
    strict = replace(own, epsilon=0.2 * own.epsilon)
    assert audited(study, claim=roomy(study), effort=QUICK).verdict is Verdict.CONSISTENT
    found = audited(study, claim=strict, effort=QUICK)
    assert found.claim == strict
    assert found.verdict is Verdict.VIOLATED
    tests = audit_twin(study, strict, name="right", parts=HONEST, random=SystemRandom()).tests
    assert any(test.startswith(LOWER_BOUND) for test in tests), "a stricter claim is composed, not skipped"
    without = audit_twin(study, name="no noise", parts=CONTROL.parts, random=SystemRandom(), effort=SMALL)
    assert {bound.claim for bound in without.control} == {own}, "the study's, where none is given"


def test_every_broken_twin_has_a_test_that_is_there_for_it() -> None:
    assert set(CAUGHT_BY) == {mutant.name for mutant in MUTANTS}
    known = {LOWER_BOUND, *map(str, Property)}
    assert all(names and set(map(str, names)) <= known for names in CAUGHT_BY.values())
    assert not convincing((), ())
    assert convincing(("anything",), ())
    assert not convincing(("the noise is Gaussian",), (LOWER_BOUND,))
    assert convincing((f"{LOWER_BOUND} from what one site sends",), (LOWER_BOUND,))


def test_a_broken_twin_is_not_caught_by_what_another_defect_sets_off(
    claiming_study: ClaimingStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutants.Mutant(name="wrong sampling rate", parts=PARTS["more noise than was said"])
    monkeypatch.setattr(mutants, "MUTANTS", (wrong,))
    study = claiming_study()
    (caught,) = catch_mutants(study, random=SystemRandom(), effort=SMALL)
    assert caught.tests == ()
    assert "only by: " in caught.problem
    assert Property.SCALE in caught.problem
    (line,) = table([caught])
    assert line.startswith("wrong sampling rate: NOT CAUGHT: it was not caught by the test that is there for it")
    assert audited(study, caught=(caught,)).verdict is Verdict.NO_VERDICT


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.9])
def test_a_wrong_sampling_rate_is_seen_in_the_coins_alone(claiming_study: ClaimingStudy, rate: float) -> None:
    (caught,) = catch_mutants(claiming_study(rate=rate), random=SystemRandom(), names=["wrong sampling rate"])
    assert Property.RATE in caught.tests
    assert not {Property.BOUND, Property.ALONE} & set(caught.tests)


def test_words_say_where_seldom_drawn_units_were_looked_at(claiming_study: ClaimingStudy) -> None:
    for rate, said in ((0.01, True), (0.2, False)):
        found = mechanism_audit(
            claiming_study(rate=rate), random=SystemRandom(), budget_seconds=0.0, caught=CAUGHT, effort=SMALL
        )
        for finding in (found[0], found[1], found[-1]):
            assert any("runs in which the rate is 0.05 instead" in words for words in finding.words) is said


@pytest.mark.parametrize(
    ("choice", "missing"),
    [
        ({}, ["what one site sends"]),
        (SUM, ["the opened sum", "the sum less what colluders know"]),
    ],
    ids=["none", "sum"],
)
def test_a_view_that_vanishes_is_named(
    claiming_study: ClaimingStudy, choice: dict[str, Any], missing: list[str]
) -> None:
    study = claiming_study(strategy="updates", **choice)
    bounded = replace(study, training=replace(study.training, update_norm=0.01))
    for each, expected in ((study, []), (bounded, missing)):
        found = mechanism_audit(each, random=SystemRandom(), budget_seconds=0.0, caught=CAUGHT, effort=SMALL)
        leaves = next(finding for finding in found if finding.attack.startswith("what leaves"))
        for finding in (found[0], leaves):
            said = [words for words in finding.words if words.startswith("NOT LOOKED AT every time: ")]
            assert [words.split(": ")[1].split(". ")[0] for words in said] == expected
            assert all("does not include it" in words for words in said)


def test_a_view_that_vanishes_now_and_then_is_counted(claiming_study: ClaimingStudy) -> None:
    study = claiming_study(strategy="updates")
    assessment = assessed(study, lambda evidence: evidence.unseen.update(["what one site sends"] * 2))
    assert assessment.unseen == {"what one site sends": (2, 6)}
    assert any("NOT LOOKED AT in 2 of 8 cases" in words for words in found_in(assessment, study).words)


def test_the_ceiling_is_what_is_typical_and_luck_may_pass_it(claiming_study: ClaimingStudy) -> None:
    study = claiming_study(noise=0.7, rate=0.5, rounds=10)

    def lucky(evidence: Evidence) -> None:
        for key, views in evidence.views.items():
            # Scores that happen to lie nearer to what is expected of them.
            evidence.views[key] = [
                replace(view, scores=view.counts + 0.6 * (view.scores - view.counts)) for view in views
            ]

    (bound,) = assessed(study, lucky).bounds
    typical = expected_bound(
        noise=0.7,
        present=len(bound.present),
        absent=len(bound.absent),
        error=bound.error * KIND_SHARES[bound.best],
        steps=1,
    )
    assert bound.ceiling == min(bound.composed(typical), bound.claim.epsilon)
    assert bound.ceiling < bound.lower_bound
    found = found_in(assessed(study), study)
    assert any("A lower bound above the ceiling is luck" in words for words in found.words)


def test_the_rate_of_false_alarms_says_of_which_audits_it_is() -> None:
    assert perf.audit.__doc__ is not None
    text = perf.audit.__doc__.split("``false_alarm_rate``")[1]
    assert "QUICK audits of the mechanism" in text
    assert "nor of audits of a model, a release or a channel" in " ".join(text.split())
