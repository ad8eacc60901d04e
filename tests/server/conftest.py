"""A federation in one process, in whose post somebody may meddle."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from flwr.app import Message

from client.app import app
from client.site import Site, resident
from protocol.study import Study
from records.dataset import Records
from server.study_run import StudyRun
from simulations.federation import simulated_site
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
