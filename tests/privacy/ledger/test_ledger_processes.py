"""Several processes, killed and starved: no release without its entry, no budget spent twice."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.ceiling import Ceiling
from privacy.events import Mechanism, NoisyRelease
from privacy.ledger import Charge, Ledger, read_entries
from protocol.errors import BudgetError
from protocol.terms import ContributionKind, Relation, Sampler, Unit

ROOT = Path(__file__).resolve().parents[3]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
RELEASE = NoisyRelease(
    mechanism=Mechanism.GAUSSIAN,
    noise_multiplier=10.0,
    sample_rate=1.0,
    sampler=Sampler.ALL,
    count=1,
    kind=ContributionKind.STATISTICS,
    relation=Relation.ADD_REMOVE,
    unit=Unit.RECORD,
)
CEILING = Ceiling(epsilon=2.0, delta=1e-5, relation=Relation.ADD_REMOVE)

# Imported once; every trial is a fork of this process, so that fifty of them take seconds.
DRIVER = """
import os, random, resource, signal, sys, time
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from privacy.ceiling import Ceiling
from privacy.events import NoisyRelease
from privacy.ledger import Ledger
from protocol.errors import BudgetError, LedgerError
from protocol.terms import Relation
import json

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
folder, event = Path(sys.argv[1]), NoisyRelease.from_mapping(json.loads(sys.argv[2]))
ceiling = Ceiling(epsilon=2.0, delta=1e-5, relation=Relation.ADD_REMOVE)

def opened():
    return Ledger.open(folder / "ledger.sqlite", key=KEY, data_set="ward")

def released(log, line):
    os.write(log, (line + chr(10)).encode())
    os.fsync(log)

def appending():
    return os.open(folder / "releases", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

def fork(work, *arguments):
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
        finally:
            os._exit(0)
    return child
"""

KILL = """
def work(trial, ready):
    ledger, log = opened(), appending()
    os.write(ready, b"x")
    for place in range(100000):
        line = f"{trial} {place}"
        if sys.argv[3] == "release first":
            released(log, line)
        ledger.charge(study="a" * 64, run=str(trial), round=place, event=event, ceilings=())
        if sys.argv[3] == "charge first":
            released(log, line)

chance = random.Random(7)
for trial in range(int(sys.argv[4])):
    heard, ready = os.pipe()
    child = fork(work, trial, ready)
    os.read(heard, 1)
    time.sleep(chance.uniform(0.0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(heard), os.close(ready)
"""

RACE = """
def work(name, gate):
    ledger, log = opened(), appending()
    os.read(gate, 1)
    for place in range(1000):
        try:
            ledger.charge(study="a" * 64, run=name, round=place, event=event, ceilings=[ceiling])
        except BudgetError:
            return
        released(log, f"{name} {place}")
        time.sleep(0.02)  # SQLite's lock is not fair: let the other in

gate, lifted = os.pipe()
children = [fork(work, name, gate) for name in ("one", "two")]
time.sleep(0.3)
os.write(lifted, b"xx")
for child in children:
    os.waitpid(child, 0)
"""

FULL = """
def work():
    size = os.path.getsize(folder / "ledger.sqlite")
    ledger, log = opened(), appending()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 9000, size + 9000))
    for place in range(1000):
        try:
            ledger.charge(study="a" * 64, run="full", round=place, event=event, ceilings=())
        except LedgerError as error:
            released(log, "refused: " + str(error))
            return
        released(log, f"full {place}")

os.waitpid(fork(work), 0)
"""


def drive(folder: Path, script: str, *options: str) -> list[str]:
    """Runs a script against a fresh ledger and returns the lines of its release log."""

    Ledger.create(folder / "ledger.sqlite", key=KEY, data_set="ward").close()
    subprocess.run(
        [sys.executable, "-c", DRIVER + script, str(folder), json.dumps(RELEASE.to_mapping()), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        check=True,
        timeout=60,
    )
    return (folder / "releases").read_text().splitlines()


def charged(folder: Path) -> list[str]:
    """What a ledger paid for, after its owner opened it, which undoes a write that a kill interrupted."""
    Ledger.open(folder / "ledger.sqlite", key=KEY, data_set="ward").close()
    entries = read_entries(folder / "ledger.sqlite", public_key=KEY.public_key())
    records = [entry.record for entry in entries]
    return [f"{record.run} {record.first_round}" for record in records if isinstance(record, Charge)]


def test_kill_at_fifty_random_moments(tmp_path: Path) -> None:
    released = drive(tmp_path, KILL, "charge first", "50")
    paid = charged(tmp_path)
    assert len(released) > 20
    assert set(released) <= set(paid)
    assert len(paid) == len(set(paid))
    assert len(set(paid) - set(released)) <= 50


def test_twin_that_releases_first_is_caught(tmp_path: Path) -> None:
    released = drive(tmp_path, KILL, "release first", "20")
    assert not set(released) <= set(charged(tmp_path))


def test_two_processes_cannot_both_spend_the_last(tmp_path: Path) -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as alone:
        count = 0
        with contextlib.suppress(BudgetError):
            while True:
                alone.charge(study="a" * 64, run="alone", round=count, event=RELEASE, ceilings=[CEILING])
                count += 1
    released = drive(tmp_path, RACE)
    assert len(released) == count
    assert sorted(released) == sorted(charged(tmp_path))
    assert {line.split()[0] for line in released} == {"one", "two"}


def test_a_file_that_may_not_grow_charges_nothing_by_half(tmp_path: Path) -> None:
    *released, refusal = drive(tmp_path, FULL)
    assert refusal.startswith("refused: ")
    assert released
    assert released == charged(tmp_path)
