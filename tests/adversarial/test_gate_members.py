"""No site gets what is another's, or says what another should say; and what is a site's own passes whole.

Where a stock SuperLink does not tell sites apart, the same is shown to succeed without the gate.
"""

import hashlib
import json
import runpy
import time
from base64 import b64decode
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_to_proto, run_from_proto
from flwr.proto.control_pb2 import StopRunRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.run_pb2 import GetRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from protocol.tls import client_context

# Tests are no package: what two files share is read from the one of them.
OUTSIDE = runpy.run_path(str(Path(__file__).with_name("test_gate.py")))
Stand, heartbeat, OBJECT_BYTES = OUTSIDE["Stand"], OUTSIDE["heartbeat"], OUTSIDE["OBJECT_BYTES"]


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    made = Stand(tmp_path_factory.mktemp("gate"))
    yield made
    made.end()


@pytest.fixture(autouse=True)
def no_client_is_left(stand):
    yield
    stand.close_clients()


@contextmanager
def running(stand):
    """A run, and the grid of its ServerApp."""
    run = stand.start_run()
    secret = load_superexec_auth_secret(secret_file=str(stand.folder.superexec_secret))
    method = "/flwr.proto.Runtime/AcquireTask"
    executor = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=[method])
    url, verify = f"https://{stand.link}", client_context(ca=stand.folder.ca)
    token = ""
    with RuntimeHttpClient(url, interceptors=[executor], verify=verify) as client:
        while True:
            acquired = client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
            assert acquired.token, "the run has no task"
            if acquired.task.run_id == run:
                token = acquired.token
                break
    with RuntimeHttpClient(url, interceptors=[RuntimeTokenHttpInterceptor(token)], verify=verify) as client:
        started = client.PullTaskInput(PullTaskInputRequest())
    grid = HttpGrid(stand.link, root_certificates=stand.ca, token=token)
    grid.set_run(run_from_proto(started.run))
    try:
        yield run, grid
    finally:
        grid.close()
        with suppress(httpx.HTTPStatusError):  # a test may have stopped it
            stand.control.StopRun(StopRunRequest(run_id=run))


def message_to(number, *, text, run=0, sender=1, reply_to=""):
    metadata = Metadata(
        run_id=run, message_id="", src_node_id=sender, dst_node_id=number, reply_to_message_id=reply_to, group_id="",
        created_at=time.time(), ttl=10.0 if reply_to else 60.0, message_type="query.x",
    )  # fmt: skip
    return make_message(metadata=metadata, content=RecordDict({"x": ConfigRecord({"text": text})}))


def instruct(grid, site, text="hello"):
    """Send a site a message, and return its id."""
    (number,) = grid.push_messages([message_to(site.node.node_id, text=text, run=grid.run.run_id)])
    return number


def reply_of(site, asked, *, run, **changes):
    """A site's reply to a message, as Flower's node sends it, and its objects."""
    reply = message_to(1, text="reply", run=run, sender=site.node.node_id, reply_to=asked)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
    proto = message_to_proto(reply)
    proto.ClearField("content")
    proto.content.SetInParent()
    for name, value in changes.items():
        setattr(proto.metadata, name, value)
    request = PushMessagesRequest(
        node=site.node, messages_list=[proto], message_object_trees=[tree], clientapp_runtime_list=[0.1]
    )
    return request, {name: item.deflate() for name, item in objects.items()}


def fetch(client, site, *, run):
    """Take a message with its objects; return its id and how many objects there were."""
    found = client.PullMessages(PullMessagesRequest(node=site.node))
    assert len(found.messages_list) == 1
    tree = found.message_object_trees[0]
    names, todo = [], [tree]
    while todo:
        part = todo.pop()
        names.append(part.object_id)
        todo += part.children
    for name in names:
        assert client.PullObject(PullObjectRequest(node=site.node, run_id=run, object_id=name)).object_found
    return tree.object_id, names


@pytest.mark.parametrize("confirmed", ["first", "last"])
def test_an_honest_exchange_passes_whole(stand, confirmed):
    north = stand.north.node
    with running(stand) as (run, grid), stand.node_of(stand.north, stand.gate) as client:
        asked = instruct(grid, stand.north, text=confirmed)
        confirm = ConfirmMessageReceivedRequest(node=north, run_id=run, message_object_id=asked)
        got, names = fetch(client, stand.north, run=run)
        assert (got, len(names)) == (asked, 3)
        assert client.GetRun(GetRunRequest(node=north, run_id=run)).run.run_id == run
        if confirmed == "first":
            client.ConfirmMessageReceived(confirm)
        request, objects = reply_of(stand.north, asked, run=run)
        answer = client.PushMessages(request)
        assert set(answer.objects_to_push) == set(objects)
        for name, content in objects.items():
            push = PushObjectRequest(node=north, run_id=run, session_id=answer.session_id, object_id=name,
                                     object_content=content)  # fmt: skip
            assert client.PushObject(push).stored
        if confirmed == "last":
            client.ConfirmMessageReceived(confirm)
        (reply,) = list(grid.pull_messages([asked]))
        assert reply.metadata.src_node_id == north.node_id
        assert reply.content["x"]["text"] == "reply"
        with stand.node_of(stand.north, stand.link) as bare:
            for name in names:
                kept = bare.PullObject(PullObjectRequest(node=north, run_id=run, object_id=name))
                assert not kept.object_found, "the SuperLink keeps nothing of a message that was confirmed"


