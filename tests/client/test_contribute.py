"""A site's answers: in which order the door does its work, and what it refuses."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import ConfigRecord, RecordDict

import client.door as door
from client.approvals import Approvals
from client.policy import Policy
from client.site import Site
from client.training import Trainer
from privacy.ledger import Charge, Ledger
from privacy.mechanisms.gaussian import GaussianMechanism
from protocol.errors import LedgerError, RecordsError
from protocol.messages import (
    NO_ENTRY,
    Contribution,
    Hello,
    Introduction,
    Refusal,
    RefusalReason,
    RoundRequest,
    encode,
    vector_hash,
)
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from protocol.terms import ContributionKind
from records.dataset import Records

Ask = Callable[..., Any]
MakeStudy = Callable[..., Study]
MakeSite = Callable[..., Site]
MakeRequest = Callable[..., RoundRequest]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the door did, in order."""
    done: list[str] = []

    def note(owner: Any, name: str, word: str) -> None:
        original = getattr(owner, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if word != "approved" or word not in done:  # the approvals look themselves up again
                done.append(word)
            return result

        monkeypatch.setattr(owner, name, noted)

    note(Approvals, "study", "approved")
    note(Policy, "check", "allowed")
    note(Approvals, "coordinator", "vouched")
    note(door, "_charge", "charged")
    note(Trainer, "gradient_sum", "summed")
    note(GaussianMechanism, "privatise", "noised")
    note(Ledger, "seal", "sealed")
    note(door, "_send", "sent")
    return done


def charges(site: Site) -> list[Charge]:
    return [entry.record for entry in site.ledger.entries() if isinstance(entry.record, Charge)]


def reason(answer: Any) -> RefusalReason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


def test_the_door_checks_then_charges_then_computes_then_blurs_then_sends(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, steps: list[str]
) -> None:
    study = tiny_study()
    assert isinstance(ask(make_site(study), first_request(study)), Contribution)
    assert steps == ["approved", "allowed", "vouched", "charged", "summed", "noised", "sealed", "sent"]


def test_the_entry_is_in_the_ledger_when_the_reply_leaves(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    study = tiny_study()
    site = make_site(study)
    held: list[list[str]] = []
    original = door.Contribution

    def noted(**fields: Any) -> Contribution:
        held.append([entry.hash for entry in site.ledger.entries()])
        return original(**fields)

    monkeypatch.setattr(door, "Contribution", noted)
    answer = ask(site, first_request(study))
    assert held
    assert all(entries[-1] == answer.entry for entries in held)
    (charge,) = charges(site)
    assert (charge.study, charge.run, charge.first_round) == (study.hash, answer.run, 1)
    assert charge.event == site.plan(study).round_event


def test_a_ledger_that_fails_stops_everything(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, steps: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    study = tiny_study()
    site = make_site(study)

    def full(**_: Any) -> None:
        raise LedgerError("The disk is full.", remedy="Free space.")

    monkeypatch.setattr(site.ledger, "charge", full)
    assert reason(ask(site, first_request(study))) is RefusalReason.LEDGER
    assert steps == ["approved", "allowed", "vouched"], "something was computed for a round that nobody paid for"


def test_a_door_that_computes_before_it_charges_is_caught(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, steps: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    study = tiny_study()
    request = first_request(study)
    late = door._charge

    def twin(task: Any) -> Any:
        task.site.trainer(study).gradient_sum(request.vector, random=DeterministicRandom(0))
        return late(task)

    monkeypatch.setattr(door, "_charge", twin)
    ask(make_site(study), request)
    assert steps != ["approved", "allowed", "vouched", "charged", "summed", "noised", "sealed", "sent"]


def test_a_round_is_contributed_to_once(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, steps: list[str]
) -> None:
    study = tiny_study()
    site = make_site(study)
    assert isinstance(ask(site, first_request(study)), Contribution)
    steps.clear()
    assert reason(ask(site, first_request(study))) is RefusalReason.LEDGER
    assert "summed" not in steps
    assert len(charges(site)) == 1
    assert isinstance(ask(site, first_request(study, round=2)), Contribution)


def test_a_new_run_pays_again_until_the_ceiling_stops_it(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask
) -> None:
    study = tiny_study()
    site = make_site(study)
    answers = [
        ask(site, first_request(study, run=f"{run:064x}", round=number)) for run in range(2) for number in (1, 2, 3)
    ]
    kinds = [type(answer) for answer in answers]
    assert kinds == [Contribution] * 3 + [Refusal] * 3, "the policy's ceiling is the promise of one run"
    assert {reason(answer) for answer in answers[3:]} == {RefusalReason.BUDGET}
    assert len(charges(site)) == 3


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"round": 4}, RefusalReason.NOT_APPROVED),
        ({"round": 1_000_000}, RefusalReason.NOT_APPROVED),
        ({"kind": ContributionKind.UPDATES}, RefusalReason.NOT_APPROVED),
        ({"kind": ContributionKind.STATISTICS}, RefusalReason.NOT_APPROVED),
        ({"study": "0" * 64}, RefusalReason.NOT_APPROVED),
        ({"round": 0}, RefusalReason.WIRE),
        ({"round": -1}, RefusalReason.WIRE),
        ({"round": 10**7}, RefusalReason.WIRE),
        ({"run": "A" * 64}, RefusalReason.WIRE),
        ({"vector": np.zeros(3, dtype=np.float32)}, RefusalReason.WIRE),
    ],
)
def test_a_request_that_differs_from_the_study_costs_and_gets_nothing(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, steps: list[str],
    fault: dict[str, Any], expected: RefusalReason,
) -> None:  # fmt: skip
    study = tiny_study()
    site = make_site(study)
    assert reason(ask(site, first_request(study, **fault))) is expected
    assert "charged" not in steps
    assert charges(site) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_weights_that_are_not_finite_are_refused(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, steps: list[str],
    value: float, place: int,
) -> None:  # fmt: skip
    study = tiny_study()
    request = first_request(study)
    request.vector[place] = value
    assert reason(ask(make_site(study), request)) is RefusalReason.WIRE
    assert "charged" not in steps


