"""The in-memory grid: delivers as Flower does, shares nothing, keeps every site's state to itself."""

import logging
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.message_pb2 import Message as WireMessage
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from protocol.errors import FederationError, InputError, WireError
from simulations.grid import InMemoryGrid, run_in_memory, simulated_nodes

Handler = Callable[[Message, Context], Message]


def content(vector: np.ndarray, **header: int | float | str | bytes) -> RecordDict:
    """The records that Cloister's messages hold: a header and one vector."""
    return RecordDict({"header": ConfigRecord({**header}), "vector": ArrayRecord({"0": Array(vector)})})


def client(handler: Handler) -> ClientApp:
    app = ClientApp()
    app.train("gradients")(handler)
    return app


def echo(message: Message, context: Context) -> Message:
    """Count the calls in the site's state and send the vector back, doubled."""
    calls = 1 + (int(context.state["calls"]["n"]) if "calls" in context.state else 0)
    context.state["calls"] = ConfigRecord({"n": calls})
    vector = message.content["vector"]["0"].numpy()
    header = {
        "calls": calls,
        "site": context.node_config["partition-id"],
        "study": context.run_config.get("study", ""),
        "node": TaskIdentity.node_id,
        "task_run": TaskIdentity.run_id,
    }
    return Message(content(2 * vector, **header), reply_to=message)


def ask(grid: InMemoryGrid, *, node_ids: list[int] | None = None, ttl: float | None = None) -> list[Message]:
    """Send one vector to every node and return the replies."""
    with grid.as_server():
        targets = grid.get_node_ids() if node_ids is None else node_ids
        vector = np.arange(3, dtype=np.int32)
        return grid.send_and_receive(
            [Message(content(vector, round=0), node, "train.gradients", ttl=ttl) for node in targets]
        )


def test_every_site_answers_with_its_own_identity_state_and_configuration() -> None:
    grid = InMemoryGrid(client(echo), simulated_nodes(3), run_config={"study": "s"}, run_id=7)
    for calls in (1, 2, 3):
        replies = ask(grid)
        headers = [dict(reply.content["header"]) for reply in replies]
        assert headers == [
            {"calls": calls, "site": site, "study": "s", "node": node, "task_run": 7}
            for site, node in enumerate(grid.get_node_ids())
        ]
        assert [reply.metadata.src_node_id for reply in replies] == grid.get_node_ids()
        for reply in replies:
            vector = reply.content["vector"]["0"].numpy()
            assert vector.dtype == np.int32
            assert vector.tolist() == [0, 2, 4]
    assert grid.context(3).state["calls"] == ConfigRecord({"n": 3})


def test_node_ids_are_deterministic_and_never_the_servers() -> None:
    grids = [InMemoryGrid(client(echo), simulated_nodes(4)) for _ in range(2)]
    assert grids[0].get_node_ids() == grids[1].get_node_ids() == [2, 3, 4, 5]
    assert SUPERLINK_NODE_ID not in grids[0].get_node_ids()
    assert [node.node_id for node in grids[0].get_nodes()] == [2, 3, 4, 5]


def test_messages_survive_every_kind_of_header_value() -> None:
    sent = {
        "round": 2**62,
        "clip": 0.1,
        "kind": "Grüße\n'\"",
        "key": b"\x00\xff",
        "flag": True,
        "list": [1, 2],
    }

    def mirror(message: Message, context: Context) -> Message:
        del context
        return Message(message.content, reply_to=message)

    grid = InMemoryGrid(client(mirror), simulated_nodes(1))
    records = content(np.array([np.nan, np.inf, -0.0], dtype=np.float32), **sent)
    with grid.as_server():
        (reply,) = grid.send_and_receive([Message(records, 2, "train.gradients", group_id="g")])
    assert dict(reply.content["header"]) == sent
    assert reply.content["vector"]["0"].numpy().tobytes() == records["vector"]["0"].numpy().tobytes()
    assert reply.metadata.group_id == "g"
    assert reply.metadata.message_type == "train.gradients"
    assert reply.metadata.dst_node_id == SUPERLINK_NODE_ID


def vandal(message: Message, context: Context) -> Message:
    """Change everything that arrived, and keep hold of what is sent."""
    del context
    seen = message.content["header"]["numbers"]
    message.content["header"]["numbers"].append(99)
    message.metadata.__dict__["_message_id"] = "forged"
    message.metadata.__dict__["_reply_to_message_id"] = ""
    return Message(RecordDict({"header": ConfigRecord({"numbers": seen})}), reply_to=message)


def test_sites_share_no_content_with_each_other_or_with_the_server() -> None:
    kept: list[list[int]] = []

    def keep(message: Message, context: Context) -> Message:
        numbers = message.content["header"]["numbers"]
        numbers.append(context.node_id)
        kept.append(numbers)
        return Message(RecordDict({"header": ConfigRecord({"numbers": numbers})}), reply_to=message)

    grid = InMemoryGrid(client(keep), simulated_nodes(2))
    shared = RecordDict({"header": ConfigRecord({"numbers": [1]})})
    with grid.as_server():
        replies = grid.send_and_receive([Message(shared, node, "train.gradients") for node in (2, 3)])
    kept[0].append(100)
    assert shared["header"]["numbers"] == [1]
    assert [reply.content["header"]["numbers"] for reply in replies] == [[1, 2], [1, 3]]


