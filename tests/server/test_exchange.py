"""Sending and receiving: once in a simulation, again and again in a job, and never longer than the deadline."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from protocol.study import Study
from server.cohort import HELLO, fresh_hello
from server.exchange import Persistence, exchange

NORTH, SOUTH = 2, 3


@pytest.fixture
def post(
    tiny_study: Callable[..., Study], deployment: Callable[..., AbstractContextManager[Any]]
) -> Callable[..., tuple[list[int], Any]]:
    """Return a function that says hello to two nodes; it gives who answered, in order, and the grid."""

    def send(prepare: Callable[[Any], None], *, persistent: bool = True, **more: Any) -> tuple[list[int], Any]:
        with deployment(tiny_study()) as deployed, deployed.grid.as_server():
            prepare(deployed.grid)
            contents = {node: fresh_hello(deployed.study)[1] for node in (NORTH, SOUTH)}
            persistence = Persistence(**({"enough": 2, "idle": lambda: False} | more)) if persistent else None
            found = exchange(deployed.grid, contents, message_type=HELLO, deadline=300.0, persistence=persistence)
            return [node for node, _ in found], deployed.grid

    return send


def sent_to(grid: Any, node: int) -> int:
    return sum(1 for to, _ in grid.pushed if to == node)


class Once:
    """Loses the first messages to the second node."""

    def __init__(self, grid: Any, times: int = 1) -> None:
        self.left = times
        grid.lost = self

    def __call__(self, message: Message) -> bool:
        if message.metadata.dst_node_id != SOUTH or not self.left:
            return False
        self.left -= 1
        return True


def test_who_answers_is_asked_once(post: Any, clock: Any) -> None:
    began = clock.now
    answered, grid = post(lambda _: None)
    assert answered == [NORTH, SOUTH]
    assert len(grid.pushed) == 2
    assert clock.now == began, "nobody was waited for"


def test_a_node_that_is_activated_anew_is_sent_the_same_again(post: Any, clock: Any) -> None:
    began = clock.now

    def prepare(grid: Any) -> None:
        Once(grid)
        grid.on_idle = lambda looks: looks == 4 and grid.restart(SOUTH)

    answered, grid = post(prepare)
    assert answered == [NORTH, SOUTH]
    assert sent_to(grid, SOUTH) == 2
    assert clock.now - began < 5.0
    first, again = (content for node, _, content in grid.contents if node == SOUTH)
    assert first == again


def test_what_was_lost_without_a_word_is_sent_again_after_a_minute(post: Any, clock: Any) -> None:
    began = clock.now
    answered, grid = post(lambda grid: Once(grid) and None)
    assert answered == [NORTH, SOUTH]
    assert sent_to(grid, SOUTH) == 2
    assert 60.0 <= clock.now - began < 63.0


def test_the_deadline_ends_it(post: Any, clock: Any) -> None:
    began = clock.now
    answered, grid = post(lambda grid: setattr(grid, "lost", lambda message: message.metadata.dst_node_id == SOUTH))
    assert answered == [NORTH]
    assert clock.now - began == pytest.approx(300.0)
    assert sent_to(grid, SOUTH) == 5, "at once, and after each full minute"
    assert grid.looks < 1500, "it looks less and less often"


def test_a_late_answer_to_an_earlier_copy_counts(post: Any) -> None:
    """Both copies come through at last, and the node counts once."""

    def prepare(grid: Any) -> None:
        held: list[Message] = []
        deliver = grid._deliver

        def late(message: Message) -> None:
            if message.metadata.dst_node_id != SOUTH:
                deliver(message)
                return
            held.append(message)
            grid._silent[message.metadata.message_id] = SOUTH
            if len(held) == 3:
                for each in held:
                    del grid._silent[each.metadata.message_id]
                    deliver(each)

        grid._deliver = late

    answered, _ = post(prepare)
    assert answered == [NORTH, SOUTH]


def test_who_was_away_from_the_start_is_not_waited_for_where_others_are_enough(post: Any, clock: Any) -> None:
    began = clock.now
    answered, _ = post(lambda grid: grid.away.add(SOUTH), enough=1)
    assert answered == [NORTH]
    assert clock.now == began
    answered, _ = post(lambda grid: grid.away.add(SOUTH), enough=2)
    assert answered == [NORTH]
    assert clock.now - began == pytest.approx(300.0)


def test_a_node_that_is_away_is_asked_when_it_is_back(post: Any, clock: Any) -> None:
    began = clock.now

    def prepare(grid: Any) -> None:
        grid.away.add(SOUTH)
        grid.on_idle = lambda looks: looks == 20 and grid.restart(SOUTH)

    answered, _ = post(prepare)
    assert answered == [NORTH, SOUTH]
    assert clock.now - began < 60.0


def test_it_breaks_off_when_it_is_told_to(post: Any) -> None:
    calls = []
    answered, _ = post(lambda grid: grid.away.add(SOUTH), idle=lambda: bool(calls.append(1)) or len(calls) > 3)
    assert answered == [NORTH]
    assert len(calls) == 4


def test_a_simulation_leaves_out_whom_flower_calls_unavailable(post: Any, clock: Any) -> None:
    began = clock.now
    answered, grid = post(lambda grid: grid.away.add(SOUTH), persistent=False)
    assert answered == [NORTH]
    assert sent_to(grid, SOUTH) == 1
    assert clock.now == began


def test_a_grid_that_takes_nothing_is_waited_out(post: Any, clock: Any) -> None:
    """Flower's grid returns no ids at all where a request is too large."""
    began = clock.now
    for persistent, waited in ((False, 0.0), (True, 300.0)):
        answered, _ = post(lambda grid: setattr(grid, "push_messages", lambda _: []), persistent=persistent)
        assert answered == []
        assert clock.now - began == pytest.approx(waited)


def test_nobody_to_ask_is_no_exchange(deployment: Any, tiny_study: Any) -> None:
    with deployment(tiny_study()) as deployed:
        assert list(exchange(deployed.grid, dict[int, RecordDict](), message_type=HELLO, deadline=1.0)) == []
        assert deployed.grid.looks == 0
