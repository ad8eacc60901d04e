"""Checkpoints: all that a run needs to go on after a round, in one file that is whole or absent.

A file holds a mark, the SHA-256 of the rest, and the rest in the format of safetensors: the tensors, and everything
else as JSON in its metadata. Nothing is pickled, so that reading one runs no code. It is written beside its place,
synchronised, moved there, and the folder is synchronised; only then may the next round be asked for. The newest two
are kept.

Falling back to the older one where the newest is damaged is sound, though sites may have been asked for a round beyond
it. Let round n's checkpoint be damaged. Round n is asked for again with the same bytes, because the request follows
from the checkpoint before; a site that was charged for round n sends the reply that it sealed then, and no other, at
no cost. So no site releases anything twice, and the sum is the same where the same sites answer. Where other sites
do, the request of round n + 1 is another than the one that was sent. Sites hold that round sealed, and refuse it;
therefore the name of a checkpoint tells which request follows it, and a run that finds another skips the round: it
was charged and gives nothing.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from protocol.digest import canonical_json
from protocol.errors import InputError
from protocol.keys import replace_private

_LOGGER = logging.getLogger("cloister.server")
_MARK = b"cloister checkpoint 1\n"
_NAME = re.compile(r"([0-9]{8})-([0-9a-f]{16})\.checkpoint")
_KEPT = 2
_LEFT_OVER = ".*.checkpoint.*"


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The state after a round.

    Attributes:
        round: Its number; 0 before the first.
        facts: What is no tensor, as JSON's types.
        tensors: By name.
    """

    round: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class Checkpoints:
    """The checkpoints of one run, in a folder that nobody else writes to at the same time.

    Args:
        folder: Made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._damaged: list[Path] = []

    def save(self, checkpoint: Checkpoint, *, following: str) -> None:
        """Write a checkpoint durably, and remove all but the newest two.

        Args:
            checkpoint: What to write.
            following: Hash of the model that the next round's request holds, at least 16 hexadecimal digits.

        Raises:
            InputError: If it cannot be written; those before are untouched then.
        """
        facts = canonical_json({"round": checkpoint.round, "facts": dict(checkpoint.facts)}).decode()
        body = save(dict(checkpoint.tensors), metadata={"facts": facts})
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{checkpoint.round:08d}-{following[:16]}.checkpoint"
        replace_private(self._folder / name, _MARK + hashlib.sha256(body).digest() + body)
        old = [path for _, path in self._found() if path not in self._damaged][_KEPT:]
        for path in [*old, *self._damaged]:
            if path.name != name:
                path.unlink(missing_ok=True)
        self._damaged.clear()

    def load(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole; None where there is none at all.

        Raises:
            InputError: If there are some and none is whole.
        """
        for draft in self._folder.glob(_LEFT_OVER):
            draft.unlink(missing_ok=True)  # of a process that was killed while it wrote
        found = self._found()
        for number, path in found:
            checkpoint = _read(path, number)
            if checkpoint is not None:
                return checkpoint
            _LOGGER.warning("%s is damaged", path)
            self._damaged.append(path)
        if found:
            raise InputError(
                f"{self._folder}: no checkpoint is whole.", remedy="Put back a copy, or begin a new run of the study."
            )
        return None

    def asked_after(self, number: int) -> str | None:
        """Return 16 digits of the hash of the model that was sent, or was about to be, after a round.

        It comes from the checkpoint's name, and so is known of a damaged one too.
        """
        names = [match for _, path in self._found() if (match := _NAME.fullmatch(path.name))]
        return next((match[2] for match in names if int(match[1]) == number), None)

    def _found(self) -> list[tuple[int, Path]]:
        """Return the rounds and files of all checkpoints, newest first."""
        matches = [(match, path) for path in self._folder.glob("*.checkpoint") if (match := _NAME.fullmatch(path.name))]
        return sorted(((int(match[1]), path) for match, path in matches), reverse=True)


def _read(path: Path, number: int) -> Checkpoint | None:
    """Return a checkpoint, or None if it is damaged."""
    try:
        raw = path.read_bytes()
        body = raw[len(_MARK) + 32 :]
        if raw[: len(_MARK) + 32] != _MARK + hashlib.sha256(body).digest():
            return None
        size = int.from_bytes(body[:8], "little")
        said = json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["facts"])
        return Checkpoint(round=number, facts=said["facts"], tensors=load(body)) if said["round"] == number else None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
