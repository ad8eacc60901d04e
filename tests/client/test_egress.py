"""The egress record: every line is whole and in its place, or it shows."""

import errno
import json
import multiprocessing
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.egress import Departure, DepartureKind, Egress, Placement, compare, contribution_terms, read
from privacy.events import NoisyRelease
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from protocol.digest import digest
from protocol.errors import LedgerError
from protocol.study import Study

GONE = Departure(
    kind=DepartureKind.CONTRIBUTION,
    study="a" * 64,
    run="b" * 64,
    round=7,
    bytes=1234,
    sha256="c" * 64,
    norm_bound=1.0,
    noise=0.5,
    placement=Placement.WHOLE,
    entry="d" * 64,
)
REFUSED = Departure(
    kind=DepartureKind.REFUSAL, study="", run="", round=0, bytes=90, sha256="e" * 64, reason="the request is malformed"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record of three lines."""
    place = tmp_path / "egress.jsonl"
    egress = Egress(place)
    for number in (1, 2, 3):
        egress.record(replace(GONE, round=number))
    return place


def test_what_was_recorded_is_read(path: Path) -> None:
    Egress(path).record(REFUSED)
    lines = read(path)
    assert [line.number for line in lines] == [0, 1, 2, 3]
    assert [line.departure for line in lines] == [*(replace(GONE, round=n) for n in (1, 2, 3)), REFUSED]
    assert all(line.time.endswith("+00:00") for line in lines)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_chain_can_be_followed_without_our_code(path: Path) -> None:
    previous = "0" * 64
    for text in path.read_text("utf-8").splitlines():
        line = json.loads(text)
        claimed = line.pop("hash")
        assert line["previous"] == previous
        assert digest(line) == claimed
        previous = claimed


def test_without_a_file_nothing_is_kept(tmp_path: Path) -> None:
    egress = Egress()
    egress.record(GONE)
    assert not egress.keeps
    assert read(tmp_path / "missing") == ()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_changed_byte_anywhere_shows(path: Path, place: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for position in range(0, len(lines[place]), 7):
        changed = bytearray(lines[place])
        changed[position] ^= 1
        path.write_bytes(b"".join([*lines[:place], bytes(changed), *lines[place + 1 :]]))
        with pytest.raises(LedgerError):
            read(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [*lines, lines[2]],
        lambda lines: [lines[0], lines[0], *lines[1:]],
        lambda lines: [lines[0], b"\n", *lines[1:]],
        lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]],
        lambda lines: [*lines, b"{}\n"],
        lambda lines: [*lines, b"[1]\n"],
        lambda lines: [*lines, b"\xff\n"],
    ],
)
def test_lines_taken_out_moved_or_put_in_show(path: Path, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(LedgerError):
        read(path)


def test_a_line_without_its_chain_is_caught(path: Path) -> None:
    """The broken twin: whoever writes lines that are right in themselves, and follow nothing."""
    text = json.loads(path.read_text("utf-8").splitlines()[1])
    forged = {**text, "departure": 1} | {"bytes": 1}
    del forged["departure"], forged["hash"]
    whole = json.dumps({**forged, "hash": digest(forged)}, sort_keys=True, separators=(",", ":"))
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], whole, lines[2]]) + "\n", "utf-8")
    with pytest.raises(LedgerError, match="line 2 does not follow"):
        read(path)


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_half_a_line_left_by_a_crash_is_no_line(path: Path, cut: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert len(read(path)) == 2
    Egress(path).record(REFUSED)
    assert [line.departure.kind for line in read(path)] == ["contribution", "contribution", "refusal"]


def test_half_of_the_first_line_is_no_record(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])
    assert read(path) == ()
    Egress(path).record(REFUSED)
    assert [line.number for line in read(path)] == [0]


def test_a_file_that_is_none_of_ours_is_left_alone(path: Path) -> None:
    for content in (b"x" * 100_000, b"no record\n"):
        path.write_bytes(content)
        with pytest.raises(LedgerError):
            Egress(path).record(REFUSED)
        assert path.read_bytes() == content


def append(path: Path, count: int) -> None:
    egress = Egress(path)
    for _ in range(count):
        egress.record(GONE)


def test_processes_share_a_record(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=append, args=(path, 40)) for _ in range(2)]
    for child in children:
        child.start()
    append(path, 40)
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    assert len(read(path)) == 3 + 3 * 40


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    write, before = os.write, path.read_bytes()

    def full(descriptor: int, content: bytes = b"") -> int:
        if failing == "write" and len(content) > 10:
            return write(descriptor, content[:10])  # as much as there was room for
        raise OSError(errno.ENOSPC, "No space left on device")

    egress = Egress(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        if failing == "write":
            calls = iter([full, None])
            patch.setattr(os, "write", lambda *a: (next(calls) or _full)(*a))
        with pytest.raises(LedgerError, match="No space left on device"):
            egress.record(REFUSED)
    assert path.read_bytes() == before
    egress.record(REFUSED)
    assert len(read(path)) == 4


def _full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="nothing was released"):
        Egress(tmp_path / "missing" / "egress.jsonl").record(GONE)


@pytest.mark.parametrize(
    ("sections", "placement"),
    [
        ({}, Placement.WHOLE),
        ({"privacy": {"trust": "sum"}, "federation": {"sites": 7, "dropouts": 1, "colluders": 1}}, Placement.SHARE),
        ({"training": {"strategy": "updates", "local_steps": 3}}, Placement.STEPS),
    ],
)
def test_the_terms_of_a_contribution_are_in_its_own_unit(
    tiny_study: Callable[..., Study], sections: dict[str, Any], placement: Placement
) -> None:
    study = tiny_study(**sections)
    plan = PrivacyPlan.from_study(study)
    mechanism = plan.step_mechanism(50)
    terms = contribution_terms(plan, plan.stages[-1], mechanism)
    assert terms["placement"] is placement
    whole = plan.noise_multiplier * study.privacy.clip_norm
    if placement is Placement.WHOLE:
        assert terms["noise"] == pytest.approx(whole, rel=1e-2)
        assert (terms["norm_bound"], terms["noise_in_sum"]) == (study.privacy.clip_norm, None)
    if placement is Placement.SHARE:
        assert terms["noise"] == pytest.approx(whole / 5**0.5, rel=1e-2), "five honest sites are left of seven"
        assert terms["noise_in_sum"] == pytest.approx(whole, rel=1e-2)
    if placement is Placement.STEPS:
        per_step = whole * study.training.local_learning_rate / plan.expected_units_per_site
        assert terms["noise"] == pytest.approx(per_step, rel=1e-2)
        assert terms["norm_bound"] == study.training.update_norm


def test_without_noise_the_record_says_so(given_noise: Callable[..., Study]) -> None:
    plan = PrivacyPlan.from_study(given_noise(0.0))
    terms = contribution_terms(plan, plan.stages[-1], plan.step_mechanism(50))
    assert (terms["noise"], terms["placement"]) == (0.0, Placement.NONE)


@pytest.fixture
def book(tiny_study: Callable[..., Study]) -> Ledger:
    """A ledger with two sealed rounds."""
    ledger = Ledger.in_memory(key=Ed25519PrivateKey.generate(), data_set="ward")
    event = PrivacyPlan.from_study(tiny_study()).round_event
    assert isinstance(event, NoisyRelease)
    for number in (1, 2):
        paid = ledger.charge(study="a" * 64, run="b" * 64, round=number, event=event, ceilings=())
        ledger.seal(paid, str(number) * 64)
    return ledger


def lines_of(tmp_path: Path, *departures: Departure) -> Any:
    place = tmp_path / "compared.jsonl"
    egress = Egress(place)
    for departure in departures:
        egress.record(departure)
    return read(place)


def test_a_record_that_agrees_with_the_ledger(tmp_path: Path, book: Ledger) -> None:
    first, second = (entry.hash for entry in book.entries()[1::2])
    gone = [
        replace(GONE, entry=first, sha256="1" * 64),
        REFUSED,
        replace(GONE, entry=second, sha256="2" * 64),
        replace(GONE, entry=second, sha256="2" * 64, repeated=True),
        replace(GONE, entry=""),
    ]
    assert compare(lines_of(tmp_path, *gone), book.entries()) == ()
    book.close()


def test_every_disagreement_is_said(tmp_path: Path, book: Ledger) -> None:
    first, second = (entry.hash for entry in book.entries()[1::2])
    good, other = replace(GONE, entry=first, sha256="1" * 64), replace(GONE, entry=second, sha256="3" * 64)
    (cut,) = compare(lines_of(tmp_path, good), book.entries())
    assert cut.startswith("Round 2 of run bbbbbbbbbbbb was sealed, and no line says that it left")
    (another,) = compare(lines_of(tmp_path, other), book.entries())
    assert another == f"Line 1: what left is not what ledger entry {second[:12]} was sealed for."
    rolled_back = compare(lines_of(tmp_path), book.entries()[:3])
    assert rolled_back == (
        f"Line 1 names ledger entry {second[:12]}, which the ledger lacks: an older copy of the ledger may have been "
        "put back.",
    )
    book.close()
