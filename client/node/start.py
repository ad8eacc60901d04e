"""Run a site's client until it is told to stop."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from client.app import app
from client.node.node import Node
from client.settings import FOLDER_VARIABLE

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def start_node(folder: Path, stop: threading.Event | None = None) -> None:
    """Run the client of a site until SIGTERM, SIGINT or ``stop``.

    If a message is being worked on at the end and takes longer than ten seconds, this ends the process at once with
    status 0: a thread cannot be interrupted, and everything that has to last is on the disk.

    Args:
        folder: The site's folder.
        stop: Set it to end the client from another thread.

    Raises:
        InputError: If the site is not enrolled, or a client of it is running already.
    """
    stop = threading.Event() if stop is None else stop
    folder = folder.absolute()
    os.environ[FOLDER_VARIABLE] = str(folder)
    with _signals(stop):
        finished = Node(folder, app=app).run(stop)
    if not finished:
        logging.shutdown()
        os._exit(0)


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Let signals set the event; only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
