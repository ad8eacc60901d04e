"""The page of an audit: one HTML file, complete in itself, from a report."""

import hashlib

from evaluation.audit_page import wording
from evaluation.audit_page.sections import (
    claim_section,
    demonstration_section,
    limits_section,
    notes_section,
    origin_section,
    showed_section,
    tried_section,
    twins_section,
    verdict_section,
)
from evaluation.audit_page.skeleton import page
from privacy.audit.report import AuditReport
from protocol.errors import InputError


def audit_page(report: AuditReport, *, picture: bytes | None = None) -> str:
    """Draw the page of a report: claim, attempt, outcome, limits. Nothing is loaded by it, and no script runs.

    Args:
        report: The report.
        picture: PNG that goes with it; None leaves it out.

    Returns:
        The whole HTML document.

    Raises:
        InputError: If the picture is not the report's.
    """
    if picture is not None and hashlib.sha256(picture).hexdigest() != report.picture:
        raise InputError("The picture is not the one of the report.", remedy="Leave it out, or put back the right one.")
    title = f"Privacy audit: {wording.TITLES[report.audit]} of {report.subject}"
    lead = (
        "An audit is an experiment that tries to break a promise. This page tells what was claimed, what was tried, "
        "what it showed, and what it cannot show."
    )
    sections = [
        verdict_section(report),
        claim_section(report),
        tried_section(report),
        showed_section(report, picture),
        demonstration_section(report),
        limits_section(report),
        twins_section(report),
        notes_section(report),
        origin_section(report),
    ]
    return page(title=title, lead=lead, body=[section for section in sections if section])
