"""Logs that do not grow for ever."""

import logging
import os
from pathlib import Path

_LOGGER = logging.getLogger("cloister.coordinator")


def trim_log(log: Path, *, most: int) -> None:
    """Keep a log's end in ``NAME.1`` and begin it anew when it is too long; whoever writes to it need not know.

    Args:
        log: File that programs append to.
        most: Bytes.
    """
    try:
        if log.stat().st_size <= most:
            return
        log.with_name(f"{log.name}.1").write_bytes(log.read_bytes()[-most:])
        os.truncate(log, 0)
    except OSError as error:
        _LOGGER.warning("%s: %s", log, error.strerror)
