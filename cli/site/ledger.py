"""``cloister site ledger``: what was spent on the records, by study and run, what is left, and whether it adds up."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.officer.findings import print_findings
from cli.output import check_output, new_file
from cli.result import print_json, print_statement
from cli.site.folder import HERE, SiteFolder
from protocol.errors import LedgerError

if TYPE_CHECKING:
    from cli.officer.account import Account

EXAMPLES = (
    "\b\nExamples:\n"
    "  cloister site ledger\n"
    "  cloister site ledger --verify --html ledger.html\n"
    "  cloister site ledger --extract hearts --out hearts.ledger.json"
)


def ledger(
    *,
    site: SiteFolder = HERE,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page to read, keep or print.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every entry, and work the total out again by other accountants.")
    ] = False,
    extract: Annotated[
        str | None,
        typer.Option(metavar="STUDY", help="Write the signed entries of one study to --out, for cloister verify."),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where --extract writes.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Let --html and --out replace an existing file.")] = False,
) -> None:
    """Show what was spent on this site's records, by study and run, and what is left under each ceiling.

    It can be read while the client runs. Ends with status 1 where the ledger is damaged or does not add up. An extract
    tells of other studies nothing but how many entries and noisy sums there were in between.
    """
    from cli.officer.account import Account
    from cli.officer.verification import Books, verify_books

    if (extract is None) != (out is None):
        raise typer.BadParameter("give both or neither", param_hint="--extract, --out")
    if extract is not None and out is not None:
        _write_extract(site, extract, out, force=force)
        return
    if html is not None:
        check_output(html, force=force)
    books = Books.open(site) if verify else None
    account = Account.open(site) if books is None else books.account
    found = None if books is None else verify_books(books)
    if json_output:
        print_json(to_mapping(account) | ({} if found is None else {"verification": asdict(found)}))
    else:
        _print(account)
        if found is not None:
            print_findings(found.passed, found.remarks, found.faults)
    if html is not None:
        from cli.officer.ledger_page import ledger_page

        with new_file(html, force=force) as part:
            part.write_text(ledger_page(account, found), encoding="utf-8")
        sys.stderr.write(f"cloister: written: {html}\n")
    if found is not None and found.faults:
        raise LedgerError(
            f"{len(found.faults)} things do not add up.",
            remedy="Release nothing until it is understood: keep ledger.sqlite and egress.jsonl as evidence.",
        )


def _write_extract(site: Path, study: str, out: Path, *, force: bool) -> None:
    """Write what the ledger says of one study, signed with the site's key."""
    from datetime import UTC, datetime

    from cli.officer.account import Account
    from privacy.ledger import LedgerExtract
    from protocol.keys import read_identity

    check_output(out, force=force)
    account = Account.open(site)
    made = LedgerExtract.of(
        account.entries,
        site=account.site,
        study=account.charged_study(study),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        key=read_identity(site / "key.pem"),
    )
    with new_file(out, force=force) as part:
        part.write_text(made.to_text(), encoding="utf-8")
    sys.stderr.write(
        f"cloister: written: {out}, {len(made.entries)} of {len(account.entries)} entries, about"
        f" {account.name(made.study)} alone. Check it with a release: cloister verify RELEASE --ledger {out}\n"
    )


def to_mapping(account: "Account") -> dict[str, Any]:
    """Return an account as JSON."""
    from protocol.keys import public_hex

    statement = account.statement()
    ceilings = [{**asdict(ceiling), "spent": asdict(account.check(ceiling))} for ceiling in account.ceilings()]
    return {
        "site": account.site,
        "data_set": account.opening.data_set,
        "public_key": public_hex(account.key),
        "simulated": account.opening.simulated,
        "entries": len(account.entries),
        "head": account.head,
        "runs": [
            {**asdict(run), "name": account.name(run.study), "events": [event.to_mapping() for event in run.events]}
            for run in account.runs
        ],
        "statement": None if statement is None else statement.to_mapping(),
        "ceilings": ceilings,
        "notes": list(account.notes),
    }


def _print(account: "Account") -> None:
    """Print table, statement and ceilings."""
    from rich.console import Console
    from rich.table import Table

    from cli.officer.account import in_brief
    from privacy import wording

    console = Console(highlight=False)
    told = f"Ledger of {account.opening.data_set!r} at {account.site!r}: {len(account.entries)} entries"
    console.print(f"{told}, the last one {account.head[:12]}.\n", markup=False)
    statement = account.statement()
    if statement is None:
        console.print("Nothing was ever charged: nothing was released.", markup=False)
    else:
        table = Table()
        for heading in ("study", "run", "rounds", "first", "last", "what counts as released", "not left yet"):
            table.add_column(heading, justify="right" if heading == "not left yet" else "left", overflow="fold")
        for run in account.runs:
            when = (run.since[:16].replace("T", " "), run.until[:16].replace("T", " "))
            rounds = f"{run.first_round}-{run.last_round}" if run.rounds else "none"
            name = account.name(run.study)
            table.add_row(name, run.run[:8], rounds, *when, in_brief(run.events), str(run.unsealed or ""))
        console.print(table)
        print_statement(statement.sentences())
    console.print()
    for ceiling in account.ceilings():
        unit = "record" if account.unit is None else account.unit
        console.print(wording.budget(account.check(ceiling), ceiling, unit), markup=False)
    for note in account.notes:
        console.print(note, markup=False)
