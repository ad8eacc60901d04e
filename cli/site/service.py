"""``cloister site service``: what keeps a site's client running, printed for an administrator to read and install."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.site.folder import HERE, SiteFolder, check_site
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
        Path | None, typer.Option(help="File with the passphrase of the private keys, readable by the account alone.")
    ] = None,
) -> None:
    """Print a systemd unit, or a Containerfile and the command that runs it; nothing is installed.

    The unit may write the site's folder and nothing else, has no capability, and reads the passphrase as a
    credential. The container is not root, has a read-only root and opens no port.
    """
    from cli.templates import SITE, Service, containerfile, installed_command, owner_of, systemd_unit

    folder = site.absolute()
    check_site(folder)
    passphrase = None if passphrase_file is None else passphrase_file.absolute()
    if passphrase is not None and not passphrase.is_file():
        raise InputError(f"{passphrase}: there is no such file.", remedy="Make it, with the keys' passphrase, first.")
    device, records = _from_settings(folder)
    if kind is Kind.CONTAINER:
        sys.stdout.write(containerfile())
        sys.stdout.write(_how_to_run(folder, records, passphrase))
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


def _how_to_run(folder: Path, records: Path | None, passphrase: Path | None) -> str:
    """Say how the container is run, which account must be able to read what, and how other commands are given in it."""
    from cli.templates import CONTAINER_EXEC, CONTAINER_USER

    user = _container_owner(folder) or CONTAINER_USER
    lines = ["# Run it:", f"#   {_run(folder, records, passphrase)}"]
    if records is not None:
        lines.append(f"# The account {user} must be able to read the records.")
    if passphrase is not None:
        word = shlex.quote(str(passphrase))
        lines += [f"# The account {user} reads the passphrase:", f"#   chown {user} {word} && chmod 400 {word}"]
    lines += ["# Other commands while it runs, such as the doctor, or an officer's decision:"]
    return "\n".join([*lines, f"#   {CONTAINER_EXEC} doctor", f"#   {CONTAINER_EXEC} approve STUDY", ""])


def _run(folder: Path, records: Path | None, passphrase: Path | None) -> str:
    from cli.templates import container_command

    given = _container_owner(folder)
    command = container_command(folder=folder, owner=given, data=records, passphrase=passphrase)
    return command if given else f"chown -R 10001:10001 {shlex.quote(str(folder))} && {command}"


def _container_owner(folder: Path) -> str | None:
    """Return whom the folder belongs to; None for root: as root, a container would undo what it is for."""
    owner = folder.stat()
    return f"{owner.st_uid}:{owner.st_gid}" if owner.st_uid else None


def _from_settings(folder: Path) -> tuple[str, Path | None]:
    """Return the device, and the records' file (or folder of files) where it lies outside the site's folder."""
    if not (folder / "site.toml").exists():
        return "cpu", None
    from client.settings import data_location, site_settings
    from records.sources import path_of

    settings = site_settings(folder)
    location = data_location(folder, settings)
    outside = "://" not in location and not path_of(location).is_relative_to(folder)
    return str(settings.get("device", "cpu")), path_of(location) if outside else None
