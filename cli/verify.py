"""``cloister verify``: check a release offline, without trusting whoever made it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.result import print_json
from protocol.errors import InputError

EXAMPLES = "Example: cloister verify release --transcript told"


def verify(
    folder: Annotated[Path, typer.Argument(metavar="RELEASE", help="Folder of a release.")],
    *,
    transcript: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A site's transcript of the run, or a folder of some; may be repeated."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a release: its checksums, its statement, its sites' keys, and what its sites were told.

    Needs no network and trusts nobody but this installation. It cannot show that a site added its noise: that is in
    the site's own ledger, and in the code that the site approved.
    """
    import torch  # slow to import

    from server.release import Release
    from server.verification import read_transcript, verify_release

    release = Release.open(folder, device=torch.device("cpu"))
    paths = [
        found for path in transcript or [] for found in (sorted(path.rglob("*.json")) if path.is_dir() else [path])
    ]
    if transcript and not paths:
        raise InputError(f"{transcript[0]}: no transcript in this folder.", remedy="Check the path.")
    passed = verify_release(release, [read_transcript(path) for path in paths])
    if json_output:
        print_json({"release": str(folder), "passed": list(passed), "statement": release.statement.headline()})
        return
    for sentence in passed:
        sys.stdout.write(f"ok  {sentence}\n")
    sys.stdout.write(f"\n{release.statement.headline()}\n")