@pytest.mark.parametrize("scale", [1e10, 1e38])
def test_huge_weights_reveal_nothing_about_who_failed(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask,
    weights_like: Callable[..., np.ndarray], scale: float,
) -> None:  # fmt: skip
    study = tiny_study()
    answer = ask(make_site(study), first_request(study, vector=weights_like(study, scale)))
    assert isinstance(answer, Contribution), "a model that overflows is answered like any other"


def test_a_request_of_another_form_is_refused(
    tiny_study: MakeStudy, make_site: MakeSite, ask: Ask, hello: Callable[..., Hello]
) -> None:
    study = tiny_study()
    site = make_site(study)
    shapeless = RecordDict({"header": ConfigRecord({"type": "round-request"})})
    assert reason(ask(site, shapeless, message_type="train.gradients")) is RefusalReason.WIRE
    assert reason(ask(site, encode(hello(study)), message_type="train.gradients")) is RefusalReason.WIRE
    assert reason(ask(site, RecordDict(), message_type="train.updates")) is RefusalReason.WIRE


def test_a_study_must_be_approved_word_by_word(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask,
    hello: Callable[..., Hello],
) -> None:  # fmt: skip
    study = tiny_study()
    weaker = tiny_study(privacy={"epsilon": 5.1})
    site = make_site(study)
    assert reason(ask(site, first_request(weaker))) is RefusalReason.NOT_APPROVED
    assert reason(ask(site, hello(weaker))) is RefusalReason.NOT_APPROVED
    assert isinstance(ask(site, hello(study)), Introduction)


def test_other_code_is_refused(
    tiny_study: MakeStudy, make_site: MakeSite, ask: Ask, hello: Callable[..., Hello]
) -> None:
    study = tiny_study()
    assert reason(ask(make_site(study), hello(study, code="b" * 64))) is RefusalReason.CODE


@pytest.mark.parametrize(
    "policy",
    [
        {"epsilon": 5.0, "minimum_sites": 3},
        {"epsilon": 5.0, "families": ("gan",)},
        {"epsilon": 5.0, "trust": ()},
    ],
)
def test_the_policy_outranks_the_approval(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, steps: list[str],
    hello: Callable[..., Hello], policy: dict[str, Any],
) -> None:  # fmt: skip
    study = tiny_study()
    site = make_site(study, policy=Policy(delta=1e-4, **policy))
    assert reason(ask(site, hello(study))) is RefusalReason.NOT_APPROVED
    assert reason(ask(site, first_request(study))) is RefusalReason.NOT_APPROVED
    assert "charged" not in steps


