"""``cloister audit check``: is a report what its auditor signed, and what does it say?"""

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.audit.outcome import PICTURE, REPORT, JsonOption
from cli.output import check_output, new_file
from cli.rounds import announce
from protocol.errors import InputError

if TYPE_CHECKING:
    from privacy.audit.report import AuditReport

EXAMPLES = (
    "\b\nExamples:\n  cloister audit check mechanism-audit\n"
    "  cloister audit check report.json --auditor 8f3a... --html page.html"
)
_KEY = re.compile(r"[0-9a-fA-F]{64}")


def check(
    path: Annotated[Path, typer.Argument(metavar="REPORT", help="A report.json, or the folder that it lies in.")],
    *,
    auditor: Annotated[
        str | None,
        typer.Option(
            "--auditor", metavar="KEY", help="The auditor's public key as you know it, 64 hexadecimal digits."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Page to draw anew from what is signed.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Check the signature of a report, and print its verdicts.

    Nothing is audited again. Without --auditor it is only shown that nothing was changed since somebody signed it. The
    page that came with a report is not signed: draw it anew with --html.
    """
    from cli.audit.outcome import leave, show
    from privacy.audit.report import AuditReport

    if auditor is not None and not _KEY.fullmatch(auditor):
        raise typer.BadParameter("it has 64 hexadecimal digits", param_hint="--auditor")
    if html is not None:
        check_output(html, force=False)
    file = path / REPORT if path.is_dir() else path
    report = AuditReport.read(file, auditor=auditor)
    picture = _picture(file.with_name(PICTURE), report)
    if html is not None:
        from evaluation.audit_page.document import audit_page

        with new_file(html, force=False) as part:
            part.write_text(audit_page(report, picture=picture), encoding="utf-8")
    if not json_output:
        known = "as you know it" if auditor else "compare it with the one that the auditor gave you"
        sys.stdout.write(f"ok  unchanged since it was signed by {report.auditor} ({known})\n\n")
    show(report, json_output=json_output)
    leave(report)


def _picture(path: Path, report: "AuditReport") -> bytes | None:
    """The report's picture, if it lies beside it.

    Raises:
        InputError: If another picture does.
    """
    if report.picture is None:
        return None
    if not path.is_file():
        announce(f"the report's picture, {path.name}, is not beside it: the page is drawn without")
        return None
    picture = path.read_bytes()
    if hashlib.sha256(picture).hexdigest() != report.picture:
        raise InputError(f"{path} is not the picture of this report.", remedy="Get it again from whoever made it.")
    return picture
