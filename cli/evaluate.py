"""``cloister evaluate``: how far synthetic records are from real ones, and what they are good for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import check_output, new_file
from cli.sample import LARGEST_SEED, open_release
from protocol.errors import InputError, RecordsError, SchemaError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from evaluation.images import ImageEvaluation
    from evaluation.report import Evaluation
    from privacy.statement import Statement
    from records.bins import Codes
    from records.dataset import Records
    from records.schema import Schema
    from server.release import Release

EXAMPLES = (
    "\b\nExamples:\n"
    "  cloister evaluate hospital.release --real holdout.csv -o report.html\n"
    "  cloister evaluate synthetic.parquet --schema visits.schema.toml --real holdout.csv --json"
)


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(metavar="RELEASE|FILE", help="A release, or a file of synthetic records."),
    ],
    *,
    real: Annotated[str, typer.Option("--real", metavar="FILE", help="Real records that the generator never saw.")],
    train: Annotated[
        str | None, typer.Option("--train", metavar="FILE", help="Real records that it was trained on.")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option("--schema", metavar="FILE", help="Schema of a file of synthetic records."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", metavar="N", min=1, help="Records to draw from a release; as many as are real."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="Of all draws.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="HTML report to write.")] = None,
    device: Annotated[str, typer.Option(help="Where to draw: cpu, cuda or cuda:1.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing report.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Compare synthetic records with real ones.

    The result is computed from real records without noise: keep it where they are. Without --train, four
    fifths of --real train the classifier that is compared with, and the last fifth tests it.
    """
    if output is not None:
        check_output(output, force=force)
    subject = _subject(source, schema, count, device)
    rows = _rows(subject, real=real, train=train, count=count, seed=seed)
    found: Evaluation | ImageEvaluation
    found = _evaluated(rows, seed) if subject.schema.image is None else _evaluated_images(rows, seed, device)
    statement = subject.statement
    words: dict[str, Any] = {
        "statement": None if statement is None else statement.to_mapping(),
        "statement_lines": [] if statement is None else statement.sentences(),
    }
    if output is not None:
        with new_file(output, force=force) as part:
            # A person reads the words; the same in numbers would stand there as JSON.
            part.write_text(found.to_html(statement_lines=words["statement_lines"]), encoding="utf-8")
    if as_json:
        typer.echo(found.to_json(**words))
    else:
        _print_summary(found, statement)
    _warn(output)


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is evaluated: a release, or synthetic records read from a file."""

    schema: "Schema"
    release: "Release | None" = None
    records: "Records | None" = None

    @property
    def statement(self) -> "Statement | None":
        """The release's statement; a file of rows has none."""
        return None if self.release is None else self.release.statement


def _subject(source: Path, schema: Path | None, count: int | None, device: str) -> _Subject:
    """Open what is evaluated."""
    if source.is_dir():
        if schema is not None:
            raise typer.BadParameter("a release has its own schema", param_hint="--schema")
        opened = open_release(source, device)
        return _Subject(schema=opened.schema, release=opened)
    from records.schema import Schema  # Arrow: slow to import

    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder.", remedy="Check the path.")
    if schema is None:
        raise typer.BadParameter("a file of synthetic records needs one", param_hint="--schema")
    if count is not None:
        raise typer.BadParameter("only a release can be drawn from", param_hint="-n")
    read = Schema.from_toml(schema)
    return _Subject(schema=read, records=_synthetic_records(source, read))


def _synthetic_records(path: Path, schema: "Schema") -> "Records":
    """Read rows as ``cloister sample`` writes them, or else in the form of the schema's own source."""
    from records.dataset import load_records  # Arrow: slow to import

    # Synthetic rows are about nobody: a person key, where a file has one, is left out.
    keys = () if schema.person is None else (schema.person,)
    # How well they keep to constraints is for the evaluation to show, not a reason to refuse them.
    nobody = replace(schema, person=None, drop=(*schema.drop, *keys), constraints=())
    try:
        return load_records(path, schema=_as_sampled(nobody))
    except (RecordsError, SchemaError):
        return load_records(path, schema=nobody)


