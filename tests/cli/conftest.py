"""A release, and real records, of a schema whose source is written as oddly as sources are."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from cli.app import run
from protocol.study import Study
from records.codec import Codec
from records.dataset import Records
from records.schema import Schema
from simulations.federation import simulate

SCHEMA: dict[str, Any] = {
    "target": "ill",
    "person": "patient",
    "missing_values": ["?"],
    "format": {
        "separator": ";",
        "decimal": ",",
        "header": False,
        "names": ["patient", "age", "colour", "dose", "seen", "ill"],
    },
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 29},
        {"name": "colour", "kind": "categorical", "categories": ["red", "green", "blue, light"],
         "missing": True},
        {"name": "dose", "kind": "continuous", "lower": 0, "upper": 8, "bins": 8, "missing": True},
        {"name": "seen", "kind": "date", "lower": "2024-01-01", "upper": "2024-01-31", "format": "%d/%m/%Y"},
        {"name": "ill", "kind": "boolean", "true_values": ["ja", "0"], "false_values": ["nein", "1"]},
    ],
}  # fmt: skip


def odd_codes(count: int, *, seed: int) -> np.ndarray:
    """Codes whose illness depends on age."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, [10, 4, 9, 31, 2], (count, 5))
    codes[:, 4] = generator.random(count) < codes[:, 0] / 10
    return codes.astype(np.int32)


def write_real(path: Path, *, count: int, seed: int, persons: list[int] | None = None) -> Path:
    """Write records as the source of the schema holds them: no header, semicolons, decimal commas."""
    schema = Schema.from_mapping(SCHEMA)
    table = Codec(schema).decode(odd_codes(count, seed=seed), generator=np.random.default_rng(seed))
    lines = []
    for index, row in enumerate(table.to_pylist()):
        dose = "" if row["dose"] is None else f"{row['dose']}".replace(".", ",")
        cells = [
            f"p{index if persons is None else persons[index]}",
            str(row["age"]),
            row["colour"] or "?",
            dose,
        ]
        lines.append(";".join([*cells, f"{row['seen']:%d/%m/%Y}", "ja" if row["ill"] else "nein"]))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def odd_release(tmp_path_factory) -> Path:
    """A release of three rounds at two sites."""
    study = Study.from_mapping(
        {
            "study": {"name": "odd"},
            "schema": SCHEMA,
            "model": {"family": "vae", "options": {"latent": 2}},
            "training": {"rounds": 3},
            "privacy": {"epsilon": 5.0, "delta": 1e-4, "sample_rate": 0.5},
            "federation": {"sites": 2, "public_records": 200},
        }
    )
    schema = Schema.from_mapping(SCHEMA)
    parts = {f"site-{seed}": Records(codes=odd_codes(100, seed=seed), persons=None, schema=schema) for seed in (1, 2)}
    folder = tmp_path_factory.mktemp("cli") / "release"
    simulate(study, parts, release=folder)
    return folder


@pytest.fixture(scope="session")
def odd_schema(tmp_path_factory) -> Path:
    """The schema as a file."""
    path = tmp_path_factory.mktemp("schema") / "odd.schema.toml"
    path.write_text(tomli_w.dumps(SCHEMA), "utf-8")
    return path


@pytest.fixture
def cloister(capfd):
    """Run the command in this process; give exit status, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        caught = capfd.readouterr()
        return status, caught.out, caught.err

    return call


@pytest.fixture
def real_file():
    """Writer of a file of real records."""
    return write_real


@pytest.fixture
def sums_hash(odd_release) -> str:
    """SHA-256 of the release's list of checksums."""
    return hashlib.sha256((odd_release / "SHA256SUMS").read_bytes()).hexdigest()
