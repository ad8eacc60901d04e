"""The same request gets the same reply, another one gets none, and nothing is computed twice once it is sealed."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import RecordDict

import client.door as door
from client.approvals import Approvals
from client.egress import DepartureKind, Placement, compare, read
from client.policy import Policy
from client.site import Site
from client.training import Trainer
from privacy.ledger import Charge, Ledger, Seal
from protocol.errors import LedgerError
from protocol.messages import Contribution, Introduction, Refusal, RefusalReason, RoundRequest, decode, encode
from protocol.record_bytes import record_bytes
from protocol.signed_study import SignedStudy
from protocol.study import Study
from protocol.warrant import NO_WARRANT, warrant_of

Deliver = Callable[..., RecordDict]
Start = Callable[..., Site]
MakeStudy = Callable[..., Study]
MakeRequest = Callable[..., RoundRequest]


@pytest.fixture
def study(tiny_study: MakeStudy) -> Study:
    return tiny_study()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for every time that a site looks at its records."""
    calls: list[int] = []
    original = Trainer.gradient_sum

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls))
        return original(*args, **kwargs)

    monkeypatch.setattr(Trainer, "gradient_sum", counted)
    return calls


def charges(site: Site) -> list[Charge]:
    return [entry.record for entry in site.ledger.entries() if isinstance(entry.record, Charge)]


def seals(site: Site) -> list[Seal]:
    return [entry.record for entry in site.ledger.entries() if isinstance(entry.record, Seal)]


def reason(content: RecordDict) -> RefusalReason:
    return decode(content, Refusal).reason


def is_contribution(content: RecordDict) -> bool:
    return isinstance(decode(content, Contribution, Refusal), Contribution)


def departures(site: Site) -> list[Any]:
    return [line.departure for line in read(Path(str(site.egress._path)))]


@pytest.mark.parametrize("restarted", [False, True])
def test_the_same_request_gets_the_same_reply(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int],
    restarted: bool,
) -> None:  # fmt: skip
    site = lasting_site(study)
    content = encode(first_request(study))
    first = record_bytes(deliver(site, content))
    for _ in range(3):
        site = lasting_site(study) if restarted else site
        assert record_bytes(deliver(site, content)) == first
    assert len(computed) == len(charges(site)) == len(seals(site)) == 1
    assert [gone.repeated for gone in departures(site)] == [False, True, True, True]
    assert {gone.sha256 for gone in departures(site)} == {seals(site)[0].digest}
    assert compare(read(Path(str(site.egress._path))), site.ledger.entries()) == ()


