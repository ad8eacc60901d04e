"""The roster: codes are used once, keys are one site's, and what happens to a site happens to no other."""

import sqlite3
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.errors import ApprovalError, InputError, WireError
from protocol.keys import new_ec_key
from server.deployment import roster as roster_module
from server.deployment.roster import Roster

START = datetime(2030, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def roster(tmp_path, clock):
    with Roster.create(tmp_path / "roster.sqlite", clock=clock) as made:
        yield made


def node_key():
    return new_ec_key(bits=384).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


NODE_KEYS = [node_key() for _ in range(4)]


def enrol(roster, name, number, *, secret=None, certificate=None, days=365):
    roster.redeem(
        name,
        secret or roster.invite(name),
        identity_key=f"{number:064x}",
        node_key=NODE_KEYS[number],
        certificate=certificate or f"{number:032x}{name:>032}",
        not_after=START + timedelta(days=days),
    )


def rows(path, table, *, without):
    with sqlite3.connect(path) as connection:
        found = connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()  # noqa: S608 - our table
    connection.close()
    return [row for row in found if without not in row]


def test_enrolled_site_is_found_by_its_certificate(roster):
    enrol(roster, "north", 1, certificate="a" * 64)
    member = roster.by_certificate("a" * 64)
    assert (member.name, member.identity_key, member.certificate) == ("north", f"{1:064x}", "a" * 64)
    assert (member.enrolled, member.not_after) == (START, START + timedelta(days=365))
    assert (member.revoked, member.seen) == (None, None)
    assert member.node_key == NODE_KEYS[1]
    assert roster.by_certificate("b" * 64) is None
    assert roster.members() == (member,)
    assert roster.member("north") == member
    assert roster.member("south") is None


def test_only_the_hash_of_a_secret_is_kept(roster, tmp_path):
    secret = roster.invite("north")
    assert len(bytes.fromhex(secret)) == 32
    files = list(tmp_path.iterdir())
    assert all(secret.encode() not in path.read_bytes() for path in files)
    assert all(bytes.fromhex(secret) not in path.read_bytes() for path in files)
    # The search finds what is there.
    assert any(b"north" in path.read_bytes() for path in files)


def test_code_is_used_once(roster):
    secret = roster.invite("north")
    enrol(roster, "north", 1, secret=secret)
    assert not roster.is_invited("north", secret)
    with pytest.raises(ApprovalError, match="no such invitation"):
        enrol(roster, "north", 1, secret=secret, certificate="c" * 64)
    assert roster.by_certificate("c" * 64) is None


def test_of_two_at_once_one_wins(roster, tmp_path, clock):
    secret = roster.invite("north")
    barrier, outcomes = threading.Barrier(8), []

    def attempt(number):
        with Roster.open(tmp_path / "roster.sqlite", clock=clock) as own:
            assert own.is_invited("north", secret)
            barrier.wait()
            try:
                enrol(own, "north", 1, secret=secret, certificate=f"{number:064x}")
                outcomes.append(number)
            except ApprovalError:
                outcomes.append(None)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number in outcomes if number is not None]
    assert len(outcomes) == 8
    assert len(winners) == 1
    assert roster.members()[0].certificate == f"{winners[0]:064x}"
    known = [number for number in range(8) if roster.by_certificate(f"{number:064x}")]
    assert known == winners


@pytest.mark.parametrize("name", ["north", "south"])
def test_wrong_secret_and_unknown_name_fail_alike(roster, name):
    roster.invite("north")
    with pytest.raises(ApprovalError) as caught:
        enrol(roster, name, 1, secret="00" * 32)
    assert str(caught.value) == "There is no such invitation, or it was used or has expired. Ask for a new code."
    assert roster.members() == ()


def test_invitation_expires(roster, clock):
    secret = roster.invite("north", days=7)
    clock.now = START + timedelta(days=7) - timedelta(seconds=1)
    assert roster.is_invited("north", secret)
    assert [invitation.name for invitation in roster.open_invitations()] == ["north"]
    assert roster.open_invitations()[0].expires == START + timedelta(days=7)
    clock.now = START + timedelta(days=7)
    assert not roster.is_invited("north", secret)
    assert roster.open_invitations() == ()
    with pytest.raises(ApprovalError):
        enrol(roster, "north", 1, secret=secret)


def test_new_invitation_ends_the_older_one(roster):
    old, new = roster.invite("north"), roster.invite("north")
    assert (roster.is_invited("north", old), roster.is_invited("north", new)) == (False, True)
    assert len(roster.open_invitations()) == 1


