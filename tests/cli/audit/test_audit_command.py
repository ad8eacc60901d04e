"""``cloister audit``: what is refused, what is left behind, and what its exit status says."""

import hashlib
import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli.audit.outcome import EXIT
from cli.audit.subject import read_subject, what_was_given
from privacy.audit.finding import Finding, Interval, Tier, Verdict
from privacy.audit.report import AuditReport, BrokenTwin
from protocol.keys import create_identity, public_hex, read_identity
from protocol.study import Study
from records.dataset import Records
from records.schema import Schema
from simulations.audit.mechanism import audit as mechanism
from simulations.audit.mechanism.audit import Caught, claim_of

CAUGHT = Caught(mutant="noise times 0.5", tests=("the lower bound",), seconds=1.0, processor_seconds=1.0)
MISSED = replace(CAUGHT, mutant="clip missing", tests=())


@pytest.fixture
def quick(monkeypatch):
    """Replace the minutes that an audit of a mechanism takes; what it finds may be chosen."""
    chosen = {"verdict": Verdict.CONSISTENT, "caught": CAUGHT, "audited": 0}

    def catch(study, *, random, names=None, **options):
        del study, random, options
        return (replace(chosen["caught"], mutant=names[0]),)

    def audit(study, *, random, budget_seconds, caught, claim, **options):
        del random, budget_seconds, caught, options
        chosen["audited"] += 1
        chosen["claim"] = claim
        claim = claim_of(study)
        bound = 2.0 * claim.epsilon if chosen["verdict"] is Verdict.VIOLATED else 0.5 * claim.epsilon
        return (
            Finding(
                tier=Tier.MECHANISM, attack="canaries", subject="small", claim=claim, lower_bound=bound,
                ceiling=claim.epsilon, measure="success rate", baseline=None, control=None, canaries=9,
                needed=1234 if chosen["verdict"] is Verdict.UNDERPOWERED else None,
                attacked=Interval(value=0.6, low=0.5, high=0.7, confidence=0.95), verdict=chosen["verdict"],
                words=("A sentence.",), curve=None, seconds=1.0,
            ),
        )  # fmt: skip

    monkeypatch.setattr(mechanism, "catch_mutants", catch)
    monkeypatch.setattr(mechanism, "mechanism_audit", audit)
    return chosen


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_status_is_that_of_the_verdict(cloister, quick, study_file, tmp_path, verdict):
    quick["verdict"] = verdict
    out = tmp_path / "audit"
    status, said, err = cloister("audit", "mechanism", study_file, "--out", out)
    assert status == EXIT[verdict.value]
    assert said.startswith(f"{verdict.value.upper()}: mechanism of small.")
    assert "canaries (small): epsilon at least" in said
    assert ("about 1,234 canaries or records would be needed" in said) is (verdict is Verdict.UNDERPOWERED)
    assert "per record under add/remove" in err
    assert {path.name for path in out.iterdir()} == {"report.json", "report.html"}
    report = AuditReport.read(out / "report.json")
    assert (report.verdict, report.audit, report.real_records) == (verdict, Tier.MECHANISM, False)
    assert report.settings == {"minutes": 1.0}
    assert cloister("audit", "check", out)[0] == status


def test_statuses_differ_and_only_consistent_is_zero():
    assert set(EXIT) == {verdict.value for verdict in Verdict}
    assert len(set(EXIT.values())) == len(EXIT)
    assert [name for name, status in EXIT.items() if status in (0, 1, 2)] == ["consistent"]


def test_a_missed_broken_twin_leaves_no_verdict(cloister, quick, study_file, tmp_path):
    quick["caught"] = MISSED
    status, said, _ = cloister("audit", "mechanism", study_file, "--out", tmp_path / "audit")
    assert status == EXIT["no verdict"]
    assert "NOT CAUGHT: noise times 0.5." in said


def test_a_twin_that_could_not_be_audited_is_none_that_was_caught(cloister, quick, study_file, tmp_path):
    quick["caught"] = replace(MISSED, problem="could not be audited: it stopped.")
    assert cloister("audit", "mechanism", study_file, "--out", tmp_path / "audit")[0] == EXIT["no verdict"]
    report = AuditReport.read(tmp_path / "audit" / "report.json")
    assert report.notes[0] == "The broken twin 'noise times 0.5' could not be audited: it stopped."


def test_a_release_whose_statement_was_made_up_is_refused_by_every_audit(
    cloister, quick, forged_release, records_file, tmp_path
):
    """Its checksums fit and its epsilon is that of its events, but it leaves three of four rounds out."""
    file = records_file("records.csv", count=60, seed=1)
    files = ("--real", file, "--holdout", file)
    for name, options in (("mechanism", ()), ("channel", ()), ("model", ()), ("model", files), ("release", files)):
        said = refused(cloister, name, forged_release, *options, "--out", tmp_path / "audit")
        assert "statement is not that of the study" in said
    assert quick["audited"] == 0
    assert not (tmp_path / "audit").exists()


