"""The release: complete or absent, whole or refused, honest about privacy, and no byte of a record in it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, RecordDict
from safetensors.torch import load_file, save_file

import server.app
import server.release
from protocol.errors import InputError, ReleaseError
from protocol.signed_study import SignedStudy
from protocol.study import Study
from protocol.terms import NoiseOrigin, Relation, Trust
from records.dataset import Records, load_records
from server.release import Release, check_new, run_statement, write_release
from server.study_run import Evidence, StudyRun
from simulations.federation import simulate, simulated_site
from strategies.study_model import study_schema

CPU = torch.device("cpu")
FILES = {
    "generator.safetensors", "study.json", "statement.json", "statement.txt", "provenance.json", "SHA256SUMS",
}  # fmt: skip
MakeStudy = Callable[..., Study]
Finished = Callable[..., tuple[StudyRun, Evidence]]


@pytest.fixture
def finished(
    tiny_study: MakeStudy, federation: Callable[..., AbstractContextManager[Any]], start: Callable[..., StudyRun]
) -> Finished:
    """Return a function that gives a finished run of a study and its evidence."""

    def run(study: Study | None = None) -> tuple[StudyRun, Evidence]:
        study = tiny_study(training={"rounds": 2}) if study is None else study
        with federation(study) as grid:
            made = start(grid, study)
            return made, made.execute()

    return run


@pytest.fixture
def release(tmp_path: Path, finished: Finished) -> Path:
    """A release on the disk."""
    folder = tmp_path / "release"
    write_release(folder, *finished(), simulated=True)
    return folder


def sealed(folder: Path) -> None:
    """Write the checksums anew, as somebody who changes a release on purpose would."""
    names = sorted(FILES - {"SHA256SUMS"})
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums), "utf-8")


def codes(release: Release, seed: int, count: int = 50) -> np.ndarray:
    return np.concatenate(list(release.sample_codes(count, allowed={}, seed=seed)))


def test_the_file_set_is_what_it_is_said_to_be(release: Path, tiny_study: MakeStudy) -> None:
    assert {path.name for path in release.iterdir()} == FILES
    assert [path.name for path in release.parent.iterdir()] == ["release"], "a draft was left behind"
    provenance = json.loads((release / "provenance.json").read_text("utf-8"))
    study = tiny_study(training={"rounds": 2})
    assert provenance["study"] == study.hash
    assert Study.from_text((release / "study.json").read_text("utf-8")).hash == study.hash
    assert set(provenance["sites"]) == {"north", "south"}
    assert all(site["contributions"] == 2 for site in provenance["sites"].values())
    entries = [site["last_ledger_entry"] for site in provenance["sites"].values()]
    statement = json.loads((release / "statement.json").read_text("utf-8"))
    assert statement["ledger_entries"] == sorted(entries)


def test_a_reopened_release_gives_the_same_rows_for_the_same_seed(release: Path) -> None:
    first, second = (Release.open(release, device=CPU) for _ in range(2))
    np.testing.assert_array_equal(codes(first, 1), codes(second, 1))
    assert not np.array_equal(codes(first, 1), codes(first, 2))
    tables = [next(iter(each.sample(20, allowed={}, seed=3))) for each in (first, second)]
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows == 20


def test_the_released_weights_are_the_averaged_generators(tmp_path: Path, finished: Finished) -> None:
    run, evidence = finished()
    write_release(tmp_path / "release", run, evidence, simulated=True)
    held = load_file(tmp_path / "release" / "generator.safetensors")
    expected = run.model.released_state()
    assert set(held) == set(expected)
    assert all(torch.equal(held[name], weights) for name, weights in expected.items())


class Killed(BaseException):
    """Stands for a process that is no more."""


@pytest.mark.parametrize("alive", range(7))
def test_a_release_is_complete_or_absent(
    tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch, alive: int
) -> None:
    """Dies before the n-th file, and is not there to tidy up."""
    run, evidence = finished()
    steps = [0]

    def dying(original: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            if steps[0] == alive:
                raise Killed
            steps[0] += 1
            return original(*args, **kwargs)

        return step

    monkeypatch.setattr(server.release, "save_file", dying(save_file))
    monkeypatch.setattr(Path, "write_text", dying(Path.write_text))
    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    folder = tmp_path / "release"
    with pytest.raises(Killed):
        write_release(folder, run, evidence, simulated=True)
    assert not folder.exists()
    monkeypatch.undo()
    write_release(folder, run, evidence, simulated=True)
    assert codes(Release.open(folder, device=CPU), 0).shape == (50, 3)


def test_what_fails_leaves_nothing_behind(tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    run, evidence = finished()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left"):
        write_release(tmp_path / "release", run, evidence, simulated=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", [True, False])
def test_an_existing_folder_is_never_touched(tmp_path: Path, finished: Finished, *, inside: bool) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    if inside:
        (folder / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(InputError, match="exists"):
        write_release(folder, *finished(), simulated=True)
    with pytest.raises(InputError, match="exists"):
        check_new(folder)
    assert [path.name for path in folder.iterdir()] == (["notes.txt"] if inside else [])


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, finished: Finished) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(InputError, match="file"):
        write_release(tmp_path / "file" / "release", *finished(), simulated=True)


def test_the_server_refuses_an_existing_folder_before_it_trains(
    tmp_path: Path, tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    monkeypatch.setattr(StudyRun, "execute", lambda self: trained.append(self))
    config = {"study": tiny_study().text, "release": str(tmp_path)}
    with pytest.raises(InputError, match="exists"):
        server.app.main(None, Context(1, 1, {}, RecordDict(), config))
    assert trained == []


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("accident", ["changed", "missing"])
def test_a_file_that_is_changed_or_missing_is_named(release: Path, name: str, accident: str) -> None:
    path = release / name
    if accident == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    with pytest.raises(ReleaseError) as caught:
        Release.open(release, device=CPU)
    assert name in str(caught.value) or name == "SHA256SUMS"


def test_no_folder_is_no_release(tmp_path: Path, release: Path) -> None:
    for place in (tmp_path / "none", release / "study.json", tmp_path):
        with pytest.raises(ReleaseError):
            Release.open(place, device=CPU)


def other_version(folder: Path) -> None:
    path = folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"version": 2}), "utf-8")


def provenance_of_another_study(folder: Path) -> None:
    path = folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"study": "0" * 64}), "utf-8")


def no_object(folder: Path) -> None:
    (folder / "provenance.json").write_text("[]", "utf-8")


def no_study(folder: Path) -> None:
    (folder / "study.json").write_text("{}", "utf-8")


def no_statement(folder: Path) -> None:
    (folder / "statement.json").write_text("{}", "utf-8")


def no_text(folder: Path) -> None:
    (folder / "statement.json").write_bytes(b"\xff")


def no_weights(folder: Path) -> None:
    (folder / "generator.safetensors").write_bytes(b"weights")


def other_weights(folder: Path) -> None:
    save_file({"weight": torch.zeros(2)}, folder / "generator.safetensors")


@pytest.mark.parametrize(
    "change",
    [other_version, provenance_of_another_study, no_object, no_study, no_statement, no_text, no_weights, other_weights],
)
def test_a_release_that_contradicts_itself_is_refused(release: Path, change: Callable[[Path], None]) -> None:
    change(release)
    sealed(release)
    with pytest.raises(ReleaseError):
        Release.open(release, device=CPU)


def test_sealing_anew_is_not_what_is_refused(release: Path) -> None:
    sealed(release)
    assert Release.open(release, device=CPU).statement.private


@pytest.mark.parametrize("noiseless", [True, False])
def test_a_release_without_a_guarantee_says_so_first(
    tmp_path: Path, given_noise: MakeStudy, without_noise: MakeStudy, finished: Finished, *, noiseless: bool
) -> None:
    study = given_noise(0.0) if noiseless else without_noise()
    write_release(tmp_path / "release", *finished(study), simulated=True)
    first = (tmp_path / "release" / "statement.txt").read_text("utf-8").splitlines()[0]
    assert first.startswith("NOT PRIVATE")
    opened = Release.open(tmp_path / "release", device=CPU)
    assert not opened.statement.private
    assert (opened.statement.ledger_entries == ()) is noiseless
    sites = opened.provenance["sites"].values()
    assert all((site["last_ledger_entry"] is None) is noiseless for site in sites)


def test_a_private_release_does_not_say_not_private(release: Path) -> None:
    assert "NOT PRIVATE" not in (release / "statement.txt").read_text("utf-8")


@pytest.mark.parametrize("strategy", ["gradients", "updates"])
def test_the_statement_is_what_the_ledgers_say(
    tiny_study: MakeStudy, tiny_records: Callable[..., Records],
    federation: Callable[..., AbstractContextManager[Any]], start: Callable[..., StudyRun], strategy: str,
) -> None:  # fmt: skip
    study = tiny_study(training={"strategy": strategy, "local_steps": 4})
    sites = {n: simulated_site(n, study, tiny_records(20), device="cpu") for n in ("north", "south")}
    with federation(study, sites=sites) as grid:
        run = start(grid, study)
        statement = run_statement(run, run.execute(), simulated=True)
    assert statement.steps == (12 if strategy == "updates" else 3)
    for site in sites.values():
        spent = site.ledger.spent(delta=1e-4, relation=Relation.ADD_REMOVE, trust=Trust.NONE, origin=NoiseOrigin.SYSTEM)
        assert spent.events == statement.events
        assert spent.epsilon == statement.epsilon
    assert 4.9 < statement.epsilon <= 5.0


def test_no_word_of_a_record_is_released(tmp_path: Path, tiny_study: MakeStudy) -> None:
    study = tiny_study(schema={"person": "who", "drop": ["mail"]}, privacy={"unit": "person"})
    rows = [f"person-9zk-{n},mail-2vd,{20 + n % 10},green,true" for n in range(30)]
    vault = tmp_path / "vault-4xw"
    vault.mkdir()
    parts = {}
    for name in ("north", "south"):
        (vault / f"{name}-5wn.csv").write_text("\n".join(["who,mail,age,colour,ill", *rows]) + "\n", "utf-8")
        parts[name] = load_records(vault / f"{name}-5wn.csv", schema=study_schema(study))
    simulate(study, parts, release=tmp_path / "release")
    content = b"".join(path.read_bytes() for path in (tmp_path / "release").iterdir())
    for marker in (b"person-9zk", b"mail-2vd", b"vault-4xw", b"5wn", parts["north"].codes.tobytes()):
        assert marker not in content
    assert b"north" in content, "the search looks at nothing"


def test_the_number_of_records_is_not_released(
    tmp_path: Path, tiny_study: MakeStudy, tiny_records: Callable[..., Records]
) -> None:
    """Two federations that differ in nothing but how much they hold release files of the same form and size."""
    sizes = []
    for count in (7, 3001):
        folder = tmp_path / str(count)
        parts = {name: tiny_records(count) for name in ("north", "south")}
        simulate(tiny_study(training={"rounds": 1}), parts, release=folder)
        assert b"3001" not in (folder / "study.json").read_bytes() + (folder / "statement.json").read_bytes()
        sizes.append({path.name: path.stat().st_size for path in folder.iterdir()})
    for name in FILES - {"provenance.json", "statement.txt"}:
        assert sizes[0][name] == sizes[1][name]


def test_a_copied_release_opens_elsewhere(tmp_path: Path, release: Path) -> None:
    shutil.move(release, tmp_path / "moved")
    assert Release.open(tmp_path / "moved", device=CPU).schema.names == ("age", "colour", "ill")


@pytest.fixture
def signed(tmp_path: Path, finished: Finished) -> tuple[Path, Ed25519PrivateKey]:
    """A release under a coordinator's signature, and the coordinator's key."""
    folder, key = tmp_path / "signed", Ed25519PrivateKey.generate()
    run, evidence = finished()
    write_release(folder, run, evidence, simulated=False, signed=SignedStudy.sign(run.study, key), key=key)
    return folder, key


def summed(folder: Path) -> None:
    """Write the checksums of whatever is there anew."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("SHA256SUMS", "SIGNATURE"))
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums), "utf-8")


