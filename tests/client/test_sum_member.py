"""A site's memory of a secure sum: on its own disk, readable by nobody else, one run at a time."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.site import Site
from client.sum_member import keep_session, member_session
from protocol.errors import ApprovalError, InputError
from protocol.study import Study
from records.dataset import Records
from simulations.federation import simulated_site, with_roster

NAMES = ("a", "b", "c", "d", "e")
RUN, OTHER_RUN = "1" * 64, "2" * 64


@pytest.fixture
def site_of(
    tiny_study: Callable[..., Study], tiny_records: Callable[..., Records], tmp_path: Path
) -> tuple[Site, Study, Callable[[], Site]]:
    """Return a site with its memory on disk, its study, and what makes the same site again after a restart."""
    keys = {name: Ed25519PrivateKey.generate() for name in NAMES}
    study = with_roster(tiny_study(privacy={"trust": "sum"}, federation={"sites": 5}), keys)

    def start() -> Site:
        site = simulated_site("a", study, tiny_records(20), device="cpu", key=keys["a"])
        site.sums, site.transcripts = tmp_path / "sums", tmp_path / "transcripts"
        return site

    return start(), study, start


def test_a_restarted_site_goes_on_where_it_was(site_of: tuple[Site, Study, Callable[[], Site]]) -> None:
    site, study, restart = site_of
    session = member_session(site, study, run=RUN)
    offer = session.offer()
    keep_session(site, session)
    assert member_session(restart(), study, run=RUN).offer() == offer
    assert member_session(restart(), study, run=OTHER_RUN).offer() != offer


def test_what_was_not_kept_is_not_known(site_of: tuple[Site, Study, Callable[[], Site]]) -> None:
    """The twin: without keeping, a restarted site offers another key, and its peers would refuse it."""
    site, study, restart = site_of
    offer = member_session(site, study, run=RUN).offer()
    assert member_session(restart(), study, run=RUN).offer() != offer


def test_the_memory_is_readable_by_the_owner_alone(site_of: tuple[Site, Study, Callable[[], Site]]) -> None:
    site, study, _ = site_of
    session = member_session(site, study, run=RUN)
    session.offer()
    keep_session(site, session)
    assert site.sums is not None
    (path,) = site.sums.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(site.sums.stat().st_mode) == 0o700


def test_another_run_erases_the_secrets_of_the_one_before(
    site_of: tuple[Site, Study, Callable[[], Site]],
) -> None:
    site, study, _ = site_of
    for run in (RUN, OTHER_RUN):
        session = member_session(site, study, run=run)
        session.offer()
        keep_session(site, session)
    assert site.sums is not None
    assert [path.name for path in site.sums.iterdir()] == [f"{OTHER_RUN}.secret"]
    assert set(site.sessions) == {OTHER_RUN}


def test_a_site_that_cannot_remember_takes_no_part(
    site_of: tuple[Site, Study, Callable[[], Site]], tmp_path: Path
) -> None:
    site, study, _ = site_of
    (tmp_path / "sums").write_text("in the way")
    with pytest.raises(InputError, match="sums"):
        keep_session(site, member_session(site, study, run=RUN))


def test_a_site_outside_the_roster_takes_no_part(site_of: tuple[Site, Study, Callable[[], Site]]) -> None:
    site, study, _ = site_of
    site.key = Ed25519PrivateKey.generate()
    with pytest.raises(ApprovalError, match="does not hold a's key"):
        member_session(site, study, run=RUN)


def test_a_study_without_a_secure_sum_has_no_session(
    site_of: tuple[Site, Study, Callable[[], Site]], tiny_study: Callable[..., Study]
) -> None:
    site, _, _ = site_of
    with pytest.raises(ApprovalError, match="no secure sum"):
        member_session(site, tiny_study(), run=RUN)