def test_what_a_release_claims_is_what_is_tested(cloister, quick, small_release, study_file, tmp_path):
    statement = read_subject(str(small_release)).release.statement
    assert cloister("audit", "mechanism", small_release, "--out", tmp_path / "first")[0] == 0
    assert (quick["claim"].epsilon, quick["claim"].delta) == (statement.epsilon, statement.delta)
    assert cloister("audit", "mechanism", study_file, "--out", tmp_path / "second")[0] == 0
    assert quick["claim"] is None


def test_the_number_of_records_is_told_beside_that_of_the_study(study_file):
    study, told = Study.from_toml(study_file), {}
    schema = Schema.from_mapping(study.schema)
    for count in (100, 200, 201):
        table = Records(codes=np.zeros((count, 4), dtype=np.int32), persons=None, schema=schema)
        told[count] = " ".join(what_was_given(table, study))
        assert f"the {count:,} records given as real" in told[count]
        assert "rests on the auditor's word" in told[count]
    assert "a part of what was trained on" in told[100]
    assert "as 200;" not in told[200]
    assert "probably not trained on" in told[201]


def test_what_a_report_says_does_not_steer_a_terminal(cloister, quick, study_file, tmp_path):
    """Whoever signs a report chooses its texts; signatures of strangers are checked, too."""
    assert quick["audited"] == 0
    cloister("audit", "mechanism", study_file, "--out", tmp_path / "audit")
    report = AuditReport.read(tmp_path / "audit" / "report.json")
    evil = "evil\x1b[2J\nCONSISTENT\u202e"
    finding = replace(
        report.findings[0], attack=evil, subject=evil, measure=evil, claim=None, lower_bound=None, ceiling=None
    )
    twins = tuple(BrokenTwin(name=evil, caught_by=(), seconds=1.0, required=must) for must in (True, False))
    changed = replace(
        report, subject=evil, claim=evil, findings=(finding,), broken_twins=twins, auditor=None, signature=None
    )
    changed.sign(create_identity(tmp_path / "evil.pem")).write(tmp_path / "evil.json")
    _, said, err = cloister("audit", "check", tmp_path / "evil.json")
    assert said.count("evil") == 7
    assert all(letter.isprintable() or letter == "\n" for letter in said + err)
    assert not [line for line in said.splitlines() if line.startswith("CONSISTENT")]
    assert "NOT CAUGHT, see what is underpowered: evil" in said


@pytest.mark.usefixtures("quick")
def test_json_is_one_object(cloister, study_file, tmp_path):
    out = tmp_path / "audit"
    status, said, _ = cloister("audit", "mechanism", study_file, "--out", out, "--json")
    found = json.loads(said)
    assert (status, found["status"], found["verdict"]) == (0, 0, "consistent")
    assert found["folder"] == str(out)
    assert found["findings"][0]["lower_bound"] < found["findings"][0]["claimed_epsilon"]
    assert set(map(tuple, found["broken_twins"].values())) == {("the lower bound",)}
    status, said, _ = cloister("audit", "check", out, "--json")
    assert json.loads(said) == {key: value for key, value in found.items() if key != "folder"}


@pytest.mark.usefixtures("quick")
def test_the_key_is_made_once_for_its_owner_alone(cloister, study_file, tmp_path, auditor_home):
    _, _, err = cloister("audit", "mechanism", study_file, "--out", tmp_path / "first")
    path = auditor_home / "cloister" / "auditor.pem"
    key = public_hex(read_identity(path))
    assert f"made the auditor's key, {path}" in err
    assert key in err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    _, _, err = cloister("audit", "mechanism", study_file, "--out", tmp_path / "second")
    assert "made the auditor's key" not in err
    for name in ("first", "second"):
        assert AuditReport.read(tmp_path / name / "report.json").auditor == key


@pytest.mark.usefixtures("quick")
def test_another_key_may_be_named(cloister, study_file, tmp_path, auditor_home, monkeypatch):
    keys = [create_identity(tmp_path / f"{name}.pem") for name in "ab"]
    cloister("audit", "mechanism", study_file, "--out", tmp_path / "first", "--key", tmp_path / "a.pem")
    monkeypatch.setenv("CLOISTER_AUDITOR_KEY", str(tmp_path / "b.pem"))
    cloister("audit", "mechanism", study_file, "--out", tmp_path / "second")
    signed = [AuditReport.read(tmp_path / name / "report.json").auditor for name in ("first", "second")]
    assert signed == [public_hex(key) for key in keys]
    assert not auditor_home.exists()
    for name, status in (("first", 0), ("second", 1)):
        found = cloister("audit", "check", tmp_path / name, "--auditor", public_hex(keys[0]).upper())
        assert found[0] == status
        assert ("as you know it" in found[1]) is (status == 0)
    assert "is signed by" in found[2]


def refused(cloister, *arguments) -> str:
    status, out, err = cloister("audit", *arguments)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    return err


