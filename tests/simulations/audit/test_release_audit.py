"""All attacks on a release: verdicts, failures, the control of the control, and a generator of the project."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.audit.finding import Claim, Finding, Tier, Verdict
from privacy.audit.release import nearest
from privacy.audit.release.domias import DOMIAS
from privacy.audit.release.linkability import LINKABILITY
from privacy.audit.release.singling_out import Reach, singling_out
from privacy.audit.release.tables import FEWEST_TARGETS
from protocol.errors import InputError, RecordsError, SchemaError
from protocol.study import Study
from protocol.terms import Relation, Unit
from records.dataset import Records
from records.schema import Schema
from simulations.audit.release import attacks as release_attacks
from simulations.audit.release.attacks import ReleaseAuditTerms, attack_tables, columns_of
from simulations.audit.release.audit import COPIER, RIGHT_FILE, ReleaseAudit, audit_release, claim_of
from simulations.federation import simulate

MAPPING: dict[str, Any] = {
    "target": "ill",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 59, "missing": True},
        {"name": "weight", "kind": "continuous", "lower": 40.0, "upper": 120.0, "bins": 16},
        {"name": "ward", "kind": "categorical", "categories": ["north", "south", "east"], "missing": True},
        {"name": "pain", "kind": "ordinal", "categories": ["none", "some", "much"]},
        {"name": "code", "kind": "categorical", "categories": [f"c{index}" for index in range(12)]},
        {"name": "ill", "kind": "boolean"},
        {"name": "pulse", "kind": "integer", "lower": 40, "upper": 139},
        {"name": "dose", "kind": "continuous", "lower": 0.0, "upper": 1.0, "bins": 32},
    ],
}
SCHEMA = Schema.from_mapping(MAPPING)
CLAIM = Claim(epsilon=1.0, delta=1e-5, relation=Relation.REPLACE_ONE)
TERMS = ReleaseAuditTerms(targets=250, crowd=250, predicates=300)


def draw(rows: int, generator: np.random.Generator, *, older: int = 0) -> np.ndarray:
    """Skewed columns that depend on each other."""
    age = np.minimum(generator.integers(0, 40, rows) + older, 39)
    weight = np.clip(age * 16 // 40 + generator.integers(-3, 4, rows), 0, 15)
    pain = np.clip(age // 14 + generator.integers(-1, 2, rows), 0, 2)
    ill = (age + 12 * pain + generator.normal(0, 8, rows) > 32).astype(int)
    ward = np.where(generator.random(rows) < 0.1, 3, np.minimum(generator.geometric(0.6, rows) - 1, 2))
    code = np.minimum(generator.geometric(0.3, rows) - 1, 11)
    known_age = np.where(generator.random(rows) < 0.1, 40, age)
    pulse = np.clip(generator.normal(35, 12, rows) + 10 * ill, 0, 99).astype(int)
    dose = np.clip(weight * 2 + generator.integers(-4, 5, rows), 0, 31)
    return np.stack([known_age, weight, ward, pain, code, ill, pulse, dose], axis=1).astype(np.int32)


def records(codes: np.ndarray, persons: np.ndarray | None = None) -> Records:
    return Records(codes=codes, persons=persons, schema=SCHEMA)


def audited(synthetic: np.ndarray, training: np.ndarray, held: np.ndarray, **change: Any) -> ReleaseAudit:
    arguments: dict[str, Any] = {
        "claim": CLAIM,
        "unit": Unit.RECORD,
        "subject": "a release",
        "terms": TERMS,
        "generator": np.random.default_rng(5),
    }
    return audit_release(synthetic, real=records(training), holdout=records(held), **(arguments | change))


@pytest.fixture
def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training records, a holdout, and an honest release of as many."""
    codes = draw(1300, np.random.default_rng(0))
    return codes[:400], codes[400:900], codes[900:]


def by_name(audit: ReleaseAudit) -> dict[str, Finding]:
    return {finding.attack: finding for finding in audit.findings}


def test_training_records_as_a_release_violate_the_claim(parts):
    training, held, _ = parts
    audit = audited(training, training, held)
    found = by_name(audit)
    assert len(found) == len(audit.findings) == 15
    assert all(finding.tier is Tier.RELEASE and finding.subject == "a release" for finding in audit.findings)
    violated = {name for name, finding in found.items() if finding.verdict is Verdict.VIOLATED}
    assert {DOMIAS, "nearest neighbour", LINKABILITY, "singling out, multivariate"} <= violated
    # The broken twin is just such a release.
    (twin,) = audit.broken_twins
    assert (twin.name, twin.required) == (COPIER, False)
    assert violated <= set(twin.caught_by) < set(found)
    assert found[DOMIAS].curve is not None
    assert found[DOMIAS].ceiling is not None
    assert found[DOMIAS].ceiling <= CLAIM.epsilon < found[DOMIAS].lower_bound
    assert audit.risks[LINKABILITY].low > 0.5
    assert audit.closeness.copies.value == TERMS.crowd / len(training)  # the others were not asked about
    assert audit.closeness.chance_copies.value == 0.0
    assert all(Finding.from_mapping(finding.to_mapping()) == finding for finding in audit.findings)


