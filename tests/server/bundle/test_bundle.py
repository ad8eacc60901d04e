"""The bundle: complete or absent, true of its release, and never of one in which anything is wrong."""

import hashlib
import html
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import server.bundle.bundle
from privacy.audit.finding import Claim, Finding, Interval, Tier, Verdict
from privacy.audit.report import AuditReport, installed_versions
from privacy.plan import PrivacyPlan
from protocol.errors import InputError, ReleaseError
from protocol.keys import public_hex
from protocol.terms import ContributionKind, Relation
from server.bundle import read_report, write_bundle
from server.bundle.index import index_page
from server.bundle.subject import Subject
from server.bundle.threats import threats
from server.release import Release
from server.verification import ReleaseVerification, read_extract, read_transcript, verify_release
from simulations.federation import simulate

CPU = torch.device("cpu")
DOCUMENTS = {
    "index.html", "statement.html", "model-card.html", "data-sheet.html", "threat-model.html", "verification.json",
    "sbom.cdx.json", "SHA256SUMS",
}  # fmt: skip
RELEASED = {
    "release/study.json", "release/statement.json", "release/statement.txt", "release/provenance.json",
    "release/SHA256SUMS",
}  # fmt: skip
SIGNED = {"release/signed_study.json", "release/SIGNATURE"}


def opened(folder: Path) -> Release:
    return Release.open(folder, device=CPU)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class Page(HTMLParser):
    """What a page shows and where it leads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self._hidden = False
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        assert tag not in ("script", "img", "link", "iframe"), tag
        assert "src" not in found
        if tag == "a":
            self.links.append(found["href"] or "")
        self._hidden = tag == "style"
        if tag not in ("meta", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += " " + " ".join(data.split())


def words(path: Path) -> str:
    page = Page(path)
    assert page.open == []
    return " ".join(page.words.split())


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a signed report of an audit."""

    def write(study: str, *, name: str = "audit", **changes: Any) -> Path:
        interval = Interval(value=0.6, low=0.5, high=0.7, confidence=0.95)
        finding = Finding(
            tier=Tier.MECHANISM, attack="Dirac canary", subject="what one site sends",
            claim=Claim(epsilon=5.0, delta=1e-4, relation=Relation.ADD_REMOVE), lower_bound=4.5, ceiling=4.9,
            measure="AUROC", attacked=interval, baseline=None, control=interval, canaries=1000, needed=None,
            verdict=Verdict.CONSISTENT, words=("Nothing was found.",), curve=None, seconds=1.0,
        )  # fmt: skip
        made = AuditReport(
            **{
                "audit": Tier.MECHANISM, "subject": "tiny", "study": study, "release": None, "claim": "The claim.",
                "findings": (finding,), "real_records": False, "code": "c" * 64, "versions": installed_versions(),
                "created": "2026-01-31T12:00:00Z", "seconds": 2.0, "settings": {},
            } | changes
        ).sign(Ed25519PrivateKey.from_private_bytes(b"a" * 32))  # fmt: skip
        (tmp_path / name).mkdir()
        made.write(tmp_path / name / "report.json")
        return tmp_path / name

    return write


