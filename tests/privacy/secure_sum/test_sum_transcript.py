"""Transcripts: chained, signed, and they show where a coordinator told sites different things."""

import json
from dataclasses import replace

import numpy as np
import pytest

from privacy.secure_sum import Transcript, compare_transcripts
from protocol.errors import WireError


def played(federation, *, models=None):
    """Transcripts after two rounds; a site may be sent another model in round 2."""
    world = federation(sites=4, coordinates=3)
    world.agree()
    world.round(1, world.vectors(1), silent=["site-02"])
    world.rejoin(2)
    start = world.server.start_round(2, model="a" * 64)
    for name in world.names:
        model = (models or {}).get(name, "a" * 64)
        world.sites[name].mask(start, model=model, vector=np.zeros(3, dtype=np.int64))
    return world, [site.transcript() for site in world.sites.values()]


def test_honest_transcripts_match(federation):
    world, transcripts = played(federation)
    assert compare_transcripts(transcripts, policy=world.policy) == ()
    events = [(entry.round, entry.event.value) for entry in transcripts[0].entries]
    assert events == [(0, "agreed"), (1, "started"), (1, "masked"), (1, "listed"), (1, "revealed"),
                      (2, "started"), (2, "masked")]  # fmt: skip
    assert [entry.round for entry in transcripts[2].entries] == [0, 2, 2]


def test_different_models_show(federation):
    world, transcripts = played(federation, models={"site-01": "b" * 64})
    (found,) = compare_transcripts(transcripts, policy=world.policy)
    assert found.startswith("round 2, started: ")
    assert "site-00, site-02, site-03 say" in found
    assert "site-01 say" in found


def test_transcript_travels_and_is_signed_as_a_whole(federation):
    world, transcripts = played(federation)
    first = transcripts[0]
    assert Transcript.from_mapping(json.loads(json.dumps(first.to_mapping()))) == first
    for altered in (
        replace(first, entries=first.entries[:-1]),
        replace(first, entries=(first.entries[1], first.entries[0], *first.entries[2:])),
        replace(first, entries=(*first.entries[:-1], replace(first.entries[-1], hash="e" * 64))),
        replace(first, site="site-01"),
        replace(first, run="e" * 64),
    ):
        with pytest.raises(WireError):
            compare_transcripts([altered, *transcripts[2:]], policy=world.policy)
    with pytest.raises(WireError, match="more than one"):
        compare_transcripts([first, first], policy=world.policy)


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"entries": "x"}, {"entries": [[1, "agreed"]]}, {"entries": [[1, "odd", "h"]]},
     {"entries": [[True, "agreed", "h"]]}, {"site": None}, {"more": 1}],
)  # fmt: skip
def test_malformed_transcript_is_refused(federation, change):
    _, transcripts = played(federation)
    with pytest.raises(WireError, match="malformed"):
        Transcript.from_mapping(transcripts[0].to_mapping() | change)
