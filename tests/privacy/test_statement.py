"""A statement never says less than it costs, and says plainly when nothing holds."""

import json
import math
from typing import Any

import pytest

from privacy.events import Mechanism, NoisyRelease
from privacy.statement import Statement
from privacy.wording import most_advantage
from protocol.digest import canonical_json
from protocol.errors import AccountingError
from protocol.terms import ContributionKind, NoiseOrigin, Relation, Sampler, Trust, Unit


def release(noise: float = 1.0, rate: float = 0.01, count: int = 2000, **changes: Any) -> NoisyRelease:
    fields: dict[str, Any] = {
        "mechanism": Mechanism.GAUSSIAN,
        "noise_multiplier": noise,
        "sample_rate": rate,
        "sampler": Sampler.POISSON,
        "count": count,
        "kind": ContributionKind.GRADIENTS,
        "relation": Relation.ADD_REMOVE,
        "unit": Unit.RECORD,
    }
    return NoisyRelease(**{**fields, **changes})


def statement(*events: NoisyRelease, **changes: Any) -> Statement:
    arguments: dict[str, Any] = {
        "delta": 1e-5,
        "relation": Relation.ADD_REMOVE,
        "unit": Unit.RECORD,
        "trust": Trust.NONE,
        "origin": NoiseOrigin.SYSTEM,
        "simulated": False,
        "ledger_entries": ("ab" * 32,),
    }
    return Statement.from_events(events or (release(),), **{**arguments, **changes})


def test_fields_of_the_reference_run() -> None:
    one = statement()
    assert one.epsilon == pytest.approx(2.584, rel=5e-3)
    assert one.epsilon_replace_one == pytest.approx(4.193, rel=5e-3)
    assert (one.sampler, one.sample_rate, one.noise_multiplier, one.steps) == (
        Sampler.POISSON,
        0.01,
        1.0,
        2000,
    )
    assert one.private
    assert one.headline() == (
        "(2.584, 1e-05)-differential privacy per record under add/remove (4.193 under replace-one)."
    )


def test_sentences_name_everything_that_gives_the_number_its_meaning() -> None:
    text = "\n".join(statement().sentences())
    for part in (
        "13.25 times as likely",  # exp(2.5839), rounded up
        "at most 86.0 %",  # tanh(2.5839 / 2), rounded up
        "2000 noisy sums of gradients",
        "noise multiplier 1,",
        "probability 0.01 (Poisson)",
        "dp-accounting PLD",
        "Rényi bound",
        "the coordinator with every message",
        "not hold against the site's own operator",
        "different people",
        "sums over those sites",
        "abababababab",
    ):
        assert part in text, part


def test_deterministic_noise_is_not_private_in_the_first_line() -> None:
    one = statement(origin=NoiseOrigin.DETERMINISTIC)
    assert not one.private
    assert one.sentences()[0].startswith("NOT PRIVATE")
    assert not any("times as likely" in line for line in one.sentences())
    assert Statement.from_mapping(one.to_mapping()).sentences()[0].startswith("NOT PRIVATE")


def test_a_simulation_says_so_in_the_first_line() -> None:
    assert statement(simulated=True).sentences()[0].startswith("SIMULATED")
    assert not statement().sentences()[0].startswith(("SIMULATED", "NOT PRIVATE"))


def test_less_trust_means_a_stronger_claim() -> None:
    assert any("secure sum" in line for line in statement(trust=Trust.SUM).sentences())
    assert not any("secure sum" in line for line in statement(trust=Trust.NONE).sentences())


def test_a_weak_bound_is_called_weak() -> None:
    assert any("weak bound" in line for line in statement(release(0.4, 1.0, 1)).sentences())
    assert not any("weak bound" in line for line in statement().sentences())


def test_replace_one_by_itself() -> None:
    one = statement(relation=Relation.REPLACE_ONE)
    assert one.epsilon == one.epsilon_replace_one
    assert "another in its place" in "\n".join(one.sentences())


def test_unlike_events_have_no_single_rate() -> None:
    one = statement(release(), release(2.0, 0.1, 3), release(1.0, 0.01, 7))
    assert (one.noise_multiplier, one.sample_rate, one.steps) == (None, None, 2010)
    assert [event.count for event in one.events] == [2007, 3]


def test_round_trip_through_canonical_json() -> None:
    one = statement(release(), release(3.0, 1.0, 2, sampler=Sampler.ALL))
    again = Statement.from_mapping(json.loads(canonical_json(one.to_mapping())))
    assert again == one
    again.recompute()


@pytest.mark.parametrize("name", ["check", "replace_one"])
def test_recompute_finds_a_flattered_number(name: str) -> None:
    mapping: Any = statement().to_mapping()
    mapping[name]["pld"] *= 0.99
    with pytest.raises(AccountingError, match="claims"):
        Statement.from_mapping(mapping).recompute()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("version", True),
        ("unit", "household"),
        ("unit", "person"),
        ("trust", None),
        ("check", {}),
        ("check", None),
        ("events", "none"),
        ("events", [{}]),
        ("private", "yes"),
        ("simulated", 1),
        ("ledger_entries", "ab"),
        ("surplus", 1),
    ],
)
def test_refuses_a_bad_mapping(name: str, value: object) -> None:
    with pytest.raises(AccountingError):
        Statement.from_mapping({**statement().to_mapping(), name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "2.5", None])
def test_refuses_a_bad_number(value: object) -> None:
    mapping: Any = statement().to_mapping()
    mapping["check"]["pld"] = value
    with pytest.raises(AccountingError):
        Statement.from_mapping(mapping)


def test_across_sites_takes_the_worst() -> None:
    weak = statement(release(0.9), ledger_entries=("cd" * 32,))
    strong = statement()
    whole = Statement.across_sites([strong, weak])
    assert whole.epsilon == weak.epsilon > strong.epsilon
    assert set(whole.ledger_entries) == {"ab" * 32, "cd" * 32}
    whole.recompute()
    assert not Statement.across_sites([strong, statement(origin=NoiseOrigin.DETERMINISTIC)]).private
    with pytest.raises(AccountingError):
        Statement.across_sites([strong, statement(delta=1e-6)])
    with pytest.raises(AccountingError):
        Statement.across_sites([])


def test_refuses_events_about_another_unit() -> None:
    with pytest.raises(AccountingError):
        statement(unit=Unit.PERSON)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 5.0, 50.0])
def test_advantage_is_met_by_randomised_response_and_no_more(epsilon: float) -> None:
    """The extreme mechanism: leak with probability delta, else answer truly with odds exp(epsilon)."""
    delta = 1e-3
    truth = 1.0 / (1.0 + math.exp(-epsilon))
    reached = delta + (1.0 - delta) * (2.0 * truth - 1.0)
    assert most_advantage(epsilon, delta) == pytest.approx(reached, rel=1e-9)


def test_nothing_is_rounded_down() -> None:
    one = statement()
    shown = float(one.headline()[1:].split(",")[0])
    assert one.epsilon <= shown < one.epsilon + 1e-3
