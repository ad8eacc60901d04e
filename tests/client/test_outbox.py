"""The outbox gives back exactly what left, or refuses; it is small, private and whole after a crash."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from client.outbox import Outbox
from protocol.errors import LedgerError

RUN = "a" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def kept(folder: Path, run: str = RUN) -> list[str]:
    return sorted(path.name[:7] for path in (folder / run).iterdir())


def test_what_was_put_comes_back_in_another_process_too(folder: Path) -> None:
    digest = Outbox(folder).put(b"reply", run=RUN, round=3)
    assert digest == hashlib.sha256(b"reply").hexdigest()
    assert Outbox(folder).get(digest, run=RUN) == b"reply"
    assert Outbox(folder).put(b"reply", run=RUN, round=3) == digest
    assert kept(folder) == ["0000003"]


def test_only_the_owner_can_read_it(folder: Path) -> None:
    Outbox(folder).put(b"reply", run=RUN, round=1)
    for path in (folder, folder / RUN):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (file,) = (folder / RUN).iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_reply_that_is_lost_or_damaged_is_refused(folder: Path) -> None:
    outbox = Outbox(folder)
    digest = outbox.put(b"reply", run=RUN, round=1)
    with pytest.raises(LedgerError, match="lost"):
        outbox.get(digest, run="b" * 64)
    (file,) = (folder / RUN).iterdir()
    file.write_bytes(b"repl")
    with pytest.raises(LedgerError, match="damaged"):
        outbox.get(digest, run=RUN)
    file.unlink()
    with pytest.raises(LedgerError, match="lost"):
        outbox.get(digest, run=RUN)


def test_the_last_two_rounds_of_a_run_are_kept(folder: Path) -> None:
    outbox = Outbox(folder)
    for number in range(1, 30):
        outbox.put(f"round {number}".encode(), run=RUN, round=number)
        assert kept(folder) == [f"{n:07d}" for n in (number - 1, number) if n]


def test_of_a_round_the_last_replies_are_kept(folder: Path) -> None:
    """Every crash before a seal leaves one that nobody knows; what is sealed comes last."""
    outbox = Outbox(folder)
    digests = [outbox.put(str(number).encode(), run=RUN, round=5) for number in range(100)]
    assert len(kept(folder)) == 16
    assert outbox.get(digests[-1], run=RUN) == b"99"


def test_the_last_runs_are_kept(folder: Path) -> None:
    outbox = Outbox(folder)
    runs = [f"{number:064x}" for number in range(40)]
    for number, run in enumerate(runs):
        outbox.put(b"reply", run=run, round=1)
        os.utime(folder / run, (number, number))
    assert sorted(path.name for path in folder.iterdir()) == runs[-16:]


def test_without_a_folder_nothing_is_kept() -> None:
    outbox = Outbox()
    digest = outbox.put(b"reply", run=RUN, round=1)
    assert digest == hashlib.sha256(b"reply").hexdigest()
    assert not outbox.keeps
    with pytest.raises(LedgerError, match="lost"):
        outbox.get(digest, run=RUN)


@pytest.mark.parametrize("failing", ["write", "fsync", "replace", "mkdir"])
def test_a_full_disk_keeps_the_whole_reply_or_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    outbox = Outbox(folder)
    if failing != "mkdir":
        outbox.put(b"first", run=RUN, round=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        owner, name = {"fsync": (os, "fsync"), "write": (os, "fdopen")}.get(failing, (Path, failing))
        patch.setattr(owner, name, full)
        with pytest.raises(LedgerError, match="No space left on device"):
            outbox.put(b"second", run=RUN, round=2)
    left = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert left == ([] if failing == "mkdir" else [b"first"])
    assert outbox.get(outbox.put(b"second", run=RUN, round=2), run=RUN) == b"second"


def test_drafts_that_a_kill_left_go_in_time(folder: Path) -> None:
    outbox = Outbox(folder)
    outbox.put(b"first", run=RUN, round=1)
    old, young = folder / RUN / "old.draft", folder / RUN / "young.draft"
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))
    outbox.put(b"second", run=RUN, round=2)
    assert (old.exists(), young.exists()) == (False, True)
