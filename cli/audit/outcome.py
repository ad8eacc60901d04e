"""What an audit leaves behind: a folder with the signed report and its page, a summary, and an exit status."""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.audit.auditor import auditor_key
from cli.result import print_json
from cli.rounds import announce
from protocol.errors import InputError
from protocol.plain_text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from cli.audit.subject import Subject
    from privacy.audit.finding import Finding, Tier
    from privacy.audit.report import AuditReport, BrokenTwin, Setting

REPORT, PAGE, PICTURE = "report.json", "report.html", "channel.png"
EXIT = {"consistent": 0, "violated": 3, "no verdict": 4, "underpowered": 5}
STATUSES = (
    "\n\n\b\nExit status:\n  0 consistent, 3 violated, 4 no verdict, 5 underpowered; the gravest finding counts.\n"
    "  1 refused, 2 misused, 130 interrupted."
)
OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the report; it must not exist.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@dataclass(kw_only=True)
class Outcome:
    """What was found, before it is signed.

    Attributes:
        findings: One for each attack.
        demonstrations: As of `privacy.audit.report.AuditReport`.
        broken_twins: As there.
        notes: As there.
        picture: PNG that goes with the report.
    """

    findings: "Sequence[Finding]"
    demonstrations: "Sequence[Finding]" = ()
    broken_twins: "Sequence[BrokenTwin]" = ()
    notes: Sequence[str] = field(default_factory=tuple)
    picture: bytes | None = None


class Audit:
    """One audit on the command line: everything that could be refused is refused before it begins.

    Args:
        tier: What is looked at.
        subject: What is audited.
        out: Folder to write.
        key: The auditor's key file, if given.
        real_records: Whether real records are used.
        of_release: Whether the release itself is attacked, not a twin of its study.
        settings: What the auditor chose.

    Raises:
        InputError: If the folder exists, or the key cannot be had.
    """

    def __init__(
        self,
        tier: "Tier",
        subject: "Subject",
        *,
        out: Path,
        key: Path | None,
        real_records: bool,
        of_release: bool,
        settings: "Mapping[str, Setting]",
    ) -> None:
        check_folder(out)
        self._tier, self._subject, self._out = tier, subject, out
        self._real, self._of_release, self._settings = real_records, of_release, dict(settings)
        self._key: Ed25519PrivateKey = auditor_key(key)
        self._begin = time.monotonic()
        announce(f"claimed: {subject.headline}")

    def finish(self, outcome: Outcome, *, json_output: bool) -> None:
        """Sign and write the report, tell what it says, and leave with the status of its verdict.

        Raises:
            InputError: If it cannot be written.
            typer.Exit: Unless everything is consistent.
        """
        report = self._report(outcome)
        write_folder(self._out, report, picture=outcome.picture)
        show(report, json_output=json_output, folder=self._out)
        leave(report)

    def _report(self, outcome: Outcome) -> "AuditReport":
        from cli.sample import release_hash
        from privacy.audit.report import AuditReport, installed_versions
        from protocol.fingerprint import code_fingerprint

        subject, picture, notes = self._subject, outcome.picture, list(outcome.notes)
        hash_of_release = None if subject.release is None else release_hash(subject.release.folder)
        if hash_of_release is not None and not self._of_release:
            notes.append(
                "What was audited is a twin of the study, not the release itself; the claim is the one of the release "
                f"whose list of checksums has SHA-256 {hash_of_release}."
            )
        return AuditReport(
            audit=self._tier,
            subject=subject.study.name,
            study=subject.hash,
            release=hash_of_release if self._of_release else None,
            claim=subject.headline,
            findings=tuple(outcome.findings),
            demonstrations=tuple(outcome.demonstrations),
            broken_twins=tuple(outcome.broken_twins),
            notes=tuple(notes),
            real_records=self._real,
            picture=None if picture is None else hashlib.sha256(picture).hexdigest(),
            code=code_fingerprint(),
            versions=installed_versions(),
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=round(time.monotonic() - self._begin, 1),
            settings=self._settings,
        ).sign(self._key)


def check_folder(out: Path) -> None:
    """Refuse a folder that exists, before minutes are spent on it.

    Raises:
        InputError: If it exists, or cannot be made.
    """
    if out.exists():
        raise InputError(f"{out} exists.", remedy="Choose a new folder: a report is never overwritten.")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is not a folder.", remedy="Make it first, or choose another one.")


