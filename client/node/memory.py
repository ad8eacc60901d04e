"""What the node keeps across restarts: the id that Flower gave it, and that it is the folder's only one."""

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import InputError
from protocol.keys import replace_private

NODE_FILE = "node.json"
_LOCK_FILE = "node.lock"
_VERSION = 1
_LARGEST_ID = 2**64

_LOGGER = logging.getLogger("cloister.site")


class NodeMemory:
    """The file ``node.json`` of a site's folder.

    It holds the id under which Flower knows the site's node key. The id stays the same for as long as the
    coordinator keeps the key registered; it is needed to sign off a node that crashed. Losing the file costs at
    most the time after which the coordinator takes a silent node for gone.

    Args:
        folder: The site's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NODE_FILE

    def node_id(self) -> int | None:
        """Return the last known id; None if there is none that can be read."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("version") != _VERSION:
            return None
        node_id = found.get("node_id")
        return node_id if isinstance(node_id, int) and 0 < node_id < _LARGEST_ID else None

    def remember(self, node_id: int) -> None:
        """Write the id down; a disk that is full is no reason not to work."""
        if self.node_id() == node_id:
            return
        try:
            replace_private(self._path, json.dumps({"version": _VERSION, "node_id": node_id}).encode())
        except InputError as error:
            _LOGGER.warning("the node's id is not remembered: %s", error)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a site's folder for one client.

    Raises:
        InputError: If another process holds it, or it cannot be written.
    """
    try:
        file = (folder / _LOCK_FILE).open("ab")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}.", remedy="Let the client's user write there.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"A client of this site is running already in {folder}.", remedy="Stop it first, or leave it running."
            ) from error
        yield
