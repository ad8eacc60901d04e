"""A warrant holds for one study and one run of one coordinator."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.digest import canonical_json
from protocol.errors import ApprovalError, WireError
from protocol.keys import public_hex
from protocol.warrant import NO_WARRANT, check_warrant, warrant_of

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
STUDY, RUN, OTHER = "a" * 64, "b" * 64, "c" * 64


def test_warrant_of_the_run_is_accepted():
    warrant = warrant_of(KEY, study=STUDY, run=RUN)
    assert len(warrant) == len(NO_WARRANT) == 128
    assert warrant == warrant_of(KEY, study=STUDY, run=RUN)
    check_warrant(warrant, coordinator=public_hex(KEY), study=STUDY, run=RUN)


@pytest.mark.parametrize(
    "asked", [{"study": OTHER, "run": RUN}, {"study": STUDY, "run": OTHER}, {"study": RUN, "run": STUDY}]
)
def test_other_study_or_run_is_refused(asked):
    warrant = warrant_of(KEY, study=STUDY, run=RUN)
    with pytest.raises(ApprovalError, match="did not vouch"):
        check_warrant(warrant, coordinator=public_hex(KEY), **asked)
    # The twin: with its own warrant the same run passes.
    check_warrant(warrant_of(KEY, **asked), coordinator=public_hex(KEY), **asked)


def test_other_key_is_refused():
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    with pytest.raises(ApprovalError, match="did not vouch"):
        check_warrant(warrant_of(other, study=STUDY, run=RUN), coordinator=public_hex(KEY), study=STUDY, run=RUN)


@pytest.mark.parametrize("label", [b"", b"cloister study v1\0"])
def test_signature_under_another_label_is_refused(label):
    signature = KEY.sign(label + canonical_json({"study": STUDY, "run": RUN})).hex()
    with pytest.raises(ApprovalError, match="did not vouch"):
        check_warrant(signature, coordinator=public_hex(KEY), study=STUDY, run=RUN)


@pytest.mark.parametrize("warrant", [NO_WARRANT, "", "zz" * 64, "AB" * 64, "ab" * 63])
def test_no_warrant_is_refused(warrant):
    with pytest.raises(ApprovalError, match=r"no warrant|malformed"):
        check_warrant(warrant, coordinator=public_hex(KEY), study=STUDY, run=RUN)


def test_malformed_run_is_refused():
    with pytest.raises(WireError, match="run is malformed"):
        warrant_of(KEY, study=STUDY, run="run")
