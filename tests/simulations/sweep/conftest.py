"""A small study, its records, and a site's folder that holds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data_set import found_data_set
from client.policy import write_policy
from protocol.keys import create_identity
from protocol.study import Study

SCHEMA: dict[str, Any] = {
    "target": "ill",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 0, "upper": 9},
        {"name": "colour", "kind": "categorical", "categories": ["red", "green", "blue"]},
        {"name": "ill", "kind": "boolean", "true_values": ["1"], "false_values": ["0"]},
    ],
}


def study(**sections: dict[str, Any]) -> Study:
    """A study of one site and three rounds; sections may be overridden."""
    mapping: dict[str, Any] = {
        "study": {"name": "tiny", "purpose": "A test."},
        "schema": SCHEMA,
        "model": {"family": "vae", "options": {"latent": 1}},
        "training": {"rounds": 3},
        "privacy": {"epsilon": 1.0, "delta": 1e-4, "sample_rate": 0.5},
        "federation": {"sites": 1, "public_records": 400},
    }
    for name, section in sections.items():
        mapping[name] = mapping[name] | section
    return Study.from_mapping(mapping)


def write_records(path: Path, count: int, *, seed: int = 0) -> Path:
    """Records whose illness depends on age, as a table."""
    generator = np.random.default_rng(seed)
    age, colour = generator.integers(0, 10, count), generator.integers(0, 3, count)
    ill = (generator.random(count) < age / 10).astype(int)
    rows = [f"{a},{('red', 'green', 'blue')[c]},{i}" for a, c, i in zip(age, colour, ill, strict=True)]
    path.write_text("\n".join(["age,colour,ill", *rows]) + "\n", "utf-8")
    return path


def make_site(folder: Path, *, records: int = 400, epsilon: float = 50.0, delta: float = 1e-4) -> Path:
    """A site that enrolled: its records, its policy, its empty ledger."""
    folder.mkdir()
    create_identity(folder / "key.pem")
    data = write_records(folder / "records.csv", records)
    found_data_set(folder, name="north", location=str(data), data_set="stays", device="cpu")
    write_policy(folder / "policy.toml", epsilon=epsilon, delta=delta)
    return folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Study]:
    """Make a study; see `study`."""
    return study


@pytest.fixture
def site(tmp_path) -> Callable[..., Path]:
    """Make a site's folder; see `make_site`."""
    return lambda **options: make_site(tmp_path / "site", **options)
