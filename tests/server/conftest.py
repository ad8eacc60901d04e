"""A federation in one process, in whose post somebody may meddle; and jobs, whose processes may die at any step."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo

import server.exchange
import server.patience
import server.progress
import server.roll_call
from client.app import app
from client.outbox import Outbox
from client.site import Site, resident
from privacy.ledger import Charge
from protocol.keys import create_identity
from protocol.signed_study import SignedStudy
from protocol.study import Study
from records.dataset import Records
from server.app import app as server_app
from server.study_run import StudyRun
from simulations.federation import simulated_site, with_roster
from simulations.grid import InMemoryGrid

Meddle = Callable[[Message], Message | None]


class MeddledGrid(InMemoryGrid):
    """Hands every reply to somebody who may change it, or hold it back for good by returning None."""

    meddle: Meddle = staticmethod(lambda reply: reply)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        held = self.__dict__.setdefault("held", set())
        kept = []
        for reply in super().pull_messages(number for number in message_ids if number not in held):
            changed = self.meddle(reply)
            if changed is None:
                held.add(reply.metadata.reply_to_message_id)
            else:
                kept.append(changed)
        return kept


@pytest.fixture
def federation(tiny_records: Callable[..., Records]) -> Callable[..., object]:
    """Return a context of a grid whose sites approved a study; node 2 is the first of them."""

    @contextmanager
    def build(
        study: Study,
        *,
        sites: Mapping[str, Site] | Iterable[str] = ("north", "south"),
        meddle: Meddle | None = None,
    ) -> Iterator[MeddledGrid]:
        if not isinstance(sites, Mapping):
            sites = {
                name: simulated_site(name, study, tiny_records(40, seed=seed), device="cpu")
                for seed, name in enumerate(sites)
            }
        with resident(sites) as nodes:
            grid = MeddledGrid(app, nodes)
            if meddle is not None:
                grid.meddle = meddle  # type: ignore[method-assign]  # an instance may have its own
            with grid.as_server():
                yield grid

    return build


@pytest.fixture
def start() -> Callable[..., StudyRun]:
    """Return a function that makes a run of a study on a grid."""
    return lambda grid, study: StudyRun(grid, study, device=torch.device("cpu"))


class Killed(BaseException):
    """Stands for a process that is no more."""


class StormyGrid(InMemoryGrid):
    """A grid as a deployment has it: nodes are away, are started anew, lose what they were sent, and answer late.

    Attributes:
        away: Nodes that are not connected.
        stamps: How often each node was activated.
        lost: Says of a message whether its node never answers it.
        on_idle: Called whenever the server looks for nodes or replies; the number of the look is given.
        step: Called before everything that the server does with the grid; may raise.
        pushed: Node and message type of everything that was pushed.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.away: set[int] = set()
        self.stamps: Counter[int] = Counter()
        self.lost: Callable[[Message], bool] = lambda _: False
        self.on_idle: Callable[[int], None] = lambda _: None
        self.step: Callable[[str], None] = lambda _: None
        self.pushed: list[tuple[int, str]] = []
        self.contents: list[tuple[int, str, RecordDict]] = []
        self.looks = 0
        self.delivering = False
        self._silent: dict[str, int] = {}

    def get_nodes(self) -> list[NodeInfo]:
        self._look()
        return [
            NodeInfo(node_id=node, last_activated_at=str(self.stamps[node]))
            for node in super().get_node_ids()
            if node not in self.away
        ]

    def get_node_ids(self) -> list[int]:
        return [node.node_id for node in self.get_nodes()]

    def restart(self, node: int) -> None:
        """Activate a node anew: what it was sent before is lost to it."""
        self.away.discard(node)
        self.stamps[node] += 1

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.step("push")
        return super().push_messages(messages)

    def _deliver(self, message: Message) -> None:
        node = message.metadata.dst_node_id
        self.pushed.append((node, message.metadata.message_type))
        self.contents.append((node, message.metadata.message_type, message.content))
        if node in self.away or self.lost(message):
            self._silent[message.metadata.message_id] = node
            return
        self.delivering = True
        super()._deliver(message)
        self.delivering = False

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.step("pull")
        self._look()
        found = []
        for number in dict.fromkeys(message_ids):
            if number not in self._silent:
                found += super().pull_messages([number])
            elif self._silent[number] in self.away:
                found.append(self._unavailable(number, ErrorCode.NODE_UNAVAILABLE))
        return found

    def _look(self) -> None:
        self.looks += 1
        self.on_idle(self.looks)


