"""The coordinator's commands: what they print, what they refuse, and that a study is followed from its folder."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cli.coordinator.signing import PLACEHOLDER_PURPOSE
from protocol.invitation import Invitation
from protocol.keys import public_hex
from protocol.signed_study import SignedStudy
from server.deployment.folder import CoordinatorFolder
from server.deployment.jobs import all_jobs
from server.deployment.study_offers import offers
from server.progress import JobState, ProgressFile

ROOT = Path(__file__).parents[2]
COMMANDS = ["init", "invite", "start", "run", "stop", "status", "revoke"]
STUDY = {
    "study": {"name": "tiny", "purpose": "A test."},
    "schema": {"columns": [{"name": "age", "kind": "integer", "lower": 20, "upper": 29},
                           {"name": "ill", "kind": "boolean"}]},
    "model": {"family": "vae", "options": {"latent": 2}},
    "training": {"rounds": 3},
    "privacy": {"epsilon": 5.0, "delta": 1e-4, "sample_rate": 0.5},
    "federation": {"sites": 2, "public_records": 100},
}  # fmt: skip


def process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "cli.app", *map(str, arguments)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def called(*arguments, **options):
    """Run a command as a process; status, standard output, standard error."""
    done = process(*arguments, **options)
    out, err = done.communicate(timeout=120)
    return done.returncode, out, err


@pytest.fixture
def folder(tmp_path):
    """A coordinator's folder."""
    return CoordinatorFolder.create(
        tmp_path / "hub", name="hearts", host="hub.example.org", port=9443, enrolment_port=9444, superlink_port=9445
    )


def join(folder, *names):
    """Enrol sites, without a network."""
    with folder.roster() as roster:
        for number, name in enumerate(names):
            node = generate_private_key(SECP384R1()).public_key()
            roster.redeem(
                name, roster.invite(name),
                identity_key=public_hex(Ed25519PrivateKey.generate()),
                node_key=node.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
                certificate=f"{number:064x}", not_after=datetime.now(UTC) + timedelta(days=300),
            )  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """A study of two sites as a file."""
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(STUDY), "utf-8")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(cloister, command):
    status, out, err = cloister("coordinator", command, "--help")
    assert (status, err) == (0, "")
    assert f"cloister coordinator {command} " in out.partition("Example")[2]
    assert "--json" in out or command == "start"


def test_help_imports_nothing_heavy():
    heavy = "[m for m in ('torch', 'flwr', 'cryptography', 'httpx', 'uvicorn') if m in sys.modules]"
    code = "import sys; from cli.app import run; run(['coordinator', 'run', '--help']); "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print({heavy}, file=sys.stderr)"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stderr == "[]\n"


def test_init_says_which_two_ports_and_what_is_next(tmp_path):
    where = tmp_path / "hub"
    status, out, err = called("coordinator", "init", where, "--name", "hearts", "--host", "hub.example.org",
                              "--port", "8443", "--enrolment-port", "8444")  # fmt: skip
    assert (status, err) == (0, "")
    opened = CoordinatorFolder.open(where)
    assert opened.authority().fingerprint in out
    assert "two TCP ports and nothing else" in out
    assert all(f"\n  {port}  " in out for port in (8443, 8444))
    assert "loopback device only" in out
    assert f"cloister coordinator start --folder {where}" in out
    assert all(path.stat().st_mode & 0o077 == 0 for path in where.iterdir())
    status, out, err = called("coordinator", "init", where, "--name", "hearts", "--host", "hub.example.org")
    assert (status, out) == (1, "")
    assert err == f"cloister: {where} is a coordinator's folder already. Choose another, or start it.\n"


def test_invite_prints_a_code_for_each_name(folder):
    status, out, err = called("coordinator", "invite", "north", "south", "east", "--folder", folder.root)
    assert status == 0
    lines = [line.split(" ") for line in out.splitlines()]
    assert [name for name, _ in lines] == ["north", "south", "east"]
    codes = [Invitation.from_text(code) for _, code in lines]
    assert [code.site for code in codes] == ["north", "south", "east"]
    assert {code.ca_fingerprint for code in codes} == {folder.authority().fingerprint}
    assert len({code.secret for code in codes}) == 3
    assert "works once" in err
    status, out, _ = called("coordinator", "status", "--json", "--folder", folder.root)
    found = json.loads(out)
    assert (status, found["running"], found["members"], found["studies"]) == (0, False, [], [])
    assert [invited["site"] for invited in found["invitations"]] == ["east", "north", "south"]
    assert not any(code.secret in out for code in codes)


