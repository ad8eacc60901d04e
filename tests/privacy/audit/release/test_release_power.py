"""What the attacks catch, how often, and how often they cry wolf.

Measured here with 200 pairs and 400 training records: a release that is its training records refutes a claim of
epsilon 1 (replace-one) in at least 90 of 100 runs with every attack but univariate singling-out, which needs a column
of many rare values; a release of which half is training records is refuted by DOMIAS in 85 of 100.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from privacy.audit.finding import Claim
from privacy.audit.release.attempt import Attempt
from privacy.audit.release.attribute_inference import attribute_inference
from privacy.audit.release.domias import DOMIAS, domias
from privacy.audit.release.linkability import linkability
from privacy.audit.release.nearest import nearest_neighbour
from privacy.audit.release.outliers import outliers
from privacy.audit.release.paired import lower_bound, would_refute
from privacy.audit.release.singling_out import Reach, attack_name, singling_out
from privacy.audit.release.tables import AttackTables, Columns
from privacy.audit.verdict import Measure
from protocol.terms import Relation

UNIVARIATE = attack_name(Reach.UNIVARIATE)
CLAIM = Claim(epsilon=1.0, delta=1e-5, relation=Relation.REPLACE_ONE)


def attempts(tables: AttackTables, seed: int) -> Iterator[Attempt]:
    """Every attack, on three secrets."""
    generator = np.random.default_rng(seed)
    yield domias(tables, confidence=0.95)
    yield from nearest_neighbour(tables, confidence=0.95)
    yield outliers(tables, confidence=0.95)
    for reach in Reach:
        yield singling_out(tables, reach=reach, generator=generator, confidence=0.95, most=300)
    halves = ((0, 2, 4, 6), (1, 3, 5, 7))
    yield linkability(tables, halves=halves, generator=generator, confidence=0.95)
    yield from attribute_inference(tables, secrets=(2, 6, 7), confidence=0.95)


def refuted(attempt: Attempt) -> bool:
    return would_refute(attempt.scores, attempt.scores.pairs, claim=CLAIM, confidence=0.95)


def test_a_release_of_training_records_is_caught_by_every_attack_that_should(make_tables):
    runs = [list(attempts(make_tables(seed, "copy"), seed)) for seed in range(8)]
    caught = {each[0].attack: np.mean([refuted(attempt) for attempt in each]) for each in zip(*runs, strict=True)}
    assert caught.pop(UNIVARIATE) == 0.0
    assert len(caught) == 9
    assert min(caught.values()) >= 0.75, caught


def test_half_a_release_of_training_records_is_caught_by_domias(make_tables):
    found = [domias(make_tables(seed, "half"), confidence=0.95) for seed in range(10)]
    assert sum(map(refuted, found)) >= 6
    assert all(attempt.attacked.low > max(attempt.baseline.high, 0.5) for attempt in found)


def test_univariate_singling_out_catches_copies_of_a_column_of_rare_values():
    generator = np.random.default_rng(1)
    columns = Columns(names=("money",), cardinalities=(50_000,), ordered=(50_000,))
    codes = generator.integers(0, 50_000, (1200, 1)).astype(np.int32)
    parts = {"members": codes[:400], "controls": codes[400:800], "reference": codes[800:]}
    for synthetic, leaks in ((codes[:400], True), (codes[800:], False)):
        tables = AttackTables(columns=columns, synthetic=synthetic, **parts)
        attempt = singling_out(tables, reach=Reach.UNIVARIATE, generator=generator, confidence=0.95)
        assert refuted(attempt) == leaks


@pytest.mark.slow
def test_honest_releases_raise_false_alarms_at_the_nominal_rate(make_tables):
    """An honest draw spends epsilon 0: any bound above it is an alarm; intervals must hold what is true."""
    runs = [list(attempts(make_tables(seed, "fresh"), seed)) for seed in range(100)]
    for each in zip(*runs, strict=True):
        bounds = [
            lower_bound(attempt.scores, delta=0.0, relation=Relation.REPLACE_ONE, confidence=0.95) for attempt in each
        ]
        missed = [not _holds_nothing(attempt) for attempt in each]
        assert sum(bound > 0.0 for bound in bounds) <= stats.binom.ppf(0.9999, len(each), 0.05), each[0].attack
        assert sum(missed) <= stats.binom.ppf(0.9999, len(each), 0.05), each[0].attack
        assert not any(map(refuted, each))


def _holds_nothing(attempt: Attempt) -> bool:
    """Whether the interval holds what is true of an honest release: no area above one half, no risk."""
    if attempt.risk is None:
        return attempt.attacked.low <= 0.5 <= attempt.attacked.high
    return attempt.risk.low <= 0.0 <= attempt.risk.high


def test_without_its_control_an_attack_calls_honest_releases_leaky(make_tables):
    """Broken twin: held against blind guesses alone, skewed columns that depend on each other look like leaks."""
    tables = [make_tables(seed, "fresh") for seed in range(10)]
    runs = [list(attempts(each, seed)) for seed, each in enumerate(tables)]
    rates = [each for each in zip(*runs, strict=True) if each[0].measure is Measure.HIT_RATE]
    without = {each[0].attack: sum(a.attacked.low > a.baseline.high for a in each) for each in rates}
    with_control = {each[0].attack: sum(a.attacked.low > a.control.high for a in each) for each in rates}
    assert without["linkability"] == 10
    assert without["attribute inference: g"] >= 8
    assert max(with_control.values()) <= 1


def test_targets_that_are_also_the_reference_make_an_honest_release_look_leaky(make_tables):
    """Broken twin: a reference that holds the controls makes them look common, and members stand out for nothing."""
    fresh = make_tables(0, "fresh")
    spoilt = AttackTables(
        columns=fresh.columns,
        synthetic=fresh.synthetic,
        members=fresh.members,
        controls=fresh.controls,
        reference=fresh.controls,
    )
    assert not refuted(domias(fresh, confidence=0.95))
    assert domias(fresh, confidence=0.95).attacked.low <= 0.5
    broken = domias(spoilt, confidence=0.95)
    assert broken.attack == DOMIAS
    assert broken.attacked.low > 0.6
