"""A study and a release that are quickly audited, and a home of the auditor's own."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from privacy.plan import PrivacyPlan
from protocol.study import Study
from records.codec import Codec
from records.dataset import Records
from records.schema import Schema
from simulations.federation import simulate

COLUMNS: list[dict[str, Any]] = [
    {"name": "age", "kind": "integer", "lower": 20, "upper": 49},
    {"name": "colour", "kind": "categorical", "categories": ["red", "green", "blue"]},
    {"name": "dose", "kind": "integer", "lower": 0, "upper": 39},
    {"name": "ill", "kind": "boolean"},
]


def mapping(**privacy: Any) -> dict[str, Any]:
    """A small study as a mapping."""
    return {
        "study": {"name": "small", "purpose": "A test."},
        "schema": {"columns": COLUMNS},
        "model": {"family": "vae", "options": {"latent": 2}},
        "training": {"rounds": 4},
        "privacy": {"epsilon": 0.5, "delta": 1e-4, "sample_rate": 0.5} | privacy,
        "federation": {"sites": 2, "public_records": 200},
    }


def codes(count: int, *, seed: int) -> np.ndarray:
    """Records of independent columns."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, Schema.from_mapping({"columns": COLUMNS}).cardinalities, (count, 4)).astype(np.int32)


@pytest.fixture(scope="session")
def study_file(tmp_path_factory) -> Path:
    """The study as a file."""
    path = tmp_path_factory.mktemp("study") / "small.toml"
    path.write_text(tomli_w.dumps(mapping()), "utf-8")
    return path


@pytest.fixture(scope="session")
def small_release(tmp_path_factory) -> Path:
    """A release of the study."""
    schema = Schema.from_mapping({"columns": COLUMNS})
    parts = {f"site-{seed}": Records(codes=codes(100, seed=seed), persons=None, schema=schema) for seed in (1, 2)}
    folder = tmp_path_factory.mktemp("audited") / "release"
    simulate(Study.from_mapping(mapping()), parts, release=folder)
    return folder


@pytest.fixture
def forged_release(small_release, tmp_path) -> Path:
    """The release with a sound statement of one of its four rounds, and checksums that fit."""
    folder = Path(shutil.copytree(small_release, tmp_path / "forged"))
    provenance = json.loads((folder / "provenance.json").read_text("utf-8"))
    entries = [site["last_ledger_entry"] for site in provenance["sites"].values()]
    plan = PrivacyPlan.from_study(Study.from_mapping(mapping()))
    told = plan.statement(rounds=1, simulated=True, ledger_entries=sorted(set(entries) - {None}))
    told.recompute()
    (folder / "statement.json").write_text(json.dumps(told.to_mapping(), indent=2, sort_keys=True) + "\n", "utf-8")
    (folder / "statement.txt").write_text("\n".join(told.sentences()) + "\n", "utf-8")
    names = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines()]
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums), "utf-8")
    return folder


@pytest.fixture
def records_file(tmp_path):
    """Writer of a file of records of the study's schema."""

    def write(name: str, *, count: int, seed: int) -> Path:
        table = Codec(Schema.from_mapping({"columns": COLUMNS})).decode(
            codes(count, seed=seed), generator=np.random.default_rng(seed)
        )
        lines = [",".join(table.column_names)]
        lines += [",".join(str(value).lower() for value in row.values()) for row in table.to_pylist()]
        path: Path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def auditor_home(tmp_path, monkeypatch) -> Path:
    """Where the auditor's key lies unless it is named."""
    home = tmp_path / "settings"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.delenv("CLOISTER_AUDITOR_KEY", raising=False)
    return home
