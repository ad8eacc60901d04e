"""A round is sealed once: before its seal nothing of it left, and afterwards nothing else ever leaves."""

import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.events import Mechanism, NoisyRelease
from privacy.ledger import Charge, Charged, Entry, Ledger, Seal, Sealed, Spent, Uncharged, read_entries
from privacy.ledger.chain import Chain
from protocol.errors import LedgerError
from protocol.terms import ContributionKind, NoiseOrigin, Relation, Sampler, Trust, Unit

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
STUDY, RUN, DIGEST, OTHER = "a" * 64, "run-1", "d" * 64, "e" * 64
EVENT = NoisyRelease(
    mechanism=Mechanism.GAUSSIAN,
    noise_multiplier=1.0,
    sample_rate=0.01,
    sampler=Sampler.POISSON,
    count=1,
    kind=ContributionKind.GRADIENTS,
    relation=Relation.ADD_REMOVE,
    unit=Unit.RECORD,
)
# A charge as the version before seals wrote and signed it, with KEY.
OLD_PAYLOAD = (
    '{"compositions":1,"event":{"count":1,"kind":"gradients","mechanism":"gaussian","noise_multiplier":1.0,'
    '"relation":"add_remove","sample_rate":0.01,"sampler":"poisson","unit":"record","version":1},"first_round":3,'
    '"kind":"charge","nonce":"' + "c" * 32 + '","position":1,"previous":"' + "b" * 64 + '","rounds":1,"run":"run-1",'
    '"study":"' + "a" * 64 + '","time":"2026-01-02T03:04:05+00:00","version":1}'
)
OLD_HASH = "7533324ff1e2206efd70724ca29e508c2085d9b90f0f1a771e45625ace540d81"
OLD_SIGNATURE = (
    "9efb5f8bca896263df0e20e134d560805da7a7361f2eeaee8c9d7f79a5fcd5c0"
    "93414308125d79162b2b5f6ee3ed9655715d899a5c835d69d3fdd3db4f5f4b04"
)


def charge(ledger: Ledger, round_: int, **changes: Any) -> Entry:
    return ledger.charge(**{"study": STUDY, "run": RUN, "round": round_, "event": EVENT, "ceilings": (), **changes})


def state(ledger: Ledger, round_: int) -> Any:
    return ledger.round_state(study=STUDY, run=RUN, round=round_)