def test_site_comes_back_with_its_identity_key_only(roster):
    enrol(roster, "north", 1, certificate="a" * 64)
    secret = roster.invite("north")
    with pytest.raises(ApprovalError, match=r"another identity key.*revoke the site first"):
        enrol(roster, "north", 2, secret=secret)
    assert roster.is_invited("north", secret)
    enrol(roster, "north", 1, secret=secret, certificate="b" * 64)
    assert [member.name for member in roster.members(include_revoked=True)] == ["north"]
    assert roster.by_certificate("a" * 64) is None
    assert roster.by_certificate("b" * 64).name == "north"


def test_revoked_site_may_come_back_with_new_keys(roster):
    enrol(roster, "north", 1)
    roster.revoke("north")
    enrol(roster, "north", 2)
    assert [member.identity_key[-1] for member in roster.members()] == ["2"]
    assert [member.revoked is None for member in roster.members(include_revoked=True)] == [False, True]


def test_node_key_that_was_revoked_is_not_taken_again(roster):
    enrol(roster, "north", 1)
    roster.revoke("north")
    secret = roster.invite("north")
    facts = {"identity_key": f"{1:064x}", "certificate": "d" * 64, "not_after": START + timedelta(days=365)}
    with pytest.raises(ApprovalError, match=r"was revoked.*Delete node\.key"):
        roster.redeem("north", secret, node_key=NODE_KEYS[1], **facts)
    assert roster.is_invited("north", secret)
    roster.redeem("north", secret, node_key=NODE_KEYS[2], **facts)
    assert roster.member("north").identity_key == f"{1:064x}"


@pytest.mark.parametrize("revoked", [False, True])
def test_keys_are_one_sites(roster, revoked):
    enrol(roster, "north", 1)
    if revoked:
        roster.revoke("north")
    with pytest.raises(ApprovalError, match="another site's"):
        enrol(roster, "south", 1)
    facts = {"certificate": "d" * 64, "not_after": START}
    with pytest.raises(ApprovalError, match="another site's"):
        roster.redeem("south", roster.invite("south"), identity_key=f"{2:064x}", node_key=NODE_KEYS[1], **facts)
    assert roster.member("south") is None


def test_node_key_is_compared_by_what_it_is(roster):
    enrol(roster, "north", 1)
    lines = NODE_KEYS[1].splitlines()
    wrapped = "\n".join(
        [lines[0], *(line[i : i + 16] for line in lines[1:-1] for i in range(0, len(line), 16)), lines[-1]]
    )
    with pytest.raises(ApprovalError, match="another site's"):
        roster.check_keys("south", identity_key="e" * 64, node_key=wrapped + "\n")
    roster.check_keys("south", identity_key="e" * 64, node_key=NODE_KEYS[2])


