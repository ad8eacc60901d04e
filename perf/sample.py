"""How long ``cloister sample`` takes for a million records of Adult, the whole command, start to file.

``python -m perf.sample --json`` writes a release of the flagship model on the binned Adult schema into a
temporary folder, runs the command as a user would, and prints one flat JSON object: ``seconds`` and
``peak_mb`` (resident memory of the command) for Parquet, ``rows_per_second`` = rows / ``seconds``, and
``csv_seconds`` for CSV. The model has seen one round of made-up records only: drawing takes the same
arithmetic whatever the weights are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np

from protocol.study import Study
from records.dataset import Records
from records.schema import Schema
from simulations.federation import simulate

SCHEMA = files("simulations") / "scenarios" / "adult_binned.schema.toml"
MADE_UP_RECORDS = 1_000


def flagship_study() -> Study:
    """Give the shortest study of the flagship model on the binned Adult schema."""
    return Study.from_mapping(
        {
            "study": {"name": "perf-sample"},
            "schema": tomllib.loads(SCHEMA.read_text(encoding="utf-8")),
            "model": {"family": "vae"},
            "training": {"rounds": 1},
            "privacy": {"epsilon": 1.0, "sample_rate": 0.01},
            "federation": {"sites": 1, "public_records": MADE_UP_RECORDS},
        }
    )


def write_flagship_release(folder: Path) -> None:
    """Write a release of a model that has hardly been trained.

    Args:
        folder: Where; it must not exist.
    """
    study = flagship_study()
    schema = Schema.from_mapping(study.schema)
    generator = np.random.default_rng(0)
    codes = generator.integers(0, schema.cardinalities, (MADE_UP_RECORDS, len(schema.columns)), dtype=np.int32)
    simulate(study, {"site-1": Records(codes=codes, persons=None, schema=schema)}, release=folder)


def run_command(release: Path, output: Path, rows: int) -> tuple[float, float]:
    """Run ``cloister sample`` in a process of its own.

    Args:
        release: Folder of the release.
        output: File to write.
        rows: Number of records.

    Returns:
        Seconds from start to end, and peak resident memory in megabytes (2^20 bytes).

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    command = [
        sys.executable,
        "-m",
        "cli.app",
        "sample",
        str(release),
        "-q",
        "-n",
        str(rows),
        "-o",
        str(output),
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command)  # noqa: S603 -- this interpreter, our own module
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, used.ru_maxrss / 1024  # kilobytes on Linux


def measure(rows: int) -> dict[str, float]:
    """Write a release and sample from it twice, to Parquet and to CSV.

    Args:
        rows: Number of records.

    Returns:
        Seconds, records per second and megabytes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_flagship_release(folder / "release")
        seconds, peak = run_command(folder / "release", folder / "rows.parquet", rows)
        csv_seconds, _ = run_command(folder / "release", folder / "rows.csv", rows)
    return {
        "seconds": round(seconds, 2),
        "rows_per_second": round(rows / seconds),
        "peak_mb": round(peak, 1),
        "csv_seconds": round(csv_seconds, 2),
        "rows": rows,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How long cloister sample takes.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure(options.rows)
    lines = [json.dumps(result)] if options.json else [f"{key:>16} {value}" for key, value in result.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
