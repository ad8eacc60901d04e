"""The auditor's key: made at first use, and kept where the next audit finds it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.rounds import announce
from protocol.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_VARIABLE = "CLOISTER_AUDITOR_KEY"
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar=KEY_VARIABLE,
        metavar="FILE",
        help="The auditor's signing key (Ed25519); cloister/auditor.pem among your settings if not given. Made if"
        " absent.",
    ),
]


def key_path(given: Path | None) -> Path:
    """Where the auditor's key lies: as given, or among the user's settings.

    Raises:
        InputError: If the user has no folder of settings.
    """
    if given is not None:
        return given
    settings = os.environ.get("XDG_CONFIG_HOME")
    try:
        return (Path(settings) if settings else Path.home() / ".config") / "cloister" / "auditor.pem"
    except RuntimeError as error:
        raise InputError("There is no home folder for the auditor's key.", remedy="Name a file: --key FILE.") from error


def auditor_key(given: Path | None) -> "Ed25519PrivateKey":
    """Read the auditor's key, or make it, readable by its owner alone.

    Args:
        given: The file; None for the default.

    Raises:
        InputError: If it cannot be read or made.
    """
    from protocol.keys import create_identity, public_hex, read_identity

    path = key_path(given)
    if path.exists():
        return read_identity(path)
    if given is None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path.parent}: {error.strerror}.", remedy="Name another file: --key FILE.") from error
    key = create_identity(path)
    announce(f"made the auditor's key, {path}. Give whoever reads your reports its public half: {public_hex(key)}")
    return key
