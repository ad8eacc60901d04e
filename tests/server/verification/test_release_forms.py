"""A release says the same to people and to programs: one form of every file, and words that follow from numbers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from protocol.errors import ReleaseError
from server.release import Release
from server.verification import ReleaseVerification, verify_release


def opened(folder: Path) -> Release:
    return Release.open(folder, device=torch.device("cpu"))


def fault(found: ReleaseVerification) -> str:
    assert len(found.faults) == 1, found.faults
    return found.faults[0]


WORDS: dict[str, Callable[[str], str]] = {
    "another epsilon": lambda text: text.replace(
        text, "(0.1, 1e-09)-differential privacy per record. Certified safe.\n"
    ),
    "one digit": lambda text: text.replace("3", "2", 1),
    "one more line": lambda text: text + "Certified safe.\n",
    "a line less": lambda text: text[: text.rindex("\n", 0, -1) + 1],
    "other ends of lines": lambda text: text.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("lie", WORDS)
def test_words_that_say_something_else_are_found(deployed: Any, tmp_path: Path, lie: str) -> None:
    folder = deployed.copy(tmp_path / "release")
    text = (folder / "statement.txt").read_bytes().decode()
    changed = WORDS[lie](text)
    assert changed != text
    (folder / "statement.txt").write_bytes(changed.encode())
    deployed.seal(folder)
    assert "statement.txt does not say what statement.json says" in fault(verify_release(opened(folder)))


FORMS: dict[str, tuple[str, Callable[[str], str]]] = {
    "a key twice": ("statement.json", lambda text: text.replace("{\n", '{\n  "check": {"pld": 0.1},\n', 1)),
    "a key twice in the provenance": ("provenance.json", lambda text: text.replace("{\n", '{\n  "rounds": 1,\n', 1)),
    "a key twice in the study": ("study.json", lambda text: text.replace("{", '{"version":2,', 1)),
    "another order": ("provenance.json", lambda text: json.dumps(dict(reversed(json.loads(text).items())), indent=2)),
    "no spaces": ("statement.json", lambda text: json.dumps(json.loads(text), sort_keys=True)),
    "other ends of lines": ("statement.json", lambda text: text.replace("\n", "\r\n")),
    "no number": ("provenance.json", lambda text: re.sub(r'"seconds": [0-9.]+', '"seconds": NaN', text)),
    "a number written otherwise": ("provenance.json", lambda text: text.replace('"rounds": 3', '"rounds": 3.0')),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_reads_alike_but_is_written_otherwise_is_refused(deployed: Any, tmp_path: Path, form: str) -> None:
    """Somebody who reads the file, or another program, could see something else in it than was checked."""
    name, edit = FORMS[form]
    folder = deployed.copy(tmp_path / "release")
    text = (folder / name).read_bytes().decode()
    deployed.seal(folder)
    assert opened(folder).statement.private
    (folder / name).write_bytes(edit(text).encode())
    assert edit(text) != text
    deployed.seal(folder)
    if form == "a number written otherwise":  # another number, in its form: then it is none of rounds
        assert "rounds is 3.0" in fault(verify_release(opened(folder)))
        return
    with pytest.raises(ReleaseError, match=r"not in the one form|cannot be read"):
        opened(folder)


def test_a_file_that_is_summed_twice_is_refused(deployed: Any, tmp_path: Path) -> None:
    folder = deployed.copy(tmp_path / "release")
    sums = folder / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  statement.txt\n{sums.read_text('utf-8')}", "utf-8")
    with pytest.raises(ReleaseError, match="names a file twice"):
        opened(folder)


def test_other_weights_are_not_found_and_that_is_said(deployed: Any, tmp_path: Path) -> None:
    """The limit of all this: what was signed is taken for what was trained."""
    folder = deployed.copy(tmp_path / "release")
    state = load_file(folder / "generator.safetensors")
    save_file({name: torch.zeros_like(weights) for name, weights in state.items()}, folder / "generator.safetensors")
    deployed.seal(folder)
    found = verify_release(opened(folder))
    assert found.faults == ()
    assert any("Nothing ties the generator's weights to this run" in remark for remark in found.remarks)
