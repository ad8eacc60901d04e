"""What the node does when something fails: crashes, cuts, restarts, wrong clocks, expired certificates."""

import logging
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from client.node.connection import Connection
from client.node.link import HEARTBEAT_INTERVAL_S, FleetLink
from client.node.memory import NODE_FILE, NodeMemory
from client.node.node import Node
from protocol.errors import InputError

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys, threading, time
from pathlib import Path
from flwr.app import Message
from client.node.node import Node

def app(message, context):
    if message.content["said"]["text"] == "hang":
        Path(sys.argv[1], "begun").touch()
        time.sleep(600)
    return Message(message.content, reply_to=message)

Node(Path(sys.argv[1]), app=app, renew=lambda _folder: None, first_wait_s=0.05).run(threading.Event())
"""


@pytest.fixture
def process():
    """Return a function that runs a node in a process of its own."""
    started = []

    def start(folder):
        surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], env=surroundings, process_group=0)
        )
        return started[-1]

    yield start
    for held in started:
        if held.poll() is None:
            os.killpg(held.pid, signal.SIGKILL)
        held.wait()


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


class TestKilledSite:
    def test_is_back_before_flower_misses_it(self, site, process, words, until):
        folder, node_id, link, _gate = site
        run_id = link.run()
        first = process(folder)
        hanging = link.ask(run_id, node_id, words("hang"))
        until(lambda: (folder / "begun").exists())
        signed_on = link.node(node_id).last_activated_at
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        process(folder)
        until(lambda: link.node(node_id).last_activated_at != signed_on, seconds=HEARTBEAT_INTERVAL_S)
        assert link.answer(run_id, link.ask(run_id, node_id, words("again"))).content["said"]["text"] == "again"
        assert link.answers(hanging) == 0

    def test_without_its_memory_it_would_have_to_wait(self, site):
        """The broken twin: a node that lost its id is refused until Flower takes the crashed one for gone."""
        folder, node_id, _link, _gate = site
        connection = Connection.open(folder)
        with FleetLink(connection) as crashed, FleetLink(connection) as restarted:
            assert crashed.activate(None) == node_id
            with pytest.raises(httpx.HTTPStatusError) as refused:
                restarted.activate(None)
            assert refused.value.response.status_code == httpx.codes.PRECONDITION_FAILED
            assert restarted.activate(node_id) == node_id
            restarted.deactivate()

    def test_nobody_else_signs_it_off(self, site, shared, tmp_path):
        folder, node_id, link, gate = site
        other = shared[1].site(tmp_path / "other", port=gate.port)
        link.register(other)
        with FleetLink(Connection.open(folder)) as north, FleetLink(Connection.open(other)) as south:
            north.activate(None)
            south.activate(None)
            with pytest.raises(httpx.HTTPStatusError) as refused:
                south._client.DeactivateNode(_deactivation(node_id))
            assert refused.value.response.status_code == httpx.codes.UNAUTHORIZED
            assert link.node(node_id).status == "online"
            for fleet in (north, south):
                fleet.deactivate()


def _deactivation(node_id):
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest

    return DeactivateNodeRequest(node_id=node_id)


def test_coordinator_killed_and_started_again(own_superlink, authority, gate_before, tmp_path, run_node, echo_app,
                                              words, caplog, until):  # fmt: skip
    caplog.set_level(logging.INFO)
    gate = gate_before(authority, own_superlink)
    folder = authority.site(tmp_path / "site", port=gate.port)
    node_id = own_superlink.register(folder)
    run_node(folder, echo_app)
    run_id = own_superlink.run()
    own_superlink.answer(run_id, own_superlink.ask(run_id, node_id, words("before")))
    own_superlink.kill()
    until(lambda: warnings_of(caplog))
    own_superlink.start()
    reply = own_superlink.answer(run_id, own_superlink.ask(run_id, node_id, words("after")))
    assert reply.content["said"]["text"] == "after"
    # One line for each change, however many attempts there were.
    assert len(warnings_of(caplog)) == 1
    assert sum("connected to" in record.message for record in caplog.records) == 2


def test_gate_shut_while_an_answer_is_computed(site, run_node, echo_app, words, until, caplog):
    """The answer is kept, and sent when the network is back."""
    folder, node_id, link, gate = site
    begun, go_on = threading.Event(), threading.Event()

    def app(message, context):
        begun.set()
        assert go_on.wait(30)
        return echo_app(message, context)

    run_node(folder, app)
    run_id = link.run()
    message_id = link.ask(run_id, node_id, words("kept"))
    assert begun.wait(30)
    gate.shut()
    go_on.set()
    until(lambda: "Nothing answers at" in caplog.text)
    gate.open()
    assert link.answer(run_id, message_id).content["said"]["text"] == "kept"


class TestEnd:
    def test_idle_node_signs_off(self, site, run_node, echo_app, until, caplog):
        caplog.set_level(logging.INFO)
        folder, node_id, link, _gate = site
        running = run_node(folder, echo_app)
        until(lambda: "connected to" in caplog.text)
        assert link.node(node_id).status == "online"
        assert running.end()
        assert link.node(node_id).status == "offline"

    def test_message_in_hand_is_finished(self, site, run_node, echo_app, words):
        folder, node_id, link, _gate = site
        begun, go_on = threading.Event(), threading.Event()

        def app(message, context):
            begun.set()
            assert go_on.wait(30)
            return echo_app(message, context)

        running = run_node(folder, app)
        run_id = link.run()
        message_id = link.ask(run_id, node_id, words("last"))
        assert begun.wait(30)
        running.stop.set()
        go_on.set()
        assert running.end()
        assert link.answers(message_id) == 1

    def test_message_that_takes_too_long_is_left(self, site, run_node, echo_app, words, monkeypatch):
        monkeypatch.setattr("client.node.node._FINISH_S", 0.1)
        folder, node_id, link, _gate = site
        begun, go_on = threading.Event(), threading.Event()

        def app(message, context):
            begun.set()
            assert go_on.wait(30)
            return echo_app(message, context)

        running = run_node(folder, app)
        run_id = link.run()
        message_id = link.ask(run_id, node_id, words("long"))
        assert begun.wait(30)
        assert not running.end()
        go_on.set()
        assert link.node(node_id).status == "offline"
        assert link.answers(message_id) == 0


def test_second_client_of_a_site_is_refused(site, run_node, echo_app, until):
    folder, node_id, link, _gate = site
    run_node(folder, echo_app)
    until(lambda: link.node(node_id).status == "online")
    with pytest.raises(InputError, match="running already"):
        Node(folder, app=echo_app, renew=lambda _folder: None).run(threading.Event())


class TestCertificate:
    def test_renewed_in_its_last_month_and_used(self, site, shared, run_node, echo_app, words, until):
        folder, node_id, link, gate = site
        authority, calls = shared[1], []
        authority.issue(folder / "tls.pem", folder / "tls.key", expires=datetime.now(UTC) + timedelta(days=20))
        old = (folder / "tls.pem").read_bytes()

        def renew(place):
            calls.append(place)
            authority.issue(place / "tls.pem", place / "tls.key", expires=datetime.now(UTC) + timedelta(days=90))

        run_node(folder, echo_app, renew=renew)
        run_id = link.run()
        link.answer(run_id, link.ask(run_id, node_id, words("hello")))
        assert calls == [folder]
        assert (folder / "tls.pem").read_bytes() != old
        until(lambda: len(set(gate.certificates)) == 2)
        assert len(set(gate.certificates)) == 2
        assert gate.certificates[0] != gate.certificates[-1]

    @pytest.mark.parametrize("days", [31, 20])
    def test_once_a_day_and_not_before(self, site, shared, run_node, echo_app, words, caplog, days):
        folder, node_id, link, _gate = site
        expires = datetime.now(UTC) + timedelta(days=days, hours=1)
        shared[1].issue(folder / "tls.pem", folder / "tls.key", expires=expires)
        calls = []

        def renew(place):
            calls.append(place)
            raise InputError("The coordinator did not renew it.", remedy="Ask.")

        run_node(folder, echo_app, renew=renew)
        run_id = link.run()
        for _ in range(3):
            link.answer(run_id, link.ask(run_id, node_id, words("hello")))
        assert len(calls) == (days < 30)
        assert ("20 days left" in caplog.text) == (days < 30)

    def test_expired_is_refused_with_the_remedy(self, authority, tmp_path, echo_app):
        folder = authority.site(tmp_path / "site", port=1, expires=datetime.now(UTC) - timedelta(minutes=1))
        with pytest.raises(InputError, match=r"expired on .*enroll"):
            Node(folder, app=echo_app)

    def test_enrolled_anew_while_it_runs(self, authority, gate_before, tmp_path, run_node, echo_app, status, until,
                                         caplog, monkeypatch):  # fmt: skip
        """A client whom the coordinator refuses reads its certificate again, so that nobody has to restart it."""
        monkeypatch.setattr("client.node.node._SLOW", 1.0)
        gate = gate_before(authority, canned=status(403))
        folder = authority.site(tmp_path / "site", port=gate.port)
        run_node(folder, echo_app)
        until(lambda: "does not accept this site" in caplog.text)
        authority.issue(folder / "tls.pem", folder / "tls.key")
        until(lambda: len(set(gate.certificates)) == 2)
        assert gate.certificates[0] != gate.certificates[-1]


def test_clock_that_is_off_is_said(authority, gate_before, tmp_path, run_node, echo_app, status, until, caplog):
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    gate = gate_before(authority, canned=status(401, headers={"date": an_hour_ago}))
    run_node(authority.site(tmp_path / "site", port=gate.port), echo_app)
    until(lambda: " s ahead of" in caplog.text)
    assert "clock is 3600 s ahead of" in caplog.text or "clock is 3599 s ahead of" in caplog.text


def test_clock_that_is_off_is_refused_by_flower(site, monkeypatch, run_node, echo_app, until, caplog):
    """The real thing: Flower refuses a signature of an hour ago, and the node says why."""
    folder, _node_id, _link, _gate = site
    monkeypatch.setattr("flwr.supernode.node_auth_http_interceptor.now",
                        lambda: datetime.now(UTC) - timedelta(hours=1))  # fmt: skip
    from client.node import link as module

    class LateClock:
        monotonic, sleep = module.time.monotonic, module.time.sleep

        def time(self):
            return datetime.now(UTC).timestamp() - 3600

    monkeypatch.setattr(module, "time", LateClock())
    run_node(folder, echo_app)
    until(lambda: "Set the clock" in caplog.text)
    assert "behind the coordinator's. Set the clock" in caplog.text


def test_redirection_is_not_followed(authority, gate_before, tmp_path, status):
    inside = gate_before(authority, canned=status(200))
    moved = status(307, headers={"location": f"https://127.0.0.1:{inside.port}/"})
    gate = gate_before(authority, canned=moved)
    folder = authority.site(tmp_path / "site", port=gate.port)
    connection = Connection.open(folder)
    with FleetLink(connection) as fleet, pytest.raises(httpx.HTTPStatusError):
        fleet.activate(None)
    assert gate.requests
    assert not inside.requests
    # The broken twin: Flower's own client goes wherever it is sent.
    with FleetLink(connection) as fleet:
        fleet._client._client.follow_redirects = True
        fleet.activate(None)
    assert inside.requests


class TestMemory:
    def test_keeps_the_id(self, tmp_path):
        memory = NodeMemory(tmp_path)
        assert memory.node_id() is None
        memory.remember(2**64 - 1)
        assert NodeMemory(tmp_path).node_id() == 2**64 - 1
        assert (tmp_path / NODE_FILE).stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "node_id": 5}', '{"version": 1, "node_id": "5"}',
                                      '{"version": 1, "node_id": 0}', '{"version": 1, "node_id": 1e400}'])  # fmt: skip
    def test_damaged_is_forgotten(self, tmp_path, text):
        (tmp_path / NODE_FILE).write_text(text)
        assert NodeMemory(tmp_path).node_id() is None

    def test_full_disk_is_no_reason_to_stop(self, tmp_path, caplog):
        NodeMemory(tmp_path / "gone").remember(5)
        assert "not remembered" in caplog.text
