"""Sites in folders: everything a site needs, nothing it has is replaced."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from client.site import open_site
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.study import Study
from simulations.site_folders import write_site_folders

MakeStudy = Callable[..., Study]
SOURCES = {name: {"location": f"{name}.csv", "set": f"{name}-visits"} for name in ("north", "south")}


def test_every_site_can_be_opened_and_has_a_key_of_its_own(tmp_path: Path, tiny_study: MakeStudy) -> None:
    study = tiny_study()
    write_site_folders(tmp_path, study, SOURCES)
    sites = [open_site(tmp_path / str(number)) for number in range(2)]
    assert [site.name for site in sites] == ["north", "south"]
    assert [site.ledger.data_set for site in sites] == ["north-visits", "south-visits"]
    assert len({site.public_key for site in sites}) == 2
    for number, site in enumerate(sites):
        assert site.approvals.study(study.hash) == study
        site.policy.check(PrivacyPlan.from_study(study))
        assert (site.policy.epsilon, site.policy.families) == (5.0, ("vae",))
        assert not site.policy.allow_not_private
        assert site.location == str(tmp_path / str(number) / f"{site.name}.csv")
        for secret in ("key.pem", "ledger.sqlite"):
            assert stat.S_IMODE((tmp_path / str(number) / secret).stat().st_mode) == 0o600


def test_a_study_given_by_its_noise_has_the_largest_ceiling(tmp_path: Path, given_noise: MakeStudy) -> None:
    write_site_folders(tmp_path, given_noise(1.0), SOURCES)
    assert open_site(tmp_path / "0").policy.epsilon == 300.0


def test_a_study_without_a_guarantee_is_allowed_expressly(tmp_path: Path, without_noise: MakeStudy) -> None:
    write_site_folders(tmp_path, without_noise(), SOURCES)
    assert open_site(tmp_path / "1").policy.allow_not_private


def test_nothing_is_replaced(tmp_path: Path, tiny_study: MakeStudy) -> None:
    write_site_folders(tmp_path, tiny_study(), SOURCES)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="0"):
        write_site_folders(tmp_path, tiny_study(training={"rounds": 4}), SOURCES)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
