"""A consent says who approved what with which code, under the site's signature: a changed byte is no consent."""

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.consent import Consent, Withdrawal, consent_to
from privacy.ceiling import Ceiling
from protocol.errors import ApprovalError
from protocol.fingerprint import VERSION, code_fingerprint
from protocol.keys import public_hex
from protocol.signed_study import SignedStudy
from protocol.study import Study
from protocol.terms import Relation

MakeStudy = Callable[..., Study]
SITE, OTHER, COORDINATOR = (Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (1, 2, 3))
CEILINGS = (
    Ceiling(epsilon=8.0, delta=1e-6, relation=Relation.ADD_REMOVE),
    Ceiling(epsilon=3.0, delta=1e-6, relation=Relation.ADD_REMOVE, days=365),
)
WHEN = datetime(2030, 5, 17, 9, 30, tzinfo=UTC)


@pytest.fixture
def consent(tiny_study: MakeStudy) -> Consent:
    """Consent of a site to a study that a coordinator signed."""
    signed = SignedStudy.sign(tiny_study(), COORDINATOR)
    return consent_to(signed, key=SITE, site="north", by="Dr. Ada Ünal", ceilings=CEILINGS, at=WHEN)


def test_a_consent_reads_as_it_was_given(consent: Consent, tiny_study: MakeStudy) -> None:
    read = Consent.from_text(consent.text)
    assert read == consent
    read.verify(SITE.public_key())
    assert (read.study, read.coordinator, read.by) == (tiny_study(), public_hex(COORDINATOR), "Dr. Ada Ünal")
    assert (read.code, read.code_version, read.site) == (code_fingerprint(), VERSION, "north")
    assert (read.key, read.ceilings, read.at) == (public_hex(SITE), CEILINGS, "2030-05-17T09:30:00.000000+00:00")


def test_an_unsigned_study_has_no_coordinator(tiny_study: MakeStudy) -> None:
    given = consent_to(tiny_study(), key=SITE, site="north", by="Ada", ceilings=())
    read = Consent.from_text(given.text)
    read.verify(SITE.public_key())
    assert (read.study, read.coordinator) == (tiny_study(), None)


def test_no_byte_can_be_changed(consent: Consent) -> None:
    intact = consent.text.encode()
    for place in range(len(intact)):
        changed = intact[:place] + bytes([intact[place] ^ 1]) + intact[place + 1 :]
        with pytest.raises((ApprovalError, UnicodeDecodeError)):
            Consent.from_text(changed.decode("utf-8")).verify(SITE.public_key())
    Consent.from_text(intact.decode("utf-8")).verify(SITE.public_key())


def test_it_can_be_written_in_no_other_way(consent: Consent) -> None:
    values = json.loads(consent.text)
    for text in (
        json.dumps(values),
        consent.text + "\n",
        consent.text.replace('{"at"', '{"at":"2029-01-01T00:00:00+00:00","at"', 1),
    ):
        with pytest.raises(ApprovalError, match="canonical"):
            Consent.from_text(text)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "[" * 100_000, '{"version": 1}', '"' + "a" * 10 + '"'])
def test_what_is_no_consent_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ApprovalError):
        Consent.from_text(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", 2), ("version", True), ("code", "0"), ("by", ""), ("by", "a\nb"), ("at", "yesterday"), ("key", 3),
     ("at", "2030-01-01T00:00:00"), ("site", "North Site"), ("ceilings", 3), ("ceilings", [{"epsilon": 1.0}]),
     ("study", {"study": 1}), ("signature", "0"), ("signed_study", {})],
)  # fmt: skip
def test_a_field_that_no_consent_has_is_refused(consent: Consent, field: str, value: object) -> None:
    text = json.dumps(json.loads(consent.text) | {field: value}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(ApprovalError):
        Consent.from_text(text)


def test_nobody_else_can_consent_for_a_site(consent: Consent, tiny_study: MakeStudy) -> None:
    with pytest.raises(ApprovalError, match="another site's key"):
        consent.verify(OTHER.public_key())
    foreign = consent_to(tiny_study(), key=OTHER, site="north", by="Eve", ceilings=CEILINGS)
    with pytest.raises(ApprovalError, match="another site's key"):
        foreign.verify(SITE.public_key())
    with pytest.raises(ApprovalError, match="not signed"):
        replace(foreign, key=public_hex(SITE)).verify(SITE.public_key())
    with pytest.raises(ApprovalError, match="not signed"):
        replace(consent, code="0" * 64).verify(SITE.public_key())


def test_a_site_that_signs_a_forged_study_is_found_out(tiny_study: MakeStudy) -> None:
    signed = SignedStudy.sign(tiny_study(), COORDINATOR)
    weaker = replace(signed, study=tiny_study(privacy={"epsilon": 9.0}))
    forged = consent_to(weaker, key=SITE, site="north", by="Ada", ceilings=CEILINGS)
    with pytest.raises(ApprovalError, match="changed after it was signed"):
        forged.verify(SITE.public_key())


def test_the_signature_is_of_a_consent_and_nothing_else(consent: Consent) -> None:
    unlabelled = consent.signed_bytes.removeprefix(b"cloister consent v1\0")
    assert unlabelled != consent.signed_bytes
    with pytest.raises(ApprovalError, match="not signed"):
        replace(consent, signature=SITE.sign(unlabelled).hex()).verify(SITE.public_key())


def test_it_is_written_whole_for_its_owner_alone(consent: Consent, tmp_path: Path) -> None:
    path = consent.write(tmp_path / "approvals")
    assert path.name == f"{consent.study.hash}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text("utf-8") == consent.text
    later = replace(consent, by="Bob")
    assert later.write(tmp_path / "approvals").read_text("utf-8") == later.text
    assert [found.name for found in (tmp_path / "approvals").iterdir()] == [path.name]


def test_a_withdrawal_reads_as_it_was_made_and_cannot_be_changed(consent: Consent, tmp_path: Path) -> None:
    path = consent.write(tmp_path)
    withdrawal = Withdrawal.sign(consent, key=SITE, by="Bob", at=WHEN)
    record = withdrawal.write(tmp_path)
    assert not path.exists()
    read = Withdrawal.from_text(record.read_text("utf-8"))
    read.verify(SITE.public_key())
    assert (read.consent, read.by) == (consent, "Bob")
    for broken in (replace(read, by="Eve"), replace(read, consent=replace(consent, by="Eve"))):
        with pytest.raises(ApprovalError, match="not signed"):
            broken.verify(SITE.public_key())
    with pytest.raises(ApprovalError, match="another site's key"):
        read.verify(OTHER.public_key())
    with pytest.raises(ApprovalError, match="canonical"):
        Withdrawal.from_text(record.read_text("utf-8") + " ")