def test_a_bundle_of_a_deployed_release(deployed: Any, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    extracts = [deployed.extract(site) for site in ("north", "south")]
    write_bundle(out, opened(deployed.folder), extracts=extracts, coordinator=public_hex(deployed.coordinator))
    assert files(out) == DOCUMENTS | RELEASED | SIGNED | {"ledgers/north.json", "ledgers/south.json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"], "a draft was left behind"
    assert (out / "release" / "SHA256SUMS").read_bytes() == (deployed.folder / "SHA256SUMS").read_bytes()
    assert [read_extract(out / "ledgers" / f"{one.site}.json") for one in extracts] == extracts
    statement = opened(deployed.folder).statement
    told = words(out / "statement.html")
    assert all(" ".join(line.split()) in told for line in statement.sentences())
    card = words(out / "model-card.html")
    for fact in ("Variational auto-encoder", deployed.study.hash, "north, south", public_hex(deployed.coordinator),
                 "A test.", "by the coordinator's count north 3, south 3", "latent = 2"):  # fmt: skip
        assert fact in card, fact
    assert "simulation" not in card
    sheet = words(out / "data-sheet.html")
    for fact in ("20 to 29", "red, green, blue", "true or false", "boolean, the target", "100 records in all"):
        assert fact in sheet, fact
    index = words(out / "index.html")
    assert statement.headline() in index
    assert "No report of an audit was given" in index
    assert "north: counted again from its entries" in index
    assert "tells the name of the site's data set, when each round was charged" in index
    assert "No ledger was checked" not in index
    assert json.loads((out / "verification.json").read_text("utf-8"))["faults"] == []


def test_checksums_are_those_that_a_tool_checks(deployed: Any, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    write_bundle(out, opened(deployed.folder))
    lines = (out / "SHA256SUMS").read_text("utf-8").splitlines()
    assert {line.split("  ")[1] for line in lines} == files(out) - {"SHA256SUMS"}
    check = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=out, check=False).returncode == 0
    (out / "model-card.html").write_text("better", "utf-8")
    assert subprocess.run(check, cwd=out, check=False, capture_output=True).returncode != 0


def test_pages_load_nothing_and_lead_to_what_is_there(deployed: Any, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    write_bundle(out, opened(deployed.folder), extracts=[deployed.extract("north")])
    for path in out.glob("*.html"):
        assert words(path)
        assert re.search(r"https?://|//", path.read_text("utf-8").split("<body>")[1]) is None
        for link in Page(path).links:
            assert link.startswith("#") or (out / link).is_file(), link
    linked = set(Page(out / "index.html").links) - {"#content"}
    assert linked == files(out) - {"SHA256SUMS", "index.html"}, "everything is linked"


def test_a_release_that_fails_is_not_bundled(deployed: Any, tmp_path: Path) -> None:
    folder = deployed.copy(tmp_path / "release")
    deployed.rewrite(folder, "statement.json", lambda value: value["check"].update(pld=1.0))
    deployed.seal(folder)
    with pytest.raises(ReleaseError, match="claims epsilon 1.0"):
        write_bundle(tmp_path / "bundle", opened(folder))
    with pytest.raises(ReleaseError, match="not by the coordinator"):
        write_bundle(tmp_path / "bundle", opened(deployed.folder), coordinator="ab" * 32)
    wrong = replace(deployed.extract("north"), site="south")
    with pytest.raises(ReleaseError, match="the release's site has the key"):
        write_bundle(tmp_path / "bundle", opened(deployed.folder), extracts=[wrong])
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


class Killed(BaseException):
    """Stands for a process that is no more."""


def test_it_is_complete_or_absent(deployed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, names = opened(deployed.folder), []
    write = server.bundle.bundle._write

    def dying(path: Path, text: str) -> None:
        if path.name == names[-1]:
            raise Killed
        write(path, text)

    monkeypatch.setattr(server.bundle.bundle, "_write", dying)
    for name in ("statement.html", "sbom.cdx.json", "index.html", "SHA256SUMS"):
        names.append(name)
        with pytest.raises(Killed):
            write_bundle(tmp_path / "bundle", release)
        assert list(tmp_path.iterdir()) == [], name
    monkeypatch.undo()
    write_bundle(tmp_path / "bundle", release)
    with pytest.raises(InputError, match="exists"):
        write_bundle(tmp_path / "bundle", release)


def test_audits_are_drawn_anew_and_told_whatever_they_found(
    deployed: Any, report: Callable[..., Path], tmp_path: Path
) -> None:
    folder = report(deployed.study.hash)
    (folder / "report.html").write_text("<p>Nothing to see here.</p>", "utf-8")
    digest = hashlib.sha256((deployed.folder / "SHA256SUMS").read_bytes()).hexdigest()
    of_release = report(deployed.study.hash, name="second", release=digest)
    write_bundle(tmp_path / "bundle", opened(deployed.folder), reports=[read_report(folder), read_report(of_release)])
    first, second = (tmp_path / "bundle" / "audits" / name for name in ("mechanism", "mechanism-2"))
    assert (first / "report.json").read_bytes() == (folder / "report.json").read_bytes()
    assert "Nothing to see here" not in (first / "report.html").read_text("utf-8")
    assert "Dirac canary" in (first / "report.html").read_text("utf-8")
    assert (second / "report.json").is_file()
    index = words(tmp_path / "bundle" / "index.html")
    assert "Mechanism: Consistent : What was attacked: a twin of the study, not this release. 2026-01-31" in index
    assert "It audited other code than the coordinator ran: fingerprint cccccccccccccccc" in index
    assert index.count("a twin of the study, not this release.") == 2, "only two kinds of audit attack the release"
    assert "Keep this bundle where" not in index
    assert {"audits/mechanism/report.html", "audits/mechanism-2/report.html"} <= set(
        Page(tmp_path / "bundle" / "index.html").links
    )


@pytest.mark.parametrize(
    ("audit", "of_release", "attacked"),
    [
        (Tier.MECHANISM, True, "a twin of the study, not this release."),
        (Tier.CHANNEL, True, "a twin of the study, not this release."),
        (Tier.MODEL, False, "a twin of the study, not this release."),
        (Tier.RELEASE, False, "a twin of the study, not this release."),
        (Tier.MODEL, True, "this release's weights, and twins of its study."),
        (Tier.RELEASE, True, "this release's synthetic records."),
    ],
)
def test_the_index_says_what_an_audit_attacked(
    audit: Tier,
    of_release: bool,
    attacked: str,
    deployed: Any,
    report: Callable[..., Path],  # noqa: FBT001 - a case
) -> None:
    subject = Subject.of(release := opened(deployed.folder), ReleaseVerification(passed=(), remarks=(), faults=()))
    digest = hashlib.sha256((release.folder / "SHA256SUMS").read_bytes()).hexdigest()
    given = read_report(report(deployed.study.hash, audit=audit, release=digest if of_release else None))
    page = index_page(subject, reports={"one": given}, files=[])
    assert f"What was attacked: {attacked}" in html.unescape(page)


def test_an_audit_of_something_else_or_one_that_was_changed_is_refused(
    deployed: Any, report: Callable[..., Path], tmp_path: Path
) -> None:
    for number, (study, changes, message) in enumerate(
        (
            ("d" * 64, {}, "another study, dddd"),
            (deployed.study.hash, {"release": "e" * 64}, "another release of the study"),
            (deployed.study.hash, {"real_records": True}, "has to stay where they are"),
        )
    ):
        given = read_report(report(study, name=f"audit-{number}", **changes))
        with pytest.raises(InputError, match=message):
            write_bundle(tmp_path / "bundle", opened(deployed.folder), reports=[given])
    changed = report(deployed.study.hash, name="changed") / "report.json"
    changed.write_text(changed.read_text("utf-8").replace('"lower_bound":4.5', '"lower_bound":0.5'), "utf-8")
    with pytest.raises(InputError, match="changed after it was signed"):
        read_report(changed)
    assert not (tmp_path / "bundle").exists()


def test_what_was_computed_from_real_records_is_kept_and_marked(
    deployed: Any, report: Callable[..., Path], tmp_path: Path
) -> None:
    given = read_report(report(deployed.study.hash, real_records=True))
    write_bundle(tmp_path / "bundle", opened(deployed.folder), reports=[given], confidential=True)
    assert "Keep this bundle where the real records are." in words(tmp_path / "bundle" / "index.html")
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o700
    write_bundle(tmp_path / "open", opened(deployed.folder), confidential=True)
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o755


def test_a_picture_that_is_not_the_reports_is_refused(
    deployed: Any, report: Callable[..., Path], tmp_path: Path
) -> None:
    picture = b"\x89PNG what an attacker sees"
    folder = report(deployed.study.hash, picture=hashlib.sha256(picture).hexdigest())
    (folder / "channel.png").write_bytes(picture)
    write_bundle(tmp_path / "bundle", opened(deployed.folder), reports=[read_report(folder)])
    assert (tmp_path / "bundle" / "audits" / "mechanism" / "channel.png").read_bytes() == picture
    (folder / "channel.png").write_bytes(picture + b"!")
    with pytest.raises(InputError, match="not the picture of this report"):
        read_report(folder)


def threat_words(release: Release) -> str:
    told = threats(Subject.of(release, verify_release(release)))
    return "\n".join(f"{one.against}: {one.holds} {one.rests_on}" for one in told)


def test_the_threat_model_of_a_secure_sum_has_its_own_numbers(deployed_sum: Any, tmp_path: Path) -> None:
    release = opened(deployed_sum.folder)
    told = threat_words(release)
    shares = PrivacyPlan.from_study(deployed_sum.study).shares
    assert shares is not None
    assert (shares.survivors, shares.honest, shares.threshold, shares.most_colluders) == (5, 4, 5, 3)
    for fact in (
        "It learns sums over at least 5 of 6 sites, and no site's own vector.",
        "where at least 5 sites help",
        "only while the secure sum holds, and no more sites drop out or collude than the study states",
        "while they are at most 1.",
        f"multiplier {shares.share_multiplier:.3g}, so that 4 of them make the whole noise",
        "with more than 3 the argument for the masks ends",
        "while at most 1 are missing from a sum",
    ):
        assert fact in told, fact
    assert "has to be trusted" not in told
    transcripts = [read_transcript(path) for path in deployed_sum.told.values()]
    write_bundle(tmp_path / "bundle", release, transcripts=transcripts)
    assert {f"transcripts/{site}.json" for site in "abcdef"} <= files(tmp_path / "bundle")
    kept = [read_transcript(tmp_path / "bundle" / "transcripts" / f"{site}.json") for site in "abcdef"]
    assert verify_release(release, transcripts=kept).faults == ()


def test_the_threat_model_without_a_secure_sum_needs_no_numbers(deployed: Any) -> None:
    told = threat_words(opened(deployed.folder))
    assert "The same for all others, however many they are." in told
    assert "with every message that it receives" in told
    assert "sum over at least" not in told
    assert "A site's own operator: Nothing." in told


def test_the_threat_model_claims_nothing_of_where_the_weights_come_from(deployed: Any, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", opened(deployed.folder))
    model = words(tmp_path / "bundle" / "threat-model.html")
    assert "Whether its weights come of this run: they are what the coordinator released." in model
    assert "Nothing ties the generator's weights" in words(tmp_path / "bundle" / "index.html")


def test_local_training_under_a_secure_sum_has_no_shares(deployed_sum: Any) -> None:
    study = deployed_sum.study
    local = replace(study, training=replace(study.training, strategy=ContributionKind.UPDATES))
    release = opened(deployed_sum.folder)
    subject = Subject.of(release, verify_release(release))
    local_plan = PrivacyPlan.from_study(local)
    told = "\n".join(
        one.rests_on for one in threats(replace(subject, release=replace(release, study=local), plan=local_plan))
    )
    assert "make the whole noise" not in told
    assert "Each site adds the whole noise itself, and nobody else knows it." in told


def test_a_release_without_privacy_says_nothing_else(
    given_noise: Callable[..., Any], tiny_records: Callable[..., Any], tmp_path: Path
) -> None:
    parts = {name: tiny_records(20) for name in ("a", "b")}
    release = simulate(given_noise(0.0), parts, release=tmp_path / "release")
    write_bundle(tmp_path / "bundle", release)
    model = words(tmp_path / "bundle" / "threat-model.html")
    assert "Everybody Nothing is promised. NOT PRIVATE" in model
    assert "What it rests on" not in model
    card, sheet = (words(tmp_path / "bundle" / f"{name}.html") for name in ("model-card", "data-sheet"))
    for page in (card, sheet):
        assert "a row may repeat a real record" in page
        assert "Noise hides" not in page
    assert "adds no noise" in card
    assert "0: no noise" in card
    assert "The statement covers" not in sheet


def test_a_simulation_says_so_on_every_page(
    tiny_study: Callable[..., Any], tiny_records: Callable[..., Any], tmp_path: Path
) -> None:
    parts = {name: tiny_records(20) for name in ("a", "b")}
    release = simulate(tiny_study(), parts, release=tmp_path / "release")
    write_bundle(tmp_path / "bundle", release)
    assert files(tmp_path / "bundle") == DOCUMENTS | RELEASED
    for path in (tmp_path / "bundle").glob("*.html"):
        assert re.search("simulation|SIMULATED", words(path)), path.name


def test_what_a_study_says_cannot_become_markup(
    tiny_study: Callable[..., Any], tiny_records: Callable[..., Any], tmp_path: Path
) -> None:
    study = tiny_study(study={"name": "sly", "purpose": '<script>alert("x")</script><img src=x>'})
    release = simulate(study, {name: tiny_records(20) for name in ("a", "b")}, release=tmp_path / "release")
    write_bundle(tmp_path / "bundle", release)
    for path in (tmp_path / "bundle").glob("*.html"):
        words(path)  # refuses such elements
    assert '<script>alert("x")</script>' in words(tmp_path / "bundle" / "model-card.html")
