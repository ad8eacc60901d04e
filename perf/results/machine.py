"""What a run was made with: code, packages and machine, in words."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from protocol.fingerprint import VERSION, code_fingerprint

_PACKAGES = ("torch", "scikit-learn", "numpy", "dp-accounting")
_PROCESSOR = "model name"


def machine_words() -> str:
    """Return processor, cores and threads that torch uses, such as ``2 cores of Some CPU @ 2.5 GHz, 1 thread``.

    >>> " of " in machine_words()
    True
    """
    threads = torch.get_num_threads()
    return f"{os.cpu_count()} cores of {_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def versions() -> dict[str, str]:
    """Return the version and fingerprint of this code, of Python and of the packages that decide the numbers."""
    packages = {name: version(name) for name in _PACKAGES}
    return {
        "cloister": VERSION,
        "code": code_fingerprint()[:12],
        "python": platform.python_version(),
        **packages,
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith(_PROCESSOR):
                return line.partition(":")[2].strip()
    return platform.machine()
