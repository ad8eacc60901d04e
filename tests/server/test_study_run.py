"""Rounds: sums of valid contributions, the right divisor when sites are missing, an error that names who was."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message

from client.training import Trainer
from privacy.ledger import Charge
from protocol.errors import FederationError
from protocol.messages import NO_ENTRY, Contribution, Refusal, RefusalReason, decode, encode
from protocol.study import Study
from records.dataset import Records
from server.study_run import StudyRun
from simulations.federation import simulated_site
from strategies.gradients import GradientDescent

Federation = Callable[..., AbstractContextManager[Any]]
MakeStudy = Callable[..., Study]
Start = Callable[..., StudyRun]
Meddle = Callable[[Message], Message | None]
SECOND_NODE = 3


def only_in(number: int, change: Meddle) -> Meddle:
    """Meddle with what the second site sends in one round."""

    def meddle(reply: Message) -> Message | None:
        if "vector" not in reply.content or reply.metadata.src_node_id != SECOND_NODE:
            return reply
        return change(reply) if reply.content["header"]["round"] == number else reply

    return meddle


def forging(change: Callable[[Contribution], Contribution]) -> Meddle:
    """Meddle with a contribution."""

    def meddle(reply: Message) -> Message:
        reply.content = encode(change(decode(reply.content, Contribution)))
        return reply

    return meddle


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Weights before and after every round, and how many contributed."""
    noted: list[tuple[np.ndarray, np.ndarray, int]] = []
    apply = GradientDescent.apply

    def watched(self: GradientDescent, total: np.ndarray, *, contributors: int, generator: Any) -> None:
        before = self.model.weights()
        apply(self, total, contributors=contributors, generator=generator)
        # SGD of rate 1 without momentum: the step is the mean gradient. 50 units are expected in all.
        expected = before - total / (50.0 * contributors / 2)
        np.testing.assert_allclose(self.model.weights(), expected, rtol=1e-4, atol=1e-6)
        noted.append((before, self.model.weights(), contributors))

    monkeypatch.setattr(GradientDescent, "apply", watched)
    return noted


PLAIN: dict[str, Any] = {"optimiser": "sgd", "learning_rate": 1.0, "momentum": 0.0}


def test_evidence_tells_what_was_contributed(
    tiny_study: MakeStudy, tiny_records: Callable[..., Records], federation: Federation, start: Start
) -> None:
    study = tiny_study()
    sites = {n: simulated_site(n, study, tiny_records(30), device="cpu") for n in ("north", "south")}
    with federation(study, sites=sites) as grid:
        evidence = start(grid, study).execute()
    assert evidence.rounds == 3
    assert evidence.contributions == {"north": 3, "south": 3}
    assert dict(evidence.keys) == {name: site.public_key for name, site in sites.items()}
    paid = {name: [entry.hash for entry in site.ledger.entries() if isinstance(entry.record, Charge)]
            for name, site in sites.items()}  # fmt: skip
    assert evidence.entries == {name: hashes[-1] for name, hashes in paid.items()}
    assert evidence.unfinished == 0


def test_every_run_has_a_name_of_its_own(without_noise: MakeStudy, federation: Federation, start: Start) -> None:
    study = without_noise(training={"rounds": 1})
    names = set()
    for _ in range(2):
        with federation(study) as grid:
            names.add(start(grid, study).execute().run)
    assert len(names) == 2


def test_without_noise_nothing_is_charged(given_noise: MakeStudy, federation: Federation, start: Start) -> None:
    study = given_noise(0.0)
    with federation(study) as grid:
        evidence = start(grid, study).execute()
    assert set(evidence.entries.values()) == {NO_ENTRY}


def late(reply: Message) -> Message | None:
    del reply
    return None


def refused(reply: Message) -> Message:
    reply.content = encode(Refusal(reason=RefusalReason.INTERNAL))
    return reply


def failed(reply: Message) -> Message:
    """What Flower makes of an app that raised."""
    reply.__dict__["_content"], reply.__dict__["_error"] = None, Error(code=0, reason="gone")
    return reply


@pytest.mark.parametrize("accident", [late, refused, failed])
def test_a_site_that_drops_out_changes_the_divisor_and_may_come_back(
    without_noise: MakeStudy, federation: Federation, start: Start,
    applied: list[tuple[np.ndarray, np.ndarray, int]], accident: Meddle,
) -> None:  # fmt: skip
    study = without_noise(training=PLAIN, federation={"minimum_sites": 1, "deadline": 0.3})
    with federation(study, meddle=only_in(2, accident)) as grid:
        evidence = start(grid, study).execute()
    assert [contributors for *_, contributors in applied] == [2, 1, 2]
    assert evidence.contributions == {"north": 3, "south": 2}
    assert evidence.rounds == 3


