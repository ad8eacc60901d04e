"""One byte form for every JSON value, and its hash: what is signed, chained and compared is exactly this."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

from protocol.errors import WireError

_MOST_DEPTH = 64
_REMEDY = "Only null, true, false, integers, finite floats, strings, lists and string-keyed objects can be hashed."


def canonical_json(obj: object) -> bytes:
    r"""Writes a value as JSON in the one form that is hashed and signed.

    Keys are sorted by code point, there is no white space, text is UTF-8 and unescaped, and floats take the
    shortest form that reads back as the same double. ``1`` and ``1.0`` are different values. Tuples are
    written as lists.

    Args:
        obj: A JSON value.

    Returns:
        The UTF-8 bytes.

    Raises:
        WireError: If the value holds a NaN, an infinity, a key that is no string, text that is no Unicode, or
            anything that is not JSON, or is nested deeper than 64 levels.

    Example:
        >>> canonical_json({"b": [1, 2.5, None], "a": "é"})
        b'{"a":"\xc3\xa9","b":[1,2.5,null]}'
    """
    _check(obj, place="$", depth=0)
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise WireError(f"Text holds the lone surrogate {error.object[error.start]!r}.", remedy=_REMEDY) from error


def digest(obj: object) -> str:
    """Hashes a JSON value: SHA-256 over `canonical_json`.

    Args:
        obj: A JSON value.

    Returns:
        The hash as 64 lower-case hexadecimal digits.

    Raises:
        WireError: As `canonical_json`.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(canonical_json(obj)).hexdigest()


def _check(obj: object, *, place: str, depth: int) -> None:
    """Refuses what JSON cannot hold, before the encoder silently converts it."""
    if depth > _MOST_DEPTH:
        raise WireError(f"{place} is nested deeper than {_MOST_DEPTH} levels.", remedy="Flatten the value.")
    if obj is None or isinstance(obj, (bool, int, str)):
        return
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise WireError(f"{place} is {obj}, which is not a finite number.", remedy=_REMEDY)
    elif isinstance(obj, dict):
        _check_mapping(obj, place=place, depth=depth)
    elif isinstance(obj, (list, tuple)):
        _check_sequence(obj, place=place, depth=depth)
    else:
        raise WireError(f"{place} is of type {type(obj).__name__}, which is not JSON.", remedy=_REMEDY)


def _check_mapping(obj: Mapping[object, object], *, place: str, depth: int) -> None:
    for key, value in obj.items():
        if not isinstance(key, str):
            raise WireError(f"{place} has the key {key!r}, which is not a string.", remedy=_REMEDY)
        _check(value, place=f"{place}.{key}", depth=depth + 1)


def _check_sequence(obj: Sequence[object], *, place: str, depth: int) -> None:
    for index, value in enumerate(obj):
        _check(value, place=f"{place}[{index}]", depth=depth + 1)
