"""The egress record as an officer reads it, and its comparison with the ledger."""

import json

import pytest

from client.egress import Departure, DepartureKind, Egress

KINDS = {"contribution": 7}


def test_every_message_is_listed_with_totals(says, site_cli, officer):
    Egress(officer.folder / "egress.jsonl").record(
        Departure(kind=DepartureKind.REFUSAL, study="", run="", round=0, bytes=50, sha256="0" * 64, reason="records")
    )
    status, out, err = says("egress", "--site", officer.folder)
    assert (status, err) == (0, "")
    assert "refusal: records" in out
    assert "2 whole" in out
    assert "7,000" in out
    status, out, _ = site_cli("egress", "--site", officer.folder, "--json")
    found = json.loads(out)
    assert (status, found["messages"]) == (0, 8)
    assert {total["kind"]: (total["messages"], total["bytes"]) for total in found["totals"]} == {
        "contribution": (7, 7000), "refusal": (1, 50),
    }  # fmt: skip
    assert found["lines"][0]["norm_bound"] == 1.0
    assert "marker" not in out


def test_of_many_messages_the_last_are_shown(says, officer):
    egress = Egress(officer.folder / "egress.jsonl")
    for number in range(20):
        egress.record(
            Departure(kind=DepartureKind.INTRODUCTION, study="", run="", round=number, bytes=1, sha256="0" * 64)
        )
    shown, every = (says("egress", "--site", officer.folder, *more)[1] for more in ((), ("--all",)))
    assert "The last 20 of 27 messages" in shown
    assert "contribution" in shown, "in the totals"
    assert shown.count("whole") == 0
    assert every.count("whole") == 7


def test_a_narrow_terminal_breaks_no_word_and_cuts_no_figure(site_cli, officer, monkeypatch):
    Egress(officer.folder / "egress.jsonl").record(
        Departure(kind=DepartureKind.INTRODUCTION, study="b" * 64, run="", round=300, bytes=12_345_678, sha256="a" * 64)
    )
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = site_cli("egress", "--site", officer.folder)
    messages = out.partition("In all")[0]
    for word in ("introduction", "contribution", "12,345,678", "b" * 8, "a" * 8, "whole"):
        assert word in messages, word
    assert max(map(len, messages.splitlines())) <= 80


def test_nothing_has_left_a_new_site(says, new_officer):
    status, out, _ = says("egress", "--site", new_officer.folder, "--verify")
    assert status == 0
    assert "Nothing has left this site." in out


def test_record_and_ledger_agree(says, officer):
    status, out, err = says("egress", "--site", officer.folder, "--verify")
    assert (status, err) == (0, "")
    assert "ok The record: 7 lines in one chain." in out
    assert "every seal has its line" in out


def test_a_line_that_was_changed_is_found(says, officer):
    path = officer.folder / "egress.jsonl"
    path.write_text(path.read_text("utf-8").replace('"bytes":1000', '"bytes":2000', 1), "utf-8")
    status, _, err = says("egress", "--site", officer.folder)
    assert status == 1
    assert "line 0 was changed" in err


@pytest.mark.parametrize("left", [3, 6])
def test_lines_cut_off_at_the_end_are_found_by_the_ledger(says, officer, left):
    path = officer.folder / "egress.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:left]), "utf-8")
    assert says("egress", "--site", officer.folder)[0] == 0, "in itself the chain is intact"
    status, out, err = says("egress", "--site", officer.folder, "--verify")
    assert status == 1
    assert f"BAD {7 - left} sealed rounds" in out
    assert "do not agree" in err


def test_what_left_and_was_never_paid_for_is_found(says, officer):
    Egress(officer.folder / "egress.jsonl").record(
        Departure(
            kind=DepartureKind.CONTRIBUTION,
            study="a" * 64,
            run="b" * 64,
            round=1,
            bytes=9,
            sha256="c" * 64,
            entry="d" * 64,
        )  # fmt: skip
    )
    status, _, err = says("egress", "--site", officer.folder, "--verify")
    assert status == 1
    assert "lacks 1 entries" in err


def test_what_left_and_was_not_what_was_sealed_is_found(says, officer):
    path = officer.folder / "egress.jsonl"
    entry = json.loads(path.read_text("utf-8").splitlines()[0])["entry"]
    Egress(path).record(
        Departure(
            kind=DepartureKind.CONTRIBUTION,
            study="a" * 64,
            run="b" * 64,
            round=1,
            bytes=9,
            sha256="c" * 64,
            entry=entry,
        )  # fmt: skip
    )
    status, out, _ = says("egress", "--site", officer.folder, "--verify")
    assert status == 1
    assert "BAD Line 7: what left is not what ledger entry" in out
    assert says("ledger", "--site", officer.folder, "--verify")[0] == 1
