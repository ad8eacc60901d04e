"""The only source of randomness that a privacy path may use.

Noise, sampling and keys must be unpredictable: whoever can guess the noise can subtract it. So everything
here is a ChaCha20 keystream (Bernstein 2008; RFC 8439), keyed from the operating system.
``DeterministicRandom`` exists for tests; what is drawn from it is not private, and says so.

A keystream in memory cannot notice that a virtual machine was cloned while running: do not snapshot a
running site.
"""

import builtins
import hashlib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import NoReturn, final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from protocol.errors import InputError, PrivacyError
from protocol.terms import NoiseOrigin

_KEY_BYTES = 32
_BYTES_PER_KEY = 1 << 30
_ZEROS = memoryview(builtins.bytes(1 << 16))
_NONCE = builtins.bytes(16)  # a key is used for one keystream only, so that the nonce may stay zero


class RandomSource(ABC):
    """A stream of unpredictable bits, and what is drawn from them. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: CipherContext | None = None
        self._left = 0

    @property
    @abstractmethod
    def origin(self) -> NoiseOrigin:
        """Where the bits come from."""

    @abstractmethod
    def child(self, *labels: str | int) -> "RandomSource":
        """An independent source of the same origin, named by ``labels``."""

    @abstractmethod
    def _next_key(self) -> builtins.bytes:
        """The 32-byte key of the next keystream."""

    @property
    def private(self) -> bool:
        """Whether what is drawn from this source may protect anybody."""
        return self.origin is NoiseOrigin.SYSTEM

    def bytes(self, n: int) -> builtins.bytes:
        """``n`` uniformly random bytes.

        Raises:
            InputError: ``n`` is negative.
        """
        return self._read(n).tobytes()

    def uint64(self, n: int) -> NDArray[np.uint64]:
        """Uniformly random 64-bit words.

        Args:
            n: How many words.

        Returns:
            uint64 [n], each of the 2^64 values equally likely.

        Raises:
            InputError: ``n`` is negative.
        """
        # Byte order is pinned, so that a seed means the same on every machine.
        return self._read(8 * n).view("<u8").astype(np.uint64, copy=False)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), each a multiple of 2^-53.

        Not for noise and not for sampling units: use ``bernoulli`` and ``sample_discrete_gaussian``, which
        are exact.

        Args:
            n: How many numbers.

        Returns:
            float64 [n].

        Raises:
            InputError: ``n`` is negative.
        """
        return (self.uint64(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def bernoulli(self, n: int, rate: float) -> NDArray[np.bool_]:
        """Independent coins that fall true with probability exactly ``rate``.

        A float64 is a dyadic rational, so the comparison of a uniform real number with it can be made on
        integers: the first 64 binary digits decide unless all of them are equal, and only then are more
        digits drawn.

        Args:
            n: How many coins.
            rate: Probability of true; the float64 is taken at its exact value.

        Returns:
            bool [n].

        Raises:
            InputError: ``n`` is negative or ``rate`` is not a number in [0, 1].

        Example:
            >>> DeterministicRandom("doc").bernoulli(3, 1.0)
            array([ True,  True,  True])
        """
        if not 0.0 <= rate <= 1.0:
            raise InputError(f"the rate is {rate!r}.", remedy="Give a probability between 0 and 1.")
        if rate == 1.0:
            return np.ones(_checked_count(n), dtype=np.bool_)
        result = np.zeros(_checked_count(n), dtype=np.bool_)
        undecided: NDArray[np.intp] | slice = slice(None)
        remaining, rest = n, Fraction(rate)
        while remaining and rest:
            digits, rest = divmod(rest * 2**64, 1)
            words = self.uint64(remaining)
            result[undecided] = words < np.uint64(digits)
            equal = np.flatnonzero(words == np.uint64(digits))
            undecided = equal if isinstance(undecided, slice) else undecided[equal]
            remaining = undecided.size
        return result

    def seed64(self) -> int:
        """A seed in [0, 2^64) for a framework's own generator.

        For latent noise, initial weights and the like only: a framework's generator is predictable from its
        output, so that nothing which a guarantee rests on may come from it.
        """
        return int(self.uint64(1)[0])

    def _read(self, n: int) -> NDArray[np.uint8]:
        """The next ``n`` bytes of the keystream, as uint8 [n]."""
        buffer = bytearray(_checked_count(n))
        view = memoryview(buffer)
        done = 0
        with self._lock:
            while done < n:
                if self._stream is None or self._left == 0:
                    self._stream = Cipher(ChaCha20(self._next_key(), _NONCE), mode=None).encryptor()
                    self._left = _BYTES_PER_KEY
                part = min(n - done, len(_ZEROS), self._left)
                self._stream.update_into(_ZEROS[:part], view[done : done + part])
                self._left -= part
                done += part
        return np.frombuffer(buffer, dtype=np.uint8)

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or sent: two holders of one keystream would add the same noise twice."""
        raise PrivacyError(
            f"{type(self).__name__} cannot be copied or pickled.",
            remedy="Make a source where it is used, or call child().",
        )


@final
class SystemRandom(RandomSource):
    """Keyed by the operating system at first use, after every 2^30 bytes and in every forked process.

    Example:
        >>> source = SystemRandom()
        >>> source.private, len(source.bytes(5))
        (True, 5)
    """

    def __init__(self) -> None:
        super().__init__()
        _LIVE.add(self)

    @property
    def origin(self) -> NoiseOrigin:
        """The operating system."""
        return NoiseOrigin.SYSTEM

    def child(self, *labels: str | int) -> "SystemRandom":
        """A source with a key of its own; ``labels`` need no meaning here, because every key is fresh."""
        del labels
        return SystemRandom()

    def _next_key(self) -> builtins.bytes:
        return os.urandom(_KEY_BYTES)

    def _forget(self) -> None:
        """Drop the key. The lock is new as well: the thread that may have held it does not exist here."""
        self._lock = threading.Lock()
        self._stream = None
        self._left = 0


@final
class DeterministicRandom(RandomSource):
    """A reproducible source for tests. Nothing drawn from it is private.

    Args:
        seed: Any bytes, integer or text; different seeds, and seeds of different types, give unrelated
            streams.

    Example:
        >>> first, second = DeterministicRandom(7), DeterministicRandom(7)
        >>> first.bytes(4) == second.bytes(4)
        True
        >>> first.private
        False
    """

    def __init__(self, seed: builtins.bytes | int | str) -> None:
        super().__init__()
        self._root = _derive(b"", "seed", seed)
        self._keys_used = 0

    @property
    def origin(self) -> NoiseOrigin:
        """A seed."""
        return NoiseOrigin.DETERMINISTIC

    def child(self, *labels: str | int) -> "DeterministicRandom":
        """The source that ``labels`` name, whatever was drawn and whichever children were made before."""
        return DeterministicRandom(_derive(self._root, "child", *labels))

    def _next_key(self) -> builtins.bytes:
        self._keys_used += 1
        return _derive(self._root, "key", self._keys_used)


def _derive(key: builtins.bytes, purpose: str, *parts: builtins.bytes | int | str) -> builtins.bytes:
    """32 bytes of keyed BLAKE2b over the parts, each with type and length: no two lists coincide."""
    digest = hashlib.blake2b(key=key, digest_size=_KEY_BYTES, person=b"cloister-random")
    for part in (purpose, *parts):
        body = part if isinstance(part, builtins.bytes) else str(part).encode()
        kind = b"b" if isinstance(part, builtins.bytes) else b"i" if isinstance(part, int) else b"s"
        digest.update(kind + len(body).to_bytes(8, "big") + body)
    return digest.digest()


def _checked_count(n: int) -> int:
    if n < 0:
        raise InputError(f"the count is {n!r}.", remedy="Ask for zero or more.")
    return n


_LIVE: "weakref.WeakSet[SystemRandom]" = weakref.WeakSet()


def _forget_all() -> None:
    """Run in a forked child, before anything else: parent and child must never share a keystream."""
    for source in list(_LIVE):
        source._forget()


os.register_at_fork(after_in_child=_forget_all)
