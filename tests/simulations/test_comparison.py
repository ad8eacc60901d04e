"""The comparison: what is held back is disjoint and complete, people are whole, and everybody is judged alike."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.study import Study
from records.column import Column, Kind
from records.dataset import Records
from records.schema import Schema
from simulations.comparison import compare, concatenate, hold_out
from simulations.federation import simulate

# Every record has a number of its own, so that it can be found again.
NUMBERS = tuple(str(number) for number in range(400))
NUMBERED = Schema(columns=(Column(name="number", kind=Kind.CATEGORICAL, categories=NUMBERS),), person="who")


def numbered(start: int, persons: list[int] | None, count: int | None = None) -> Records:
    size = len(persons) if persons is not None else (count or 0)
    codes = np.arange(start, start + size, dtype=np.int32)[:, None]
    dense = None if persons is None else np.unique(persons, return_inverse=True)[1].astype(np.int64)
    schema = NUMBERED if persons is not None else replace(NUMBERED, person=None)
    return Records(codes=codes, persons=dense, schema=schema)


@given(sites=st.lists(st.lists(st.integers(0, 12), max_size=40), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_what_is_held_back_is_disjoint_complete_and_whole(sites: list[list[int]], seed: int) -> None:
    parts = {f"site-{n}": numbered(100 * n, persons) for n, persons in enumerate(sites)}
    train, test = hold_out(parts, seed=seed)
    back = set(test.codes[:, 0].tolist())
    assert set(train) == set(parts)
    assert len(back) == len(test)
    for name, part in parts.items():
        everything = set(part.codes[:, 0].tolist())
        kept = set(train[name].codes[:, 0].tolist())
        assert kept | (everything & back) == everything
        assert not kept & back
        assert part.persons is not None
        mine = [int(person) for person, number in zip(part.persons, part.codes[:, 0], strict=True) if number in kept]
        theirs = [int(p) for p, number in zip(part.persons, part.codes[:, 0], strict=True) if number in back]
        assert not set(mine) & set(theirs), "a person was torn apart"
        people = len(set(mine) | set(theirs))
        # A fifth, rounded up, as long as somebody is left to train on.
        assert len(set(theirs)) == min(-(-people // 5), max(0, people - 1))


def test_records_without_persons_are_held_back_one_by_one() -> None:
    train, test = hold_out({"site": numbered(0, None, 50)}, seed=0)
    assert (len(train["site"]), len(test)) == (40, 10)


def test_the_choice_is_the_seeds() -> None:
    parts = {name: numbered(0, None, 50) for name in ("north", "south")}
    first, again, other = (hold_out(parts, seed=seed)[1].codes for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[:10], first[10:]), "sites of equal size hold back the same places"


def test_people_at_different_sites_are_different_people() -> None:
    parts = [numbered(0, [0, 1, 1]), numbered(10, []), numbered(20, [0, 0])]
    pool = concatenate(parts)
    assert pool.persons is not None
    assert pool.persons.tolist() == [0, 1, 1, 2, 2]
    assert pool.codes[:, 0].tolist() == [0, 1, 2, 20, 21]
    assert concatenate([numbered(0, None, 2), numbered(5, None, 1)]).persons is None


def test_everybody_is_trained_and_judged(
    tiny_study: Callable[..., Study], tiny_records: Callable[..., Records], tmp_path: Path
) -> None:
    study = tiny_study(training={"rounds": 2})
    parts = {"north": tiny_records(120, seed=1), "south": tiny_records(60, seed=2)}
    told: list[str] = []
    found = compare(study, parts, seed=0, announce=told.append)
    assert told == ["federated", "north alone", "south alone", "pooled"]
    assert [(row.name, row.records) for row in found.rows] == [
        ("real records", 144), ("north alone", 96), ("south alone", 48), ("federated", 144), ("pooled", 144),
    ]  # fmt: skip
    assert all(0.0 <= row.auroc <= 1.0 and 0.0 <= row.accuracy <= 1.0 for row in found.rows)
    assert found.real.auroc > 0.6, "the records say who is ill: the judge would see nothing"
    assert found.mean_alone == pytest.approx(np.mean([row.auroc for row in found.alone]))
    assert found.statement.epsilon <= 5.0

    train, _ = hold_out(parts, seed=0)
    release = simulate(study, train, release=tmp_path / "release")
    told.clear()
    again = compare(study, parts, seed=0, federated=release, announce=told.append)
    assert "federated" not in told
    assert again.statement == release.statement
    assert again.real == found.real