def test_without_the_quorum_the_error_names_the_site(
    without_noise: MakeStudy, federation: Federation, start: Start,
    applied: list[tuple[np.ndarray, np.ndarray, int]],
) -> None:  # fmt: skip
    study = without_noise(training=PLAIN, federation={"deadline": 0.3})
    with federation(study, meddle=only_in(2, late)) as grid:
        run = start(grid, study)
        with pytest.raises(FederationError, match="Round 2 has 1 of 2") as caught:
            run.execute()
    assert "south: no answer" in str(caught.value)
    assert "north:" not in str(caught.value)
    assert len(applied) == 1
    np.testing.assert_array_equal(run.model.weights(), applied[0][1])


def test_a_site_whose_model_fails_is_named_with_its_word(
    tiny_study: MakeStudy, federation: Federation, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a person's name")

    monkeypatch.setattr(Trainer, "gradient_sum", fail)
    with federation(study) as grid, pytest.raises(FederationError, match="its own log says why") as caught:
        start(grid, study).execute()
    assert "a person's name" not in str(caught.value)
    assert "north" in str(caught.value)
    assert "south" in str(caught.value)


def forged_signature(contribution: Contribution) -> Contribution:
    return replace(contribution, signature="0" * 128)


def tampered_vector(contribution: Contribution) -> Contribution:
    vector = contribution.vector.copy()
    vector[0] += 1
    return replace(contribution, vector=vector)


def wrong_length(contribution: Contribution) -> Contribution:
    return replace(contribution, vector=contribution.vector[:-1])


def other_round(contribution: Contribution) -> Contribution:
    return replace(contribution, round=1)


def other_entry(contribution: Contribution) -> Contribution:
    return replace(contribution, entry="0" * 64)


def other_model(contribution: Contribution) -> Contribution:
    return replace(contribution, model="0" * 64)


def other_site(contribution: Contribution) -> Contribution:
    return replace(contribution, site="north")


@pytest.mark.parametrize(
    "forge",
    [
        forged_signature, tampered_vector, wrong_length, other_round, other_entry, other_model, other_site,
    ],
)  # fmt: skip
def test_a_forged_contribution_is_left_out(
    without_noise: MakeStudy, federation: Federation, start: Start,
    applied: list[tuple[np.ndarray, np.ndarray, int]], forge: Any,
) -> None:  # fmt: skip
    study = without_noise(training=PLAIN, federation={"minimum_sites": 1})
    with federation(study, meddle=only_in(2, forging(forge))) as grid:
        evidence = start(grid, study).execute()
    assert [contributors for *_, contributors in applied] == [2, 1, 2]
    assert evidence.contributions["south"] == 2


def test_a_vector_of_another_type_is_left_out(
    without_noise: MakeStudy, federation: Federation, start: Start,
    applied: list[tuple[np.ndarray, np.ndarray, int]],
) -> None:  # fmt: skip
    study = without_noise(training=PLAIN, federation={"minimum_sites": 1})

    def as_float(reply: Message) -> Message:
        vector = reply.content["vector"]["vector"].numpy().astype(np.float32)
        reply.content["vector"] = ArrayRecord({"vector": Array(vector)})
        return reply

    with federation(study, meddle=only_in(2, as_float)) as grid:
        start(grid, study).execute()
    assert [contributors for *_, contributors in applied] == [2, 1, 2]


@pytest.mark.parametrize("change", [{"round": 1}, {"model": "0" * 64}, {"run": "0" * 64}, {"study": "0" * 64}])
def test_a_site_cannot_answer_another_request_though_it_signs_that(
    without_noise: MakeStudy, tiny_records: Callable[..., Records], federation: Federation, start: Start,
    applied: list[tuple[np.ndarray, np.ndarray, int]], change: dict[str, Any],
) -> None:  # fmt: skip
    study = without_noise(training=PLAIN, federation={"minimum_sites": 1})
    sites = {n: simulated_site(n, study, tiny_records(30), device="cpu") for n in ("north", "south")}

    def forge(contribution: Contribution) -> Contribution:
        changed = replace(contribution, **change)
        return replace(changed, signature=sites["south"].key.sign(changed.signed_bytes()).hex())

    with federation(study, sites=sites, meddle=only_in(2, forging(forge))) as grid:
        start(grid, study).execute()
    assert [contributors for *_, contributors in applied] == [2, 1, 2]


def test_an_honest_signature_over_the_same_words_is_taken(
    without_noise: MakeStudy, tiny_records: Callable[..., Records], federation: Federation, start: Start,
    applied: list[tuple[np.ndarray, np.ndarray, int]],
) -> None:  # fmt: skip
    """The check that refuses forgeries would be worthless if it refused everything that was touched."""
    study = without_noise(training=PLAIN, federation={"minimum_sites": 1})
    sites = {n: simulated_site(n, study, tiny_records(30), device="cpu") for n in ("north", "south")}

    def sign_again(contribution: Contribution) -> Contribution:
        return replace(contribution, signature=sites["south"].key.sign(contribution.signed_bytes()).hex())

    with federation(study, sites=sites, meddle=only_in(2, forging(sign_again))) as grid:
        start(grid, study).execute()
    assert [contributors for *_, contributors in applied] == [2, 2, 2]