def test_a_door_that_computes_again_is_caught(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The broken twin has no outbox, and makes the reply anew: other noise on the same records, paid for once."""
    site, content = lasting_site(study), encode(first_request(study))
    first = record_bytes(deliver(site, content))
    state = door._state

    def forgetful(task: Any) -> Any:
        found = state(task)
        return door.Charged(entry=found.entry) if isinstance(found, door.Sealed) else found

    monkeypatch.setattr(door, "_state", forgetful)
    assert reason(deliver(site, content)) is RefusalReason.LEDGER, "the seal alone stops it"
    monkeypatch.setattr(Ledger, "seal", lambda *_: None)
    assert record_bytes(deliver(site, content)) != first
    assert (len(computed), len(charges(site)), len(seals(site))) == (3, 1, 1)
    faults = compare(read(Path(str(site.egress._path))), site.ledger.entries())
    assert len(faults) == 1
    assert "what left is not what ledger entry" in faults[0]


@pytest.mark.parametrize("restarted", [False, True])
def test_other_weights_for_a_sealed_round_get_nothing(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int],
    weights_like: Callable[..., np.ndarray], restarted: bool,
) -> None:  # fmt: skip
    site = lasting_site(study)
    first = encode(first_request(study))
    assert is_contribution(deliver(site, first))
    site = lasting_site(study) if restarted else site
    assert reason(deliver(site, encode(first_request(study, vector=weights_like(study))))) is RefusalReason.LEDGER
    assert len(computed) == len(charges(site)) == 1
    assert is_contribution(deliver(site, first)), "the first is still answered"
    assert is_contribution(deliver(site, encode(first_request(study, round=2))))


def test_a_simulated_site_answers_once(
    study: Study, make_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int]
) -> None:
    site, content = make_site(study), encode(first_request(study))
    assert is_contribution(deliver(site, content))
    assert reason(deliver(site, content)) is RefusalReason.LEDGER
    assert len(computed) == 1


@pytest.mark.parametrize("damage", ["lost", "damaged", "folder"])
def test_a_lost_reply_is_never_made_again(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int],
    tmp_path: Path, damage: str,
) -> None:  # fmt: skip
    site, content = lasting_site(study), encode(first_request(study))
    assert is_contribution(deliver(site, content))
    (file,) = (path for path in (tmp_path / "north" / "outbox").rglob("*") if path.is_file())
    if damage == "damaged":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        shutil.rmtree(tmp_path / "north" / "outbox") if damage == "folder" else file.unlink()
    assert reason(deliver(lasting_site(study), content)) is RefusalReason.LEDGER
    assert len(computed) == 1
    assert is_contribution(deliver(site, encode(first_request(study, round=2))))


def test_a_folder_from_a_backup_releases_nothing_a_second_time(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Everything but the ledger is put back as it was a round ago."""
    folder, contents = tmp_path / "north", [encode(first_request(study, round=number)) for number in (1, 2)]
    deliver(lasting_site(study), contents[0])
    shutil.copytree(folder / "outbox", tmp_path / "backup")
    deliver(lasting_site(study), contents[1])
    shutil.rmtree(folder / "outbox")
    shutil.copytree(tmp_path / "backup", folder / "outbox")
    site = lasting_site(study)
    assert is_contribution(deliver(site, contents[0]))
    assert reason(deliver(site, contents[1])) is RefusalReason.LEDGER
    assert len(computed) == 2


def test_a_round_charged_before_seals_existed_gets_nothing(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int]
) -> None:
    site, request = lasting_site(study), first_request(study)
    event = site.plan(study).round_event
    assert event is not None
    site.ledger._write(Charge(study=study.hash, run=request.run, first_round=1, rounds=1, event=event, reserved=False))
    assert reason(deliver(site, encode(request))) is RefusalReason.LEDGER
    assert computed == []
    assert is_contribution(deliver(site, encode(replace(request, round=2))))


