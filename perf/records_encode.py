"""How fast a CSV file becomes codes, beside Arrow merely reading it.

``python -m perf.records_encode --json`` writes a file of mixed columns into a temporary folder, loads it with
:func:`records.dataset.load_records`, and prints one flat JSON object: ``seconds`` and ``peak_mb`` (resident
memory of the process that loads), ``rows``, ``columns``, ``read_s`` (``pyarrow.csv.read_csv`` on the same
file, which infers types and checks nothing) and ``ratio`` = ``seconds / read_s``.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from records.dataset import load_records
from records.schema import Column, Kind, Schema

BLOCK_ROWS = 100_000
WARDS = tuple(f"ward {index}" for index in range(20))


def mixed_schema(columns: int) -> Schema:
    """Make a schema whose columns go round the six kinds.

    Args:
        columns: Number of columns.

    Returns:
        The schema.
    """
    return Schema(columns=tuple(_column(index) for index in range(columns)))


def _column(index: int) -> Column:
    label = f"column_{index}"
    match index % 6:
        case 0:
            return Column(name=label, kind=Kind.CATEGORICAL, categories=WARDS, missing=True)
        case 1:
            return Column(name=label, kind=Kind.CONTINUOUS, lower=-10, upper=10)
        case 2:
            return Column(name=label, kind=Kind.INTEGER, lower=0, upper=120, bins=121, missing=True)
        case 3:
            return Column(name=label, kind=Kind.BOOLEAN)
        case 4:
            return Column(name=label, kind=Kind.DATE, lower="2000-01-01", upper="2020-01-01")
        case _:
            return Column(name=label, kind=Kind.ORDINAL, categories=("none", "mild", "severe"))


def write_csv(path: Path, *, rows: int, columns: int, generator: np.random.Generator) -> None:
    """Write a CSV file that fits :func:`mixed_schema`.

    Args:
        path: File to write.
        rows: Number of records.
        columns: Number of columns.
        generator: Source of randomness.
    """
    writer = None
    for start in range(0, rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, rows - start)
        arrays = [_values(index, count, generator) for index in range(columns)]
        table = pa.table(arrays, names=[f"column_{index}" for index in range(columns)])
        if writer is None:
            writer = arrow_csv.CSVWriter(str(path), table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _values(index: int, count: int, generator: np.random.Generator) -> pa.Array:
    empty = generator.random(count) < 0.05
    match index % 6:
        case 0:
            return pa.array(np.array(WARDS)[generator.integers(0, 20, count)], pa.string(), mask=empty)
        case 1:
            return pa.array(np.clip(generator.normal(0, 3, count), -10, 10))
        case 2:
            return pa.array(generator.integers(0, 121, count), mask=empty)
        case 3:
            return pa.array(generator.random(count) < 0.3)
        case 4:
            return pa.array(generator.integers(10957, 18262, count).astype("int32")).cast(pa.date32())
        case _:
            return pa.array(np.array(["none", "mild", "severe"])[generator.integers(0, 3, count)])


def _load(path: Path, columns: int, answer: Connection) -> None:
    """Load in a process of its own, so that its peak memory is that of loading alone."""
    started = time.perf_counter()
    records = load_records(path, schema=mixed_schema(columns))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
    answer.send((seconds, peak, len(records)))


def measure(rows: int, columns: int) -> dict[str, float]:
    """Write, load and read once.

    Args:
        rows: Number of records.
        columns: Number of columns.

    Returns:
        Seconds, megabytes (2^20 bytes), counts and the ratio to plain reading.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.csv"
        write_csv(path, rows=rows, columns=columns, generator=np.random.default_rng(0))
        started = time.perf_counter()
        arrow_csv.read_csv(str(path))
        read = time.perf_counter() - started
        receive, send = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=_load, args=(path, columns, send))
        process.start()
        seconds, peak, loaded = receive.recv()
        process.join()
    return {
        "seconds": round(seconds, 3),
        "peak_mb": round(peak, 1),
        "rows": loaded,
        "columns": columns,
        "read_s": round(read, 3),
        "ratio": round(seconds / read, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast a CSV file becomes codes.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure(options.rows, options.columns)
    lines = [json.dumps(result)] if options.json else [f"{key:>8} {value}" for key, value in result.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