def spent(ledger: Ledger) -> float:
    return ledger.spent(delta=1e-5, relation=Relation.ADD_REMOVE, trust=Trust.SUM, origin=NoiseOrigin.SYSTEM).epsilon


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with round 1 charged, round 2 charged and sealed, and rounds 10 to 12 reserved."""
    place = tmp_path / "ledger.sqlite"
    with Ledger.create(place, key=KEY, data_set="ward") as ledger:
        charge(ledger, 1)
        ledger.seal(charge(ledger, 2), DIGEST)
        ledger.reserve(study=STUDY, run=RUN, first_round=10, rounds=3, event_per_round=EVENT, ceilings=())
    return place


def reopen(path: Path) -> Ledger:
    return Ledger.open(path, key=KEY, data_set="ward")


def test_a_round_is_uncharged_then_charged_then_sealed_also_after_reopening(path: Path) -> None:
    with reopen(path) as ledger:
        paid = [entry for entry in ledger.entries() if isinstance(entry.record, Charge)]
        assert state(ledger, 0) == Uncharged()
        assert state(ledger, 1) == Charged(entry=paid[0])
        assert state(ledger, 2) == Sealed(entry=paid[1], digest=DIGEST)
        assert [state(ledger, round_) for round_ in (10, 12, 13)] == [Spent(), Spent(), Uncharged()]
        assert ledger.round_state(study=OTHER, run=RUN, round=2) == Uncharged()
        assert ledger.round_state(study=STUDY, run="run-2", round=2) == Uncharged()


def test_a_seal_is_there_after_reopening_and_verified(path: Path) -> None:
    with reopen(path) as ledger:
        sealed = ledger.seal(state(ledger, 1).entry, OTHER)
    seals = [entry.record for entry in read_entries(path, public_key=KEY.public_key(), known=[sealed.hash])]
    assert [record.digest for record in seals if isinstance(record, Seal)] == [DIGEST, OTHER]
    with reopen(path) as ledger:
        assert state(ledger, 1).digest == OTHER
        ledger.verify(KEY.public_key())


def test_a_seal_costs_nothing(path: Path) -> None:
    with reopen(path) as ledger:
        before = spent(ledger), ledger.entries()[-1].compositions
        ledger.seal(state(ledger, 1).entry, OTHER)
        assert (spent(ledger), ledger.entries()[-1].compositions) == before


def test_a_round_is_sealed_once(path: Path) -> None:
    with reopen(path) as ledger:
        for digest in (DIGEST, OTHER):
            with pytest.raises(LedgerError, match="sealed before"):
                ledger.seal(state(ledger, 2).entry, digest)
        assert state(ledger, 2).digest == DIGEST


def test_a_sealed_round_is_not_charged_again(path: Path) -> None:
    with reopen(path) as ledger, pytest.raises(LedgerError, match="before"):
        charge(ledger, 2)


def test_only_charges_that_are_to_be_sealed_are(path: Path) -> None:
    with reopen(path) as ledger:
        entries = ledger.entries()
        for entry in entries:
            if not (isinstance(entry.record, Charge) and entry.record.to_be_sealed):
                with pytest.raises(LedgerError, match="is no charge"):
                    ledger.seal(entry, DIGEST)
        assert len(ledger.entries()) == len(entries)


@pytest.mark.parametrize("digest", ["", "D" * 64, "d" * 63, None, 7])
def test_a_digest_is_a_hash(path: Path, digest: Any) -> None:
    with reopen(path) as ledger, pytest.raises(LedgerError, match="digest"):
        ledger.seal(state(ledger, 1).entry, digest)


def test_who_seals_second_gets_nothing(path: Path) -> None:
    """Two connections, as two processes have them: both found the round charged, and both computed."""
    with reopen(path) as one, reopen(path) as two:
        mine, yours = state(one, 1), state(two, 1)
        assert mine == yours
        one.seal(mine.entry, DIGEST)
        with pytest.raises(LedgerError, match="sealed before"):
            two.seal(yours.entry, OTHER)
        assert state(two, 1).digest == DIGEST


def test_of_many_that_race_one_seals(path: Path) -> None:
    with reopen(path) as ledger:
        rounds = {round_: charge(ledger, round_) for round_ in range(100, 110)}
    won: list[tuple[int, str]] = []

    def work(digest: str) -> None:
        with reopen(path) as ledger:
            for round_, entry in rounds.items():
                try:
                    ledger.seal(entry, digest)
                except LedgerError:
                    continue
                won.append((round_, digest))

    threads = [threading.Thread(target=work, args=(str(digit) * 64,)) for digit in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(round_ for round_, _ in won) == sorted(rounds)
    with reopen(path) as ledger:
        assert sorted(won) == [(round_, state(ledger, round_).digest) for round_ in rounds]


def test_a_chain_without_the_rule_is_caught(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin lets a second reply be sealed; whoever verifies its ledger finds it."""
    with monkeypatch.context() as patch:
        patch.setattr(Chain, "_check_seal", lambda *_: None)
        with reopen(path) as ledger:
            ledger.seal(state(ledger, 2).entry, OTHER)
    with pytest.raises(LedgerError, match="sealed before"):
        reopen(path)
    with pytest.raises(LedgerError, match="sealed before"):
        read_entries(path, public_key=KEY.public_key())


def test_rounds_given_back_are_uncharged_again() -> None:
    with Ledger.in_memory(key=KEY, data_set="ward") as ledger:
        block = ledger.reserve(study=STUDY, run=RUN, first_round=0, rounds=4, event_per_round=EVENT, ceilings=())
        ledger.use(block, 0)
        ledger.settle(block, 1)
        assert [state(ledger, round_) for round_ in (0, 1)] == [Spent(), Uncharged()]
        assert state(ledger, 1) == Uncharged()
        charge(ledger, 1)
        assert isinstance(state(ledger, 1), Charged)


def test_an_entry_of_before_seals_is_read_as_it_was_written() -> None:
    entry = Entry.read(payload=OLD_PAYLOAD, hash_=OLD_HASH, signature=OLD_SIGNATURE, public_key=KEY.public_key())
    assert entry.payload == OLD_PAYLOAD
    assert isinstance(entry.record, Charge)
    assert not entry.record.to_be_sealed


def test_a_round_charged_before_seals_existed_may_have_left(tmp_path: Path) -> None:
    """It has no seal either way; only the charge itself can say that it waits for one."""
    place = tmp_path / "ledger.sqlite"
    with Ledger.create(place, key=KEY, data_set="ward") as ledger:
        old = Charge(study=STUDY, run=RUN, first_round=1, rounds=1, event=EVENT, reserved=False)
        ledger._write(old)
    with reopen(place) as ledger:
        assert state(ledger, 1) == Spent()
        with pytest.raises(LedgerError, match="is no charge"):
            ledger.seal(ledger.entries()[-1], DIGEST)
        ledger.seal(charge(ledger, 2), DIGEST)


@pytest.mark.parametrize("changes", [{"reserved": True}, {"to_be_sealed": 1}])
def test_reservations_are_not_sealed(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"first_round": 1, "rounds": 1, "reserved": False, "to_be_sealed": True} | changes
    with pytest.raises(LedgerError, match="to_be_sealed"):
        Charge(study=STUDY, run=RUN, event=EVENT, **fields)
