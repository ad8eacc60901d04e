import csv
import gzip
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from evaluation.baselines import bootstrap_rows, independent_columns
from evaluation.evaluate import evaluate_tables
from evaluation.fidelity import pair_distances
from evaluation.table import CodedTable
from evaluation.utility import Learner, benchmark_split, train_on_synthetic_test_on_real
from protocol.errors import RecordsError


def test_a_perfect_generator_lies_by_its_yardstick_and_a_broken_one_does_not(make_table):
    train, test, fresh = make_table(1000, 0), make_table(500, 1), make_table(1000, 2)
    generator = np.random.default_rng(0)
    broken = train.with_codes(independent_columns(train.codes, train.cardinalities, rows=1000, generator=generator))
    good = evaluate_tables(train, test, fresh, generator=np.random.default_rng(1))
    bad = evaluate_tables(train, test, broken, generator=np.random.default_rng(1))
    redrawn, independent = good.yardsticks
    assert redrawn.two_way < good.fidelity.two_way < independent.two_way
    assert bad.fidelity.two_way == pytest.approx(independent.two_way, rel=0.1)
    assert good.fidelity.association_difference < 0.1 < bad.fidelity.association_difference
    assert good.detection.auroc < 0.6 < bad.detection.auroc
    assert good.utilities[0].synthetic.auroc > 0.85 > bad.utilities[0].synthetic.auroc
    assert (good.compared_with, good.train_rows, good.test_rows) == ("train", 1000, 500)


def test_the_same_generator_gives_the_same_evaluation(make_table):
    train, test, fresh = make_table(120, 0), make_table(60, 1), make_table(120, 2)
    first, again = (evaluate_tables(train, test, fresh, generator=np.random.default_rng(5)) for _ in range(2))
    assert first.to_json() == again.to_json()
    assert first.to_html() == again.to_html()


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_small_sets_work(make_table, rows):
    found = evaluate_tables(
        make_table(rows, 0), make_table(rows, 1), make_table(rows, 2), generator=np.random.default_rng(0)
    )
    assert json.loads(found.to_json())["rows"] == {"train": rows, "test": rows, "synthetic": rows}
    assert "</html>" in found.to_html()
    assert any("rough" in note for note in found.notes)


def test_one_class_everywhere_works_and_is_noted(make_table):
    table = make_table(60, 0)
    codes = table.codes.copy()
    codes[:, 4] = 1
    one = table.with_codes(codes)
    found = evaluate_tables(one, one, one, generator=np.random.default_rng(0))
    assert found.utilities[0].synthetic.auroc == 0.5
    assert any("single class" in note for note in found.notes)
    assert "</html>" in found.to_html()


def only(table: CodedTable, columns: list[int], target: str | None) -> CodedTable:
    return CodedTable(
        names=tuple(table.names[j] for j in columns),
        kinds=tuple(table.kinds[j] for j in columns),
        cardinalities=tuple(table.cardinalities[j] for j in columns),
        may_be_missing=tuple(table.may_be_missing[j] for j in columns),
        labels=tuple(table.labels[j] for j in columns),
        values=tuple(table.values[j] for j in columns),
        target=target,
        codes=table.codes[:, columns],
    )


@pytest.mark.parametrize(("columns", "target"), [([4], "ill"), ([3], None), ([3, 4], "ill"), ([0, 2], None)])
def test_few_columns_and_no_target_work(make_table, columns, target):
    real, synthetic = (only(make_table(80, seed), columns, target) for seed in (0, 1))
    found = evaluate_tables(None, real, synthetic, generator=np.random.default_rng(0))
    assert len(found.utilities) == (0 if target is None else 2)
    assert found.compared_with == "test"
    assert "Predicting" in found.to_html() or target is None
    assert json.loads(found.to_json())["rows"]["train"] is None


def test_empty_and_foreign_tables_are_refused(make_table):
    table = make_table(20, 0)
    with pytest.raises(RecordsError, match="synthetic has no row"):
        evaluate_tables(table, table, table.take([]), generator=np.random.default_rng(0))
    with pytest.raises(RecordsError, match="real_train has other columns"):
        evaluate_tables(only(table, [0, 4], "ill"), table, table, generator=np.random.default_rng(0))


def census() -> CodedTable:
    """Adult, as the private-pgm project codes it: 48,842 rows, 14 columns, all integer codes."""
    folder = Path(os.environ["CLOISTER_DATA"]) / "adult_binned"
    domain = json.loads((folder / "adult-domain.json").read_text(encoding="utf-8"))
    with gzip.open(folder / "adult.csv.gz", "rt", encoding="utf-8") as file:
        codes = np.array(list(csv.reader(file))[1:], dtype=np.int64)
    return CodedTable(
        names=tuple(domain),
        kinds=("categorical",) * len(domain),
        cardinalities=tuple(domain.values()),
        may_be_missing=(False,) * len(domain),
        labels=tuple(tuple(str(code) for code in range(size)) for size in domain.values()),
        values=tuple(np.full(size, np.nan) for size in domain.values()),
        target="income>50K",
        codes=codes,
    )


needs_data = pytest.mark.skipif("CLOISTER_DATA" not in os.environ, reason="CLOISTER_DATA does not name the data sets")


@pytest.mark.data
@pytest.mark.slow
@needs_data
def test_census_floor_and_ceiling_are_the_known_ones():
    """Ceiling .925 and .871, floor .077 with every column shuffled: the benchmark's own figures.

    Columns *drawn* on their own rather than shuffled lie a little higher: 16 seeds gave .0783 to .0793. Their
    AUROC is that of a model of noise: over those seeds its mean was .52 and its standard deviation .075,
    so that only a mean over draws can be held against 0.5 (eight draws, four standard errors).
    """
    table = census()
    train, test = (table.take(part) for part in benchmark_split(table.rows))
    upper = np.triu_indices(14, k=1)
    areas = []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        codes = independent_columns(train.codes, train.cardinalities, rows=train.rows, generator=generator)
        lost = pair_distances(train.codes, codes, train.cardinalities)[upper].mean()
        assert lost == pytest.approx(0.0788, abs=0.001)
        found = train_on_synthetic_test_on_real(
            learner=Learner.BOOSTED_TREES,
            real_train=train if seed == 0 else None,
            real_test=test,
            synthetic=train.with_codes(codes),
        )
        areas.append(found.synthetic.auroc)
        if found.real is not None:
            assert found.real.auroc == pytest.approx(0.925, abs=0.0006)
            assert found.real.accuracy == pytest.approx(0.871, abs=0.0006)
    assert np.mean(areas) == pytest.approx(0.5, abs=0.106)
    generator = np.random.default_rng(0)
    shuffled = np.stack([generator.permutation(column) for column in train.codes.T], axis=1)
    lost = pair_distances(train.codes, shuffled, train.cardinalities)[upper].mean()
    assert lost == pytest.approx(0.077, abs=0.0006)
    redrawn = bootstrap_rows(train.codes, rows=train.rows, generator=generator)
    assert pair_distances(train.codes, redrawn, train.cardinalities)[upper].mean() < 0.02


@pytest.mark.data
@pytest.mark.slow
@needs_data
def test_ten_thousand_census_rows_take_less_than_a_minute():
    table = census()
    train, test, synthetic = (table.take(np.arange(start, start + 10_000)) for start in (0, 10_000, 20_000))
    started = time.perf_counter()
    evaluate_tables(train, test, synthetic, generator=np.random.default_rng(0)).to_html()
    assert time.perf_counter() - started < 60
