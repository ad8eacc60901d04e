"""A site speaks for itself alone: what Flower's SuperLink does not check."""

import pytest
from flwr.proto.error_pb2 import Error
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict
from flwr.supernode.fleet_http_client import FleetHttpClient

from server.deployment.gate.requests import FLEET, flower_error, impostor, parse

KEY = "-----BEGIN PUBLIC KEY-----\nnorth\n-----END PUBLIC KEY-----\n"
OWN, OTHER, SUPERLINK = 77, 88, 1


def reply(**changes):
    """A reply as Flower's node sends it, with changes to its metadata."""
    metadata = {
        "run_id": 5, "message_id": "a" * 64, "src_node_id": OWN, "dst_node_id": SUPERLINK,
        "reply_to_message_id": "b" * 64, "message_type": "train.gradients", "ttl": 60.0,
    } | changes  # fmt: skip
    return PushMessagesRequest(
        node=Node(node_id=OWN),
        messages_list=[Message(metadata=Metadata(**metadata), content=RecordDict())],
        message_object_trees=[ObjectTree(object_id="a" * 64, children=[ObjectTree(object_id="c" * 64)])],
        clientapp_runtime_list=[1.5],
    )


def test_an_honest_reply_passes():
    assert impostor(reply(), node_key=KEY) == ""


def test_an_honest_error_passes():
    request = reply()
    request.messages_list[0].ClearField("content")
    request.messages_list[0].error.CopyFrom(Error(code=1, reason="no"))
    assert impostor(request, node_key=KEY) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"src_node_id": OTHER}, "another node's name"),
        ({"src_node_id": 0}, "another node's name"),
        ({"src_node_id": SUPERLINK}, "another node's name"),
        ({"dst_node_id": OTHER}, "no reply to the coordinator"),
        ({"dst_node_id": 0}, "no reply to the coordinator"),
        ({"reply_to_message_id": ""}, "no reply to the coordinator"),
        ({"message_id": "d" * 64}, "objects of another message"),
        ({"message_id": ""}, "objects of another message"),
    ],
)
def test_forged_metadata_is_refused(changes, reason):
    assert reason in impostor(reply(**changes), node_key=KEY)


def test_two_messages_are_refused_even_if_the_first_is_honest():
    request = reply()
    request.messages_list.add().metadata.src_node_id = OTHER
    assert "2 messages" in impostor(request, node_key=KEY)
    request.message_object_trees.add()
    assert "2 messages" in impostor(request, node_key=KEY)


def test_none_is_refused():
    assert "0 messages" in impostor(PushMessagesRequest(node=Node(node_id=OWN)), node_key=KEY)
    request = reply()
    del request.message_object_trees[:]
    assert "0 trees" in impostor(request, node_key=KEY)


def test_content_inside_is_refused():
    request = reply()
    request.messages_list[0].content.items.add().key = "x"
    assert "content inside" in impostor(request, node_key=KEY)


@pytest.mark.parametrize("times", [[float("nan")], [float("inf")], [-1.0], [1.0, 1.0]])
def test_running_times_that_are_none_are_refused(times):
    request = reply()
    request.clientapp_runtime_list[:] = times
    assert "running times" in impostor(request, node_key=KEY)


def test_activation_is_by_the_own_key():
    assert impostor(ActivateNodeRequest(public_key=KEY.encode()), node_key=KEY) == ""
    for key in (b"", KEY.encode() + b"\n", KEY.replace("north", "south").encode()):
        assert "key of another site" in impostor(ActivateNodeRequest(public_key=key), node_key=KEY)


def test_malformed_is_no_request():
    assert parse("/v1/fleet/pull-messages", b"\xff\xff") is None
    assert parse("/v1/fleet/pull-messages", b"") == PullMessagesRequest()


def test_the_table_is_closed_and_true_to_flower():
    """Every path is one that Flower's own client uses, with the type it sends; who may not pass is named here."""
    import httpx

    class Client(FleetHttpClient):
        def _unary_unary(self, *, path, request, **_):
            seen[path] = type(request)
            raise httpx.ConnectError("not sent")

    seen = {}
    with Client("http://nowhere.invalid") as client:
        for name in [name for name in dir(FleetHttpClient) if name[0].isupper()]:
            (kind,) = [hint for key, hint in getattr(FleetHttpClient, name).__annotations__.items() if key == "request"]
            with pytest.raises(httpx.ConnectError):
                getattr(client, name)(kind())
    closed = {"/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-fab"}
    assert set(seen) - set(FLEET) == closed
    assert {path: seen[path] for path in FLEET} == dict(FLEET)


def test_flower_reads_our_error():
    from flwr.supercore.error import ApiErrorCode, FlowerError

    error = FlowerError.from_json(flower_error(int(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED)).decode())
    assert error is not None
    assert error.code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED
