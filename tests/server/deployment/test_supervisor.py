"""A running coordinator: what is reachable, what survives, and that nothing outlives it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from client.enrolment import enrol
from protocol.signed_study import SignedStudy
from protocol.tls import client_context
from server.deployment.jobs import agreed_study, all_jobs, create_job
from server.deployment.processes.identity import ProcessIdentity
from server.deployment.processes.record import SupervisorRecord
from server.deployment.superlink import Control, is_healthy
from server.deployment.supervisor import link_files
from server.progress import JobState

PROGRAMS = ("flower-superlink", "flower-superexec")


def pid_of(coordinator, program):
    """The one process of a program, or None."""
    found = [identity.pid for identity in SupervisorRecord.read(coordinator.folder.root).children
             if program in command_line(identity.pid)]  # fmt: skip
    return found[0] if found else None


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def listening(port):
    """The addresses at which this machine listens on a port, as the kernel writes them."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found


def member_nodes(folder):
    """Names of the members whose node the SuperLink would let in."""
    control = Control(link_files(folder))
    try:
        keys = {node.key.decode() for node in control.nodes() if node.registered}
    finally:
        control.close()
    with folder.roster() as roster:
        return {member.name for member in roster.members(include_revoked=True) if member.node_key in keys}


@pytest.mark.slow
def test_superlink_is_on_loopback_and_the_two_servers_ask_for_what_they_must(running):
    folder = running.folder
    assert listening(folder.superlink_port) == {"0100007F"}
    assert is_healthy(link_files(folder))
    enrolment = f"https://127.0.0.1:{folder.enrolment_port}"
    with httpx.Client(verify=client_context(ca=folder.ca), trust_env=False) as client:
        assert client.get(f"{enrolment}/v1/ca").text == folder.ca.read_text()
        assert client.post(f"{enrolment}/v1/control/list-nodes").status_code == 404
        with pytest.raises(httpx.TransportError):
            client.get(f"https://127.0.0.1:{folder.port}/v1/cloister/studies")
    with socket.create_connection(("127.0.0.1", folder.port), timeout=5) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")


@pytest.mark.slow
def test_who_enrols_is_registered_at_once_and_who_is_revoked_is_not(running, coordinator_tools, tmp_path):
    folder, wait_until = running.folder, coordinator_tools["wait_until"]
    with folder.roster() as roster:
        for name in ("north", "south"):
            enrol(tmp_path / name, folder.invitation(name, secret=roster.invite(name)))
        wait_until(lambda: member_nodes(folder) == {"north", "south"}, within_s=10)
        roster.revoke("south")
        wait_until(lambda: member_nodes(folder) == {"north"}, within_s=10)
    credentials = {"certificate": tmp_path / "north" / "tls.pem", "key": tmp_path / "north" / "tls.key"}
    with httpx.Client(verify=client_context(ca=folder.ca, **credentials), trust_env=False) as client:
        answer = client.get(f"https://127.0.0.1:{folder.port}/v1/cloister/studies")
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_is_killed_is_back_within_seconds(running, coordinator_tools, program):
    before = {name: pid_of(running, name) for name in PROGRAMS}
    os.kill(before[program], signal.SIGKILL)
    coordinator_tools["wait_until"](
        lambda: pid_of(running, program) not in (None, before[program]) and is_healthy(link_files(running.folder)),
        within_s=20,
    )
    (other,) = set(PROGRAMS) - {program}
    assert pid_of(running, other) == before[other]
    assert running.process.poll() is None


@pytest.mark.slow
def test_a_second_coordinator_on_the_folder_is_refused(running, coordinator_tools):
    with coordinator_tools["start"](running.folder) as second:
        assert second.process.wait(timeout=30) == 1
        second._reader.join()
        (line,) = second.lines
    assert line.startswith("cloister: A coordinator runs on ")
    assert f"process {running.process.pid}" in line
    assert pid_of(running, PROGRAMS[0])


@pytest.mark.slow
def test_killed_it_leaves_nothing_and_starts_again_and_harms_nobody(coordinator_tools, tmp_path):
    folder = coordinator_tools["make_folder"](tmp_path / "coordinator")
    with coordinator_tools["start"](folder) as first:
        first.wait_ready()
        assert len(coordinator_tools["naming"](str(folder.root))) == 3
        first.end(signal.SIGKILL)
        coordinator_tools["wait_until"](lambda: not coordinator_tools["naming"](str(folder.root)), within_s=5)
    foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(90)"])
    stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(90)"])
    try:
        record = SupervisorRecord.read(folder.root)
        stale = replace(ProcessIdentity.of(foreign.pid), started=1)
        replace(record, children=(stale, ProcessIdentity.of(stray.pid))).write(folder.root)
        with coordinator_tools["start"](folder) as second:
            second.wait_ready()
            assert stray.wait(timeout=5) == -signal.SIGKILL
            assert foreign.poll() is None
            began = time.monotonic()
            assert second.end() == 0
            assert time.monotonic() - began < 10
    finally:
        for process in (foreign, stray):
            process.kill()
            process.wait()
    assert coordinator_tools["naming"](str(folder.root)) == {}


@pytest.mark.slow
def test_a_port_that_is_taken_is_named_and_nothing_stays(coordinator_tools, tmp_path):
    folder = coordinator_tools["make_folder"](tmp_path / "coordinator")
    with socket.create_server(("127.0.0.1", folder.port)), coordinator_tools["start"](folder) as started:
        assert started.process.wait(timeout=60) == 1
        started._reader.join()
        assert f"Port {folder.port} of 127.0.0.1 cannot be listened on" in started.lines[-1]
    assert coordinator_tools["naming"](str(folder.root)) == {}


@pytest.mark.slow
def test_a_job_gets_a_server_and_another_when_that_one_is_killed(running, coordinator_tools, tmp_path, tiny_study):
    folder, wait_until = running.folder, coordinator_tools["wait_until"]
    with folder.roster() as roster:
        for name in ("west", "east"):
            enrol(tmp_path / name, folder.invitation(name, secret=roster.invite(name)))
        members = roster.members()
    study = agreed_study(tiny_study(), members, sites=["west", "east"])
    job = create_job(folder.studies, SignedStudy.sign(study, folder.key()))
    wait_until(lambda: job.working, within_s=60)
    wait_until(lambda: (job.folder / "progress.json").exists(), within_s=60)
    assert job.progress().state is JobState.WAITING
    (server,) = servers(running)
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: job.working and servers(running) - {server}, within_s=60)
    job.stop()
    wait_until(lambda: not job.working, within_s=30)
    assert job.progress().state is JobState.STOPPED
    assert json.loads((job.folder / "run.json").read_text())["run"]
    assert [each.name for each in all_jobs(folder.studies)] == [job.name]


def servers(coordinator):
    """The ServerApps of a coordinator."""
    found = Path("/proc").glob("[0-9]*/stat")
    group = pid_of(coordinator, "flower-superexec")
    pids = {int(path.parent.name) for path in found}
    return {pid for pid in pids if pid != group and "server_app" in command_line(pid)
            and str(coordinator.folder.root) in command_line(pid) and ProcessIdentity.of(pid)}  # fmt: skip
