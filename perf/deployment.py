"""What a round of a deployed federation takes: ``python -m perf.deployment [--json]``.

Three sites, the coordinator and all that belongs to it run on this machine, each in processes of its own, as their
commands start them: gate and mutual TLS 1.3, SuperLink, SuperExec and ServerApp behind it, three clients. The study
trains a model of 100,186 parameters, one DP-SGD step per round, with ledger, egress record, outbox and checkpoint.

``round_s`` is the median time from checkpoint to checkpoint after two rounds of warm-up. It is the sum of ``ask_s``,
until the last site has its reply on its disk, and ``answer_s``, until the server has the checkpoint on its own.
``cpu_s`` is the processor time of all processes per round, then by role; on two processors, half of it is a floor.
``work_s`` is a round of the same study in one process without any transport: what three sites and the server compute
and write, one after another.

``flower_round_s`` is a round of a no-op app with an array of the same length under Flower's own runtime on the same
machine (`perf.stock_flower`).
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import tomli_w
import torch
from pyarrow.csv import write_csv
from sklearn.datasets import load_breast_cancer

from client.app import app as client_app
from perf.processes import Processes, free_ports
from perf.stock_flower import measure_flower
from protocol.study import Study
from server.app import app as server_app
from server.study_run import RoundReport
from simulations.grid import run_in_memory, simulated_nodes
from simulations.site_folders import write_site_folders

SITES = ("north", "south", "east")
WARM_UP = 2
_LOOK_S = 0.02
_SCHEMA = Path(__file__).parents[1] / "simulations" / "scenarios" / "breast_cancer.schema.toml"
_PARAMETERS = 100_186
_WIDTHS = [264, 256]
_ROLES = {
    "superlink": ("flower-superlink",),
    "superexec": ("flower-superexec",),
    "server_app": ("serverapp", "server_app"),
    "gate": ("coordinator start",),
    "sites": ("site start",),
}


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.deployment", description="Time rounds of a deployment.")
    parser.add_argument("--rounds", type=int, default=20, help="rounds that count, after the warm-up")
    parser.add_argument("--flower-rounds", type=int, default=10, help="the same for Flower's own runtime")
    parser.add_argument("--no-peer", action="store_true", help="leave Flower's own runtime out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cloister-", ignore_cleanup_errors=True) as folder:
        found = measure(Path(folder), rounds=options.rounds)
    if not options.no_peer:
        with tempfile.TemporaryDirectory(prefix="cloister-", ignore_cleanup_errors=True) as folder:
            times = measure_flower(
                Path(folder), sites=len(SITES), parameters=_PARAMETERS, rounds=options.flower_rounds + WARM_UP
            )
        found |= _spread("flower_round", times[WARM_UP:])
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        for name, value in found.items():
            sys.stdout.write(f"{name:28}{value:10.3f}\n")
    return 0


def measure(folder: Path, *, rounds: int) -> dict[str, float]:
    """Return the figures of our own deployment.

    Args:
        folder: An empty folder.
        rounds: How many rounds count.

    Raises:
        FederationError: If a command fails.
    """
    study = _write_study(folder, rounds=rounds + WARM_UP + 1)
    with Processes(folder) as processes:
        marks = _Marks(_begin(processes, study), [folder / name for name in SITES])
        processes.wait_for(lambda: marks.look() > WARM_UP, what="warm-up", every=_LOOK_S)
        before = processes.seconds(_ROLES)
        processes.wait_for(lambda: marks.look() > WARM_UP + rounds, what="rounds", seconds=60 * rounds, every=_LOOK_S)
        after = processes.seconds(_ROLES)
    counted = range(WARM_UP + 1, WARM_UP + rounds + 1)
    whole = [marks.ended[number] - marks.ended[number - 1] for number in counted]
    asking = [marks.answered[number] - marks.ended[number - 1] for number in counted]
    spent = {f"{role}_cpu_s": (after[role] - before[role]) / rounds for role in (*_ROLES, "other")}
    return (
        _spread("round", whole)
        | {"ask_s": statistics.median(asking)}
        | {"answer_s": statistics.median(all_ - ask for all_, ask in zip(whole, asking, strict=True))}
        | {"cpu_s": sum(spent.values())}
        | spent
        | {"work_s": _work(folder / "in-memory", study), "rounds": float(rounds)}
    )


def _begin(processes: Processes, study: Path) -> Path:
    """Make, start and connect everything, and begin the study; returns the coordinator's folder."""
    folder, (port, enrolment, superlink) = processes.folder, free_ports(3)
    coordinator = folder / "coordinator"
    place = {"CLOISTER_COORDINATOR": str(coordinator)}
    processes.do("cloister", "coordinator", "init", coordinator, "--name", "measured", "--host", "127.0.0.1",
                 "--port", port, "--enrolment-port", enrolment, "--superlink-port", superlink)  # fmt: skip
    said = processes.do("cloister", "coordinator", "invite", *SITES, environment=place)
    codes = [word for word in said.split() if word.startswith("cloister-")]
    log = processes.start("coordinator", "cloister", "coordinator", "start", environment=place)
    processes.wait_for(lambda: "ready" in log.read_text(), what="the coordinator")
    sites = {name: {"CLOISTER_SITE": str(folder / name)} for name in SITES}
    for name, code in zip(SITES, codes, strict=True):
        processes.do("cloister", "site", "enroll", code, "--data", folder / f"{name}.csv", "--epsilon", "100",
                     "--delta", "1e-4", environment=sites[name])  # fmt: skip
    logs = [processes.start(f"site-{name}", "cloister", "site", "start", environment=sites[name]) for name in SITES]
    processes.do("cloister", "coordinator", "run", study, "--detach", environment=place)
    for name in SITES:
        processes.do("cloister", "site", "approve", "measured", "--yes", environment=sites[name])
    processes.wait_for(lambda: all("connected to" in log.read_text() for log in logs), what="the sites")
    return coordinator


