"""Processes that a measurement starts: they all end with it, and their processor time is told by role."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.errors import FederationError

_MARK = "CLOISTER_MEASUREMENT"
_TICKS = os.sysconf("SC_CLK_TCK")
_GRACE_S = 10.0
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}


class Processes:
    """Processes in one folder, which are gone when the block ends, with all that they started themselves.

    Linux alone: processes that left their group are found by a mark in their environment.

    Args:
        folder: Where they work, and where their logs are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = secrets.token_hex(16)
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOISTER_")}
        self._environment |= _QUIET | {_MARK: self._mark}
        self._started: list[subprocess.Popen[bytes]] = []
        self._files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        while pids := list(self._pids()):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for process in self._started:
            process.wait()
        self._files.close()

    def do(self, *command: object, environment: Mapping[str, str] | None = None) -> str:
        """Run a command to its end; returns what it printed.

        Raises:
            FederationError: If it fails.
        """
        done = subprocess.run(  # noqa: S603 - a list, and nothing of it from outside
            list(map(str, command)),
            env=self._environment | dict(environment or {}),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise FederationError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}",
                                  remedy="Run it by hand.")  # fmt: skip
        return done.stdout

    def start(self, name: str, *command: object, environment: Mapping[str, str] | None = None) -> Path:
        """Start a process that stays; returns its log."""
        log = self.folder / f"{name}.log"
        file = self._files.enter_context(log.open("wb"))
        process = subprocess.Popen(  # noqa: S603 - a list, and nothing of it from outside
            list(map(str, command)),
            env=self._environment | dict(environment or {}),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started.append(process)
        return log

    def wait_for(
        self, condition: Callable[[], bool], *, what: str, seconds: float = 180.0, every: float = 0.05
    ) -> None:
        """Wait for something; a process that ends meanwhile ends the measurement.

        Raises:
            FederationError: If it does not come, or a process has ended.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            ended = [process.args for process in self._started if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise FederationError(
                    f"{what}: {ended or 'not in time'}.\n{self._logs()}", remedy="See the logs above."
                )
            time.sleep(every)

    def seconds(self, roles: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Return the processor time used so far, in seconds, by role; "other" for what fits none.

        Args:
            roles: Words that a command line contains, by role; the first role that fits counts.
        """
        spent: dict[str, float] = defaultdict(float)
        for pid in self._pids():
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                # Fields 14 to 17 of the whole line: its own time, and that of the children it has waited for.
                used = sum(map(int, fields[11:15])) / _TICKS
                role = next((role for role, words in roles.items() if any(word in line for word in words)), "other")
                spent[role] += used
        return spent

    def _pids(self) -> Iterator[int]:
        mark = f"{_MARK}={self._mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        yield int(entry.name)

    def _logs(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in self.folder.glob("*.log")
        )


def free_ports(count: int) -> list[int]:
    """Return ports that were free an instant ago."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