def test_a_site_that_is_killed_while_it_answers_is_handed_the_message_again(stand):
    north = stand.north.node
    with running(stand) as (run, grid):
        asked = instruct(grid, stand.north, text="killed")
        request, objects = reply_of(stand.north, asked, run=run)
        with stand.node_of(stand.north, stand.gate) as killed:
            fetch(killed, stand.north, run=run)
            assert killed.PushMessages(request).session_id
        with stand.node_of(stand.north, stand.gate) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=north.node_id))
            client.ActivateNode(ActivateNodeRequest(public_key=stand.north.node_pem, heartbeat_interval=1800))
            assert fetch(client, stand.north, run=run)[0] == asked
            assert set(client.PushMessages(request).objects_to_push) == set(objects)


def array_reply(site, asked, *, run, times):
    """A reply whose array lists its one chunk so many times, its tree and its objects."""
    content = RecordDict({"header": ConfigRecord({"a": 1}), "vector": ArrayRecord({"v": Array(np.zeros(4, np.int32))})})
    reply = message_to(1, text="", run=run, sender=site.node.node_id, reply_to=asked)
    reply.content = content
    reply.metadata.__dict__["_message_id"] = reply.object_id
    new, changed, children = {}, {}, {}

    def kind_of(item):
        return item.partition(b" ")[0]

    raw = {name: item.deflate() for name, item in get_all_nested_objects(reply).items()}
    for name, item in raw.items():  # children come before what is made of them
        head, _, body = item.partition(b"\0")
        if kind_of(item) == b"Array":
            body = json.dumps(json.loads(body) | {"arraychunk_ids": [0] * times}).encode()
        below = [changed[child] for child in head.decode().split(" ")[1].split(",") if child]
        for old, now in changed.items():
            body = body.replace(old.encode(), now.encode())
        made = kind_of(item) + f" {','.join(below)} {len(body)}".encode() + b"\0" + body
        changed[name] = hashlib.sha256(made).hexdigest()
        new[changed[name]], children[changed[name]] = made, below

    def tree(name):
        return ObjectTree(object_id=name, children=[tree(child) for child in children[name]])

    root = changed[reply.object_id]
    proto = message_to_proto(reply)
    proto.ClearField("content")
    proto.content.SetInParent()
    proto.metadata.message_id = root
    request = PushMessagesRequest(node=site.node, messages_list=[proto], message_object_trees=[tree(root)])
    return request, new


@pytest.mark.parametrize(("way", "times"), [("bare", 10_000), ("gate", 10_000), ("gate", 1)])
def test_a_site_does_not_fill_the_coordinators_memory(stand, way, times):
    """An array that lists one chunk again and again is a few bytes that become many; an honest one passes."""
    address, north = stand.link if way == "bare" else stand.gate, stand.north.node
    with running(stand) as (run, grid), stand.node_of(stand.north, address) as client:
        asked = instruct(grid, stand.north, text=f"{way}{times}")
        fetch(client, stand.north, run=run)
        request, objects = array_reply(stand.north, asked, run=run, times=times)
        answer = client.PushMessages(request)
        assert set(answer.objects_to_push) == set(objects)
        refused = []
        for name, content in objects.items():
            push = PushObjectRequest(node=north, run_id=run, session_id=answer.session_id, object_id=name,
                                     object_content=content)  # fmt: skip
            try:
                assert client.PushObject(push).stored
            except httpx.HTTPStatusError as error:
                refused.append((content.partition(b" ")[0], error.response.status_code))
    assert refused == ([(b"Array", 403)] if (way, times) == ("gate", 10_000) else [])


@pytest.mark.parametrize("way", ["bare", "gate"])
def test_no_site_fills_the_coordinators_disk(stand, way):
    """A tree of thousands of objects, all of which would be awaited and kept."""
    address = stand.link if way == "bare" else stand.gate
    with running(stand) as (run, grid), stand.node_of(stand.north, address) as client:
        asked = instruct(grid, stand.north, text=f"{way} tree")
        fetch(client, stand.north, run=run)
        request, _ = array_reply(stand.north, asked, run=run, times=1)
        vector = next(part for part in request.message_object_trees[0].children[0].children if part.children)
        for number in range(2_000):
            vector.children[0].children.add(object_id=f"{number:064x}")
        if way == "bare":
            assert len(client.PushMessages(request).objects_to_push) > 2_000
        else:
            with pytest.raises(httpx.HTTPStatusError, match="403"):
                client.PushMessages(request)


