"""``cloister schema``: begin a data dictionary, and check one against a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import new_file
from cli.result import print_json
from cli.sample import open_release, release_hash

if TYPE_CHECKING:
    from records.schema import Schema

schema = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write and check the public data dictionary.",
    epilog="\b\nExamples:\n  cloister schema draft visits.csv -o visits.schema.toml\n"
    "  cloister schema check visits.schema.toml --data visits.csv\n"
    "  cloister schema bins counts.release -o learnt.schema.toml",
)
_LEARNT_FROM = 200_000


@schema.command(epilog="\b\nExample:\n  cloister schema draft visits.csv -o visits.schema.toml")
def draft(
    file: Annotated[str, typer.Argument(help="CSV or Parquet file, or database location, of one site.")],
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; standard output by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Draft a schema from one site's file.

    It is read off the records: keep it at the site until its marked values are replaced by public ones.
    """
    from records.draft import draft_schema  # Arrow: slow to import

    if output is None:
        typer.echo(draft_schema(file), nl=False)
        return
    with new_file(output, force=force) as part:
        part.write_text(draft_schema(file), encoding="utf-8")
    typer.echo(
        f"{output}: keep it at the site until the values marked in it are replaced by public ones.",
        err=True,
    )


@schema.command(epilog="\b\nExample:\n  cloister schema check visits.schema.toml --data visits.csv")
def check(
    file: Annotated[Path, typer.Argument(metavar="SCHEMA", help="Schema to check (TOML).")],
    *,
    data: Annotated[
        str | None, typer.Option("--data", metavar="FILE", help="Records that must fit the schema.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a schema, and that a file fits it.

    With --data the counts are of real records, without noise: keep them at the site.
    """
    from records.schema import Schema  # Arrow: slow to import

    read = Schema.from_toml(file)
    found = _described(read) if data is None else _counted(read, data)
    if as_json:
        print_json(found)
    else:
        typer.echo(_table(found))


@schema.command(epilog="\b\nExample:\n  cloister schema bins counts.release --bins 16 -o learnt.schema.toml")
def bins(
    folder: Annotated[Path, typer.Argument(metavar="RELEASE", help="Release of a study that counted the columns.")],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Schema to write.")],
    most: Annotated[int, typer.Option("--bins", min=2, help="Cells of a column, beside those of its points.")] = 16,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Cut the columns that have learn_bins = true at the quantiles of a release, for a next study.

    It costs nothing beyond the release; the next study costs what its own statement says, and each site's ledger adds
    up both.
    """
    import numpy as np
    import tomli_w

    from protocol.errors import PrivacyError
    from records.learned_bins import learning_columns, with_learned_bins  # Arrow: slow to import

    release = open_release(folder, "cpu")
    if not release.statement.private and not release.study.public:
        raise PrivacyError(
            f"{folder} is not private: edges learnt from it would tell about its records.",
            remedy="Use a release that was trained with noise, or one of a study of public records.",
        )
    drawn = np.concatenate(list(release.sample_codes(_LEARNT_FROM, allowed={}, seed=0)))
    named = f"Cells learnt from release {release_hash(folder)}: {release.statement.headline()}"
    learnt = with_learned_bins(release.schema, drawn, bins=most, source=named)
    with new_file(output, force=force) as part:
        part.write_bytes(tomli_w.dumps(learnt.to_mapping()).encode())
    for name in learning_columns(release.schema):
        before, after = release.schema.column(name).cardinality, learnt.column(name).cardinality
        kept = f"{name}: keeps its {before} codes, which are few or needed by a constraint."
        typer.echo(kept if before == after else f"{name}: {before} codes became {after}.")
    typer.echo(release.statement.headline())


def _described(read: "Schema") -> dict[str, Any]:
    columns = [
        {"name": column.name, "kind": str(column.kind), "codes": column.cardinality}
        | ({"groups": len(set(column.group_codes))} if column.group_codes else {})
        for column in read.columns
    ]
    found: dict[str, Any] = {"columns": columns, "target": read.target, "person": read.person}
    if read.image is not None:
        found["image"] = read.image.words
    return found | ({"constraints": [each.text for each in read.constraints]} if read.constraints else {})


def _counted(read: "Schema", data: str) -> dict[str, Any]:
    """Add what the records hold: rows, persons, and missing values per column."""
    from records.dataset import load_records  # Arrow: slow to import

    records = load_records(data, schema=read)
    found = _described(read) | {"rows": len(records)}
    if records.left_out:
        found["left_out"] = records.left_out
    if records.persons is not None:
        found["persons"] = int(records.persons.max()) + 1
    for index, (column, row) in enumerate(zip(read.columns, found["columns"], strict=True)):
        last = records.codes[:, index] == column.cardinality - 1
        row["missing"] = int(last.sum()) if column.missing else 0
    return found


def _table(found: dict[str, Any]) -> str:
    """Write what was found as aligned text."""
    head = [key for key in ("name", "kind", "codes", "missing") if key in found["columns"][0]]
    rows = [head, *([str(column[key]) for key in head] for column in found["columns"])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    counts = [f"{len(found['columns'])} columns", *([f"images of {found['image']}"] if "image" in found else [])]
    counts += [f"{found[key]:,} {key}" for key in ("rows", "persons") if key in found]
    lines.append(f"The schema is in order: {', '.join(counts)}, target {found['target'] or 'none'}.")
    lines += [f"Every synthetic record fulfils: {text}" for text in found.get("constraints", ())]
    if "left_out" in found:
        lines.append(f"{found['left_out']:,} more rows break a constraint and are left out, as the schema says.")
    if "rows" in found:
        lines.append("All records fit. These counts are of real records: keep them at the site.")
    return "\n".join(lines)
