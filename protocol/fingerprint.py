"""The fingerprint of the installed code, which both ends compare before any training."""

import hashlib
from functools import cache
from pathlib import Path

VERSION = "0.1.0"
PACKAGES = ("client", "evaluation", "models", "privacy", "protocol", "records", "server", "strategies")


@cache
def code_fingerprint() -> str:
    """Return the SHA-256 over names and bytes of all Python files that take part in a run.

    64 hexadecimal digits. The command line and the simulations are left out: they decide nothing at a site.
    """
    root = Path(__file__).resolve().parent.parent
    total = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            total.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            total.update(content)
    return total.hexdigest()
