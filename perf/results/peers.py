"""Synthesizers of others, run in an environment of their own: they are no dependency of this project.

The environment is made once, and named by ``CLOISTER_PEERS``::

    python -m venv peers && peers/bin/pip install mbi==2.0.0
    CLOISTER_PEERS=peers/bin/python python -m perf.utility adult-binned --family mst --epsilon 1 --write
"""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.errors import InputError
from records.dataset import Records

INTERPRETER = "CLOISTER_PEERS"
_PROGRAM = Path(__file__).resolve().parent.parent / "peers" / "marginals.py"


@dataclass(frozen=True, kw_only=True, eq=False)
class PeerRows:
    """What a peer drew.

    Attributes:
        codes: int32 ``[rows, columns]``.
        seconds: Wall time of learning and drawing, without the start of the interpreter.
        peak_mb: Most memory of its process, in MiB.
    """

    codes: NDArray[np.int32]
    seconds: float
    peak_mb: float


def draw(records: Records, *, mechanism: str, epsilon: float, delta: float, rows: int, seed: int) -> PeerRows:
    """Learn from records and draw rows, in the peers' own interpreter.

    Args:
        records: Training records; each is one unit.
        mechanism: ``mst`` or ``aim``.
        epsilon: Of the peer's promise.
        delta: Of the peer's promise.
        rows: How many rows to draw.
        seed: Of its noise, which is for measurements only.

    Returns:
        The rows and what they cost.

    Raises:
        InputError: There is no such interpreter, or the peer failed.
    """
    interpreter = os.environ.get(INTERPRETER)
    if not interpreter:
        raise InputError("No peers.", remedy=f"Let {INTERPRETER} name the Python of an environment with mbi.")
    with tempfile.TemporaryDirectory() as folder:
        task, answer = Path(folder) / "task.npz", Path(folder) / "answer.npz"
        np.savez(task, codes=records.codes, cardinalities=np.array(records.schema.cardinalities))
        words = [f"--epsilon={epsilon}", f"--delta={delta}", f"--rows={rows}", f"--seed={seed}"]
        command = [interpreter, str(_PROGRAM), mechanism, str(task), str(answer), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own program
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise InputError(f"{mechanism} failed: {last}", remedy=f"Try {' '.join(command[:3])} by hand.")
        cost = json.loads(done.stdout.strip().splitlines()[-1])
        with np.load(answer) as arrays:
            codes = arrays["codes"].astype(np.int32)
    return PeerRows(codes=codes, seconds=cost["seconds"], peak_mb=cost["peak_mb"])
