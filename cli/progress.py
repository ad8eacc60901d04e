"""A progress bar on standard error, for work of more than two seconds."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE_SECONDS = 2.0


@contextmanager
def progress_bar(total: int, *, label: str, unit: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how far work has come, with rate and time left.

    Nothing is shown during the first two seconds, when standard error is no terminal, or when ``quiet``.

    Args:
        total: How much there is to do.
        label: What is being done.
        unit: What is counted, such as ``rows``.
        quiet: Show nothing.

    Yields:
        A function to call with how much more has been done.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done: None  # noqa: ARG005 -- nobody is watching
        return
    from rich.console import Console  # slow to import, and often not needed
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=total, rate="")

    def advance(done: int) -> None:
        bar.advance(task, done)
        speed = bar.tasks[0].speed
        bar.update(task, rate=f"{speed:,.0f} {unit}/s" if speed else "")

    timer = threading.Timer(_PATIENCE_SECONDS, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield advance
    finally:
        timer.cancel()
        timer.join()  # a bar that starts after it was stopped would stay on the screen
        bar.stop()
