"""``cloister coordinator run`` and ``stop``: studies among the enrolled sites."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.coordinator.follow import follow
from cli.coordinator.place import HERE, FolderOption, JsonOption, folder_words, open_folder
from cli.coordinator.signing import InitOption, SitesOption, sign_for
from cli.result import print_json
from cli.rounds import announce
from protocol.errors import InputError

if TYPE_CHECKING:
    from protocol.signed_study import SignedStudy
    from server.deployment.folder import CoordinatorFolder
    from server.deployment.jobs import Job


def run(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help="A study (TOML), or one that this coordinator signed.")],
    *,
    folder: FolderOption = HERE,
    sites: SitesOption = None,
    init: InitOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Sign a study, offer it to its sites, and follow it to its release.

    Needs ``cloister coordinator start`` on the same folder. A study that was begun goes on where it was; one that is
    finished is told so. Ctrl-C leaves it running.
    """
    opened = open_folder(folder)
    signed = sign_for(opened, path, sites=sites, init=init)
    job = _job(opened, signed, init)
    _warn_if_not_started(opened, folder)
    if not detach:
        follow(job, folder_words=folder_words(folder), quiet=json_output, root=opened.root)
    if json_output:
        release = str(job.release) if job.finished else None
        print_json({"study": signed.study.hash, "job": str(job.folder), "release": release})
    elif detach:
        sys.stdout.write(f"{job.name}: see `cloister coordinator status{folder_words(folder)}`.\n")


def stop(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Its name, or the beginning of its job's name.")],
    *,
    folder: FolderOption = HERE,
    json_output: JsonOption = False,
) -> None:
    """Let a study rest after its round, and take its offer back.

    ``run`` takes it up again, and nothing is charged twice.
    """
    from server.deployment.jobs import find_job

    job = find_job(open_folder(folder).studies, name)
    if job.finished:
        raise InputError(f"{job.name} is finished.", remedy=f"Its release: {job.release}")
    job.stop()
    if json_output:
        print_json({"job": str(job.folder), "stopped": True})
        return
    sys.stdout.write(f"{job.name} rests after its round, and is not offered any more. Run the study again to go on.\n")


def _job(opened: "CoordinatorFolder", signed: "SignedStudy", init: Path | None) -> "Job":
    """Return the study's job: a new one, or the one that there is."""
    from server.deployment.jobs import create_job, jobs_of

    known = jobs_of(opened.studies, signed.study)
    if not known:
        from cli.study import build_plan

        build_plan(signed.study)  # what a run would refuse is refused before any site is asked
        if signed.study.model.init is not None and init is None:
            raise InputError(
                f"{signed.study.name} starts from the public release {signed.study.model.init.release!r}.",
                remedy="Give it: --init RELEASE.",
            )
        return create_job(opened.studies, signed, start=init)
    if known[-1].finished:
        announce(
            f"{known[-1].name} is finished. To train once more, write a study with another name: sites approve anew."
        )
    else:
        known[-1].resume()
        announce(f"{known[-1].name} goes on after round {known[-1].progress().round}.")
    return known[-1]


def _warn_if_not_started(opened: "CoordinatorFolder", folder: Path) -> None:
    from server.deployment.processes.record import is_supervised

    if not is_supervised(opened.root):
        announce(f"no coordinator runs on this folder; start it: cloister coordinator start{folder_words(folder)}")
