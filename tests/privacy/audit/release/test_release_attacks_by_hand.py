"""Each attack on a handful of records, solved by hand."""

import numpy as np
import pytest

from privacy.audit.release.attempt import risk
from privacy.audit.release.attribute_inference import attribute_inference
from privacy.audit.release.linkability import linkability, random_halves
from privacy.audit.release.nearest import closeness, nearest_neighbour
from privacy.audit.release.outliers import outliers
from privacy.audit.release.singling_out import Condition, Reach, _multivariate, _univariate, singling_out
from privacy.audit.release.tables import AttackTables, Columns
from protocol.errors import InputError


def tables(columns, synthetic, members, controls, reference=None) -> AttackTables:
    table = {"synthetic": synthetic, "members": members, "controls": controls, "reference": reference or members}
    return AttackTables(columns=columns, **{name: np.array(rows, dtype=np.int32) for name, rows in table.items()})


FOUR_NAMES = Columns(names=("a", "b", "c", "d"), cardinalities=(4, 4, 4, 4), ordered=(0, 0, 0, 0))
DIAGONAL = [[k, k, k, k] for k in range(4)]


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_nearest_neighbour():
    """Three members are in the release and one is a column away; the controls are 1, 2, 3 and 4 columns away."""
    columns = FOUR_NAMES
    members = [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 0]]
    controls = [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 2, 3], [0, 1, 3, 2]]
    plain, calibrated = nearest_neighbour(tables(columns, DIAGONAL, members, controls, controls), confidence=0.95)
    # Distances 0 0 0 1 against 1 2 3 3: of 16 comparisons 15 are won and one is a tie.
    assert plain.attacked.value == 15.5 / 16
    # Members are a column or more from the reference, which here is the controls themselves: all comparisons are won.
    assert calibrated.attacked.value == 1.0
    assert plain.scores.members.tolist() == [0, 0, 0, -(1 << 20)]


def test_closeness_counts_copies_and_those_of_chance():
    found = closeness(
        tables(FOUR_NAMES, DIAGONAL, DIAGONAL[:2] * 2, [[0, 0, 0, 0], [0, 0, 1, 1], [3, 3, 0, 0], [1, 2, 3, 0]]),
        confidence=0.95,
        most_rows=4,
    )
    assert (found.copies.value, found.chance_copies.value) == (0.5, 0.25)
    # Nearest member: 0 0 4 4 columns away; nearest control: 0, 2, 3, 2.
    assert (found.median, found.chance_median) == (2.0, 2.0)


def test_linkability():
    """Members lie whole in the release; a control's two halves come from two of its records."""
    controls = [[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3], [3, 3, 0, 0]]
    attempt = linkability(
        tables(FOUR_NAMES, DIAGONAL, DIAGONAL, controls),
        halves=((0, 1), (2, 3)),
        generator=generator(),
        confidence=0.95,
        neighbours=1,
    )
    assert (attempt.attacked.value, attempt.control.value) == (1.0, 0.0)
    assert attempt.scores.members.tolist() == [1, 1, 1, 1]
    assert attempt.risk is not None
    assert attempt.risk.value == 1.0


def test_linkability_does_not_win_by_the_order_of_ties():
    """A release of equal records has everybody's halves in every list of ties; ties are broken anew for each half."""
    columns, same = FOUR_NAMES, [[0, 0, 0, 0]] * 400
    attempt = linkability(
        tables(columns, same, same, same), halves=((0, 1), (2, 3)), generator=generator(), confidence=0.95, neighbours=1
    )
    assert attempt.attacked.value == attempt.control.value  # one order for all targets: a coin of one in 400
    wide = linkability(
        tables(columns, same, same, same), halves=((0,), (3,)), generator=generator(), confidence=0.95, neighbours=400
    )
    assert wide.attacked.value == wide.baseline.value == 1.0
    assert wide.risk is not None
    assert wide.risk.value == 0.0


