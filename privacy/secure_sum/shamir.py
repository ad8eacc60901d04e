"""Threshold sharing of byte strings (Shamir 1979), byte by byte over GF(2^8).

Why this field: a share is exactly as long as the secret, there is no big-integer arithmetic whose time depends on the
secret, numpy does all bytes and all receivers at once, and 255 points are more than the 100 sites that a federation
may have. The field is that of AES (FIPS 197), x^8 + x^4 + x^3 + x + 1.

Only points and Lagrange coefficients, which are public, are ever branched on; secret bytes are shifted and masked,
and no table is indexed by them.

Shares carry no proof: whoever opens a secret compares it with a public commitment to it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.errors import PrivacyError
from protocol.randomness import RandomSource

_REDUCTION = np.uint8(0x1B)
_MOST_POINTS = 255


def share(secret: bytes, *, points: Sequence[int], threshold: int, random: RandomSource) -> dict[int, bytes]:
    """Split a secret so that any ``threshold`` shares open it, and fewer say nothing about it.

    Args:
        secret: Any bytes.
        points: One number from 1 to 255 for each receiver, all different.
        threshold: Shares that are needed to open it.
        random: Where the coefficients come from.

    Returns:
        Point to share, each as long as the secret.

    Raises:
        PrivacyError: If a point is out of range or used twice, or the threshold is out of range.

    Example:
        >>> from protocol.randomness import SystemRandom
        >>> shares = share(b"secret", points=[1, 2, 3, 4], threshold=3, random=SystemRandom())
        >>> open_shares({point: shares[point] for point in (1, 3, 4)}, threshold=3)
        b'secret'
    """
    _check_points(points)
    if not 1 <= threshold <= _MOST_POINTS:
        raise PrivacyError(f"the threshold is {threshold!r}.", remedy="Give 1 to 255 shares.")
    drawn = np.frombuffer(random.bytes((threshold - 1) * len(secret)), dtype=np.uint8)
    coefficients = drawn.reshape(threshold - 1, len(secret))
    at = np.array(points, dtype=np.uint8)[:, np.newaxis]
    values = np.zeros((len(points), len(secret)), dtype=np.uint8)
    for coefficient in (*coefficients, np.frombuffer(secret, dtype=np.uint8)):  # Horner's rule
        values = multiply(values, at) ^ coefficient
    return {point: row.tobytes() for point, row in zip(points, values, strict=True)}


def open_shares(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """Open a secret from its shares; with shares that do not belong together the result is noise.

    Args:
        shares: Point to share. Of more than ``threshold``, those with the lowest points are used.
        threshold: As the secret was shared.

    Raises:
        PrivacyError: If there are too few shares, or their lengths or points are wrong.
    """
    points = sorted(shares)[:threshold]
    _check_points(points)
    if len(points) < threshold or len({len(shares[point]) for point in points}) != 1:
        raise PrivacyError(
            f"there are {len(shares)} shares of {threshold}, or their lengths differ.",
            remedy="Collect enough shares of one secret.",
        )
    rows = np.array([np.frombuffer(shares[point], dtype=np.uint8) for point in points])
    weights = np.array(_lagrange(points), dtype=np.uint8)[:, np.newaxis]
    opened: NDArray[np.uint8] = np.bitwise_xor.reduce(multiply(rows, weights), axis=0)
    return opened.tobytes()


def multiply(secret: NDArray[np.uint8], public: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Product in GF(2^8), in time that does not depend on ``secret``.

    Args:
        secret: uint8 [k, length].
        public: uint8 [k, 1].

    Returns:
        uint8 [k, length].
    """
    product = np.zeros_like(secret)
    for bit in range(8):
        product ^= secret * ((public >> np.uint8(bit)) & np.uint8(1))
        secret = (secret << np.uint8(1)) ^ (_REDUCTION * (secret >> np.uint8(7)))
    return product


def _lagrange(points: Sequence[int]) -> list[int]:
    """Weight of each point's share in the value at zero; subtraction is exclusive or, so 0 - x is x."""
    weights = []
    for point in points:
        above, below = 1, 1
        for other in points:
            if other != point:
                above = _product(above, other)
                below = _product(below, other ^ point)
        weights.append(_product(above, _inverse(below)))
    return weights


def _product(first: int, second: int) -> int:
    """Product of two public field elements."""
    result = 0
    while second:
        result ^= first if second & 1 else 0
        first = (first << 1) ^ (0x11B if first & 0x80 else 0)
        second >>= 1
    return result


def _inverse(element: int) -> int:
    """The inverse of a public element: its 254th power, because its 255th is one."""
    result, power = 1, element
    for _ in range(7):
        power = _product(power, power)
        result = _product(result, power)
    return result


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points) or not all(1 <= point <= _MOST_POINTS for point in points):
        raise PrivacyError("the points of shares are out of range or repeated.", remedy="Use each of 1 to 255 once.")
