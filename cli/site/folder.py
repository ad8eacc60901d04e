"""Which site a command is about."""

import os
from pathlib import Path
from typing import Annotated

import typer

FOLDER_VARIABLE = "CLOISTER_SITE"
HERE = Path()
SiteFolder = Annotated[
    Path,
    typer.Option("--site", envvar=FOLDER_VARIABLE, metavar="FOLDER", help="The site's folder; this one if not given."),
]


def folder_words(site: Path) -> str:
    """Return how a next command names the folder; nothing where it need not."""
    return "" if site == HERE or os.environ.get(FOLDER_VARIABLE) else f" --site {site}"