def write_folder(out: Path, report: "AuditReport", *, picture: bytes | None) -> None:
    """Write report, page and picture: the folder is there whole, or not at all.

    Raises:
        InputError: If it exists or cannot be written.
    """
    from evaluation.audit_page.document import audit_page

    page = audit_page(report, picture=picture)
    check_folder(out)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        report.write(draft / REPORT)
        (draft / PAGE).write_text(page, encoding="utf-8")
        if picture is not None:
            (draft / PICTURE).write_bytes(picture)
        # What was computed from real records is for the owner's eyes, until the owner decides otherwise.
        draft.chmod(0o700 if report.real_records else 0o755)
        os.replace(draft, out)  # noqa: PTH105 - Path.replace is the same call; os names what is relied on
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}.", remedy="Choose a folder with room.") from error
    finally:
        # After the move there is nothing left to remove.
        shutil.rmtree(draft, ignore_errors=True)


def show(report: "AuditReport", *, json_output: bool, folder: Path | None = None) -> None:
    """Print what a report says: the verdict, and one line for each finding."""
    if json_output:
        print_json(summary(report) | ({} if folder is None else {"folder": str(folder)}))
        return
    from evaluation.audit_page.wording import CONCLUSIONS, TITLES

    word, meaning = CONCLUSIONS[report.verdict]
    # Whoever signed a report chose its texts: none of them may steer a terminal.
    subject, claim = printable(report.subject), printable(report.claim)
    lines = [f"{word.upper()}: {TITLES[report.audit]} of {subject}.", claim, "", meaning, ""]
    lines += [_line(finding) for finding in report.findings]
    if report.broken_twins:
        caught = sum(bool(twin.caught_by) for twin in report.broken_twins)
        lines.append(f"Broken twins: {caught} of {len(report.broken_twins)} caught.")
    lines += [
        f"NOT CAUGHT{'' if twin.required else ', see what is underpowered'}: {printable(twin.name)}."
        for twin in report.broken_twins
        if not twin.caught_by
    ]
    if folder is not None:
        lines += ["", f"Report: {folder / PAGE} (signed: {folder / REPORT})"]
    if report.real_records:
        lines.append("It was computed from real records, without noise: keep it where they are.")
    sys.stdout.write("\n".join(lines) + "\n")


def summary(report: "AuditReport") -> dict[str, Any]:
    """What a program may want to know of a report; the rest is in its file."""
    return {
        "verdict": report.verdict.value,
        "status": EXIT[report.verdict.value],
        "audit": report.audit.value,
        "subject": report.subject,
        "study": report.study,
        "release": report.release,
        "claim": report.claim,
        "auditor": report.auditor,
        "real_records": report.real_records,
        "findings": [
            {
                "attack": finding.attack,
                "subject": finding.subject,
                "verdict": finding.verdict.value,
                "claimed_epsilon": None if finding.claim is None else finding.claim.epsilon,
                "lower_bound": finding.lower_bound,
                "ceiling": finding.ceiling,
                "measure": finding.measure,
                "attacked": finding.attacked.to_mapping(),
                "canaries": finding.canaries,
                "needed": finding.needed,
            }
            for finding in report.findings
        ],
        "broken_twins": {twin.name: list(twin.caught_by) for twin in report.broken_twins},
    }


def leave(report: "AuditReport") -> None:
    """Leave with the status of a report's verdict.

    Raises:
        typer.Exit: Unless everything is consistent.
    """
    status = EXIT[report.verdict.value]
    if status:
        raise typer.Exit(status)


def _line(finding: "Finding") -> str:
    shown = f"{printable(finding.measure)} {finding.attacked.value:.3f}"
    if finding.lower_bound is not None and finding.claim is not None:
        shown = f"epsilon at least {finding.lower_bound:.3f} of {finding.claim.epsilon:.3f}"
    if finding.needed is not None:
        shown += f"; about {finding.needed:,} canaries or records would be needed instead of {finding.canaries:,}"
    return f"  {finding.verdict.value:<13} {printable(finding.attack)} ({printable(finding.subject)}): {shown}"
