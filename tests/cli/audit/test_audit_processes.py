"""Each audit, most as processes, on a study so small that it takes seconds: a signed report, a page, and a status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.audit.outcome import EXIT
from privacy.audit.finding import Tier, Verdict
from privacy.audit.report import AuditReport
from simulations.audit.mechanism import mutants
from simulations.audit.model.audit import SILENT
from simulations.audit.model.audit import WITHOUT_PRIVACY as TWIN_WITHOUT_PRIVACY
from simulations.audit.model.release import WITHOUT_PRIVACY
from simulations.audit.release.audit import COPIER

ROOT = Path(__file__).parents[3]


def audited(tier: Tier, *arguments: object, out: Path) -> AuditReport:
    """Run an audit to its end; its status, its output and its report must tell the same."""
    command = [sys.executable, "-m", "cli.app", "audit", tier.value, *map(str, arguments), "--out", str(out), "--json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert "Traceback" not in done.stderr, done.stderr
    report = AuditReport.read(out / "report.json")
    assert done.returncode == EXIT[report.verdict.value], done.stderr
    assert json.loads(done.stdout)["verdict"] == report.verdict.value
    assert report.audit is tier
    assert {finding.tier for finding in report.findings} == {tier}
    page = (out / "report.html").read_text("utf-8")
    assert all(heading in page for heading in ("What was claimed", "What was tried", "What it cannot show"))
    return report


@pytest.mark.slow
def test_the_mechanism(cloister, study_file, tmp_path, monkeypatch):
    """In this process, with two broken twins for all of them: those are audited one by one elsewhere."""
    monkeypatch.setattr(mutants, "MUTANTS", mutants.MUTANTS[:2])
    status, _, err = cloister("audit", "mechanism", study_file, "--minutes", "0", "--out", tmp_path / "audit")
    report = AuditReport.read(tmp_path / "audit" / "report.json")
    assert status == EXIT[report.verdict.value], err
    assert len(report.broken_twins) == 2
    assert not report.missed
    assert not [finding for finding in report.findings if "broken twins" in finding.attack]
    bounds = [finding.lower_bound for finding in report.findings if finding.lower_bound is not None]
    assert max(bounds) > 0.0
    # An honest mechanism raises a false alarm once in twenty audits at the most, and none of another kind.
    assert report.verdict in {Verdict.CONSISTENT, Verdict.VIOLATED}


@pytest.mark.slow
def test_the_model_and_the_weights_of_a_release(small_release, records_file, tmp_path):
    files = [records_file(f"records-{seed}.csv", count=400, seed=seed) for seed in (8, 9)]
    options = ("--real", files[0], "--holdout", files[1], "--canaries", 40, "--minutes", 5)
    report = audited(Tier.MODEL, small_release, *options, out=tmp_path / "audit")
    assert report.real_records
    assert len(report.release or "") == 64
    # Only what the attacks of this very audit were made on.
    assert [twin.name for twin in report.broken_twins] == [WITHOUT_PRIVACY, SILENT, TWIN_WITHOUT_PRIVACY]
    ran = {finding.attack for finding in report.findings}
    assert {attack for twin in report.broken_twins for attack in twin.caught_by} <= ran
    assert not report.missed
    # Nine attacks share one error, half of it for those on the weights.
    assert {finding.attacked.confidence for finding in report.findings} == {1.0 - 0.025 / 2, 1.0 - 0.025 / 7}
    assert any("the 400 records given as real" in note for note in report.notes)
    on = {finding.subject for finding in report.findings}
    assert on == {"twin of small", "release of small"}
    assert {finding.canaries for finding in report.findings if finding.subject == "twin of small"} == {40}
    # With so few even a model without privacy does not show it.
    assert Verdict.UNDERPOWERED in {finding.verdict for finding in report.findings}


@pytest.mark.slow
def test_a_release_that_repeats_real_records_is_caught(cloister, small_release, tmp_path):
    """What is given as real are the very records that the audit will draw."""
    files = {name: tmp_path / f"{name}.csv" for name in ("real", "holdout")}
    for seed, path in enumerate(files.values()):
        assert cloister("sample", small_release, "-q", "-n", 400, "--seed", seed, "-o", path)[0] == 0
    options = [part for name, path in files.items() for part in (f"--{name}", path)]
    report = audited(Tier.RELEASE, small_release, *options, out=tmp_path / "audit")
    assert report.verdict is Verdict.VIOLATED
    assert report.real_records
    assert len(report.release or "") == 64
    assert any(note.startswith("Data quality, no verdict: ") for note in report.notes)
    assert any("probably not trained on" in note for note in report.notes)
    assert [twin.name for twin in report.broken_twins] == [COPIER]
    assert report.broken_twins[0].caught_by
    assert (tmp_path / "audit").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_the_channel(study_file, tmp_path):
    report = audited(Tier.CHANNEL, study_file, "--minutes", 0.01, out=tmp_path / "audit")
    assert {finding.claim is None for finding in report.findings} == {False}
    assert {finding.claim is None for finding in report.demonstrations} == {True}
    assert [twin.name.partition(":")[0] for twin in report.broken_twins] == ["noise missing"] * len(report.findings)
    assert (tmp_path / "audit" / "channel.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in (tmp_path / "audit" / "report.html").read_text("utf-8")
    (tmp_path / "audit" / "channel.png").write_bytes(b"another picture")
    done = subprocess.run(
        [sys.executable, "-m", "cli.app", "audit", "check", str(tmp_path / "audit")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is not the picture of this report" in done.stderr
