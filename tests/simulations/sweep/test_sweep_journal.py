"""The journal: nothing lost, nothing mixed up."""

import json

import pytest

from protocol.errors import InputError
from simulations.sweep.journal import Journal

HEAD = {"study": "a", "space": {"k": [1, 2.5]}}


def write(path, *numbers: int) -> None:
    with Journal(path, head=HEAD) as journal:
        for number in numbers:
            journal.append({"kind": "run", "trial": number})


def test_lines_are_there_when_append_returns_and_are_found_again(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal(path, head=HEAD) as journal:
        journal.append({"kind": "run", "trial": 1, "x": 1})
        assert json.loads(path.read_text("utf-8").splitlines()[-1])["x"] == 1
        journal.append({"kind": "run", "trial": 1, "x": 2})
    with Journal(path, head=HEAD) as journal:
        assert journal.find("run", trial=1)["x"] == 2
        assert journal.find("run", trial=2) is None
        assert len(list(journal.kind("run"))) == 2


def test_a_line_that_was_cut_off_is_forgotten_wherever_it_was_cut(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, 0, 1)
    whole = path.read_bytes()
    last = whole[: whole[:-1].rfind(b"\n") + 1]
    for length in range(len(last), len(whole)):
        path.write_bytes(whole[:length])
        with Journal(path, head=HEAD) as journal:
            assert [line["trial"] for line in journal.kind("run")] == [0]
            journal.append({"kind": "run", "trial": 1})
        assert path.read_bytes() == whole


def test_another_sweep_is_refused_and_named(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, 0)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"another sweep: seed, study differ"):
        Journal(path, head={**HEAD, "study": "b", "seed": 1})
    assert path.read_bytes() == before


def test_one_that_was_begun_for_nothing_is_begun_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path)
    with Journal(path, head={**HEAD, "study": "b"}) as journal:
        assert journal.lines == [{"kind": "sweep", **HEAD, "study": "b"}]
    assert len(path.read_text("utf-8").splitlines()) == 1


def test_two_processes_do_not_share_one(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal(path, head=HEAD), pytest.raises(InputError, match="is in use"):
        Journal(path, head=HEAD)
    write(path, 3)  # and it is free afterwards


@pytest.mark.parametrize("content", [b"{]\n{}\n", b"[]\n[]\n", b'{"no": "kind"}\n{}\n', b"age,ill\n3,yes\n"])
def test_another_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no journal"):
        Journal(path, head=HEAD)
    assert path.read_bytes() == content