def test_linkability_needs_two_halves():
    four = tables(FOUR_NAMES, DIAGONAL, DIAGONAL, DIAGONAL)
    for halves in [((0,), ()), ((0, 1), (1, 2))]:
        with pytest.raises(InputError, match="halves"):
            linkability(four, halves=halves, generator=generator(), confidence=0.95)
    assert [sorted(first + second) for first, second in [random_halves(5, generator=generator())]] == [[0, 1, 2, 3, 4]]
    with pytest.raises(InputError, match="one column"):
        random_halves(1, generator=generator())


def test_attribute_inference():
    """The secret d is guessed from a, b and c: right for two of four members, for no control, blindly for one."""
    members = [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 0], [3, 3, 3, 0]]
    controls = [[0, 0, 0, 3], [1, 1, 1, 3], [2, 2, 2, 3], [3, 3, 3, 0]]
    reference = [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 3]]
    (attempt,) = attribute_inference(
        tables(FOUR_NAMES, DIAGONAL, members, controls, reference), secrets=(3,), confidence=0.95
    )
    assert (attempt.attacked.value, attempt.control.value, attempt.baseline.value) == (0.5, 0.0, 0.25)
    assert attempt.attack == "attribute inference: d"


def test_attribute_inference_takes_the_commonest_of_equally_near_records():
    columns = Columns(names=("a", "s"), cardinalities=(2, 3), ordered=(0, 0))
    synthetic = [[0, 2], [0, 1], [0, 2], [1, 0]]
    (attempt,) = attribute_inference(
        tables(columns, synthetic, [[0, 2], [1, 0]], [[0, 1], [1, 1]]), secrets=(1,), confidence=0.95
    )
    assert (attempt.attacked.value, attempt.control.value) == (1.0, 0.0)


def test_an_ordered_secret_is_hit_when_it_is_near_and_missing_only_when_it_is_missing():
    columns = Columns(names=("a", "age"), cardinalities=(2, 42), ordered=(0, 41))  # 41 means missing; 2 is five percent
    synthetic = [[0, 38], [1, 41]]
    (near,) = attribute_inference(
        tables(columns, synthetic, [[0, 40], [1, 41]], [[0, 41], [1, 40]]), secrets=(1,), confidence=0.95
    )
    assert (near.attacked.value, near.control.value) == (1.0, 0.0)
    (far,) = attribute_inference(
        tables(columns, synthetic, [[0, 35], [0, 36]], [[0, 35], [1, 39]]), secrets=(1,), confidence=0.95
    )
    assert far.scores.members.tolist() == [0, 1]
    assert far.control.value == 0.0


def test_attribute_inference_refuses_what_cannot_be_asked():
    one = Columns(names=("a",), cardinalities=(4,), ordered=(0,))
    with pytest.raises(InputError, match="one column"):
        attribute_inference(tables(one, [[0]], [[0], [1]], [[0], [1]]), secrets=(0,), confidence=0.95)
    four = tables(FOUR_NAMES, DIAGONAL, DIAGONAL, DIAGONAL)
    with pytest.raises(InputError, match="twice"):
        attribute_inference(four, secrets=(1, 1), confidence=0.95)


def test_univariate_singling_out():
    """One record has a = 3, and the lowest and the highest age occur once."""
    columns = Columns(names=("a", "age"), cardinalities=(4, 11), ordered=(0, 10))
    synthetic = [[0, 2], [0, 5], [0, 5], [3, 8]]
    members = [[3, 2], [0, 5], [0, 5], [0, 1]]
    controls = [[0, 5], [0, 5], [0, 9], [0, 9]]
    four = tables(columns, synthetic, members, controls)
    found = set(_univariate(four, 99, generator()))
    assert found == {
        (Condition(column=0, low=3, high=3),),
        (Condition(column=1, low=2, high=2),),
        (Condition(column=1, low=8, high=8),),
        (Condition(column=1, low=0, high=2),),
        (Condition(column=1, low=8, high=9),),
    }
    attempt = singling_out(four, reach=Reach.UNIVARIATE, generator=generator(), confidence=0.95)
    # Of the members exactly one has a = 3, exactly one age 2; two are at most 2. No control is alone with anything.
    assert (attempt.attacked.value, attempt.control.value) == (0.4, 0.0)
    assert attempt.scores.members.tolist() == [2, 0, 0, 0]
    assert not attempt.scores.controls.any()


