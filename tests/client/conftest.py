"""A site that stands alone, and a coordinator who asks it one thing."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message, RecordDict

from client.app import app
from client.egress import Egress
from client.outbox import Outbox
from client.site import Site, resident
from privacy.ledger import Ledger
from protocol.fingerprint import code_fingerprint
from protocol.messages import (
    Contribution,
    Hello,
    Introduction,
    Refusal,
    RoundRequest,
    decode,
    encode,
)
from protocol.study import Study
from protocol.warrant import NO_WARRANT
from records.dataset import Records
from simulations.federation import simulated_site
from simulations.grid import InMemoryGrid
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model

RUN = "a" * 64
CHALLENGE = "c" * 64


@pytest.fixture
def make_site(tiny_records: Callable[..., Records]) -> Callable[..., Site]:
    """Return a builder of a site that approved one study; fields may be replaced."""

    def build(study: Study, records: Records | None = None, **fields: Any) -> Site:
        held = tiny_records(40) if records is None else records
        site = simulated_site("north", study, held, device="cpu")
        for name, value in fields.items():
            setattr(site, name, value)
        return site

    return build


@pytest.fixture
def lasting_site(
    tiny_records: Callable[..., Records], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Site]]:
    """Return a function that starts a site on its disk; called again, it starts the same site after a crash.

    Nothing waits for the disk: a process that is killed loses nothing that it wrote, only a power cut could.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)
    keys: dict[str, Ed25519PrivateKey] = {}
    books: list[Ledger] = []

    def start(study: Study, *, name: str = "north", key: Ed25519PrivateKey | None = None, **fields: Any) -> Site:
        key = keys.setdefault(name, key or Ed25519PrivateKey.generate())
        site = simulated_site(name, study, tiny_records(40), device="cpu", key=key)
        site.ledger.close()
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        book = folder / "ledger.sqlite"
        if not book.exists():
            Ledger.create(book, key=key, data_set=name).close()
        site.ledger = Ledger.open(book, key=key, data_set=name)
        site.ledger._store._connection.execute("PRAGMA synchronous = OFF")
        books.append(site.ledger)
        site.sums, site.transcripts = folder / "sums", folder / "transcripts"
        site.outbox, site.egress = Outbox(folder / "outbox"), Egress(folder / "egress.jsonl")
        for field, value in fields.items():
            setattr(site, field, value)
        return site

    yield start
    for ledger in books:
        ledger.close()


@pytest.fixture
def deliver() -> Callable[..., RecordDict]:
    """Return a function that sends a content to a site through its real app, and returns what left."""

    def send(site: Site, content: RecordDict, message_type: str = "train.gradients") -> RecordDict:
        with resident({site.name: site}) as nodes:
            grid = InMemoryGrid(app, nodes)
            with grid.as_server():
                (reply,) = grid.send_and_receive([Message(content, 2, message_type)])
        assert not reply.has_error(), reply.error.reason
        return reply.content

    return send


@pytest.fixture
def first_request() -> Callable[..., RoundRequest]:
    """Return a builder of the request of a study's first round; fields may be replaced."""

    def build(study: Study, /, **fields: Any) -> RoundRequest:
        request = RoundRequest(
            study=study.hash,
            run=RUN,
            round=1,
            kind=study.training.strategy,
            warrant=NO_WARRANT,
            vector=ServerModel(build_study_model(study), study.training).weights(),
        )
        return replace(request, **fields)

    return build


@pytest.fixture
def hello() -> Callable[..., Hello]:
    """Return a builder of a coordinator's greeting."""

    def build(study: Study, *, code: str | None = None) -> Hello:
        return Hello(study=study.hash, code=code_fingerprint() if code is None else code, challenge=CHALLENGE)

    return build


@pytest.fixture
def ask() -> Callable[..., Any]:
    """Return a function that sends a message to a site through its real app, and reads the answer."""

    def send(site: Site, message: Any, *, message_type: str | None = None) -> Any:
        content = message if isinstance(message, RecordDict) else encode(message)
        if message_type is None:
            message_type = "query.hello" if isinstance(message, Hello) else "train.gradients"
        with resident({site.name: site}) as nodes:
            grid = InMemoryGrid(app, nodes)
            with grid.as_server():
                (reply,) = grid.send_and_receive([Message(content, 2, message_type)])
        assert not reply.has_error(), reply.error.reason
        expected = Introduction if message_type == "query.hello" else Contribution
        return decode(reply.content, expected, Refusal)

    return send


@pytest.fixture
def weights_like() -> Callable[..., np.ndarray]:
    """Return a builder of weights of a study's model, all of one value."""

    def build(study: Study, value: float = 0.0) -> np.ndarray:
        size = ServerModel(build_study_model(study), study.training).dimension
        return np.full(size, value, dtype=np.float32)

    return build
