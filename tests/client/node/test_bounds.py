"""A coordinator does not decide how much of a site's memory it takes."""

import gzip
import hashlib
import json
import time

import httpx
import pytest
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse

from client.node.bounds import Room, bound_answer
from client.node.connection import Connection
from client.node.link import Arrival, FleetLink
from protocol.errors import WireError


def test_room_is_counted():
    room = Room(10)
    room.take(6)
    room.take(4)
    with pytest.raises(WireError, match="larger"):
        room.take(1)


def client_of(body, *, hooks=(bound_answer,), **headers):
    def answer(_):
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(body))

    return httpx.Client(transport=httpx.MockTransport(answer), event_hooks={"response": list(hooks)})


def test_an_answer_is_bounded():
    with client_of(bytes(5 * 2**20)) as client:
        assert len(client.get("https://gate/").content) == 5 * 2**20
    with client_of(bytes(8 * 2**20)) as client, pytest.raises(WireError, match="long"):
        client.get("https://gate/")


def test_an_answer_is_not_unpacked():
    packed, headers = gzip.compress(bytes(2**24)), {"content-encoding": "gzip"}
    with client_of(packed, hooks=(), **headers) as client:
        assert len(client.get("https://gate/").content) == 2**24, "the twin unpacks it"
    with client_of(packed, **headers) as client, pytest.raises(WireError, match="packed"):
        client.get("https://gate/")


def deflated(kind, children, body):
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


class Coordinator:
    """Gives out a message whose array lists its one chunk so many times."""

    def __init__(self, times):
        self.objects, self.trees = {}, {}
        told = {"dtype": "int32", "shape": [4], "stype": "numpy.ndarray", "arraychunk_ids": [0] * times}
        chunk = self._add("ArrayChunk", bytes(16))
        array = self._add("Array", json.dumps(told).encode(), chunk)
        vector = self._add("ArrayRecord", json.dumps({"vector": array}).encode(), array)
        content = self._add("RecordDict", json.dumps({"vector": vector}).encode(), vector)
        self.root = self._add("Message", b"", content)

    def _add(self, kind, body, *children):
        content = deflated(kind, children, body)
        name = hashlib.sha256(content).hexdigest()
        self.objects[name] = content
        self.trees[name] = ObjectTree(object_id=name, children=[self.trees[child] for child in children])
        return name

    def PullObject(self, request):  # noqa: N802 - Flower's name
        return PullObjectResponse(
            object_found=True, object_available=True, object_content=self.objects[request.object_id]
        )

    def close(self):
        pass


@pytest.mark.parametrize(("times", "told"), [(100_000, "malformed"), (10_000, "10000 chunks"), (1, "")])
def test_a_message_that_would_fill_the_memory_is_not_made(authority, tmp_path, monkeypatch, times, told):
    made = []
    monkeypatch.setattr("client.node.link.inflate_object_from_contents", lambda name, _: made.append(name))
    coordinator = Coordinator(times)
    arrival = Arrival(node_id=1, run_id=1, message_id=coordinator.root, ends=time.time() + 60,
                      tree=coordinator.trees[coordinator.root])  # fmt: skip
    with FleetLink(Connection.open(authority.site(tmp_path / "site", port=1))) as link:
        link._client.close()
        link._client = coordinator
        with pytest.raises(WireError, match=told or "no message"):
            link.fetch(arrival)
    assert made == ([] if told else [coordinator.root])


def test_more_objects_than_a_message_has_are_not_fetched(authority, tmp_path):
    chunks = [ObjectTree(object_id=f"{number:064x}") for number in range(1_000)]
    tree = ObjectTree(object_id="a" * 64)
    for name in ("b", "c", "d"):
        tree = ObjectTree(object_id=name * 64, children=chunks if name == "b" else [tree])
    arrival = Arrival(node_id=1, run_id=1, message_id="d" * 64, ends=time.time() + 60,
                      tree=ObjectTree(object_id="e" * 64, children=[tree]))  # fmt: skip
    with FleetLink(Connection.open(authority.site(tmp_path / "site", port=1))) as link, \
            pytest.raises(WireError, match="more than 256 objects"):  # fmt: skip
        link.fetch(arrival)
