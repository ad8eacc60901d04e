"""From two empty directories to a release, by the commands that people type, and every book in order afterwards."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cli.officer.verification import Books
from perf.loopback import TREE, invitation_codes, small_study, write_records
from privacy.ledger import Charge, Seal

ROUNDS = 4


def assert_one_charge_and_one_seal_per_round(folder: Path, rounds: int) -> None:
    """Hold a site's books against what it was asked for."""
    books = Books.open(folder)
    charges = {entry.hash: entry.record for entry in books.account.entries if isinstance(entry.record, Charge)}
    assert [(charge.first_round, charge.rounds) for charge in charges.values()] == [
        (n, 1) for n in range(1, rounds + 1)
    ]
    seals = {
        entry.record.charge: entry.record.digest for entry in books.account.entries if isinstance(entry.record, Seal)
    }
    assert set(seals) == set(charges)
    left = {(line.departure.round, line.departure.sha256) for line in books.lines if line.departure.entry}
    assert left == {(charge.first_round, seals[entry]) for entry, charge in charges.items()}
    assert (books.contradictions, books.gaps) == ((), ())


def test_from_two_empty_directories_to_a_release(loopback):
    """Four commands of the coordinator and three of each site, each in a process of its own."""
    federation = loopback("a", "b", "c")
    root, coordinator = federation.root, str(federation.folder)
    (root / "study.toml").write_text(_toml(small_study(name="small", sites=3, rounds=ROUNDS)))

    federation.command("coordinator", "init", coordinator, "--name", "loop", "--host", "127.0.0.1", *federation.ports)
    said = federation.command("coordinator", "invite", "a", "b", "c", "--folder", coordinator).stdout
    federation.start_coordinator()
    for number, (name, code) in enumerate(invitation_codes(said).items()):
        data = write_records(root / f"{name}.csv", 150, seed=number)
        ceilings = ("--epsilon", "8", "--delta", "1e-4")
        federation.command("site", "enroll", code, "--site", f"site-{name}", "--data", str(data), *ceilings)
    follower = federation.start("run", "coordinator", "run", "study.toml", "--folder", coordinator)
    federation.wait(lambda: any(federation.folder.glob("studies/*/study.json")), "the study is offered")
    for name in federation.names:
        federation.command("site", "approve", "small", "--site", f"site-{name}", answer="y")
        federation.start_site(name)
    federation.wait(lambda: not follower.running, "the coordinator's command ends")

    (release,) = federation.folder.glob("studies/*/release")
    assert f"Next: cloister verify {release}" in follower.log.read_text()
    for name, words in _commands(federation).items():
        expected = ["init", "invite", "start", "run"] if name == "coordinator" else ["enroll", "approve", "start"]
        assert words == expected, name
    federation.here("verify", str(release))
    federation.here("sample", str(release), "-n", "50", "-o", str(root / "synthetic.csv"), "--quiet")
    assert len((root / "synthetic.csv").read_text().splitlines()) == 51
    for name in federation.names:
        federation.here("site", "ledger", "--verify", "--site", f"{root}/site-{name}")
        federation.here("site", "egress", "--verify", "--site", f"{root}/site-{name}")
        assert_one_charge_and_one_seal_per_round(federation.site_folder(name), ROUNDS)
    provenance = json.loads((release / "provenance.json").read_text())
    assert provenance["simulated"] is False
    (study,) = json.loads(federation.here("coordinator", "status", "--json", "--folder", coordinator))["studies"]
    assert (study["state"], study["round"], study["release"]) == ("finished", ROUNDS, str(release))


@pytest.mark.slow
def test_six_sites_share_their_noise_under_a_secure_sum(loopback):
    """The server dies in the middle, and so does a site; the sum still opens, and no round is masked twice."""
    federation = loopback(*(f"s{number}" for number in range(6)))
    study = small_study(
        name="shared", sites=6, rounds=3, privacy={"trust": "sum"}, federation={"dropouts": 1, "colluders": 1}
    )
    policy = {"epsilon": 8.0, "delta": 1e-4, "trust": ["none", "sum"]}
    job = federation.set_up(study, records=60, policy=policy)
    federation.wait_for_round(job, 1)
    for role, name, pid in federation.processes():
        if role == "serverapp" or name == "s3":
            os.kill(pid, 9)
    federation.start_site("s3")
    federation.wait(lambda: (job / "release").is_dir(), "the release is there")
    federation.here("verify", str(job / "release"))
    for name in federation.names:
        books = Books.open(federation.site_folder(name))
        charged = Counter(
            entry.record.first_round for entry in books.account.entries if isinstance(entry.record, Charge)
        )
        assert set(charged.values()) == {1}, name
        assert set(charged) <= {1, 2, 3}
        assert (books.contradictions, books.gaps) == ((), ())
        assert len(list(federation.site_folder(name).glob("transcripts/*.json"))) == 1


def test_the_coordinators_process_does_without_pytorch():
    """It only keeps others alive; with PyTorch it would take three times the memory, and seconds to start."""
    program = "import sys, server.deployment.supervisor, cli.coordinator.start; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=TREE).returncode == 0


def _commands(federation) -> dict[str, list[str]]:
    """What was typed, by machine, processes that go on included."""
    typed: dict[str, list[str]] = {"coordinator": [], **{name: [] for name in federation.names}}
    for words in federation.typed:
        machine = words[0]
        if machine == "site":
            machine = words[words.index("--site") + 1].rpartition("site-")[2]
        typed[machine].append(words[1])
    return typed


def _toml(study: dict) -> str:
    import tomli_w

    return tomli_w.dumps(study)