class Deployment:
    """A job's folder, sites that remember across the server's deaths, and servers that may be killed.

    Attributes:
        folder: Of the job.
        sites: By name.
        grid: What the servers are given; the same for all, as the SuperLink survives them.
    """

    def __init__(self, root: Path, study: Study, sites: Mapping[str, Site], grid: StormyGrid) -> None:
        self.sites, self.grid, self.study = sites, grid, study
        coordinator = root / "coordinator"
        self.folder = coordinator / "studies" / study.hash[:16]
        self.folder.mkdir(parents=True)
        self.key = create_identity(coordinator / "key.pem")
        (self.folder / "study.json").write_text(SignedStudy.sign(study, self.key).to_text(), "utf-8")

    def serve(self) -> None:
        """Run the server's app once, to its end."""
        config = {"study": "", "release": "", "simulated": False, "device": "cpu", "job": str(self.folder)}
        with self.grid.as_server():
            server_app(grid=self.grid, context=Context(1, 1, {}, RecordDict(), config))

    def serve_until_step(self, alive: int, *, uncounted: str = "") -> bool:
        """Run the server's app and kill it at its n-th step; says whether it ended by itself before."""
        steps = 0
        patch = pytest.MonkeyPatch()

        def step(what: str = "") -> None:
            nonlocal steps
            steps += not what or what != uncounted
            if steps > alive and not self.grid.delivering:
                raise Killed

        def dying(owner: Any, name: str) -> None:
            original = getattr(owner, name)

            def once_more(*arguments: Any, **more: Any) -> Any:
                if not self.grid.delivering:
                    step()
                return original(*arguments, **more)

            patch.setattr(owner, name, once_more)

        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "replace"), (Path, "unlink"), (Path, "write_text")):
            dying(owner, name)
        # The dead tidy nothing up.
        patch.setattr("server.whole_folder.shutil.rmtree", lambda *_, **__: None)
        self.grid.step = step
        try:
            self.serve()
        except Killed:
            return False
        else:
            return True
        finally:
            patch.undo()
            self.grid.step = lambda _: None

    def weights(self) -> bytes:
        """The released generator."""
        return (self.folder / "release" / "generator.safetensors").read_bytes()

    def charges(self) -> dict[str, list[int]]:
        """The rounds that each site was charged for, in the ledger's order."""
        return {
            name: [entry.record.first_round for entry in site.ledger.entries() if isinstance(entry.record, Charge)]
            for name, site in self.sites.items()
        }


class Clock:
    """A clock on which waiting takes no time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the server wait on a clock of its own, so that an hour passes at once and a slow machine changes nothing."""
    made = Clock()
    for module in (server.exchange, server.patience, server.progress, server.roll_call):
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def deployment(tmp_path: Path, tiny_records: Callable[..., Records], clock: Clock) -> Callable[..., Any]:
    """Return a context of a job among sites that keep their outboxes."""
    del clock
    made = Counter[str]()

    @contextmanager
    def build(
        study: Study, names: Iterable[str] = ("north", "south"), *, strangers: Iterable[str] = (), twice: int = 0
    ) -> Iterator[Deployment]:
        """Strangers have approved the study and are not in its roster; the first ``twice`` sites have two nodes."""
        made["all"] += 1
        root = tmp_path / f"deployment-{made['all']}"
        keys = {name: Ed25519PrivateKey.generate() for name in names}
        study = with_roster(study, keys)
        keys |= {name: Ed25519PrivateKey.generate() for name in strangers}
        sites = {
            name: simulated_site(name, study, tiny_records(30, seed=seed), device="cpu", key=key)
            for seed, (name, key) in enumerate(keys.items())
        }
        for name, site in sites.items():
            site.outbox = Outbox(root / name / "outbox")
            site.sums = root / name / "sums"
        with resident(sites) as nodes:
            yield Deployment(root, study, sites, StormyGrid(app, [*nodes, *nodes[:twice]]))

    return build
