"""Approvals: a study is known by its hash, and counts only with the site's consent, the code and the signer of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import approvals as approvals_module
from client.approvals import Approvals
from client.consent import Consent, Withdrawal, consent_to
from protocol.errors import ApprovalError
from protocol.fingerprint import code_fingerprint
from protocol.keys import public_hex
from protocol.signed_study import SignedStudy
from protocol.study import Study

MakeStudy = Callable[..., Study]
SITE, OTHER, COORDINATOR = (Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (1, 2, 3))


def consent(study: Study | SignedStudy, *, key: Ed25519PrivateKey = SITE) -> Consent:
    return consent_to(study, key=key, site="north", by="Ada", ceilings=())


def read(folder: Path, *, coordinator: str | None = None) -> Approvals:
    return Approvals.from_folder(folder, key=SITE.public_key(), coordinator=coordinator)


def test_what_was_recorded_is_approved(tmp_path: Path, tiny_study: MakeStudy) -> None:
    first, second = tiny_study(), tiny_study(training={"rounds": 4})
    for study in (first, second, first):
        consent(study).write(tmp_path / "approvals")
    approvals = read(tmp_path / "approvals")
    assert approvals.study(first.hash) == first
    assert approvals.study(second.hash).training.rounds == 4
    assert set(approvals.consents) == {first.hash, second.hash}


def test_what_was_not_recorded_is_not_approved(tmp_path: Path, tiny_study: MakeStudy) -> None:
    consent(tiny_study()).write(tmp_path)
    approvals = read(tmp_path)
    for unknown in (tiny_study(training={"rounds": 4}).hash, "", "../" + tiny_study().hash):
        with pytest.raises(ApprovalError, match="not approved"):
            approvals.study(unknown)
    with pytest.raises(ApprovalError):
        Approvals().study(tiny_study().hash)


def test_no_folder_approves_nothing(tmp_path: Path, tiny_study: MakeStudy) -> None:
    with pytest.raises(ApprovalError):
        read(tmp_path / "none").study(tiny_study().hash)


def test_a_plain_study_is_no_consent(tmp_path: Path, tiny_study: MakeStudy) -> None:
    (tmp_path / f"{tiny_study().hash}.json").write_text(tiny_study().text, "utf-8")
    with pytest.raises(ApprovalError, match="changed"):
        read(tmp_path)


def test_a_changed_file_is_refused(tmp_path: Path, tiny_study: MakeStudy) -> None:
    path = consent(tiny_study()).write(tmp_path)
    text = path.read_text("utf-8")
    path.write_text(text.replace('"epsilon":5.0', '"epsilon":6.0'), "utf-8")
    assert path.read_text("utf-8") != text
    with pytest.raises(ApprovalError, match=path.name):
        read(tmp_path)


def test_a_consent_signed_by_another_key_is_refused(tmp_path: Path, tiny_study: MakeStudy) -> None:
    path = consent(tiny_study(), key=OTHER).write(tmp_path)
    with pytest.raises(ApprovalError, match=path.name):
        read(tmp_path)
    replace(consent(tiny_study(), key=OTHER), key=public_hex(SITE)).write(tmp_path)
    with pytest.raises(ApprovalError, match="not signed by this site's key"):
        read(tmp_path)


def test_a_file_by_another_name_is_refused(tmp_path: Path, tiny_study: MakeStudy) -> None:
    path = consent(tiny_study()).write(tmp_path)
    path.rename(tmp_path / f"{'0' * 64}.json")
    with pytest.raises(ApprovalError, match="changed"):
        read(tmp_path)


@pytest.mark.parametrize("rest", [b"", b"{", b"[]", b"\xff\xfe", b'{"privacy": {}}', b"[" * 100_000, b'{"study": 1}'])
def test_a_damaged_file_is_refused_as_changed(tmp_path: Path, tiny_study: MakeStudy, rest: bytes) -> None:
    path = consent(tiny_study()).write(tmp_path)
    path.write_bytes(rest)
    with pytest.raises(ApprovalError, match=path.name):
        read(tmp_path)


def test_other_code_needs_another_approval(
    tmp_path: Path, tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    consent(study).write(tmp_path)
    assert read(tmp_path).code(study.hash) == code_fingerprint()
    monkeypatch.setattr(approvals_module, "code_fingerprint", lambda: "f" * 64)
    approvals = read(tmp_path)  # the approval of other studies is none of its business
    for question in (approvals.study, approvals.coordinator, approvals.code):
        with pytest.raises(ApprovalError, match=r"approved with code .*Approve it again"):
            question(study.hash)
    assert approvals.consents[study.hash].code != "f" * 64


def test_an_enrolled_site_approves_what_its_coordinator_signed_alone(tmp_path: Path, tiny_study: MakeStudy) -> None:
    mine = SignedStudy.sign(tiny_study(), COORDINATOR)
    foreign = SignedStudy.sign(tiny_study(training={"rounds": 4}), OTHER)
    unsigned = tiny_study(training={"rounds": 5})
    for study in (mine, foreign, unsigned):
        consent(study).write(tmp_path)
    enrolled = read(tmp_path, coordinator=public_hex(COORDINATOR))
    assert enrolled.study(mine.study.hash) == mine.study
    assert enrolled.coordinator(mine.study.hash) == public_hex(COORDINATOR)
    with pytest.raises(ApprovalError, match="not by the coordinator"):
        enrolled.study(foreign.study.hash)
    with pytest.raises(ApprovalError, match="signed by nobody"):
        enrolled.study(unsigned.hash)
    simulated = read(tmp_path)
    assert simulated.coordinator(unsigned.hash) is None
    assert simulated.coordinator(foreign.study.hash) == public_hex(OTHER)


def test_in_memory_a_signed_study_keeps_its_signer(tiny_study: MakeStudy) -> None:
    signed, plain = SignedStudy.sign(tiny_study(), COORDINATOR), tiny_study(training={"rounds": 4})
    approvals = Approvals([signed, plain])
    assert approvals.study(signed.study.hash) == signed.study
    assert approvals.coordinator(signed.study.hash) == public_hex(COORDINATOR)
    assert approvals.coordinator(plain.hash) is None


def test_a_withdrawn_consent_is_void_also_when_it_is_put_back(tmp_path: Path, tiny_study: MakeStudy) -> None:
    study = tiny_study()
    given = consent(study)
    path = given.write(tmp_path)
    Withdrawal.sign(given, key=SITE, by="Ada").write(tmp_path)
    assert not path.exists()
    for _ in range(2):
        with pytest.raises(ApprovalError, match="not approved"):
            read(tmp_path).study(study.hash)
        given.write(tmp_path)
    consent(study).write(tmp_path)
    assert read(tmp_path).study(study.hash) == study, "a new consent is another one"


def test_a_forged_withdrawal_is_refused(tmp_path: Path, tiny_study: MakeStudy) -> None:
    given = consent(tiny_study())
    withdrawal = Withdrawal.sign(given, key=SITE, by="Ada").write(tmp_path)
    withdrawal.write_text(withdrawal.read_text("utf-8").replace('"by":"Ada"', '"by":"Eve"', 1), "utf-8")
    with pytest.raises(ApprovalError, match=withdrawal.name):
        read(tmp_path)