def test_calling_the_app_without_the_grid_would_share_content() -> None:
    """The broken twin: what the passage through protobuf is for."""
    shared = RecordDict({"header": ConfigRecord({"numbers": [1]})})
    grid = InMemoryGrid(client(echo), simulated_nodes(1))
    with grid.as_server():
        message = Message(shared, 2, "train.gradients")
        vandal(message, grid.context(2))
    assert shared["header"]["numbers"] == [1, 99]


def test_a_reply_to_something_else_becomes_an_error_and_reaches_the_right_asker() -> None:
    grid = InMemoryGrid(client(vandal), simulated_nodes(1))
    with grid.as_server():
        message = Message(RecordDict({"header": ConfigRecord({"numbers": [1]})}), 2, "train.gradients")
        (reply,) = grid.send_and_receive([message])
    assert reply.has_error()
    assert "forged" in str(reply.error.reason)
    assert reply.metadata.reply_to_message_id == message.metadata.message_id == "message-1"


def test_an_app_that_returns_no_message_becomes_an_error() -> None:
    grid = InMemoryGrid(client(lambda *_: None), simulated_nodes(1))
    (reply,) = ask(grid)
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "NoneType" in str(reply.error.reason)


def test_an_exception_is_an_error_reply_and_the_other_sites_still_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail_at_three(message: Message, context: Context) -> Message:
        if context.node_id == 3:
            context.state["touched"] = ConfigRecord({"yes": True})
            raise ZeroDivisionError("division by zero")
        return echo(message, context)

    grid = InMemoryGrid(client(fail_at_three), simulated_nodes(3))
    with caplog.at_level(logging.ERROR):
        replies = ask(grid)
    assert [reply.has_error() for reply in replies] == [False, True, False]
    # golden: the format of flwr.supernode.runtime.run_clientapp 1.41
    assert replies[1].error.reason == "<class 'ZeroDivisionError'>:<'division by zero'>"
    assert replies[1].error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert replies[1].metadata.src_node_id == 3
    assert "touched" in grid.context(3).state
    assert "node 3" in caplog.text


def test_a_message_type_without_a_function_is_an_error_reply() -> None:
    grid = InMemoryGrid(client(echo), simulated_nodes(1))
    with grid.as_server():
        (reply,) = grid.send_and_receive([Message(RecordDict(), 2, "query.nothing")])
    assert "No query function registered with name 'nothing'" in str(reply.error.reason)


@pytest.mark.parametrize("stranger", [0, SUPERLINK_NODE_ID, 4, 999])
def test_an_unknown_destination_gets_no_id_and_an_error_reply(stranger: int) -> None:
    grid = InMemoryGrid(client(echo), simulated_nodes(2))
    replies = ask(grid, node_ids=[stranger, 3])
    assert replies[0].error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert replies[0].metadata.src_node_id == SUPERLINK_NODE_ID
    assert not replies[1].has_error()
    with grid.as_server():
        assert grid.push_messages([Message(RecordDict(), stranger, "train.gradients")]) == [""]


def test_a_message_of_another_run_or_from_a_site_is_refused() -> None:
    grid, other = (InMemoryGrid(client(echo), simulated_nodes(1), run_id=run) for run in (1, 2))
    foreign = other.create_message(RecordDict(), "train.gradients", 2, "")
    forged = grid.create_message(RecordDict(), "train.gradients", 2, "")
    forged.metadata.__dict__["_src_node_id"] = 2
    assert grid.push_messages([foreign, forged]) == ["", ""]


def test_an_expired_message_is_not_delivered() -> None:
    calls: list[int] = []

    def count_calls(message: Message, context: Context) -> Message:
        calls.append(context.node_id)
        return echo(message, context)

    grid = InMemoryGrid(client(count_calls), simulated_nodes(1))
    message = grid.create_message(content(np.zeros(1)), "train.gradients", 2, "", ttl=0.01)
    time.sleep(0.02)
    (reply,) = grid.pull_messages(grid.push_messages([message]))
    assert reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert calls == []


@pytest.mark.parametrize(
    ("ttl", "reply_ttl", "code"),
    [
        (0.05, None, ErrorCode.MESSAGE_UNAVAILABLE),
        (60.0, 0.05, ErrorCode.REPLY_MESSAGE_UNAVAILABLE),
        (60.0, None, None),
    ],
)
def test_an_answer_can_be_pulled_while_it_lives(ttl: float, reply_ttl: float | None, code: int | None) -> None:
    def answer(message: Message, context: Context) -> Message:
        del context
        return Message(RecordDict(), reply_to=message, ttl=reply_ttl)

    grid = InMemoryGrid(client(answer), simulated_nodes(1))
    ids = grid.push_messages([grid.create_message(RecordDict(), "train.gradients", 2, "", ttl=ttl)])
    time.sleep(0.08)
    (reply,) = grid.pull_messages(ids)
    assert (reply.error.code if reply.has_error() else None) == code


