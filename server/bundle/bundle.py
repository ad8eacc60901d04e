"""The bundle: everything that somebody needs who has to judge a release, in one folder.

::

    index.html              what is here, what was checked, and what was not
    statement.html          the privacy statement in words
    model-card.html         what was trained, for what, how
    data-sheet.html         what synthetic records hold and must not be used for
    threat-model.html       against whom the statement holds, by what
    verification.json       what was checked, for programs
    sbom.cdx.json           the software, as CycloneDX 1.6
    release/                the release's own files but the generator, whose checksum is among them
    ledgers/SITE.json       extracts of sites' ledgers, as they signed them
    transcripts/SITE.json   sites' transcripts of the secure sum, as they signed them
    audits/NAME/            signed reports of audits, each with its page
    SHA256SUMS              of all of the above

A release in which anything is wrong gets no bundle. It is written beside its final place and moved there whole.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from evaluation.audit_page.document import audit_page
from evaluation.page.skeleton import plain_page, section, sentences
from privacy.ledger import LedgerExtract
from privacy.secure_sum import Transcript
from protocol.digest import canonical_json
from server.bundle.data_sheet import data_sheet
from server.bundle.index import index_page
from server.bundle.materials import bill_of_materials
from server.bundle.model_card import model_card
from server.bundle.reports import PAGE, PICTURE, REPORT, GivenReport, check_report
from server.bundle.subject import Subject
from server.bundle.threats import threat_model
from server.release import Release
from server.verification import verify_release
from server.whole_folder import check_new, whole_folder

_WEIGHTS, _SUMS = ("generator.safetensors", "start.safetensors"), "SHA256SUMS"


def write_bundle(
    folder: Path,
    release: Release,
    *,
    extracts: Sequence[LedgerExtract] = (),
    transcripts: Sequence[Transcript] = (),
    reports: Sequence[GivenReport] = (),
    coordinator: str | None = None,
    confidential: bool = False,
) -> Subject:
    """Verify a release and write its bundle; an existing folder is never touched.

    Args:
        folder: Where; it must not exist.
        release: The release.
        extracts: Of sites' ledgers.
        transcripts: Of sites, where there was a secure sum.
        reports: Of audits.
        coordinator: The coordinator's key as the reader knows it.
        confidential: Whether the bundle stays where the real records are, so that it may hold what was computed from
            them.

    Returns:
        What the bundle is about, with what was checked and what was not.

    Raises:
        ReleaseError: If anything is wrong with the release.
        InputError: If a report is about something else or may not leave, or the folder exists or cannot be written.
    """
    check_new(folder)
    verification = verify_release(release, transcripts=transcripts, extracts=extracts, coordinator=coordinator)
    subject = Subject.of(release, verification)
    for given in reports:
        check_report(given, subject, confidential=confidential)
    private = any(given.report.real_records for given in reports)
    with whole_folder(folder, confidential=private) as draft:
        _write_documents(draft, subject)
        _copy_release(draft / "release", release.folder)
        for extract in extracts:
            _write(draft / "ledgers" / f"{extract.site}.json", extract.to_text())
        for transcript in transcripts:
            text = canonical_json(transcript.to_mapping()).decode() + "\n"
            _write(draft / "transcripts" / f"{transcript.site}.json", text)
        named = _named(reports)
        for name, given in named.items():
            _write_report(draft / "audits" / name, given)
        _write(draft / "index.html", index_page(subject, reports=named, files=_files(draft)))
        _write(draft / _SUMS, _sums(draft))
    return subject


def _write_documents(draft: Path, subject: Subject) -> None:
    """Write what is made for this bundle."""
    statement = subject.release.statement.sentences()
    page = plain_page(
        title=f"Privacy statement: {subject.name}",
        lead=statement[0],
        body=[section("In words", "Word for word what the release itself says.", sentences(statement))],
    )
    _write(draft / "statement.html", page)
    _write(draft / "model-card.html", model_card(subject))
    _write(draft / "data-sheet.html", data_sheet(subject))
    _write(draft / "threat-model.html", threat_model(subject))
    _write(draft / "verification.json", json.dumps(asdict(subject.verification), indent=2) + "\n")
    _write(draft / "sbom.cdx.json", bill_of_materials() + "\n")


def _copy_release(target: Path, source: Path) -> None:
    """Copy the release's files but the generator: they name it by its checksum, and are signed together."""
    target.mkdir()
    for line in (source / _SUMS).read_text(encoding="utf-8").splitlines():
        name = line.split("  ", 1)[1]
        if name not in _WEIGHTS:
            shutil.copyfile(source / name, target / name)
    for name in (_SUMS, "SIGNATURE"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def _named(reports: Sequence[GivenReport]) -> dict[str, GivenReport]:
    """Name reports by what they looked at; several of a kind are numbered."""
    named: dict[str, GivenReport] = {}
    for given in reports:
        kind, number = given.report.audit.value, 1
        while (name := kind if number == 1 else f"{kind}-{number}") in named:
            number += 1
        named[name] = given
    return named


def _write_report(target: Path, given: GivenReport) -> None:
    """Write the signed report as it is, and its page drawn anew from what is signed."""
    target.mkdir(parents=True)
    (target / REPORT).write_bytes(given.report.to_bytes())
    if given.picture is not None:
        (target / PICTURE).write_bytes(given.picture)
    _write(target / PAGE, audit_page(given.report, picture=given.picture))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _files(draft: Path) -> list[str]:
    return sorted(path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file())


def _sums(draft: Path) -> str:
    """Checksums in the form that sha256sum reads."""
    names = [name for name in _files(draft) if name != _SUMS]
    return "".join(f"{hashlib.sha256((draft / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