def test_the_folder_may_come_from_the_environment(cloister, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CLOISTER_COORDINATOR", str(folder.root))
    status, out, err = cloister("coordinator", "invite", "north", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["invitations"][0]["site"] == "north"
    monkeypatch.setenv("CLOISTER_COORDINATOR", str(tmp_path))
    status, _, err = cloister("coordinator", "status")
    assert status == 1
    assert "is no coordinator's folder." in err
    assert "set CLOISTER_COORDINATOR" in err
    assert "cloister coordinator init" in err


def test_revoke_touches_one_site(folder):
    join(folder, "north", "south")
    status, out, err = called("coordinator", "revoke", "north", "--folder", folder.root)
    assert (status, err) == (0, "")
    assert out.startswith("north is revoked")
    _, out, _ = called("coordinator", "status", "--json", "--folder", folder.root)
    revoked = {member["site"]: member["revoked"] for member in json.loads(out)["members"]}
    assert revoked["north"] is not None
    assert revoked["south"] is None
    status, _, err = called("coordinator", "revoke", "north", "--folder", folder.root)
    assert status == 1
    assert "No site 'north' takes part" in err
    assert "cloister coordinator status" in err
    _, out, _ = called("coordinator", "status", "--folder", folder.root)
    assert "Not running: start it" in out
    assert "north                revoked 20" in out
    assert "not connected, its client was never started" in out
    join(folder, "north")
    _, out, _ = called("coordinator", "status", "--folder", folder.root)
    assert (out.count("north "), "revoked" in out) == (1, False), "it came back"


REFUSALS = [
    (["invite", "Not a name"], "The site's name is 'Not a name'."),
    (["invite", "a", "a"], "A site is named twice."),
    (["stop", "nothing"], "No study here is called 'nothing'."),
    (["run", "{folder}/none.toml"], "No such file"),
    (["run", "{study}", "--sites", "north,west"], "west: not enrolled."),
    (["run", "{study}", "--sites", "north"], "The study is for 2 sites; chosen are 1: north."),
    (["run", "{study}"], "The study is for 2 sites; chosen are 3: east, north, south."),
]


@pytest.mark.parametrize(("arguments", "problem"), REFUSALS)
def test_refusals_are_one_line_and_change_nothing(cloister, folder, study, arguments, problem):
    join(folder, "north", "south", "east")
    words = [word.format(folder=folder.root, study=study) for word in arguments]
    status, out, err = cloister("coordinator", *words, "--folder", folder.root)
    assert (status, out) == (1, "")
    assert err.startswith("cloister: ")
    assert problem in err
    assert err.count("\n") == 1
    assert all_jobs(folder.studies) == []


def test_a_study_without_a_purpose_of_its_own_is_not_offered(cloister, folder, study):
    join(folder, "north", "south")
    study.write_text(study.read_text().replace("A test.", PLACEHOLDER_PURPOSE))
    for words in (
        ("coordinator", "run", study, "--detach"),
        ("study", "sign", study, "-o", study.with_suffix(".json")),
    ):
        status, _, err = cloister(*words, "--folder", folder.root)
        assert status == 1
        assert "purpose" in err
    assert all_jobs(folder.studies) == []


def test_a_name_stops_the_one_that_runs_and_takes_its_offer_back(cloister, folder, study):
    join(folder, "north", "south")
    for purpose in ("A test.", "A better one."):
        study.write_text(study.read_text().replace("A test.", purpose))
        assert cloister("coordinator", "run", study, "--detach", "--folder", folder.root)[0] == 0
    first, second = all_jobs(folder.studies)
    with folder.roster() as roster:
        north = roster.member("north")
    status, _, err = cloister("coordinator", "stop", "tiny", "--folder", folder.root)
    assert (status, "several" in err) == (1, True)
    assert len(offers(folder.studies, north)) == 2
    assert cloister("coordinator", "stop", first.name, "--folder", folder.root)[0] == 0
    assert offers(folder.studies, north) == [second.signed_study().to_text()]
    status, out, err = cloister("coordinator", "stop", "tiny", "--folder", folder.root)
    assert status == 0, err
    assert out.startswith(second.name)
    assert offers(folder.studies, north) == []


def test_a_start_without_the_passphrase_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOISTER_PASSPHRASE", "correct horse")
    locked = CoordinatorFolder.create(
        tmp_path / "locked", name="hearts", host="127.0.0.1", port=9443, enrolment_port=9444, superlink_port=9445
    )
    for word, said in ((None, "has a passphrase"), ("wrong", "Check the passphrase")):
        monkeypatch.delenv("CLOISTER_PASSPHRASE")
        if word is not None:
            monkeypatch.setenv("CLOISTER_PASSPHRASE", word)
        status, out, err = called("coordinator", "start", "--folder", locked.root)
        assert (status, out) == (1, "")
        assert said in err
        assert "RuntimeWarning" not in err
        monkeypatch.setenv("CLOISTER_PASSPHRASE", "correct horse")


def test_what_is_next_can_be_copied(cloister, tmp_path):
    where = tmp_path / "my fed"
    status, out, _ = cloister("coordinator", "init", where, "--name", "hearts", "--host", "hub.example.org")
    assert status == 0
    assert f"cloister coordinator start --folder '{where}'\n" in out


def test_run_signs_the_study_and_makes_one_job(cloister, folder, study):
    join(folder, "north", "south", "east")
    status, out, err = cloister(
        "coordinator", "run", study, "--sites", "south,north", "--detach", "--json", "--folder", folder.root
    )
    assert status == 0
    assert "no coordinator runs on this folder; start it" in err
    (job,) = all_jobs(folder.studies)
    assert json.loads(out) == {"study": job.signed_study().study.hash, "job": str(job.folder), "release": None}
    job.signed_study().verify(public_hex(folder.key()))
    assert sorted(job.signed_study().study.federation.roster) == ["north", "south"]
    status, _, err = cloister(
        "coordinator", "run", study, "--sites", "south,north", "--detach", "--folder", folder.root
    )
    assert status == 0
    assert f"{job.name} goes on after round 0." in err
    assert len(all_jobs(folder.studies)) == 1


def finish(job, *, state=JobState.FINISHED, message=""):
    ProgressFile(job.folder / "progress.json", rounds=3).tell(state, round_number=3, message=message)
    if state is JobState.FINISHED:
        job.release.mkdir()
        (job.release / "statement.txt").write_text("Epsilon is 5.\nAgainst everybody.\n")


def test_a_finished_study_says_so_and_makes_no_other_job(cloister, folder, study):
    join(folder, "north", "south")
    run = ("coordinator", "run", study, "--folder", folder.root)
    assert cloister(*run, "--detach")[0] == 0
    (job,) = all_jobs(folder.studies)
    finish(job)
    status, out, err = cloister(*run)
    assert status == 0
    assert f"{job.name} is finished. To train once more, write a study with another name" in err
    assert "Epsilon is 5." in out
    assert f"Release: {job.release}" in out
    assert [each.name for each in all_jobs(folder.studies)] == [job.name]


def test_a_failed_study_is_one_line_and_may_be_run_again(cloister, folder, study):
    join(folder, "north", "south")
    run = ("coordinator", "run", study, "--folder", folder.root)
    assert cloister(*run, "--detach")[0] == 0
    (job,) = all_jobs(folder.studies)
    job.stop()
    status, out, _ = cloister("coordinator", "status", "--json", "--folder", folder.root)
    assert (status, json.loads(out)["studies"][0]["state"]) == (0, "stopped")
    assert cloister(*run, "--detach")[0] == 0
    assert not job.stopped
    with process(*run) as follower:
        while "waiting" not in (line := follower.stderr.readline()):
            assert line
        finish(job, state=JobState.FAILED, message="Too few sites.")
        out, err = follower.communicate(timeout=30)
    assert (follower.returncode, out) == (1, "")
    assert f"cloister: {job.name} failed after round 3: Too few sites. Run it again to go on" in err
    assert cloister(*run, "--detach")[0] == 0
    assert job.progress().state is JobState.WAITING


@pytest.mark.slow
def test_following_ends_with_the_release_and_ctrl_c_leaves_it_running(folder, study):
    join(folder, "north", "south")
    run = ("coordinator", "run", study, "--folder", folder.root)
    assert called(*run, "--detach")[0] == 0
    (job,) = all_jobs(folder.studies)
    descriptor = os.open(job.folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    told = ProgressFile(job.folder / "progress.json", rounds=3)
    told.tell(JobState.WAITING, sites={"north": "here", "south": "away"})
    # A shell that starts tests in the background lets them ignore Ctrl-C, and children inherit that.
    with process(*run, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as follower:
        while "Not here: south (away)." not in (line := follower.stderr.readline()):
            assert line
        follower.send_signal(signal.SIGINT)
        _, err = follower.communicate(timeout=30)
        assert follower.returncode == 0
        assert "the study goes on without you" in err
    with process(*run) as follower:
        while "Not here: south (away)." not in (line := follower.stderr.readline()):
            assert line
        finish(job)
        out, err = follower.communicate(timeout=30)
        assert follower.returncode == 0, err
        assert f"Release: {job.release}" in out
        assert "round 3 of 3" in err
    os.close(descriptor)


def test_a_signed_file_is_the_study_that_is_run(cloister, folder, study, tmp_path):
    join(folder, "north", "south")
    signed = tmp_path / "tiny.signed.json"
    status, out, err = cloister("study", "sign", study, "--folder", folder.root, "-o", signed)
    assert (status, err) == (0, "")
    read = SignedStudy.from_text(signed.read_text())
    read.verify(public_hex(folder.key()))
    assert read.study.hash in out
    assert cloister("study", "sign", study, "--folder", folder.root, "-o", signed)[0] == 1
    assert cloister("coordinator", "run", signed, "--detach", "--folder", folder.root)[0] == 0
    assert cloister("coordinator", "run", study, "--detach", "--folder", folder.root)[0] == 0
    (job,) = all_jobs(folder.studies)
    assert job.signed_study() == read
    foreign = SignedStudy.sign(read.study, Ed25519PrivateKey.generate())
    signed.write_text(foreign.to_text())
    status, _, err = cloister("coordinator", "run", signed, "--detach", "--folder", folder.root)
    assert status == 1
    assert "is signed by" in err
