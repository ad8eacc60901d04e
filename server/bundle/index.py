"""The first page of a bundle: the promise, the documents, what was checked and what was not."""

from collections.abc import Mapping, Sequence
from html import escape

from evaluation.audit_page.wording import CONCLUSIONS, TITLES
from evaluation.page.skeleton import plain_page, section, sentences
from privacy.audit.finding import Tier
from privacy.audit.report import AuditReport
from server.bundle.reports import PAGE, GivenReport
from server.bundle.subject import Subject

_DOCUMENTS = {
    "statement.html": ("Privacy statement", "What is promised to whom, in words, and how it was worked out."),
    "threat-model.html": ("Threat model", "Against whom the statement holds, by what, and where it ends."),
    "model-card.html": ("Model card", "What was trained, for what, and how."),
    "data-sheet.html": ("Data sheet", "What synthetic records hold, and what they must not be used for."),
    "sbom.cdx.json": (
        "Software bill of materials",
        "Cloister and everything that it needs, as installed where this bundle was made (CycloneDX 1.6). Which"
        " versions the coordinator names is in release/provenance.json.",
    ),
    "verification.json": ("Verification", "What was checked when this bundle was made, for programs."),
}
_TWIN = "a twin of the study, not this release"
# Only these look at a release itself. Whatever else a report names a release for, what it attacked was a twin.
_ATTACKED = {
    Tier.RELEASE: "this release's synthetic records",
    Tier.MODEL: "this release's weights, and twins of its study",
}
_ABOUT_FILES = (
    "The generator itself is not here: SHA256SUMS in the folder release names it by its checksum. Whoever has the whole"
    " release can check everything again. The files of this bundle are listed in its own SHA256SUMS."
)
_EXTRACTS = (
    " An extract of a ledger tells the name of the site's data set, when each round was charged, and how many noisy"
    " sums were charged for other studies in between."
)
_KEEP = (
    "Keep this bundle where the real records are. It holds an audit that was computed from real records, without noise:"
    " no privacy statement covers that."
)


def index_page(subject: Subject, *, reports: Mapping[str, GivenReport], files: Sequence[str]) -> str:
    """Return the page.

    Args:
        subject: The release.
        reports: Of audits, by the name of their folder.
        files: Every other file of the bundle, as paths in it.
    """
    verification = subject.verification
    body = [
        _warnings(subject, reports),
        section("Documents", "Each is complete in itself.", _links(_DOCUMENTS)),
        _audits(subject, reports),
        section(
            "What was checked",
            "Offline, when this bundle was made, by: cloister verify. All of it held.",
            sentences(verification.passed),
        ),
        section(
            "What was not checked",
            "",
            sentences(verification.remarks),
        ),
        section(
            "All files",
            _ABOUT_FILES + (_EXTRACTS if any(name.startswith("ledgers/") for name in files) else ""),
            _links({name: (name, "") for name in files}),
        ),
    ]
    return plain_page(
        title=f"{subject.name}: documents and evidence",
        lead=subject.release.statement.headline(),
        body=[part for part in body if part],
        footer="Nobody signed this page; what is signed says so.",
    )


def _warnings(subject: Subject, reports: Mapping[str, GivenReport]) -> str:
    told = [subject.simulated_words] if subject.simulated_words else []
    if any(given.report.real_records for given in reports.values()):
        told.append(_KEEP)
    return "".join(f'<aside class="warning" role="note">{escape(text)}</aside>' for text in told)


def _audits(subject: Subject, reports: Mapping[str, GivenReport]) -> str:
    """One line for each audit, whatever it found."""
    if not reports:
        return section("Audits", "No report of an audit was given for this bundle.")
    lines = {f"audits/{name}/{PAGE}": _audit_line(subject, given) for name, given in reports.items()}
    return section(
        "Audits",
        "Experiments that try to break the statement; most attack a twin of the study: the same code and terms on the"
        " auditor's machine. No verdict says that something is safe. Each is signed by its"
        " auditor; whose key that is must be known from elsewhere.",
        _links(lines),
    )


def _audit_line(subject: Subject, given: GivenReport) -> tuple[str, str]:
    report = given.report
    told = f"What was attacked: {_attacked(report)}. {report.created[:10]}, signed with key {report.auditor}."
    if report.code != subject.provenance.code:
        told += f" It audited other code than the coordinator ran: fingerprint {report.code[:16]}."
    return f"{TITLES[report.audit].capitalize()}: {CONCLUSIONS[report.verdict][0]}", told


def _attacked(report: AuditReport) -> str:
    """What an audit looked at: the release itself where it did, and otherwise a twin."""
    return _TWIN if report.release is None else _ATTACKED.get(report.audit, _TWIN)


def _links(targets: Mapping[str, tuple[str, str]]) -> str:
    """A list of links, each with a sentence."""
    lines = (
        f'<li><a href="{escape(path)}">{escape(name)}</a>{f": {escape(told)}" if told else ""}</li>'
        for path, (name, told) in targets.items()
    )
    return f'<div class="panel told"><ul>{"".join(lines)}</ul></div>'
