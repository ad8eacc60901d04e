"""The attack on the weights of a release, by real records."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.audit.finding import Finding, Tier, Verdict
from protocol.errors import InputError, RecordsError
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from protocol.terms import Relation
from records.dataset import Records
from records.schema import Schema
from server.release import Release
from simulations.audit.model.pool import uniform_codes
from simulations.audit.model.release import ATTACKS, WITHOUT_PRIVACY, release_model_audit
from simulations.audit.release.audit import RIGHT_FILE
from simulations.federation import simulate

CARDINALITIES = (8, 7, 9, 6, 8, 10, 7, 8)
SIZE = 240


def make_study(**privacy: Any) -> Study:
    columns = [
        {"name": f"c{number}", "kind": "categorical", "categories": [f"v{code}" for code in range(count)]}
        for number, count in enumerate(CARDINALITIES)
    ]
    return Study.from_mapping(
        {
            "study": {"name": "told", "purpose": "A test."},
            "schema": {"columns": columns},
            "model": {"family": "vae", "options": {"latent": 1}},
            "training": {"rounds": 50},
            "privacy": {"sample_rate": 0.25, "delta": 1e-4} | privacy,
            "federation": {"sites": 2, "public_records": SIZE},
        }
    )


def records(count: int, seed: int, *, shifted: bool = False) -> Records:
    """Records without any law: whatever a model knows of one, it learnt from it."""
    codes = uniform_codes(CARDINALITIES, count, generator=np.random.default_rng(seed))
    if shifted:
        codes[:, 0] //= 2
    return Records(codes=codes, persons=None, schema=Schema.from_mapping(make_study(epsilon=1.0).schema))


REAL, HOLDOUT = records(SIZE, 0), records(2 * SIZE, 1)


def released(folder: Path, **privacy: Any) -> Release:
    parts = {f"site-{number + 1}": REAL.take(np.arange(number, SIZE, 2)) for number in range(2)}
    return simulate(make_study(**privacy), parts, release=folder / "release")


@pytest.fixture(scope="module")
def private(tmp_path_factory) -> Release:
    return released(tmp_path_factory.mktemp("private"), epsilon=0.5)


def audited(release: Release, **changes: Any) -> tuple[Finding, ...]:
    arguments = {"real": REAL, "holdout": HOLDOUT, "random": DeterministicRandom(0)} | changes
    return release_model_audit(release, **arguments).findings


@pytest.mark.slow
def test_a_release_that_breaks_its_promise_is_told_from_one_that_keeps_it(private, tmp_path):
    naked = released(tmp_path, noise_multiplier=0.0)
    audit = release_model_audit(private, real=REAL, holdout=HOLDOUT, random=DeterministicRandom(0))
    (twin,) = audit.broken_twins
    assert (twin.name, twin.caught_by, twin.required) == (WITHOUT_PRIVACY, ATTACKS, False)
    for finding in audit.findings:
        # Five per cent for both of them together.
        assert finding.attacked.confidence == pytest.approx(0.975)
        assert RIGHT_FILE in finding.words
        assert finding.tier is Tier.MODEL
        assert finding.claim.relation is Relation.REPLACE_ONE
        assert finding.canaries == SIZE
        assert finding.verdict is Verdict.CONSISTENT
        assert Finding.from_mapping(finding.to_mapping()) == finding
    for finding in audited(replace(private, model=naked.model)):
        assert finding.verdict is Verdict.VIOLATED
        assert finding.attacked.low > 0.6
        assert finding.control.low < 0.5 < finding.control.high
    # Nothing is claimed of it: it is held against what can be told without it.
    assert {finding.verdict for finding in audited(naked)} == {Verdict.VIOLATED}
    # Permuted roles: what the attack sees is membership, and nothing else.
    swapped = audited(replace(private, model=naked.model), real=records(SIZE, 2))
    assert Verdict.VIOLATED not in {finding.verdict for finding in swapped}
    # Which is also what a wrong file does, and nobody but the auditor can tell: the words have to say so.
    assert all(RIGHT_FILE in finding.words for finding in swapped)


def test_a_holdout_of_another_population_leaves_no_verdict(private):
    findings = audited(private, holdout=records(2 * SIZE, 1, shifted=True))
    assert {finding.verdict for finding in findings} == {Verdict.NO_VERDICT}
    assert "told apart" in findings[0].words[0]


def test_too_little_time_leaves_no_verdict(private):
    findings = audited(private, budget_seconds=0.01)
    assert [finding.attack for finding in findings] == list(ATTACKS)
    for finding in findings:
        assert finding.verdict is Verdict.NO_VERDICT
        assert "does not suffice" in finding.words[0]


def test_what_cannot_be_compared_is_refused(private):
    other = replace(Schema.from_mapping(make_study(epsilon=1.0).schema), target="c1")
    with pytest.raises(RecordsError):
        audited(private, holdout=replace(HOLDOUT, schema=other))
    with pytest.raises(RecordsError):
        audited(private, holdout=HOLDOUT.take(np.arange(5)))
    with pytest.raises(InputError):
        audited(private, budget_seconds=0.0)
