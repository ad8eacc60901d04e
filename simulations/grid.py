"""A whole federation in one process: the real apps and Flower's messages, without network and without Ray.

Flower's own simulation runtime starts Ray, which takes seconds before the first round. Here a `Grid` calls
the real `ClientApp` in the server's process. What the apps can see stays as it is in Flower 1.41: every
message is turned into its protobuf form and back, both ways, so the two sides share no array and no list;
every site keeps its own `Context`; an exception in a site comes back as an error reply, and so do an unknown
destination and an expired message.

What differs: sites run one after another and share one process (module globals, environment variables); a
reply is there as soon as `push_messages` returns, so nothing is ever late; nothing is encrypted on the way.
`simulations.flower_runtime` runs the same apps under Flower's own runtime.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count

from flwr.app import Context, Error, Message, Metadata, RecordDict, UserConfigValue
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as WireMessage
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from protocol.errors import FederationError, InputError, WireError

Tap = Callable[[Message, bytes], None]

_LOGGER = logging.getLogger(__name__)

# Flower keeps the running task's identity in a variable of the process, so two federations in two threads
# would send under each other's names. Re-entrant, because a site runs inside the server's turn.
_IDENTITY = threading.RLock()


class InMemoryGrid(Grid):
    """Deliver messages by calling the sites' `ClientApp` in this process, one after another.

    Node ids are 2, 3, ..., in the order of ``node_configs``. They do not start at 1 because that is Flower's
    own id for the server (``SUPERLINK_NODE_ID``): error replies that no site wrote carry it as their source.

    Args:
        client_app: The app that every site runs.
        node_configs: One mapping per site: its ``Context.node_config``.
        run_config: The run's configuration, the same for all sites.
        run_id: Flower's id of the run.
        tap: Sees every message that leaves a site, error replies included: first the message, then its
            serialised bytes. For tests of what is on the wire; it must not change the message.

    Raises:
        InputError: If there is no site.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Sequence[Mapping[str, UserConfigValue]],
        *,
        run_config: Mapping[str, UserConfigValue] | None = None,
        run_id: int = 1,
        tap: Tap | None = None,
    ) -> None:
        if not node_configs:
            raise InputError("The simulated federation has 0 sites.", remedy="Simulate one site or more.")
        self._client_app = client_app
        self._tap = tap
        self._run = Run.create_empty(run_id)
        self._contexts = {
            node_id: Context(run_id, node_id, dict(config), RecordDict(), dict(run_config or {}))
            for node_id, config in enumerate(node_configs, start=SUPERLINK_NODE_ID + 1)
        }
        self._numbers = count(1)
        self._deadlines: dict[str, float] = {}
        self._replies: dict[str, Message] = {}

    @property
    def run(self) -> Run:
        """The run: only its id means something here."""
        return Run(**vars(self._run))

    def set_run(self, run: Run) -> None:
        """Take over the description of the run.

        Raises:
            InputError: If its id is not the one that the sites already know.
        """
        if run.run_id != self._run.run_id:
            raise InputError(
                f"The grid's run id is {self._run.run_id}, not {run.run_id}.",
                remedy="Make a grid for each run.",
            )
        self._run = run

    @contextmanager
    def as_server(self) -> Iterator[None]:
        """Give this process the server's identity, without which no new `Message` can be made.

        `run_in_memory` does it for a `ServerApp`; code that drives the grid itself does it around its work.

        Raises:
            FederationError: If another thread of this process is inside a federation.
        """
        with _identity(run_id=self._run.run_id, node_id=SUPERLINK_NODE_ID):
            yield

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message from the server to a site; Flower prefers its ``Message`` constructor."""
        with self.as_server():
            return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the sites' node ids, in the order of their configurations."""
        return list(self._contexts)

    def context(self, node_id: int) -> Context:
        """Return a site's own context, as the site left it.

        Raises:
            InputError: If no site has this id.
        """
        if node_id not in self._contexts:
            raise InputError(f"No site has node id {node_id}.", remedy="Take one from get_node_ids().")
        return self._contexts[node_id]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run every message's site, in order, and keep the replies for `pull_messages`.

        Returns:
            One id per message; "" for one that Flower refuses too: unknown destination, or made for another
            run or by somebody who is not the server.

        Raises:
            WireError: If a message's time to live is not positive.
            FederationError: If another thread of this process is inside a federation.
        """
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Hand out the replies to these messages, each once.

        An id that is unknown, already answered or expired gets an error reply from the server's own node id,
        with Flower's code: ``MESSAGE_UNAVAILABLE`` or ``REPLY_MESSAGE_UNAVAILABLE``.
        """
        return [self._pull(message_id) for message_id in dict.fromkeys(message_ids)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push the messages and pull their replies; the timeout never cuts, since every reply is there."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _push(self, message: Message) -> str:
        metadata = message.metadata
        if metadata.ttl <= 0:
            raise WireError(
                f"A message to node {metadata.dst_node_id} has a time to live of {metadata.ttl} s.",
                remedy="Give it a positive one.",
            )
        known = metadata.dst_node_id in self._contexts
        if not known or metadata.src_node_id != SUPERLINK_NODE_ID or metadata.run_id != self._run.run_id:
            _LOGGER.warning("refused a message of run %d to node %d", metadata.run_id, metadata.dst_node_id)
            return ""
        message_id = f"message-{next(self._numbers)}"
        metadata.__dict__["_message_id"] = message_id  # as Flower's grids do: the property has no setter
        self._deadlines[message_id] = metadata.created_at + metadata.ttl
        if now().timestamp() <= self._deadlines[message_id]:
            self._deliver(message)
        return message_id

    def _deliver(self, message: Message) -> None:
        """Let the site answer, and keep an answer that shares nothing with it."""
        node_id = message.metadata.dst_node_id
        with _identity(run_id=self._run.run_id, node_id=node_id):
            wire = self._answer(message, self._contexts[node_id])
        reply = message_from_proto(wire)
        if self._tap is not None:
            self._tap(reply, wire.SerializeToString())
        self._replies[message.metadata.message_id] = reply

    def _answer(self, message: Message, context: Context) -> WireMessage:
        """Return the site's reply, or the error reply that Flower makes of its exception."""
        try:
            reply = self._client_app(message_from_proto(message_to_proto(message)), context)
            _check_reply(reply, message)
            return self._to_wire(reply)
        except Exception as failure:
            _LOGGER.exception("the app of node %d raised an exception", context.node_id)
            # The text is Flower's, and so is the leak: what an exception says travels to the server.
            error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(failure)}:<'{failure}'>")
            return self._to_wire(Message(error, reply_to=message))

    def _to_wire(self, reply: Message) -> WireMessage:
        reply.metadata.__dict__["_message_id"] = f"reply-{next(self._numbers)}"
        return message_to_proto(reply)

    def _pull(self, message_id: str) -> Message:
        deadline = self._deadlines.pop(message_id, 0.0)
        reply = self._replies.pop(message_id, None)
        moment = now().timestamp()
        if reply is None or deadline < moment:
            return self._unavailable(message_id, ErrorCode.MESSAGE_UNAVAILABLE)
        if reply.metadata.created_at + reply.metadata.ttl < moment:
            return self._unavailable(message_id, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
        return reply

    def _unavailable(self, message_id: str, code: int) -> Message:
        metadata = Metadata(
            run_id=self._run.run_id,
            message_id=f"reply-{next(self._numbers)}",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=SUPERLINK_NODE_ID,
            reply_to_message_id=message_id,
            group_id="",
            created_at=now().timestamp(),
            ttl=0,
            message_type=SYSTEM_MESSAGE_TYPE,
        )
        return make_message(metadata, error=Error(code=code, reason="The message or its reply has expired."))


def simulated_nodes(sites: int) -> list[dict[str, UserConfigValue]]:
    """Return the node configurations that Flower's own simulation gives to so many sites.

    >>> simulated_nodes(2)
    [{'partition-id': 0, 'num-partitions': 2}, {'partition-id': 1, 'num-partitions': 2}]
    """
    return [{PARTITION_ID_KEY: number, NUM_PARTITIONS_KEY: sites} for number in range(sites)]


def run_in_memory(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    node_configs: Sequence[Mapping[str, UserConfigValue]],
    run_config: Mapping[str, UserConfigValue],
    run_id: int = 1,
    tap: Tap | None = None,
) -> Context:
    """Run a server app against as many sites as there are node configurations.

    Args:
        server_app: The server's app.
        client_app: The app that every site runs.
        node_configs: One mapping per site, see `simulated_nodes`.
        run_config: The run's configuration; the server and every site get a copy.
        run_id: Flower's id of the run.
        tap: See `InMemoryGrid`.

    Returns:
        The server's context, as the app left it.

    Raises:
        InputError: If there is no site.
        FederationError: If another thread of this process is inside a federation.
        Exception: Whatever the server app raises, unchanged.
    """
    grid = InMemoryGrid(client_app, node_configs, run_config=run_config, run_id=run_id, tap=tap)
    context = Context(run_id, SUPERLINK_NODE_ID, {}, RecordDict(), dict(run_config))
    with grid.as_server():
        server_app(grid=grid, context=context)
    return context


@contextmanager
def _identity(*, run_id: int, node_id: int) -> Iterator[None]:
    """Be this node until the block ends, then whoever this process was before."""
    if not _IDENTITY.acquire(blocking=False):
        raise FederationError(
            "Another thread of this process is inside an in-memory federation.",
            remedy="Run one federation at a time, or each in its own process.",
        )
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    try:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = node_id, run_id, node_id
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
        _IDENTITY.release()


def _check_reply(reply: object, message: Message) -> None:
    """Refuse what Flower would drop without a word: its server would wait until the message expires."""
    remedy = "Return Message(..., reply_to=message)."
    if not isinstance(reply, Message):
        raise WireError(f"The client app returned a {type(reply).__name__}.", remedy=remedy)
    asked = (message.metadata.message_id, message.metadata.run_id, message.metadata.dst_node_id)
    answered = (reply.metadata.reply_to_message_id, reply.metadata.run_id, reply.metadata.src_node_id)
    if answered != asked:
        problem = f"The client app's reply has (message, run, node) {answered}, not {asked}."
        raise WireError(problem, remedy=remedy)
