"""The ledger's promises, one by one, and what must break them."""

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import epsilon
from privacy.ceiling import Ceiling
from privacy.events import Mechanism, NoisyRelease
from privacy.ledger import Charge, Entry, Ledger, Opening, Settlement, book, read_entries
from protocol.errors import AccountingError, BudgetError, LedgerError
from protocol.terms import ContributionKind, NoiseOrigin, Relation, Sampler, Trust, Unit

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))
STUDY, RUN = "a" * 64, "run-1"
CEILING = Ceiling(epsilon=1.0, delta=1e-5, relation=Relation.ADD_REMOVE)


def release(**changes: Any) -> NoisyRelease:
    fields: dict[str, Any] = {
        "mechanism": Mechanism.GAUSSIAN,
        "noise_multiplier": 1.0,
        "sample_rate": 0.01,
        "sampler": Sampler.POISSON,
        "count": 1,
        "kind": ContributionKind.GRADIENTS,
        "relation": Relation.ADD_REMOVE,
        "unit": Unit.RECORD,
    }
    return NoisyRelease(**{**fields, **changes})


def charge(ledger: Ledger, round_: int, **changes: Any) -> Entry:
    arguments: dict[str, Any] = {
        "study": STUDY,
        "run": RUN,
        "round": round_,
        "event": release(),
        "ceilings": [CEILING],
    }
    return ledger.charge(**{**arguments, **changes})


def charge_all(ledger: Ledger, rounds: Iterable[int], **changes: Any) -> list[str]:
    """Charges until something is raised; keeps the hashes of what was acknowledged in ``changes["into"]``."""
    into: list[str] = changes.pop("into", [])
    for round_ in rounds:
        into.append(charge(ledger, round_, **changes).hash)
    return into


def reserve(ledger: Ledger, first: int, rounds: int, **changes: Any) -> Entry:
    arguments: dict[str, Any] = {
        "study": STUDY,
        "run": RUN,
        "first_round": first,
        "rounds": rounds,
        "event_per_round": release(),
        "ceilings": [CEILING],
    }
    return ledger.reserve(**{**arguments, **changes})


def spent(ledger: Ledger) -> float:
    return ledger.spent(delta=1e-5, relation=Relation.ADD_REMOVE, trust=Trust.SUM, origin=NoiseOrigin.SYSTEM).epsilon


