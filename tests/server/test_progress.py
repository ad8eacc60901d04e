"""Progress: what is over is durable, what is only news is cheap."""

from pathlib import Path
from typing import Any

import pytest

import server.progress
from protocol.errors import InputError
from server.progress import JobState, Progress, ProgressFile


def read(path: Path) -> Progress:
    found = Progress.read(path)
    assert found is not None
    return found


def test_news_are_written_once_a_second_and_states_at_once(tmp_path: Path, clock: Any) -> None:
    path = tmp_path / "progress.json"
    assert Progress.read(path) is None
    file = ProgressFile(path, rounds=5)
    file.tell(round_number=1, sites={"a": "here"})
    file.tell(round_number=2)
    assert read(path).round == 1
    file.refresh()
    assert read(path).round == 1
    clock.sleep(1.0)
    file.refresh()
    assert read(path).round == 2
    file.tell(JobState.RUNNING, round_number=3, message="So far.")
    found = read(path)
    assert (found.state, found.round, found.rounds, found.sites) == (JobState.RUNNING, 3, 5, {"a": "here"})
    assert found.message == "So far."
    assert found.updated.endswith("+00:00")


@pytest.mark.parametrize("state", [JobState.FINISHED, JobState.FAILED, JobState.STOPPED])
def test_what_is_over_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: JobState) -> None:
    synchronised = []
    monkeypatch.setattr("os.fsync", synchronised.append)
    file = ProgressFile(tmp_path / "progress.json", rounds=1)
    file.tell(JobState.RUNNING)
    assert synchronised == []
    file.tell(state)
    assert len(synchronised) == 2, "the file and its folder"
    assert read(tmp_path / "progress.json").state is state


def test_news_may_fail_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    file = ProgressFile(tmp_path / "progress.json", rounds=1)
    monkeypatch.setattr(server.progress.os, "replace", full)
    file.tell(JobState.RUNNING)
    assert Progress.read(tmp_path / "progress.json") is None
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        file.tell(JobState.FAILED)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 9}', '{"version": 1, "state": "flying"}',
                                     '{"version": 1, "state": "failed", "speed": 3}'])  # fmt: skip
def test_what_is_no_progress_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "progress.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"progress\.json"):
        Progress.read(path)
