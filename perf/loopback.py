"""A whole federation of real processes on this machine: a coordinator and its sites, over TLS on the loopback device.

Nothing is simulated but the distance. Every command is the one that people type; the processes that go on are tied
to this one and end with it, whatever ends it. For measurements and tests of a deployment.
"""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from enum import StrEnum
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

import numpy as np
import tomli_w

from protocol.errors import FederationError
from server.deployment.processes.child import Child
from server.deployment.processes.identity import processes_with

TREE = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 240.0
_MARK = "CLOISTER_LOOPBACK"
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 10.0
_HOST = "127.0.0.1"
_HIDDEN = ("CLOISTER_", "FLWR_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_", "https_", "all_", "PYTEST")
_QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
SCHEMA: Mapping[str, Any] = {
    "target": "outcome",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 90, "bins": 7},
        {"name": "sex", "kind": "categorical", "categories": ["F", "M"]},
        {"name": "outcome", "kind": "boolean"},
    ],
}


class Role(StrEnum):
    """What a process of a federation is."""

    SUPERVISOR = "supervisor"
    SUPERLINK = "superlink"
    SUPEREXEC = "superexec"
    SERVERAPP = "serverapp"
    SITE = "site"


# By what is on their command lines; of the first that fits.
_PROGRAMS = (
    (Role.SUPERLINK, "flower-superlink"),
    (Role.SUPEREXEC, "flower-superexec"),
    (Role.SERVERAPP, "server_app"),
    (Role.SERVERAPP, "flwr-serverapp"),
)


