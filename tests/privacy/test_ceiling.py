"""The allowance says exactly what the accountant of record says, only sooner."""

from typing import Any

import pytest

from privacy import ceiling as module
from privacy.accounting import check_tally
from privacy.ceiling import Allowance, Ceiling
from protocol.errors import AccountingError
from protocol.terms import Relation

ADD = Relation.ADD_REMOVE


def limit(epsilon: float = 1.0, **changes: Any) -> Ceiling:
    fields: dict[str, Any] = {"epsilon": epsilon, "delta": 1e-5, "relation": ADD}
    return Ceiling(**{**fields, **changes})


def record(tally: dict[tuple[float, float], int]) -> float:
    return check_tally(tally, delta=1e-5, relation=ADD).pld


def test_one_by_one_up_to_the_very_edge() -> None:
    allowance, count = Allowance(limit()), 0
    while allowance.permits({(1.0, 0.01): count + 1}, {(1.0, 0.01): 1}):
        count += 1
    assert record({(1.0, 0.01): count}) <= 1.0 < record({(1.0, 0.01): count + 1})


def test_two_kinds_in_turn_end_at_the_edge() -> None:
    allowance, spent = Allowance(limit(2.0)), {(1.0, 0.01): 0, (2.0, 0.05): 0}
    keys = list(spent)
    for turn in range(10_000):
        total = {**spent, keys[turn % 2]: spent[keys[turn % 2]] + 1}
        if not allowance.permits({key: count for key, count in total.items() if count}, dict.fromkeys(keys, 4)):
            break
        spent = total
    assert record(spent) <= 2.0 < record(total)
    assert min(spent.values()) > 50


def test_a_block_is_all_or_nothing() -> None:
    allowance = Allowance(limit())
    assert not allowance.permits({(1.0, 0.01): 1000}, {(1.0, 0.01): 1000})
    assert allowance.permits({(1.0, 0.01): 100}, {(1.0, 0.01): 100})


def test_few_questions_reach_the_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        return check_tally(*args, **kwargs)

    monkeypatch.setattr(module, "check_tally", counting)
    allowance = Allowance(limit(2.0))
    granted = [allowance.permits({(1.0, 0.01): count}, {(1.0, 0.01): 1}) for count in range(1, 1500)]
    assert granted == sorted(granted, reverse=True)
    assert 0 < granted.count(False) < len(granted)
    assert asked <= 15


def test_the_easy_bound_leaves_room_for_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: if the cheap bound reported too little, more would be permitted than the record allows."""
    sound = Allowance(limit()).permits({(1.0, 0.01): 600}, {(1.0, 0.01): 1})
    monkeypatch.setattr(module, "renyi_of_tally", lambda *_, **__: 0.5)
    broken = Allowance(limit()).permits({(1.0, 0.01): 600}, {(1.0, 0.01): 1})
    assert (sound, broken) == (False, True)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": float("nan")},
        {"epsilon": 301.0},
        {"epsilon": True},
        {"delta": 0.0},
        {"delta": 1.0},
        {"relation": "add_remove"},
    ],
)
def test_refuses_a_bad_ceiling(change: dict[str, Any]) -> None:
    with pytest.raises(AccountingError):
        limit(**change)


@pytest.mark.parametrize("days", [0, -1, 36_526, 1.0, True, "365"])
def test_days_are_a_whole_number(days: Any) -> None:
    with pytest.raises(AccountingError, match="days"):
        limit(days=days)
    assert limit(days=365).days == 365


def test_what_was_learnt_does_not_pile_up() -> None:
    """A window's total rises and falls for years: points that say nothing new are let go."""
    allowance, key = Allowance(limit()), (1.0, 0.01)
    for turn in range(3):
        for count in range(300 + turn, 700, 25):
            allowance.permits({key: count, (2.0, 0.01): 40 * turn + 1}, {key: 1})
    for points in (allowance._fits, allowance._passes):
        assert not [one for one in points for other in points if one is not other and module._covers(one, other)]
