"""``cloister site service``: what keeps a site's client running, printed for an administrator to read and install."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.site.folder import HERE, SiteFolder
from protocol.errors import InputError

EXAMPLES = (
    "\b\nExamples:\n  cloister site service systemd | sudo tee /etc/systemd/system/cloister-site.service"
    "\n  cloister site service container > Containerfile"
)


class Kind(StrEnum):
    """What runs the client."""

    SYSTEMD = "systemd"
    CONTAINER = "container"


def service(
    kind: Annotated[Kind, typer.Argument(help="systemd or container.")],
    *,
    site: SiteFolder = HERE,
    user: Annotated[str | None, typer.Option(help="Account that owns the folder; its owner if not given.")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase of the private keys, readable by root alone.")
    ] = None,
) -> None:
    """Print a systemd unit, or a Containerfile and the command that runs it; nothing is installed.

    The unit may write the site's folder and nothing else, has no capability, and reads the passphrase as a
    credential. The container is not root, has a read-only root and opens no port.
    """
    from cli.templates import SITE, Service, containerfile, installed_command, owner_of, systemd_unit

    folder = site.absolute()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.", remedy="Enrol first: cloister site enroll CODE.")
    passphrase = None if passphrase_file is None else passphrase_file.absolute()
    device, records = _from_settings(folder)
    if kind is Kind.CONTAINER:
        sys.stdout.write(containerfile())
        sys.stdout.write(f"# Run it:\n#   {_run(folder, records, passphrase)}\n")
        return
    unit = Service(
        role=SITE,
        command=installed_command(),
        folder=folder,
        user=user or owner_of(folder),
        passphrase=passphrase,
        accelerator=device != "cpu",
        readable=() if records is None else (records,),
    )
    sys.stdout.write(systemd_unit(unit))


def _run(folder: Path, records: Path | None, passphrase: Path | None) -> str:
    from cli.templates import container_command

    owner = folder.stat()
    # A container that ran as root would undo what it is for: the folder has to be given away first.
    given = f"{owner.st_uid}:{owner.st_gid}" if owner.st_uid else None
    command = container_command(folder=folder, owner=given, data=records, passphrase=passphrase)
    return command if given else f"chown -R 10001:10001 {folder} && {command}"


def _from_settings(folder: Path) -> tuple[str, Path | None]:
    """Return the device, and the records' file where it lies outside the folder."""
    if not (folder / "site.toml").exists():
        return "cpu", None
    from client.settings import data_location, site_settings

    settings = site_settings(folder)
    location = data_location(folder, settings)
    outside = "://" not in location and not Path(location).is_relative_to(folder)
    return str(settings.get("device", "cpu")), Path(location) if outside else None
