"""``cloister release``: what goes with a release to those who have to judge it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.result import print_json
from cli.verify import Coordinator, Ledgers, Transcripts, coordinator_key, evidence

EXAMPLES = (
    "\b\nExamples:\n"
    "  cloister release bundle hospital.release --out hospital.bundle\n"
    "  cloister release bundle hospital.release --out bundle --audit mechanism-audit --ledger ledgers"
)

release = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make documents and evidence for those who have to judge a release.",
    epilog=EXAMPLES,
)


@release.command(epilog=EXAMPLES)
def bundle(
    folder: Annotated[Path, typer.Argument(metavar="RELEASE", help="Folder of a release.")],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Folder to write; it must not exist.")],
    audit: Annotated[
        list[Path] | None,
        typer.Option(metavar="REPORT", help="A signed report of an audit, or its folder; may be repeated."),
    ] = None,
    ledger: Ledgers = None,
    transcript: Transcripts = None,
    coordinator: Coordinator = None,
    confidential: Annotated[
        bool,
        typer.Option("--confidential", help="Let in audits computed from real records: the bundle then stays there."),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write model card, data sheet, statement, threat model, evidence and software list of a release.

    The release is verified first, as by cloister verify; where anything is wrong, nothing is written. The generator
    stays out: the bundle is to be read. Open its index.html.
    """
    import torch  # slow to import

    from server.bundle import read_report, write_bundle
    from server.release import Release

    key = None if coordinator is None else coordinator_key(coordinator)
    reports = [read_report(path) for path in audit or []]
    opened = Release.open(folder, device=torch.device("cpu"))
    extracts, transcripts = evidence(opened, ledger=ledger, transcript=transcript)
    subject = write_bundle(
        out,
        opened,
        extracts=extracts,
        transcripts=transcripts,
        reports=reports,
        coordinator=key,
        confidential=confidential,
    )
    found = subject.verification
    if json_output:
        print_json({"bundle": str(out), "passed": list(found.passed), "remarks": list(found.remarks)})
        return
    for remark in found.remarks:
        sys.stdout.write(f"NOTE {remark}\n")
    sys.stdout.write(f"{len(found.passed)} checks hold. Bundle written: open {out / 'index.html'}\n")
