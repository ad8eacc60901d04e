"""Offline verification of a release, and of what its sites say they were told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from protocol.errors import InputError, ReleaseError, WireError
from protocol.study import Study
from records.dataset import Records
from server.release import Release
from server.verification import read_transcript, verify_release
from simulations.federation import simulate

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def run(
    tiny_study: Callable[..., Study], tiny_records: Callable[..., Records], tmp_path: Path
) -> tuple[Release, dict[str, Path]]:
    """Return a release under the secure sum and the sites' transcripts."""
    study = tiny_study(privacy={"trust": "sum"}, federation={"sites": 5})
    parts = {name: tiny_records(20, seed=number) for number, name in enumerate(NAMES)}
    release = simulate(study, parts, release=tmp_path / "release", transcripts=tmp_path / "told")
    return release, {name: next((tmp_path / "told" / name).iterdir()) for name in NAMES}


def test_an_honest_run_passes_every_check(run: tuple[Release, dict[str, Path]]) -> None:
    release, paths = run
    passed = verify_release(release, [read_transcript(path) for path in paths.values()])
    assert len(passed) == 5
    assert "told a, b, c, d, e the same" in passed[-1]


def test_what_a_site_did_not_sign_is_refused(run: tuple[Release, dict[str, Path]]) -> None:
    release, paths = run
    mapping = json.loads(paths["a"].read_text())
    mapping["entries"][1][2] = "0" * 64
    paths["a"].write_text(json.dumps(mapping))
    with pytest.raises(WireError, match="not that of 'a'"):
        verify_release(release, [read_transcript(path) for path in paths.values()])


def test_transcripts_of_another_run_are_refused(
    run: tuple[Release, dict[str, Path]],
    tiny_study: Callable[..., Study],
    tiny_records: Callable[..., Records],
    tmp_path: Path,
) -> None:
    _, paths = run
    study = tiny_study(privacy={"trust": "sum"}, federation={"sites": 5})
    parts = {name: tiny_records(20, seed=number) for number, name in enumerate(NAMES)}
    other = simulate(study, parts, release=tmp_path / "other")
    with pytest.raises(WireError, match="another run or study"):
        verify_release(other, [read_transcript(paths["a"])])


def test_a_statement_that_is_not_the_runs_is_found(run: tuple[Release, dict[str, Path]]) -> None:
    """A forger may write new checksums; the statement still has to be that of the study and its rounds."""
    import hashlib

    release, _ = run
    provenance = json.loads((release.folder / "provenance.json").read_text())
    provenance["rounds"] = 2
    (release.folder / "provenance.json").write_text(json.dumps(provenance))
    names = [line.split("  ")[1] for line in (release.folder / "SHA256SUMS").read_text().splitlines()]
    sums = [f"{hashlib.sha256((release.folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    with pytest.raises(ReleaseError, match="was changed"):
        Release.open(release.folder, device=torch.device("cpu"))
    (release.folder / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(InputError, match="not that of the study"):
        verify_release(Release.open(release.folder, device=torch.device("cpu")), [])


def test_no_transcripts_without_a_secure_sum(
    tiny_study: Callable[..., Study],
    tiny_records: Callable[..., Records],
    tmp_path: Path,
    run: tuple[Release, dict[str, Path]],
) -> None:
    parts = {name: tiny_records(20) for name in ("a", "b")}
    plain = simulate(tiny_study(), parts, release=tmp_path / "plain")
    assert len(verify_release(plain, [])) == 3
    with pytest.raises(InputError, match="no secure sum"):
        verify_release(plain, [read_transcript(run[1]["a"])])


@pytest.mark.parametrize("content", ["", "[]", "{}", "no json"])
def test_what_is_no_transcript_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    path.write_text(content)
    with pytest.raises(InputError, match="told.json is no transcript"):
        read_transcript(path)
