"""Audit reports that go into a bundle: signed, about this release or its study, and drawn anew from what is signed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from privacy.audit.report import AuditReport
from protocol.errors import InputError
from server.bundle.subject import Subject

REPORT, PAGE, PICTURE = "report.json", "report.html", "channel.png"
_LEAVE_OUT = "Leave it out of this bundle."


@dataclass(frozen=True, kw_only=True)
class GivenReport:
    """A report as it was given.

    Attributes:
        path: The file.
        report: What it says; its signature holds under the key that it names.
        picture: PNG that goes with it, where it lay beside it.
    """

    path: Path
    report: AuditReport
    picture: bytes | None


def read_report(path: Path) -> GivenReport:
    """Read a report.json, or the one in a folder, with its picture.

    Raises:
        InputError: If it cannot be read, was changed, or another picture lies beside it.
    """
    file = path / REPORT if path.is_dir() else path
    report = AuditReport.read(file)
    place = file.with_name(PICTURE)
    picture = place.read_bytes() if report.picture is not None and place.is_file() else None
    if picture is not None and hashlib.sha256(picture).hexdigest() != report.picture:
        raise InputError(f"{place} is not the picture of this report.", remedy="Get it again from whoever made it.")
    return GivenReport(path=file, report=report, picture=picture)


def check_report(given: GivenReport, subject: Subject, *, confidential: bool) -> None:
    """Refuse a report that is about something else, or that may not leave the site.

    Raises:
        InputError: If it is one.
    """
    report, release = given.report, subject.release
    if report.study != release.study.hash:
        raise InputError(f"{given.path} is an audit of another study, {report.study[:12]}.", remedy=_LEAVE_OUT)
    if report.release is not None and report.release != release_digest(release.folder):
        raise InputError(f"{given.path} is an audit of another release of the study.", remedy=_LEAVE_OUT)
    if report.real_records and not confidential:
        raise InputError(
            f"{given.path} was computed from real records, without noise: it has to stay where they are.",
            remedy="Leave it out, or make a bundle that stays there as well: --confidential.",
        )


def release_digest(folder: Path) -> str:
    """SHA-256 of a release's list of checksums, by which audits name it."""
    return hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()
