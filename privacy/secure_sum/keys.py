"""X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439), each used in one way."""

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.digest import canonical_json
from protocol.errors import WireError

KEY_BYTES = 32
SEAL_BYTES = 16  # what sealing adds
_NONCE = bytes(12)  # every sealing key is used for one message only, so that the nonce may stay zero


def public_key(private: bytes) -> str:
    """The X25519 public key of 32 private bytes, 64 hexadecimal digits."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex()


def agree(private: bytes, public: str) -> bytes:
    """The 32 secret bytes that two X25519 keys have in common.

    Raises:
        WireError: If the public key is of small order, so that the secret would be known to everybody.
    """
    peer = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(peer)
    except ValueError as error:
        raise WireError("a peer's X25519 key is degenerate.", remedy="Exclude that site.") from error


def derive(secret: bytes, *, salt: str, purpose: str, about: list[str | int]) -> bytes:
    """A 32-byte key for one purpose and one occasion.

    Args:
        secret: What the key is derived from.
        salt: Hash of the key agreement, in hexadecimal.
        purpose: What the key is for; no two uses share a purpose.
        about: Everything else that the key is bound to, such as the pair and the round.
    """
    info = canonical_json(["cloister secure sum v1", purpose, *about])
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=bytes.fromhex(salt), info=info).derive(secret)


def commitment(secret: bytes, *, about: list[str | int]) -> str:
    """A hash that binds to 32 random bytes without telling them, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(["cloister commitment v1", *about]) + secret).hexdigest()


def seal(key: bytes, plain: bytes, *, about: list[str | int]) -> bytes:
    """Encrypt with a key that is used once; ``about`` is authenticated and not sent."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, plain, canonical_json(about))


def open_sealed(key: bytes, sealed: bytes, *, about: list[str | int]) -> bytes:
    """Decrypt what `seal` made.

    Raises:
        WireError: If it was made with another key or about something else, or was altered.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, canonical_json(about))
    except InvalidTag as error:
        raise WireError("a sealed share cannot be opened.", remedy="It was altered, or is not for this.") from error
