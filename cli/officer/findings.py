"""What a check found, on a terminal."""

import sys
from collections.abc import Sequence

_SHOWN = 20


def print_findings(passed: Sequence[str], remarks: Sequence[str], faults: Sequence[str]) -> None:
    """Print what is right, what is worth a look, and what is wrong; of many faults, the first 20."""
    for mark, sentences in (("ok", passed), ("NOTE", remarks), ("BAD", faults[:_SHOWN])):
        for sentence in sentences:
            sys.stdout.write(f"{mark:5}{sentence}\n")
    if len(faults) > _SHOWN:
        sys.stdout.write(f"BAD  … and {len(faults) - _SHOWN} more.\n")
