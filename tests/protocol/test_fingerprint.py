"""The fingerprint changes with any byte of any Python file that takes part in a run."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.fingerprint import PACKAGES, code_fingerprint

ROOT = Path(__file__).parents[2]


def fingerprint(root: Path) -> str:
    """What the copy of the code at another place says of itself."""
    spec = importlib.util.spec_from_file_location("copied_fingerprint", root / "protocol" / "fingerprint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.code_fingerprint()
    assert isinstance(found, str)
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_the_place_does_not_matter(copy: Path) -> None:
    assert fingerprint(copy) == code_fingerprint()
    assert len(code_fingerprint()) == 64


@pytest.mark.parametrize("package", PACKAGES)
def test_any_byte_of_any_package_counts(copy: Path, package: str) -> None:
    before = fingerprint(copy)
    paths = sorted((copy / package).rglob("*.py"))
    assert paths
    for path in (paths[0], paths[-1]):
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert fingerprint(copy) != before
        path.write_bytes(content)
    assert fingerprint(copy) == before


def test_names_new_files_and_lost_files_count(copy: Path) -> None:
    found = {fingerprint(copy)}
    (copy / "client" / "spare.py").write_bytes(b"")
    found.add(fingerprint(copy))
    (copy / "client" / "spare.py").rename(copy / "client" / "other.py")
    found.add(fingerprint(copy))
    (copy / "client" / "other.py").rename(copy / "server" / "other.py")
    found.add(fingerprint(copy))
    (copy / "client" / "door.py").unlink()
    found.add(fingerprint(copy))
    assert len(found) == 5


def test_a_byte_moved_from_one_file_to_the_next_counts(copy: Path) -> None:
    folder = copy / "client"
    (folder / "x.py").write_bytes(b"ab")
    (folder / "y.py").write_bytes(b"c")
    before = fingerprint(copy)
    (folder / "x.py").write_bytes(b"a")
    (folder / "y.py").write_bytes(b"bc")
    assert fingerprint(copy) != before


def test_what_decides_nothing_at_a_site_does_not_count(copy: Path) -> None:
    before = fingerprint(copy)
    (copy / "cli").mkdir()
    (copy / "cli" / "app.py").write_bytes(b"print()")
    (copy / "client" / "notes.txt").write_bytes(b"notes")
    (copy / "client" / "__pycache__").mkdir()
    (copy / "client" / "__pycache__" / "door.pyc").write_bytes(b"\0")
    assert fingerprint(copy) == before


def test_every_package_that_a_site_imports_is_covered() -> None:
    """Whatever the client's app can import takes part in a run."""
    code = "import sys, client.app; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    ours = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert "client" in ours & set(loaded)
    assert ours & set(loaded) <= set(PACKAGES)
