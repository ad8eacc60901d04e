"""Killed at any line, a site pays once, releases once, masks once, and goes on when the same request comes again.

A kill is an exception that nothing catches, raised before a line of the door and of what it writes with; what is left
is what is on the disk, from which the site is started anew.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict

import client.door as door
from client.egress import compare, read
from client.outbox import Outbox
from client.site import Site
from client.sum_member import MemberTurn
from client.training import Trainer
from privacy.ledger import Charge, Seal
from privacy.secure_sum import KeyOffer, Preparation, Reveal, ServerSession, SiteSession, SurvivorSignature
from privacy.secure_sum.messages import SumMessage
from protocol.messages import Contribution, Refusal, RefusalReason, RoundRequest, SumTurn, decode, encode, vector_hash
from protocol.record_bytes import record_bytes
from protocol.study import Study
from protocol.warrant import NO_WARRANT
from records.dataset import Records
from simulations.federation import simulated_site, with_roster
from strategies.sum_wire import masked_input, read_sum, sum_policy, with_sum, without_sum

# A process that is gone closes no file; the exception that stands for its end leaves that to Python.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
RUN = "a" * 64
NAMES = ("a", "b", "c", "d", "e")
TRACED = ("client/door.py", "client/outbox.py", "client/egress.py", "client/sum_member.py", "privacy/ledger/book.py")
Deliver = Callable[..., RecordDict]
Start = Callable[..., Site]


class Killed(BaseException):
    """The process is gone."""


class Killer:
    """Counts lines of the site's code, and kills at one of them, once."""

    def __init__(self) -> None:
        self.at = self.lines = 0

    @contextmanager
    def aiming(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        del event, arg
        return self._line if frame.f_code.co_filename.endswith(TRACED) else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        del frame, arg
        self.lines += event == "line"
        if self.lines == self.at:
            self.at = 0
            raise Killed
        return self._line


class Wire:
    """What one site was asked and what left it, over all of its lives."""

    def __init__(self, start: Callable[[], Site], deliver: Deliver, folder: Path) -> None:
        self.start, self.deliver, self.folder, self.killer = start, deliver, folder, Killer()
        self.site = start()
        self.left: dict[bytes, set[bytes]] = {}
        self.kills = 0

    def ask(self, content: RecordDict, message_type: str) -> RecordDict:
        """Send a request, and the same again whenever the site is killed meanwhile."""
        for _ in range(3):
            try:
                with self.killer.aiming():
                    reply = self.deliver(self.site, content, message_type)
            except Killed:
                self.restart()
                continue
            self.left.setdefault(record_bytes(content), set()).add(record_bytes(reply))
            return reply
        raise AssertionError("killed more than once")

    def restart(self) -> None:
        """Do what the system does for a process that is gone, and start a new one."""
        self.kills += 1
        self.site.ledger.close()
        for number in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                held = number.readlink()
                if held.is_relative_to(self.folder) and held.name in ("lock", "egress.jsonl"):
                    os.close(int(number.name))
        self.site = self.start()

    def contributions(self) -> dict[tuple[str, int], set[bytes]]:
        """All contributions that left, by run and round."""
        found: dict[tuple[str, int], set[bytes]] = {}
        for reply in {reply for replies in self.left.values() for reply in replies}:
            content = door.record_from_bytes(reply)
            if content["header"]["type"] == "contribution":
                said = decode(without_sum(content), Contribution)
                found.setdefault((said.run, said.round), set()).add(reply)
        return found

    def faults(self) -> list[str]:
        """Whatever must not be."""
        entries = self.site.ledger.entries()
        charges = Counter((e.record.run, e.record.first_round) for e in entries if isinstance(e.record, Charge))
        seals = [entry.record.digest for entry in entries if isinstance(entry.record, Seal)]
        left = self.contributions()
        found = [f"round {place} was charged {count} times" for place, count in charges.items() if count > 1]
        found += [f"round {place} left in {len(found)} forms" for place, found in left.items() if len(found) > 1]
        if {door.reply_digest(reply) for replies in left.values() for reply in replies} != set(seals):
            found.append("what left is not what was sealed")
        found += compare(read(Path(str(self.site.egress._path))), entries)
        return found


@pytest.fixture(autouse=True)
def quick_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the records say does not matter here; the noise is real."""
    monkeypatch.setattr(Trainer, "gradient_sum", lambda self, *_, **__: np.zeros(self.dimension))


@pytest.fixture
def study(given_noise: Callable[..., Study]) -> Study:
    """A study with rounds and budget enough for all deaths."""
    return given_noise(100.0, training={"rounds": 2000}, model={"options": {"latent": 1}})


def request_of(study: Study, weights: np.ndarray, number: int) -> RoundRequest:
    return RoundRequest(
        study=study.hash, run=RUN, round=number, kind=study.training.strategy, warrant=NO_WARRANT, vector=weights
    )


def is_refused(content: RecordDict) -> bool:
    return isinstance(decode(without_sum(content), Contribution, Refusal), Refusal)


def every_line(wire: Wire, content: Callable[[int], RecordDict], *, stride: int) -> int:
    """Kill in one round at one line, in the next at a later one, to the last; returns how many lines there are."""
    assert not is_refused(wire.ask(content(1), "train.gradients"))
    lines, number = wire.killer.lines, 1
    for at in range(1, lines + 1, stride):
        wire.killer.at, wire.killer.lines = at, 0
        number += 1
        assert not is_refused(wire.ask(content(number), "train.gradients")), f"stuck after line {at}"
    assert wire.kills >= 0.9 * lines // stride
    return lines


@pytest.mark.slow
def test_a_round_survives_a_kill_at_any_line(
    study: Study,
    lasting_site: Start,
    deliver: Deliver,
    weights_like: Callable[..., np.ndarray],
    tmp_path: Path,
) -> None:
    wire = Wire(lambda: lasting_site(study), deliver, tmp_path)
    weights = weights_like(study)
    every_line(wire, lambda number: encode(request_of(study, weights, number)), stride=2)
    assert wire.faults() == []
    assert all(len(replies) == 1 for replies in wire.left.values())


@pytest.mark.slow
def test_a_coordinator_that_changes_its_mind_gets_one_of_two(
    study: Study,
    lasting_site: Start,
    deliver: Deliver,
    weights_like: Callable[..., np.ndarray],
    tmp_path: Path,
) -> None:
    """After the kill it asks for the round with other weights, and then with those of before: never both answer."""
    wire = Wire(lambda: lasting_site(study), deliver, tmp_path)
    killer = wire.killer
    first, second = weights_like(study), weights_like(study, 0.5)
    wire.ask(encode(request_of(study, first, 1)), "train.gradients")
    answered = Counter[tuple[bool, bool]]()
    for number, at in enumerate(range(1, killer.lines + 1, 3), start=2):
        killer.at, killer.lines = at, 0
        with suppress(Killed), killer.aiming():
            deliver(wire.site, encode(request_of(study, first, number)), "train.gradients")
        wire.restart()
        replies = [
            wire.ask(encode(request_of(study, weights, number)), "train.gradients") for weights in (second, first)
        ]
        answered[not is_refused(replies[0]), not is_refused(replies[1])] += 1
    assert set(answered) == {(True, False), (False, True)}
    assert wire.faults() == []


def test_an_outbox_that_a_crash_empties_is_caught(
    study: Study, lasting_site: Start, deliver: Deliver, weights_like: Callable[..., np.ndarray],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The broken twin keeps replies in the process's memory: a round that was sealed is then stuck for ever."""
    monkeypatch.setattr(Outbox, "put", lambda _, reply, **__: door.reply_digest(reply))
    wire = Wire(lambda: lasting_site(study), deliver, tmp_path)
    weights = weights_like(study)
    with pytest.raises(AssertionError, match="stuck after line"):
        every_line(wire, lambda number: encode(request_of(study, weights, number)), stride=5)


def test_a_door_that_sends_before_it_seals_is_caught(
    study: Study, lasting_site: Start, deliver: Deliver, weights_like: Callable[..., np.ndarray],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The broken twin seals too late: its first reply is out, and the round is computed anew."""
    wire = Wire(lambda: lasting_site(study), deliver, tmp_path)
    content = encode(request_of(study, weights_like(study), 1))
    with monkeypatch.context() as patch:
        patch.setattr(type(wire.site.ledger), "seal", lambda *_: None)
        wire.ask(content, "train.gradients")
    wire.site = wire.start()
    wire.ask(content, "train.gradients")
    assert f"round {(RUN, 1)} left in 2 forms" in wire.faults()


class Sum:
    """A coordinator of five sites under the secure sum; site a may be killed, the others live in memory."""

    def __init__(self, study: Study, wire: Wire, others: Mapping[str, Site], *, run: str = RUN) -> None:
        self.study, self.wire, self.others, self.run = study, wire, others, run
        plan, trainer = wire.site.plan(study), wire.site.trainer(study)
        self.session = ServerSession(sum_policy(plan, trainer.model, run=run))
        self.weights = np.zeros(trainer.dimension, dtype=np.float32)

    def ask(self, name: str, content: RecordDict, message_type: str = "query.sum") -> RecordDict:
        if name == "a":
            return self.wire.ask(content, message_type)
        return self.wire.deliver(self.others[name], content, message_type)

    def tell(self, name: str, message: SumMessage | None, *, number: int = 1) -> RecordDict:
        turn = encode(SumTurn(study=self.study.hash, run=self.run, warrant=NO_WARRANT, round=number))
        return self.ask(name, turn if message is None else with_sum(turn, message))

    def agree(self) -> None:
        for name in NAMES:
            self.session.add_offer(read_sum(self.tell(name, None), KeyOffer))
        offers = self.session.close_offers()
        for name in NAMES:
            self.session.add_preparation(read_sum(self.tell(name, offers), Preparation))

    def masked(self, number: int) -> Mapping[str, RecordDict]:
        """The request of a round, by site."""
        for name in self.session.unprepared(number):
            self.session.add_preparation(read_sum(self.tell(name, None, number=number), Preparation))
        request = replace(request_of(self.study, self.weights, number), run=self.run)
        start = self.session.start_round(number, model=vector_hash(request.vector))
        return {key.site: with_sum(encode(request), start) for key in start.keys}

    def round(self, number: int, *, without: str = "") -> np.ndarray:
        for name, content in self.masked(number).items():
            if name != without:
                reply = self.ask(name, content, "train.gradients")
                self.session.add_masked(masked_input(reply, decode(without_sum(reply), Contribution)))
        listed = self.session.close_masking()
        if self.session.needs_signatures:
            for name in listed.survivors:
                self.session.add_signature(read_sum(self.tell(name, listed, number=number), SurvivorSignature))
        for name, wanted in self.session.unmask_requests().items():
            self.session.add_reveal(read_sum(self.tell(name, wanted, number=number), Reveal))
        return np.asarray(self.session.finish_round().vector)


@pytest.fixture
def masked_vectors(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], np.ndarray]:
    """The vector that each site masked last in a round, by name and round."""
    seen: dict[tuple[str, int], np.ndarray] = {}
    original = SiteSession.mask

    def noted(self: SiteSession, start: Any, *, model: str, vector: Any) -> Any:
        seen[self.site, start.round] = np.array(vector)
        return original(self, start, model=model, vector=vector)

    monkeypatch.setattr(SiteSession, "mask", noted)
    return seen


@pytest.fixture
def make_sum(
    given_noise: Callable[..., Study],
    tiny_records: Callable[..., Records],
    lasting_site: Start,
    deliver: Deliver,
    tmp_path: Path,
) -> Callable[..., Sum]:
    """Return a function that begins a run of five sites, always the same ones."""
    keys = {name: Ed25519PrivateKey.generate() for name in NAMES}
    study = with_roster(
        given_noise(
            100.0, training={"rounds": 2000}, privacy={"trust": "sum"}, model={"options": {"latent": 1}},
            federation={"sites": 5, "dropouts": 1, "colluders": 1},
        ),
        keys,
    )  # fmt: skip
    wire = Wire(lambda: lasting_site(study, name="a", key=keys["a"]), deliver, tmp_path)
    others = {name: simulated_site(name, study, tiny_records(10), device="cpu", key=keys[name]) for name in NAMES[1:]}
    return lambda run=RUN: Sum(study, wire, others, run=run)


def total_of(vectors: Mapping[tuple[str, int], np.ndarray], number: int, *, without: str = "") -> np.ndarray:
    return np.sum([vectors[name, number].astype(np.int64) for name in NAMES if name != without], axis=0)


@pytest.mark.slow
def test_a_masked_round_survives_a_kill_at_any_line(
    make_sum: Callable[..., Sum], masked_vectors: dict[tuple[str, int], np.ndarray], tmp_path: Path
) -> None:
    """In every other round a site drops out, so that all kinds of turns are killed in."""
    found = make_sum()
    found.agree()
    killer, number, lines = found.wire.killer, 0, 0
    for without in ("e", ""):
        killer.lines, number = 0, number + 1
        found.round(number, without=without)
        lines = max(lines, killer.lines)
    for at in range(1, lines + 1, 7):
        without, number = "" if number % 2 else "e", number + 1
        killer.at, killer.lines = at, 0
        total = found.round(number, without=without)
        np.testing.assert_array_equal(total, total_of(masked_vectors, number, without=without))
    assert found.wire.kills > 0.7 * lines / 7, "a round without a drop-out has fewer lines"
    (transcript,) = (tmp_path / "a" / "transcripts").glob("*.json")
    told = [line[0] for line in json.loads(transcript.read_bytes())["entries"] if line[1] == "revealed"]
    assert told == list(range(1, number + 1)), "every reveal is in the transcript, once"
    assert found.wire.faults() == []
    assert len(found.wire.contributions()) == number


@pytest.mark.slow
def test_the_key_agreement_survives_a_kill_at_any_line(
    make_sum: Callable[..., Sum], masked_vectors: dict[tuple[str, int], np.ndarray]
) -> None:
    first = make_sum()
    killer = first.wire.killer
    first.agree()
    lines = killer.lines
    for at in range(1, lines + 1, 5):
        found = make_sum(run=f"{at:064x}")
        killer.at, killer.lines = at, 0
        found.agree()
        killer.at = 0
        np.testing.assert_array_equal(found.round(1), total_of(masked_vectors, 1))
    assert first.wire.kills > 0.9 * lines / 5
    assert first.wire.faults() == []


def test_a_masked_round_is_answered_again_and_no_other_request_for_it_is(make_sum: Callable[..., Sum]) -> None:
    found = make_sum()
    found.agree()
    content = found.masked(1)["a"]
    first = found.ask("a", content, "train.gradients")
    found.wire.site = found.wire.start()
    assert record_bytes(found.ask("a", content, "train.gradients")) == record_bytes(first)
    other = RecordDict(dict(content) | {"vector": encode(request_of(found.study, found.weights + 1, 1))["vector"]})
    for site in (found.wire.site, found.wire.start()):
        found.wire.site = site
        said = decode(without_sum(found.ask("a", other, "train.gradients")), Refusal)
        assert said.reason is RefusalReason.LEDGER
    assert found.wire.faults() == []


def test_every_turn_is_answered_again_alike(make_sum: Callable[..., Sum]) -> None:
    """Each kind of turn, at once and after a restart; a repetition is in the record as one."""
    found = make_sum()
    ask = found.wire.ask

    def thrice(content: RecordDict, message_type: str) -> RecordDict:
        ask(content, message_type)
        found.wire.site = found.wire.start()
        ask(content, message_type)
        return ask(content, message_type)

    found.wire.ask = thrice  # type: ignore[method-assign]  # a coordinator that stutters
    found.agree()
    found.round(1, without="e")
    found.round(2)
    assert [len(replies) for replies in found.wire.left.values()] == [1] * len(found.wire.left)
    assert found.wire.faults() == []
    gone = [line.departure for line in read(Path(str(found.wire.site.egress._path)))]
    kinds = Counter((line.kind.value, line.repeated) for line in gone)
    # The offer is made anew each time, and is the same; the others are kept: preparation, signature, two reveals.
    assert kinds == {
        ("sum turn", False): 3 + 4, ("sum turn", True): 2 * 4, ("contribution", False): 2, ("contribution", True): 4,
    }  # fmt: skip


def test_sums_from_a_backup_mask_nothing_a_second_time(make_sum: Callable[..., Sum], tmp_path: Path) -> None:
    """With the older session the masks are there again: only the ledger says that they were used."""
    found = make_sum()
    found.agree()
    contents = found.masked(1)
    (secret,) = (tmp_path / "a" / "sums").glob("*.secret")
    backup = secret.read_bytes()
    assert not is_refused(found.ask("a", contents["a"], "train.gradients"))
    secret.write_bytes(backup)
    found.wire.site = found.wire.start()
    said = decode(without_sum(found.ask("a", contents["a"], "train.gradients")), Refusal)
    assert said.reason is RefusalReason.LEDGER


def test_without_the_ledgers_word_the_backup_masks_twice(
    make_sum: Callable[..., Sum], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin of the test above."""
    found = make_sum()
    found.agree()
    content = found.masked(1)["a"]
    (secret,) = (tmp_path / "a" / "sums").glob("*.secret")
    backup = secret.read_bytes()
    found.ask("a", content, "train.gradients")
    secret.write_bytes(backup)
    found.wire.site = found.wire.start()
    (entry,) = (e for e in found.wire.site.ledger.entries() if isinstance(e.record, Charge))
    monkeypatch.setattr(door, "_state", lambda _: door.Charged(entry=entry))
    monkeypatch.setattr(type(found.wire.site.ledger), "seal", lambda *_: None)
    found.ask("a", content, "train.gradients")
    assert f"round {(RUN, 1)} left in 2 forms" in found.wire.faults()


def test_a_ledger_from_a_backup_is_seen_by_the_memory_of_the_sum(make_sum: Callable[..., Sum], tmp_path: Path) -> None:
    found = make_sum()
    found.agree()
    content, book = found.masked(1)["a"], tmp_path / "a" / "ledger.sqlite"
    backup = book.read_bytes()
    assert not is_refused(found.ask("a", content, "train.gradients"))
    found.wire.site.ledger.close()
    book.write_bytes(backup)
    found.wire.site = found.wire.start()
    said = decode(without_sum(found.ask("a", content, "train.gradients")), Refusal)
    assert said.reason is RefusalReason.LEDGER


def test_a_session_written_down_before_its_reply_is_caught(
    make_sum: Callable[..., Sum], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin uses up its masks first: killed then, the round has neither masks nor a reply."""
    found = make_sum()
    found.agree()
    content = found.masked(1)["a"]
    keep = MemberTurn.keep

    def die(self: MemberTurn, request: str, reply: str) -> None:
        keep(self, request, reply)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "put", lambda _, reply, **__: door.reply_digest(reply))
        patch.setattr(MemberTurn, "keep", die)
        with pytest.raises(Killed):
            found.wire.deliver(found.wire.site, content, "train.gradients")
    found.wire.restart()
    assert is_refused(found.ask("a", content, "train.gradients")), "stuck"
