"""What enrolment leaves in a folder is replaced wholly or not at all, wherever the process dies."""

import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from client import credentials
from client.credentials import Enrolled, held, replace_credentials, settle
from protocol.errors import InputError

ENROLLED = Enrolled(
    federation="hearts", site="north", host="train.example.org", port=9443, coordinator_key="ab" * 32,
    ca_fingerprint="cd" * 32,
)  # fmt: skip
OLD = {"tls.pem": b"old certificate", "tls.key": b"old key"}
NEW = {"tls.pem": b"new certificate", "tls.key": b"new key"}


def contents(folder, names=("tls.pem", "tls.key")):
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def folder(tmp_path):
    with held(tmp_path):
        replace_credentials(tmp_path, OLD | {"coordinator.json": ENROLLED.to_bytes()})
    return tmp_path


def test_what_is_written_comes_back(folder):
    assert Enrolled.read(folder) == ENROLLED
    assert contents(folder) == OLD
    assert json.loads((folder / "coordinator.json").read_bytes()) == {"version": 1} | asdict(ENROLLED)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


class Killed(BaseException):
    """As a process ends: nothing of ours runs after it."""


def die_at(monkeypatch, number):
    """End at the given of all the steps that change the disk."""
    steps = []

    def step(function):
        def counted(*arguments, **more):
            steps.append(function.__name__)
            if len(steps) == number:
                raise Killed
            return function(*arguments, **more)

        return counted

    for owner, name in ((Path, "rename"), (Path, "replace"), (Path, "mkdir"), (Path, "rmdir"), (os, "link"),
                        (os, "fsync")):  # fmt: skip
        monkeypatch.setattr(owner, name, step(getattr(owner, name)))
    return steps


def test_a_crash_at_any_step_leaves_the_old_pair_or_the_new(tmp_path, monkeypatch):
    seen, number = set(), 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        with held(folder):
            replace_credentials(folder, OLD)
        with monkeypatch.context() as patch, held(folder):
            steps = die_at(patch, number)
            try:
                replace_credentials(folder, NEW)
            except Killed:
                pass
            else:
                break
        settle(folder)
        found = contents(folder)
        assert found in (OLD, NEW), steps
        seen.add(found == NEW)
        # And the folder is as good as any other.
        with held(folder):
            replace_credentials(folder, NEW)
        assert contents(folder) == NEW
        left = {path.name for path in folder.iterdir()} - NEW.keys()
        assert left == {".credentials.lock"}
    assert number > 10
    assert seen == {True, False}


def test_without_settling_a_crash_can_mix_the_pair(tmp_path, monkeypatch):
    """The twin: files moved one by one, which `settle` puts right."""
    folder = tmp_path
    with held(folder):
        replace_credentials(folder, OLD)
    mixed = 0
    for number in range(1, 40):
        with monkeypatch.context() as patch, held(folder):
            die_at(patch, number)
            try:
                replace_credentials(folder, NEW if number % 2 else OLD)
            except Killed:
                mixed += contents(folder) not in (OLD, NEW)
        settle(folder)
        assert contents(folder) in (OLD, NEW)
    assert mixed > 0


def test_reading_settles_first(folder, monkeypatch):
    with monkeypatch.context() as patch, held(folder):
        patch.setattr(credentials, "_finish", lambda _folder: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            replace_credentials(folder, {"coordinator.json": replace(ENROLLED, port=1).to_bytes()})
    assert json.loads((folder / "coordinator.json").read_bytes())["port"] == 9443
    assert Enrolled.read(folder).port == 1


def test_full_disk_leaves_the_old_pair(folder, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with held(folder), pytest.raises(InputError, match="No space"):
        replace_credentials(folder, NEW)
    monkeypatch.undo()
    settle(folder)
    assert contents(folder) == OLD


def test_only_one_at_a_time(folder):
    # The lock belongs to an open file, not to a process: the same process opening it again stands for another one.
    with held(folder), pytest.raises(InputError, match="under way"), held(folder):
        replace_credentials(folder, NEW)
    assert contents(folder) == OLD
    with held(folder):
        replace_credentials(folder, NEW)
    assert contents(folder) == NEW


def test_other_names_are_refused(folder):
    with held(folder), pytest.raises(InputError, match=r"key\.pem"):
        replace_credentials(folder, {"key.pem": b"x"})


def test_not_enrolled(tmp_path):
    with pytest.raises(InputError, match=r"not enrolled.*site enroll"):
        Enrolled.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"port": "1"}, {"port": 0}, {"host": "a b"}, {"site": "../x"}, {"federation": None},
        {"coordinator_key": "x"}, {"ca_fingerprint": ""}, {"more": 1},
    ],
)  # fmt: skip
def test_damaged_facts_are_refused(folder, change):
    values = json.loads((folder / "coordinator.json").read_bytes()) | change
    (folder / "coordinator.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(InputError, match="site enroll"):
        Enrolled.read(folder)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 60_000])
def test_damaged_files_are_refused(folder, text):
    (folder / "coordinator.json").write_bytes(text)
    with pytest.raises(InputError, match=r"coordinator\.json"):
        Enrolled.read(folder)
