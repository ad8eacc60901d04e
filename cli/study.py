"""``cloister study``: write a study, see what it would promise before anything is trained, and sign it."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.coordinator.place import HERE, FolderOption, open_folder
from cli.coordinator.signing import PLACEHOLDER_PURPOSE, InitOption, SitesOption, sign_for
from cli.result import print_json, print_statement
from cli.rounds import announce
from protocol.errors import CloisterError, InputError, StudyError

if TYPE_CHECKING:
    from privacy.plan import PrivacyPlan
    from privacy.stage import Stage
    from protocol.study import Study
    from strategies.server_model import ServerModel

study = typer.Typer(no_args_is_help=True, help="Write a study, and see what it promises.")


@study.command(epilog="Example: cloister study new --schema my.schema.toml --sites 4 --records 30000 -o my-study.toml")
def new(
    *,
    schema: Annotated[Path, typer.Option(help="The data dictionary (TOML).")],
    sites: Annotated[int, typer.Option(min=1, help="Number of sites.")],
    records: Annotated[int, typer.Option(min=2, help="Publicly known order of magnitude of records (or people).")],
    epsilon: Annotated[float, typer.Option(help="Target epsilon of every record (or person).")] = 4.0,
    delta: Annotated[float | None, typer.Option(help="Target delta; min(1e-5, 1 / (10 records)) if not given.")] = None,
    unit: Annotated[str, typer.Option(help="record, or person (the schema then needs a person key).")] = "record",
    family: Annotated[str, typer.Option(help="Model family of tables: vae, moments, gan or vaegan.")] = "vae",
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
    noises = sites if trust == "none" else 1
    recipe = _recipe(family, schema, records=records, epsilon=epsilon, noises=noises)
    privacy = {"epsilon": epsilon, **recipe["privacy"], "unit": unit, "trust": trust}
    mapping = {
        "study": {"name": name, "purpose": purpose},
        "schema": {"file": os.path.relpath(schema, output.parent)},
        "model": {"family": family} | ({"options": options} if (options := recipe["model"]["options"]) else {}),
        **({"statistics": recipe["statistics"]} if "statistics" in recipe else {}),
        "training": recipe["training"],
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


def _recipe(family: str, schema: Path, *, records: int, epsilon: float, noises: int) -> dict[str, Any]:
    """Return the sections of a study that this version's recipe for a family gives."""
    from records.schema import Schema
    from simulations.recipes import RECIPES, PublicFacts

    found = RECIPES.get(family)
    if found is None:
        raise InputError(f"--family {family}.", remedy=f"Choose one of {', '.join(RECIPES)}.")
    dictionary = Schema.from_toml(schema)
    if dictionary.image is not None:
        raise InputError(
            f"{schema} describes images.",
            remedy="Begin with a copy of a ready study of images: see docs/image-studies.md.",
        )
    facts = PublicFacts(units=records, columns=len(dictionary.columns), epsilon=epsilon, noises=noises)
    return found.sections(facts)


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
    statement = plan.statement(rounds=plan.rounds, simulated=False)
    stages = [_stage_facts(plan, model, stage) for stage in plan.stages]
    facts = {
        "study": found.hash,
        "columns": len(study_schema(found).names),
        "weights": model.dimension,
        "rounds": plan.rounds,
        "bytes_per_site": sum(stage["bytes_per_site"] for stage in stages),
        "noise_multiplier": plan.noise_multiplier,
    }
    if json_output:
        print_json(facts | {"stages": stages, "statement": statement.to_mapping()})
        return
    for name, value in facts.items():
        sys.stdout.write(f"{name.replace('_', ' '):20}{value}\n")
    for stage in stages if len(stages) > 1 else ():
        sys.stdout.write(
            f"{'rounds ' + stage['numbers']:20}{stage['kind']}: {stage['coordinates']} numbers, noise multiplier"
            f" {stage['noise_multiplier']:g}, {stage['bytes_per_site']} bytes per site\n"
        )
    print_statement(statement.sentences())


@study.command(epilog="Example: cloister study sign my-study.toml --folder federation -o my-study.signed.json")
def sign(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (TOML).")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; it must not exist.")],
    folder: FolderOption = HERE,
    sites: SitesOption = None,
    init: InitOption = None,
) -> None:
    """Sign a study with the coordinator's key, for sites that want to read it before it is run.

    The keys of the chosen sites are written into it: they must be enrolled. `cloister coordinator run` takes the signed
    file as well as the TOML file, and both give the same study.
    """
    if output.exists():
        raise InputError(f"{output} exists.", remedy="Choose a new file.")
    signed = sign_for(open_folder(folder), path, sites=sites, init=init)
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
    from strategies.study_model import build_study_model, check_statistics
    from strategies.table import build_strategy

    plan = PrivacyPlan.from_study(study)
    model = ServerModel(build_study_model(study), study.training)
    check_statistics(study, model.family)
    for stage in plan.stages:
        for number in _rounds_of_a_size(stage):
            plan.mechanism(stage, build_strategy(plan, model, number=number).dimension)
    if plan.shares is None and study.federation.colluders:
        raise StudyError(
            f"federation.colluders is {study.federation.colluders} without a secure sum.",
            remedy='With trust = "none" no site needs another one: leave it out.',
        )
    return plan, model


def _rounds_of_a_size(stage: "Stage") -> range:
    """Return the rounds of a stage that have to be looked at: each one of statistics may have a size of its own."""
    from protocol.terms import ContributionKind

    last = stage.last if stage.kind is ContributionKind.STATISTICS else stage.first
    return range(stage.first, last + 1)


def _stage_facts(plan: "PrivacyPlan", model: "ServerModel", stage: "Stage") -> dict[str, Any]:
    """Return what leaves a site in the rounds of one stage."""
    from strategies.table import build_strategy

    sizes = [build_strategy(plan, model, number=number).dimension for number in _rounds_of_a_size(stage)]
    every = sizes if len(sizes) > 1 else sizes * stage.rounds
    return {
        "kind": stage.kind.value,
        "numbers": f"{stage.first}" if stage.rounds == 1 else f"{stage.first}-{stage.last}",
        "rounds": stage.rounds,
        "coordinates": max(sizes),
        "bytes_per_site": 4 * sum(every),
        "noise_multiplier": stage.noise_multiplier,
    }


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
