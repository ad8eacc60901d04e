"""Inside client/ only the door can make what leaves a site: what the import contract is too coarse to see."""

import ast
import re
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"
DOOR = "door.py"

# What these files may take from Flower: the app and what it is handed, to annotate and to pass on.
TAKEN_FROM_FLOWER = {
    "app.py": {"flwr.app.Context", "flwr.app.Message", "flwr.clientapp.ClientApp"},
    "site.py": {"flwr.app.Context"},
    # The node carries what the app returned: it takes messages apart for the wire and makes none.
    "node/link.py": {
        "flwr.app.Message",
        "flwr.app.message.remove_content_from_message",
        "flwr.common.serde.message_to_proto",
        "flwr.proto.fleet_pb2.ActivateNodeRequest",
        "flwr.proto.fleet_pb2.DeactivateNodeRequest",
        "flwr.proto.fleet_pb2.PullMessagesRequest",
        "flwr.proto.fleet_pb2.PushMessagesRequest",
        "flwr.proto.heartbeat_pb2.SendNodeHeartbeatRequest",
        "flwr.proto.message_pb2.ConfirmMessageReceivedRequest",
        "flwr.proto.message_pb2.ObjectTree",
        "flwr.proto.message_pb2.PullObjectRequest",
        "flwr.proto.message_pb2.PushObjectRequest",
        "flwr.proto.node_pb2.Node",
        "flwr.supercore.error.ApiErrorCode",
        "flwr.supercore.error.FlowerError",
        "flwr.supercore.inflatable.inflatable_object.get_all_nested_objects",
        "flwr.supercore.inflatable.inflatable_object.get_object_tree",
        "flwr.supercore.inflatable.inflatable_object.iterate_object_tree",
        "flwr.supercore.inflatable.inflatable_object.no_object_id_recompute",
        "flwr.supercore.inflatable.inflatable_utils.inflate_object_from_contents",
        "flwr.supercore.primitives.asymmetric.public_key_to_bytes",
        "flwr.supercore.protobuf.client.ProtobufCall",
        "flwr.supercore.protobuf.client.ProtobufClientInterceptor",
        "flwr.supercore.protobuf.client.ProtobufRequestContext",
        "flwr.supercore.runtime_version_compatibility.RuntimeVersionMetadata",
        "flwr.supernode.fleet_http_client.FleetHttpClient",
        "flwr.supernode.node_auth_http_interceptor.NodeAuthHttpInterceptor",
    },
    "node/node.py": {
        "flwr.app.Context",
        "flwr.app.Message",
        "flwr.app.RecordDict",
        "flwr.supercore.task_identity.TaskIdentity",
    },
}
OUTWARD = re.compile(r"(flwr|protocol\.messages)(\.|$)")
BUILDS = re.compile(r"(^|\.)(Message|__import__|import_module)$")


def faults(source: str, name: str) -> list[str]:
    """Every use of a module that can build a message, in a file that is not the door."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        origins = set()
        if isinstance(node, ast.Import):
            origins = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origins = {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and BUILDS.search(ast.unparse(node.func)):
            found.append(f"{name}:{node.lineno}: calls {ast.unparse(node.func)}")
        taken = {origin for origin in origins if OUTWARD.match(origin)}
        for origin in sorted(taken - TAKEN_FROM_FLOWER.get(name, set())):
            found.append(f"{name}:{node.lineno}: takes {origin}")
    return found


def test_only_the_door_builds_messages():
    files = sorted(CLIENT.rglob("*.py"))
    assert CLIENT / DOOR in files
    found = [fault for path in files if path != CLIENT / DOOR
             for fault in faults(path.read_text("utf-8"), str(path.relative_to(CLIENT)))]  # fmt: skip
    assert not found, "let client/door.py build it:\n" + "\n".join(found)


def test_the_door_is_caught_by_the_same_search():
    assert faults((CLIENT / DOOR).read_text("utf-8"), "not_the_door.py")


@pytest.mark.parametrize(
    ("name", "planted", "fault"),
    [
        ("app.py", "from flwr.app import RecordDict", "1: takes flwr.app.RecordDict"),
        ("app.py", "from flwr.app import Message\nMessage(x, reply_to=m)", "2: calls Message"),
        ("site.py", "from flwr.app import Message", "1: takes flwr.app.Message"),
        ("site.py", "import flwr.app", "1: takes flwr.app"),
        ("app.py", "import flwr", "1: takes flwr"),
        ("training.py", "from flwr.common import ArrayRecord", "1: takes flwr.common.ArrayRecord"),
        ("policy.py", "from protocol.messages import encode", "1: takes protocol.messages.encode"),
        ("policy.py", "from protocol import messages", "1: takes protocol.messages"),
        (
            "policy.py",
            "import importlib\nimportlib.import_module('flwr')",
            "2: calls importlib.import_module",
        ),
    ],
)
def test_search_finds_what_is_planted(name, planted, fault):
    assert faults(planted, name) == [f"{name}:{fault}"]
