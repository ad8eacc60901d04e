"""Private keys on disk: made where they are used, readable by the owner alone, never replaced by accident.

Keys are written as PKCS #8 in PEM. With a passphrase they are encrypted (PBES2 with AES-256); it comes from the
environment variable ``CLOISTER_PASSPHRASE``, or from the file that ``CLOISTER_PASSPHRASE_FILE`` names, which is
how systemd hands over a credential. It is never an argument of a command: those are seen by every process.
"""

import os
import secrets
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from protocol.errors import InputError

PASSPHRASE_VARIABLE = "CLOISTER_PASSPHRASE"  # noqa: S105 - the variable's name, not its value
PASSPHRASE_FILE_VARIABLE = "CLOISTER_PASSPHRASE_FILE"  # noqa: S105 - the variable's name, not its value
_CURVES = {256: SECP256R1, 384: SECP384R1}
_MOST_BYTES = 16_384
_MOST_PASSPHRASE = 1_024  # what OpenSSL takes
_KEEP = "Keep it, or move it away: what it signed is known by it."


def passphrase() -> bytes | None:
    """Return the passphrase of private keys that the environment gives; None where it gives none.

    Raises:
        InputError: If both variables are set, the file cannot be read, or the passphrase is empty or too long.
    """
    given, file = os.environ.get(PASSPHRASE_VARIABLE), os.environ.get(PASSPHRASE_FILE_VARIABLE)
    if given is not None and file is not None:
        raise InputError(f"{PASSPHRASE_VARIABLE} and {PASSPHRASE_FILE_VARIABLE} are both set.", remedy="Set one.")
    if file is not None:
        try:
            found = Path(file).read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise InputError(
                f"{PASSPHRASE_FILE_VARIABLE} names {file}: {error.strerror}.",
                remedy="Name a file that this account may read.",
            ) from error
    elif given is not None:
        found = os.fsencode(given)
    else:
        return None
    if not 0 < len(found) < _MOST_PASSPHRASE:
        raise InputError(
            f"The passphrase has {len(found)} bytes.",
            remedy=f"Give one of 1 to {_MOST_PASSPHRASE - 1} bytes, or unset the variable.",
        )
    return found


def create_identity(path: Path) -> Ed25519PrivateKey:
    """Make an identity key (Ed25519) and write it; an existing file is never replaced.

    Raises:
        InputError: If the file exists or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    create_private(path, private_pem(key))
    return key


def read_identity(path: Path) -> Ed25519PrivateKey:
    """Read an identity key.

    Raises:
        InputError: If it is missing, no Ed25519 key, or the passphrase does not open it.
    """
    key = _read(path, passphrase())
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is no Ed25519 key.", remedy="Put back the key that was made for this file.")
    return key


def create_ec_key(path: Path, *, bits: Literal[256, 384], encrypted: bool = True) -> EllipticCurvePrivateKey:
    """Make a key on the curve P-256 or P-384 and write it; an existing file is never replaced.

    Args:
        path: Where.
        bits: Which curve.
        encrypted: Whether to honour the passphrase; False only for programs that cannot ask for one.

    Returns:
        The key.

    Raises:
        InputError: If the file exists or cannot be written.
    """
    key = new_ec_key(bits=bits)
    create_private(path, private_pem(key, encrypted=encrypted))
    return key


def new_ec_key(*, bits: Literal[256, 384]) -> EllipticCurvePrivateKey:
    """Make a key on the curve P-256 or P-384, in memory."""
    return generate_private_key(_CURVES[bits]())


def read_ec_key(path: Path, *, encrypted: bool = True) -> EllipticCurvePrivateKey:
    """Read a key on the curve P-256 or P-384.

    Args:
        path: Where.
        encrypted: As it was made with.

    Returns:
        The key.

    Raises:
        InputError: If it is missing, no such key, or the passphrase does not open it.
    """
    key = _read(path, passphrase() if encrypted else None)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1 | SECP384R1):
        raise InputError(f"{path} is no key on P-256 or P-384.", remedy="Put back the key that was made for this file.")
    return key


def public_hex(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return the public half of an identity key, 64 hexadecimal digits."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes_raw().hex()


def private_pem(key: Ed25519PrivateKey | EllipticCurvePrivateKey, *, encrypted: bool = True) -> bytes:
    """Return a private key as PEM, under the passphrase if there is one and it is wanted."""
    word = passphrase() if encrypted else None
    how = NoEncryption() if word is None else BestAvailableEncryption(word)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def create_private(path: Path, content: bytes) -> None:
    """Write a new file, whole or not at all, readable by the owner alone; an existing one is never replaced.

    Raises:
        InputError: If the file exists or cannot be written.
    """
    draft = _draft(path, content)
    try:
        # Unlike a rename, a link fails where the name is taken; unlike O_EXCL on the name, it never shows half a file.
        os.link(draft, path)
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise InputError(f"{path} exists.", remedy=_KEEP) from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Use a folder on a local disk.") from error
    finally:
        draft.unlink(missing_ok=True)


def replace_private(path: Path, content: bytes) -> None:
    """Put a whole file, durable and readable by the owner alone, in the place of an older one, if there is one.

    Raises:
        InputError: If it cannot be written; the older one is untouched then.
    """
    draft = _draft(path, content)
    try:
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InputError(f"{path}: {error.strerror}.", remedy="Make room, or let it be written there.") from error


def _draft(path: Path, content: bytes) -> Path:
    """Write a file of another name beside ``path``, durably."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InputError(f"{path}: {error.strerror}.", remedy="Make room, or let it be written there.") from error
    return draft


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, word: bytes | None) -> Any:
    """Read a private key of whatever kind, the passphrase and the file's encryption being of one mind."""
    try:
        with path.open("rb") as file:
            pem = file.read(_MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Check the folder and who may read it.") from error
    locked = b"ENCRYPTED" in pem
    if locked and word is None:
        raise InputError(
            f"{path} has a passphrase.", remedy=f"Set {PASSPHRASE_VARIABLE} or {PASSPHRASE_FILE_VARIABLE}."
        )
    if word is not None and not locked:
        # Who sets a passphrase believes that the key is under it.
        raise InputError(
            f"{path} is not under the passphrase that is set.",
            remedy=f"Unset the passphrase, or encrypt the key: openssl pkcs8 -topk8 -v2 aes-256-cbc -in {path.name}",
        )
    try:
        return load_pem_private_key(pem, password=word)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        problem = "is damaged, or the passphrase is another" if locked else "is no private key"
        first = "Check the passphrase; if it is right: p" if locked else "P"
        raise InputError(f"{path} {problem}.", remedy=f"{first}ut back the key that was made for this file.") from error
