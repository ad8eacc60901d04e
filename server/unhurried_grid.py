"""A grid that waits for no reply that is still on its way.

Flower announces a reply first and sends its parts afterwards, and Flower's own grid, once it has heard of a reply,
waits for the last of its parts: for three minutes where the sender has fallen silent in between, for as long as it
likes where it goes on announcing, and with every other reply behind it. A site that is frozen or cut off at that
moment would delay a round by far more than the study's deadline.

Taken from inside Flower 1.41, and to be looked at again when the version moves: the client of the Runtime API in
`HttpGrid`, and the form of messages as trees of content-addressed objects.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, Metadata, ObjectTree, PullObjectRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

_LOGGER = logging.getLogger("cloister.server")
_WORKERS = 8
_MOST_COMING = 1024


@dataclass(kw_only=True, eq=False)
class _Coming:
    """A reply of which not everything is there yet.

    ``missing`` are the ids of its objects that were not fetched, in the order in which they are tried; ``gone`` says
    that one of them will never be there.
    """

    metadata: Metadata
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    gone: bool = False


class UnhurriedGrid(Grid):
    """Flower's grid of a ServerApp, but that `pull_messages` returns at once with the replies that are whole.

    The parts of the others are kept, and what is missing is looked for at the next call.

    Args:
        grid: Flower's own, whose owner closes it.
    """

    def __init__(self, grid: HttpGrid) -> None:
        self._grid = grid
        self._coming: OrderedDict[str, _Coming] = OrderedDict()
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="cloister-replies")

    @property
    def run(self) -> Run:
        """See Flower."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """See Flower."""
        self._grid.set_run(run)

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, *more: Any) -> Message:
        """See Flower."""
        return self._grid.create_message(content, message_type, dst_node_id, *more)

    def get_node_ids(self) -> Iterable[int]:
        """See Flower."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """See Flower."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See Flower."""
        return self._grid.push_messages(messages)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See Flower; it waits as Flower does."""
        return self._grid.send_and_receive(messages, timeout=timeout)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to some messages that are whole by now, and an error for each that never will be."""
        asked = set(message_ids)
        answer = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=asked))
        for message, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            self._coming[tree.object_id] = _Coming(metadata=message.metadata, missing=_objects(tree))
        while len(self._coming) > _MOST_COMING:
            self._coming.popitem(last=False)
        awaited = [name for name, coming in self._coming.items() if coming.metadata.reply_to_message_id in asked]
        list(self._workers.map(self._fetch, [self._coming[name] for name in awaited]))
        over = [name for name in awaited if self._coming[name].gone or not self._coming[name].missing]
        return [self._reply(name, self._coming.pop(name)) for name in over]

    def _fetch(self, coming: _Coming) -> None:
        """Fetch what is there of a reply, up to the first object that is not."""
        while coming.missing:
            name = coming.missing[0]
            request = PullObjectRequest(node=self._grid.node, run_id=coming.metadata.run_id, object_id=name)
            found = self._grid._runtime_client.PullObject(request)
            coming.gone = not found.object_found
            if not found.object_available:
                return
            coming.contents[name] = bytes(found.object_content)
            del coming.missing[0]

    def _reply(self, name: str, coming: _Coming) -> Message:
        """Return a reply, or Flower's error in its place."""
        metadata = coming.metadata
        if coming.gone:
            reason = "The sender of the reply fell silent before it had sent all of it."
            error = Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=reason)
            return make_message(metadata=metadata_from_proto(metadata), error=error)
        request = ConfirmMessageReceivedRequest(
            node=self._grid.node, run_id=metadata.run_id, message_object_id=name
        )  # the SuperLink may forget its parts
        self._grid._runtime_client.ConfirmMessageReceived(request)
        try:
            message = cast(Message, inflate_object_from_contents(name, coming.contents))
        except Exception:  # noqa: BLE001 - Flower takes apart what a site sent, and raises whatever it stumbles over
            _LOGGER.warning("node %d sent a reply that cannot be read", metadata.src_node_id)
            error = Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason="The reply cannot be read.")
            return make_message(metadata=metadata_from_proto(metadata), error=error)
        # As Flower's grid does: the object cannot hold the hash of itself.
        message.metadata.__dict__["_message_id"] = name
        return message


def unhurried(grid: Grid) -> Grid:
    """Return a grid that waits for no reply: of Flower's deployment runtime another one, of a simulation the same."""
    return UnhurriedGrid(grid) if isinstance(grid, HttpGrid) else grid


def _objects(tree: ObjectTree) -> list[str]:
    """Return the ids of a tree of objects, each once."""
    return list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
