"""Rounds of statistics at the coordinator: wrong sizes, and a job that is killed on either side of the border."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from protocol.errors import StudyError
from protocol.messages import Contribution, decode, encode
from protocol.study import Study
from server.progress import JobState, Progress
from server.study_run import StudyRun

Federation = Callable[..., AbstractContextManager[Any]]
Deploy = Callable[..., AbstractContextManager[Any]]
MakeStudy = Callable[..., Study]
Start = Callable[..., StudyRun]
SIX = tuple("abcdef")
SUM: dict[str, Any] = {
    "privacy": {"trust": "sum"},
    "federation": {"sites": 6, "dropouts": 1, "minimum_sites": 6, "deadline": 5.0},
}
pytestmark = pytest.mark.usefixtures("tally")


def study_of(make: MakeStudy, *, rounds: int = 2, **sections: Any) -> Study:
    study = make(model={"family": "tally", "options": {}}, **sections)
    return replace(study, statistics=replace(study.statistics, rounds=rounds))


@pytest.mark.parametrize("size", [4, 15, 17])
def test_a_contribution_of_another_size_is_left_out(
    without_noise: MakeStudy, federation: Federation, start: Start, size: int
) -> None:
    """Also one of the size of the weights that the request carried."""

    def meddle(reply: Message) -> Message:
        if "vector" in reply.content and reply.metadata.src_node_id == 3:
            found = decode(reply.content, Contribution)
            if found.round == 1:
                reply.content = encode(replace(found, vector=np.zeros(size, dtype=np.int32)))
        return reply

    study = study_of(without_noise, federation={"minimum_sites": 1}, training={"rounds": 1})
    with federation(study, meddle=meddle) as grid:
        run = start(grid, study)
        evidence = run.execute()
    assert evidence.contributions == {"north": 3, "south": 2}
    assert evidence.rounds == 3


def test_more_statistics_than_the_family_knows_are_refused_before_anybody_is_asked(
    without_noise: MakeStudy, federation: Federation, start: Start
) -> None:
    study = study_of(without_noise, rounds=3)
    with federation(study) as grid, pytest.raises(StudyError, match="has a use for 2"):
        start(grid, study)


@pytest.mark.parametrize("trust", ["none", "sum"])
def test_killed_at_every_few_steps_it_gives_the_same_weights(
    without_noise: MakeStudy, deployment: Deploy, trust: str
) -> None:
    """Every process is killed a little later than the one before: in statistics, between, and in training."""
    names = SIX if trust == "sum" else ("north", "south")
    study = study_of(without_noise, training={"rounds": 2}, **(SUM if trust == "sum" else {}))
    with deployment(study, names) as undisturbed:
        undisturbed.serve()
    with deployment(study, names) as deployed:
        seen, deaths = set(), 0
        while not deployed.serve_until_step(6 + deaths // 2):
            deaths += 1
            found = Progress.read(deployed.folder / "progress.json")
            seen.add(0 if found is None else found.round)
            assert deaths < 200, "it never gets on"
        assert {1, 2, 3} <= seen, "the border was not crossed by processes that were killed"
        assert deployed.weights() == undisturbed.weights()
        assert deployed.charges() == dict.fromkeys(names, [1, 2, 3, 4])
        found = Progress.read(deployed.folder / "progress.json")
        assert found is not None
        assert (found.state, found.rounds) == (JobState.FINISHED, 4)


def test_statistics_that_are_all_of_a_study_make_a_job(without_noise: MakeStudy, deployment: Deploy) -> None:
    study = without_noise(
        model={"family": "tally", "options": {}},
        training={"strategy": "statistics", "rounds": 2},
        privacy={"sample_rate": 1.0},
    )
    with deployment(study) as deployed:
        deployed.serve()
        assert deployed.charges() == {"north": [1, 2], "south": [1, 2]}
        assert (deployed.folder / "release").is_dir()
