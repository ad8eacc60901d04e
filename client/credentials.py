"""What enrolment leaves in a site's folder, and how it is replaced: wholly, or not at all.

::

    coordinator.json   where the coordinator is, and whose signatures to believe
    ca.pem             the federation's authority: the only one that is trusted
    tls.pem tls.key    the site's certificate and its private key

Certificate and key change together. New files are gathered in a folder of their own, whose renaming is the one
moment at which they become the site's; what a crash leaves undone after it, `settle` does.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from protocol.digest import canonical_json
from protocol.errors import InputError
from protocol.invitation import is_host, is_port
from protocol.keys import create_private
from protocol.terms import SITE_NAME

CREDENTIALS_VERSION = 1
COORDINATOR_FILE, CA_FILE, CERTIFICATE_FILE, KEY_FILE = "coordinator.json", "ca.pem", "tls.pem", "tls.key"
PRIVATE_FILES = ("key.pem", KEY_FILE, "node.key")
_FILES = frozenset({COORDINATOR_FILE, CA_FILE, CERTIFICATE_FILE, KEY_FILE})
_DRAFT, _READY, _LOCK = ".credentials.draft", ".credentials.ready", ".credentials.lock"
_HEX = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 65_536
_ENROL = "Enrol the site: `cloister site enroll CODE`, with a code of the coordinator's."
ENROL_REMEDY = (
    "If the site is enrolled, set CLOISTER_SITE to its folder in this terminal, or give --site; if not: "
    "`cloister site enroll CODE`, with a code of the coordinator's."
)


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """What a site knows of its coordinator: the contents of ``coordinator.json``.

    Attributes:
        federation: The federation's name.
        host: Name or address of the coordinator.
        port: Of its gate.
        coordinator_key: Ed25519 public key that signs studies and warrants, 64 hexadecimal digits.
        ca_fingerprint: SHA-256 of the authority's certificate (DER), 64 hexadecimal digits.
        site: The name that the federation knows the site by.
    """

    federation: str
    host: str
    port: int
    coordinator_key: str
    ca_fingerprint: str
    site: str

    def __post_init__(self) -> None:
        """Refuse what no enrolment would have written.

        Raises:
            InputError: Naming the value at fault.
        """
        patterns = {
            "federation": SITE_NAME,
            "site": SITE_NAME,
            "coordinator_key": _HEX,
            "ca_fingerprint": _HEX,
        }
        good = {
            name: isinstance(value := getattr(self, name), str) and pattern.fullmatch(value) is not None
            for name, pattern in patterns.items()
        }
        good |= {"host": is_host(self.host), "port": is_port(self.port)}
        for name, right in good.items():
            if not right:
                raise InputError(f"{COORDINATOR_FILE}: {name} is {getattr(self, name)!r}.", remedy=_ENROL)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what a site knows of its coordinator, having finished what a crash interrupted.

        Raises:
            InputError: If the site is not enrolled, or the file is damaged.
        """
        settle(folder)
        return cls._read(folder / COORDINATOR_FILE)

    @classmethod
    def _read(cls, path: Path) -> Self:
        try:
            with path.open("rb") as file:
                values = json.loads(file.read(_MOST_BYTES))
        except FileNotFoundError as error:
            raise InputError(f"{path.parent} is not enrolled.", remedy=ENROL_REMEDY) from error
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy="Check the folder and who may read it.") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is damaged.", remedy=_ENROL) from error
        known = {"version", *cls.__dataclass_fields__}
        if not isinstance(values, dict) or set(values) != known or values.pop("version") != CREDENTIALS_VERSION:
            raise InputError(f"{path} is not of version {CREDENTIALS_VERSION}.", remedy=_ENROL)
        return cls(**values)

    @property
    def address(self) -> str:
        """Host and port of the gate, as people write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def to_bytes(self) -> bytes:
        """Return the contents of ``coordinator.json``."""
        values: dict[str, Any] = {"version": CREDENTIALS_VERSION} | asdict(self)
        return canonical_json(values) + b"\n"


def is_site(folder: Path) -> bool:
    """Tell whether somebody enrolled in a folder, or began to; one that may not be looked into may be a site's."""
    try:
        return any((folder / name).exists() for name in (*PRIVATE_FILES, COORDINATOR_FILE))
    except PermissionError:
        return True


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let nobody else enrol or renew in a folder while the block runs; what a crash left undone is done first.

    Raises:
        InputError: If somebody else is at it, or the folder cannot be written.
    """
    with _lock(folder, wait=False):
        _finish(folder)
        yield


def replace_credentials(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put new files in the place of older ones, all or none; inside `held`.

    Args:
        folder: The site's folder.
        files: Contents by name.

    Raises:
        InputError: If a name is none of a site's credentials, or they cannot be written: the older ones are
            untouched then.
    """
    if not files.keys() <= _FILES:
        raise InputError(f"{sorted(files.keys() - _FILES)} are no credentials.", remedy=f"Known: {sorted(_FILES)}.")
    draft = folder / _DRAFT
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        for name, content in files.items():
            create_private(draft / name, content)
        draft.rename(folder / _READY)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}.", remedy="Make room, or let it be written there.") from error
    _finish(folder)


def settle(folder: Path) -> None:
    """Finish a replacement that a crash interrupted; costs one look at the disk where there was none.

    Raises:
        InputError: If the folder cannot be written.
    """
    if (folder / _READY).exists():
        with _lock(folder, wait=True):
            _finish(folder)


def _finish(folder: Path) -> None:
    """Move the gathered files to their places; may be interrupted and done again."""
    ready = folder / _READY
    try:
        if ready.exists():
            _sync(folder)
            for path in ready.iterdir():
                path.replace(folder / path.name)
            _sync(folder)
            ready.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}.", remedy="Let it be written there.") from error


@contextmanager
def _lock(folder: Path, *, wait: bool) -> Iterator[None]:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}.", remedy="Let it be written there.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: another enrolment or renewal is under way.", remedy="Wait until it has ended."
            ) from error
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Make renamed files survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
