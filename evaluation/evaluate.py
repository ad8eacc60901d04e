"""One call that measures everything."""

import numpy as np

from evaluation.baselines import Yardstick, bootstrap_rows, independent_columns
from evaluation.detection import Detection, detect
from evaluation.fidelity import (
    Fidelity,
    column_distances,
    compare,
    marginal,
    pair_distances,
    triple_distances,
)
from evaluation.plots import Marginal
from evaluation.report import Evaluation
from evaluation.table import ORDERED_KINDS, CodedTable
from evaluation.utility import Learner, Utility, train_on_synthetic_test_on_real
from protocol.errors import RecordsError

FEW_ROWS = 500


def evaluate_tables(
    real_train: CodedTable | None,
    real_test: CodedTable,
    synthetic: CodedTable,
    *,
    generator: np.random.Generator,
) -> Evaluation:
    """Compare synthetic rows with real ones.

    Distances and detection are against the training rows, which the generator was to learn, or against the
    test rows where no training rows are given. Predictions are always tested on the test rows.

    Args:
        real_train: Real rows that the generator was trained on, or None.
        real_test: Real rows that the generator never saw.
        synthetic: Synthetic rows.
        generator: Chooses triples, rows for detection and the rows of the yardsticks. Not a source of
            privacy.

    Returns:
        What was found. It is computed from real records without noise, and to be kept where they are.

    Raises:
        RecordsError: A table is empty, or the tables are not of one schema.
    """
    _check_tables(real_train, real_test, synthetic)
    real = real_test if real_train is None else real_train
    fidelity = compare(
        real.codes,
        synthetic.codes,
        real.cardinalities,
        values=real.values,
        is_numeric=real.is_numeric,
        may_be_missing=real.may_be_missing,
        generator=generator,
    )
    utilities = () if real_test.target is None else _utilities(real_train, real_test, synthetic)
    detection = detect(real.codes, synthetic.codes, generator=generator)
    return Evaluation(
        names=real.names,
        kinds=real.kinds,
        may_be_missing=real.may_be_missing,
        target=real.target,
        train_rows=None if real_train is None else real_train.rows,
        test_rows=real_test.rows,
        synthetic_rows=synthetic.rows,
        compared_with="test" if real_train is None else "train",
        fidelity=fidelity,
        yardsticks=_yardsticks(real, fidelity, synthetic.rows, generator),
        marginals=_marginals(real, synthetic, fidelity),
        utilities=utilities,
        detection=detection,
        notes=_notes(real_train, real_test, synthetic, utilities, detection),
    )


def _utilities(real_train: CodedTable | None, real_test: CodedTable, synthetic: CodedTable) -> tuple[Utility, ...]:
    return tuple(
        train_on_synthetic_test_on_real(
            learner=learner, real_train=real_train, real_test=real_test, synthetic=synthetic
        )
        for learner in Learner
    )


def _yardsticks(
    real: CodedTable, fidelity: Fidelity, rows: int, generator: np.random.Generator
) -> tuple[Yardstick, ...]:
    """As many rows as the synthetic table has, so that chance weighs equally on all."""
    made = (
        ("real rows, redrawn", True, bootstrap_rows(real.codes, rows=rows, generator=generator)),
        (
            "independent columns",
            False,
            independent_columns(real.codes, real.cardinalities, rows=rows, generator=generator),
        ),
    )
    upper = np.triu_indices(len(real.names), k=1)
    sticks = []
    for name, is_real, codes in made:
        pairs = pair_distances(real.codes, codes, real.cardinalities)[upper]
        triples = triple_distances(real.codes, codes, real.cardinalities, triples=fidelity.triples)
        sticks.append(
            Yardstick(
                name=name,
                is_real=is_real,
                one_way=float(column_distances(real.codes, codes, real.cardinalities).mean()),
                two_way=float(pairs.mean()) if pairs.size else 0.0,
                three_way=float(triples.mean()) if triples.size else 0.0,
            )
        )
    return tuple(sticks)


def _marginals(real: CodedTable, synthetic: CodedTable, fidelity: Fidelity) -> tuple[Marginal, ...]:
    return tuple(
        Marginal(
            name=name,
            is_ordered=real.kinds[index] in ORDERED_KINDS,
            has_missing=real.may_be_missing[index],
            labels=real.labels[index],
            real=marginal(real.codes[:, index], real.cardinalities[index]),
            synthetic=marginal(synthetic.codes[:, index], real.cardinalities[index]),
            distance=float(fidelity.columns[index]),
        )
        for index, name in enumerate(real.names)
    )


def _notes(
    real_train: CodedTable | None,
    real_test: CodedTable,
    synthetic: CodedTable,
    utilities: tuple[Utility, ...],
    detection: Detection,
) -> tuple[str, ...]:
    notes = list(detection.notes)
    if real_train is None:
        notes.append("No real training rows were given: nothing shows what training on real rows would reach.")
    if real_test.target is None:
        notes.append("The schema names no target: prediction was left out.")
    for utility in utilities:
        for origin, scores in (("synthetic", utility.synthetic), ("real", utility.real)):
            learner = str(utility.learner).replace("_", " ")
            notes += [f"{learner}, trained on {origin} rows: {note}" for note in (scores.notes if scores else ())]
    smallest = min(real_test.rows, synthetic.rows)
    if smallest < FEW_ROWS:
        notes.append(f"The smallest table has {smallest} rows: every number here is a rough one.")
    return tuple(notes)


def _check_tables(real_train: CodedTable | None, real_test: CodedTable, synthetic: CodedTable) -> None:
    given = {"real_train": real_train, "real_test": real_test, "synthetic": synthetic}
    for name, table in given.items():
        if table is None:
            continue
        if not table.rows:
            raise RecordsError(f"the table {name} has no row.", remedy="Give at least one row.")
        if (table.names, table.cardinalities, table.target) != (
            real_test.names,
            real_test.cardinalities,
            real_test.target,
        ):
            raise RecordsError(
                f"the table {name} has other columns, codes or target than real_test.",
                remedy="Encode all tables with one schema.",
            )