@pytest.mark.parametrize("policy", [{"epsilon": 1.0, "delta": 1e-4}, {"epsilon": 5.0, "delta": 1e-12}])
def test_the_ceiling_is_the_policys(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, steps: list[str],
    policy: dict[str, Any],
) -> None:  # fmt: skip
    study = tiny_study()
    site = make_site(study, policy=Policy(**policy))
    answers = [ask(site, first_request(study, round=number)) for number in (1, 2, 3)]
    assert isinstance(answers[-1], Refusal)
    assert reason(answers[-1]) is RefusalReason.BUDGET
    assert steps.count("summed") == len(charges(site)) < 3


@pytest.mark.parametrize("noiseless", [True, False])
def test_what_is_not_private_needs_the_policys_leave(
    given_noise: MakeStudy, without_noise: MakeStudy, make_site: MakeSite, first_request: MakeRequest,
    ask: Ask, noiseless: bool,
) -> None:  # fmt: skip
    study = given_noise(0.0) if noiseless else without_noise()
    strict = Policy(epsilon=5.0, delta=1e-4)
    site = make_site(study, policy=strict)
    assert reason(ask(site, first_request(study))) is RefusalReason.NOT_APPROVED
    site = make_site(study, policy=replace(strict, allow_not_private=True))
    answer = ask(site, first_request(study))
    assert (answer.entry == NO_ENTRY) is noiseless


def test_secret_noise_is_demanded_where_privacy_is_promised(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, steps: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    study = tiny_study()
    monkeypatch.setattr(Site, "random", lambda *_, **__: DeterministicRandom(0))
    assert reason(ask(make_site(study), first_request(study))) is RefusalReason.INTERNAL
    assert steps == ["approved", "allowed", "vouched"]


def test_a_study_given_by_its_noise_can_be_run(
    given_noise: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask
) -> None:
    study = given_noise(2.0)
    site = make_site(study)
    answer = ask(site, first_request(study))
    assert isinstance(answer, Contribution)
    assert charges(site)[0].event.noise_multiplier == 2.0


def test_a_contribution_is_signed_over_everything_it_says(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask
) -> None:
    study = tiny_study()
    site = make_site(study)
    request = first_request(study)
    answer = ask(site, request)
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(site.public_key))
    public.verify(bytes.fromhex(answer.signature), answer.signed_bytes())
    assert answer.model == vector_hash(request.vector)
    assert answer.site == "north"
    others: list[dict[str, Any]] = [{name: "0" * 64} for name in ("study", "run", "model", "entry")] + [
        {"round": 2},
        {"site": "south"},
        {"kind": ContributionKind.UPDATES},
        {"vector": answer.vector + 1},
    ]
    bodies = {replace(answer, **change).signed_bytes() for change in others} | {answer.signed_bytes()}
    assert len(bodies) == len(others) + 1


def test_every_failure_becomes_one_word_and_its_text_stays_at_the_site(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    study = tiny_study()
    failures = {
        ValueError("patient Quixote"): RefusalReason.INTERNAL,
        MemoryError("patient Quixote"): RefusalReason.INTERNAL,
        RecordsError("patient Quixote", remedy="Mend."): RefusalReason.RECORDS,
    }
    for failure, expected in failures.items():

        def fail(*_: Any, failure: Exception = failure, **__: Any) -> None:
            raise failure

        monkeypatch.setattr(Trainer, "gradient_sum", fail)
        with caplog.at_level(logging.WARNING, logger="cloister.site"):
            answer = ask(make_site(study), first_request(study))
        assert answer == Refusal(reason=expected)
        assert "Quixote" in caplog.text, "the site's own log should say why"
        caplog.clear()


def test_records_of_another_schema_are_refused(
    tiny_study: MakeStudy, tiny_records: Callable[..., Records], make_site: MakeSite,
    first_request: MakeRequest, ask: Ask,
) -> None:  # fmt: skip
    records = tiny_records(10)
    other = replace(records, schema=replace(records.schema, description="another"))
    study = tiny_study()
    site = make_site(study, other)
    assert reason(ask(site, first_request(study))) is RefusalReason.RECORDS
    assert charges(site) == []
