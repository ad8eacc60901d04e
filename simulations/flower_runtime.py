"""Run a Flower app under Flower's own simulation runtime (SuperLink, app bundle, Ray), and clean up after it.

Slower than `simulations.grid` by seconds, but it is what a Flower user starts: the app goes through its
bundle, the sites live in Ray's worker processes, messages cross process borders. Each run gets a SuperLink of
its own on a free port of 127.0.0.1, with a private ``FLWR_HOME`` and telemetry, update checks and the
installation of dependencies switched off; nothing outside this machine is contacted. Flower asks nobody who
they are there: while it runs, any user of this machine can reach that port.

Whose code runs: Ray's workers put the SuperLink's working directory before everything else on their import
path. With a project there, the server runs the bundle's code and the sites run the project's, without a word.
Here that directory is empty, so both sides load the bundle. An app whose bundle holds no code
(`write_launcher`) makes both sides load the installed package instead.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from protocol.errors import FederationError, InputError
from server.deployment.processes.flower import SWITCHED_OFF, flower_program, write_launcher
from server.deployment.processes.identity import processes_with

__all__ = ["FlowerRun", "run_with_flower", "write_launcher"]

_CONNECTION = "cloister"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Ray's sockets lie 68 characters deeper; a socket's path may have 103 characters on macOS and 107 on Linux.
_LONGEST_RAY_FOLDER = 35


@dataclass(frozen=True, kw_only=True)
class FlowerRun:
    """How a run under Flower's runtime ended.

    Attributes:
        returncode: 0 when Flower says that the run completed, 1 otherwise. (``flwr run`` itself returns 0
            for a run that failed.)
        status: Flower's own words, such as ``finished:failed: Simulation failed with exception: ...``.
        log: What the server, the sites and Flower printed, without colours.
        seconds: Wall time of the run, start and end of the SuperLink included.
    """

    returncode: int
    status: str
    log: str
    seconds: float


def run_with_flower(
    app_dir: Path,
    *,
    run_config: Mapping[str, str | int | float | bool],
    sites: int,
    environment: Mapping[str, str],
    timeout_s: float,
    cpus_per_site: int = 1,
) -> FlowerRun:
    """Run the app in a folder with ``flwr run`` and wait for its end.

    Args:
        app_dir: The folder of the app's ``pyproject.toml``.
        run_config: Values for keys that ``[tool.flwr.app.config]`` of the app already has; long strings with
            any characters are fine, they travel in a TOML file.
        sites: Number of simulated sites. Each finds ``partition-id`` (0, 1, ...) and ``num-partitions`` as
            integers in its ``Context.node_config``; node ids are random.
        environment: Variables that the server and the sites find in their environment, beside the caller's
            own. They are the same for all sites: one worker process serves several.
        timeout_s: Seconds that the whole run may take.
        cpus_per_site: Processors that Ray reserves for a site at work: as many sites as fit work at once.

    Returns:
        How the run ended; a run that fails is a result, not an exception.

    Raises:
        InputError: If the folder has no app, or there is no site.
        FederationError: If Flower is not installed or does not start, or the time is up. All processes that
            were started are gone by then.
    """
    _check_input(app_dir, sites)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cloister-", ignore_cleanup_errors=True) as folder:
        home = Path(folder).resolve()
        surroundings = _surroundings(home, environment)
        (home / "empty").mkdir()
        (home / "run.toml").write_bytes(tomli_w.dumps(dict(run_config)).encode())
        with _superlink(home, surroundings, deadline=started + timeout_s):
            resources = f"num-supernodes={sites} client-resources-num-cpus={cpus_per_site}"
            overrides = ["--run-config", str(home / "run.toml"), "--federation-config", resources]
            command = ["run", str(app_dir.resolve()), _CONNECTION, *overrides, "--stream"]
            code, log = _flwr(command, home, surroundings, deadline=started + timeout_s)
            status = "not started" if code else _status(home, surroundings, deadline=started + timeout_s)
    return FlowerRun(
        returncode=int(not status.startswith("finished:completed")),
        status=status,
        log=log,
        seconds=time.monotonic() - started,
    )


def _check_input(app_dir: Path, sites: int) -> None:
    if not (app_dir / "pyproject.toml").is_file():
        raise InputError(
            f"{app_dir} has no pyproject.toml.",
            remedy="Name the folder of a Flower app, or use write_launcher.",
        )
    if sites < 1:
        raise InputError(f"The simulated federation has {sites} sites.", remedy="Simulate one site or more.")


def _surroundings(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of everything that the run starts; FLWR_HOME also marks it as ours."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    path = os.pathsep.join([sysconfig.get_path("scripts"), inherited.get("PATH", os.defpath)])
    private = {"FLWR_HOME": str(home), "PATH": path}
    if len(str(home)) <= _LONGEST_RAY_FOLDER:
        private["RAY_TMPDIR"] = str(home)
    return inherited | SWITCHED_OFF | dict(environment) | private


@contextmanager
def _superlink(home: Path, surroundings: Mapping[str, str], *, deadline: float) -> Iterator[None]:
    """Keep a SuperLink for simulations, and whatever it starts, alive for the block and no longer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    connection = {"address": f"127.0.0.1:{port}", "insecure": True}
    settings = {"superlink": {"default": _CONNECTION, _CONNECTION: connection}}
    (home / "config.toml").write_bytes(tomli_w.dumps(settings).encode())
    # "--insecure" means without TLS: it does not leave this machine's loopback device.
    options = ["--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "superlink.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the program is Flower's, the arguments are ours
            [flower_program("flower-superlink"), *options],
            cwd=home / "empty",
            env=dict(surroundings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not _is_healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                said = (home / "superlink.log").read_text(errors="replace")
                raise FederationError(f"Flower's SuperLink did not start:\n{said}", remedy="Mend what it says.")
            time.sleep(0.1)
        yield
    finally:
        _end(process, home)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _flwr(arguments: list[str], home: Path, surroundings: Mapping[str, str], *, deadline: float) -> tuple[int, str]:
    """Run one ``flwr`` command to its end and return its exit code and what it printed."""
    try:
        done = subprocess.run(  # noqa: S603 - the program is Flower's, the arguments are checked
            [flower_program("flwr"), *arguments],
            cwd=home / "empty",
            env=dict(surroundings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(0.0, deadline - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = _COLOUR.sub("", (late.output or b"").decode(errors="replace"))
        raise FederationError(
            f"The run under Flower's runtime was not over in time; it had printed:\n{said}",
            remedy="Allow more seconds, or look for what it waits for.",
        ) from late
    return done.returncode, _COLOUR.sub("", done.stdout.decode(errors="replace"))


def _status(home: Path, surroundings: Mapping[str, str], *, deadline: float) -> str:
    """Return how the only run of this SuperLink ended."""
    _, answer = _flwr(["ls", _CONNECTION, "--format", "json"], home, surroundings, deadline=deadline)
    try:
        run = json.loads(answer)["runs"][0]
        return f"{run['status']}: {run['status-details']}"
    except (ValueError, LookupError) as unreadable:
        raise FederationError(
            f"Flower's list of runs cannot be read: {answer!r}.", remedy="Use flwr 1.41."
        ) from unreadable


def _end(superlink: subprocess.Popen[bytes], home: Path) -> None:
    """End the SuperLink and everything that it started: executors, the simulation, Ray.

    A running simulation and Ray's daemons outlive the SuperLink and are in process groups of their own. What
    all of them keep is the environment they started with, and only theirs has this run's FLWR_HOME in it.
    """
    superlink.terminate()
    if _are_gone(superlink, home, within_s=3.0):
        return
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if superlink.poll() is None:
            superlink.send_signal(kind)
        for process_id in _processes_of(home):
            with suppress(ProcessLookupError):  # it may end by itself meanwhile
                os.kill(process_id, kind)
        if _are_gone(superlink, home, within_s=10.0):
            return
    problem = f"Processes of a run under Flower's runtime are still alive: {_processes_of(home)}."
    raise FederationError(problem, remedy="End them by hand.")


def _are_gone(superlink: subprocess.Popen[bytes], home: Path, *, within_s: float) -> bool:
    """Wait a while for all of the run's processes to end, and say whether they did."""
    deadline = time.monotonic() + within_s
    while superlink.poll() is None or _processes_of(home):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _processes_of(home: Path) -> list[int]:
    """Return the living processes whose environment has this FLWR_HOME (none where there is no ``/proc``)."""
    return processes_with("FLWR_HOME", str(home))