class Loopback:
    """A federation on this machine; as a context it is whole when it begins and gone when it ends.

    Args:
        root: An empty folder: the coordinator's and the sites' lie in it, with the logs.
        sites: Names of the sites.
        tree: The source that runs.

    Attributes:
        root: As given.
        names: As given.
        coordinator: The process of ``cloister coordinator start``.
        sites: The process of ``cloister site start``, by site.
        typed: Every command that was carried out in a process of its own, in order.
    """

    def __init__(self, root: Path, *, sites: Sequence[str], tree: Path = TREE) -> None:
        self.root = root
        self.names = tuple(sites)
        self.typed: list[tuple[str, ...]] = []
        self._tree = tree
        self._mark = token_hex(8)
        self._ports = free_ports(3)
        self.folder = root / "coordinator"
        self.coordinator = self._child("coordinator", ["coordinator", "start", "--folder", str(self.folder)])
        self._others: list[Child] = []
        self.sites = {name: self.site_process(name) for name in sites}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.end()

    @property
    def port(self) -> int:
        """The gate's port."""
        return self._ports[0]

    @property
    def ports(self) -> tuple[str, ...]:
        """The coordinator's ports, as ``cloister coordinator init`` takes them."""
        named = zip(("--port", "--enrolment-port", "--superlink-port"), map(str, self._ports), strict=True)
        return tuple(word for pair in named for word in pair)

    def site_folder(self, name: str) -> Path:
        """Return a site's folder."""
        return self.root / f"site-{name}"

    def environment(self, *, tree: Path | None = None) -> dict[str, str]:
        """Return the environment of every process: this one's, without what would lead elsewhere."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN)}
        return kept | _QUIET | {"PYTHONPATH": str(tree or self._tree), "HOME": str(self.root), _MARK: self._mark}

    def command(
        self, *words: str, answer: str | None = None, status: int = 0, tree: Path | None = None, before: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Carry out one command and wait for its end.

        Args:
            words: What follows ``cloister``.
            answer: What is typed.
            status: The exit status that it must have.
            tree: The source that runs; that of the federation if not given.
            before: Python that is carried out before anything else, to make a world for it.

        Raises:
            FederationError: If it ends with another status.
        """
        self.typed.append(words)
        done = subprocess.run(  # noqa: S603 - this very package
            [sys.executable, *_start(before), *words],
            cwd=self.root,
            env=self.environment(tree=tree),
            input=f"{answer}\n" if answer else "",
            text=True,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if done.returncode != status:
            raise FederationError(
                f"cloister {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}",
                remedy="Mend what it says.",
            )
        return done

    def here(self, *words: str, status: int = 0) -> str:
        """Carry out one command in this very process, which spares it the imports.

        Args:
            words: What follows ``cloister``.
            status: The exit status that it must have.

        Returns:
            What it printed, to both streams.

        Raises:
            FederationError: If it ends with another status.
        """
        from cli.app import run

        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            found = run(words)
        if found != status:
            raise FederationError(
                f"cloister {' '.join(words)} ended with {found}:\n{printed.getvalue()}", remedy="Mend what it says."
            )
        return printed.getvalue()

    def init(self) -> None:
        """Make the coordinator's folder."""
        self.here("coordinator", "init", str(self.folder), "--name", "loop", "--host", _HOST, *self.ports)

    def invite(self, *names: str) -> dict[str, str]:
        """Invite sites; returns their codes."""
        return invitation_codes(self.here("coordinator", "invite", *names, "--folder", str(self.folder)))

    def start_coordinator(self) -> None:
        """Start the coordinator and wait until sites can connect."""
        before = self.coordinator.log.stat().st_size if self.coordinator.log.exists() else 0
        self._start(self.coordinator)
        self.wait(
            lambda: b"ready:" in self.coordinator.log.read_bytes()[before:],
            "the coordinator is ready",
            alive=self.coordinator,
        )

    def enrol_all(self, *, records: int, policy: Mapping[str, Any]) -> None:
        """Enrol every site, with made-up records; each writes its policy.

        Args:
            records: Number of records of each site.
            policy: Every site's policy: ceilings go into the command, everything else is written by hand.
        """
        ceilings = ["--epsilon", str(policy["epsilon"]), "--delta", str(policy["delta"])]
        rest = {key: value for key, value in policy.items() if key not in ("epsilon", "delta")}
        for number, (name, code) in enumerate(self.invite(*self.names).items()):
            data, folder = write_records(self.root / f"{name}.csv", records, seed=number), self.site_folder(name)
            self.here("site", "enroll", code, "--site", str(folder), "--data", str(data), *ceilings)
            with (folder / "policy.toml").open("a", encoding="utf-8") as file:
                file.write("\n" + tomli_w.dumps(rest))

    def offer(self, study: Mapping[str, Any]) -> Path:
        """Have the coordinator run a study; returns the job's folder."""
        path = self.root / f"{study['study']['name']}.toml"
        path.write_bytes(tomli_w.dumps(dict(study)).encode())
        options = ["--folder", str(self.folder), "--detach", "--json"]
        said = self.here("coordinator", "run", str(path), *options)
        return Path(json.loads(said[said.index("{") :])["job"])

    def approve(self, name: str, study: str) -> None:
        """Let a site approve a study that the coordinator offers."""
        self.here("site", "approve", study, "--yes", "--site", str(self.site_folder(name)))

    def start_site(self, name: str) -> None:
        """Start a site's client; whether it is connected its log says."""
        self._start(self.sites[name])

    def set_up(self, study: Mapping[str, Any], *, records: int, policy: Mapping[str, Any]) -> Path:
        """From an empty folder to a study that runs.

        Args:
            study: The study.
            records: Number of made-up records of each site.
            policy: Every site's policy.

        Returns:
            The job's folder.
        """
        self.init()
        self.start_coordinator()
        self.enrol_all(records=records, policy=policy)
        job = self.offer(study)
        for name in self.names:
            self.approve(name, study["study"]["name"])
            self.start_site(name)
        return job

    def site_process(self, name: str, *, tree: Path | None = None, before: str = "") -> Child:
        """Return a site's client, not started.

        Args:
            name: The site.
            tree: The source that runs.
            before: Python that is carried out before anything else, to make a world for it.
        """
        words = ["site", "start", "--site", str(self.site_folder(name))]
        return self._child(f"site-{name}", words, tree=tree, before=before)

    def start(self, name: str, *words: str) -> Child:
        """Start any other command that goes on.

        Args:
            name: Of the process, and of its log.
            words: What follows ``cloister``.
        """
        self._others.append(self._child(name, words))
        self._start(self._others[-1])
        return self._others[-1]

    def said(self, name: str) -> str:
        """Return what a site's client has printed in all its starts."""
        return self.sites[name].log.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> list[tuple[Role, str, int]]:
        """Return every process of the federation: its role, its name and its id."""
        own = {Role.SUPERVISOR: {"coordinator": self.coordinator}, Role.SITE: self.sites}
        found = [
            (role, name, identity.pid)
            for role, children in own.items()
            for name, child in children.items()
            if (identity := child.identity) is not None
        ]
        known = {pid for _, _, pid in found}
        for pid in self.marked():
            line = _command_line(pid)
            role = next((role for role, word in _PROGRAMS if word in line), None)
            if role is not None and pid not in known:
                found.append((role, role.value, pid))
        return found

    def marked(self) -> list[int]:
        """Return the ids of all processes that stem from this federation, whatever they are."""
        # SuperExec hides its environment, and has the federation's folder on its command line.
        lines = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
        by_line = {pid for pid in lines if pid != os.getpid() and f"{self.root}/" in _command_line(pid)}
        return sorted(by_line | set(processes_with(_MARK, self._mark)))

    def progress(self, job: Path) -> dict[str, Any]:
        """Return how far a job is; nothing before it began."""
        try:
            return dict(json.loads((job / "progress.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {"state": "waiting", "round": 0, "sites": {}, "message": ""}

    def round(self, job: Path) -> int:
        """Return the last round of a job that ended."""
        return int(self.progress(job)["round"])

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        patience: float = PATIENCE_SECONDS,
        every: float = _POLL_SECONDS,
        alive: Child | None = None,
    ) -> None:
        """Wait until something is so.

        Args:
            condition: Whether it is so.
            what: What it is, for whoever waits in vain.
            patience: Seconds to wait at most.
            every: Seconds between two looks.
            alive: A process that it takes.

        Raises:
            FederationError: If it is not in time, or the process has ended; the ends of all logs are told.
        """
        deadline = time.monotonic() + patience
        while not condition():
            ended = alive is not None and not alive.running
            if ended or time.monotonic() > deadline:
                raise FederationError(
                    f"It was waited for that {what}{', but a process ended' if ended else ''}.\n{self.logs()}",
                    remedy="Look at the logs.",
                )
            time.sleep(every)

    def wait_for_round(self, job: Path, number: int, *, patience: float = PATIENCE_SECONDS) -> None:
        """Wait until a round of a job has ended."""
        self.wait(lambda: self.round(job) >= number, f"round {number} ends", patience=patience)

    def logs(self, *, last: int = 2500) -> str:
        """Return the ends of all logs."""
        paths = [*sorted(self.root.glob("*.log")), *sorted(self.folder.glob("logs/*.log"))]
        texts = ((path, path.read_text(encoding="utf-8", errors="replace")[-last:]) for path in paths)
        return "\n".join(f"--- {path.name}\n{text}" for path, text in texts)

    def end(self) -> None:
        """End everything, the sites first, kindly at first."""
        children = (*self._others, *self.sites.values(), self.coordinator)
        for child in children:
            child.terminate(signal.SIGCONT)
            child.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for child in children:
            child.end(within_s=max(0.1, deadline - time.monotonic()))
        while (left := self.marked()) and time.monotonic() < deadline + _GRACE_SECONDS:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)

    def _start(self, child: Child) -> None:
        self.typed.append(child.command[child.command.index("cli.app") + 1 :] if "cli.app" in child.command else ())
        child.start()

    def _child(self, name: str, words: Sequence[str], *, tree: Path | None = None, before: str = "") -> Child:
        return Child(
            name,
            [sys.executable, *_start(before), *words],
            environment=self.environment(tree=tree),
            folder=self.root,
            log=self.root / f"{name}.log",
        )


def small_study(*, name: str, sites: int, rounds: int, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study of three columns; sections may be overridden, key by key."""
    mapping: dict[str, Any] = {
        "study": {"name": name, "purpose": "Try a federation on made-up records."},
        "schema": dict(SCHEMA),
        "model": {"family": "vae"},
        "training": {"rounds": rounds},
        "privacy": {"epsilon": 8.0, "delta": 1e-5, "sample_rate": 0.25},
        "federation": {"sites": sites, "public_records": 1000, "deadline": 120.0},
    }
    return {key: value | dict(sections.get(key, {})) for key, value in mapping.items()}


def write_records(path: Path, count: int, *, seed: int) -> Path:
    """Write made-up records that fit the schema, about nobody."""
    generator = np.random.default_rng(seed)
    ages = generator.integers(20, 91, count)
    rows = [f"{age},{generator.choice(['F', 'M'])},{str(generator.random() < age / 100).lower()}" for age in ages]
    path.write_text("\n".join(["age,sex,outcome", *rows]) + "\n", encoding="utf-8")
    return path


def invitation_codes(printed: str) -> dict[str, str]:
    """Return the codes that ``cloister coordinator invite`` printed, by site."""
    return dict(re.findall(r"(?m)^(\S+) (cloister-\S+)$", printed))


def free_ports(count: int) -> list[int]:
    """Return ports that were free an instant ago."""
    listeners = [socket.create_server((_HOST, 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _start(before: str) -> list[str]:
    return ["-c", f"{before}\nfrom cli.app import main\nmain()"] if before else ["-m", "cli.app"]


def _command_line(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
