"""A site's answers in rounds of statistics: what is charged, in which order, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import client.door as door
from client.egress import Placement, contribution_terms
from client.outbox import Outbox
from client.site import Site
from client.training import Trainer
from privacy.ledger import Charge
from privacy.plan import PrivacyPlan
from protocol.messages import Contribution, Refusal, RefusalReason, RoundRequest
from protocol.study import Study
from protocol.terms import ContributionKind
from records.dataset import Records

Ask = Callable[..., Any]
MakeStudy = Callable[..., Study]
MakeSite = Callable[..., Site]
MakeRequest = Callable[..., RoundRequest]
WIDTH = 16
STATISTICS = {"kind": ContributionKind.STATISTICS}
pytestmark = pytest.mark.usefixtures("tally")


def study_of(tiny_study: MakeStudy, *, rounds: int = 2, **sections: Any) -> Study:
    """Two rounds of statistics, of 16 numbers and of 2, and three of training, of 4."""
    mapping = tiny_study(model={"family": "tally", "options": {}}, **sections).to_mapping()
    return Study.from_mapping(mapping | {"statistics": {"rounds": rounds, "share": 0.2}})


def charges(site: Site) -> list[Charge]:
    return [entry.record for entry in site.ledger.entries() if isinstance(entry.record, Charge)]


def send(ask: Ask, site: Site, request: RoundRequest) -> Any:
    return ask(site, request, message_type=f"train.{request.kind.value}")


def test_every_round_has_its_size_and_is_charged_as_its_stage_costs(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask
) -> None:
    study = study_of(tiny_study)
    site, plan = make_site(study), PrivacyPlan.from_study(study)
    sizes = []
    for number in range(1, 6):
        kind = plan.stage(number).kind
        answer = send(ask, site, first_request(study, round=number, kind=kind))
        assert isinstance(answer, Contribution)
        sizes.append(answer.vector.size)
    assert sizes == [WIDTH, 2, 4, 4, 4]
    statistics, training = (stage.event for stage in plan.stages)
    assert [charge.event for charge in charges(site)] == [statistics, statistics, training, training, training]
    # The broken twin pays for all rounds as if they were training.
    assert statistics != training


def test_statistics_are_charged_before_a_record_is_looked_at(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tiny_study)
    site, paid = make_site(study), []
    original = Trainer.statistics_sum

    def noted(self: Trainer, *arguments: Any, **named: Any) -> Any:
        paid.append(len(charges(site)))
        return original(self, *arguments, **named)

    monkeypatch.setattr(Trainer, "statistics_sum", noted)
    assert isinstance(send(ask, site, first_request(study, **STATISTICS)), Contribution)
    assert paid == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": ContributionKind.GRADIENTS},
        {"kind": ContributionKind.UPDATES},
        {"kind": ContributionKind.STATISTICS, "round": 3},
        {"kind": ContributionKind.GRADIENTS, "round": 6},
        {"kind": ContributionKind.STATISTICS, "round": 6},
    ],
)
def test_what_the_study_does_not_have_in_a_round_costs_and_gets_nothing(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, change: dict[str, Any]
) -> None:
    study = study_of(tiny_study)
    site = make_site(study)
    answer = send(ask, site, first_request(study, **change))
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.NOT_APPROVED
    assert charges(site) == []


def test_a_study_without_statistics_gives_none(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask
) -> None:
    study = tiny_study()
    site = make_site(study)
    answer = send(ask, site, first_request(study, **STATISTICS))
    assert isinstance(answer, Refusal)
    assert charges(site) == []


def test_other_runs_do_not_get_statistics_again_for_rounds_of_training(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask
) -> None:
    """Rounds of statistics cost more than those of training: an approval of five rounds is none of five of these."""
    study = study_of(tiny_study)
    site = make_site(study)
    site.policy = replace(site.policy, epsilon=300.0)
    for number in (1, 2):
        request = first_request(study, round=number, **STATISTICS)
        assert isinstance(send(ask, site, request), Contribution)
    again = send(ask, site, first_request(study, run="b" * 64, **STATISTICS))
    assert isinstance(again, Refusal)
    assert again.reason is RefusalReason.BUDGET
    assert len(charges(site)) == 2
    # The broken twin counts rounds of all kinds together, and there are three left of five.
    event = site.plan(study).stages[0].event
    assert event is not None
    site.ledger.charge(
        study=study.hash,
        run="b" * 64,
        round=1,
        event=event,
        ceilings=(),
        study_rounds=study.rounds,
    )
    assert len(charges(site)) == 3


def test_the_same_request_again_gets_the_same_reply_and_another_one_none(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, tmp_path: Any
) -> None:
    study = study_of(tiny_study)
    site = make_site(study, outbox=Outbox(tmp_path / "outbox"))
    request = first_request(study, **STATISTICS)
    first, again = (send(ask, site, request) for _ in range(2))
    assert first.signature == again.signature
    assert np.array_equal(first.vector, again.vector)
    other = send(ask, site, replace(request, vector=request.vector + 1))
    assert isinstance(other, Refusal)
    assert len(charges(site)) == 1


def test_weights_of_a_coordinator_that_wants_to_see_more_are_no_way_around_the_bound(
    given_noise: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, tiny_records: Any
) -> None:
    """The second statistic grows with a weight that the coordinator sends; a unit moves the sum by one at most."""
    study = study_of(lambda **more: given_noise(0.0, **more))
    weights = np.full(4, 1e30, dtype=np.float32)
    sums = []
    for gone in (0, 1):
        records = tiny_records(40)
        site = make_site(study, replace(records, codes=records.codes[gone:]))
        answer = send(ask, site, first_request(study, round=2, vector=weights, **STATISTICS))
        step = site.plan(study).stages[0].mechanism(2).grid.step
        sums.append(answer.vector.astype(np.float64) * step)
    assert float(np.linalg.norm(sums[0] - sums[1])) <= 1.0 + 1e-3
    # The broken twin trusts the family's bound, which holds for weights that were learnt and not for these.
    assert records.codes[0, 0] / 10 * 1e30 / 2 > 1.0


def test_the_wrong_number_of_weights_is_refused_before_it_is_paid_for(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask
) -> None:
    study = study_of(tiny_study)
    site = make_site(study)
    answer = send(ask, site, first_request(study, vector=np.zeros(WIDTH, dtype=np.float32), **STATISTICS))
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.WIRE
    assert charges(site) == []


@pytest.mark.parametrize(("trust", "placement"), [("none", Placement.WHOLE), ("sum", Placement.SHARE)])
def test_the_egress_record_says_what_bounds_and_blurs_statistics(
    tiny_study: MakeStudy, trust: str, placement: Placement
) -> None:
    federation = {"sites": 7, "dropouts": 1} if trust == "sum" else {}
    study = study_of(tiny_study, privacy={"trust": trust, "clip_norm": 3.0}, federation=federation)
    plan = PrivacyPlan.from_study(study)
    stage = plan.stages[0]
    terms = contribution_terms(plan, stage, plan.mechanism(stage, WIDTH))
    assert (terms["norm_bound"], terms["placement"]) == (1.0, placement)
    share = 5**0.5 if trust == "sum" else 1.0
    assert terms["noise"] == pytest.approx(stage.noise_multiplier / share, rel=1e-2)
    if trust == "sum":
        assert terms["noise_in_sum"] == pytest.approx(stage.noise_multiplier, rel=1e-2)


def test_a_site_without_records_sends_noise_and_pays(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, tiny_records: Any
) -> None:
    study = study_of(tiny_study)
    records: Records = tiny_records(1)
    site = make_site(study, replace(records, codes=records.codes[:0]))
    answer = send(ask, site, first_request(study, **STATISTICS))
    assert isinstance(answer, Contribution)
    assert np.count_nonzero(answer.vector) == WIDTH
    assert len(charges(site)) == 1


def test_the_door_asks_the_stage_and_not_the_study(
    tiny_study: MakeStudy, make_site: MakeSite, first_request: MakeRequest, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin: a door that takes every round for training charges statistics as what they are not."""
    study = study_of(tiny_study)
    site = make_site(study)
    original = door._charge

    def wrong(task: Any) -> Any:
        return original(replace(task, stage=task.plan.stages[-1]))

    monkeypatch.setattr(door, "_charge", wrong)
    assert isinstance(send(ask, site, first_request(study, **STATISTICS)), Contribution)
    (charge,) = charges(site)
    assert charge.event != site.plan(study).stages[0].event
