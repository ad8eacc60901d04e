"""``cloister coordinator init``: an authority, keys and an empty roster."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.coordinator.place import JsonOption
from cli.result import print_json


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make.")],
    *,
    name: Annotated[str, typer.Option(help="The federation's name: lower-case letters, digits and hyphens.")],
    host: Annotated[str, typer.Option(help="Name or address under which sites reach this machine.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the gate, where sites work.")] = 9443,
    enrolment_port: Annotated[int, typer.Option(min=1, max=65535, help="Where sites enrol.")] = 9444,
    superlink_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of Flower's SuperLink, on this machine only.")
    ] = 9445,
    json_output: JsonOption = False,
) -> None:
    """Make a coordinator: a private authority, keys, and an empty roster.

    The folder's private keys can be put under a passphrase: set CLOISTER_PASSPHRASE or CLOISTER_PASSPHRASE_FILE now and
    for every later command.
    """
    from server.deployment.folder import CoordinatorFolder

    made = CoordinatorFolder.create(
        folder, name=name, host=host, port=port, enrolment_port=enrolment_port, superlink_port=superlink_port
    )
    fingerprint, quoted = made.authority().fingerprint, shlex.quote(str(folder))
    if json_output:
        print_json({"folder": str(made.root), "federation": name, "ca_fingerprint": fingerprint})
        return
    sys.stdout.write(
        f"Written: {folder}: authority, keys, an empty roster. Back it up, and show it to nobody: whoever has it is "
        f"the coordinator.\nFederation {name}, authority {fingerprint}\n\n"
        f"Firewall of {host}: let sites reach two TCP ports and nothing else.\n"
        f"  {port}  the gate: only sites with a certificate of this federation get past its handshake\n"
        f"  {enrolment_port}  enrolment: asks for a one-time code; may be closed when all sites are enrolled\n"
        f"Port {superlink_port} (Flower's SuperLink) listens on this machine's loopback device only.\n\n"
        f"Next: cloister coordinator invite SITE ... --folder {quoted}\n"
        f"      cloister coordinator start --folder {quoted}\n"
    )