def test_no_predicate_is_no_success_and_no_failure():
    same = [[0, 0, 0, 0]] * 4
    attempt = singling_out(
        tables(FOUR_NAMES, same, DIAGONAL, DIAGONAL), reach=Reach.UNIVARIATE, generator=generator(), confidence=0.95
    )
    assert (attempt.attacked.low, attempt.attacked.high) == (0.0, 1.0)
    assert not attempt.scores.members.any()


def test_predicates_are_true_of_one_synthetic_record_and_of_the_rows_that_a_slow_reading_finds(make_tables):
    four = make_tables(3, "copy", pairs=50, trained=60)
    predicates = _multivariate(four, 40, generator())
    assert len(set(predicates)) == len(predicates) == 40
    for predicate in predicates:
        columns = [condition.column for condition in predicate]
        assert len(set(columns)) == len(columns) >= 2
        slow = [all(c.low <= row[c.column] <= c.high for c in predicate) for row in four.synthetic]
        assert sum(slow) == 1


def test_multivariate_singling_out_finds_those_who_are_in_the_release(make_tables):
    four = make_tables(3, "copy", pairs=50, trained=60)
    attempt = singling_out(four, reach=Reach.MULTIVARIATE, generator=generator(), confidence=0.95, most=200)
    assert attempt.attacked.low > attempt.control.high
    assert attempt.scores.members.sum() > 4 * attempt.scores.controls.sum()


def test_outliers():
    """Two of eight targets are rare: the member comes back with one column wrong, the control does not."""
    usual = [[0, 0, 0, 0]]
    members = [[3, 3, 3, 3], *usual * 3]
    controls = [[2, 2, 2, 2], *usual * 3]
    attempt = outliers(
        tables(FOUR_NAMES, [*usual * 3, [3, 3, 3, 0]], members, controls, usual * 40), confidence=0.95, rarest=0.25
    )
    assert (attempt.attacked.value, attempt.control.value, attempt.baseline.value) == (1.0, 0.0, 0.0)
    assert attempt.scores.members.tolist() == [1, 0, 0, 0]
    exact = outliers(
        tables(FOUR_NAMES, [*usual * 3, [3, 3, 3, 3]], members, controls, usual * 40), confidence=0.95, rarest=0.25
    )
    assert exact.scores.members.tolist() == [2, 0, 0, 0]
    assert "Of 1 of the rarest training records 1 come back" in exact.words[0]


def test_risk_by_hand_and_at_its_ends():
    half = risk((60, 100), (20, 100), confidence=0.95)
    assert half.value == pytest.approx(0.5)
    assert 0.33 < half.low < 0.37
    assert 0.61 < half.high < 0.65
    assert risk((10, 10), (10, 10), confidence=0.95).value == 0.0
    assert risk((0, 10), (10, 10), confidence=0.95).low == -1.0
    nothing = risk((0, 0), (0, 0), confidence=0.95)
    assert (nothing.low, nothing.high) == (-1.0, 1.0)
    with pytest.raises(InputError, match="confidence"):
        risk((1, 2), (1, 2), confidence=2.0)


@pytest.mark.parametrize(("attacked", "control"), [(0.1, 0.1), (0.6, 0.2), (0.97, 0.9)])
def test_risk_covers(attacked, control):
    generator = np.random.default_rng(9)
    true = (attacked - control) / (1.0 - control)
    drawn = zip(
        generator.binomial(400, attacked, 600).tolist(), generator.binomial(400, control, 600).tolist(), strict=True
    )
    found = [risk((hits, 400), (others, 400), confidence=0.95) for hits, others in drawn]
    assert np.mean([each.low <= true <= each.high for each in found]) >= 0.95
    # A risk twice as far from one is not covered: the interval is not merely wide.
    assert np.mean([each.low <= 1.0 - 2.0 * (1.0 - true) <= each.high for each in found]) < 0.9
