"""``cloister site doctor``: what does not work at this site, and what to do about it."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from cli.result import print_json
from cli.site.folder import HERE, SiteFolder

if TYPE_CHECKING:
    from client.doctor import Finding

EXAMPLES = "\b\nExamples:\n  cloister site doctor\n  cloister site doctor --site /srv/cloister --json"
_MARKS = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}
_WIDEST = 24


def doctor(
    *,
    site: SiteFolder = HERE,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Examine folder, keys, clock, network, records and approvals; say what to do about each failure.

    Nothing is changed, and no value of a record is shown or sent. Ends with status 1 where something failed.
    """
    from client.doctor import State, examine  # PyTorch and Arrow: slow to import

    found = []
    for finding in examine(site.absolute()):
        found.append(finding)
        if not json_output:
            sys.stdout.write(told(finding))
            sys.stdout.flush()
    count = {state: sum(finding.state is state for finding in found) for state in State}
    if json_output:
        print_json({"healthy": not count[State.FAILED], "findings": [finding.to_mapping() for finding in found]})
    else:
        sys.stdout.write(f"\n{_verdict(count[State.FAILED], count[State.WARNING])}\n")
    if count[State.FAILED]:
        raise typer.Exit(1)


def told(finding: "Finding") -> str:
    """Return a finding as one line, and what to do about it as another."""
    line = f"{_MARKS[finding.state.value]}  {finding.check:{_WIDEST}}  {finding.message}\n"
    return line + (f"{'':7}  {'':{_WIDEST}}  -> {finding.remedy}\n" if finding.remedy else "")


def tell(findings: Iterable["Finding"]) -> None:
    """Write findings to standard error."""
    for finding in findings:
        sys.stderr.write(told(finding))


def _verdict(failures: int, warnings: int) -> str:
    if failures:
        return f"{failures} of the checks failed. Begin with the first: others may follow from it."
    return "Everything works." if not warnings else f"Everything works; {warnings} to look at."