def test_a_time_to_live_that_is_not_positive_is_refused() -> None:
    grid = InMemoryGrid(client(echo), simulated_nodes(1))
    message = grid.create_message(RecordDict(), "train.gradients", 2, "")
    message.metadata.ttl = -1.0
    with pytest.raises(WireError, match=r"-1\.0 s"):
        grid.push_messages([message])


def test_a_reply_is_handed_out_once() -> None:
    grid = InMemoryGrid(client(echo), simulated_nodes(1))
    ids = grid.push_messages([grid.create_message(content(np.zeros(1)), "train.gradients", 2, "")])
    first, second = grid.pull_messages([*ids, *ids]), grid.pull_messages(ids)
    assert [reply.has_error() for reply in first + second] == [False, True]


def test_the_tap_sees_every_byte_that_leaves_a_site() -> None:
    marker = "planted-marker-record"
    seen: list[tuple[Message, bytes]] = []

    def leak(message: Message, context: Context) -> Message:
        if context.node_id == 2:
            raise ValueError(marker)
        return Message(RecordDict({"header": ConfigRecord({"text": marker})}), reply_to=message)

    def tap(message: Message, wire: bytes) -> None:
        seen.append((message, wire))

    grid = InMemoryGrid(client(leak), simulated_nodes(2), tap=tap)
    replies = ask(grid)
    assert [message.metadata.message_id for message, _ in seen] == [r.metadata.message_id for r in replies]
    assert [marker.encode() in wire for _, wire in seen] == [True, True], "an exception's text leaves a site too"
    assert WireMessage.FromString(seen[1][1]).metadata.src_node_id == 3


def test_the_tap_sees_nothing_that_the_server_sends() -> None:
    seen: list[bytes] = []
    grid = InMemoryGrid(client(echo), simulated_nodes(1), tap=lambda _, wire: seen.append(wire))
    message = grid.create_message(content(np.zeros(1), note="from-the-server"), "train.gradients", 2, "")
    assert grid.push_messages([message, message]) == ["message-1", "message-3"]
    assert len(seen) == 2
    assert not any(b"from-the-server" in wire for wire in seen)


def identity() -> tuple[int | None, int | None, int | None]:
    return TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id


def test_a_server_app_runs_and_the_process_gets_its_identity_back() -> None:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        for number in range(3):
            messages = [Message(content(np.full(2, number)), node, "train.gradients") for node in grid.get_node_ids()]
            waiting = set(grid.push_messages(messages))
            while waiting:
                for reply in grid.pull_messages(waiting):
                    waiting.discard(reply.metadata.reply_to_message_id)
                    context.state[f"{number}-{reply.metadata.src_node_id}"] = reply.content["header"]
            assert TaskIdentity.node_id == SUPERLINK_NODE_ID

    before = identity()
    context = run_in_memory(app, client(echo), node_configs=simulated_nodes(3), run_config={"study": "s"}, run_id=5)
    assert identity() == before
    assert context.run_id == 5
    assert len(context.state) == 9
    assert context.state["2-4"] == ConfigRecord({"calls": 3, "site": 2, "study": "s", "node": 4, "task_run": 5})


def test_what_the_server_app_raises_comes_through_and_the_identity_is_restored() -> None:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        raise FederationError(f"Too few sites: {grid.get_node_ids()} {context.node_id}.", remedy="Invite more.")

    before = identity()
    with pytest.raises(FederationError, match="Too few sites"):
        run_in_memory(app, client(echo), node_configs=simulated_nodes(1), run_config={})
    assert identity() == before


def test_two_threads_cannot_share_the_identity_of_the_process() -> None:
    grid = InMemoryGrid(client(echo), simulated_nodes(1))
    problems: list[FederationError] = []

    def intrude() -> None:
        try:
            ask(grid)
        except FederationError as problem:
            problems.append(problem)

    with grid.as_server():
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
    assert len(problems) == 1
    assert not ask(grid)[0].has_error()


def test_the_run_is_fixed_when_the_grid_is_made() -> None:
    grid = InMemoryGrid(client(echo), simulated_nodes(1), run_id=3)
    run = Run.create_empty(3)
    run.fab_hash = "abc"
    grid.set_run(run)
    assert (grid.run.run_id, grid.run.fab_hash) == (3, "abc")
    with pytest.raises(InputError, match="run id is 3, not 4"):
        grid.set_run(Run.create_empty(4))


def test_a_federation_needs_a_site_and_a_context_needs_a_node() -> None:
    with pytest.raises(InputError, match="0 sites"):
        InMemoryGrid(client(echo), [])
    with pytest.raises(InputError, match="node id 1"):
        InMemoryGrid(client(echo), simulated_nodes(1)).context(1)
