"""A site that approved a study with a public start takes that start in the first round, and no other."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.site import Site
from privacy.ledger import Charge
from protocol.messages import Contribution, Refusal, RefusalReason, vector_hash
from protocol.public_start import PublicStart
from protocol.study import Study

START = PublicStart(release="census", public="A test.", weights="0" * 64, sent="1" * 64)


@pytest.fixture
def started(tiny_study: Callable[..., Study], weights_like: Callable[..., np.ndarray]) -> Study:
    """A study whose sites expect weights of one half."""
    study = tiny_study()
    init = replace(START, sent=vector_hash(weights_like(study, 0.5)))
    return replace(study, model=replace(study.model, init=init))


@pytest.mark.parametrize(
    ("number", "value", "taken"), [(1, 0.5, True), (1, 0.25, False), (2, 0.25, True)], ids=["start", "other", "later"]
)
def test_the_first_round_must_send_what_was_approved(
    started: Study,
    make_site: Callable[..., Site],
    ask: Any,
    first_request: Any,
    weights_like: Any,
    number,
    value,
    taken,
) -> None:
    site = make_site(started)
    request = first_request(started, round=number, vector=weights_like(started, value))
    answer = ask(site, request)
    assert isinstance(answer, Contribution if taken else Refusal)
    charges = [entry for entry in site.ledger.entries() if isinstance(entry.record, Charge)]
    assert len(charges) == taken
    if not taken:
        assert answer.reason is RefusalReason.NOT_APPROVED


def test_without_a_start_any_weights_are_taken(
    tiny_study: Callable[..., Study], make_site: Callable[..., Site], ask: Any, first_request: Any, weights_like: Any
) -> None:
    """The twin that must fail: it is the approved start, and nothing else, that refuses."""
    study = tiny_study()
    assert isinstance(ask(make_site(study), first_request(study, vector=weights_like(study, 0.25))), Contribution)
