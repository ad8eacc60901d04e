"""Checkpoints: whole or absent, the newest two, and no code is run when one is read."""

from pathlib import Path
from typing import Any

import pytest
import torch

from protocol.errors import InputError
from server.checkpoint import Checkpoint, Checkpoints

HASHES = {number: f"{number:064x}"[::-1] for number in range(10)}


def saved(folder: Path, *numbers: int) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoint")
    for number in numbers:
        tensors = {"a/weight": torch.full((3,), float(number)), "a/steps": torch.tensor(number)}
        checkpoint = Checkpoint(round=number, facts={"round": [number], "run": "x"}, tensors=tensors)
        checkpoints.save(checkpoint, following=HASHES[number])
    return checkpoints


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoint").iterdir())


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    found = saved(tmp_path, 1).load()
    assert found is not None
    assert (found.round, found.facts) == (1, {"round": [1], "run": "x"})
    assert torch.equal(found.tensors["a/weight"], torch.full((3,), 1.0))
    assert found.tensors["a/steps"].dtype is torch.int64
    assert found.tensors["a/steps"].shape == ()


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3)
    assert files(tmp_path) == [f"{n:08d}-{HASHES[n][:16]}.checkpoint" for n in (2, 3)]
    found = checkpoints.load()
    assert found is not None
    assert found.round == 3
    assert (tmp_path / "checkpoint").stat().st_mode & 0o077 == 0


def test_before_the_first_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "checkpoint").load() is None


DAMAGE: dict[str, Any] = {
    "empty": lambda raw: raw[:0],
    "cut": lambda raw: raw[: len(raw) // 2],
    "last bit": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
    "mark": lambda raw: b"x" + raw[1:],
    "checksum": lambda raw: raw[:30] + bytes([raw[30] ^ 1]) + raw[31:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_one_falls_back_and_is_removed_by_the_next(tmp_path: Path, damage: Any) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "checkpoint" / files(tmp_path)[-1]
    path.write_bytes(damage(path.read_bytes()))
    found = checkpoints.load()
    assert found is not None
    assert found.round == 1
    assert checkpoints.asked_after(2) == HASHES[2][:16], "its name still tells what was asked for"
    saved_again = Checkpoint(round=3, facts={}, tensors={"x": torch.zeros(1)})
    checkpoints.save(saved_again, following=HASHES[3])
    assert [name[:8] for name in files(tmp_path)] == ["00000001", "00000003"]


def test_a_damaged_one_may_be_written_again_under_its_name(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "checkpoint" / files(tmp_path)[-1]
    path.write_bytes(b"")
    checkpoints.load()
    checkpoints.save(Checkpoint(round=2, facts={"again": True}, tensors={"x": torch.zeros(1)}), following=HASHES[2])
    found = checkpoints.load()
    assert found is not None
    assert found.facts == {"again": True}


def test_none_whole_is_an_error(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    for path in (tmp_path / "checkpoint").iterdir():
        path.write_bytes(b"rubbish")
    with pytest.raises(InputError, match="no checkpoint is whole"):
        checkpoints.load()


def test_one_under_another_rounds_name_is_damaged(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "checkpoint" / files(tmp_path)[-1]
    path.rename(path.with_name(path.name.replace("00000002", "00000007")))
    found = checkpoints.load()
    assert found is not None
    assert found.round == 1


def test_a_draft_of_the_dead_is_removed(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    (tmp_path / "checkpoint" / f".{files(tmp_path)[0]}.0123456789abcdef").write_bytes(b"half")
    checkpoints.load()
    assert len(files(tmp_path)) == 1


def test_a_full_disk_is_said_and_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path, 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="No space left"):
            saved(tmp_path, 2)
    found = checkpoints.load()
    assert found is not None
    assert found.round == 1
