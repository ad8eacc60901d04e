"""Ceilings over days and rounds of a study: what counts, what a wrong clock gives (nothing), and what bounds it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privacy.ceiling import Ceiling
from privacy.events import Mechanism, NoisyRelease
from privacy.ledger import Charge, Entry, Ledger, book
from privacy.ledger.window import Spending, Window, moment
from protocol.errors import BudgetError
from protocol.terms import ContributionKind, Relation, Sampler, Unit

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
ADD = Relation.ADD_REMOVE
EVENT = NoisyRelease(
    mechanism=Mechanism.GAUSSIAN,
    noise_multiplier=4.0,
    sample_rate=1.0,
    sampler=Sampler.ALL,
    count=1,
    kind=ContributionKind.STATISTICS,
    relation=ADD,
    unit=Unit.RECORD,
)
FOR_EVER = Ceiling(epsilon=6.0, delta=1e-5, relation=ADD)
YEARLY = Ceiling(epsilon=2.0, delta=1e-5, relation=ADD, days=365)
START = datetime(2030, 1, 1, tzinfo=UTC)
SetClock = Callable[[datetime], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Set the ledger's clock."""
    return lambda time: monkeypatch.setattr(book, "_now", lambda: time.isoformat(timespec="seconds"))


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger.in_memory(key=KEY, data_set="ward") as made:
        yield made


def charge(ledger: Ledger, **changes: Any) -> Entry:
    number = len(ledger.entries())
    fields: dict[str, Any] = {"study": "a" * 64, "run": "run", "round": number, "event": EVENT}
    return ledger.charge(**fields | {"ceilings": (FOR_EVER, YEARLY)} | changes)


def charge_until_refused(ledger: Ledger, **changes: Any) -> tuple[int, str]:
    for count in range(10_000):
        try:
            charge(ledger, **changes)
        except BudgetError as error:
            return count, str(error)
    raise AssertionError


@pytest.fixture
def in_a_year(clock: SetClock) -> int:
    """How many charges fit into one year."""
    clock(START)
    with Ledger.in_memory(key=KEY, data_set="ward") as alone:
        count, said = charge_until_refused(alone)
    assert "365 days" in said
    assert count > 1
    return count


def test_what_lies_longer_ago_does_not_count(ledger: Ledger, clock: SetClock, in_a_year: int) -> None:
    clock(START - timedelta(days=400))
    charge_until_refused(ledger)
    clock(START)
    assert charge_until_refused(ledger)[0] == in_a_year


def test_every_charge_counts_for_all_its_days(ledger: Ledger, clock: SetClock, in_a_year: int) -> None:
    clock(START)
    charge_until_refused(ledger)
    clock(START + timedelta(days=364, hours=23))
    assert charge_until_refused(ledger)[0] == 0
    clock(START + timedelta(days=365))
    assert charge_until_refused(ledger)[0] == in_a_year


def test_all_ceilings_are_kept(ledger: Ledger, clock: SetClock) -> None:
    said = ""
    for year in range(50):
        clock(START + timedelta(days=366 * year))
        said = charge_until_refused(ledger)[1]
        if "days" not in said:
            break
    assert "days" not in said, "the ceiling for ever must end it"
    assert year > 2
    clock(START + timedelta(days=10**5))
    assert charge_until_refused(ledger)[0] == 0


def naive_count(ledger: Ledger, now: datetime) -> int:
    """The broken twin: believes every entry's own time."""
    return sum(
        moment(entry.time) > now - timedelta(days=365) for entry in ledger.entries() if isinstance(entry.record, Charge)
    )


