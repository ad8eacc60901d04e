"""Where the coordinator's folder is."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from server.deployment.folder import CoordinatorFolder

FOLDER_VARIABLE = "CLOISTER_COORDINATOR"
HERE = Path()
FolderOption = Annotated[
    Path, typer.Option("--folder", envvar=FOLDER_VARIABLE, help="The coordinator's folder; this one if not given.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def open_folder(root: Path) -> "CoordinatorFolder":
    """Open a coordinator's folder.

    Raises:
        InputError: There is none.
    """
    from server.deployment.folder import CoordinatorFolder

    return CoordinatorFolder.open(root)


def folder_words(root: Path) -> str:
    """Return how a next command names the folder; nothing where it need not."""
    return "" if root == HERE else f" --folder {shlex.quote(str(root))}"
