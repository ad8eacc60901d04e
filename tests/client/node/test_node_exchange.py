"""The node against Flower's own SuperLink, over TLS, through a gate that asks for a certificate."""

import logging
import ssl
import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.node.connection import Connection
from client.node.link import FleetLink
from protocol.errors import WireError
from protocol.tls import read_certificate

VALUE = "the-value-of-a-record"


def own_certificate(folder):
    return read_certificate(folder / "tls.pem").public_bytes(Encoding.DER)


def test_answers_what_the_server_asks_and_shows_its_certificate(site, run_node, echo_app, words):
    folder, node_id, link, gate = site
    run_node(folder, echo_app)
    run_id = link.run()
    for text in ("first", "second"):
        reply = link.answer(run_id, link.ask(run_id, node_id, words(text)))
        # Nothing of the run's configuration, nor any of the node's, reaches the app.
        assert dict(reply.content["said"]) == {"text": text, "node": node_id, "config": "{}", "node_config": "{}"}
    assert set(gate.certificates) == {own_certificate(folder)}


def test_without_its_certificate_the_gate_stays_shut(site):
    """The broken twin: the same link whose TLS context forgot the certificate."""
    folder, node_id, link, gate = site
    connection = Connection.open(folder)
    bare = replace(connection, context=ssl.create_default_context(cafile=str(folder / "ca.pem")))
    with FleetLink(bare) as fleet, pytest.raises(httpx.TransportError):
        fleet.activate(None)
    assert gate.certificates == []
    assert link.node(node_id).status == "registered"


def test_flower_app_and_arrays(site, run_node):
    folder, node_id, link, _gate = site
    app = ClientApp()

    @app.train("gradients")
    def gradients(message: Message, _context: Context) -> Message:
        array = message.content["model"]["0"].numpy()
        return Message(RecordDict({"sum": ArrayRecord([2 * array])}), reply_to=message)

    run_node(folder, app)
    run_id, model = link.run(), np.arange(3_000_000, dtype=np.float32)  # more than one of Flower's chunks
    content = RecordDict({"model": ArrayRecord([model])})
    reply = link.answer(run_id, link.ask(run_id, node_id, content, kind="train.gradients"))
    np.testing.assert_array_equal(reply.content["sum"]["0"].numpy(), 2 * model)


def test_parts_that_come_late_are_waited_for(site, run_node, echo_app, words):
    folder, node_id, link, _gate = site
    run_node(folder, echo_app)
    run_id = link.run()
    message_id = link.ask(run_id, node_id, words("late"), complete=False)
    link.taken(message_id)
    assert all(link.parts())
    assert link.answer(run_id, message_id).content["said"]["text"] == "late"


def test_expired_message_is_not_given_to_the_app(site, run_node, echo_app, words):
    folder, node_id, link, _gate = site
    given = []

    def app(message, context):
        given.append(message.content["said"]["text"])
        return echo_app(message, context)

    run_node(folder, app)
    run_id = link.run()
    stale = link.ask(run_id, node_id, words("stale"), ttl=1.5, complete=False)
    link.taken(stale)
    assert link.answer(run_id, stale, seconds=10).has_error()  # Flower gave up: it has expired
    link.parts()
    fresh = link.ask(run_id, node_id, words("fresh"))
    assert link.answer(run_id, fresh).content["said"]["text"] == "fresh"
    assert given == ["fresh"]


