"""The winner of a sweep as a study file, which says how it was tuned."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from simulations.sweep.bench import Bench
from simulations.sweep.space import Values, applied
from simulations.sweep.sweep import Outcome, Sweep

_MARK = " Tuned by cloister sweep: "


def tuning_note(sweep: Sweep, outcome: Outcome, bench: Bench) -> str:
    """Return one sentence on how a study was tuned, for whoever is to approve it."""
    tuned = ", ".join(axis.key for axis in sweep.space.axes)
    times = "" if sweep.repeats == 1 else f", each trained {sweep.repeats} times"
    return (
        f"{tuned}, the best of {len(outcome.trials)} trials ({sweep.search.value} search{times}) by {sweep.objective}, "
        f"on {bench.words}."
    )


def winner_text(
    study: Mapping[str, Any],
    values: Values,
    *,
    note: str,
    purpose_is_written: bool,
    comments: tuple[str, ...],
    base: Path | None,
    output: Path,
) -> str:
    """Return the study file of the winner.

    Args:
        study: The study that was tuned, as its file has it.
        values: What won.
        note: As of :func:`tuning_note`; it is added to the purpose, which is part of what is approved and signed.
        purpose_is_written: Whether the study has a purpose of its own; where it has none, a note added to it would
            hide that, and stands in the comments alone.
        comments: Further lines for whoever opens the file.
        base: Folder of the study's file, from which it names its schema; None where the schema is written out.
        output: Where the text will be put.
    """
    changed = applied(study, values)
    head = changed["study"]
    if purpose_is_written:
        head["purpose"] = f"{str(head.get('purpose', '')).partition(_MARK)[0].strip()}{_MARK}{note}".strip()
    schema = changed["schema"]
    if base is not None and set(schema) == {"file"}:
        changed["schema"] = {"file": os.path.relpath(base / str(schema["file"]), output.parent)}
    lines = (f"Tuned by cloister sweep: {note}", *(f"  {key} = {value}" for key, value in values.items()), *comments)
    return "".join(f"# {line}\n" for line in lines) + "\n" + tomli_w.dumps(changed)


def study_mapping(path: Path) -> dict[str, Any]:
    """Return a study's file as it stands, the schema named and not read; call it after the study was read."""
    return tomllib.loads(path.read_text(encoding="utf-8"))