def _as_sampled(schema: "Schema") -> "Schema":
    """The schema of its own samples: the same codes, but written with comma, ISO dates, true and false."""
    from records.column import Kind, OutOfBounds  # Arrow: slow to import
    from records.schema import Format

    # Anything written otherwise must be refused here, never read as something else.
    refuse: dict[str, Any] = {"out_of_bounds": OutOfBounds.REFUSE}
    changes: dict[Kind, dict[str, Any]] = {
        Kind.BOOLEAN: {"true_values": ("true",), "false_values": ("false",)},
        Kind.DATE: {"format": None, **refuse},
        Kind.INTEGER: refuse,
        Kind.CONTINUOUS: refuse,
    }
    columns = tuple(replace(column, **changes.get(column.kind, {})) for column in schema.columns)
    return replace(schema, columns=columns, format=Format())


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The records of an evaluation, and whether the real ones come from one file."""

    schema: "Schema"
    train: "Codes"
    test: "Codes"
    synthetic: "Codes"
    split: bool


def _rows(subject: _Subject, *, real: str, train: str | None, count: int | None, seed: int) -> _Rows:
    """Read the real records and draw, or take, the synthetic ones."""
    import numpy as np

    from records.dataset import load_records  # Arrow: slow to import

    held = load_records(real, schema=subject.schema)
    if train is None:
        training, test = _split(held)
    else:
        training, test = load_records(train, schema=subject.schema), held
    if subject.records is not None:
        codes = subject.records.codes
    elif subject.release is not None:
        batches = subject.release.sample_codes(count or len(held), allowed={}, seed=seed)
        codes = np.concatenate(list(batches))
    return _Rows(schema=subject.schema, train=training.codes, test=test.codes, synthetic=codes, split=train is None)


def _split(records: "Records") -> tuple["Records", "Records"]:
    """Part records as the benchmark does, all records of one person on one side."""
    import numpy as np

    from evaluation.utility import benchmark_split  # scikit-learn: slow to import

    units = records.units
    chosen = benchmark_split(int(units.max()) + 1)
    if not all(part.size for part in chosen):
        raise InputError(
            f"--real holds {len(records)} record: too few to split.", remedy="Give more, or add --train FILE."
        )
    # In the order of the draw, which for single records is exactly the benchmark's.
    rows = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[rows], np.arange(int(units.max()) + 2))
    first, second = (np.concatenate([rows[starts[unit] : starts[unit + 1]] for unit in part]) for part in chosen)
    return records.take(first), records.take(second)


def _evaluated(rows: _Rows, seed: int) -> "Evaluation":
    """Measure tables, and note where the real training rows come from."""
    import numpy as np

    from evaluation.evaluate import evaluate_tables  # scikit-learn and matplotlib: slow to import
    from evaluation.table import coded_table

    train, test, synthetic = (coded_table(rows.schema, codes) for codes in (rows.train, rows.test, rows.synthetic))
    found = evaluate_tables(train, test, synthetic, generator=np.random.default_rng(seed))
    if not rows.split:
        return found
    note = (
        "No real training rows were given: --real was split, four fifths for training on real rows, one "
        "fifth for testing. Distances are to the four fifths."
    )
    return replace(found, notes=(*found.notes, note))


def _evaluated_images(rows: _Rows, seed: int, device: str) -> "ImageEvaluation":
    """Measure images, and note where the real training images come from."""
    import torch

    from evaluation.images import evaluate_images, image_set  # scikit-learn and torch: slow to import

    train, test, synthetic = (image_set(rows.schema, codes) for codes in (rows.train, rows.test, rows.synthetic))
    found = evaluate_images(train, test, synthetic, trained_on=not rows.split, seed=seed, device=torch.device(device))
    if not rows.split:
        return found
    note = (
        "No real training images were given: --real was split, four fifths for training on real images, one fifth for "
        "testing. Whether training images are repeated cannot be said: add --train FILE."
    )
    return replace(found, notes=(*found.notes, note))


def _print_summary(found: "Evaluation | ImageEvaluation", statement: "Statement | None") -> None:
    """Print the few numbers that matter most."""
    from rich.console import Console  # slow to import

    from evaluation.report import Evaluation  # matplotlib: slow to import

    console = Console(highlight=False, soft_wrap=True)
    console.print("No privacy statement." if statement is None else statement.headline(), markup=False)
    if isinstance(found, Evaluation):
        _print_table(found, console)
    else:
        _print_images(found, console)
    for note in found.notes:
        console.print(note, markup=False)


def _print_images(found: "ImageEvaluation", console: "Console") -> None:
    """Print the measures of images."""
    trained = "" if found.train_images is None else f"{found.train_images:,} real training, "
    console.print(f"{found.synthetic_images:,} synthetic, {trained}{found.test_images:,} real test images\n")
    rows = [(name, (number, real)) for name, number, real, _ in found.lines()]
    console.print(_grid("Measures of images (the report says what they mean)", ("synthetic", "real"), rows))


def _print_table(found: "Evaluation", console: "Console") -> None:
    """Print the measures of tables."""
    trained = "" if found.train_rows is None else f"{found.train_rows:,} real training, "
    console.print(f"{found.synthetic_rows:,} synthetic, {trained}{found.test_rows:,} real test records\n")
    names = ("synthetic", *(stick.name for stick in found.yardsticks))
    distances = [
        (what, (getattr(found.fidelity, key), *(getattr(stick, key) for stick in found.yardsticks)))
        for what, key in (("one column", "one_way"), ("pairs", "two_way"), ("triples", "three_way"))
    ]
    console.print(_grid("Distance to real records (0 is best)", names, distances))
    if found.utilities:
        learners = [
            (str(one.learner).replace("_", " "), (one.synthetic.auroc, one.real.auroc if one.real else None))
            for one in found.utilities
        ]
        title = f"AUROC of {found.target}, by what was trained on (0.5 is a guess, 1 is best)"
        console.print(_grid(title, ("synthetic", "real"), learners))
    told = f"Told from real records with AUROC {found.detection.auroc:.3f} (0.5 is best, 1 is worst)."
    console.print(told)


def _grid(title: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> "Table":
    """A table of numbers without a frame, the same on a terminal and in a file."""
    from rich.table import Table  # slow to import
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(("", *names)):
        table.add_column(name, justify="right" if index else "left")
    for label, numbers in rows:
        table.add_row(label, *("-" if number is None else f"{number:.3f}" for number in numbers))
    return table


def _warn(output: Path | None) -> None:
    """Say what the result is: a look at real records."""
    from evaluation.page.skeleton import WARNING_TITLE  # the report's own words

    where = "" if output is None else f"{output} written. "
    typer.echo(f"{where}{WARNING_TITLE} It was computed from real records, without noise.", err=True)
