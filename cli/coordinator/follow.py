"""Watching a study from its folder, as its server writes down how far it is."""

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cli.progress import progress_bar
from cli.result import print_statement
from cli.rounds import announce
from protocol.errors import FederationError

if TYPE_CHECKING:
    from server.deployment.jobs import Job
    from server.progress import Progress

_POLL_SECONDS = 0.3
_LINES = 10
_PRESENT = frozenset({"here", "answered"})


def follow(job: "Job", *, folder_words: str, quiet: bool, root: Path) -> None:
    """Show how far a study is until it ends; Ctrl-C leaves it alone.

    Args:
        job: Which.
        folder_words: How a next command names the coordinator's folder.
        quiet: Say nothing unless it fails.
        root: The coordinator's folder.

    Raises:
        FederationError: It failed, or was stopped.
    """
    try:
        last = _watch(job, quiet=quiet)
    except KeyboardInterrupt:
        announce(f"the study goes on without you: cloister coordinator status{folder_words}")
        return
    if not job.finished:
        remedy = f"Run it again to go on; the programs' logs are in {root / 'logs'}."
        raise FederationError(f"{job.name} {last.state} after round {last.round}: {last.message}", remedy=remedy)
    if not quiet:
        print_statement((job.release / "statement.txt").read_text(encoding="utf-8").splitlines())
        sys.stdout.write(f"\nRelease: {job.release}\nNext: cloister verify {shlex.quote(str(job.release))}\n")


def _watch(job: "Job", *, quiet: bool) -> "Progress":
    """Return the last progress of a study."""
    begin = job.progress()
    with progress_bar(begin.rounds, label=job.name, unit="rounds", quiet=quiet) as advance:
        say: Callable[[str], None] = announce if not quiet else _nothing
        teller = _Teller(say, begin, watched=not quiet and sys.stderr.isatty())
        done = 0
        while True:
            found = job.progress()
            advance(found.round - done)
            done = found.round
            teller.tell(found)
            if found.state in ("finished", "failed", "stopped"):
                return found
            time.sleep(_POLL_SECONDS)


class _Teller:
    """Says what is new: who is waited for, and about ten times how far it is."""

    def __init__(self, say: Callable[[str], None], begin: "Progress", *, watched: bool) -> None:
        self._say = say
        self._watched = watched
        self._said = ""
        self._begin = begin.round
        self._since = time.monotonic()
        self._told = begin.round

    def tell(self, found: "Progress") -> None:
        """Say what is new about it."""
        waited = [f"{site} ({word})" for site, word in sorted(found.sites.items()) if word not in _PRESENT]
        line = str(found.state)
        if found.state != "running":  # what it says of every round is told by the rounds themselves
            line += f": {found.message}" if found.message else ""
            line += f" Not here: {', '.join(waited)}." if waited else ""
        if line != self._said:
            self._say(line)
            self._said = line
        due = found.round - self._told >= max(1, found.rounds // _LINES) or found.round == found.rounds
        if due and found.round > self._told and not self._watched:
            self._told = found.round
            rate = (found.round - self._begin) / max(1e-3, time.monotonic() - self._since)
            left = (found.rounds - found.round) / rate
            self._say(f"round {found.round} of {found.rounds}, {rate:.2g} rounds/s, {left:.0f} s left")


def _nothing(text: str) -> None:
    del text
