"""``cloister site egress``: every message that left the site, and what of it was paid for."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.officer.findings import print_findings
from cli.result import print_json
from cli.site.folder import HERE, SiteFolder
from protocol.errors import LedgerError

if TYPE_CHECKING:
    from client.egress import EgressLine

EXAMPLES = "\b\nExamples:\n  cloister site egress\n  cloister site egress --all --verify"
_SHOWN = 20
_WIDE = 100
_NARROW = {"time (UTC)": 10, "what": 12, "noise": 5}  # a date; "introduction"; "whole"
_AGREES = "The ledger: every contribution in the record was paid for and sealed, and every seal has its line."


def egress(
    *,
    site: SiteFolder = HERE,
    everything: Annotated[
        bool, typer.Option("--all", help=f"Show every message, not the last {_SHOWN} alone.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare with the ledger, line by line.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object with every message.")] = False,
) -> None:
    """Show what left this site: when, how much, under which bound and noise, paid by which ledger entry.

    The record holds nothing private. Ends with status 1 where it was changed, or does not agree with the ledger.
    """
    from cli.officer.verification import Books
    from client.egress import read

    books = Books.open(site) if verify else None
    lines = read(site / "egress.jsonl") if books is None else books.lines
    faults = None if books is None else (*books.contradictions, *([books.gap] if books.gaps else []))
    if json_output:
        print_json(to_mapping(lines) | ({} if faults is None else {"faults": list(faults)}))
    else:
        _print(lines if everything else lines[-_SHOWN:], lines)
        if faults is not None:
            print_findings(
                (f"The record: {len(lines)} lines in one chain.", *(() if faults else (_AGREES,))), (), faults
            )
    if faults:
        raise LedgerError(
            "Record and ledger do not agree.",
            remedy="Release nothing until it is understood: keep ledger.sqlite and egress.jsonl as evidence.",
        )


def to_mapping(lines: "tuple[EgressLine, ...]") -> dict[str, Any]:
    """Return a record as JSON."""
    from dataclasses import asdict

    totals = [
        {"kind": kind, "messages": count, "bytes": size, "repeated": repeated}
        for kind, (count, size, repeated) in _totals(lines).items()
    ]
    listed = [{"number": line.number, "time": line.time, "hash": line.hash, **asdict(line.departure)} for line in lines]
    return {"messages": len(lines), "totals": totals, "lines": listed}


def _totals(lines: "tuple[EgressLine, ...]") -> dict[str, tuple[int, int, int]]:
    """Messages, bytes and repetitions by kind."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    for line in lines:
        kind = line.departure.kind.value
        counts[kind] += 1
        sizes[kind] += line.departure.bytes
        repeated[kind] += line.departure.repeated
    return {kind: (counts[kind], sizes[kind], repeated[kind]) for kind in counts}


def _print(shown: "tuple[EgressLine, ...]", lines: "tuple[EgressLine, ...]") -> None:
    """Print messages, then totals."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not lines:
        console.print("Nothing has left this site.")
        return
    title = None if len(shown) == len(lines) else f"The last {len(shown)} of {len(lines)} messages"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    for heading in ("time (UTC)", "what", "study", "round", "bytes", "norm", "noise", "entry", "SHA-256"):
        # On a narrow terminal cells are folded, between words: no figure may be cut off.
        right = heading in ("round", "bytes", "norm", "noise")
        width = _NARROW.get(heading) if console.width < _WIDE else None
        table.add_column(heading, justify="right" if right else "left", overflow="fold", width=width)
    for line in shown:
        table.add_row(*_cells(line))
    console.print(table)
    totals = Table(title="In all")
    for heading in ("what", "messages", "of them again", "bytes"):
        totals.add_column(heading, justify="left" if heading == "what" else "right")
    for kind, (count, size, repeated) in _totals(lines).items():
        totals.add_row(kind, f"{count:,}", f"{repeated:,}", f"{size:,}")
    console.print(totals)


def _cells(line: "EgressLine") -> tuple[str, ...]:
    gone = line.departure
    what = f"{gone.kind.value}{': ' + gone.reason if gone.reason else ''}{' (again)' if gone.repeated else ''}"
    placed = "" if gone.placement is None else f" {gone.placement.value}"
    return (
        line.time[:16].replace("T", " "),
        what,
        gone.study[:8],
        str(gone.round or ""),
        f"{gone.bytes:,}",
        "" if gone.norm_bound is None else f"{gone.norm_bound:g}",
        ("" if gone.noise is None else f"{gone.noise:.3g}") + placed,
        gone.entry[:8],
        gone.sha256[:8],
    )
