"""A study's signature holds for this study and this coordinator, and for nothing else."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.errors import ApprovalError, StudyError
from protocol.keys import public_hex
from protocol.signed_study import SignedStudy


@pytest.fixture
def key():
    return Ed25519PrivateKey.generate()


@pytest.fixture
def signed(tiny_study, key):
    return SignedStudy.sign(tiny_study(), key)


def test_signed_study_comes_back_and_verifies(signed, key):
    read = SignedStudy.from_text(signed.to_text())
    assert read == signed
    assert read.study.hash == signed.study.hash
    read.verify(public_hex(key))
    assert SignedStudy.from_text(signed.to_text() + "\n").to_text() == signed.to_text()


def test_signature_is_of_the_labelled_text(signed, key):
    # The format is fixed: another program must be able to check it. RFC 8032 signatures are deterministic.
    assert signed.signature == key.sign(b"cloister study v1\0" + signed.study.text.encode()).hex()
    assert signed.signature != key.sign(signed.study.text.encode()).hex()


def test_another_coordinator_is_refused(signed, tiny_study):
    other = Ed25519PrivateKey.generate()
    with pytest.raises(ApprovalError, match="signed by"):
        signed.verify(public_hex(other))
    with pytest.raises(ApprovalError, match="changed after"):
        replace(SignedStudy.sign(tiny_study(), other), coordinator=signed.coordinator).verify(signed.coordinator)


def test_changed_study_is_refused(signed, key, tiny_study):
    values = json.loads(signed.to_text())
    values["study"]["privacy"]["epsilon"] = 50.0
    changed = SignedStudy.from_text(json.dumps(values, sort_keys=True, separators=(",", ":")))
    assert changed.study.privacy.epsilon == 50.0
    with pytest.raises(ApprovalError, match="changed after"):
        changed.verify(public_hex(key))
    # The twin: what is refused is the change, not the budget.
    SignedStudy.sign(tiny_study(privacy={"epsilon": 50.0}), key).verify(public_hex(key))


def test_other_forms_of_the_same_study_are_refused(signed):
    values = json.loads(signed.to_text())
    with pytest.raises(StudyError, match="canonical"):
        SignedStudy.from_text(json.dumps(values))
    del values["study"]["training"]["seed"]
    with pytest.raises(StudyError, match="canonical"):
        SignedStudy.from_text(json.dumps(values, sort_keys=True, separators=(",", ":")))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"version": True}, {"signature": "00"}, {"signature": None}, {"coordinator": "x" * 64},
        {"study": []}, {"study": {"study": {"name": "x"}}}, {"more": 1},
    ],
)  # fmt: skip
def test_malformed_ones_are_refused(signed, change):
    values = json.loads(signed.to_text()) | change
    with pytest.raises(StudyError):
        SignedStudy.from_text(json.dumps(values, sort_keys=True, separators=(",", ":")))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"study":1}'])
def test_other_texts_are_refused(text):
    with pytest.raises(StudyError):
        SignedStudy.from_text(text)
