"""The import contracts of pyproject.toml hold, and each of them catches what it is there for."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
CONTRACTS = {contract["id"]: contract["name"] for contract in SETTINGS["contracts"]}
RUN = "from importlinter.cli import lint_imports_command; lint_imports_command()"

# Contract, the file to plant, and what it imports. The first of each is one that no other contract catches.
PLANTED = [
    ("layers", "privacy/planted.py", "import records.schema"),
    ("layers", "protocol/planted.py", "import privacy.events"),
    ("layers", "client/planted.py", "import server.app"),
    ("layers", "strategies/planted.py", "import evaluation.report"),
    ("layers", "records/planted.py", "import models.layout"),
    ("layers", "cli/planted.py", "import perf.noise"),
    ("trust-boundary", "strategies/planted.py", "import records.sources.csv"),
    ("trust-boundary", "server/planted.py", "def late():\n    import records.sources"),
    ("trust-boundary", "server/planted.py", "import client.policy"),
    ("privacy-core", "privacy/planted.py", "import flwr"),
    ("privacy-core", "privacy/mechanisms/planted.py", "from ray import init"),
    ("privacy-core", "privacy/planted.py", "from pandas import DataFrame"),
    ("opacus", "models/planted.py", "import opacus"),
    ("opacus", "privacy/planted.py", "from opacus.grad_sample import GradSampleModule"),
    ("door", "client/planted.py", "from flwr.app import Message"),
    ("door", "client/planted.py", "from protocol.messages import encode"),
]


def copy_of_the_house(target: Path) -> Path:
    """The root packages' Python files, and the settings."""
    shutil.copy(ROOT / "pyproject.toml", target)
    for package in SETTINGS["root_packages"]:
        for path in (ROOT / package).rglob("*.py"):
            place = target / path.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    return target


def linted(root: Path) -> tuple[int, str]:
    """Exit status and text of import-linter run in ``root``."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, "--no-cache", "--no-logo"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return copy_of_the_house(tmp_path_factory.mktemp("house"))


def test_contracts_hold():
    status, text = linted(ROOT)
    assert status == 0, text
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in text


def test_every_contract_is_tested_for_power():
    assert {contract for contract, _, _ in PLANTED} == set(CONTRACTS)


@pytest.mark.parametrize(("contract", "place", "planted"), PLANTED)
def test_planted_import_breaks_the_contract(house, contract, place, planted):
    path = house / place
    path.write_text(f"{planted}\n", "utf-8")
    try:
        status, text = linted(house)
    finally:
        path.unlink()
    assert status != 0, text
    assert f"{CONTRACTS[contract]} BROKEN" in text, text


def test_framework_is_found_behind_a_go_between(house):
    between, path = house / "protocol" / "planted.py", house / "privacy" / "planted.py"
    between.write_text("import pandas\n", "utf-8")
    path.write_text("import protocol.planted\n", "utf-8")
    try:
        _, text = linted(house)
    finally:
        between.unlink()
        path.unlink()
    assert f"{CONTRACTS['privacy-core']} BROKEN" in text, text
