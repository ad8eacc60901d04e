"""The outcome of one run, and the file that keeps it."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from perf.results.setting import Setting
from protocol.errors import InputError

RESULT_VERSION = 1
FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results" / "runs"
"""Where runs are kept: one file each, a folder for each data set."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What was promised to the records of a run.

    Attributes:
        epsilon: By the statement.
        delta: By the statement.
        unit: Whom it protects.
        relation: Which data sets are neighbours.
        accountant: Who worked it out.
        private: Whether anything is promised at all; false where no noise was added.
    """

    epsilon: float
    delta: float
    unit: str
    relation: str
    accountant: str
    private: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run.

    Attributes:
        setting: What was run.
        measures: See `perf.results.judges.measure`.
        promise: What was promised to the records; None for yardsticks.
        seconds: Wall time of training, without judging.
        peak_mb: Most memory that the process had held by then, in MiB.
        machine: On what.
        versions: Of code and packages.
    """

    setting: Setting
    measures: Mapping[str, float]
    promise: Promise | None
    seconds: float
    peak_mb: float
    machine: str
    versions: Mapping[str, str]

    def to_json(self) -> str:
        """Return the file's text."""
        mapping = {"version": RESULT_VERSION, **asdict(self), "setting": self.setting.to_mapping()}
        mapping["measures"] = {name: round(number, 5) for name, number in self.measures.items()}
        return json.dumps(mapping, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a file's text.

        Raises:
            InputError: It is of another version, or no result.
        """
        try:
            mapping: dict[str, Any] = json.loads(text)
            if mapping.pop("version") != RESULT_VERSION:
                raise InputError("The result is of another version.", remedy="Run it again.")
            promise = mapping.pop("promise")
            return cls(
                setting=Setting.from_mapping(mapping.pop("setting")),
                promise=None if promise is None else Promise(**promise),
                **mapping,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"No result: {error}.", remedy="Run it again.") from error


def path_of(setting: Setting, *, folder: Path = FOLDER) -> Path:
    """Return the file of a setting."""
    return folder / setting.data_set / f"{setting.key.removeprefix(setting.data_set + '_')}.json"


def keep(result: Result, *, folder: Path = FOLDER) -> Path:
    """Write a result, whole or not at all; an earlier one of the same setting gives way."""
    path = path_of(result.setting, folder=folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.part")
    draft.write_text(result.to_json(), encoding="utf-8")
    draft.replace(path)
    return path


def kept(*, folder: Path = FOLDER) -> list[Result]:
    """Read all results, in the order of their names.

    Raises:
        InputError: A file is no result.
    """
    return [Result.from_json(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*.json"))]
