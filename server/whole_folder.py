"""Folders that are complete or absent: written beside their final place, and moved there whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import InputError


def check_new(folder: Path) -> None:
    """Refuse a folder that exists, before hours of work are spent on it.

    Raises:
        InputError: If it exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists.", remedy="Choose a new folder: an existing one is never overwritten.")


@contextmanager
def whole_folder(folder: Path, *, confidential: bool = False) -> Iterator[Path]:
    """Give a folder to fill, which takes its name only when the block ends well.

    Args:
        folder: Its final place; nothing may be there. The folder above it is made where it is missing.
        confidential: Whether nobody but its owner may read it.

    Yields:
        A folder beside it.

    Raises:
        InputError: If something is there, or it cannot be written.
    """
    check_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}.", remedy="Choose a folder that can be written.") from error
    try:
        yield draft
        _settle(draft, mode=0o700 if confidential else 0o755)
        os.replace(draft, folder)  # noqa: PTH105 - Path.replace is the same call; os names what is relied on
        _synchronise(folder.parent)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}.", remedy="Check space and permissions.") from error
    finally:
        # After the move there is nothing left to remove.
        shutil.rmtree(draft, ignore_errors=True)


def _settle(draft: Path, *, mode: int) -> None:
    """Let those read it who may, and see to it that a power cut leaves it complete."""
    for path in sorted(draft.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        _synchronise(path)
    draft.chmod(mode)
    _synchronise(draft)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
