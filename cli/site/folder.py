"""Which site a command is about."""

import os
import pwd
import shlex
from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import InputError

FOLDER_VARIABLE = "CLOISTER_SITE"
HERE = Path()
SiteFolder = Annotated[
    Path,
    typer.Option("--site", envvar=FOLDER_VARIABLE, metavar="FOLDER", help="The site's folder; this one if not given."),
]


def folder_words(site: Path) -> str:
    """Return how a next command names the folder; nothing where it need not."""
    return "" if site == HERE or os.environ.get(FOLDER_VARIABLE) else f" --site {shlex.quote(str(site))}"


def check_site(folder: Path) -> None:
    """Refuse a folder that nobody enrolled in, as where CLOISTER_SITE was forgotten.

    Raises:
        InputError: If it is not a site's.
    """
    from client.credentials import ENROL_REMEDY, is_site

    if not is_site(folder):
        raise InputError(f"{folder.absolute()} is not a site's folder.", remedy=ENROL_REMEDY)


def check_account(folder: Path) -> None:
    """Refuse to write into a folder of another account: the client, which runs as its owner, could not read that.

    Raises:
        InputError: If it is not this account's.
    """
    owner = folder.stat().st_uid if folder.exists() else os.getuid()
    if owner != os.getuid():
        raise InputError(
            f"{folder.absolute()} belongs to {_account(owner)}, and this runs as {_account(os.getuid())}.",
            remedy=f"Do it as the owner: sudo -u {shlex.quote(_account(owner, number_as='#'))} cloister ... --site "
            f"{shlex.quote(str(folder.absolute()))}",
        )


def _account(number: int, *, number_as: str = "user ") -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # an account without a name
        return f"{number_as}{number}"
