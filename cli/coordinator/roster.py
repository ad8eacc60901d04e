"""``cloister coordinator invite`` and ``revoke``: who takes part."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from cli.coordinator.place import HERE, FolderOption, JsonOption, open_folder
from cli.result import print_json
from cli.rounds import announce
from protocol.errors import InputError


def invite(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Sites to invite.")],
    *,
    folder: FolderOption = HERE,
    days: Annotated[float, typer.Option(min=0.01, max=365, help="For how long the codes can be used.")] = 7.0,
    json_output: JsonOption = False,
) -> None:
    """Print a one-time code for each site; its administrator types ``cloister site enroll CODE``.

    Whoever has a code becomes that site: send each over a channel that you trust. A new code ends an open one of the
    same name. A site that is enrolled gets a new certificate with it, and keeps its identity.
    """
    opened = open_folder(folder)
    if len(set(names)) < len(names):
        raise InputError("A site is named twice.", remedy="Name each once.")
    with opened.roster() as roster:
        present = {member.name for member in roster.members()}
        codes = {name: opened.invitation(name, secret=roster.invite(name, days=days)).text() for name in names}
    until = datetime.now(UTC) + timedelta(days=days)
    if json_output:
        listed = [{"site": name, "code": code} for name, code in codes.items()]
        print_json({"invitations": listed, "expires": until.isoformat(timespec="seconds")})
        return
    for name, code in codes.items():
        sys.stdout.write(f"{name} {code}\n")
    for name in sorted(present & set(names)):
        announce(f"{name} is enrolled: the code gives it a new certificate.")
    announce(f"each code works once, until {until:%Y-%m-%d %H:%M} UTC: cloister site enroll CODE")


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Site to exclude.")],
    *,
    folder: FolderOption = HERE,
    json_output: JsonOption = False,
) -> None:
    """Exclude a site at once, or withdraw its invitation; no other site is touched."""
    with open_folder(folder).roster() as roster:
        roster.revoke(name)
    if json_output:
        print_json({"revoked": name})
        return
    sys.stdout.write(f"{name} is revoked: its certificate opens nothing any more. To let it in again, invite it.\n")
