"""Whether a client is running in a site's folder."""

import fcntl
import os
from pathlib import Path

from protocol.errors import InputError

# What client/node/memory.py holds while a client runs.
_LOCK_FILE = "node.lock"


def is_running(folder: Path) -> bool:
    """Tell whether a client holds a site's folder.

    The lock belongs to the process: it ends with it, however it ends.

    Args:
        folder: The site's folder.

    Raises:
        InputError: If the folder cannot be read.
    """
    try:
        descriptor = os.open(folder / _LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}.", remedy="Ask as the owner of the site's folder.") from error
    try:
        # Shared, so that two who ask do not take each other for a client; held for an instant.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
