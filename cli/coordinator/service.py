"""``cloister coordinator service``: a systemd unit for the coordinator, printed to be read and installed."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.coordinator.place import HERE, FolderOption, open_folder

EXAMPLE = "Example: cloister coordinator service | sudo tee /etc/systemd/system/cloister-coordinator.service"


def service(
    *,
    folder: FolderOption = HERE,
    user: Annotated[str | None, typer.Option(help="Account that owns the folder; its owner if not given.")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase of the private keys, readable by the account alone.")
    ] = None,
) -> None:
    """Print a systemd unit that may write the coordinator's folder and nothing else; nothing is installed."""
    from cli.templates import COORDINATOR, Service, installed_command, owner_of, systemd_unit

    root = open_folder(folder).root
    unit = Service(
        role=COORDINATOR,
        command=installed_command(),
        folder=root,
        user=user or owner_of(root),
        passphrase=None if passphrase_file is None else passphrase_file.absolute(),
    )
    sys.stdout.write(systemd_unit(unit))