def test_a_clock_that_is_set_back_gives_nothing(ledger: Ledger, clock: SetClock, in_a_year: int) -> None:
    clock(START)
    for _ in range(in_a_year // 2):
        charge(ledger)
    clock(START - timedelta(days=3650))
    rest, _ = charge_until_refused(ledger)
    assert rest == in_a_year - in_a_year // 2
    clock(START + timedelta(days=1))
    assert charge_until_refused(ledger)[0] == 0
    assert naive_count(ledger, START + timedelta(days=1)) < in_a_year, "the twin would have allowed more"
    clock(START + timedelta(days=366))
    assert charge_until_refused(ledger)[0] == in_a_year


def test_a_clock_that_was_ahead_for_a_while_gives_nothing_more_than_then(
    ledger: Ledger, clock: SetClock, in_a_year: int
) -> None:
    """Asked with a wrong clock and refused, so that nothing was written by it: afterwards everything counts again."""
    clock(START)
    charge_until_refused(ledger)
    clock(START + timedelta(days=400))
    with pytest.raises(BudgetError):
        charge(ledger, event=EVENT.times(10 * in_a_year))
    clock(START + timedelta(days=1))
    assert charge_until_refused(ledger)[0] == 0


def test_a_clock_set_forward_is_bounded_by_the_ceiling_for_ever(ledger: Ledger, clock: SetClock) -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as alone:
        in_all, _ = charge_until_refused(alone, ceilings=(FOR_EVER,))
    charged = 0
    for jump in range(40):
        clock(START + timedelta(days=366 * jump))
        charged += charge_until_refused(ledger)[0]
    assert charged == in_all


def test_once_set_forward_the_days_end_there(ledger: Ledger, clock: SetClock, in_a_year: int) -> None:
    clock(START + timedelta(days=10_000))
    charge(ledger)
    clock(START)
    assert charge_until_refused(ledger)[0] == in_a_year - 1
    clock(START + timedelta(days=366))
    assert charge_until_refused(ledger)[0] == 0


def test_a_reservation_counts_in_its_days_and_a_settlement_frees_them(
    ledger: Ledger, clock: SetClock, in_a_year: int
) -> None:
    clock(START)
    block = ledger.reserve(
        study="b" * 64, run="r", first_round=0, rounds=in_a_year, event_per_round=EVENT, ceilings=(YEARLY,)
    )
    with pytest.raises(BudgetError):
        charge(ledger)
    ledger.use(block, 0)
    ledger.settle(block, 1)
    assert charge_until_refused(ledger)[0] == in_a_year - 1


def test_a_study_is_charged_for_its_rounds_and_no_more(ledger: Ledger) -> None:
    few: dict[str, Any] = {"ceilings": (), "study_rounds": 3}
    for number, run in enumerate(("one", "one", "two")):
        charge(ledger, run=run, round=number, **few)
    with pytest.raises(BudgetError, match="3 rounds of statistics that study aaaaaaaaaaaa was approved for"):
        charge(ledger, run="three", **few)
    with pytest.raises(BudgetError, match="was approved for"):
        ledger.reserve(study="b" * 64, run="r", first_round=0, rounds=4, event_per_round=EVENT, **few)
    charge(ledger, study="b" * 64, **few)
    block = ledger.reserve(study="b" * 64, run="r", first_round=0, rounds=2, event_per_round=EVENT, **few)
    ledger.settle(block, 0)
    charge(ledger, study="b" * 64, **few)


def test_every_kind_of_round_has_a_number_of_its_own(ledger: Ledger) -> None:
    """Rounds of statistics cost more than rounds of training; the broken twin counts them together."""
    training = replace(EVENT, kind=ContributionKind.GRADIENTS, noise_multiplier=40.0)
    named: dict[str, Any] = {"study": "a" * 64, "run": "one", "ceilings": ()}
    ledger.charge(**named, round=1, event=EVENT, study_rounds=1)
    for number in (2, 3):
        ledger.charge(**named, round=number, event=training, study_rounds=2)
    with pytest.raises(BudgetError, match="the 1 rounds of statistics that study"):
        ledger.charge(**(named | {"run": "two"}), round=1, event=EVENT, study_rounds=1)
    with pytest.raises(BudgetError, match="the 2 rounds of gradients that study"):
        ledger.charge(**(named | {"run": "two"}), round=2, event=training, study_rounds=2)
    ledger.charge(**(named | {"run": "two"}), round=1, event=EVENT, study_rounds=5)


def test_a_seal_is_no_round_of_a_study(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.seal(charge(ledger, ceilings=(), study_rounds=2), "d" * 64)
    with pytest.raises(BudgetError):
        charge(ledger, ceilings=(), study_rounds=2)


steps = st.lists(st.tuples(st.integers(-40, 40), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40)


@given(steps=steps, days=st.integers(1, 60))
def test_a_window_adds_up_what_a_slow_count_adds_up(steps: list[tuple[int, int, int]], days: int) -> None:
    """Time jumps both ways between questions; the spendings' own times never fall, as the chain sees to."""
    window, spendings, now, latest = Window(days), list[Spending](), START, START
    for jump, compositions, kind in steps:
        now += timedelta(days=jump)
        latest = max(now, latest)
        event = replace(EVENT, noise_multiplier=4.0 + kind)
        spendings.append(Spending(time=latest, event=event, compositions=compositions))
        asked = max(now, START)
        slow: Counter[NoisyRelease] = Counter()
        for spending in spendings:
            if asked - spending.time < timedelta(days=days):
                slow[spending.event] += spending.compositions
        found = window.events(spendings, now=asked)
        assert {event.times(1): event.count for event in found} == {e: count for e, count in slow.items() if count}


def test_a_time_without_a_zone_is_in_utc() -> None:
    assert moment("2030-01-01T00:00:00") == START == moment("2030-01-01T01:00:00+01:00")