def test_an_honest_release_is_consistent_or_the_attack_is_underpowered(parts):
    training, held, honest = parts
    audit = audited(honest, training, held)
    found = by_name(audit)
    assert audit.is_comparable
    assert {finding.verdict for finding in audit.findings} <= {Verdict.CONSISTENT, Verdict.UNDERPOWERED}
    assert found[DOMIAS].verdict is Verdict.CONSISTENT
    assert found["singling out, univariate"].verdict is Verdict.UNDERPOWERED
    assert {found[name].verdict for name in audit.broken_twins[0].caught_by} == {Verdict.CONSISTENT}
    assert all(RIGHT_FILE in finding.words for finding in audit.findings)
    words = " ".join(found[LINKABILITY].words)
    assert "records that were in nothing" in words
    assert "The claim allows up to" in words
    assert " safe" not in words


def test_a_wrong_file_is_not_noticed_and_every_finding_says_so(parts):
    """The release is its training table, but other records of that table are given as trained on."""
    training, held, others = parts
    audit = audited(training, others, held)
    assert Verdict.VIOLATED not in {finding.verdict for finding in audit.findings}
    assert audit.is_comparable
    assert audit.broken_twins[0].caught_by
    assert all(RIGHT_FILE in finding.words for finding in audit.findings)


def test_few_targets_are_underpowered_and_say_how_many_would_do(parts):
    training, held, honest = parts
    terms = replace(TERMS, targets=8, crowd=8)
    found = by_name(audited(honest, training, held, terms=terms))
    assert found[DOMIAS].verdict is Verdict.UNDERPOWERED
    assert found[DOMIAS].needed is not None
    assert 8 < found[DOMIAS].needed < 200
    enough = replace(TERMS, targets=2 * found[DOMIAS].needed, crowd=2 * found[DOMIAS].needed)
    assert by_name(audited(honest, training, held, terms=enough))[DOMIAS].verdict is Verdict.CONSISTENT


def test_without_a_claim_attacks_are_held_against_baseline_and_control(parts):
    training, held, honest = parts
    leaky = by_name(audited(training, training, held, claim=None))
    assert leaky[DOMIAS].verdict is leaky[LINKABILITY].verdict is Verdict.VIOLATED
    assert leaky[DOMIAS].lower_bound is None
    assert leaky["singling out, multivariate"].verdict is Verdict.VIOLATED
    # Here the intervals decide: they share the error.
    assert {finding.attacked.confidence for finding in leaky.values()} == {1.0 - (1.0 - 0.95) / 15}
    assert by_name(audited(honest, training, held, claim=None))[DOMIAS].verdict is Verdict.CONSISTENT


def test_sentences_about_one_and_the_same_person_prove_nothing_by_their_number(parts):
    """One odd person is in the release, and nobody else: nearly all sentences that single out are about that one."""
    training, held, honest = parts
    training[0] = (0, 15, 3, 2, 11, 0, 99, 31)  # young, heavy, and so on
    few = np.concatenate([training[:1], honest[:1]])
    alone = attack_tables(
        few, real=records(training[:250]), holdout=records(held), unit=Unit.RECORD, terms=TERMS,
        generator=np.random.default_rng(5),
    )  # fmt: skip
    raw = singling_out(alone, reach=Reach.MULTIVARIATE, generator=np.random.default_rng(0), confidence=0.95)
    assert raw.attacked.low > max(raw.baseline.high, raw.control.high)  # as if each sentence told something new
    found = by_name(audited(few, training[:250], held, claim=None))["singling out, multivariate"]
    assert found.verdict is not Verdict.VIOLATED
    assert any("hang together" in sentence for sentence in found.words)


def test_the_same_seed_finds_the_same(parts):
    training, held, honest = parts
    once, again = (audited(honest, training, held).findings for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)


def test_a_holdout_from_elsewhere_gives_no_verdict(parts):
    """Older patients held out: every attack would find the training records younger, and call that a leak."""
    training, _, honest = parts
    older = draw(500, np.random.default_rng(1), older=12)
    audit = audited(honest, training, older)
    assert not audit.is_comparable
    assert {finding.verdict for finding in audit.findings} == {Verdict.NO_VERDICT}
    assert "told apart without the release" in audit.findings[0].words[0]


@pytest.mark.parametrize(
    "fault", [ZeroDivisionError("by zero"), IndexError("out of bounds"), InputError("a", remedy="b")]
)
def test_an_attack_that_raises_is_a_failed_audit(parts, monkeypatch, fault):
    def fails(*_args: object, **_options: object) -> None:
        raise fault

    training, held, honest = parts
    monkeypatch.setattr(release_attacks, "domias", fails)
    found = by_name(audited(honest, training, held))
    assert found[DOMIAS].verdict is Verdict.NO_VERDICT
    assert type(fault).__name__ in found[DOMIAS].words[0]
    assert found[LINKABILITY].verdict is Verdict.CONSISTENT


