"""A site that stands alone, and a coordinator who asks it one thing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from client.app import app
from client.site import Site, resident
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
from records.dataset import Records
from simulations.federation import simulated_site
from simulations.grid import InMemoryGrid
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model

RUN = "a" * 64


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
def first_request() -> Callable[..., RoundRequest]:
    """Return a builder of the request of a study's first round; fields may be replaced."""

    def build(study: Study, /, **fields: Any) -> RoundRequest:
        request = RoundRequest(
            study=study.hash,
            run=RUN,
            round=1,
            kind=study.training.strategy,
            vector=ServerModel(build_study_model(study), study.training).weights(),
        )
        return replace(request, **fields)

    return build


@pytest.fixture
def hello() -> Callable[..., Hello]:
    """Return a builder of a coordinator's greeting."""

    def build(study: Study, *, code: str | None = None) -> Hello:
        return Hello(study=study.hash, code=code_fingerprint() if code is None else code)

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
