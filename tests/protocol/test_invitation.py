"""Invitation codes: they come back whole, or not at all."""

import contextlib
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InputError
from protocol.invitation import Invitation, is_host, is_port

INVITATION = Invitation(
    federation="hearts", site="north", host="train.example.org", port=9443, enrolment_port=9444,
    ca_fingerprint="ab" * 32, secret="cd" * 32,
)  # fmt: skip


def test_code_is_one_line_and_comes_back():
    code = INVITATION.text()
    assert re.fullmatch(r"cloister-[A-Za-z0-9_-]+", code)
    assert len(code) < 250
    assert Invitation.from_text(code) == INVITATION


def test_mail_may_break_the_line():
    code = INVITATION.text()
    assert Invitation.from_text(f"  {code[:40]}\r\n {code[40:]}\n") == INVITATION


def test_secret_is_not_shown():
    assert "cdcd" not in repr(INVITATION)


@given(place=st.integers(min_value=0), letter=st.sampled_from("abcXYZ019_-"))
def test_one_wrong_letter_is_noticed(place, letter):
    code = INVITATION.text()
    place = len("cloister-") + place % (len(code) - len("cloister-"))
    changed = code[:place] + letter + code[place + 1 :]
    read = None
    with contextlib.suppress(InputError):
        read = Invitation.from_text(changed)
    # Either nothing, or the same: the last letter has bits that carry nothing.
    assert read in (None, INVITATION)
    if changed != code and place < len(code) - 1:
        assert read is None


@given(st.integers(min_value=0, max_value=len(INVITATION.text()) - 1))
def test_cut_code_is_noticed(length):
    with pytest.raises(InputError):
        Invitation.from_text(INVITATION.text()[:length])


@given(st.one_of(st.text(max_size=80), st.text(max_size=80).map(lambda text: "cloister-" + text)))
def test_any_text_is_refused_in_our_words(text):
    with pytest.raises(InputError):
        Invitation.from_text(text)


@pytest.mark.parametrize(
    "change",
    [
        {"site": "North"}, {"site": "../x"}, {"federation": ""}, {"host": "a b"}, {"host": "http://x"}, {"port": 0},
        {"port": True}, {"port": "1"}, {"enrolment_port": 65_536}, {"ca_fingerprint": "AB" * 32}, {"secret": "cd"},
        {"secret": None}, {"version": 2}, {"version": True},
    ],
)  # fmt: skip
def test_odd_parts_are_refused(change):
    with pytest.raises(InputError):
        replace(INVITATION, **change)


def test_newer_code_is_told_from_a_damaged_one(monkeypatch):
    monkeypatch.setattr("protocol.invitation.INVITATION_VERSION", 2)
    code = replace(INVITATION, version=2).text()
    monkeypatch.undo()
    with pytest.raises(InputError, match="another version"):
        Invitation.from_text(code)


@pytest.mark.parametrize("host", ["localhost", "a.b-c.example", "10.0.0.1", "::1", "2001:db8::2", "xn--bcher-kva.de"])
def test_hosts(host):
    assert is_host(host)
    assert Invitation.from_text(replace(INVITATION, host=host).text()).host == host


@pytest.mark.parametrize(
    "host", ["", "A.example", "-a", "a-", "a..b", "1.2.3", "1234", "fe80::1%eth0", "a/b", "a@b", "a\n", None, 3]
)
def test_no_hosts(host):
    assert not is_host(host)


def test_ports():
    assert [is_port(value) for value in (1, 65_535, 0, 65_536, "80", 80.0, True)] == [True, True] + [False] * 5
