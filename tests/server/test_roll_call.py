"""The sites of a job among nodes that come and go."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Message

from client.approvals import Approvals
from protocol.messages import Introduction, Refusal, RefusalReason, decode, encode
from protocol.study import Study
from server.roll_call import RollCall

MakeStudy = Callable[..., Study]
Deploy = Callable[..., AbstractContextManager[Any]]
NORTH, SOUTH = 2, 3


def steps(roll_call: RollCall, clock: Any, seconds: float) -> int:
    """Let time pass, a second at a time; returns how many sites found a place."""
    found = 0
    for _ in range(int(seconds)):
        found += roll_call.step()
        clock.sleep(1.0)
    return found


def hellos(grid: Any, node: int) -> int:
    return sum(1 for to, _ in grid.pushed if to == node)


def meddled(grid: Any, change: Callable[[Introduction], Any]) -> None:
    """Change what the second node answers."""
    pull = grid.pull_messages

    def pull_changed(numbers: Any) -> list[Message]:
        replies = pull(numbers)
        for reply in replies:
            if reply.metadata.src_node_id == SOUTH and not reply.has_error():
                reply.content = encode(change(decode(reply.content, Introduction)))
        return replies

    grid.pull_messages = pull_changed


def test_a_site_is_greeted_once(tiny_study: MakeStudy, deployment: Deploy, clock: Any) -> None:
    with deployment(tiny_study()) as deployed, deployed.grid.as_server():
        roll_call = RollCall(deployed.grid, deployed.study)
        assert roll_call.step()
        assert dict(roll_call.cohort.nodes) == {"north": NORTH, "south": SOUTH}
        assert roll_call.settled
        assert steps(roll_call, clock, 200) == 0
        assert len(deployed.grid.pushed) == 2
        # Started anew, it is greeted again: it may run other code now.
        deployed.grid.restart(SOUTH)
        steps(roll_call, clock, 5)
        assert hellos(deployed.grid, SOUTH) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda said: replace(said, signature="0" * 128),
        lambda said: replace(said, code="0" * 64),
        lambda said: replace(said, study="0" * 64),
        lambda said: replace(said, site="north"),
        lambda said: replace(said, site="west"),
        lambda _: Refusal(reason=RefusalReason.NOT_APPROVED),
    ],
    ids=["unsigned", "other code", "other study", "another's name", "a stranger's name", "a refusal"],
)
def test_who_is_no_site_gets_no_place_and_is_greeted_less_and_less(
    tiny_study: MakeStudy, deployment: Deploy, clock: Any, change: Callable[[Introduction], Any]
) -> None:
    with deployment(tiny_study()) as deployed, deployed.grid.as_server():
        meddled(deployed.grid, change)
        roll_call = RollCall(deployed.grid, deployed.study)
        steps(roll_call, clock, 600)
        assert dict(roll_call.cohort.nodes) == {"north": NORTH}
        assert set(roll_call.refusals) == {SOUTH}
        assert hellos(deployed.grid, NORTH) == 1
        assert 8 <= hellos(deployed.grid, SOUTH) <= 20


def test_a_site_that_runs_other_code_loses_its_place(tiny_study: MakeStudy, deployment: Deploy, clock: Any) -> None:
    with deployment(tiny_study()) as deployed, deployed.grid.as_server():
        roll_call = RollCall(deployed.grid, deployed.study)
        roll_call.step()
        clock.sleep(5.0)
        meddled(deployed.grid, lambda _: Refusal(reason=RefusalReason.CODE))
        deployed.grid.restart(SOUTH)
        roll_call.step()
        assert dict(roll_call.cohort.nodes) == {"north": NORTH}
        assert set(roll_call.cohort.keys) == {"north", "south"}, "it took part"


def test_the_old_node_of_a_site_does_not_take_its_place_back(
    tiny_study: MakeStudy, deployment: Deploy, clock: Any
) -> None:
    """Two processes of one site: the last to come has the place, and they do not take turns."""
    with deployment(tiny_study(), twice=1) as deployed, deployed.grid.as_server():
        deployed.grid.away = {4}
        roll_call = RollCall(deployed.grid, deployed.study)
        roll_call.step()
        deployed.grid.restart(4)
        assert steps(roll_call, clock, 300) == 1
        assert dict(roll_call.cohort.nodes) == {"north": 4, "south": SOUTH}
        assert hellos(deployed.grid, NORTH) == 1


def test_without_a_roster_the_first_to_come_are_the_sites(
    tiny_study: MakeStudy, deployment: Deploy, clock: Any
) -> None:
    study = tiny_study()
    with deployment(study, strangers=("visitor",)) as deployed, deployed.grid.as_server():
        for site in deployed.sites.values():
            site.approvals = Approvals([study])
        deployed.grid.away = {4}
        first = RollCall(deployed.grid, study)
        first.step()
        deployed.grid.restart(4)
        steps(first, clock, 100)
        assert set(first.cohort.nodes) == {"north", "south"}
        # A run that is taken up again keeps its sites under their keys.
        deployed.grid.away = {NORTH}
        again = RollCall(deployed.grid, study, keys=first.cohort.keys)
        steps(again, clock, 100)
        assert dict(again.cohort.nodes) == {"south": SOUTH}
        assert again.names == {"north", "south"}
