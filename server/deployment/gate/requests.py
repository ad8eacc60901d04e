"""What a site may ask of the SuperLink: a closed table, and what of a request Flower itself does not check.

Flower's SuperLink ties the node's id in each of these requests to the key that signed the time of day (its module
``superlink/routers/fleet/node_auth.py``), and the gate ties that key to the certificate. It does not tie a message's
sender to it, nor a message's kind, nor an object to whom it is for; that is done here and in
`server.deployment.gate.mailbox`.
"""

import json
import math
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.run_pb2 import GetRunRequest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

FleetRequest = (
    ActivateNodeRequest
    | DeactivateNodeRequest
    | SendNodeHeartbeatRequest
    | PullMessagesRequest
    | PushMessagesRequest
    | GetRunRequest
    | PushObjectRequest
    | PullObjectRequest
    | ConfirmMessageReceivedRequest
)

PROTOBUF, JSON = "application/protobuf", "application/json"
PULL_MESSAGES, PUSH_OBJECT = "/v1/fleet/pull-messages", "/v1/fleet/push-object"

FLEET: MappingProxyType[str, type[FleetRequest]] = MappingProxyType(
    {
        "/v1/fleet/activate-node": ActivateNodeRequest,
        "/v1/fleet/deactivate-node": DeactivateNodeRequest,
        "/v1/fleet/send-node-heartbeat": SendNodeHeartbeatRequest,
        PULL_MESSAGES: PullMessagesRequest,
        "/v1/fleet/push-messages": PushMessagesRequest,
        "/v1/fleet/get-run": GetRunRequest,
        PUSH_OBJECT: PushObjectRequest,
        "/v1/fleet/pull-object": PullObjectRequest,
        "/v1/fleet/confirm-message-received": ConfirmMessageReceivedRequest,
    }
)

# Flower's ids: of the SuperLink as a sender, and of its errors "the run does not run" and "no such run".
SUPERLINK_NODE = 1
NOT_RUNNING = 2007
NO_RUN = 2008


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is answered to a site.

    Attributes:
        status: Status of HTTP.
        body: The body.
        media_type: Its type; empty where there is no body.
        reason: For our log alone, why it was refused; empty if it was not.
        close: Whether the connection ends with it, because what else was sent on it was not read.
        retry_s: After how many seconds it may be tried again; None where that is not said.
    """

    status: int
    body: bytes = b""
    media_type: str = ""
    reason: str = ""
    close: bool = False
    retry_s: int | None = None


def refusal(status: HTTPStatus, reason: str, *, retry_s: int | None = None) -> Answer:
    """Return a refusal: a status, no word to the outside, and the reason for our log."""
    return Answer(status=status, reason=reason, close=True, retry_s=retry_s)


def flower_error(code: int) -> bytes:
    """Return an error as Flower's client reads it: its number, and none of the SuperLink's words."""
    return json.dumps({"code": code, "detail": "Refused."}).encode()


def parse(path: str, body: bytes) -> FleetRequest | None:
    """Parse a request; None if it is none.

    Example:
        >>> parse("/v1/fleet/deactivate-node", bytes([0xFF])) is None
        True
    """
    request = FLEET[path]()
    try:
        request.ParseFromString(body)
    except DecodeError:
        return None
    return request


def impostor(request: FleetRequest, *, node_key: str) -> str:
    """Say in which way a request speaks for somebody else than the node that sends it.

    Args:
        request: What was sent.
        node_key: The sending site's node key, PEM, as its certificate gives it.

    Returns:
        What is wrong; empty if nothing is.
    """
    if isinstance(request, ActivateNodeRequest):
        return "" if request.public_key == node_key.encode() else "the node key of another site"
    if isinstance(request, PushMessagesRequest):
        return _impostor_message(request)
    return ""


def _impostor_message(request: PushMessagesRequest) -> str:
    """Say what is wrong with a reply: a site sends one reply, its own, to the coordinator."""
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return f"{len(request.messages_list)} messages with {len(request.message_object_trees)} trees of objects"
    message, metadata = request.messages_list[0], request.messages_list[0].metadata
    if metadata.src_node_id != request.node.node_id:
        return "a message in another node's name"
    if metadata.dst_node_id != SUPERLINK_NODE or not metadata.reply_to_message_id:
        return "a message that is no reply to the coordinator"
    if request.message_object_trees[0].object_id != metadata.message_id:
        return "objects of another message"
    if message.content.ByteSize():
        return "a message with its content inside"
    times = request.clientapp_runtime_list
    if len(times) > 1 or not all(math.isfinite(time) and time >= 0 for time in times):
        return "running times that are none"
    return ""
