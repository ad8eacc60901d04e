"""The report of an audit: nothing in it can be changed, taken out or put under another key unnoticed."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.audit.finding import Claim, Curve, Finding, Interval, Tier, Verdict
from privacy.audit.report import AuditReport, BrokenTwin, installed_versions
from protocol.digest import canonical_json
from protocol.errors import InputError
from protocol.keys import public_hex
from protocol.terms import Relation

KEY, OTHER = Ed25519PrivateKey.from_private_bytes(b"a" * 32), Ed25519PrivateKey.from_private_bytes(b"b" * 32)
CAUGHT = BrokenTwin(name="noise times 0.5", caught_by=("lower bound",), seconds=1.5)
MISSED = BrokenTwin(name="clip missing", caught_by=(), seconds=1.0)


def finding(verdict: Verdict = Verdict.CONSISTENT, **change: Any) -> Finding:
    bound = 1.5 if verdict is Verdict.VIOLATED else 0.5
    values: dict[str, Any] = {
        "tier": Tier.MECHANISM,
        "attack": "canaries",
        "subject": "what a site sends",
        "claim": Claim(epsilon=1.0, delta=1e-5, relation=Relation.ADD_REMOVE),
        "lower_bound": bound,
        "ceiling": 0.9,
        "measure": "success rate",
        "attacked": Interval(value=0.6, low=0.55, high=0.65, confidence=0.95),
        "baseline": Interval(value=0.5, low=0.5, high=0.5, confidence=0.95),
        "control": None,
        "canaries": 1000,
        "needed": None,
        "verdict": verdict,
        "words": ("A sentence.",),
        "curve": Curve(false_positive_rate=(0.0, 0.2, 1.0), true_positive_rate=(0.0, 0.5, 1.0)),
        "seconds": 2.0,
    }
    return Finding(**(values | change))


def report(*verdicts: Verdict, **change: Any) -> AuditReport:
    values: dict[str, Any] = {
        "audit": Tier.MECHANISM,
        "subject": "stroke unit",
        "study": "1" * 64,
        "release": None,
        "claim": "(1.000, 1e-05)-differential privacy per record.",
        "findings": tuple(finding(verdict) for verdict in verdicts or (Verdict.CONSISTENT,)),
        "broken_twins": (CAUGHT,),
        "notes": ("A note.",),
        "real_records": False,
        "code": "2" * 64,
        "versions": installed_versions(),
        "created": "2026-01-31T12:00:00Z",
        "seconds": 12.5,
        "settings": {"minutes": 1.0, "seed": 3, "records": "made up"},
    }
    return AuditReport(**(values | change))


@pytest.fixture
def signed() -> AuditReport:
    return report(Verdict.CONSISTENT, Verdict.UNDERPOWERED).sign(KEY)


def test_a_signed_report_is_read_back_as_it_was(signed: AuditReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    signed.write(path)
    assert AuditReport.read(path) == signed
    assert AuditReport.read(path, auditor=public_hex(KEY)) == signed
    assert signed.auditor == public_hex(KEY)
    assert signed.sign(KEY) == signed
    assert path.read_bytes() == signed.to_bytes()


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((Verdict.CONSISTENT, Verdict.CONSISTENT), Verdict.CONSISTENT),
        ((Verdict.CONSISTENT, Verdict.UNDERPOWERED), Verdict.UNDERPOWERED),
        ((Verdict.UNDERPOWERED, Verdict.NO_VERDICT), Verdict.NO_VERDICT),
        ((Verdict.NO_VERDICT, Verdict.VIOLATED, Verdict.CONSISTENT), Verdict.VIOLATED),
    ],
)
def test_the_gravest_finding_is_the_verdict(verdicts: tuple[Verdict, ...], expected: Verdict) -> None:
    assert report(*verdicts).verdict is expected
    assert report(*reversed(verdicts)).verdict is expected


def test_a_missed_twin_or_a_failed_demonstration_leaves_no_verdict() -> None:
    missed = report(broken_twins=(CAUGHT, MISSED))
    assert missed.missed == ("clip missing",)
    assert missed.verdict is Verdict.NO_VERDICT
    failed = finding(Verdict.NO_VERDICT, canaries=0)
    assert report(demonstrations=(failed,)).verdict is Verdict.NO_VERDICT
    shown = finding(Verdict.VIOLATED, claim=None, lower_bound=None, ceiling=None)
    assert report(demonstrations=(shown,)).verdict is Verdict.CONSISTENT


# Broken twins of an honest report: each must be refused.


def test_a_changed_number_is_refused(signed: AuditReport) -> None:
    better = replace(signed.findings[0], lower_bound=0.1)
    with pytest.raises(InputError, match="changed after it was signed"):
        replace(signed, findings=(better, *signed.findings[1:])).verify()


def test_a_swapped_finding_is_refused(signed: AuditReport) -> None:
    with pytest.raises(InputError, match="changed after it was signed"):
        replace(signed, findings=signed.findings[::-1]).verify()


def test_a_removed_finding_is_refused(signed: AuditReport) -> None:
    with pytest.raises(InputError, match="changed after it was signed"):
        replace(signed, findings=signed.findings[:1]).verify()


def test_another_key_is_refused(signed: AuditReport) -> None:
    with pytest.raises(InputError, match="changed after it was signed"):
        replace(signed, auditor=public_hex(OTHER)).verify()
    forged = replace(signed, findings=(finding(),)).sign(OTHER)
    forged.verify()  # it is what somebody signed; whose key it is the reader must know
    with pytest.raises(InputError, match=f"signed by {public_hex(OTHER)[:16]}, not by"):
        forged.verify(public_hex(KEY))


def test_every_field_is_under_the_signature(signed: AuditReport) -> None:
    other = report(Verdict.UNDERPOWERED, subject="another").sign(OTHER)
    changed = {
        "audit": Tier.MODEL, "study": "3" * 64, "release": "4" * 64, "claim": "More.", "demonstrations": (finding(),),
        "broken_twins": (MISSED,), "notes": (), "real_records": True, "picture": "5" * 64, "code": "6" * 64,
        "versions": {}, "created": "2026-01-31T12:00:01Z", "seconds": 13.0, "settings": {"minutes": 2.0},
    }  # fmt: skip
    changed |= {name: getattr(other, name) for name in ("subject", "findings", "auditor", "signature")}
    assert set(changed) == {field.name for field in fields(AuditReport)}
    for name, value in changed.items():
        with pytest.raises(InputError, match="changed after it was signed"):
            replace(signed, **{name: value}).verify()


def test_every_changed_byte_of_the_file_is_refused(signed: AuditReport, tmp_path: Path) -> None:
    path, content = tmp_path / "report.json", signed.to_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError):
            AuditReport.read(path)


def test_the_same_in_another_form_is_refused(signed: AuditReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(signed.to_mapping(), indent=2), "utf-8")
    with pytest.raises(InputError, match="not in its canonical form"):
        AuditReport.read(path)


def test_a_signature_made_for_something_else_is_refused(signed: AuditReport) -> None:
    mapping = {**signed.to_mapping(), "signature": None}
    bare = KEY.sign(canonical_json(mapping)).hex()
    with pytest.raises(InputError, match="changed after it was signed"):
        replace(signed, signature=bare).verify()


def test_what_is_not_signed_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(InputError, match="is not signed"):
        report().write(path)
    assert not path.exists()
    report().sign(KEY).write(path)
    with pytest.raises(InputError, match="File exists"):
        report().sign(KEY).write(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2}, "version 2, not 1"),
        ({"version": True}, "version True, not 1"),
        ({"notes": None}, "NoneType where a list belongs"),
        ({"odd": 1}, "odd"),
        ({"audit": "all"}, "no Tier"),
        ({"verdict": "violated"}, "its findings 'underpowered'"),
        ({"study": "no hash"}, "study is malformed"),
        ({"created": "yesterday"}, "created is 'yesterday'"),
        ({"settings": {"minutes": [1]}}, "settings holds 'minutes'"),
        ({"findings": []}, "no finding"),
        ({"signature": None}, "Only one of auditor and signature"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"real_records": 1}, "real_records is 1"),
    ],
)
def test_a_malformed_report_says_what_is_wrong(signed: AuditReport, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        AuditReport.from_mapping(signed.to_mapping() | change)


def test_a_missing_field_is_named(signed: AuditReport) -> None:
    mapping = signed.to_mapping()
    del mapping["broken_twins"]
    with pytest.raises(InputError, match="broken_twins"):
        AuditReport.from_mapping(mapping)


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(InputError, match="No such file"):
        AuditReport.read(path)
    for content, problem in ((b"\xff", "not JSON"), (b"[]", "version None"), (b"[" * 100_000, "not JSON")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=problem):
            AuditReport.read(path)


def test_no_verdict_and_no_report_calls_anything_safe() -> None:
    assert b"safe" not in report(*Verdict).sign(KEY).to_bytes().lower()
