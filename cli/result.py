"""How results are shown."""

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from server.release import Release
    from simulations.comparison import Comparison


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object to standard output."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def print_release(release: "Release") -> None:
    """Print where a release lies, what it promises, and what to do next."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nRelease written to {release.folder}", markup=False)
    print_statement(release.statement.sentences())
    ending = "csv" if release.schema.image is None else "npz"
    console.print(f"\nNext: cloister sample {release.folder} -n 1000 -o synthetic.{ending}", markup=False)


def print_statement(sentences: list[str]) -> None:
    """Print a statement, its headline first."""
    console = Console(highlight=False)
    console.print(f"\n{sentences[0]}", markup=False, style="bold")
    for sentence in sentences[1:]:
        console.print(f"  {sentence}", markup=False)


def print_comparison(comparison: "Comparison") -> None:
    """Print the table real, alone, federated, pooled."""
    table = Table(title="A classifier trained on each, tested on real records kept back at all sites")
    table.add_column("trained on")
    table.add_column("records", justify="right")
    table.add_column("AUROC", justify="right")
    table.add_column("accuracy", justify="right")
    for row in comparison.rows:
        style = "bold" if row.name == "federated" else None
        table.add_row(row.name, str(row.records), f"{row.auroc:.3f}", f"{row.accuracy:.3f}", style=style)
    Console(highlight=False).print(table)