class _Marks:
    """When each round's files were written, in seconds since 1970; only the newest stay on the disk.

    Args:
        coordinator: Its folder.
        sites: Theirs.
    """

    def __init__(self, coordinator: Path, sites: list[Path]) -> None:
        self._coordinator, self._sites = coordinator, sites
        self.ended: dict[int, float] = {}
        self.answered: dict[int, float] = {}

    def look(self) -> int:
        """Look, and return the number of the last round that has ended."""
        for site in self._sites:
            for number, time in _written(site, "outbox/*/[0-9]*-*"):
                self.answered[number] = max(time, self.answered.get(number, time))
        self.ended |= dict(_written(self._coordinator, "studies/*/checkpoint/[0-9]*.checkpoint"))
        return max(self.ended, default=0)


def _written(folder: Path, pattern: str) -> list[tuple[int, float]]:
    """Return the round of each file, which its name begins with, and when it was written."""
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            found.append((int(path.name.partition("-")[0]), path.stat().st_mtime_ns / 1e9))
    return found


def _work(root: Path, path: Path) -> float:
    """Return the median seconds of a round of a study in one process, after the warm-up."""
    torch.set_num_threads(1)
    sources = {name: {"location": str(path.parent / f"{name}.csv"), "set": name} for name in SITES}
    study = write_site_folders(root, Study.from_toml(path), sources)
    rounds = _Rounds()
    logger = logging.getLogger("cloister.server")
    logger.addHandler(rounds)
    logger.setLevel(logging.INFO)
    os.environ["CLOISTER_SITE"] = str(root)
    try:
        run_in_memory(
            server_app,
            client_app,
            node_configs=simulated_nodes(len(SITES)),
            run_config={"study": study.text, "release": str(root / "release"), "simulated": True},
        )
    finally:
        logger.removeHandler(rounds)
        del os.environ["CLOISTER_SITE"]
    return statistics.median(rounds.seconds[WARM_UP:])


class _Rounds(logging.Handler):
    """Keeps how long each round of a run in this process took."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the seconds of a round's report."""
        report = getattr(record, "report", None)
        if isinstance(report, RoundReport):
            self.seconds.append(report.seconds)


def _write_study(folder: Path, *, rounds: int) -> Path:
    """Write the sites' records and a study of them."""
    bunch = load_breast_cancer()
    columns: dict[str, Any] = dict(zip(bunch.feature_names, bunch.data.T, strict=True))
    columns["diagnosis"] = ["malignant" if code == 0 else "benign" for code in bunch.target]
    for number, name in enumerate(SITES):
        own = {column: values[number :: len(SITES)] for column, values in columns.items()}
        write_csv(pa.table(own), folder / f"{name}.csv")
    study: dict[str, Any] = {
        "study": {"name": "measured", "purpose": "Measure the time of a round."},
        "schema": {"file": str(_SCHEMA)},
        "model": {"family": "vae", "options": {"encoder_widths": _WIDTHS}},
        "training": {"rounds": rounds},
        "privacy": {"epsilon": 8.0, "delta": 1e-4, "sample_rate": 0.1},
        "federation": {"sites": len(SITES), "public_records": 600},
    }
    path = folder / "measured.toml"
    path.write_bytes(tomli_w.dumps(study).encode())
    return path


def _spread(name: str, seconds: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {f"{name}_s": statistics.median(seconds), f"{name}_min_s": min(seconds), f"{name}_max_s": max(seconds)}


if __name__ == "__main__":
    sys.exit(main())
