"""``cloister study``: write a study, see what it would promise before anything is trained, and sign it."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.coordinator.place import HERE, FolderOption, open_folder
from cli.coordinator.signing import PLACEHOLDER_PURPOSE, SitesOption, sign_for
from cli.result import print_json, print_statement
from cli.rounds import announce
from protocol.errors import CloisterError, InputError, StudyError

if TYPE_CHECKING:
    from privacy.plan import PrivacyPlan
    from protocol.study import Study
    from strategies.server_model import ServerModel

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
    purpose: Annotated[
        str, typer.Option(help="What the synthetic records are for, in one sentence: officers read it first.")
    ] = PLACEHOLDER_PURPOSE,
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
        "study": {"name": name, "purpose": purpose},
        "schema": {"file": os.path.relpath(schema, output.parent)},
        "model": {"family": family},
        "training": training,
        "privacy": privacy | ({} if delta is None else {"delta": delta}),
        "federation": {"sites": sites, "public_records": records, "dropouts": dropouts, "colluders": colluders},
    }
    try:
        output.write_text(tomli_w.dumps(mapping), encoding="utf-8")
        found = Study.from_toml(output)
        build_plan(found)
    except OSError as error:
        output.unlink(missing_ok=True)
        raise InputError(f"{output}: {error.strerror}.", remedy="Choose a folder that exists and has room.") from error
    except CloisterError:
        output.unlink(missing_ok=True)
        raise
    _warn(found, schema)
    todo = " Write its purpose there." if purpose == PLACEHOLDER_PURPOSE else ""
    sys.stdout.write(f"Written: {output}.{todo} Next: cloister study check {shlex.quote(str(output))}\n")


@study.command(epilog="Example: cloister study check my-study.toml")
def check(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (TOML).")],
    *,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read a study, calibrate its noise, and print what it would promise and what leaves a site."""
    from protocol.study import Study
    from strategies.study_model import study_schema

    found = Study.from_toml(path)
    plan, model = build_plan(found)
    _warn(found, path)
    if found.purpose.strip() == PLACEHOLDER_PURPOSE:
        announce(f"{path}: nobody wrote its purpose yet, and it is not signed before: officers read it first.")
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


@study.command(epilog="Example: cloister study sign my-study.toml --folder federation -o my-study.signed.json")
def sign(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (TOML).")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; it must not exist.")],
    folder: FolderOption = HERE,
    sites: SitesOption = None,
) -> None:
    """Sign a study with the coordinator's key, for sites that want to read it before it is run.

    The keys of the chosen sites are written into it: they must be enrolled. `cloister coordinator run` takes the signed
    file as well as the TOML file, and both give the same study.
    """
    if output.exists():
        raise InputError(f"{output} exists.", remedy="Choose a new file.")
    signed = sign_for(open_folder(folder), path, sites=sites)
    build_plan(signed.study)
    try:
        output.write_text(signed.to_text() + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: {error.strerror}.", remedy="Choose a folder that exists and has room.") from error
    sys.stdout.write(
        f"Written: {output}, study {signed.study.hash}. Next, at each site: cloister site approve {output.name}\n"
    )


def build_plan(study: "Study") -> "tuple[PrivacyPlan, ServerModel]":
    """Build all that a run would build, so that what a run refuses is refused here."""
    from privacy.plan import PrivacyPlan
    from strategies.server_model import ServerModel
    from strategies.study_model import build_study_model
    from strategies.table import build_strategy

    plan = PrivacyPlan.from_study(study)
    model = ServerModel(build_study_model(study), study.training)
    build_strategy(plan, model)
    plan.step_mechanism(model.dimension)
    if plan.shares is None and study.federation.colluders:
        raise StudyError(
            f"federation.colluders is {study.federation.colluders} without a secure sum.",
            remedy='With trust = "none" no site needs another one: leave it out.',
        )
    return plan, model


def _warn(study: "Study", path: Path) -> None:
    """Say on standard error what is allowed and easily a mistake."""
    from protocol.terms import Unit

    warn_of_drafts(path)
    if study.schema.get("person") and study.privacy.unit is Unit.RECORD:
        announce(f"{path}: the schema names a person key and the study protects single records; see --unit person.")


def warn_of_drafts(path: Path) -> None:
    """Say where a schema still holds values that were taken from the data: they would be released with the study.

    Args:
        path: A schema, or a study that names one beside it.
    """
    import tomllib

    text = path.read_text(encoding="utf-8")
    named = tomllib.loads(text).get("schema", {}).get("file")
    if named is not None:
        path = path.parent / str(named)
        text = path.read_text(encoding="utf-8")
    marks = text.count("# to be confirmed from public knowledge")
    if marks:
        announce(
            f"{path}: {marks} values were drafted from the data and are still to be confirmed from public knowledge. "
            "Whoever gets the study or the release sees them: confirm each and take its mark away."
        )
