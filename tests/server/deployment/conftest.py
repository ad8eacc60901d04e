"""A coordinator's folder, and a coordinator that is really running, on this machine alone."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from server.deployment.folder import CoordinatorFolder
from server.deployment.processes.identity import ProcessIdentity

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "cli.app", "coordinator"]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_folder(root: Path) -> CoordinatorFolder:
    """A coordinator's folder on free ports."""
    port, enrolment_port, superlink_port = free_ports(3)
    return CoordinatorFolder.create(
        root, name="hearts", host="127.0.0.1", port=port, enrolment_port=enrolment_port,
        superlink_port=superlink_port,
    )  # fmt: skip


class Coordinator:
    """`cloister coordinator start` as a process of its own."""

    def __init__(self, folder: CoordinatorFolder) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*COMMAND, "start", "--folder", str(folder.root)],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def wait_ready(self, *, within_s: float = 60.0) -> "Coordinator":
        """Wait for the line that says so."""
        wait_until(lambda: any(line.startswith("ready:") for line in self.lines) or self.process.poll() is not None,
                   within_s=within_s)  # fmt: skip
        assert self.process.poll() is None, "".join(self.lines)
        return self

    def end(self, kind: signal.Signals = signal.SIGTERM, *, within_s: float = 15.0) -> int:
        """End it and return its exit status."""
        self.process.send_signal(kind)
        status = self.process.wait(timeout=within_s)
        self._reader.join(timeout=5.0)
        return status

    def __enter__(self) -> "Coordinator":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self._reader.join(timeout=5.0)
        self.process.stdout.close()


def wait_until(true, *, within_s: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def processes_naming(text: str) -> dict[int, str]:
    """The living processes whose command line holds a text, but this one."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(entry.parent.name)
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in words and pid != os.getpid() and ProcessIdentity.of(pid) is not None:
            found[pid] = words
    return found


@pytest.fixture(scope="session")
def coordinator_tools():
    """What several files of tests need."""
    return {"make_folder": make_folder, "start": Coordinator, "wait_until": wait_until, "naming": processes_naming}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """A running coordinator; nothing of it is left afterwards."""
    folder = make_folder(tmp_path_factory.mktemp("running") / "coordinator")
    with Coordinator(folder) as coordinator:
        yield coordinator.wait_ready()
        assert coordinator.end() == 0, "".join(coordinator.lines)
    assert processes_naming(str(folder.root)) == {}
