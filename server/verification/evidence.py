"""Reading what sites give to whoever verifies: transcripts of the secure sum, extracts of their ledgers."""

import json
from pathlib import Path

from privacy.ledger import LedgerExtract
from privacy.secure_sum import Transcript
from protocol.errors import InputError, LedgerError, WireError

_MOST_BYTES = 256_000_000
_ASK = "Ask the site for it again."


def read_transcript(path: Path) -> Transcript:
    """Read a site's transcript; its signature is not verified yet.

    Raises:
        InputError: If the file is none.
    """
    try:
        mapping = json.loads(_text(path))
        if not isinstance(mapping, dict):
            raise WireError("it is no object.", remedy=_ASK)
        return Transcript.from_mapping(mapping)
    except (ValueError, RecursionError, WireError) as error:
        raise InputError(f"{path} is no transcript: {error}", remedy=_ASK) from error


def read_extract(path: Path) -> LedgerExtract:
    """Read a site's extract of its ledger, and check it under the key that it names.

    Raises:
        InputError: If the file is none, or does not hold.
    """
    try:
        return LedgerExtract.from_text(_text(path))
    except LedgerError as error:
        raise InputError(f"{path} is no extract of a ledger that holds: {error.problem}", remedy=_ASK) from error


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} has more than {_MOST_BYTES:,} bytes.", remedy="Check the path.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text.", remedy="Check the path.") from error
