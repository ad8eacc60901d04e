"""``cloister study``: write a study, and see what it would promise before anything is trained."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.result import print_json, print_statement
from protocol.errors import InputError, StudyError

study = typer.Typer(no_args_is_help=True, help="Write a study, and see what it promises.")

_BATCH = 4096


@study.command(epilog="Example: cloister study new --schema my.schema.toml --sites 4 --records 30000 -o my-study.toml")
def new(
    *,
    schema: Annotated[Path, typer.Option(help="The data dictionary (TOML).")],
    sites: Annotated[int, typer.Option(min=1, help="Number of sites.")],
    records: Annotated[int, typer.Option(min=2, help="Publicly known order of magnitude of records (or people).")],
    epsilon: Annotated[float, typer.Option(help="Target epsilon of every record (or person).")] = 4.0,
    delta: Annotated[float | None, typer.Option(help="Target delta; min(1e-5, 1 / (10 records)) if not given.")] = None,
    unit: Annotated[str, typer.Option(help="record, or person (the schema then needs a person key).")] = "record",
    family: Annotated[str, typer.Option(help="Model family: vae or gan.")] = "vae",
    trust: Annotated[
        str, typer.Option(help="none: each site adds all noise; sum: shares under a secure sum.")
    ] = "none",
    dropouts: Annotated[int, typer.Option(min=0, help="With trust sum: sites that may drop out of a round.")] = 0,
    colluders: Annotated[int, typer.Option(min=0, help="With trust sum: sites that may collude.")] = 0,
    name: Annotated[str, typer.Option(help="Lower-case letters, digits and hyphens.")] = "my-study",
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; it must not exist.")] = Path(
        "study.toml"
    ),
) -> None:
    """Write a study with this version's recipe for the model family, and check it."""
    import os

    import tomli_w

    from protocol.study import Study

    if output.exists():
        raise InputError(f"{output} exists.", remedy="Choose a new file.")
    rounds = 300 if family == "vae" else 3000
    training: dict[str, float] = {"rounds": rounds}
    if family == "gan":
        training |= {"learning_rate": 0.002, "momentum": 0.5, "second_moment": 0.9, "averaging": 0.997}
    batch = _BATCH if family == "vae" else _BATCH // 4
    privacy = {"epsilon": epsilon, "sample_rate": round(min(0.25, batch / records), 4), "unit": unit, "trust": trust}
    mapping = {
        "study": {"name": name, "purpose": "Say in one sentence what the synthetic records are for."},
        "schema": {"file": os.path.relpath(schema, output.parent)},
        "model": {"family": family},
        "training": training,
        "privacy": privacy | ({} if delta is None else {"delta": delta}),
        "federation": {"sites": sites, "public_records": records, "dropouts": dropouts, "colluders": colluders},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(tomli_w.dumps(mapping), encoding="utf-8")
    try:
        Study.from_toml(output)
    except StudyError:
        output.unlink()
        raise
    sys.stdout.write(f"Written: {output}. Next: cloister study check {output}\n")


@study.command(epilog="Example: cloister study check my-study.toml")
def check(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (TOML).")],
    *,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read a study, calibrate its noise, and print what it would promise and what leaves a site."""
    from privacy.plan import PrivacyPlan
    from protocol.study import Study
    from strategies.server_model import ServerModel
    from strategies.study_model import build_study_model, study_schema
    from strategies.table import build_strategy

    found = Study.from_toml(path)
    plan = PrivacyPlan.from_study(found)
    model = ServerModel(build_study_model(found), found.training)
    build_strategy(plan, model)
    rounds = found.training.rounds
    statement = plan.statement(rounds=rounds, simulated=False)
    facts = {
        "study": found.hash,
        "columns": len(study_schema(found).names),
        "weights": model.dimension,
        "rounds": rounds,
        "bytes_per_site": 4 * model.dimension * rounds,
        "noise_multiplier": plan.noise_multiplier,
    }
    if json_output:
        print_json(facts | {"statement": statement.to_mapping()})
        return
    for name, value in facts.items():
        sys.stdout.write(f"{name.replace('_', ' '):20}{value}\n")
    print_statement(statement.sentences())
