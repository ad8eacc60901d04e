"""A coordinator's server runs the jobs of its own folder and no others."""

import pytest

from protocol.errors import ApprovalError
from server.deployment.processes.server_app import STUDIES_VARIABLE
from server.job import wanted_job

NAME = "0123456789abcdef"


@pytest.fixture
def studies(tmp_path, monkeypatch):
    folder = tmp_path / "coordinator" / "studies"
    (folder / NAME).mkdir(parents=True)
    monkeypatch.setenv(STUDIES_VARIABLE, str(folder))
    return folder


def test_a_simulation_may_name_any_folder_or_none(tmp_path, monkeypatch):
    monkeypatch.delenv(STUDIES_VARIABLE, raising=False)
    assert wanted_job("") is None
    assert wanted_job(str(tmp_path / "anywhere")) == tmp_path / "anywhere"


def test_a_job_of_the_coordinator_is_taken(studies):
    assert wanted_job(str(studies / NAME)) == studies / NAME


@pytest.mark.usefixtures("studies")
def test_a_run_without_a_job_is_refused():
    with pytest.raises(ApprovalError, match="no study of this coordinator"):
        wanted_job("")


def test_folders_of_somebody_else_are_refused(studies, tmp_path):
    foreign = tmp_path / "foreign" / "studies" / NAME
    foreign.mkdir(parents=True)
    linked = studies / "fedcba9876543210"
    linked.symlink_to(foreign)
    for word in (
        str(foreign),
        str(linked),
        str(studies / ".." / "studies" / NAME),
        str(studies / NAME / ".." / NAME),
        f"{studies}//{NAME}/../../../foreign/studies/{NAME}",
        str(studies),
        str(studies / "x"),
        str(studies / "aaaaaaaaaaaaaaaa"),
        NAME,
    ):
        with pytest.raises(ApprovalError):
            wanted_job(word)