def steps(ledger: Ledger) -> int:
    return ledger.entries()[-1].compositions


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with an opening, two charges, a reservation and its settlement."""
    place = tmp_path / "ledger.sqlite"
    with Ledger.create(place, key=KEY, data_set="ward") as ledger:
        charge(ledger, 0)
        charge(ledger, 1)
        block = reserve(ledger, 2, 10)
        ledger.use(block, 2)
        ledger.settle(block, 1)
    return place


def reopen(path: Path, **changes: Any) -> Ledger:
    return Ledger.open(path, **{"key": KEY, "data_set": "ward", **changes})


# Charging


def test_what_was_charged_is_there_after_reopening(path: Path) -> None:
    with reopen(path) as ledger:
        kinds = [type(entry.record) for entry in ledger.entries()]
        assert kinds == [Opening, Charge, Charge, Charge, Settlement]
        assert steps(ledger) == 3
        assert spent(ledger) == epsilon([release(count=3)], delta=1e-5, relation=Relation.ADD_REMOVE)
        ledger.verify(PUBLIC)
    assert list(path.parent.iterdir()) == [path]  # a single file
    assert path.stat().st_mode & 0o077 == 0


def test_a_round_is_charged_once(path: Path) -> None:
    with reopen(path) as ledger:
        for round_ in (0, 1, 2):
            with pytest.raises(LedgerError, match="before"):
                charge(ledger, round_)
        with pytest.raises(LedgerError, match="before"):
            charge(ledger, 0, event=release(noise_multiplier=2.0))
        charge(ledger, 0, run="run-2")
        charge(ledger, 0, study="b" * 64)
        assert steps(ledger) == 5


def test_the_ceiling_is_kept_to_the_last_round() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        with pytest.raises(BudgetError, match="ceiling"):
            charge_all(ledger, range(1000))
        assert spent(ledger) <= 1.0
        count = steps(ledger)
        over = epsilon([release(count=count + 1)], delta=1e-5, relation=Relation.ADD_REMOVE)
        assert over > 1.0
        with pytest.raises(BudgetError):
            charge(ledger, count, run="another run", study="b" * 64)
        charge(ledger, count, event=release(noise_multiplier=1000.0))


def test_the_ceiling_counts_other_studies_and_kinds() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        charge(ledger, 0, ceilings=(), event=release(count=5000))
        with pytest.raises(BudgetError):
            charge(ledger, 0, study="b" * 64, event=release(kind=ContributionKind.STATISTICS))
        assert len(ledger.entries()) == 2


def test_no_ceiling_no_limit() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        charge(ledger, 0, ceilings=(), event=release(noise_multiplier=0.9, count=20000))
        assert spent(ledger) > 8.0


def test_units_do_not_mix(path: Path) -> None:
    with reopen(path) as ledger:
        with pytest.raises(LedgerError, match="unit"):
            charge(ledger, 99, event=release(unit=Unit.PERSON), ceilings=())
        assert ledger.unit is Unit.RECORD


def test_an_event_that_the_ceiling_cannot_weigh_is_refused(path: Path) -> None:
    event = release(relation=Relation.REPLACE_ONE, sampler=Sampler.ALL, sample_rate=1.0)
    with reopen(path) as ledger:
        with pytest.raises(AccountingError):
            charge(ledger, 99, event=event)
        assert len(ledger.entries()) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"study": "A" * 64},
        {"study": "a" * 63},
        {"study": None},
        {"run": ""},
        {"run": "two\nlines"},
        {"run": 7},
        {"round": -1},
        {"round": 1.0},
        {"round": True},
        {"event": None},
        {"event": {"noise_multiplier": 1.0}},
    ],
)
def test_refuses_a_bad_call(path: Path, change: dict[str, Any]) -> None:
    with reopen(path) as ledger:
        with pytest.raises(LedgerError):
            charge(ledger, **{"round_": 50, **change})
        assert len(ledger.entries()) == 5


def test_a_thousand_charges_under_a_ceiling_take_less_than_two_seconds() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        wide = Ceiling(epsilon=1.9, delta=1e-5, relation=Relation.ADD_REMOVE)
        start = time.process_time()
        for round_ in range(1000):
            charge(ledger, round_, ceilings=[wide])
        assert time.process_time() - start < 2.0
        assert spent(ledger) <= 1.9
        ledger.verify(PUBLIC)


def test_a_simulation_is_marked() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        charge(ledger, 0)
        assert ledger.simulated
        total = ledger.spent(delta=1e-5, relation=Relation.ADD_REMOVE, trust=Trust.SUM, origin=NoiseOrigin.SYSTEM)
        assert total.headline().startswith("SIMULATED")
        assert total.ledger_entries == (ledger.head,)


def test_nothing_charged_nothing_to_state() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger, pytest.raises(LedgerError, match="Nothing"):
        spent(ledger)


def test_a_clock_that_goes_backwards_is_harmless(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "_now", lambda: datetime(1999, 1, 1, tzinfo=UTC).isoformat())
    with reopen(path) as ledger:
        entry = charge(ledger, 50)
        assert entry.time.startswith("1999")
        with pytest.raises(LedgerError):
            charge(ledger, 50)
    with reopen(path) as ledger:
        ledger.verify(PUBLIC, known=[entry.hash])


# Reservations


def test_a_reservation_counts_whole_until_settled() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        block = reserve(ledger, 0, 200)
        with pytest.raises(BudgetError):
            reserve(ledger, 200, 200)
        ledger.use(block, 0)
        ledger.use(block, 1)
        ledger.settle(block, 2)
        assert steps(ledger) == 2
        reserve(ledger, 2, 200)


def test_reserved_rounds_are_used_once_and_in_order() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        block = reserve(ledger, 5, 4)
        bad: tuple[Any, ...]
        for good, bad in ((5, (4, 9, True, 5.0)), (7, (5, 6, 7)), (8, (8, 9))):
            ledger.use(block, good) if good != 5 else None
            for round_ in bad:
                with pytest.raises(LedgerError):
                    ledger.use(block, round_)
        with pytest.raises(LedgerError, match="4 rounds"):
            ledger.settle(block, 3)
        ledger.settle(block, 4)


def test_a_settlement_is_made_once_and_never_of_more_than_was_reserved() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        block = reserve(ledger, 0, 4)
        for rounds in (5, -1, True):
            with pytest.raises(LedgerError):
                ledger.settle(block, rounds)
        ledger.settle(block, 0)
        assert steps(ledger) == 0
        with pytest.raises(LedgerError, match="settled"):
            ledger.settle(block, 0)
        with pytest.raises(LedgerError, match="settled"):
            ledger.use(block, 0)
        with pytest.raises(LedgerError, match="no reservation"):
            ledger.settle(charge(ledger, 0), 0)


def test_rounds_given_back_may_be_charged_and_used_ones_not() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        block = reserve(ledger, 0, 4)
        ledger.use(block, 1)
        ledger.settle(block, 2)
        charge(ledger, 2)
        for round_ in (0, 1, 2):
            with pytest.raises(LedgerError, match="before"):
                charge(ledger, round_)


def test_a_restart_burns_an_unsettled_reservation(tmp_path: Path) -> None:
    place = tmp_path / "ledger.sqlite"
    with Ledger.create(place, key=KEY, data_set="ward") as ledger:
        block = reserve(ledger, 0, 50)
        ledger.use(block, 0)
    with reopen(place) as ledger:
        for attempt in (lambda: ledger.use(block, 10), lambda: ledger.settle(block, 1)):
            with pytest.raises(LedgerError, match="restart"):
                attempt()
        with pytest.raises(LedgerError, match="before"):
            charge(ledger, 10)
        assert steps(ledger) == 50


def test_another_connection_cannot_use_a_reservation(path: Path) -> None:
    with reopen(path) as one, reopen(path) as two:
        block = reserve(one, 20, 5)
        two.entries()
        with pytest.raises(LedgerError):
            two.use(block, 20)
        one.use(block, 20)


# Several connections and threads


def test_two_connections_see_each_other(path: Path) -> None:
    with reopen(path) as one, reopen(path) as two:
        charge(one, 50)
        with pytest.raises(LedgerError, match="before"):
            charge(two, 50)
        charge(two, 51)
        charge(one, 52)
        assert [entry.hash for entry in one.entries()] == [entry.hash for entry in two.entries()]


def test_threads_share_a_ledger(path: Path) -> None:
    with reopen(path) as ledger:
        won: list[int] = []

        def work() -> None:
            for round_ in range(100, 120):
                try:
                    charge(ledger, round_)
                    won.append(round_)
                except LedgerError:
                    continue

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == list(range(100, 120))
        ledger.verify(PUBLIC)


def test_a_locked_file_is_reported_and_nothing_charged(path: Path) -> None:
    blocker = sqlite3.connect(path, isolation_level=None)
    with reopen(path, busy_seconds=0.05) as ledger:
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked"):
            charge(ledger, 50)
        blocker.execute("ROLLBACK")
        charge(ledger, 50)
    blocker.close()


def test_a_forked_copy_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with reopen(path) as ledger:
        block = reserve(ledger, 60, 5)
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(LedgerError, match="another process"):
            ledger.use(block, 60)


# Files that are not as they should be


def test_open_never_makes_a_fresh_budget(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="There is no ledger"):
        reopen(tmp_path / "mistyped.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_create_never_replaces(path: Path) -> None:
    with pytest.raises(LedgerError, match="exists"):
        Ledger.create(path, key=KEY, data_set="ward")
    with pytest.raises(LedgerError, match="cannot be made"):
        Ledger.create(path.parent / "missing" / "ledger", key=KEY, data_set="ward")


def test_refuses_another_key_or_data_set(path: Path) -> None:
    with pytest.raises(LedgerError, match="not signed"):
        reopen(path, key=OTHER)
    with pytest.raises(LedgerError, match="data set"):
        reopen(path, data_set="clinic")
    with reopen(path) as ledger, pytest.raises(LedgerError):
        ledger.verify(OTHER.public_key())


@pytest.mark.parametrize("content", [b"", b"no ledger at all" * 500])
def test_a_strange_file_is_refused(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "ledger.sqlite"
    place.write_bytes(content)
    with pytest.raises(LedgerError):
        reopen(place)
    assert place.read_bytes() == content


def test_a_damaged_file_is_refused_with_a_remedy(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LedgerError, match="restore"):
        reopen(path)


def test_any_flipped_byte_is_found_or_harmless(path: Path) -> None:
    """Across the whole file: either it is refused, or what it says is unchanged."""
    whole = path.read_bytes()
    with reopen(path) as ledger:
        good = ledger.entries()
    found = 0
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            assert read_entries(path, public_key=PUBLIC) == good
        except LedgerError:
            found += 1
    assert found > 10


def unlocked(path: Path, sql: str, *values: object) -> None:
    """Changes rows as somebody with the file would: takes the triggers off and puts them back."""
    connection = sqlite3.connect(path, isolation_level=None)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    assert connection.execute(sql, values).rowcount > 0
    for _, statement in triggers:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "sql", ["UPDATE entries SET hash = 'x'", "DELETE FROM entries", "UPDATE entries SET payload = ''"]
)
def test_the_file_itself_refuses_change(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(sql)
    connection.close()


def test_missing_triggers_are_found(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER entries_never_change")
    connection.close()
    with pytest.raises(LedgerError, match="triggers"):
        reopen(path)


def test_putting_triggers_back_is_no_tampering(path: Path) -> None:
    """Twin of the tampering tests: the tool they use finds nothing where nothing changed."""
    unlocked(path, "UPDATE entries SET hash = hash")
    ledger = reopen(path)
    assert ledger.entries()
    ledger.close()


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("position", lambda value: value + 100),
        ("payload", lambda value: value.replace(':"', ': "', 1)),
        ("payload", lambda value: value.replace("2", "3", 1)),
        ("payload", lambda value: value[:-1]),
        ("payload", lambda value: value.encode()),
        ("hash", lambda value: value[::-1]),
        ("hash", lambda value: value.upper()),
        ("signature", lambda value: value[::-1]),
        ("signature", lambda value: value[:-2]),
        ("signature", lambda _: "00" * 64),
    ],
)
def test_tampering_with_any_column_of_any_row_is_found(
    path: Path, position: int, column: str, change: Callable[[Any], Any]
) -> None:
    ledger = reopen(path)
    connection = sqlite3.connect(path)
    query = f"SELECT {column} FROM entries WHERE position = ?"  # noqa: S608 - a fixed column
    (value,) = connection.execute(query, (position,)).fetchone()
    connection.close()
    unlocked(path, f"UPDATE entries SET {column} = ? WHERE position = ?", change(value), position)  # noqa: S608
    with pytest.raises(LedgerError):
        ledger.verify(PUBLIC)
    ledger.close()
    for attempt in (lambda: reopen(path), lambda: read_entries(path, public_key=PUBLIC)):
        with pytest.raises(LedgerError):
            attempt()


@pytest.mark.parametrize("position", range(4))
def test_a_row_taken_from_the_middle_is_found(path: Path, position: int) -> None:
    unlocked(path, "DELETE FROM entries WHERE position = ?", position)
    with pytest.raises(LedgerError):
        reopen(path)


def test_swapped_rows_are_found(path: Path) -> None:
    unlocked(
        path,
        "UPDATE entries SET position = CASE position WHEN 1 THEN -1 ELSE position END WHERE position = 1",
    )
    unlocked(path, "UPDATE entries SET position = 1 WHERE position = 2")
    unlocked(path, "UPDATE entries SET position = 2 WHERE position = -1")
    with pytest.raises(LedgerError, match="says it is entry"):
        reopen(path)


def test_a_forged_running_total_is_found_even_with_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "ledger.sqlite"
    with Ledger.create(place, key=KEY, data_set="ward") as ledger:
        charge(ledger, 0)
        sound = ledger._chain.compositions_after
        monkeypatch.setattr(ledger._chain, "compositions_after", lambda record: sound(record) - 1)
        charge(ledger, 1)
    with pytest.raises(LedgerError, match="add up"):
        reopen(place)


def test_rows_cut_off_are_found_by_what_is_known_outside(path: Path) -> None:
    with reopen(path) as ledger:
        head = ledger.head
        unlocked(path, "DELETE FROM entries WHERE position = 4")
        with pytest.raises(LedgerError, match="lost"):
            charge(ledger, 70)
        with pytest.raises(LedgerError, match="lacks"):
            ledger.verify(PUBLIC)
    reopen(path).close()  # the file alone cannot tell
    with pytest.raises(LedgerError, match="lacks"):
        read_entries(path, public_key=PUBLIC, known=[head])


def test_diverging_copies_are_found_by_what_is_known_outside(path: Path) -> None:
    copy = path.parent / "copy.sqlite"
    shutil.copy(path, copy)
    with reopen(path) as one, reopen(copy) as two:
        first, second = charge(one, 50), charge(two, 50)
    assert first.previous == second.previous
    read_entries(path, public_key=PUBLIC, known=[first.hash])
    for place, known in ((path, second), (copy, first)):
        with pytest.raises(LedgerError, match="lacks"):
            read_entries(place, public_key=PUBLIC, known=[known.hash])


def test_anybody_can_recompute_the_total(path: Path) -> None:
    """From the bare rows, with no code of the ledger but the event's fields."""
    connection = sqlite3.connect(path)
    payloads = [json.loads(text) for (text,) in connection.execute("SELECT payload FROM entries ORDER BY position")]
    connection.close()
    spent_rounds = sum(body["rounds"] * body["event"]["count"] for body in payloads if "event" in body)
    given_back = sum(10 - body["used_rounds"] for body in payloads if body["kind"] == "settlement")
    assert payloads[-1]["compositions"] == spent_rounds - given_back == 3


# Disks


def test_a_full_disk_charges_nothing_by_half(path: Path) -> None:
    with reopen(path) as ledger:
        connection = ledger._store._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        acknowledged: list[str] = []
        with pytest.raises(LedgerError, match="does not fit"):
            charge_all(ledger, range(50, 500), ceilings=(), into=acknowledged)
        assert acknowledged
        failed = 50 + len(acknowledged)
        connection.execute("PRAGMA max_page_count = 100000")
        charge(ledger, failed, ceilings=())
        ledger.verify(PUBLIC, known=acknowledged)
        assert len(ledger.entries()) == 5 + len(acknowledged) + 1


def test_a_read_only_file_charges_nothing(path: Path) -> None:
    with reopen(path) as ledger:
        ledger._store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(LedgerError, match="cannot be written"):
            charge(ledger, 50)
        assert len(ledger.entries()) == 5


def test_commits_are_synced_to_the_last_folder(path: Path) -> None:
    """EXTRA (3): the folder is synced too, so that a power cut cannot bring a rollback journal back."""
    with reopen(path) as ledger:
        connection = ledger._store._connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
