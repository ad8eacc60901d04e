"""``cloister verify``: check a release offline, without trusting whoever made it."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.result import print_json
from protocol.errors import InputError

if TYPE_CHECKING:
    from privacy.ledger import LedgerExtract
    from privacy.secure_sum import Transcript
    from server.release import Release

EXAMPLES = (
    "\b\nExamples:\n"
    "  cloister verify release\n"
    "  cloister verify release --ledger ledgers --transcript told --coordinator coordinator.json"
)
Ledgers = Annotated[
    list[Path] | None,
    typer.Option(
        "--ledger",
        metavar="FILE",
        help="An extract of a site's ledger, of cloister site ledger --extract, or a folder of some; may be repeated.",
    ),
]
Transcripts = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A site's transcript of the run, or a folder of some; may be repeated."),
]
Coordinator = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="The coordinator's public key as you know it, or a site's coordinator.json."),
]
_Evidence = TypeVar("_Evidence")
_KEY = re.compile(r"[0-9a-f]{64}")


def verify(
    folder: Annotated[Path, typer.Argument(metavar="RELEASE", help="Folder of a release.")],
    *,
    ledger: Ledgers = None,
    transcript: Transcripts = None,
    coordinator: Coordinator = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a release: its statement, its signatures, what its sites were charged, and what they were told.

    Needs no network and trusts nobody but this installation. Says what was not checked, and ends with status 1 where
    anything does not hold. It cannot show that a site added the noise that it was charged for: that is in the code
    that the site approved. Nor can it show where the generator's weights come from: the coordinator's signature alone
    ties them to the run.
    """
    import torch  # slow to import

    from cli.officer.findings import print_findings
    from server.release import Release
    from server.verification import verify_release

    key = None if coordinator is None else coordinator_key(coordinator)
    release = Release.open(folder, device=torch.device("cpu"))
    extracts, transcripts = evidence(release, ledger=ledger, transcript=transcript)
    found = verify_release(release, transcripts=transcripts, extracts=extracts, coordinator=key)
    if json_output:
        print_json({"release": str(folder), **asdict(found), "statement": release.statement.headline()})
    else:
        print_findings(found.passed, found.remarks, found.faults)
        typer.echo(f"\n{release.statement.headline()}")
    found.require()


def evidence(
    release: "Release", *, ledger: Sequence[Path] | None, transcript: Sequence[Path] | None
) -> tuple[list["LedgerExtract"], list["Transcript"]]:
    """Read what sites gave. Of a folder, what is about another study or run is passed over.

    Args:
        release: What it is evidence of.
        ledger: Extracts of ledgers, or folders of some.
        transcript: Transcripts, or folders of some.

    Raises:
        InputError: If a file is not what it is said to be, or a folder holds nothing about the release.
    """
    from server.verification import read_extract, read_transcript

    study, run = release.study.hash, release.provenance.get("run")
    extracts = _read(ledger, read_extract, lambda one: one.study == study, "extract of a ledger")
    return extracts, _read(transcript, read_transcript, lambda one: one.run == run, "transcript")


def _read(
    paths: Sequence[Path] | None, read: Callable[[Path], _Evidence], wanted: Callable[[_Evidence], bool], what: str
) -> list[_Evidence]:
    """Read the files that were named, and those of the folders that were."""
    found: list[_Evidence] = []
    for path in paths or []:
        if not path.is_dir():
            found.append(read(path))
            continue
        inside = [one for one in map(read, sorted(path.rglob("*.json"))) if wanted(one)]
        if not inside:
            raise InputError(f"{path}: no {what} of this release in this folder.", remedy="Check the path.")
        found += inside
    return found


def coordinator_key(word: str) -> str:
    """Return the coordinator's public key, given as such or by the file that a site got when it enrolled.

    Raises:
        InputError: If it is neither.
    """
    if _KEY.fullmatch(word.lower()):
        return word.lower()
    refused = InputError(
        f"--coordinator {word}: no key of 64 hexadecimal digits, and no coordinator.json.",
        remedy="Give the key, or the path of a site's coordinator.json.",
    )
    try:
        key = str(json.loads(Path(word).read_text(encoding="utf-8"))["coordinator_key"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise refused from error
    if not _KEY.fullmatch(key):
        raise refused
    return key