def test_a_signed_release_names_its_coordinator(signed: tuple[Path, Ed25519PrivateKey], release: Path) -> None:
    folder, key = signed
    assert {path.name for path in folder.iterdir()} == FILES | {"signed_study.json", "SIGNATURE"}
    assert Release.open(folder, device=CPU).coordinator == key.public_key().public_bytes_raw().hex()
    assert Release.open(release, device=CPU).coordinator is None


def change_words(folder: Path) -> None:
    (folder / "statement.txt").write_text("epsilon is 0\n", "utf-8")
    summed(folder)


def another_signer(folder: Path) -> None:
    study = Study.from_text((folder / "study.json").read_text("utf-8"))
    signed_study = SignedStudy.sign(study, Ed25519PrivateKey.generate())
    (folder / "signed_study.json").write_text(signed_study.to_text(), "utf-8")
    summed(folder)


def half_a_signature(folder: Path) -> None:
    (folder / "SIGNATURE").write_text((folder / "SIGNATURE").read_text("utf-8")[:50], "utf-8")


def no_signature(folder: Path) -> None:
    (folder / "SIGNATURE").unlink()


def no_signed_study(folder: Path) -> None:
    (folder / "signed_study.json").unlink()
    summed(folder)


def another_study(folder: Path) -> None:
    """A release of one study under the coordinator's signature of another: it is no coordinator's doing."""
    study = Study.from_text((folder / "study.json").read_text("utf-8"))
    other = replace(study, purpose="Another.")
    key = Ed25519PrivateKey.generate()
    (folder / "signed_study.json").write_text(SignedStudy.sign(other, key).to_text(), "utf-8")
    summed(folder)
    sums = (folder / "SHA256SUMS").read_bytes()
    (folder / "SIGNATURE").write_text(key.sign(b"cloister release v1\0" + sums).hex(), "utf-8")


@pytest.mark.parametrize(
    "tamper", [change_words, another_signer, half_a_signature, no_signature, no_signed_study, another_study]
)
def test_a_signature_that_does_not_hold_is_refused(
    signed: tuple[Path, Ed25519PrivateKey], tamper: Callable[[Path], None]
) -> None:
    folder, _ = signed
    Release.open(folder, device=CPU)
    tamper(folder)
    with pytest.raises(ReleaseError):
        Release.open(folder, device=CPU)
