"""The JSON of enrolment: strict, bounded, and proven by the identity key."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protocol.enrolment import MOST_BYTES, EnrolmentAnswer, EnrolmentRequest, RenewalRequest
from protocol.errors import WireError

CSR = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
REQUEST = EnrolmentRequest.signed(
    KEY,
    site="north",
    secret="cd" * 32,
    tls_request=CSR,
    node_key="-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
)
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
ANSWER = EnrolmentAnswer(certificate=CERTIFICATE, ca=CERTIFICATE, coordinator_key="ab" * 32, federation="hearts")


@pytest.mark.parametrize("form", [REQUEST, ANSWER, RenewalRequest(tls_request=CSR)])
def test_forms_come_back(form):
    assert type(form).from_bytes(form.to_bytes()) == form


def test_proof_covers_every_other_field():
    REQUEST.check_proof()
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    changes = {
        "site": "south",
        "secret": "ce" * 32,
        "tls_request": CSR.replace("AAAA", "AAAB"),
        "node_key": REQUEST.node_key.replace("AAAA", "AAAB"),
        "identity_key": other.public_key().public_bytes_raw().hex(),
        "proof": "00" * 64,
    }
    assert changes.keys() == json.loads(REQUEST.to_bytes()).keys() - {"version"}
    for name, value in changes.items():
        with pytest.raises(WireError, match="proof"):
            replace(REQUEST, **{name: value}).check_proof()


def test_secret_is_not_shown():
    assert "cdcd" not in repr(REQUEST)
    values = json.loads(REQUEST.to_bytes()) | {"secret": "zz" + "cd" * 31}
    with pytest.raises(WireError) as caught:
        EnrolmentRequest.from_bytes(json.dumps(values).encode())
    assert "cdcd" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(json.loads(REQUEST.to_bytes())))
@pytest.mark.parametrize("value", [None, 1, True, "", "\0", [], {}, "x" * 20_000, "\ud800"])
def test_odd_values_are_refused(name, value):
    values = json.loads(REQUEST.to_bytes()) | {name: value}
    if (name, value) == ("version", 1) and type(value) is int:
        return
    with pytest.raises(WireError):
        EnrolmentRequest.from_bytes(json.dumps(values).encode())


def test_missing_and_unknown_fields_are_refused():
    values = json.loads(REQUEST.to_bytes())
    for name in values:
        with pytest.raises(WireError, match="missing"):
            EnrolmentRequest.from_bytes(json.dumps({key: values[key] for key in values if key != name}).encode())
    with pytest.raises(WireError, match="unknown"):
        EnrolmentRequest.from_bytes(json.dumps(values | {"days": "9999"}).encode())


def test_large_and_deep_ones_are_refused():
    with pytest.raises(WireError, match="bytes"):
        EnrolmentRequest.from_bytes(REQUEST.to_bytes() + b" " * MOST_BYTES)
    with pytest.raises(WireError):
        EnrolmentRequest.from_bytes(b"[" * 60_000)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    for kind in (EnrolmentRequest, EnrolmentAnswer, RenewalRequest):
        with pytest.raises(WireError):
            kind.from_bytes(data)
