"""Masks: ChaCha20 keystreams (RFC 8439) added to a vector of 32-bit words, wrapping around."""

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from protocol.errors import PrivacyError

_CHUNK = 1 << 14  # words: vector and keystream of one chunk stay in the processor's cache
_ZEROS = memoryview(bytes(4 * _CHUNK))
_NONCE = bytes(16)  # a key makes one mask only, so that the nonce may stay zero


def apply_masks(words: NDArray[np.uint32], *, added: Sequence[bytes] = (), subtracted: Sequence[bytes] = ()) -> None:
    """Add and subtract keystreams in place, modulo 2^32.

    Args:
        words: uint32 [d], contiguous.
        added: 32-byte keys whose keystreams are added.
        subtracted: 32-byte keys whose keystreams are subtracted.

    Raises:
        PrivacyError: If the words are of another type or not contiguous.

    Example:
        >>> words = np.arange(3, dtype=np.uint32)
        >>> apply_masks(words, added=[bytes(32)])
        >>> apply_masks(words, subtracted=[bytes(32)])
        >>> words
        array([0, 1, 2], dtype=uint32)
    """
    if words.dtype != np.uint32 or words.ndim != 1 or not words.flags.c_contiguous:
        raise PrivacyError(f"masks are for uint32 [d], not {words.dtype} {list(words.shape)}.", remedy="Convert it.")
    plus = [_keystream(key) for key in added]
    minus = [_keystream(key) for key in subtracted]
    raw = bytearray(4 * _CHUNK)
    stream = np.frombuffer(raw, dtype="<u4")  # byte order is pinned, so that all machines agree on the words
    for start in range(0, words.size, _CHUNK):
        part = words[start : start + _CHUNK]
        for cipher in plus:
            cipher.update_into(_ZEROS[: 4 * part.size], raw)
            part += stream[: part.size]
        for cipher in minus:
            cipher.update_into(_ZEROS[: 4 * part.size], raw)
            part -= stream[: part.size]
    raw[:] = _ZEROS


def to_words(vector: NDArray[np.signedinteger], *, coordinates: int, limit: int) -> NDArray[np.uint32]:
    """A vector of bounded integers as 32-bit words, negative ones in two's complement.

    Args:
        vector: int32 or int64 [coordinates].
        coordinates: Expected length.
        limit: Largest magnitude of a coordinate.

    Returns:
        uint32 [coordinates], a copy.

    Raises:
        PrivacyError: If type or shape are others, or a coordinate is beyond the limit: it would spill into
            the sum of everybody.
    """
    if vector.dtype not in (np.int32, np.int64) or vector.shape != (coordinates,):
        raise PrivacyError(
            f"the vector is {vector.dtype} {list(vector.shape)}.",
            remedy=f"Give int32 or int64 [{coordinates}], in grid steps.",
        )
    if int(vector.min()) < -limit or int(vector.max()) > limit:
        raise PrivacyError(
            f"the vector has coordinates beyond {limit} grid steps.",
            remedy="Clamp it to the grid's limit first.",
        )
    return vector.astype(np.int32).view(np.uint32)


def to_integers(words: NDArray[np.uint32]) -> NDArray[np.int32]:
    """The signed sum that unmasked words stand for: int32 [d], the same memory."""
    return words.view(np.int32)


def _keystream(key: bytes) -> CipherContext:
    return Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()