def test_scores_that_are_no_numbers_are_a_failed_audit(parts, monkeypatch):
    training, held, honest = parts
    monkeypatch.setattr(nearest, "_distance", lambda tables, _rows, _table: np.full(tables.pairs, np.nan))
    found = by_name(audited(honest, training, held))
    assert found[nearest.NEAREST].verdict is found[nearest.CALIBRATED].verdict is Verdict.NO_VERDICT
    assert found[DOMIAS].verdict is Verdict.CONSISTENT


def test_of_a_person_one_record_is_asked_about():
    codes = draw(400, np.random.default_rng(2))
    persons = np.repeat(np.arange(100), 4)
    of_persons = records(codes, persons)
    tables = attack_tables(
        codes,
        real=of_persons,
        holdout=of_persons,
        unit=Unit.PERSON,
        terms=TERMS,
        generator=np.random.default_rng(3),
    )
    assert tables.pairs == 50
    lone = attack_tables(
        codes, real=of_persons, holdout=of_persons, unit=Unit.RECORD, terms=TERMS, generator=np.random.default_rng(3)
    )
    assert lone.pairs == 200
    # 50 of 100 persons serve as controls, the others as reference: one record each.
    assert len(tables.reference) == 50


def test_controls_are_not_in_the_reference(parts):
    training, held, honest = parts
    numbered = held.copy()
    numbered[:, 0] = np.arange(len(held)) % 41
    numbered[:, 1] = np.arange(len(held)) // 41
    tables = attack_tables(
        honest,
        real=records(training),
        holdout=records(numbered),
        unit=Unit.RECORD,
        terms=TERMS,
        generator=np.random.default_rng(4),
    )
    asked, known = ({tuple(row[:2]) for row in table.tolist()} for table in (tables.controls, tables.reference))
    assert len(asked) + len(known) == len(held)
    assert not asked & known


def test_columns_are_ordered_where_codes_lie_on_a_line():
    assert columns_of(SCHEMA).ordered == (40, 16, 0, 3, 0, 0, 100, 32)
    assert columns_of(SCHEMA).cardinalities == (41, 16, 4, 3, 12, 2, 100, 32)


def test_what_cannot_be_audited_is_refused(parts):
    training, held, honest = parts
    with pytest.raises(RecordsError, match="held out"):
        audited(honest, training, held[: 2 * FEWEST_TARGETS])
    with pytest.raises(SchemaError, match="blood"):
        audited(honest, training, held, terms=replace(TERMS, secrets=("blood",)))
    with pytest.raises(SchemaError, match="blood"):
        audited(honest, training, held, terms=replace(TERMS, linked=(("age",), ("blood",))))
    with pytest.raises(RecordsError, match="synthetic"):
        audited(honest[:, :2], training, held)
    other = replace(SCHEMA, description="another")
    with pytest.raises(RecordsError, match="two schemas"):
        audit_release(
            honest,
            real=records(training),
            holdout=Records(codes=held, persons=None, schema=other),
            claim=CLAIM,
            unit=Unit.RECORD,
            subject="a release",
            terms=TERMS,
            generator=np.random.default_rng(0),
        )
    with pytest.raises(InputError, match="targets"):
        ReleaseAuditTerms(targets=1)
    with pytest.raises(InputError, match="confidence"):
        ReleaseAuditTerms(confidence=1.0)


@pytest.mark.slow
def test_a_private_generator_of_the_project_is_consistent(tiny_study: Callable[..., Study], tmp_path: Path) -> None:
    codes = draw(2400, np.random.default_rng(6))
    training, held = codes[:800], codes[800:]
    study = tiny_study(
        schema=MAPPING,
        training={"rounds": 20},
        privacy={"epsilon": 1.0, "delta": 1e-4, "sample_rate": 0.2},
        federation={"sites": 2, "public_records": 800},
    )
    release = simulate(
        study, {"a": records(training[:400]), "b": records(training[400:])}, release=tmp_path / "release"
    )
    synthetic = np.concatenate(list(release.sample_codes(800, allowed={}, seed=1)))
    claim = claim_of(release.statement)
    assert claim is not None
    assert claim.relation is Relation.REPLACE_ONE
    assert claim.epsilon == release.statement.replace_one.pld
    terms = replace(TERMS, targets=800, crowd=800)
    found = by_name(audited(synthetic, training, held, claim=claim, terms=terms))
    assert {finding.verdict for finding in found.values()} <= {Verdict.CONSISTENT, Verdict.UNDERPOWERED}
    assert found[DOMIAS].verdict is Verdict.CONSISTENT
    # The same claim for training records themselves does not pass.
    assert by_name(audited(training, training, held, claim=claim, terms=terms))[DOMIAS].verdict is Verdict.VIOLATED


def test_a_release_without_noise_claims_nothing(without_noise: Callable[..., Study], tmp_path: Path) -> None:
    study = without_noise(schema=MAPPING)
    halves = {"a": records(draw(30, np.random.default_rng(7))), "b": records(draw(30, np.random.default_rng(8)))}
    assert claim_of(simulate(study, halves, release=tmp_path / "release").statement) is None