def test_two_processes_with_one_folder_release_one_reply(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Both found the round charged, both compute, and meet at the seal; the second one is done first."""
    content, one, two = encode(first_request(study)), lasting_site(study), lasting_site(study)
    answer, meanwhile = door._contribute_alone, list[RecordDict]()

    def meet(task: Any) -> Any:
        if task.site is one:
            with monkeypatch.context() as patch:
                put = one.outbox.put

                def late(*args: Any, **kwargs: Any) -> str:
                    meanwhile.append(door.answer(task.message, lambda: two, door.contribute).content)
                    return put(*args, **kwargs)

                patch.setattr(one.outbox, "put", late)
                return answer(task)
        return answer(task)

    monkeypatch.setattr(door, "_contribute_alone", meet)
    assert reason(deliver(one, content)) is RefusalReason.LEDGER
    assert is_contribution(meanwhile[0])
    assert len(computed) == 2
    assert record_bytes(deliver(one, content)) == record_bytes(meanwhile[0])
    assert len(charges(one)) == len(seals(one)) == 1
    assert {gone.sha256 for gone in departures(one) if gone.entry} == {seals(one)[0].digest}


@pytest.mark.parametrize("place", ["charge", "outbox", "seal", "egress"])
def test_a_full_disk_releases_nothing_and_is_made_good(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:  # fmt: skip
    """Whichever write fails, the answer is a refusal; with room again the same request is answered, for one charge."""
    site, content = lasting_site(study), encode(first_request(study))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_book(*_: object, **__: object) -> None:
        raise LedgerError("The ledger does not fit on the disk; nothing was charged.", remedy="Free space.")

    with monkeypatch.context() as patch:
        if place in ("charge", "seal"):
            patch.setattr(Ledger, place, full_book)
        elif place == "outbox":
            patch.setattr(os, "fdopen", full)
        else:
            patch.setattr(site.egress, "_append", full)
        for _ in range(2):
            assert reason(deliver(site, content)) is RefusalReason.LEDGER
    site = lasting_site(study)
    reply = deliver(site, content)
    assert is_contribution(reply)
    assert len(charges(site)) == len(seals(site)) == 1
    contributions = [gone for gone in departures(site) if gone.kind is DepartureKind.CONTRIBUTION]
    assert [gone.repeated for gone in contributions] == [place == "egress"]
    assert contributions[0].sha256 == seals(site)[0].digest


def test_a_refusal_leaves_also_when_it_cannot_be_recorded(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    site = lasting_site(study)
    monkeypatch.setattr(site.egress, "_append", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert reason(deliver(site, encode(first_request(study, round=9)))) is RefusalReason.NOT_APPROVED
    assert "a refusal is not in the egress record" in caplog.text


def test_everything_that_leaves_is_recorded(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, hello: Callable[..., Any]
) -> None:
    site, request = lasting_site(study), first_request(study)
    left = [
        deliver(site, encode(hello(study)), "query.hello"),
        deliver(site, encode(hello(study, code="b" * 64)), "query.hello"),
        deliver(site, encode(request)),
        deliver(site, encode(replace(request, round=9))),
        deliver(site, RecordDict()),
    ]
    gone = departures(site)
    assert [line.kind for line in gone] == ["introduction", "refusal", "contribution", "refusal", "refusal"]
    for content, line in zip(left, gone, strict=True):
        assert (line.bytes, line.sha256) == (len(record_bytes(content)), door.reply_digest(record_bytes(content)))
    assert [(line.study, line.run, line.round) for line in gone[2:]] == [
        (study.hash, request.run, 1), (study.hash, request.run, 9), ("", "", 0),
    ]  # fmt: skip
    assert [line.reason for line in gone] == [
        "",
        RefusalReason.CODE,
        "",
        RefusalReason.NOT_APPROVED,
        RefusalReason.WIRE,
    ]
    paid = gone[2]
    assert paid.entry == decode(left[2], Contribution).entry
    assert (paid.norm_bound, paid.placement) == (study.privacy.clip_norm, Placement.WHOLE)


def test_an_introduction_is_signed_over_the_challenge(
    study: Study, lasting_site: Start, deliver: Deliver, hello: Callable[..., Any]
) -> None:
    asked = hello(study)
    answer = decode(deliver(lasting_site(study), encode(asked), "query.hello"), Introduction)
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(answer.public_key))
    public.verify(bytes.fromhex(answer.signature), answer.signed_bytes(asked.challenge))
    assert answer.signed_bytes(asked.challenge) != answer.signed_bytes("0" * 64)


def test_a_signed_study_needs_the_coordinators_warrant(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int]
) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    site = lasting_site(study, approvals=Approvals([SignedStudy.sign(study, key)]))
    request = first_request(study)
    bad = [
        NO_WARRANT,
        "1" * 128,
        warrant_of(other, study=study.hash, run=request.run),
        warrant_of(key, study=study.hash, run="9" * 64),
        warrant_of(key, study="9" * 64, run=request.run),
    ]
    for warrant in bad:
        content = encode(replace(request, warrant=warrant))
        assert reason(deliver(site, content)) is RefusalReason.NOT_APPROVED
    assert (computed, charges(site)) == ([], [])
    good = encode(replace(request, warrant=warrant_of(key, study=study.hash, run=request.run)))
    assert is_contribution(deliver(site, good))


def test_a_study_gets_its_rounds_and_no_more(
    study: Study, lasting_site: Start, deliver: Deliver, first_request: MakeRequest, computed: list[int]
) -> None:
    """The policy would allow far more; the approved study does not."""
    site = lasting_site(study, policy=Policy(epsilon=300.0, delta=1e-4))
    places = [("a" * 64, 1), ("b" * 64, 1), ("b" * 64, 2), ("b" * 64, 3)]
    replies = [deliver(site, encode(first_request(study, run=run, round=number))) for run, number in places]
    assert [is_contribution(reply) for reply in replies] == [True, True, True, False]
    assert reason(replies[3]) is RefusalReason.BUDGET
    assert len(computed) == 3
