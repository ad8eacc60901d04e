"""A program and its process group, started on a leash and ended whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from server.deployment.processes import leash
from server.deployment.processes.identity import ProcessIdentity

_POLL_SECONDS = 0.02


class Child:
    """A program that is started, and started again, by this process and dies with it.

    It gets a process group of its own, so that what it starts can be ended with it. Start it from the main
    thread: Linux ends a child on a leash when the *thread* that started it ends.

    Args:
        name: What logs and messages call it.
        command: Path of the program, and its arguments.
        environment: Its whole environment.
        folder: Its working directory.
        log: File that gets what it prints, at the end.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.environment = dict(environment)
        self.folder = folder
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    @property
    def identity(self) -> ProcessIdentity | None:
        """What tells its process from any other, None when it is not running."""
        return None if self._process is None else ProcessIdentity.of(self._process.pid)

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        if self._process is None:
            return False
        # Not reaped: until then nobody else can get its process id, which is also the id of its group.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return ended is None

    def start(self) -> None:
        """Start it, or start it again, its whole group ended before."""
        self.kill()
        tied = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *self.command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the program is the caller's, no shell is between
                tied,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started = time.monotonic()

    def terminate(self, kind: signal.Signals = signal.SIGTERM) -> None:
        """Ask its whole group to end, or end it; it can be waited for."""
        self._signal(kind)

    def kill(self) -> None:
        """End its whole group at once, and forget it."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def end(self, *, within_s: float) -> None:
        """Ask its group to end, give it some time, and end what is left."""
        self.terminate()
        deadline = time.monotonic() + within_s
        while self.running and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self.kill()

    def _signal(self, kind: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # macOS: a group of nothing but the ended
                os.killpg(self._process.pid, kind)
