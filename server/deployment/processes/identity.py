"""Which process is which: an id is used again, an id with its start time and its boot is not."""

import os
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
# Of /proc/PID/stat (proc_pid_stat(5)), counted from the state, which follows the last bracket.
_STATE, _SESSION, _START = 0, 3, 19


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """One process of this machine since it was booted.

    Attributes:
        pid: Its process id.
        started: When it was started, in the kernel's ticks since the boot; 0 where no ``/proc`` tells.
        boot: Id of the boot; empty where no ``/proc`` tells.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of a living process, None when there is none of this id."""
        facts = _facts(pid)
        if facts is None:
            return None if _PROC.joinpath("self").exists() else cls(pid=pid, started=0, boot="")
        return cls(pid=pid, started=int(facts[_START]), boot=_boot())

    @property
    def alive(self) -> bool:
        """Whether this very process, and not another one that got its id, is alive."""
        return self.started != 0 and ProcessIdentity.of(self.pid) == self


def processes_with(variable: str, value: str) -> list[int]:
    """Return the living processes that were started with a variable in their environment.

    Children inherit it: with a value that nobody else can have, these are the processes that somebody started,
    whatever became of their groups and parents.

    Args:
        variable: Its name.
        value: Its value.

    Returns:
        Process ids; none where there is no ``/proc``, and none of other users' processes.
    """
    mark = f"{variable}={value}".encode()
    return [int(entry.name) for entry in _PROC.glob("[0-9]*") if _has(int(entry.name), mark)]


def _has(pid: int, mark: bytes) -> bool:
    """Whether a process was started with a variable in its environment."""
    try:
        return mark in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False  # somebody else's process, or one that has just ended


def end_strays(known: Collection[ProcessIdentity], *, variable: str, value: str) -> list[int]:
    """End processes that a process that is gone has left behind, and none but these.

    These are: the known ones, as long as it is really them; the sessions they lead; and whatever has the mark in
    its environment. (Flower's SuperExec hides its environment, so the mark alone would not find it.)

    Args:
        known: What had been started; most of it is gone, and other processes may have got the ids.
        variable: A variable of their environment.
        value: A value that nobody else's processes have.

    Returns:
        The process ids that were ended.
    """
    leaders = {identity.pid for identity in known if identity.alive}
    members, mark = leaders | set(_members(leaders)), f"{variable}={value}".encode()
    ended = []
    for pid in sorted((set(processes_with(variable, value)) | members) - {os.getpid()}):
        identity = ProcessIdentity.of(pid)
        # The mark is read again after the identity: in between, the id may have become another process's.
        if identity is not None and (pid in members or _has(pid, mark)) and _kill(identity):
            ended.append(pid)
    return ended


def _kill(identity: ProcessIdentity) -> bool:
    """End this very process; return whether it was there."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return False
    try:
        # What the descriptor holds cannot be exchanged any more: look once again, then end it.
        if not identity.alive:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _members(sessions: Collection[int]) -> Iterator[int]:
    """Yield the processes of some sessions."""
    for entry in _PROC.glob("[0-9]*"):
        facts = _facts(int(entry.name))
        if facts is not None and int(facts[_SESSION]) in sessions:
            yield int(entry.name)


def _facts(pid: int) -> list[str] | None:
    """Return what the kernel says about a living process, from its state on."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    facts = text.rpartition(")")[2].split()
    return None if facts[_STATE] in "ZX" else facts


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
