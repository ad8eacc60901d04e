"""The density of records, against its definition written out, and DOMIAS by hand."""

import itertools

import numpy as np
import pytest

from privacy.audit.release import density
from privacy.audit.release.density import BANDWIDTHS, Population
from privacy.audit.release.domias import domias, shift
from privacy.audit.release.tables import AttackTables, Columns
from protocol.errors import RecordsError

SMALL = Columns(names=("age", "ward", "dose"), cardinalities=(5, 3, 4), ordered=(4, 0, 4))
EVERY = np.array(list(itertools.product(range(5), range(3), range(4))), dtype=np.int32)


def small_table(rows: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.stack([generator.integers(0, size, rows) for size in SMALL.cardinalities], axis=1).astype(np.int32)


def slow_density(population: Population, row: np.ndarray, table: np.ndarray) -> float:
    """Mean over the table of the product over the columns of what the kernel says, cell by cell."""
    total = 0.0
    for record in table:
        product = 1.0
        for j, (x, y) in enumerate(zip(row, record, strict=True)):
            histogram, ordered = population.histograms[j], SMALL.ordered[j]
            stays = float(x == y)
            if ordered > 1 and y < ordered:
                bell = [
                    np.exp(-abs(cell - int(y)) / max(1.0, 0.05 * ordered)) * histogram[cell] for cell in range(ordered)
                ]
                near = bell[x] / sum(bell) if x < ordered else 0.0
                stays = 0.5 * stays + 0.5 * near
            product *= population.bandwidth * histogram[x] + (1.0 - population.bandwidth) * stays
        total += product
    return total / len(table)


def test_density_sums_to_one_over_all_records():
    population = Population.learn(SMALL, small_table(40, 0))
    total = np.exp(population.log_density(EVERY, small_table(7, 1))).sum()
    assert total == pytest.approx(1.0, abs=1e-5)


def test_density_is_its_definition():
    table = small_table(9, 2)
    population = Population.learn(SMALL, small_table(40, 0))
    found = np.exp(population.log_density(EVERY, table))
    np.testing.assert_allclose(found, [slow_density(population, row, table) for row in EVERY], rtol=1e-4)


def test_bandwidth_is_that_of_the_best_density_of_left_out_records():
    reference = np.repeat(small_table(4, 3), 5, axis=0)  # everything recurs: little should be drawn anew
    learnt = Population.learn(SMALL, reference)

    def likelihood(bandwidth: float) -> float:
        population = Population(columns=SMALL, histograms=learnt.histograms, near=learnt.near, bandwidth=bandwidth)
        left = [np.delete(reference, row, axis=0) for row in range(len(reference))]
        return sum(np.log(slow_density(population, row, rest)) for row, rest in zip(reference, left, strict=True))

    assert learnt.bandwidth == max(BANDWIDTHS, key=likelihood) == min(BANDWIDTHS)
    assert Population.learn(SMALL, small_table(60, 4)).bandwidth > min(BANDWIDTHS)


def test_many_cells_are_joined_in_order_and_missing_stays_apart(monkeypatch):
    monkeypatch.setattr(density, "MOST_CELLS", 4)
    columns = Columns(names=("money",), cardinalities=(9,), ordered=(8,))
    population = Population.learn(columns, np.arange(9, dtype=np.int32)[:, None])
    assert len(population.histograms[0]) == 5
    found = population.log_density(np.arange(9, dtype=np.int32)[:, None], np.array([[2]], dtype=np.int32))
    assert found[2] == found[3] > found[1] == found[0]
    assert found[5] == found[4] > found[8]


def test_one_record_teaches_nothing():
    with pytest.raises(RecordsError, match="fewer than two"):
        Population.learn(SMALL, small_table(1, 0))


def four_pairs(synthetic) -> AttackTables:
    return AttackTables(
        columns=Columns(names=("a",), cardinalities=(2,), ordered=(0,)),
        synthetic=np.array(synthetic, dtype=np.int32)[:, None],
        members=np.zeros((4, 1), dtype=np.int32),
        controls=np.ones((4, 1), dtype=np.int32),
        reference=np.array([[0], [1], [0], [1]], dtype=np.int32),
    )


@pytest.mark.parametrize(("synthetic", "area"), [([0, 0, 0, 1], 1.0), ([1, 1, 1, 0], 0.0), ([0, 1, 0, 1], 0.5)])
def test_domias_by_hand(synthetic, area):
    """Members are all 0, controls all 1, the population is even: the release leans one way, the other, or neither."""
    attempt = domias(four_pairs(synthetic), confidence=0.95)
    assert attempt.attacked.value == area
    assert attempt.baseline.value == 0.5


def test_without_its_reference_domias_takes_common_records_for_members():
    """The release has three times as many rare records as the population: those were trained on."""
    common, rare = [[0]], [[1]]
    columns = Columns(names=("a",), cardinalities=(2,), ordered=(0,))
    arrays = {
        "synthetic": common * 7 + rare * 3,
        "members": rare * 4,
        "controls": common * 4,
        "reference": common * 9 + rare,
    }
    tables = AttackTables(columns=columns, **{name: np.array(rows, dtype=np.int32) for name, rows in arrays.items()})
    assert domias(tables, confidence=0.95).attacked.value == 1.0
    population = Population.learn(columns, tables.reference)
    alone = [population.log_density(rows, tables.synthetic) for rows in (tables.members, tables.controls)]
    assert alone[0].max() < alone[1].min()  # the broken twin is wrong about everybody


def test_training_records_from_elsewhere_are_told_apart(make_tables):
    tables = make_tables(1, "fresh")
    assert shift(tables, confidence=0.999).low <= 0.5
    elsewhere = tables.members.copy()
    generator = np.random.default_rng(2)
    elsewhere[:, 0] = np.where(generator.random(len(elsewhere)) < 0.6, 5, elsewhere[:, 0])
    other = AttackTables(
        columns=tables.columns,
        synthetic=tables.synthetic,
        members=elsewhere,
        controls=tables.controls,
        reference=tables.reference,
    )
    assert shift(other, confidence=0.999).low > 0.5
