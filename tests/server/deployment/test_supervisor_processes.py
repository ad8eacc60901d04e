"""Programs on a leash: they die with whoever started them, are started again, and nobody else's process is touched."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.errors import InputError
from server.deployment.processes import leash
from server.deployment.processes.child import Child
from server.deployment.processes.identity import ProcessIdentity, end_strays, processes_with
from server.deployment.processes.keeper import keep_alive
from server.deployment.processes.logs import trim_log
from server.deployment.processes.record import SupervisorLock, SupervisorRecord, is_supervised, new_record

ROOT = Path(__file__).parents[3]
SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
# Starts a program that starts another, and says both process ids.
NEST = """
import os, subprocess, sys, time
inner = subprocess.Popen({command}, start_new_session={session})
print(inner.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    return ProcessIdentity.of(pid) is not None


def gone(*pids: int, within_s: float = 10.0) -> bool:
    """Wait until none of these processes is alive."""
    deadline = time.monotonic() + within_s
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def started():
    """Starter of processes that are gone at the end of the test, with all that they started."""
    processes: list[subprocess.Popen[str]] = []

    def start(command, **options):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, **options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


def nest(started, command):
    """Start a process that starts a command in a session of its own; give both process ids."""
    outer = started([sys.executable, "-c", NEST.format(command=command, session=True)])
    return outer, int(outer.stdout.readline())


def on_leash(parent: str) -> str:
    """A command on a leash, as Python source; the parent's id is the starter's own."""
    words = ", ".join(repr(word) for word in [sys.executable, "-I", "-S", leash.__file__])
    tail = ", ".join(repr(word) for word in SLEEP)
    if parent == "-":
        return f"[{words}, '-', {tail}, '--parent-pid', str(os.getpid())]"
    return f"[{words}, str({parent}), {tail}]"


@pytest.mark.parametrize("parent", ["os.getpid()", "-"])
def test_a_program_on_a_leash_dies_with_its_parent(started, parent):
    outer, inner = nest(started, on_leash(parent))
    time.sleep(0.2)
    assert alive(inner)
    outer.send_signal(signal.SIGKILL)
    assert gone(inner)


def test_a_program_without_a_leash_outlives_its_parent(started):
    outer, inner = nest(started, repr(SLEEP))
    outer.send_signal(signal.SIGKILL)
    outer.wait()
    try:
        assert not gone(inner, within_s=0.5)
    finally:
        os.kill(inner, signal.SIGKILL)


def test_a_program_whose_parent_is_gone_already_does_not_start():
    command = [sys.executable, "-I", "-S", leash.__file__, "1", sys.executable, "-c", "print('here')"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.stdout == b""
    assert done.returncode == 3


def make_child(tmp_path, code, **variables):
    return Child(
        "program", [sys.executable, "-c", code], environment=os.environ | variables,
        folder=tmp_path, log=tmp_path / "program.log",
    )  # fmt: skip


def test_ending_a_child_ends_what_it_started(tmp_path):
    child = make_child(tmp_path, NEST.format(command=SLEEP, session=False))
    child.start()
    deadline = time.monotonic() + 10
    while not (text := child.log.read_text()).endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    inner = int(text)
    assert child.running
    assert alive(inner)
    child.end(within_s=5.0)
    assert not child.running
    assert child.identity is None
    assert gone(inner)


def test_a_child_that_ignores_being_asked_is_ended_anyhow(tmp_path):
    child = make_child(tmp_path, "import signal, time; signal.signal(15, 1); print(1, flush=True); time.sleep(60)")
    child.start()
    deadline = time.monotonic() + 10
    while not child.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    found = child.identity
    child.end(within_s=0.3)
    assert gone(found.pid)


def test_a_child_that_ends_is_started_again_and_later_each_time(tmp_path):
    child = make_child(tmp_path, "print('once', flush=True)")
    starts: list[float] = []

    async def three() -> None:
        task = asyncio.create_task(keep_alive(child, started=lambda: starts.append(time.monotonic()), look_s=0.01))
        while len(starts) < 3:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(three(), 30))
    child.kill()
    assert child.log.read_text().count("once") >= 2
    assert starts[1] - starts[0] > 0.4
    assert starts[2] - starts[1] > 0.8


def test_strays_are_found_by_identity_session_and_mark(started):
    recorded = started([sys.executable, "-c", NEST.format(command=SLEEP, session=False)])
    member = int(recorded.stdout.readline())
    marked = started(SLEEP, env=os.environ | {"CLOISTER_SUPERVISOR": "ours"})
    other_mark = started(SLEEP, env=os.environ | {"CLOISTER_SUPERVISOR": "theirs"})
    known = ProcessIdentity.of(recorded.pid)
    deadline = time.monotonic() + 10
    while processes_with("CLOISTER_SUPERVISOR", "ours") != [marked.pid]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ended = end_strays([known], variable="CLOISTER_SUPERVISOR", value="ours")
    assert sorted(ended) == sorted([recorded.pid, member, marked.pid])
    assert gone(*ended)
    assert alive(other_mark.pid)


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "another"}, {"started": 0, "boot": ""}])
def test_a_process_that_got_a_recorded_id_is_left_alone(started, change):
    foreign = started(SLEEP)
    known = replace(ProcessIdentity.of(foreign.pid), **change)
    assert end_strays([known], variable="CLOISTER_SUPERVISOR", value="ours") == []
    assert not gone(foreign.pid, within_s=0.2)


def test_only_what_the_record_really_means_is_cleared_up(tmp_path, started):
    foreign, ours = started(SLEEP), started(SLEEP)
    record = replace(
        new_record(),
        children=(ProcessIdentity.of(ours.pid), replace(ProcessIdentity.of(foreign.pid), started=1)),
    )
    record.write(tmp_path)
    assert SupervisorRecord.read(tmp_path) == record
    lock = SupervisorLock(tmp_path)
    assert lock.clear_up() == [ours.pid]
    assert alive(foreign.pid)
    lock.release()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"mark": "", "children": []}', json.dumps({"pid": 1})])
def test_a_record_that_cannot_be_read_ends_nobody(tmp_path, text):
    (tmp_path / "supervisor.json").write_text(text)
    lock = SupervisorLock(tmp_path)
    assert lock.clear_up() == []
    lock.release()


def test_one_supervisor_for_a_folder_and_its_right_ends_with_it(tmp_path, started):
    code = f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from pathlib import Path\nfrom server.deployment.processes.record import SupervisorLock\n"
    code += f"lock = SupervisorLock(Path({str(tmp_path)!r})); print(1, flush=True); time.sleep(60)"
    assert not is_supervised(tmp_path)
    first = started([sys.executable, "-c", code])
    first.stdout.readline()
    assert is_supervised(tmp_path)
    with pytest.raises(InputError, match="runs on .* already"):
        SupervisorLock(tmp_path)
    first.send_signal(signal.SIGKILL)
    assert gone(first.pid)
    assert not is_supervised(tmp_path)
    SupervisorLock(tmp_path).release()


def test_a_long_log_keeps_its_end_and_its_writer(tmp_path):
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 90 + b"the end of it")
        trim_log(log, most=200)
        assert log.stat().st_size == 103
        trim_log(log, most=13)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "a.log.1").read_bytes() == b"the end of it"
