"""Killed at any moment, a site never gives away a contribution that its ledger has not paid for.

Run as a program, this file is the federation: a process forks, the child runs the real apps on sites in folders, and
the parent kills it in the middle of its work, time after time. Every contribution that leaves is written down at
once, with an fsync, by who receives it.
"""

import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 50
SITES = ("north", "south")
SCHEMA = {"columns": [{"name": "ill", "kind": "boolean"}, {"name": "age", "kind": "integer", "lower": 0, "upper": 9}]}


def federation(folder: Path, started: int) -> None:
    """Run the study until the end, which does not come; tell the parent of the first contribution."""
    from flwr.app import Message

    from client.app import app as client_app
    from client.site import FOLDER_VARIABLE
    from server.app import app as server_app
    from simulations.grid import run_in_memory

    os.environ[FOLDER_VARIABLE] = str(folder / "sites")
    seen = os.open(folder / "contributions", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tap(message: Message, raw: bytes) -> None:
        del raw
        header = dict(message.content["header"])
        if header["type"] != "contribution":
            return
        line = {name: header[name] for name in ("site", "run", "round", "entry")}
        os.write(seen, (json.dumps(line) + "\n").encode())
        os.fsync(seen)
        os.write(started, b".")

    config = {"study": (folder / "study.json").read_text("utf-8"), "release": str(folder / "release")}
    nodes = [{"partition-id": number} for number in range(len(SITES))]
    run_in_memory(server_app, client_app, node_configs=nodes, run_config=config, tap=tap)


def prepare(folder: Path) -> None:
    """Make a study that outlasts all runs, and its sites."""
    from protocol.study import Study
    from simulations.site_folders import write_site_folders

    study = Study.from_mapping(
        {
            "study": {"name": "endless"},
            "schema": SCHEMA,
            "model": {"family": "vae", "options": {"latent": 1}},
            "training": {"rounds": 1_000_000},
            "privacy": {"noise_multiplier": 100.0, "sample_rate": 0.5},
            "federation": {"sites": len(SITES), "public_records": 100},
        }
    )
    rows = "\n".join(f"{'true' if n % 3 else 'false'},{n % 10}" for n in range(30))
    (folder / "records.csv").write_text(f"ill,age\n{rows}\n", "utf-8")
    write_site_folders(
        folder / "sites", study, {name: {"location": str(folder / "records.csv"), "set": name} for name in SITES}
    )
    (folder / "study.json").write_text(study.text, "utf-8")


def forgetful() -> None:
    """The broken twin: it charges a book that is not on the disk."""
    from privacy.ledger import Ledger

    charge, seal, books = Ledger.charge, Ledger.seal, {}

    def book_of(ledger: Ledger) -> Ledger:
        return books.setdefault(id(ledger), Ledger.in_memory(key=ledger._key, data_set=ledger.data_set))

    # Both, or the seal of a charge that the ledger does not hold would stop it.
    Ledger.charge = lambda self, **what: charge(book_of(self), **what)  # type: ignore[method-assign]  # the defect
    Ledger.seal = lambda self, *what: seal(book_of(self), *what)  # type: ignore[method-assign]  # the defect


def main(folder: Path, kills: int) -> None:
    """Start and kill, so many times."""
    import torch

    import client.app
    import server.app

    del client.app, server.app
    torch.set_num_threads(1)
    # Loads what torch loads late, so that the children need not.
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    moments = random.Random()  # noqa: S311 - when to kill is no secret
    for _ in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                federation(folder, writing)
            finally:
                os._exit(1)
        os.close(writing)
        # Every fifth is killed at any time from its start, the others, and an only one, in the middle of their rounds.
        if kills == 1 or moments.random() < 0.8:
            select.select([reading], [], [], 60.0)
        time.sleep(moments.uniform(0.0, 0.5))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(reading)
        if not os.WIFSIGNALED(status):
            raise SystemExit("a federation ended by itself")


def faults(folder: Path) -> list[str]:
    """Compare what left with what the ledgers say."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from privacy.ledger import Charge, read_entries

    lines = [json.loads(line) for line in (folder / "contributions").read_text("utf-8").splitlines()]
    rounds = Counter((line["site"], line["run"], line["round"]) for line in lines)
    entries = Counter(line["entry"] for line in lines)
    found = [f"round left twice: {place}" for place, times in rounds.items() if times > 1]
    found += [f"one entry for many: {entry}" for entry, times in entries.items() if times > 1]
    for number, name in enumerate(SITES):
        place = folder / "sites" / str(number)
        key = load_pem_private_key((place / "key.pem").read_bytes(), password=None).public_key()
        # A kill in the middle of a write leaves it to be undone by whoever may write next: the site, or this.
        with closing(sqlite3.connect(place / "ledger.sqlite")) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        paid = {entry.hash: entry.record for entry in read_entries(place / "ledger.sqlite", public_key=key)}  # type: ignore[arg-type]  # an Ed25519 key
        for line in (line for line in lines if line["site"] == name):
            charge = paid.get(line["entry"])
            if not isinstance(charge, Charge) or (charge.run, charge.first_round) != (line["run"], line["round"]):
                found.append(f"unpaid: {line}")
    return found


def killed(folder: Path, *arguments: str) -> None:
    prepare(folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_whatever_left_was_paid_for_whenever_the_site_was_killed(tmp_path: Path) -> None:
    killed(tmp_path, str(KILLS))
    assert faults(tmp_path) == []
    lines = (tmp_path / "contributions").read_text("utf-8").splitlines()
    runs = {json.loads(line)["run"] for line in lines}
    assert len(runs) >= KILLS // 2, "most were killed before they did anything"
    assert len(lines) > 2 * KILLS


def test_a_site_that_pays_from_memory_is_caught(tmp_path: Path) -> None:
    # Once: a site that starts again finds by itself that what left is not in its ledger.
    killed(tmp_path, "1", "forgetful")
    assert any(fault.startswith("unpaid") for fault in faults(tmp_path))


if __name__ == "__main__":
    if "forgetful" in sys.argv:
        forgetful()
    main(Path(sys.argv[1]), int(sys.argv[2]))
