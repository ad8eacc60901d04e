"""Flower's fleet protocol, as far as a site needs it: sign on, take a message, send the answer, sign off.

To the SuperLink this is a SuperNode. It differs from Flower's own in what it leaves out: the app bundle of a run is
never fetched, nor is anything else of the run; an error never becomes a reply; the time that an answer took is not
told; redirections are not followed. Whatever fails raises at once, and `client.node.node` decides what then: nothing
in here sleeps for long, retries for ever or ends the process.

Taken from inside Flower 1.41, and to be looked at again when the version moves: the client of the fleet API and its
node authentication, the version that is told, and the form of messages as trees of content-addressed objects.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Self, TypeVar

import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node as NodeIdentity
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.node.bounds import Room, bound_answer
from client.node.connection import Connection
from protocol.errors import FederationError, WireError
from protocol.flower_objects import check_object, message_parts

# A SuperLink takes a node for gone after two intervals without a sign of life; Flower's own node says 30 s.
HEARTBEAT_INTERVAL_S = 15.0
# The gate holds an empty answer for 20 s.
_READ_TIMEOUT_S = 45.0
_CONNECT_TIMEOUT_S = 10.0
_IDLE_CONNECTION_S = 60.0
_WORKERS = 4
# The longest vector that a message may hold has 1 GiB, in chunks of 5 MiB.
_MOST_OBJECTS = 256
_MOST_BYTES = 2**30 + 2**24
# The sender may still be sending what its message is made of.
_OBJECT_WAIT_S = 10.0
_FIRST_OBJECT_DELAY_S = 0.02
_LAST_OBJECT_DELAY_S = 0.5

Answer = TypeVar("Answer")
Given = TypeVar("Given")


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrival:
    """A message that waits to be fetched.

    Attributes:
        node_id: The id of the node that it is for.
        run_id: Flower's id of its run.
        message_id: Its id, which is the hash of its content.
        ends: When it expires, in seconds since 1970 by the coordinator's clock.
        tree: The objects that it is made of.
    """

    node_id: int
    run_id: int
    message_id: str
    ends: float
    tree: ObjectTree


class FleetLink:
    """A site's link to the SuperLink behind the coordinator's gate.

    Every method may be called by several threads. Each raises `httpx.HTTPError` where the network, the gate or the
    SuperLink fails, ``ValueError`` where an answer is not what Flower's protocol says, and `WireError` where it is
    larger than any may be.

    Args:
        connection: Where to and as whom.
        node_id: The node's id where it has signed on already, otherwise 0.
    """

    def __init__(self, connection: Connection, *, node_id: int = 0) -> None:
        self._clock = _ClockInterceptor()
        public = connection.node_key.public_key()
        self._public_key = public_key_to_bytes(public)
        self._client = _Client(
            connection,
            [_VersionInterceptor(), NodeAuthHttpInterceptor(connection.node_key, public), self._clock],
        )
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="cloister-objects")
        self._node = NodeIdentity(node_id=node_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def node_id(self) -> int:
        """The node's id; 0 before it has signed on."""
        return int(self._node.node_id)

    @property
    def ahead_s(self) -> float | None:
        """By how many seconds, to a second, this clock is ahead of the coordinator's; None before the first answer."""
        return self._clock.ahead_s

    def time(self) -> float:
        """Return the time in seconds since 1970, by the coordinator's clock where the two differ by over 2 s."""
        ahead = self.ahead_s
        return time.time() - (ahead if ahead is not None and abs(ahead) > 2 else 0.0)  # noqa: PLR2004 - a Date header has whole seconds

    def activate(self, last_id: int | None) -> int:
        """Sign on, and return the node's id.

        A node that ended without signing off counts as connected for up to two intervals of heartbeats, and Flower
        lets no node sign on twice. Whoever holds the node's key may sign it off, and the id never changes while the
        key is registered: so the crashed node is signed off first.

        Args:
            last_id: The id that the node had when it last signed on; None if unknown.
        """
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S)
        try:
            node_id = self._client.ActivateNode(request).node_id
        except httpx.HTTPStatusError as error:
            if last_id is None or error.response.status_code != httpx.codes.PRECONDITION_FAILED:
                raise
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=last_id))
            node_id = self._client.ActivateNode(request).node_id
        self._node = NodeIdentity(node_id=node_id)
        return self.node_id

    def deactivate(self) -> None:
        """Sign off."""
        self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))

    def heartbeat(self) -> bool:
        """Say that the node lives; False if the coordinator does not know it."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S)
        return bool(self._client.SendNodeHeartbeat(request).success)

    def poll(self) -> Arrival | None:
        """Ask for a message; None if there is none. Behind a gate this takes up to 20 s.

        Raises:
            WireError: If what has arrived is no message for this node.
        """
        answer = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not answer.messages_list or not answer.message_object_trees:
            return None
        metadata, tree = answer.messages_list[0].metadata, answer.message_object_trees[0]
        if metadata.dst_node_id != self.node_id or metadata.reply_to_message_id:
            raise WireError("A message for somebody else has arrived.", remedy="The coordinator must mend it.")
        return Arrival(
            node_id=self.node_id,
            run_id=metadata.run_id,
            message_id=tree.object_id,
            ends=metadata.created_at + metadata.ttl,
            tree=tree,
        )

    def fetch(self, arrival: Arrival) -> Message | None:
        """Fetch a message that has arrived; None if nobody waits for its answer any more.

        Raises:
            WireError: If it is too large, not what its id says, or no message of ours.
            FederationError: If parts of it are still missing; they may be there later.
        """
        parts = message_parts(arrival.tree, most=_MOST_OBJECTS)
        room = Room(_MOST_BYTES)
        pulled = _unless_over(lambda: self._every(lambda name: self._pull(arrival, name, room), list(parts)))
        if pulled is None:
            return None
        contents = {name: content for name, content in zip(parts, pulled, strict=True) if content is not None}
        if len(contents) < len(parts):
            return None
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != name:
                raise WireError("A message is not what its id says.", remedy="The coordinator must mend it.")
            check_object(content, parts[name], most_bytes=_MOST_BYTES)
        message = inflate_object_from_contents(arrival.message_id, contents)
        if not isinstance(message, Message) or not message.has_content():
            raise WireError("What arrived is no message.", remedy="The coordinator must mend it.")
        # Flower's own name for it: the object cannot hold the hash of itself, and the property has no setter.
        message.metadata.__dict__["_message_id"] = arrival.message_id
        return message

    def confirm(self, arrival: Arrival) -> None:
        """Let the SuperLink forget the parts of a message."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=arrival.run_id, message_object_id=arrival.message_id
        )
        _unless_over(lambda: self._client.ConfirmMessageReceived(request))

    def send(self, reply: Message) -> bool:
        """Send the app's answer; False if nobody waits for it any more. Doing it again sends what was missing.

        Raises:
            FederationError: If the SuperLink gave up waiting for parts of it.
        """
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree = get_object_tree(reply)
            contents = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[tree],
        )
        return _unless_over(lambda: self._push(request, contents)) is not None

    def close(self) -> None:
        """Give up the connections; nothing is told to the coordinator."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _push(self, request: PushMessagesRequest, contents: dict[str, bytes]) -> bool:
        """Announce an answer, then send the parts that the SuperLink lacks."""
        metadata = request.messages_list[0].metadata
        answer = self._client.PushMessages(request)

        def push(name: str) -> bool:
            part = PushObjectRequest(
                node=self._node,
                run_id=metadata.run_id,
                object_id=name,
                object_content=contents[name],
                session_id=answer.session_id,
            )
            return bool(self._client.PushObject(part).stored)

        stored = self._every(push, [name for name in answer.objects_to_push if name in contents])
        if not all(stored):
            # The SuperLink gave up waiting for the rest, or another announcement took its place.
            raise FederationError("The coordinator did not take all parts of an answer.", remedy="It is sent again.")
        return True

    def _pull(self, arrival: Arrival, object_id: str, room: Room) -> bytes | None:
        """Return a part of a message, waiting a while for one that is still being sent; None if it is gone."""
        request = PullObjectRequest(node=self._node, run_id=arrival.run_id, object_id=object_id)
        deadline, delay = time.monotonic() + _OBJECT_WAIT_S, _FIRST_OBJECT_DELAY_S
        while True:
            answer = self._client.PullObject(request)
            if answer.object_available:
                room.take(len(answer.object_content))
                return bytes(answer.object_content)
            if not answer.object_found:
                return None
            if time.monotonic() > deadline:
                raise FederationError("The coordinator has not sent all of a message.", remedy="It is asked again.")
            time.sleep(delay)
            delay = min(2 * delay, _LAST_OBJECT_DELAY_S)

    def _every(self, call: Callable[[Given], Answer], given: Iterable[Given]) -> list[Answer]:
        """Call for each, several at a time, in order of the results; the first failure ends it."""
        return list(self._workers.map(call, given))


class _Client(FleetHttpClient):
    """Flower's client of the fleet API, with a connection pool of ours."""

    def __init__(self, connection: Connection, interceptors: Sequence[ProtobufClientInterceptor]) -> None:
        super().__init__(connection.base_url, interceptors=interceptors, verify=connection.context)
        self._client.close()
        self._client = httpx.Client(
            verify=connection.context,
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(keepalive_expiry=_IDLE_CONNECTION_S),
            # Flower's would follow: a coordinator could then point a site's client at machines inside its network.
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
            event_hooks={"response": [bound_answer]},
        )


class _VersionInterceptor:
    """Tells Flower's version; Flower's own would end the process when an answer says that it does not fit."""

    def __init__(self) -> None:
        self._headers = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers."""
        context.request.headers.update(self._headers)
        return call_next(context)


class _ClockInterceptor:
    """Compares the clock with the Date that every answer of the gate carries."""

    def __init__(self) -> None:
        self.ahead_s: float | None = None

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Look at the answer's date."""
        sent = time.time()
        response = call_next(context)
        received = time.time()
        try:
            told = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError):
            return response
        # The header names the second that has begun, somewhere between the question and the end of the answer.
        self.ahead_s = max(sent - told - 1, 0.0) or min(received - told, 0.0)
        return response


def _unless_over(call: Callable[[], Answer]) -> Answer | None:
    """Return what a call returns; None where the SuperLink says that the message's run is over."""
    try:
        return call()
    except httpx.HTTPStatusError as error:
        if _flower_code(error) == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED:
            return None
        raise


def _flower_code(error: httpx.HTTPStatusError) -> int | None:
    """Return Flower's own number of an error, if the answer holds one."""
    told = FlowerError.from_json(error.response.text)
    return None if told is None else told.code
