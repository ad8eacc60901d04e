"""A federation that never rests: whether the memory of its processes grows.

``python -m perf.soak --minutes 30 --json``

Three sites, real processes over TLS on the loopback device, round after round; two sites make a round, and the third is
killed and started again every minute. Memory is read from ``/proc`` every half a minute: the resident set, and of it
what is the process's own (anonymous) memory, where a leak shows. Growth is from the mean of the first third, after a
warm-up of a tenth of the time, to the mean of the last third. A site that flaps is read just before it is killed.
"""

import argparse
import json
import os
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cli.officer.verification import Books
from perf.loopback import Loopback, Role, small_study

SITES = ("steady-one", "steady-two", "flapping")
FLAPPING = SITES[-1]
POLICY = {"epsilon": 8.0, "delta": 1e-4}
_SAMPLE_SECONDS, _FLAP_SECONDS, _LOOK_SECONDS = 30.0, 60.0, 0.5
_WARM_UP = 0.1
_MOST_ROUNDS_PER_SECOND = 10
_KIB_PER_MIB = 1024.0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The memory of one process at one time.

    Attributes:
        second: Since the beginning.
        name: Of the process.
        pid: Its id.
        resident: Resident set, MiB.
        own: Anonymous memory of the resident set, MiB.
    """

    second: float
    name: str
    pid: int
    resident: float
    own: float


@dataclass(kw_only=True)
class Soak:
    """What was seen.

    Attributes:
        readings: Of memory.
        restarts: How often the flapping site was killed and started again.
        rounds: How many rounds ended.
        seconds: How long it took.
    """

    readings: list[Reading] = field(default_factory=list)
    restarts: int = 0
    rounds: int = 0
    seconds: float = 0.0


def main() -> None:
    """Run the federation and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cloister-soak-") as folder:
        result = soak(Path(folder), minutes=arguments.minutes)
    if arguments.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        rows = value.items() if isinstance(value, Mapping) else [("", value)]
        for name, cell in rows:
            print(f"{key:18}{name:14}{cell}")


def soak(folder: Path, *, minutes: float) -> dict[str, Any]:
    """Keep a federation at work for some minutes.

    Args:
        folder: An empty folder.
        minutes: For how long, from the first round on.

    Returns:
        Growth and everything else that was counted.
    """
    study = small_study(
        name="soak",
        sites=len(SITES),
        rounds=int(minutes * 60 * _MOST_ROUNDS_PER_SECOND) + 1,
        privacy={"epsilon": 4.0},
        federation={"minimum_sites": 2, "deadline": 20.0},
    )
    with Loopback(folder, sites=SITES) as federation:
        job = federation.set_up(study, records=500, policy=POLICY)
        federation.wait_for_round(job, 1)
        found = _watch(federation, job, seconds=minutes * 60)
        for site in federation.sites.values():
            site.end(within_s=20.0)
        result = summary(found)
        result |= {"refusals": _refusals(federation), "disk_mib": _disk(federation), "books": _books(federation)}
    return result


def _watch(federation: Loopback, job: Path, *, seconds: float) -> Soak:
    """Read and kill until the time is over."""
    found, first = Soak(), federation.round(job)
    begin = time.monotonic()
    due, flap = begin, begin + _FLAP_SECONDS
    while (now := time.monotonic()) < begin + seconds:
        if now >= due:
            due += _SAMPLE_SECONDS
            found.readings += _readings(federation, second=now - begin, flapping=False)
        if now >= flap:
            flap += _FLAP_SECONDS
            found.readings += _readings(federation, second=now - begin, flapping=True)
            _flap(federation)
            found.restarts += 1
        time.sleep(_LOOK_SECONDS)
    found.rounds, found.seconds = federation.round(job) - first, time.monotonic() - begin
    return found


def _flap(federation: Loopback) -> None:
    identity = federation.sites[FLAPPING].identity
    if identity is not None:
        os.kill(identity.pid, signal.SIGKILL)
    federation.start_site(FLAPPING)


