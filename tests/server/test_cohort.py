"""Who takes part: exactly the study's sites, each once, each with the same study and code."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Error, Message, RecordDict

from client.approvals import Approvals
from protocol.errors import FederationError
from protocol.messages import Hello, Introduction, decode, encode
from protocol.study import Study
from records.dataset import Records
from server.cohort import gather_cohort
from simulations.federation import simulated_site

Federation = Callable[..., AbstractContextManager[Any]]
MakeStudy = Callable[..., Study]
NOW: dict[str, Any] = {"deadline": 0.2}


def test_all_sites_introduce_themselves(tiny_study: MakeStudy, federation: Federation) -> None:
    study = tiny_study()
    with federation(study) as grid:
        cohort = gather_cohort(grid, study)
    assert dict(cohort.nodes) == {"north": 2, "south": 3}
    assert len(set(cohort.keys.values())) == 2


def test_a_missing_site_is_waited_for_and_then_counted(tiny_study: MakeStudy, federation: Federation) -> None:
    study = tiny_study(federation=NOW)
    with federation(study, sites=["north"]) as grid, pytest.raises(FederationError, match="1 of 2 sites"):
        gather_cohort(grid, study)


def test_enough_sites_make_a_cohort_where_the_study_says_so(tiny_study: MakeStudy, federation: Federation) -> None:
    study = tiny_study(federation={"sites": 3, "minimum_sites": 2} | NOW)
    with federation(study) as grid:
        assert set(gather_cohort(grid, study).nodes) == {"north", "south"}


def test_more_nodes_than_sites_are_refused(tiny_study: MakeStudy, federation: Federation) -> None:
    study = tiny_study()
    with (
        federation(study, sites=["north", "south", "west"]) as grid,
        pytest.raises(FederationError, match="3 nodes"),
    ):
        gather_cohort(grid, study)


def test_two_sites_of_one_name_are_refused(
    tiny_study: MakeStudy, tiny_records: Callable[..., Records], federation: Federation
) -> None:
    study = tiny_study()
    sites = {key: simulated_site("north", study, tiny_records(5), device="cpu") for key in ("a", "b")}
    with federation(study, sites=sites) as grid, pytest.raises(FederationError, match="'north'"):
        gather_cohort(grid, study)


def test_two_sites_of_one_key_are_refused(
    tiny_study: MakeStudy, tiny_records: Callable[..., Records], federation: Federation
) -> None:
    study = tiny_study()
    sites = {name: simulated_site(name, study, tiny_records(5), device="cpu") for name in ("north", "south")}
    sites["south"].key = sites["north"].key
    with federation(study, sites=sites) as grid, pytest.raises(FederationError, match="key of another"):
        gather_cohort(grid, study)


def test_a_refusing_site_ends_the_run_with_its_word(
    tiny_study: MakeStudy, tiny_records: Callable[..., Records], federation: Federation
) -> None:
    study = tiny_study()
    sites = {name: simulated_site(name, study, tiny_records(5), device="cpu") for name in ("north", "south")}
    sites["south"].approvals = Approvals()
    with federation(study, sites=sites) as grid, pytest.raises(FederationError, match="not approved") as caught:
        gather_cohort(grid, study)
    assert "node 3" in str(caught.value)


def other_code(reply: Message) -> Message:
    answer = decode(reply.content, Introduction)
    reply.content = encode(replace(answer, code="0" * 64))
    return reply


def other_study(reply: Message) -> Message:
    answer = decode(reply.content, Introduction)
    reply.content = encode(replace(answer, study="0" * 64))
    return reply


def unsigned(reply: Message) -> Message:
    answer = decode(reply.content, Introduction)
    reply.content = encode(replace(answer, signature="0" * 128))
    return reply


def anothers_key(reply: Message) -> Message:
    """Somebody gives a site's public key as its own, and signs with what it has."""
    answer = decode(reply.content, Introduction)
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    reply.content = encode(replace(answer, public_key=other))
    return reply


def nonsense(reply: Message) -> Message:
    reply.content = RecordDict({"header": ConfigRecord({"hello": 1})})
    return reply


def another_type(reply: Message) -> Message:
    reply.content = encode(Hello(study="0" * 64, code="0" * 64, challenge="0" * 64))
    return reply


@pytest.mark.parametrize("meddle", [other_code, other_study, unsigned, anothers_key, nonsense, another_type])
def test_who_answers_something_else_is_no_site(
    tiny_study: MakeStudy, federation: Federation, meddle: Callable[[Message], Message]
) -> None:
    study = tiny_study()
    with federation(study, meddle=meddle) as grid, pytest.raises(FederationError):
        gather_cohort(grid, study)


def test_an_error_of_flowers_is_no_introduction(tiny_study: MakeStudy, federation: Federation) -> None:
    study = tiny_study()

    def failed(reply: Message) -> Message:
        if reply.metadata.src_node_id == 3:
            reply.__dict__["_content"], reply.__dict__["_error"] = None, Error(code=0, reason="gone")
        return reply

    with federation(study, meddle=failed) as grid, pytest.raises(FederationError, match="1 of 2"):
        gather_cohort(grid, study)


def test_an_introduction_of_another_day_is_worth_nothing(tiny_study: MakeStudy, federation: Federation) -> None:
    """Every hello has a challenge of its own: what was overheard cannot be said again."""
    study = tiny_study()
    overheard: dict[int, RecordDict] = {}

    def repeat(reply: Message) -> Message:
        reply.content = overheard.setdefault(reply.metadata.src_node_id, reply.content)
        return reply

    with federation(study, meddle=repeat) as grid:
        assert set(gather_cohort(grid, study).nodes) == {"north", "south"}
        with pytest.raises(FederationError, match="not signed with its key"):
            gather_cohort(grid, study)
