"""Private keys on disk: modes, passphrases, and that nothing is ever replaced or half written."""

import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from protocol import keys
from protocol.errors import InputError
from protocol.keys import (
    PASSPHRASE_FILE_VARIABLE,
    PASSPHRASE_VARIABLE,
    create_ec_key,
    create_identity,
    create_private,
    passphrase,
    public_hex,
    read_ec_key,
    read_identity,
    replace_private,
)


@pytest.fixture(autouse=True)
def no_passphrase(monkeypatch):
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.delenv(PASSPHRASE_FILE_VARIABLE, raising=False)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_identity_comes_back_and_is_the_owners_alone(tmp_path):
    old = os.umask(0)
    try:
        key = create_identity(tmp_path / "key.pem")
    finally:
        os.umask(old)
    assert mode(tmp_path / "key.pem") == 0o600
    assert public_hex(read_identity(tmp_path / "key.pem")) == public_hex(key) == public_hex(key.public_key())
    assert len(public_hex(key)) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


@pytest.mark.parametrize(("bits", "curve"), [(256, SECP256R1), (384, SECP384R1)])
def test_curve_is_the_one_asked_for(tmp_path, bits, curve):
    key = create_ec_key(tmp_path / "k", bits=bits)
    read = read_ec_key(tmp_path / "k")
    assert isinstance(read.curve, curve)
    assert read.public_key() == key.public_key()
    assert mode(tmp_path / "k") == 0o600


def test_existing_key_is_never_replaced(tmp_path):
    create_identity(tmp_path / "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(InputError, match=r"exists.*Keep it"):
        create_identity(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("where", ["variable", "file"])
def test_passphrase_is_honoured(tmp_path, monkeypatch, where):
    if where == "variable":
        monkeypatch.setenv(PASSPHRASE_VARIABLE, "a secret word")
    else:
        (tmp_path / "word").write_text("a secret word\n", "utf-8")
        monkeypatch.setenv(PASSPHRASE_FILE_VARIABLE, str(tmp_path / "word"))
    assert passphrase() == b"a secret word"
    identity, other = create_identity(tmp_path / "key.pem"), create_ec_key(tmp_path / "k", bits=256)
    plain = identity.private_bytes_raw()
    assert b"ENCRYPTED" in (tmp_path / "key.pem").read_bytes()
    assert plain not in (tmp_path / "key.pem").read_bytes()
    assert read_identity(tmp_path / "key.pem").private_bytes_raw() == plain
    assert read_ec_key(tmp_path / "k").public_key() == other.public_key()


def test_key_of_a_program_that_cannot_ask_stays_in_the_clear(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "word")
    create_ec_key(tmp_path / "k", bits=256, encrypted=False)
    assert b"ENCRYPTED" not in (tmp_path / "k").read_bytes()
    assert read_ec_key(tmp_path / "k", encrypted=False)


def test_wrong_and_missing_passphrase_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "right")
    create_identity(tmp_path / "key.pem")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "wrong")
    with pytest.raises(InputError, match="passphrase is another. Check the passphrase"):
        read_identity(tmp_path / "key.pem")
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    with pytest.raises(InputError, match="has a passphrase"):
        read_identity(tmp_path / "key.pem")


def test_key_in_the_clear_is_refused_under_a_passphrase(tmp_path, monkeypatch):
    create_identity(tmp_path / "key.pem")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "word")
    with pytest.raises(InputError, match="not under the passphrase"):
        read_identity(tmp_path / "key.pem")


def test_unusable_passphrases(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "")
    with pytest.raises(InputError, match="0 bytes"):
        passphrase()
    monkeypatch.setenv(PASSPHRASE_FILE_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(InputError, match="both set"):
        passphrase()
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    with pytest.raises(InputError, match="No such file"):
        passphrase()


def test_other_files_are_refused(tmp_path):
    create_ec_key(tmp_path / "k", bits=256)
    with pytest.raises(InputError, match="no Ed25519 key"):
        read_identity(tmp_path / "k")
    create_identity(tmp_path / "key.pem")
    with pytest.raises(InputError, match="no key on P-256"):
        read_ec_key(tmp_path / "key.pem")
    (tmp_path / "text").write_text("hello", "utf-8")
    with pytest.raises(InputError, match="no private key"):
        read_identity(tmp_path / "text")
    with pytest.raises(InputError, match="No such file"):
        read_identity(tmp_path / "none")


def test_failed_write_leaves_the_older_file_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "f"
    create_private(path, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys.os, "fsync", full)
    with pytest.raises(InputError, match="No space"):
        replace_private(path, b"new")
    with pytest.raises(InputError, match="No space"):
        create_private(tmp_path / "g", b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["f"]
    replace_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o600


def test_format_is_pkcs8(tmp_path):
    key = create_identity(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_bytes() == key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, keys.NoEncryption()
    )
