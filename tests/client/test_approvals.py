"""Approvals: a study is known by its hash, and a file that was changed is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from client.approvals import Approvals
from protocol.errors import ApprovalError
from protocol.study import Study


def test_what_was_recorded_is_approved(tmp_path: Path, tiny_study: Callable[..., Study]) -> None:
    first, second = tiny_study(), tiny_study(training={"rounds": 4})
    for study in (first, second, first):
        Approvals.record(study, tmp_path / "approvals")
    approvals = Approvals.from_folder(tmp_path / "approvals")
    assert approvals.study(first.hash) == first
    assert approvals.study(second.hash).training.rounds == 4


def test_what_was_not_recorded_is_not_approved(tmp_path: Path, tiny_study: Callable[..., Study]) -> None:
    Approvals.record(tiny_study(), tmp_path)
    approvals = Approvals.from_folder(tmp_path)
    for unknown in (tiny_study(training={"rounds": 4}).hash, "", "../" + tiny_study().hash):
        with pytest.raises(ApprovalError, match="not approved"):
            approvals.study(unknown)
    with pytest.raises(ApprovalError):
        Approvals().study(tiny_study().hash)


def test_no_folder_approves_nothing(tmp_path: Path, tiny_study: Callable[..., Study]) -> None:
    with pytest.raises(ApprovalError):
        Approvals.from_folder(tmp_path / "none").study(tiny_study().hash)


def test_a_changed_file_is_refused(tmp_path: Path, tiny_study: Callable[..., Study]) -> None:
    path = Approvals.record(tiny_study(), tmp_path)
    mapping = json.loads(path.read_text("utf-8"))
    mapping["privacy"]["epsilon"] = 6.0
    path.write_text(json.dumps(mapping), "utf-8")
    with pytest.raises(ApprovalError, match="changed"):
        Approvals.from_folder(tmp_path)


def test_a_file_by_another_name_is_refused(tmp_path: Path, tiny_study: Callable[..., Study]) -> None:
    path = Approvals.record(tiny_study(), tmp_path)
    path.rename(tmp_path / f"{'0' * 64}.json")
    with pytest.raises(ApprovalError, match="changed"):
        Approvals.from_folder(tmp_path)


@pytest.mark.parametrize("rest", [b"", b"{", b"[]", b"\xff\xfe", b'{"privacy": {}}', b"[" * 100_000, b'{"study": 1}'])
def test_a_damaged_file_is_refused_as_changed(tmp_path: Path, tiny_study: Callable[..., Study], rest: bytes) -> None:
    path = Approvals.record(tiny_study(), tmp_path)
    path.write_bytes(rest)
    with pytest.raises(ApprovalError, match=path.name):
        Approvals.from_folder(tmp_path)


def test_white_space_changes_nothing_that_was_approved(tmp_path: Path, tiny_study: Callable[..., Study]) -> None:
    path = Approvals.record(tiny_study(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")), indent=4), "utf-8")
    assert Approvals.from_folder(tmp_path).study(tiny_study().hash) == tiny_study()
