"""``cloister sample``: synthetic records from a release."""

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.image_output import check_form, rows_writer
from cli.output import TableFormat, check_output, table_format
from cli.progress import progress_bar
from cli.result import print_json
from cli.simulate import check_device

if TYPE_CHECKING:
    from server.release import Release

EXAMPLES = (
    "\b\nExamples:\n"
    "  cloister sample hospital.release -n 1000 -o people.parquet\n"
    "  cloister sample hospital.release -n 500 --where 'sex=F' --where 'age>=40'\n"
    "  cloister sample digits.release -n 60000 -o digits.npz\n"
    "\b\nConditions: COLUMN OP VALUE with = != < <= > >=, COLUMN in A|B|C,\n"
    "COLUMN is missing, COLUMN is not missing. All of them must hold."
)
_SUMS = "SHA256SUMS"
LARGEST_SEED = 10**15 - 1
_SEED_BITS = 48  # enough never to meet one twice, and short enough to copy
Say = Callable[[str], None]


def sample(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="Folder of a release.")],
    *,
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", min=1, help="How many records.")] = 1000,
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="FILE", help=".parquet, .csv(.gz), - for CSV; images: .npz, .png."),
    ] = "-",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="CONDITION", help="Only such records; may be repeated."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="To draw the same again; else random."),
    ] = None,
    chosen: Annotated[
        TableFormat | None, typer.Option("--format", help="Written form; by the file's ending by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda or cuda:1.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless it fails.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object about the file.")] = False,
) -> None:
    """Draw synthetic records from a release.

    Drawing costs no privacy: the release's statement covers whatever is drawn, however often.
    """
    begin = time.monotonic()
    target = None if output == "-" else Path(output)
    if target is None and as_json:
        raise typer.BadParameter("it needs -o FILE, since the rows go to standard output", param_hint="--json")
    if target is not None:
        check_output(target, force=force)
    form = table_format(target, chosen)
    say: Say = _silent if quiet else _say
    opened = open_release(release, device)
    count = check_form(form, opened.schema, count)
    masks = _masks(opened, where or (), say)
    seed = secrets.randbits(_SEED_BITS) if seed is None else seed
    say(opened.statement.headline())
    say(f"Drawing {count:,} synthetic records (--seed {seed}).")
    facts = _facts(opened, where or ())
    metadata = {f"cloister.{key}": text for key, text in facts.items()}
    bar = progress_bar(count, label="sampling", unit="records", quiet=quiet)
    with rows_writer(target, form=form, metadata=metadata, force=force) as write, bar as advance:
        for table in opened.sample(count, allowed=masks, seed=seed):
            write(table)
            advance(len(table))
    seconds = round(time.monotonic() - begin, 3)
    if as_json:
        found = {"output": str(target), "format": str(form), "rows": count, "seed": seed, "seconds": seconds}
        print_json(found | facts)
    elif target is not None:
        say(f"{target}: {count:,} records in {seconds:.1f} s.")


def open_release(folder: Path, device: str) -> "Release":
    """Open a release on a device that is there.

    Args:
        folder: Folder of the release.
        device: Such as ``cpu`` or ``cuda:0``.

    Returns:
        The release.

    Raises:
        InputError: There is no such device.
        ReleaseError: The release is damaged, or none.
        AccountingError: Its statement gives another epsilon than its events.
    """
    import torch  # slow to import

    from server.release import Release

    check_device(device)
    opened = Release.open(folder, device=torch.device(device))
    # The headline is about to be shown, and anybody can write a statement and its checksum.
    opened.statement.recompute()
    return opened


def release_hash(folder: Path) -> str:
    """Name a release by the SHA-256 of its list of checksums, which covers every file in it."""
    return hashlib.sha256((folder / _SUMS).read_bytes()).hexdigest()


def _facts(opened: "Release", where: Sequence[str]) -> dict[str, str]:
    """What goes with the rows, so that nobody meets them without their statement."""
    facts = {
        "release": release_hash(opened.folder),
        "statement": opened.statement.headline(),
    }
    return facts | ({"where": " and ".join(where)} if where else {})


def _masks(opened: "Release", where: Sequence[str], say: Say) -> Mapping[int, Any]:
    """Read the conditions, and say what they come to: cells met by a part only are left out."""
    from records.condition import describe_mask, parse_conditions  # Arrow: slow to import
    from records.narrowing import narrowed

    masks = parse_conditions(where, schema=opened.schema)
    for index, mask in masks.items():
        say(f"Only {describe_mask(opened.schema.columns[index], mask)}.")
    narrowed(opened.schema.rule_book, masks)  # refuses what constraints rule out, before a file is begun
    if count := len(opened.schema.constraints):
        say(f"Every record fulfils the schema's {count} constraint{'s' if count > 1 else ''}.")
    return masks


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _silent(line: str) -> None:
    del line