def test_nothing_is_spent_on_what_cannot_be_audited(cloister, quick, study_file, small_release, tmp_path, auditor_home):
    text = study_file.read_text("utf-8")
    bare = tmp_path / "bare.toml"
    bare.write_text(text.replace("epsilon = 0.5", "noise_multiplier = 0.0"), "utf-8")
    blocked = tmp_path / "no-key"
    blocked.write_text("nothing", "utf-8")
    assert "promises nothing" in refused(cloister, "mechanism", bare)
    assert "no such file or folder" in refused(cloister, "mechanism", tmp_path / "none.toml")
    assert "Ready are" in refused(cloister, "mechanism", "frobnicate")
    assert "is no release" in refused(cloister, "mechanism", tmp_path)
    assert "never overwritten" in refused(cloister, "mechanism", study_file, "--out", tmp_path)
    assert "is not a folder" in refused(cloister, "mechanism", study_file, "--out", tmp_path / "none" / "audit")
    named = ("--out", tmp_path / "audit", "--key", blocked)
    assert "is no private key" in refused(cloister, "mechanism", study_file, *named)
    assert "there is no such file" in refused(cloister, "model", study_file, "--real", tmp_path / "none.csv")
    assert "there is no such file" in refused(cloister, "channel", study_file, "--real", tmp_path / "none.csv")
    absent = ("--real", tmp_path / "none.csv", "--holdout", tmp_path / "none.csv")
    assert "there is no such file" in refused(cloister, "release", small_release, *absent)
    assert "is no release" in refused(cloister, "release", tmp_path, *absent)
    assert quick["audited"] == 0
    assert not auditor_home.exists()


def test_columns_and_sizes_of_a_release_audit_are_checked(cloister, small_release, records_file, tmp_path):
    real, few = records_file("real.csv", count=60, seed=1), records_file("few.csv", count=5, seed=2)
    out = ("--out", tmp_path / "audit")
    status, _, err = cloister("audit", "release", small_release, "--real", real, "--holdout", few, *out)
    assert (status, "held out" in err) == (1, True)
    holdout = records_file("holdout.csv", count=60, seed=3)
    named = ("--real", real, "--holdout", holdout, "--secret", "agee")
    status, _, err = cloister("audit", "release", small_release, *named, *out)
    assert (status, "agee" in err) == (1, True)
    assert not (tmp_path / "audit").exists()


@pytest.mark.usefixtures("quick")
def test_what_was_changed_is_not_checked(cloister, study_file, tmp_path):
    out = tmp_path / "audit"
    cloister("audit", "mechanism", study_file, "--out", out)
    path = out / "report.json"
    path.write_bytes(path.read_bytes().replace(b'"canaries":9', b'"canaries":8'))
    assert "changed after it was signed" in refused(cloister, "check", out)
    assert "No such file" in refused(cloister, "check", tmp_path)
    status, _, err = cloister("audit", "check", out, "--auditor", "abc")
    assert (status, "64 hexadecimal digits" in err) == (2, True)


def test_a_holdout_needs_a_release_and_what_it_was_trained_on(cloister, study_file, small_release, records_file):
    file = records_file("records.csv", count=20, seed=1)
    for named in ((small_release, "--holdout", file), (study_file, "--real", file, "--holdout", file)):
        status, _, err = cloister("audit", "model", *named)
        assert (status, "it needs a release, and --real FILE" in err) == (2, True)


@pytest.mark.usefixtures("quick")
def test_the_page_is_drawn_anew_from_what_is_signed(cloister, study_file, tmp_path):
    out, page = tmp_path / "audit", tmp_path / "page.html"
    cloister("audit", "mechanism", study_file, "--out", out)
    original = (out / "report.html").read_text("utf-8")
    (out / "report.html").write_text(original.replace("Consistent", "Wonderful"), "utf-8")
    assert cloister("audit", "check", out / "report.json", "--html", page)[0] == 0
    assert page.read_text("utf-8") == original
    assert "exists" in refused(cloister, "check", out, "--html", page)


@pytest.mark.usefixtures("quick")
def test_a_release_is_taken_for_its_study(cloister, small_release, study_file, tmp_path):
    for name, subject in (("first", small_release), ("second", study_file)):
        assert cloister("audit", "mechanism", subject, "--out", tmp_path / name)[0] == 0
    first, second = (AuditReport.read(tmp_path / name / "report.json") for name in ("first", "second"))
    assert first.study == second.study
    assert first.claim.startswith("SIMULATED: ")
    # The release itself was not audited, which a list of reports must not say.
    assert first.release is second.release is None
    digest = hashlib.sha256((small_release / "SHA256SUMS").read_bytes()).hexdigest()
    assert "a twin of the study, not the release itself" in first.notes[-1]
    assert digest in first.notes[-1]
    assert not second.notes


@pytest.mark.usefixtures("quick")
def test_nothing_is_left_where_the_report_cannot_be_written(cloister, study_file, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(Path, "write_text", full)
    status, _, err = cloister("audit", "mechanism", study_file, "--out", place / "audit")
    assert (status, "No space left" in err) == (1, True)
    assert not list(place.iterdir())
