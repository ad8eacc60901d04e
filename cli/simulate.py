"""``cloister simulate``: many sites on one machine, on any file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.result import print_json, print_release
from cli.rounds import announce, rounds_progress
from cli.study import warn_of_drafts

if TYPE_CHECKING:
    from protocol.study import Study
    from simulations.scenario import Scenario


def simulate(
    study: Annotated[str, typer.Argument(help="A study file (TOML), or the name of a ready study.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="The records: a file or database, or for ready studies the folder of the data sets (CLOISTER_DATA)."
        ),
    ] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Number of sites; the study's own if not given.")] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            help="How one file is split: iid, dirichlet:A, quantity:R (the largest site has R times the records of the "
            "smallest) or column:NAME (the rarest values share the last site)."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the release; it must not exist.")] = Path(
        "release"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split over sites.")] = 0,
    init: Annotated[
        Path | None,
        typer.Option(metavar="RELEASE", help="Start from a public release of the same family, options and columns."),
    ] = None,
    transcripts: Annotated[
        Path | None, typer.Option(help="Folder for the sites' transcripts of a secure sum, for cloister verify.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Train a study among simulated sites and write its release.

    Example: cloister simulate my-study.toml --data records.csv --sites 10 --partition dirichlet:0.5 -o release

    Ready studies: adult, breast_cancer, breast_wdbc, cardio, cervical, diabetes130, heart_disease, ilpd, mnist,
    online_shoppers, pneumoniamnist.
    """
    # Heavy imports wait until the command is known: `cloister --help` must not load torch.
    from server.release import check_new
    from simulations.federation import simulate as run

    check_new(output)
    check_device(device)
    scenario = _scenario(study)
    announce("reading records")
    parts = scenario.load(data, scheme=partition, sites=sites, seed=seed)
    agreed = _agreed(scenario.study, len(parts), init=init, transcripts=transcripts)
    announce(", ".join(f"{name} has {len(records)} records" for name, records in parts.items()))
    with rounds_progress("training", rounds=agreed.rounds, quiet=json_output):
        release = run(agreed, parts, release=output, device=device, transcripts=transcripts, start=init)
    if json_output:
        result: dict[str, Any] = {
            "release": str(output),
            "study": release.study.hash,
            "sites": {name: len(records) for name, records in parts.items()},
            "statement": release.statement.to_mapping(),
        }
        print_json(result)
        return
    print_release(release)


def _agreed(study: "Study", sites: int, *, init: Path | None, transcripts: Path | None) -> "Study":
    """Return the study as the simulated sites approve it."""
    from protocol.errors import InputError
    from protocol.terms import Trust
    from server.start import with_start
    from simulations.federation import with_sites

    if transcripts is not None and study.privacy.trust is not Trust.SUM:
        raise InputError("--transcripts: the study has no secure sum.", remedy='Leave it out, or set trust = "sum".')
    agreed = with_sites(study, sites) if sites != study.federation.sites else study
    return agreed if init is None else with_start(agreed, init)


def _scenario(study: str) -> "Scenario":
    """Read the user's own study, or a ready one."""
    from protocol.study import Study
    from simulations.scenario import Scenario

    if study.endswith(".toml") or "/" in study:
        own = Study.from_toml(study)
        warn_of_drafts(Path(study))
        return Scenario(study=own, sites={}, file="", partition="iid", source="files")
    return Scenario.ready(study)


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        InputError: If it cannot be used.
    """
    import torch

    from protocol.errors import InputError

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {device!r} cannot be used.", remedy="Use --device cpu.") from error
