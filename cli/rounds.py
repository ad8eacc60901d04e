"""The progress of a run, round by round, from the server's log."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cli.progress import progress_bar

_LINES = 10


def announce(text: str) -> None:
    """Tell on standard error what is being done."""
    sys.stderr.write(f"cloister: {text}\n")


@contextmanager
def rounds_progress(label: str, *, rounds: int, quiet: bool = False) -> Iterator[None]:
    """Show the server's rounds: a bar where somebody watches, else about ten lines.

    Args:
        label: What is being trained.
        rounds: Rounds of the study.
        quiet: Show nothing.
    """
    logger = logging.getLogger("cloister.server")
    with progress_bar(rounds, label=label, unit="rounds", quiet=quiet) as advance:

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                report = getattr(record, "report", None)
                if report is None:
                    announce(record.getMessage())
                    return
                advance(1)
                due = report.number % max(1, rounds // _LINES) == 0 or report.number == rounds
                if not quiet and due and not sys.stderr.isatty():
                    announce(f"{label}: {record.getMessage()}")

        handler, level, passes_on = Handler(), logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = passes_on
