"""Federations of real processes on loopback: machines on which guides are carried out, and federations under fire.

Whatever is started here ends with its test, and with this process at the latest.
"""

import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from perf.loopback import Loopback

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 240.0
# Commands that run until they are ended, and what they say when they are ready.
ENDLESS = {"cloister coordinator start": "ready:", "cloister site start": "connected to"}
# A command that ends when others have done their part.
LONG = "cloister coordinator run"


@dataclass(kw_only=True)
class Background:
    """A process that goes on while other commands are carried out."""

    process: subprocess.Popen[bytes]
    log: Path
    line: str

    def said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while words not in self.said():
            assert self.process.poll() is None, f"{self.line} ended:\n{self.said()}"
            assert time.monotonic() < deadline, f"{self.line} does not say {words!r}:\n{self.said()}"
            time.sleep(0.1)

    def finish(self) -> str:
        """Wait for its own end, which must be a good one."""
        try:
            status = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.line} does not end:\n{self.said()}")
        assert status == 0, f"{self.line} ended with {status}:\n{self.said()}"
        return self.said()


@dataclass(kw_only=True)
class Machine:
    """Somebody's computer: commands of one prompt share its folder and its environment."""

    name: str
    folder: Path
    environment: dict[str, str]
    translate: Callable[[str, "Machine"], str]
    outputs: list[str] = field(default_factory=list)
    background: list[Background] = field(default_factory=list)

    def run(self, line: str, *, answer: str | None = None) -> str:
        """Carry out one command; every one must succeed, but for one that was answered with no."""
        translated = self.translate(line, self)
        self.finish_long()
        assigned = re.fullmatch(r"export (\w+)=(\S+)", translated)
        if assigned:
            self.environment[assigned[1]] = assigned[2]
            return ""
        words = next((said for start, said in ENDLESS.items() if line.startswith(start)), None)
        if words is not None or line.startswith(LONG):
            started = self._start(translated)
            if words is not None:
                started.wait_for(words)
            return started.said()
        done = subprocess.run(
            ["bash", "-c", translated], cwd=self.folder, env=self.environment, text=True, timeout=PATIENCE_SECONDS,
            input=None if answer is None else f"{answer}\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL if answer is None else None,
        )  # fmt: skip
        assert done.returncode == (1 if answer == "n" else 0), f"{self.name}$ {line}\n{done.stdout}"
        self.outputs.append(done.stdout)
        return done.stdout

    def _start(self, translated: str) -> Background:
        log = self.folder / f"background-{len(self.background)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {translated}"], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.background.append(Background(process=process, log=log, line=translated))
        return self.background[-1]

    def finish_long(self) -> None:
        """Wait for the study that this machine follows, if it does."""
        for running in [found for found in self.background if LONG in found.line]:
            self.outputs.append(running.finish())
            self.background.remove(running)

    def ask_to_end(self) -> None:
        """Tell what still runs that it is over."""
        for found in self.background:
            if found.process.poll() is None:
                os.killpg(found.process.pid, signal.SIGTERM)

    def end(self) -> None:
        """Wait for the end of what was asked, or bring it about."""
        for found in self.background:
            try:
                found.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(found.process.pid, signal.SIGKILL)
                found.process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that were free an instant ago."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


class World:
    """The machines of a federation, made when they are first named.

    What a guide says is carried out as it stands but for this: ``/srv`` is a folder of the machine,
    ``fed.example.org`` is 127.0.0.1, the coordinator's ports are free ones, ``CODE`` is the code that the coordinator
    printed last for the site, and ``simulations`` is that of the source.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._machines: dict[str, Machine] = {}
        self._ports = dict(zip(("port", "enrolment-port", "superlink-port"), free_ports(3), strict=True))
        self._programs = root / "bin"
        self._programs.mkdir()
        program = self._programs / "cloister"
        program.write_text(f"#!{sys.executable}\nfrom cli.app import main\n\nmain()\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def machine(self, name: str) -> Machine:
        """Return a machine by its prompt."""
        if name not in self._machines:
            folder = self._root / name
            (folder / "srv").mkdir(parents=True)
            (folder / "simulations").symlink_to(ROOT / "simulations")
            hidden = ("CLOISTER_", "FLWR_", "HTTP_", "HTTPS_", "ALL_")
            environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(hidden)}
            environment |= {
                "PATH": f"{self._programs}:{environment['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(folder),
                "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", "COLUMNS": "200",
            }  # fmt: skip
            self._machines[name] = Machine(name=name, folder=folder, environment=environment, translate=self._translate)
        return self._machines[name]

    def code(self, site: str) -> str:
        """Return the last code that the coordinator printed for a site."""
        printed = "\n".join(self.machine("coordinator").outputs)
        return re.findall(rf"(?m)^{site} (cloister-\S+)$", printed)[-1]

    def _translate(self, line: str, machine: Machine) -> str:
        line = line.replace("/srv/", f"{machine.folder}/srv/").replace("fed.example.org", "127.0.0.1")
        if line.startswith("cloister coordinator init"):
            line += "".join(f" --{name} {port}" for name, port in self._ports.items())
        if line.startswith("cloister site enroll CODE"):
            site = "north" if machine.name == "officer" else machine.name
            line = line.replace("CODE", shlex.quote(self.code(site)), 1)
        return line

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            for machine in self._machines.values():
                for found in machine.background:
                    assert found.process.poll() in (None, 0), f"{found.line} ended:\n{found.said()}"
            assert time.monotonic() < deadline, f"{what} did not happen"
            time.sleep(0.2)

    def end(self) -> None:
        """End everything."""
        for machine in self._machines.values():
            machine.ask_to_end()
        for machine in self._machines.values():
            machine.end()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world without machines; whatever is started in it is gone in the end."""
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Callable[..., Loopback]]:
    """Return a builder of federations by the names of their sites; the logs are shown where a test fails."""
    made: list[Loopback] = []

    def build(*sites: str) -> Loopback:
        root = tmp_path / f"federation-{len(made)}"
        root.mkdir()
        made.append(Loopback(root, sites=sites))
        return made[-1]

    try:
        yield build
    finally:
        for federation in made:
            sys.stdout.write(federation.logs())  # shown where the test fails
            federation.end()
            assert federation.marked() == [], "processes of the federation are left"
