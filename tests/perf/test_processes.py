"""What a measurement starts is gone when it is over, whatever it did meanwhile."""

import os
import sys
import time
from pathlib import Path

import pytest

from perf.processes import Processes, free_ports
from protocol.errors import FederationError

# A process that leaves its group, ignores SIGTERM and is no child of anybody any more.
STRAY = """
import os, signal, subprocess, sys, time
if len(sys.argv) == 2:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"], start_new_session=True)
else:
    open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")
@pytest.mark.parametrize("ending", ["well", "badly"])
def test_nothing_is_left(tmp_path, monkeypatch, ending):
    monkeypatch.setattr("perf.processes._GRACE_S", 0.2)
    program, mark = tmp_path / "stray.py", tmp_path / "pid"
    program.write_text(STRAY)
    try:
        with Processes(tmp_path) as processes:
            processes.start("stray", sys.executable, program, mark)
            processes.wait_for(lambda: mark.exists() and mark.read_text() != "", what="the stray")
            pid = int(mark.read_text())
            assert alive(pid)
            spent = processes.seconds({"child": (f"{mark} child",)})
            assert set(spent) == {"child", "other"}
            if ending == "badly":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert ending == "badly"
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_ends_ends_the_measurement(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("short", sys.executable, "-c", "print('cannot go on'); raise SystemExit(3)")
        with pytest.raises(FederationError, match="cannot go on"):
            processes.wait_for(lambda: False, what="nothing")


def test_a_command_that_fails_says_why(tmp_path):
    with Processes(tmp_path) as processes:
        assert processes.do(sys.executable, "-c", "print('done')") == "done\n"
        with pytest.raises(FederationError, match="no such luck"):
            processes.do(sys.executable, "-c", "raise SystemExit('no such luck')")


def test_the_callers_own_folder_is_not_inherited(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOISTER_SITE", "/srv/cloister")
    with Processes(tmp_path) as processes:
        assert processes.do(sys.executable, "-c", "import os; print(os.environ.get('CLOISTER_SITE'))") == "None\n"
    assert os.environ["CLOISTER_SITE"] == "/srv/cloister"


def test_ports_are_free():
    ports = free_ports(5)
    assert len(set(ports)) == 5
