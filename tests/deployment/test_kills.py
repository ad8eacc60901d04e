"""Any process of a federation may be killed at any moment: nothing is released twice, charged twice or lost.

Noise is deterministic here, so that the release of the tortured federation can be held against that of the same study
in one undisturbed process, bit for bit. What a restart may not rely on is tried out by a broken twin.
"""

import json
import os
import secrets
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cli.officer.verification import Books
from perf.loopback import Loopback, Role, small_study
from privacy.ledger import Charge, Seal
from protocol.errors import CloisterError
from protocol.messages import RefusalReason
from protocol.signed_study import SignedStudy
from protocol.study import Study
from records.dataset import load_records
from simulations.federation import simulate
from strategies.study_model import study_schema

NIGHTLY = os.environ.get("CLOISTER_HYPOTHESIS") == "nightly"
KILLS, ROUNDS = (20, 30) if NIGHTLY else (5, 10)
SITES = ("a", "b", "c")
RECORDS = 120
POLICY = {"epsilon": 8.0, "delta": 1e-4, "allow_not_private": True}
PATIENCE = 300.0
LOST = f"(a: {RefusalReason.LEDGER.value}.)"


def deterministic_study(rounds: int) -> dict:
    return small_study(
        name="killed",
        sites=len(SITES),
        rounds=rounds,
        privacy={"noise": "deterministic"},
        federation={"deadline": 600.0},
    )


def undisturbed(study: Study, federation: Loopback) -> dict[str, torch.Tensor]:
    """The weights that the same study gives on the same records in one process that nobody kills."""
    alone = replace(study, federation=replace(study.federation, roster=None))
    schema = study_schema(study)
    parts = {name: load_records(str(federation.root / f"{name}.csv"), schema=schema) for name in federation.names}
    release = federation.root / "undisturbed"
    simulate(alone, parts, release=release)
    return load_file(release / "generator.safetensors")


def check(federation: Loopback, job: Path) -> None:
    """Nothing is missing, nothing is there twice, and nothing is different."""
    study = SignedStudy.from_text((job / "study.json").read_text()).study
    assert federation.progress(job)["state"] == "finished", federation.progress(job)
    rounds = study.training.rounds
    provenance = json.loads((job / "release" / "provenance.json").read_text())
    for name in federation.names:
        books = Books.open(federation.site_folder(name))
        records = [entry.record for entry in books.account.entries]
        charges = [record for record in records if isinstance(record, Charge)]
        assert [(charge.first_round, charge.rounds) for charge in charges] == [(n, 1) for n in range(1, rounds + 1)]
        seals = {record.charge: record.digest for record in records if isinstance(record, Seal)}
        assert len(seals) == rounds == sum(isinstance(record, Seal) for record in records)
        # Whatever left for a round, it left in the same bytes.
        left = {(line.departure.entry, line.departure.sha256) for line in books.lines if line.departure.entry}
        assert left == set(seals.items())
        assert (books.contradictions, books.gaps) == ((), ())
        assert books.account.entries[-1].record == records[-1]
        assert provenance["run"] in {charge.run for charge in charges}
    found = load_file(job / "release" / "generator.safetensors")
    expected = undisturbed(study, federation)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def plan(generator: np.random.Generator) -> list[tuple[int, float, Role]]:
    """When to kill what: after which round, how many seconds later; every kind at least once where there is room."""
    roles = list(Role)
    numbers = np.concatenate([np.arange(len(roles)), generator.integers(0, len(roles), KILLS - len(roles))])
    kinds = [roles[number] for number in generator.permutation(numbers)]
    rounds = sorted(int(number) for number in generator.integers(0, ROUNDS - 3, KILLS))
    return [(number, generator.uniform(0.0, 3.0), kind) for number, kind in zip(rounds, kinds, strict=True)]


@pytest.mark.slow
def test_random_kills_change_nothing(loopback):
    federation = loopback(*SITES)
    job = federation.set_up(deterministic_study(ROUNDS), records=RECORDS, policy=POLICY)
    torture(federation, job)
    check(federation, job)


