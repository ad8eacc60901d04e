"""How far a job is: one small file for whoever looks, written whole and not too often."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from protocol.errors import InputError
from protocol.keys import replace_private

PROGRESS_VERSION = 1
_SECONDS = 1.0
_DRAFT = ".progress.draft"


class JobState(StrEnum):
    """What a job is doing. The last three need somebody to do something; ``stopped`` may be taken up again."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the coordinator's operator may see of a job.

    Attributes:
        state: What it is doing.
        round: The last round that ended; 0 before the first.
        rounds: Of the study.
        sites: One word for each site.
        message: One sentence; empty where there is nothing to say.
        updated: When it was written, ISO 8601 in UTC.
    """

    state: JobState = JobState.WAITING
    round: int = 0
    rounds: int = 0
    sites: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    updated: str = ""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a job's progress; None where there is none yet.

        Raises:
            InputError: If it cannot be read.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("version") != PROGRESS_VERSION:
                raise InputError(
                    f"{path} is not of version {PROGRESS_VERSION}.", remedy="Use the Cloister that wrote it."
                )
            return cls(**(values | {"state": JobState(values["state"])}))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} cannot be read: {error}.", remedy="Move it away; it is written again.") from error

    def to_text(self) -> str:
        """Return the form in which it is written."""
        values = {"version": PROGRESS_VERSION} | {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps(values | {"sites": dict(self.sites)}, indent=2, allow_nan=False) + "\n"


class ProgressFile:
    """Writes a job's progress. What is only news is written at most once a second and may be lost.

    Args:
        path: The file.
        rounds: Of the study.
    """

    def __init__(self, path: Path, *, rounds: int) -> None:
        self._path = path
        self._written: float | None = None
        self._unwritten = False
        self.now = Progress(rounds=rounds)

    def tell(
        self,
        state: JobState | None = None,
        *,
        round_number: int | None = None,
        sites: Mapping[str, str] | None = None,
        message: str | None = None,
    ) -> None:
        """Note what has changed, and write it unless something was written just before.

        Another state is always written. Finished, failed and stopped are also made durable: nobody may take up a job
        again because a power cut ate the word that it is over.

        Raises:
            InputError: If such a word cannot be written. What is only news may fail to be.
        """
        changed = state is not None and state is not self.now.state
        self.now = replace(
            self.now,
            state=self.now.state if state is None else state,
            round=self.now.round if round_number is None else round_number,
            sites=self.now.sites if sites is None else dict(sites),
            message=self.now.message if message is None else message,
            updated=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        )
        self._unwritten = True
        if state in (JobState.FINISHED, JobState.FAILED, JobState.STOPPED):
            replace_private(self._path, self.now.to_text().encode())
            self._unwritten = False
        elif changed:
            self._write()
        else:
            self.refresh()

    def refresh(self) -> None:
        """Write what was held back, once its time has come."""
        if self._unwritten and (self._written is None or time.monotonic() - self._written >= _SECONDS):
            self._write()

    def _write(self) -> None:
        self._unwritten, self._written = False, time.monotonic()
        draft = self._path.with_name(_DRAFT)
        try:
            draft.write_text(self.now.to_text(), encoding="utf-8")
            os.replace(draft, self._path)  # noqa: PTH105 - Path.replace is the same call; os names what is relied on
        except OSError:
            return  # a full disk ends a run where it matters, at a checkpoint
