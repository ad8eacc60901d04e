"""The client as it is started, with the installed app."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.messages import Refusal, RefusalReason, decode

ROOT = Path(__file__).parents[3]
PROGRAM = (
    "import sys; from pathlib import Path; from client.node.start import start_node; start_node(Path(sys.argv[1]))"
)


@pytest.fixture
def started(site):
    """A client in a process of its own, whose folder knows a coordinator and no records."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(site[0])], env=surroundings, process_group=0)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_refuses_without_records_and_ends_when_told(site, started, words, number):
    """Whatever is wrong at the site leaves as one word of a closed set; the installed door says it."""
    _folder, node_id, link, _gate = site
    run_id = link.run()
    reply = link.answer(run_id, link.ask(run_id, node_id, words("hello"), kind="query.hello"), seconds=60)
    assert decode(reply.content, Refusal).reason is RefusalReason.INTERNAL
    os.kill(started.pid, number)
    assert started.wait(20) == 0
    assert link.node(node_id).status == "offline"