def test_message_of_a_run_that_is_over_is_dropped(site, run_node, echo_app, words, caplog):
    folder, node_id, link, _gate = site
    begun, go_on = threading.Event(), threading.Event()

    def app(message, context):
        begun.set()
        assert go_on.wait(30)
        return echo_app(message, context)

    run_node(folder, app)
    ended, run_id = link.run(), link.run()
    first = link.ask(ended, node_id, words("ended"))
    assert begun.wait(30)
    link.end(ended)
    go_on.set()
    assert link.answer(run_id, link.ask(run_id, node_id, words("next"))).content["said"]["text"] == "next"
    assert link.answers(first) == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class TestAppThatFails:
    """What the app raises stays at the site, where Flower would send it."""

    @pytest.fixture
    def failing(self):
        def app(message, _context):
            if message.content["said"]["text"] == "fail":
                raise ValueError(f"cannot read {VALUE}")
            if message.content["said"]["text"] == "report":
                return Message(Error(1, f"cannot read {VALUE}"), reply_to=message)
            return Message(RecordDict(), reply_to=message)

        return app

    @pytest.mark.parametrize("way", ["fail", "report"])
    def test_nothing_is_sent(self, site, run_node, failing, words, way):
        folder, node_id, link, _gate = site
        run_node(folder, failing)
        run_id = link.run()
        failed = link.ask(run_id, node_id, words(way))
        # The next message is answered, so the failed one has been dealt with.
        assert not link.answer(run_id, link.ask(run_id, node_id, words("go on"))).has_error()
        assert link.answers(failed) == 0
        assert not link.holds(VALUE)

    def test_the_text_would_be_found(self, site, fleet, words):
        """The broken twin: a node that does as Flower's own does."""
        _folder, node_id, link, _gate = site
        message_id = link.ask(link.run(), node_id, words("fail"))
        message = fleet.fetch(fleet.poll())
        fleet.send(Message(Error(1, f"cannot read {VALUE}"), reply_to=message))
        assert link.answers(message_id) == 1
        assert link.holds(VALUE)


@pytest.mark.parametrize("wrong", ["another message", "no message"])
def test_answer_that_is_none_is_not_sent(site, run_node, echo_app, words, wrong):
    folder, node_id, link, _gate = site

    def app(message, context):
        if message.content["said"]["text"] == "fine":
            return echo_app(message, context)
        if wrong == "no message":
            return None
        message.metadata.__dict__["_message_id"] = "0" * 64
        return echo_app(message, context)

    run_node(folder, app)
    run_id = link.run()
    first = link.ask(run_id, node_id, words("wrong"))
    assert not link.answer(run_id, link.ask(run_id, node_id, words("fine"))).has_error()
    assert link.answers(first) == 0


def test_answer_is_sent_again_where_its_parts_were_lost(site, fleet, words, echo_app, monkeypatch):
    _folder, node_id, link, _gate = site
    run_id = link.run()
    message_id = link.ask(run_id, node_id, words("half"))
    reply = echo_app(fleet.fetch(fleet.poll()), Context(run_id, node_id, {}, RecordDict(), {}))
    push, sent = fleet._client.PushObject, []

    def cut_after_one(request):
        if sent:
            raise ConnectionResetError("cut")
        sent.append(request.object_id)
        return push(request)

    monkeypatch.setattr(fleet._client, "PushObject", cut_after_one)
    with pytest.raises(ConnectionResetError):
        fleet.send(reply)
    monkeypatch.undo()
    assert fleet.send(reply)
    assert fleet.send(reply), "once more changes nothing"
    assert link.answers(message_id) == 1
    assert link.answer(run_id, message_id).content["said"]["text"] == "half"


def test_forged_parts_are_refused(site, fleet, words, monkeypatch):
    _folder, node_id, link, _gate = site
    link.ask(link.run(), node_id, words("true"))
    arrival, pull = fleet.poll(), fleet._pull
    monkeypatch.setattr(fleet, "_pull", lambda arrival, name, room: pull(arrival, name, room) + b"!")
    with pytest.raises(WireError, match="not what its id says"):
        fleet.fetch(arrival)
    monkeypatch.undo()
    assert fleet.fetch(arrival).content["said"]["text"] == "true"


def test_parts_that_are_gone_are_not_waited_for(site, fleet, words):
    _folder, node_id, link, _gate = site
    link.ask(link.run(), node_id, words("gone"))
    arrival = fleet.poll()
    fleet.confirm(arrival)  # the SuperLink forgets them
    assert fleet.fetch(arrival) is None


def test_time_that_an_answer_took_is_not_told(site, run_node, echo_app, words):
    """It depends on the records; Flower's own node tells it."""
    folder, node_id, link, _gate = site
    run_node(folder, echo_app)
    run_id = link.run()
    link.answer(run_id, link.ask(run_id, node_id, words("hello")))
    (run,) = link.state.get_run_info(run_ids=[run_id])
    assert run.clientapp_runtime == 0.0