@pytest.mark.parametrize("way", ["bare", "gate"])
def test_no_site_answers_for_another(stand, way):
    address = stand.link if way == "bare" else stand.gate
    with running(stand) as (run, grid), stand.node_of(stand.south, address) as client:
        asked = instruct(grid, stand.north)
        request, objects = reply_of(stand.north, asked, run=run)
        request.node.CopyFrom(stand.south.node)
        if way == "gate":
            with pytest.raises(httpx.HTTPStatusError, match="403") as refused:
                client.PushMessages(request)
            assert refused.value.response.content == b""
        else:
            assert set(client.PushMessages(request).objects_to_push) == set(objects)


@pytest.mark.parametrize("way", ["bare", "gate"])
def test_no_site_speaks_for_the_coordinator(stand, way):
    address = stand.link if way == "bare" else stand.gate
    with running(stand) as (run, grid), stand.node_of(stand.south, address) as client:
        asked = instruct(grid, stand.south)
        request, objects = reply_of(
            stand.south, "", run=run, src_node_id=1, dst_node_id=stand.north.node.node_id
        )  # fmt: skip
        assert asked
        if way == "gate":
            with pytest.raises(httpx.HTTPStatusError, match="403"):
                client.PushMessages(request)
        else:
            assert set(client.PushMessages(request).objects_to_push) == set(objects)


@pytest.mark.parametrize("way", ["bare", "gate"])
def test_no_site_reads_or_removes_what_is_for_another(stand, way):
    address = stand.link if way == "bare" else stand.gate
    south = stand.south.node
    with running(stand) as (run, grid), stand.node_of(stand.south, address) as client:
        asked = instruct(grid, stand.north, text=way)
        with stand.node_of(stand.north, stand.gate) as north:
            fetch(north, stand.north, run=run)
            pull = PullObjectRequest(node=south, run_id=run, object_id=asked)
            assert client.PullObject(pull).object_found == (way == "bare")
            client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=south, run_id=run, message_object_id=asked)
            )
            still = north.PullObject(PullObjectRequest(node=stand.north.node, run_id=run, object_id=asked))
            assert still.object_found == (way == "gate")


@pytest.mark.parametrize("way", ["bare", "gate"])
def test_no_site_learns_of_a_run_it_has_no_part_in(stand, way):
    address = stand.link if way == "bare" else stand.gate
    with running(stand) as (run, _), stand.node_of(stand.south, address) as client:
        asked = GetRunRequest(node=stand.south.node, run_id=run)
        if way == "bare":
            assert client.GetRun(asked).run.run_id == run
        else:
            with pytest.raises(httpx.HTTPStatusError, match="403"):
                client.GetRun(asked)


def test_a_run_that_was_stopped_is_told_in_flowers_way(stand):
    with running(stand) as (run, grid), stand.node_of(stand.north, stand.gate) as client:
        asked = instruct(grid, stand.north)
        fetch(client, stand.north, run=run)
        stand.control.StopRun(StopRunRequest(run_id=run))
        with pytest.raises(httpx.HTTPStatusError, match="403") as refused:
            client.PullObject(PullObjectRequest(node=stand.north.node, run_id=run, object_id=asked))
    error = FlowerError.from_json(refused.value.response.text)
    assert error is not None
    assert (error.code, error.message) == (ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, "Refused.")


def test_a_message_for_a_site_that_was_killed_waits_for_it(stand):
    """It asked, it was gone when the message came; what it is handed when it is back is that message."""
    with running(stand) as (run, grid):
        gone = stand.node_of(stand.north, stand.gate)
        with suppress(httpx.TransportError):
            gone._client.timeout = httpx.Timeout(0.3)
            gone.PullMessages(PullMessagesRequest(node=stand.north.node))
        asked = instruct(grid, stand.north)
        with stand.node_of(stand.north, stand.gate) as client:
            assert fetch(client, stand.north, run=run)[0] == asked
        gone.close()


def test_no_site_uses_the_node_key_of_another(stand):
    keys = (stand.south.node_key, stand.south.node_key.public_key())
    with stand.node_of(None, stand.link, keys=keys) as client:
        bare = client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=stand.south.node, heartbeat_interval=1800))
    assert bare.success, "a bare SuperLink does not know who is there"
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        heartbeat(stand, stand.north.context, keys=keys, node=stand.south.node)


def test_no_site_uses_the_node_id_of_another(stand):
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        heartbeat(stand, stand.north.context, node=stand.south.node)


def test_an_object_that_is_too_large_is_refused_unread(stand):
    with stand.node_of(stand.north, stand.gate) as client:
        push = PushObjectRequest(node=stand.north.node, run_id=1, session_id="s", object_id="a" * 64,
                                 object_content=bytes(OBJECT_BYTES))  # fmt: skip
        before = len(stand.watched.asked)
        with pytest.raises((httpx.HTTPStatusError, httpx.TransportError)):
            client.PushObject(push)
    assert len(stand.watched.asked) == before


def test_the_header_is_flowers_own(stand):
    """What the gate compares with the roster is what Flower's node sends."""
    request = httpx.Request("POST", "https://localhost/")
    context = SimpleNamespace(request=request)
    NodeAuthHttpInterceptor(stand.north.node_key, stand.north.node_key.public_key()).intercept(context, lambda _: None)
    member = stand.roster.member("north")
    assert b64decode(request.headers["flwr-public-key"]) == member.node_key.encode() == stand.north.node_pem
