"""A site's memory of a secure sum: on its own disk, readable by nobody else, one run at a time."""

import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.outbox import Outbox
from client.site import Site
from client.sum_member import member_turn
from privacy.secure_sum import KeyOffer
from protocol.errors import ApprovalError, InputError, PrivacyError, WireError
from protocol.study import Study
from records.dataset import Records
from simulations.federation import simulated_site, with_roster

Made = tuple[Site, Study, Callable[[], Site]]
NAMES = ("a", "b", "c", "d", "e")
RUN, OTHER_RUN = "1" * 64, "2" * 64


@pytest.fixture
def site_of(tiny_study: Callable[..., Study], tiny_records: Callable[..., Records], tmp_path: Path) -> Made:
    """Return a site with its memory on disk, its study, and what makes the same site again after a restart."""
    keys = {name: Ed25519PrivateKey.generate() for name in NAMES}
    study = with_roster(tiny_study(privacy={"trust": "sum"}, federation={"sites": 5}), keys)

    def start() -> Site:
        site = simulated_site("a", study, tiny_records(20), device="cpu", key=keys["a"])
        site.sums, site.transcripts = tmp_path / "sums", tmp_path / "transcripts"
        return site

    return start(), study, start


def offer_of(site: Site, study: Study, run: str) -> KeyOffer:
    with member_turn(site, study, run=run) as turn:
        return turn.session.offer()


def test_a_restarted_site_goes_on_where_it_was(site_of: Made) -> None:
    site, study, restart = site_of
    offer = offer_of(site, study, RUN)
    assert offer_of(restart(), study, RUN) == offer
    assert offer_of(restart(), study, OTHER_RUN) != offer


def test_what_failed_is_not_kept(site_of: Made) -> None:
    """A turn that raises is no turn: what it made up never left, and the next one begins from the disk."""
    site, study, restart = site_of
    told: list[KeyOffer] = []

    def fail() -> None:
        with member_turn(site, study, run=RUN) as turn:
            told.append(turn.session.offer())
            raise WireError("no.", remedy="No.")

    with pytest.raises(WireError):
        fail()
    assert offer_of(restart(), study, RUN) != told[0]


def test_the_memory_is_readable_by_the_owner_alone(site_of: Made) -> None:
    site, study, _ = site_of
    offer_of(site, study, RUN)
    assert site.sums is not None
    for path in site.sums.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    assert stat.S_IMODE(site.sums.stat().st_mode) == 0o700


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_run_that_was_left_never_comes_back(site_of: Made, on_disk: bool) -> None:
    """Beginning it again would seal other secrets under keys that were used."""
    site, study, restart = site_of
    if not on_disk:
        site.sums = site.transcripts = None
    offer_of(site, study, RUN)
    offer_of(site, study, OTHER_RUN)
    with pytest.raises(ApprovalError, match="left this run"):
        offer_of(site, study, RUN)
    if on_disk:
        with pytest.raises(ApprovalError, match="left this run"):
            offer_of(restart(), study, RUN)
        assert site.sums is not None
        assert [path.name[17:81] for path in site.sums.glob("*.secret")] == [OTHER_RUN]


def test_a_crash_between_mark_and_erasure_changes_nothing(site_of: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    site, study, restart = site_of
    offer_of(site, study, RUN)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            offer_of(site, study, OTHER_RUN)
    offer_of(restart(), study, OTHER_RUN)
    with pytest.raises(ApprovalError, match="left this run"):
        offer_of(restart(), study, RUN)


def test_turns_of_two_processes_wait_for_each_other(site_of: Made) -> None:
    """The lock is on the file: a second holder, as another process would be, gets in only after the first is out."""
    site, study, restart = site_of
    order: list[str] = []

    def second() -> None:
        with member_turn(restart(), study, run=RUN):
            order.append("second in")

    with member_turn(site, study, run=RUN):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first out")
    thread.join(timeout=30)
    assert order == ["first out", "second in"]


def test_a_site_that_cannot_remember_takes_no_part(site_of: Made, tmp_path: Path) -> None:
    site, study, _ = site_of
    (tmp_path / "sums").write_text("in the way")
    with pytest.raises(InputError, match="sums"):
        offer_of(site, study, RUN)


def test_a_site_outside_the_roster_takes_no_part(site_of: Made) -> None:
    site, study, _ = site_of
    site.key = Ed25519PrivateKey.generate()
    with pytest.raises(ApprovalError, match="does not hold a's key"):
        offer_of(site, study, RUN)


def test_a_study_without_a_secure_sum_has_no_session(site_of: Made, tiny_study: Callable[..., Study]) -> None:
    site, _, _ = site_of
    with pytest.raises(ApprovalError, match="no secure sum"):
        offer_of(site, tiny_study(), RUN)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version":1}', b'{"replies":[],"session":7,"version":2}'])
def test_a_damaged_memory_is_refused(site_of: Made, content: bytes) -> None:
    site, study, restart = site_of
    offer_of(site, study, RUN)
    assert site.sums is not None
    (secret,) = site.sums.glob("*.secret")
    secret.write_bytes(content)
    with pytest.raises(PrivacyError, match="damaged"):
        offer_of(restart(), study, RUN)


def test_a_turn_that_did_nothing_writes_nothing(site_of: Made) -> None:
    site, study, _ = site_of
    offer_of(site, study, RUN)
    assert site.sums is not None
    (secret,) = site.sums.glob("*.secret")
    written = secret.stat().st_mtime_ns
    with member_turn(site, study, run=RUN) as turn:
        assert turn.reply_to("0" * 64) is None
    assert secret.stat().st_mtime_ns == written


def test_the_last_replies_are_remembered(site_of: Made, tmp_path: Path) -> None:
    site, study, restart = site_of
    for number in range(20):
        site = restart()
        site.outbox = Outbox(tmp_path / "outbox")
        with member_turn(site, study, run=RUN) as turn:
            turn.session.offer()
            turn.keep(f"{number:064x}", f"{number + 100:064x}")
    with member_turn(site, study, run=RUN) as turn:
        known = [turn.reply_to(f"{number:064x}") for number in range(20)]
    assert known == [None] * 4 + [f"{number + 100:064x}" for number in range(4, 20)]