@pytest.mark.slow
@pytest.mark.skipif(not NIGHTLY, reason="takes many minutes: CLOISTER_HYPOTHESIS=nightly")
def test_random_kills_under_a_secure_sum_charge_and_mask_no_round_twice(loopback):
    federation = loopback(*(f"s{number}" for number in range(6)))
    terms = {"dropouts": 1, "colluders": 1, "deadline": 60.0}
    study = small_study(name="killed", sites=6, rounds=ROUNDS, privacy={"trust": "sum"}, federation=terms)
    job = federation.set_up(study, records=60, policy={"epsilon": 8.0, "delta": 1e-4, "trust": ["none", "sum"]})
    torture(federation, job)
    assert federation.round(job) == ROUNDS
    federation.here("verify", str(job / "release"))
    for name in federation.names:
        books = Books.open(federation.site_folder(name))
        charges = [entry.record for entry in books.account.entries if isinstance(entry.record, Charge)]
        numbers = [charge.first_round for charge in charges]
        assert len(numbers) == len(set(numbers))
        assert set(numbers) <= set(range(1, ROUNDS + 1))
        # For a round, and so for its masks, one reply alone ever left.
        left = {(line.departure.round, line.departure.sha256) for line in books.lines if line.departure.entry}
        assert len(left) == len({number for number, _ in left})
        assert books.contradictions == ()


def torture(federation: Loopback, job: Path) -> None:
    """Kill what the seed says, when it says, and wait for the release."""
    seed = int(os.environ.get("CLOISTER_KILL_SEED", secrets.randbelow(10**6)))
    sys.stdout.write(f"CLOISTER_KILL_SEED={seed}\n")
    generator = np.random.default_rng(seed)
    for number, delay, kind in plan(generator):
        federation.wait_for_round(job, number, patience=PATIENCE)
        time.sleep(delay)
        kill(federation, kind, generator)
        sys.stdout.write(f"killed {kind} {delay:.2f} s after round {number}, now round {federation.round(job)}\n")
    assert not (job / "release").exists(), "the study was over before the last kill"
    federation.wait(lambda: (job / "release").is_dir(), "the release is there", patience=PATIENCE)
    federation.wait(lambda: federation.progress(job)["state"] == "finished", "the word is written")


def kill(federation: Loopback, kind: Role, generator: np.random.Generator) -> None:
    """Kill one process of a kind, as soon as there is one; start again what nobody else starts, within a second."""
    killed: list[str] = []

    def found() -> bool:
        # One that was listed may have ended by itself, as a server does whose SuperLink was killed just before.
        if present := of_kind(federation, kind):
            name, victim = present[generator.integers(len(present))]
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed.append(name)
        return bool(killed)

    federation.wait(found, f"there is a {kind}", patience=PATIENCE)
    if kind in (Role.SUPERVISOR, Role.SITE):
        time.sleep(generator.uniform(0.0, 1.0))
        (federation.coordinator if kind is Role.SUPERVISOR else federation.sites[killed[0]]).start()


def of_kind(federation: Loopback, kind: Role) -> list[tuple[str, int]]:
    return sorted((name, pid) for role, name, pid in federation.processes() if role is kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    "emptied",
    [
        pytest.param(False, marks=pytest.mark.skipif(not NIGHTLY, reason="takes minutes: CLOISTER_HYPOTHESIS=nightly")),
        True,
    ],
)
def test_what_was_sealed_must_still_be_there(loopback, emptied):
    """Server and site die after the site's contribution left and before the round's end: the outbox carries it over."""
    federation = loopback(*SITES)
    job = federation.set_up(deterministic_study(ROUNDS), records=RECORDS, policy=POLICY)
    federation.wait_for_round(job, 1)
    ((_, last),) = [found for found in of_kind(federation, Role.SITE) if found[0] == "c"]
    hold(federation, last)
    for kind in (Role.SERVERAPP, Role.SITE):
        name, pid = of_kind(federation, kind)[0]
        os.kill(pid, signal.SIGKILL)
        federation.wait(lambda pid=pid: pid not in federation.marked(), "it is dead")
    assert name == "a"
    if emptied:
        shutil.rmtree(federation.site_folder("a") / "outbox")
    federation.start_site("a")
    os.kill(last, signal.SIGCONT)
    if emptied:
        federation.wait(lambda: LOST in federation.progress(job)["message"], "the round waits for a")
        with pytest.raises(AssertionError):
            check(federation, job)
        return
    federation.wait(lambda: federation.progress(job)["state"] == "finished", "the study is finished")
    check(federation, job)


def hold(federation: Loopback, last: int) -> None:
    """Stop site c where it has not answered a round that site a has sealed."""
    for _ in range(ROUNDS // 2):
        os.kill(last, signal.SIGSTOP)
        # It may have been stopped with its answer written and not sent, or with its ledger open: then once more.
        with suppress(CloisterError):
            before = sealed_rounds(federation, "c")
            federation.wait(
                lambda before=before: sealed_rounds(federation, "a") > before, f"a seals {before + 1}", patience=10
            )
            return
        os.kill(last, signal.SIGCONT)
        time.sleep(0.5)
    pytest.fail("c was never stopped between two rounds")


def sealed_rounds(federation: Loopback, name: str) -> int:
    return sum(isinstance(entry.record, Seal) for entry in Books.open(federation.site_folder(name)).account.entries)
