"""The bundle of a run is neither fetched nor executed."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_object_id

from protocol.keys import read_ec_key

PROJECT = """
[project]
name = "test"
version = "1.0.0"
description = "Leaves a mark."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "cloister"

[tool.flwr.app.components]
serverapp = "shipped.app:server"
clientapp = "shipped.app:client"
"""
CODE = """
from pathlib import Path
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

Path({mark!r}).touch()
server = ServerApp()
client = ClientApp()

@client.query("echo")
def echo(message, context):
    from flwr.app import Message
    return Message(message.content, reply_to=message)
"""


@pytest.fixture
def shipped(tmp_path):
    """A bundle whose code leaves a mark when it is imported, and the mark."""
    mark = tmp_path / "mark"
    project = tmp_path / "project"
    (project / "shipped").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "shipped" / "__init__.py").touch()
    (project / "shipped" / "app.py").write_text(CODE.format(mark=str(mark)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's use of pathspec
        content = build_fab_from_disk(project)
    return Fab(get_object_id(content), content, {}), mark


def test_our_node_does_not_run_it(site, shipped, run_node, echo_app, words):
    folder, node_id, link, _gate = site
    bundle, mark = shipped
    run_node(folder, echo_app)
    run_id = link.run(bundle)
    assert link.answer(run_id, link.ask(run_id, node_id, words("hello"))).content["said"]["text"] == "hello"
    assert not mark.exists()


def test_our_node_calls_nothing_that_would_fetch_it(site, shipped, run_node, echo_app, words, monkeypatch):
    folder, node_id, link, _gate = site
    asked = set()
    from flwr.supernode.fleet_http_client import FleetHttpClient

    plain = FleetHttpClient._unary_unary

    def note(self, *, path, **arguments):
        asked.add(path.removeprefix("/v1/fleet/"))
        return plain(self, path=path, **arguments)

    monkeypatch.setattr(FleetHttpClient, "_unary_unary", note)
    running = run_node(folder, echo_app)
    run_id = link.run(shipped[0])
    link.answer(run_id, link.ask(run_id, node_id, words("hello")))
    running.end()
    assert asked <= {"activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "pull-object",
                     "confirm-message-received", "push-messages", "push-object"}  # fmt: skip
    assert "push-messages" in asked


@pytest.mark.slow
def test_flowers_own_node_runs_it(shared, shipped, tmp_path, words, unused_port):
    """The broken twin: on the same run, Flower's node imports what was shipped."""
    link, authority = shared
    bundle, mark = shipped
    folder = authority.site(tmp_path / "site", port=1)
    node_id = link.register(folder)
    key = read_ec_key(folder / "node.key")
    openssh = tmp_path / "node.openssh"
    openssh.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    command = [Path(sys.executable).with_name("flower-supernode"), "--root-certificates", authority.file,
               "--superlink", f"localhost:{link.port}", "--auth-supernode-private-key", openssh,
               "--port", unused_port]  # fmt: skip
    surroundings = {**os.environ, "FLWR_HOME": str(tmp_path / "home"), "FLWR_TELEMETRY_ENABLED": "0",
                    "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    with (tmp_path / "node.log").open("wb") as log:
        node = subprocess.Popen(list(map(str, command)), env=surroundings, stdout=log, stderr=log, process_group=0)
    try:
        run_id = link.run(bundle)
        reply = link.answer(run_id, link.ask(run_id, node_id, words("hello")), seconds=120)
        assert reply.content["said"]["text"] == "hello", (tmp_path / "node.log").read_text()
        assert mark.exists()
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()
