"""A job waits for its sites, takes up who comes back, and passes over who has no place in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from client.approvals import Approvals
from protocol.study import Study
from server.progress import JobState, Progress
from server.release import Release
from server.verification import read_transcript, verify_release
from strategies.gradients import GradientDescent

MakeStudy = Callable[..., Study]
Deploy = Callable[..., AbstractContextManager[Any]]
SIX = ("a", "b", "c", "d", "e", "f")
SUM: dict[str, Any] = {"privacy": {"trust": "sum"}, "federation": {"sites": 6, "dropouts": 1, "deadline": 20.0}}
SOON: dict[str, Any] = {"federation": {"deadline": 20.0}}


def told(deployed: Any) -> Progress:
    found = Progress.read(deployed.folder / "progress.json")
    assert found is not None
    return found


def provenance(deployed: Any) -> Any:
    return Release.open(deployed.folder / "release", device=torch.device("cpu")).provenance


def contributions(deployed: Any) -> dict[str, int]:
    return {name: site["contributions"] for name, site in provenance(deployed)["sites"].items()}


def stage(message: Message) -> str:
    """What a message asks for, as in ``RoundStart:2``."""
    part = message.content.config_records.get("sum")
    header = message.content.config_records["header"]
    return f"{header['type'] if part is None else part['type']}:{header.get('round', 0)}"


class Absence:
    """A node that goes away when it is sent something, and is back after some looks."""

    def __init__(self, grid: Any, node: int, at: str, *, looks: int = 20) -> None:
        self.grid, self.node, self.at, self.looks = grid, node, at, looks
        self.until: int | None = None
        grid.lost, grid.on_idle = self.lost, self.look

    def lost(self, message: Message) -> bool:
        if self.until is None and message.metadata.dst_node_id == self.node and stage(message) == self.at:
            self.until = self.grid.looks + self.looks
            self.grid.away.add(self.node)
        return message.metadata.dst_node_id in self.grid.away

    def look(self, number: int) -> None:
        if self.until is not None and number >= self.until and self.node in self.grid.away:
            self.grid.restart(self.node)


def test_it_waits_for_the_quorum_to_come(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study(**SOON)) as deployed:
        deployed.grid.away, seen = {3}, []

        def come(number: int) -> None:
            seen.append(told(deployed))
            if number == 20:
                deployed.grid.restart(3)

        deployed.grid.on_idle = come
        deployed.serve()
        assert dict(seen[10].sites) == {"north": "here", "south": "away"}
        assert seen[10].state is JobState.WAITING
        assert "1 of 2 sites" in seen[10].message
        assert contributions(deployed) == {"north": 3, "south": 3}


@pytest.mark.parametrize("looks", [3, 300])
def test_a_site_that_was_killed_in_a_round_is_asked_again(
    without_noise: MakeStudy, deployment: Deploy, looks: int
) -> None:
    """Back within the deadline or after it: the round is the same, and costs once."""
    with deployment(without_noise()) as undisturbed:
        undisturbed.serve()
    with deployment(without_noise(federation={"deadline": 20.0})) as deployed:
        absence = Absence(deployed.grid, 3, "round-request:2", looks=looks)
        deployed.serve()
        assert absence.until is not None
        assert deployed.weights() == undisturbed.weights()
        assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2, 3]}


def test_a_reply_that_was_lost_is_sent_again_for_free(without_noise: MakeStudy, deployment: Deploy) -> None:
    """The site answers, is charged, and its answer comes to nobody: it is killed right after it sealed it."""
    with deployment(without_noise()) as undisturbed:
        undisturbed.serve()
    with deployment(without_noise(**SOON)) as deployed:
        grid, lost = deployed.grid, []
        deliver = grid._deliver

        def deliver_and_lose(message: Message) -> None:
            deliver(message)
            if message.metadata.dst_node_id == 3 and stage(message) == "round-request:2" and not lost:
                lost.append(deployed.charges()["south"])
                del grid._replies[message.metadata.message_id]
                grid._silent[message.metadata.message_id] = 3
                grid.restart(3)

        grid._deliver = deliver_and_lose
        deployed.serve()
        assert lost == [[1, 2]]
        assert deployed.weights() == undisturbed.weights()
        assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2, 3]}


def test_what_it_waits_for_is_said(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study(**SOON)) as deployed:
        site, kept, seen = deployed.sites["south"], deployed.sites["south"].approvals, []

        def meddle(_: int) -> None:
            if deployed.charges()["south"] == [1]:
                site.approvals = Approvals()
            if (found := Progress.read(deployed.folder / "progress.json")) and "Waiting" in found.message:
                seen.append(found)
                site.approvals = kept

        deployed.grid.on_idle = meddle
        deployed.serve()
        assert seen[0].state is JobState.WAITING
        assert "Waiting for south" in seen[0].message
        assert "not approved" in seen[0].sites["south"]
        assert told(deployed).state is JobState.FINISHED
        assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2, 3]}


def test_who_is_late_joins_the_following_rounds(tiny_study: MakeStudy, deployment: Deploy, clock: Any) -> None:
    study = tiny_study(federation={"sites": 3, "minimum_sites": 2, "deadline": 20.0})
    with deployment(study, ("east", "north", "south")) as deployed:
        deployed.grid.away = {4}

        def come(_: int) -> None:
            clock.sleep(1.0)  # rounds take their time
            if deployed.charges()["east"] == [1, 2] and 4 in deployed.grid.away:
                deployed.grid.restart(4)

        deployed.grid.on_idle = come
        deployed.serve()
        assert contributions(deployed) == {"east": 3, "north": 3, "south": 1}


def test_who_is_away_is_not_waited_for_twice(tiny_study: MakeStudy, deployment: Deploy) -> None:
    """The deadline is an hour: the first round would be waited out, so the node is away from its end on."""
    study = tiny_study(federation={"sites": 3, "minimum_sites": 2, "deadline": 3600.0})
    with deployment(study, ("east", "north", "south")) as deployed:

        def leave(_: int) -> None:
            if deployed.charges()["south"] == [1]:
                deployed.grid.away = {4}

        deployed.grid.on_idle = leave
        deployed.serve()
        assert contributions(deployed) == {"east": 3, "north": 3, "south": 1}


def test_a_site_may_come_with_another_node(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study(**SOON), twice=1) as deployed:
        deployed.grid.away = {4}

        def move(_: int) -> None:
            if deployed.charges()["north"] == [1]:
                deployed.grid.away = {2}

        deployed.grid.on_idle = move
        deployed.serve()
        assert contributions(deployed) == {"north": 3, "south": 3}
        nodes = [node for node, kind in deployed.grid.pushed if kind.startswith("train") and node in (2, 4)]
        assert nodes[0] == 2
        assert nodes[-1] == 4


def test_strangers_and_those_who_refuse_are_passed_over(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study(**SOON), strangers=("visitor", "guest")) as deployed:
        deployed.sites["guest"].approvals = Approvals()
        deployed.serve()
        assert contributions(deployed) == {"north": 3, "south": 3}
        assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2, 3], "visitor": [], "guest": []}


def test_a_stranger_under_a_sites_name_gets_no_place(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study(**SOON), strangers=("visitor",)) as deployed:
        deployed.sites["visitor"].name = "north"
        deployed.serve()
        assert contributions(deployed) == {"north": 3, "south": 3}
        assert deployed.charges()["visitor"] == []


def test_who_approves_late_is_greeted_again(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study(**SOON)) as deployed:
        site, kept = deployed.sites["south"], deployed.sites["south"].approvals
        site.approvals = Approvals()

        words = []

        def approve(number: int) -> None:
            words.append(Progress.read(deployed.folder / "progress.json").sites.get("south"))
            if number == 5:
                site.approvals = kept

        deployed.grid.on_idle = approve
        deployed.serve()
        assert contributions(deployed) == {"north": 3, "south": 3}
        assert words[5] == "away, or refuses", "it is connected, and approved nothing"


def newest(deployed: Any) -> Any:
    return max((deployed.folder / "checkpoint").glob("*.checkpoint"))


def killed_in_round_three(deployed: Any, *, node: int = 3) -> None:
    """Kill the server when a site is about to be asked for round 3."""

    class Killed(BaseException):
        pass

    def kill(message: Message) -> bool:
        if message.metadata.dst_node_id == node and stage(message).endswith(":3"):
            raise Killed
        return False

    deployed.grid.lost = kill
    with pytest.raises(Killed):
        deployed.serve()
    deployed.grid.lost = lambda _: False


def test_a_damaged_checkpoint_falls_back_to_the_one_before(without_noise: MakeStudy, deployment: Deploy) -> None:
    """One site was asked for round 3 by then. Round 2 is asked for again, round 3 in the same bytes as before."""
    with deployment(without_noise()) as undisturbed:
        undisturbed.serve()
    with deployment(without_noise()) as deployed:
        killed_in_round_three(deployed)
        assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2]}
        newest(deployed).write_bytes(newest(deployed).read_bytes()[:-1] + b"x")
        deployed.serve()
        assert deployed.weights() == undisturbed.weights()
        assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2, 3]}
        assert provenance(deployed)["unfinished_rounds"] == 0


def test_a_round_that_was_asked_for_otherwise_is_passed_over(without_noise: MakeStudy, deployment: Deploy) -> None:
    """The same, and this time other sites answer round 2: the request of round 3 would not be the one that was sent."""
    study = without_noise(federation={"sites": 3, "minimum_sites": 2, "deadline": 20.0}, training={"rounds": 5})
    with deployment(study, ("east", "north", "south")) as deployed:
        killed_in_round_three(deployed)
        newest(deployed).write_bytes(b"rubbish")
        deployed.grid.away = {4}
        deployed.serve()
        # Nobody refuses: round 3 is not asked for again.
        assert deployed.charges()["north"] == [1, 2, 4, 5]
        assert deployed.charges()["east"] == [1, 2, 3, 4, 5]
        assert provenance(deployed)["unfinished_rounds"] == 1
        assert provenance(deployed)["rounds"] == 5


def test_a_damaged_checkpoint_under_the_sum_gives_rounds_up(without_noise: MakeStudy, deployment: Deploy) -> None:
    study = without_noise(**SUM, training={"rounds": 5})
    with deployment(study, SIX) as deployed:
        killed_in_round_three(deployed, node=7)
        newest(deployed).write_bytes(b"rubbish")
        deployed.serve()
        assert provenance(deployed)["unfinished_rounds"] == 2
        assert contributions(deployed) == dict.fromkeys(SIX, 3)
        assert all(len(set(rounds)) == len(rounds) for rounds in deployed.charges().values())


@pytest.mark.parametrize("at", ["OfferList:1", "RoundStart:2", "UnmaskRequest:2"])
@pytest.mark.parametrize("looks", [3, 300])
def test_a_site_of_a_sum_that_was_killed_is_asked_again(
    without_noise: MakeStudy, deployment: Deploy, at: str, looks: int
) -> None:
    sections = {"privacy": {"trust": "sum"}, "federation": {"sites": 6, "dropouts": 0, "deadline": 20.0}}
    with deployment(without_noise(**sections), SIX) as undisturbed:
        undisturbed.serve()
    with deployment(without_noise(**sections), SIX) as deployed:
        absence = Absence(deployed.grid, 4, at, looks=looks)
        deployed.serve()
        assert absence.until is not None, "the stage never came: nothing was tested"
        assert deployed.weights() == undisturbed.weights()
        assert deployed.charges() == dict.fromkeys(SIX, [1, 2, 3])


def test_a_dropped_site_is_signed_off_whenever_the_server_is_killed(
    without_noise: MakeStudy, deployment: Deploy
) -> None:
    """One vector is missing in round 2, so that survivors sign a list; it is never another list."""
    study = without_noise(**SUM)

    def lost(message: Message) -> bool:
        return message.metadata.dst_node_id == 7 and stage(message) == "RoundStart:2"

    with deployment(study, SIX) as undisturbed:
        undisturbed.grid.lost = lost
        undisturbed.serve()
        assert contributions(undisturbed) == dict.fromkeys(SIX, 3) | {"f": 2}
    with deployment(study, SIX) as deployed:
        deployed.grid.lost = lost
        deaths = 0
        while not deployed.serve_until_step(10 + deaths // 2, uncounted="pull"):
            deaths += 1
        assert deaths > 3
        signed = {
            content.config_records["sum"]["survivors"]
            for _, _, content in deployed.grid.contents
            if dict(content.config_records.get("sum", {})).get("type") == "SurvivorList"
        }
        assert len(signed) == 1
        assert deployed.weights() == undisturbed.weights()
        assert all(len(set(rounds)) == len(rounds) for rounds in deployed.charges().values())


def test_a_round_whose_shares_are_lost_ends_without_a_sum(
    without_noise: MakeStudy, deployment: Deploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three of six sites refuse to open round 2 for good: it is charged, gives nothing, and the run goes on."""
    study = without_noise(**SUM)
    models: list[bytes] = []
    apply = GradientDescent.apply

    def watched(self: GradientDescent, *arguments: Any, **more: Any) -> None:
        apply(self, *arguments, **more)
        models.append(self.model.weights().tobytes())

    monkeypatch.setattr(GradientDescent, "apply", watched)
    with deployment(study, SIX) as deployed:
        for name, site in deployed.sites.items():
            site.transcripts = tmp_path / "told" / name
        grid = deployed.grid
        deliver = grid._deliver

        def deliver_spoilt(message: Message) -> None:
            if message.metadata.dst_node_id in (5, 6, 7) and stage(message) == "UnmaskRequest:2":
                message.content["header"]["study"] = "0" * 64  # a study that the site has not approved: it refuses
            deliver(message)

        grid._deliver = deliver_spoilt
        deployed.serve()
        assert len(models) == 2
        asked = {
            content.config_records["header"]["round"]: content.array_records["vector"]["vector"].numpy().tobytes()
            for _, kind, content in grid.contents if kind.startswith("train")
        }  # fmt: skip
        assert asked[3] == asked[2] == models[0]
        assert provenance(deployed)["unfinished_rounds"] == 1
        assert provenance(deployed)["rounds"] == 3
        assert contributions(deployed) == dict.fromkeys(SIX, 2)
        assert deployed.charges() == dict.fromkeys(SIX, [1, 2, 3])
        released = Release.open(deployed.folder / "release", device=torch.device("cpu"))
        told_of = [read_transcript(path) for path in (tmp_path / "told").rglob("*.json")]
        assert len(told_of) == 6
        found = verify_release(released, transcripts=told_of)
        assert found.faults == ()
        assert any("told a, b, c, d, e, f the same" in sentence for sentence in found.passed)
