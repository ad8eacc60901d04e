"""A reply that is announced and not all there holds nobody up; Flower's own grid would wait for it."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from client.app import app
from protocol.errors import CloisterError
from server.unhurried_grid import UnhurriedGrid, unhurried
from simulations.grid import InMemoryGrid

NORTH, SOUTH = "1" * 64, "2" * 64


class SuperLink:
    """As much of the Runtime API as pulling replies takes; a part that is withheld is announced and not there."""

    def __init__(self) -> None:
        self.announced: dict[str, tuple[Any, Any]] = {}
        self.parts: dict[str, bytes] = {}
        self.withheld: set[str] = set()
        self.confirmed: list[str] = []
        self.pulled: list[str] = []

    def announce(self, request: str, content: RecordDict) -> list[str]:
        """Announce a reply to a request; returns the ids of its parts, the first of which is its own."""
        reply = Message(content, dst_node_id=1, message_type="train.gradients")
        reply.metadata.__dict__["_reply_to_message_id"] = request
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree, parts = get_object_tree(reply), get_all_nested_objects(reply)
            self.parts |= {name: part.deflate() for name, part in parts.items()}
            self.announced[request] = (message_to_proto(remove_content_from_message(reply)), tree)
        return [tree.object_id, *(name for name in parts if name != tree.object_id)]

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:  # noqa: N802 - Flower's name
        found = [self.announced.pop(name) for name in request.message_ids if name in self.announced]
        return PullAppMessagesResponse(
            messages_list=[message for message, _ in found], message_object_trees=[tree for _, tree in found]
        )

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        name = request.object_id
        self.pulled.append(name)
        there = name in self.parts and name not in self.withheld
        content = self.parts[name] if there else b""
        return PullObjectResponse(object_found=name in self.parts, object_available=there, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> SuperLink:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 7)
    return SuperLink()


@pytest.fixture
def flower(link: SuperLink) -> HttpGrid:
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="token")  # noqa: S106 - nobody asks for it
    grid._client = link  # type: ignore[assignment]
    grid._run = SimpleNamespace(run_id=7)  # type: ignore[assignment]
    grid.node = Node(node_id=1)
    return grid


def content(number: int) -> RecordDict:
    return RecordDict({"vector": ArrayRecord({"0": Array(np.full(1000, number, dtype=np.int32))})})


def numbers(replies: list[Message]) -> list[int]:
    return [int(reply.content["vector"]["0"].numpy()[0]) for reply in replies]


def test_what_is_whole_is_returned_and_confirmed(link, flower):
    grid = UnhurriedGrid(flower)
    north = link.announce(NORTH, content(1))
    link.announce(SOUTH, content(2))
    assert sorted(numbers(grid.pull_messages([NORTH, SOUTH]))) == [1, 2]
    assert len(link.confirmed) == 2
    assert north[0] in link.confirmed
    assert grid.pull_messages([NORTH, SOUTH]) == []


def test_a_reply_on_its_way_holds_no_other_up_and_is_returned_when_it_is_whole(link, flower):
    grid = UnhurriedGrid(flower)
    parts = link.announce(NORTH, content(1))
    link.announce(SOUTH, content(2))
    link.withheld = {parts[0]}
    (reply,) = grid.pull_messages([NORTH, SOUTH])
    assert (numbers([reply]), reply.metadata.reply_to_message_id) == ([2], SOUTH)
    assert grid.pull_messages([NORTH]) == []
    assert parts[0] not in link.confirmed
    link.withheld = set()
    before = len(link.pulled)
    assert numbers(grid.pull_messages([NORTH])) == [1]
    assert link.pulled[before:] == [parts[0]], "what was fetched is not fetched again"


def test_flowers_own_grid_waits_for_it(link, flower):
    """The broken twin: nobody who waits so has deadlines."""
    parts = link.announce(NORTH, content(1))
    link.withheld = {parts[-1]}
    thread = threading.Thread(target=lambda: list(flower.pull_messages([NORTH])), daemon=True)
    thread.start()
    thread.join(3.0)
    assert thread.is_alive()
    link.withheld = set()
    thread.join(30.0)
    assert not thread.is_alive()


def test_what_will_never_be_whole_becomes_flowers_error(link, flower):
    grid = UnhurriedGrid(flower)
    parts = link.announce(NORTH, content(1))
    link.withheld = {parts[-1]}
    assert grid.pull_messages([NORTH]) == []
    del link.parts[parts[-1]]  # the SuperLink gave the sender up
    (reply,) = grid.pull_messages([NORTH])
    assert reply.has_error()
    assert reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert reply.metadata.reply_to_message_id == NORTH
    assert link.confirmed == []
    assert grid.pull_messages([NORTH]) == []


def test_a_reply_that_nobody_asks_for_now_is_kept_for_who_does(link, flower):
    grid = UnhurriedGrid(flower)
    parts = link.announce(NORTH, content(1))
    link.withheld = {parts[-1]}
    assert grid.pull_messages([NORTH]) == []
    link.withheld = set()
    assert grid.pull_messages([SOUTH]) == []
    assert numbers(grid.pull_messages([NORTH])) == [1]


def test_a_simulation_keeps_its_grid(flower):
    grid = InMemoryGrid(app, [{}])
    assert unhurried(grid) is grid
    assert isinstance(unhurried(flower), UnhurriedGrid)


def test_a_reply_that_cannot_be_read_is_an_error_of_its_node_alone(link, flower):
    grid = UnhurriedGrid(flower)
    parts = link.announce(NORTH, content(1))
    link.announce(SOUTH, content(2))
    # The last part is the content of the vector's array, with its form in JSON before the numbers.
    for name in parts[1:]:
        link.parts[name] = link.parts[name][:20] + b"\xff" * 40
    replies = {reply.metadata.reply_to_message_id: reply for reply in grid.pull_messages([NORTH, SOUTH])}
    assert replies[NORTH].has_error()
    assert replies[NORTH].error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert numbers([replies[SOUTH]]) == [2]


def test_flowers_own_grid_falls_over_it(link, flower):
    """The broken twin: one site ends everybody's study."""
    parts = link.announce(NORTH, content(1))
    for name in parts[1:]:
        link.parts[name] = link.parts[name][:20] + b"\xff" * 40
    with pytest.raises(Exception) as fallen:  # noqa: PT011, B017 - whatever it is, it is not caught
        flower.pull_messages([NORTH])
    assert not isinstance(fallen.value, CloisterError)
