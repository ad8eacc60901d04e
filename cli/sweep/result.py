"""What ``cloister sweep`` found, as it is shown."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.result import print_statement

if TYPE_CHECKING:
    from privacy.statement import Statement
    from simulations.sweep.bench import Bench
    from simulations.sweep.sweep import Outcome, Sweep

_SHOWN = 20
_FILE_WIDTH = 160


def comments(plan: "Sweep", outcome: "Outcome", statement: "Statement | None") -> tuple[str, ...]:
    """Return what a winner's file says of its score, and of what the tuning cost."""
    reached = f"{plan.objective} {plan.objective.told(outcome.best.score):.4f}{_chance(outcome.best.standard_error)}"
    lines = (f"{reached}. It was chosen for being the best: expect a little less.",)
    return lines if statement is None else (*lines, f"The tuning itself: {statement.headline()}")


def _chance(standard_error: float | None) -> str:
    return "" if standard_error is None else f" (standard error {standard_error:.4f})"


def show(plan: "Sweep", outcome: "Outcome", bench: "Bench", statement: "Statement | None") -> None:
    """Print the trials, the best first."""
    from rich.console import Console  # slow to import
    from rich.table import Table
    from rich.text import Text

    keys = [axis.key for axis in plan.space.axes]
    others = [name for name in outcome.best.measures if name != str(plan.objective)]
    table = Table(box=None, pad_edge=False)
    for name in ("trial", *keys, str(plan.objective), *others):
        table.add_column(Text(name), justify="left" if name in keys else "right", overflow="fold")
    for trial in outcome.ranked[:_SHOWN]:
        values = [str(trial.values[key]) for key in keys]
        score = "failed" if trial.problem else f"{plan.objective.told(trial.score):.4f}{_chance(trial.standard_error)}"
        table.add_row(
            str(trial.number + 1), *values, score, *(f"{trial.measures.get(name, float('nan')):.4f}" for name in others)
        )
    # A file or a pipe has no width: nothing needs to be folded there.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)
    console.print(f"Trials by {plan.objective}, on {bench.words}\n", markup=False, soft_wrap=True)
    console.print(table)
    if len(outcome.trials) > _SHOWN:
        console.print(f"and {len(outcome.trials) - _SHOWN} more, in the journal", markup=False)
    console.print("\nThe best of many is best partly by chance: expect a little less of it.", markup=False)
    if statement is not None:
        print_statement(statement.sentences())


def to_mapping(
    plan: "Sweep", outcome: "Outcome", bench: "Bench", output: Path, journal: Path, statement: "Statement | None"
) -> dict[str, Any]:
    """Return what --json prints."""
    best = outcome.best
    return {
        "winner": str(output),
        "journal": str(journal),
        "records": bench.words,
        "objective": str(plan.objective),
        "search": plan.search.value,
        "repeats": plan.repeats,
        # Scores: more is better, also where the objective is a distance.
        "best": {"trial": best.number, "values": dict(best.values), "score": best.score, "measures": best.measures},
        "trials": [
            {"trial": trial.number, "values": dict(trial.values), "problem": trial.problem, "measures": trial.measures,
             "score": None if trial.problem else trial.score, "standard_error": trial.standard_error}
            for trial in outcome.trials
        ],
        "seconds": outcome.seconds,
        "statement": None if statement is None else statement.to_mapping(),
    }  # fmt: skip