def _readings(federation: Loopback, *, second: float, flapping: bool) -> list[Reading]:
    """Read all processes but the flapping site, or that alone."""
    found = []
    for role, name, pid in federation.processes():
        memory = process_memory(pid)
        if memory is not None and flapping == (role is Role.SITE and name == FLAPPING):
            label = name if role is Role.SITE else role.value
            found.append(Reading(second=second, name=label, pid=pid, resident=memory[0], own=memory[1]))
    return found


def process_memory(pid: int) -> tuple[float, float] | None:
    """Return the resident set of a process and what of it is anonymous, MiB; None where there is no such process."""
    try:
        lines = (Path("/proc") / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS:", "RssAnon:"))}
    if len(values) != 2:  # noqa: PLR2004 - a process that has just ended has neither
        return None
    return float(values["VmRSS"]) / _KIB_PER_MIB, float(values["RssAnon"]) / _KIB_PER_MIB


def summary(found: Soak) -> dict[str, Any]:
    """Return how much each process grew, percent, and what was counted."""
    by_name: dict[str, list[Reading]] = defaultdict(list)
    for reading in found.readings:
        by_name[reading.name].append(reading)
    memory = {name: growth(readings, seconds=found.seconds) for name, readings in sorted(by_name.items())}
    return {
        "minutes": round(found.seconds / 60, 2),
        "rounds": found.rounds,
        "round_s": round(found.seconds / max(1, found.rounds), 3),
        "restarts": found.restarts,
        "processes": {name: len({reading.pid for reading in readings}) for name, readings in sorted(by_name.items())},
        "memory": memory,
        "most_growth_percent": max((each["growth_percent"] for each in memory.values()), default=None),
    }


def growth(readings: Sequence[Reading], *, seconds: float) -> dict[str, float]:
    """Return means of the first and the last third after the warm-up, MiB, and the growth between them, percent.

    Example:
        >>> rows = [Reading(second=s, name="x", pid=1, resident=100 + s, own=10) for s in range(0, 100, 10)]
        >>> growth(rows, seconds=100)["growth_percent"]
        50.0
    """
    begin = seconds * _WARM_UP
    third = (seconds - begin) / 3
    first = [reading for reading in readings if begin <= reading.second < begin + third]
    last = [reading for reading in readings if reading.second >= seconds - third]
    if not first or not last:
        return {"growth_percent": float("nan")}
    means = {
        f"{name}_{when}_mib": round(float(np.mean([getattr(reading, name) for reading in chosen])), 2)
        for name in ("resident", "own")
        for when, chosen in (("first", first), ("last", last))
    }
    return means | {
        "growth_percent": _percent(means["resident_first_mib"], means["resident_last_mib"]),
        "own_growth_percent": _percent(means["own_first_mib"], means["own_last_mib"]),
    }


def _percent(before: float, after: float) -> float:
    return round(100 * (after / before - 1), 2)


def _refusals(federation: Loopback) -> dict[str, int]:
    """Count what the gate refused, by path and reason, and what sites refused."""
    counts: Counter[str] = Counter()
    for line in federation.coordinator.log.read_text(encoding="utf-8", errors="replace").splitlines():
        _, found, what = line.partition(" refused ")
        if found:
            counts[what.partition(": ")[2]] += 1
    for name in federation.names:
        counts["by sites"] += federation.said(name).count(" refused")
    return dict(counts.most_common())


def _disk(federation: Loopback) -> dict[str, float]:
    """Return how much each folder holds, MiB."""
    folders = {"coordinator": federation.folder} | {name: federation.site_folder(name) for name in federation.names}
    return {
        name: round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 2)
        for name, folder in folders.items()
    }


def _books(federation: Loopback) -> dict[str, str]:
    """Say for each site whether ledger and egress record agree, and what the ledger holds."""
    found = {}
    for name in federation.names:
        books = Books.open(federation.site_folder(name))
        unsealed = sum(run.unsealed for run in books.account.runs)
        faults = len(books.contradictions) + len(books.gaps)
        found[name] = f"{len(books.account.entries)} entries, {unsealed} unsealed, {faults} faults"
    return found


if __name__ == "__main__":
    main()
