"""``cloister demo``: four hospitals, one private generator, in a minute."""

from pathlib import Path
from typing import Annotated

import typer

from cli.result import print_comparison, print_json, print_release
from cli.rounds import announce, rounds_progress


def demo(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the release; a temporary one if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split over hospitals.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Train one generator among four hospitals on scikit-learn's breast cancer records, and show what it is worth.

    Each hospital keeps a fifth of its records back. The table compares a classifier trained on real records, on
    synthetic records of each hospital's own generator, of the federated one, and of one trained on pooled records,
    all with the same privacy.

    Example: cloister demo -o release
    """
    # Heavy imports wait until the command is known: `cloister --help` must not load torch.
    import tempfile

    from server.release import Release, check_new
    from simulations.comparison import compare, hold_out
    from simulations.federation import simulate
    from simulations.scenario import Scenario

    folder = output or Path(tempfile.mkdtemp(prefix="cloister-demo-")) / "release"
    check_new(folder)
    scenario = Scenario.ready("breast_cancer")
    parts = scenario.load(None, scheme=None, sites=None, seed=seed)
    rounds = scenario.study.rounds
    announce(", ".join(f"{name} has {len(records)} records" for name, records in parts.items()))
    train, _ = hold_out(parts, seed=seed)
    with rounds_progress("four hospitals together", rounds=rounds, quiet=json_output):
        release: Release = simulate(scenario.study, train, release=folder)
    with rounds_progress("comparison", rounds=rounds * (len(parts) + 1), quiet=True):
        comparison = compare(
            scenario.study,
            parts,
            seed=seed,
            federated=release,
            announce=lambda name: announce(f"training: {name}"),
        )
    if json_output:
        rows = {
            row.name: {"records": row.records, "auroc": row.auroc, "accuracy": row.accuracy} for row in comparison.rows
        }
        print_json({"release": str(folder), "rows": rows, "statement": release.statement.to_mapping()})
        return
    print_release(release)
    print_comparison(comparison)
