"""``cloister verify`` and ``cloister release bundle``: what they print, and how they end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.credentials import Enrolled
from protocol.keys import public_hex

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ledgers(deployed: Any, tmp_path: Path) -> Path:
    """A folder with the extracts of both sites."""
    folder = tmp_path / "ledgers"
    folder.mkdir()
    for site in ("north", "south"):
        (folder / f"{site}.json").write_text(deployed.extract(site).to_text(), "utf-8")
    return folder


def lower_epsilon(deployed: Any, target: Path) -> Path:
    """A copy of the release that claims less than it costs, with checksums and signature that hold."""
    folder = deployed.copy(target)
    deployed.rewrite(folder, "statement.json", lambda value: value["check"].update(pld=1.0))
    deployed.seal(folder)
    return folder


def test_a_release_with_its_ledgers_is_told_in_sentences(cloister: Any, deployed: Any, ledgers: Path) -> None:
    key = public_hex(deployed.coordinator)
    status, out, err = cloister("verify", deployed.folder, "--ledger", ledgers, "--coordinator", key)
    assert (status, err) == (0, "")
    assert out.count("ok   ") >= 13
    assert "ok   north: counted again from its entries, 3 compositions cost (" in out
    assert "NOTE That a site clipped each unit's part and added the noise" in out
    assert "BAD" not in out
    assert "differential privacy per record" in out.splitlines()[-1]


def test_the_coordinators_key_may_be_a_sites_file(cloister: Any, deployed: Any, tmp_path: Path) -> None:
    path = tmp_path / "coordinator.json"
    for key, expected in ((public_hex(deployed.coordinator), 0), ("ab" * 32, 1)):
        enrolled = Enrolled(
            federation="hearts", host="127.0.0.1", port=1, coordinator_key=key, ca_fingerprint="0" * 64, site="north"
        )
        path.write_bytes(enrolled.to_bytes())
        status, out, err = cloister("verify", deployed.folder, "--coordinator", path)
        assert status == expected
        assert ("as it should be" in out) == (expected == 0)
        assert ("BAD  The release is signed by" in out) == ("not by the coordinator" in err) == (expected == 1)
    for word in ("nonsense", tmp_path, path.with_name("away.json"), "ab" * 31):
        status, _, err = cloister("verify", deployed.folder, "--coordinator", word)
        assert status == 1
        assert "no key of 64 hexadecimal digits" in err


def test_what_is_wrong_is_told_beside_what_is_right(
    cloister: Any, deployed: Any, ledgers: Path, tmp_path: Path
) -> None:
    folder = lower_epsilon(deployed, tmp_path / "lower")
    status, out, err = cloister("verify", folder, "--ledger", ledgers)
    assert status == 1
    assert "BAD  The statement claims epsilon 1.0, its events cost" in out
    assert "BAD  The ledger of north shows (" in out
    assert "BAD  The ledger of south shows (" in out
    assert "ok   The sites that contributed are those of the study's roster" in out
    assert err.startswith("cloister: The statement claims epsilon 1.0")
    assert "(3 faults in all)" in err
    assert len(err.splitlines()) == 1
    status, out, _ = cloister("verify", folder, "--json")
    found = json.loads(out)
    assert status == 1
    assert len(found["faults"]) == 1
    assert found["passed"]
    assert found["remarks"]


def test_json_is_one_object(cloister: Any, deployed: Any, ledgers: Path) -> None:
    status, out, _ = cloister("verify", deployed.folder, "--ledger", ledgers / "north.json", "--json")
    found = json.loads(out)
    assert status == 0
    assert set(found) == {"release", "passed", "remarks", "faults", "statement"}
    assert found["faults"] == []
    assert any("No ledger was checked of south" in remark for remark in found["remarks"])


def test_mistakes_are_one_line(cloister: Any, deployed: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("nothing", "utf-8")
    for arguments, words in (
        (("--ledger", tmp_path / "empty"), "no extract of a ledger of this release in this folder"),
        (("--transcript", tmp_path / "empty"), "no transcript of this release in this folder"),
        (("--ledger", tmp_path / "text.json"), "is no extract of a ledger that holds"),
        (("--transcript", tmp_path / "text.json"), "is no transcript"),
        (("--ledger", tmp_path / "away.json"), "No such file"),
    ):
        status, out, err = cloister("verify", deployed.folder, *arguments)
        assert (status, out) == (1, "")
        assert words in err
        assert len(err.splitlines()) == 1


def test_of_a_folder_what_is_about_something_else_is_passed_over(
    cloister: Any, deployed: Any, deployed_sum: Any, ledgers: Path, tmp_path: Path
) -> None:
    """A site keeps the transcripts of all its runs in one folder."""
    other = ledgers / "a.json"
    other.write_text(deployed_sum.extract("a").to_text(), "utf-8")
    status, out, _ = cloister("verify", deployed.folder, "--ledger", ledgers)
    assert status == 0
    assert "a: " not in out
    status, out, _ = cloister("verify", deployed.folder, "--ledger", other)
    assert status == 1
    assert "BAD  a is no site of the release." in out or "BAD  The extract of a is about another study" in out
    told = tmp_path / "told"
    told.mkdir()
    for site in "ab":
        transcript = json.loads(deployed_sum.told[site].read_text("utf-8"))
        (told / f"{site}.json").write_text(json.dumps(transcript), "utf-8")
        (told / f"{site}-before.json").write_text(json.dumps(transcript | {"run": "0" * 64}), "utf-8")
    status, out, _ = cloister("verify", deployed_sum.folder, "--transcript", told)
    assert status == 0
    assert "ok   The coordinator told a, b the same in every round" in out
    status, out, _ = cloister("verify", deployed_sum.folder, "--transcript", told / "a-before.json")
    assert status == 1
    assert "BAD  the transcript of a is of another run or study" in out


def test_a_bundle_is_written_and_said_to_be(cloister: Any, deployed: Any, ledgers: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    status, told, err = cloister("release", "bundle", deployed.folder, "--out", out, "--ledger", ledgers)
    assert (status, err) == (0, "")
    assert f"Bundle written: open {out / 'index.html'}" in told
    assert "NOTE Whether that key is the coordinator's was not checked" in told
    assert (out / "ledgers" / "south.json").is_file()
    status, told, err = cloister("release", "bundle", deployed.folder, "--out", out)
    assert (status, told) == (1, "")
    assert "exists" in err
    status, told, _ = cloister("release", "bundle", deployed.folder, "--out", tmp_path / "second", "--json")
    assert status == 0
    assert set(json.loads(told)) == {"bundle", "passed", "remarks"}


@pytest.mark.slow
def test_the_program_itself_refuses_to_bundle_what_fails(deployed: Any, tmp_path: Path) -> None:
    folder = lower_epsilon(deployed, tmp_path / "lower")
    out = tmp_path / "bundle"
    done = subprocess.run(
        [sys.executable, "-m", "cli.app", "release", "bundle", str(folder), "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "claims epsilon 1.0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