@pytest.mark.parametrize("key", ["", "x", new_ec_key(bits=256).public_key().public_bytes(
    Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()])  # fmt: skip
def test_other_node_keys_are_refused(roster, key):
    with pytest.raises(WireError, match="node key"):
        roster.check_keys("south", identity_key="e" * 64, node_key=key)


def test_renewal_keeps_one_older_certificate(roster):
    enrol(roster, "north", 1, certificate="a" * 64)
    for old, new in [("a", "b"), ("b", "c")]:
        roster.renew("north", new * 64, START + timedelta(days=365), presented=old * 64)
        assert roster.by_certificate(old * 64).certificate == old * 64
        assert roster.member("north").certificate == new * 64
    assert roster.by_certificate("a" * 64) is None


def test_site_whose_answers_get_lost_is_not_locked_out(roster):
    enrol(roster, "north", 1, certificate="a" * 64)
    for lost in "bcd":
        roster.renew("north", lost * 64, START + timedelta(days=365), presented="a" * 64)
    assert roster.by_certificate("a" * 64).certificate == "a" * 64
    assert roster.by_certificate("d" * 64).certificate == "d" * 64
    assert roster.by_certificate("b" * 64) is None
    # The twin: were the newest kept instead of what was presented, the second lost answer would end the only
    # certificate that the site has.
    roster.renew("north", "e" * 64, START + timedelta(days=365), presented="d" * 64)
    assert roster.by_certificate("a" * 64) is None


@pytest.mark.parametrize("presented", ["a", "c", "5"])
def test_only_a_valid_certificate_of_the_site_is_renewed(roster, presented):
    """Replaced, never known, and of another site: whoever holds it gets none, and ends none."""
    enrol(roster, "north", 1, certificate="a" * 64)
    enrol(roster, "south", 2, certificate="5" * 64)
    roster.revoke("north")
    enrol(roster, "north", 3, certificate="b" * 64)
    with pytest.raises(ApprovalError, match="takes part"):
        roster.renew("north", "e" * 64, START + timedelta(days=365), presented=presented * 64)
    assert roster.member("north").certificate == "b" * 64
    assert roster.by_certificate("b" * 64).name == "north"
    assert roster.by_certificate("e" * 64) is None


def test_a_certificate_that_was_replaced_or_has_expired_is_not_renewed(roster, clock):
    enrol(roster, "north", 1, certificate="a" * 64, days=10)
    enrol(roster, "north", 1, certificate="b" * 64, days=20)  # it came back with a new code
    for presented, days in (("a", 0), ("b", 21)):
        clock.now = START + timedelta(days=days)
        with pytest.raises(ApprovalError, match="takes part"):
            roster.renew("north", "e" * 64, START + timedelta(days=365), presented=presented * 64)
    assert roster.member("north").certificate == "b" * 64


def test_expired_certificate_is_nobodys(roster, clock):
    enrol(roster, "north", 1, certificate="a" * 64, days=10)
    roster.renew("north", "b" * 64, START + timedelta(days=20), presented="a" * 64)
    clock.now = START + timedelta(days=11)
    assert roster.by_certificate("a" * 64) is None
    assert roster.by_certificate("b" * 64).name == "north"


def test_revocation_is_seen_by_another_process_at_once(roster, tmp_path, clock):
    enrol(roster, "north", 1, certificate="a" * 64)
    with Roster.open(tmp_path / "roster.sqlite", clock=clock) as gate:
        assert gate.by_certificate("a" * 64)
        roster.revoke("north")
        assert gate.by_certificate("a" * 64) is None
    assert roster.members() == ()
    assert roster.members(include_revoked=True)[0].revoked == START
    with pytest.raises(InputError, match="takes part"):
        roster.revoke("north")


def test_revoking_withdraws_an_invitation(roster):
    secret = roster.invite("north")
    roster.revoke("north")
    assert not roster.is_invited("north", secret)


def test_one_site_touches_no_other(roster, tmp_path):
    path = tmp_path / "roster.sqlite"
    enrol(roster, "south", 1, certificate="5" * 64)
    secret = roster.invite("west")
    before = [rows(path, "members", without="north"), rows(path, "certificates", without=2)]
    open_before = rows(path, "invitations", without="north")
    enrol(roster, "north", 2, certificate="a" * 64)
    roster.saw("north")
    roster.renew("north", "b" * 64, START + timedelta(days=9), presented="a" * 64)
    roster.invite("north")
    roster.revoke("north")
    assert [rows(path, "members", without="north"), rows(path, "certificates", without=2)] == before
    assert rows(path, "invitations", without="north") == open_before
    assert roster.is_invited("west", secret)


def test_presence_is_written_now_and_then(roster, clock, monkeypatch):
    seconds = [1000.0]
    monkeypatch.setattr(roster_module.time, "monotonic", lambda: seconds[0])
    enrol(roster, "north", 1)
    roster.saw("north")
    assert roster.member("north").seen == START
    clock.now = START + timedelta(hours=1)
    seconds[0] += 29
    roster.saw("north")
    assert roster.member("north").seen == START
    seconds[0] += 2
    roster.saw("north")
    assert roster.member("north").seen == START + timedelta(hours=1)
    roster.saw("nobody")


def test_look_up_uses_the_index(roster, tmp_path):
    connection = sqlite3.connect(tmp_path / "roster.sqlite")
    statements = []
    roster._store._connection.set_trace_callback(statements.append)
    roster.by_certificate("a" * 64)
    roster._store._connection.set_trace_callback(None)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statements[-1]}")]
    connection.close()
    assert plan
    assert not [step for step in plan if step.startswith("SCAN") and "CONSTANT" not in step], plan


def test_failed_change_leaves_nothing(roster):
    enrol(roster, "north", 1, certificate="a" * 64)
    secret = roster.invite("south")
    with pytest.raises(InputError, match="cannot be used"):
        enrol(roster, "south", 2, secret=secret, certificate="a" * 64)  # a certificate cannot be two sites'
    assert roster.member("south") is None
    assert roster.is_invited("south", secret)


def test_file_is_the_owners_alone_and_made_once(roster, tmp_path):
    enrol(roster, "north", 1)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    with pytest.raises(InputError, match="exists"):
        Roster.create(tmp_path / "roster.sqlite")


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="opened"):
        Roster.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "text").write_text("x" * 5_000, "utf-8")
    with pytest.raises(InputError, match="cannot be used"):
        Roster.open(tmp_path / "text")
    sqlite3.connect(tmp_path / "other").close()
    (tmp_path / "other").touch()
    with pytest.raises(InputError, match="no roster"):
        Roster.open(tmp_path / "other")


@pytest.mark.parametrize(("name", "days"), [("North", 7), ("", 7), ("a/b", 7), ("a", 0), ("a", -1), ("a", float("nan")), ("a", 400)])  # fmt: skip # noqa: E501 - one table
def test_odd_invitations_are_refused(roster, name, days):
    with pytest.raises(InputError):
        roster.invite(name, days=days)
