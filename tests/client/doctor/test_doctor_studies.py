"""Approvals, code, policy and records: each check, and the one thing that breaks it."""

import pytest

from client import approvals as approving
from client.doctor import State, examine
from client.doctor.studies import check_approvals, study_findings

OK, WARNING, FAILED = State.OK, State.WARNING, State.FAILED
PLANTED = "4711"


def found(folder):
    return {finding.check: finding for finding in study_findings(folder)}


@pytest.fixture
def agreed(tiny_study):
    """A study that the healthy site may approve."""
    return tiny_study()


def test_a_site_without_approvals_waits(site_folder):
    finding = check_approvals(site_folder)
    assert finding.state is WARNING
    assert "cloister site approve" in finding.remedy


@pytest.fixture
def alone(site_folder):
    """The site without an enrolment: the tiny study is signed by no coordinator."""
    (site_folder / "coordinator.json").unlink()
    return site_folder


def test_an_approved_study_that_fits(alone, approve, agreed):
    approve(alone, agreed)
    result = found(alone)
    assert list(result) == ["records", "approvals", "code: tiny", "policy: tiny", "data: tiny"]
    assert {finding.state for finding in result.values()} == {OK}, result
    assert "All 3 records fit" in result["data: tiny"].message


def test_a_study_that_the_coordinator_did_not_sign(site_folder, approve, agreed):
    approve(site_folder, agreed)
    assert found(site_folder)["code: tiny"].state is FAILED
    assert "signed by nobody" in found(site_folder)["code: tiny"].message


def test_a_changed_approval(alone, approve, agreed):
    path = approve(alone, agreed)
    path.write_text(path.read_text().replace("A Tester", "B Tester"))
    result = found(alone)
    assert list(result) == ["records", "approvals"]
    assert result["approvals"].state is FAILED
    assert "changed" in result["approvals"].message


def test_another_code_than_was_approved(alone, approve, agreed, monkeypatch):
    approve(alone, agreed)
    monkeypatch.setattr(approving, "code_fingerprint", lambda: "f" * 64)
    result = found(alone)
    assert result["code: tiny"].state is FAILED
    assert "f" * 12 in result["code: tiny"].message
    assert result["data: tiny"].state is OK


def test_a_policy_that_was_made_stricter(alone, approve, agreed):
    approve(alone, agreed)
    path = alone / "policy.toml"
    path.write_text(path.read_text() + "\nminimum_sites = 5\n")
    result = found(alone)
    assert result["policy: tiny"].state is FAILED
    assert "minimum_sites" in result["policy: tiny"].message


def test_records_that_do_not_fit_are_counted_and_never_shown(alone, approve, agreed):
    approve(alone, agreed)
    with (alone / "records.csv").open("a") as file:
        file.write(f"{PLANTED},red,true\n" * 7)
    finding = found(alone)["data: tiny"]
    assert finding.state is FAILED
    assert "column age: 7 of 10 rows" in finding.message
    assert PLANTED not in finding.message + finding.remedy


def test_records_that_are_not_there(alone, approve, agreed):
    approve(alone, agreed)
    (alone / "records.csv").unlink()
    finding = found(alone)["data: tiny"]
    assert finding.state is FAILED
    assert "no such file" in finding.message


def test_records_are_looked_for_before_any_study_is_approved(site_folder):
    assert found(site_folder)["records"].state is OK
    assert "3 columns" in found(site_folder)["records"].message
    (site_folder / "records.csv").unlink()
    finding = found(site_folder)["records"]
    assert finding.state is FAILED
    assert "no such file" in finding.message
    assert "site.toml" in finding.remedy


def test_a_first_line_is_read_as_an_approved_study_says(alone, approve, tiny_study):
    (alone / "records.csv").write_text(f"age;colour;ill\n21;{PLANTED};true\n")
    assert "3 columns" in found(alone)["records"].message, "as the file looks"
    approve(alone, tiny_study())
    finding = found(alone)["records"]
    assert finding.state is FAILED
    assert PLANTED not in finding.message + finding.remedy


def test_everything_together(site_folder, gate):
    with gate(site_folder):
        result = list(examine(site_folder))
    assert [finding.check for finding in result if finding.state is not OK] == ["approvals"]
    assert len(result) == 16


def test_nothing_is_examined_where_nothing_is(tmp_path):
    assert len(list(examine(tmp_path / "nowhere"))) == 1


def test_a_folder_that_nobody_enrolled_in_is_left_alone(tmp_path):
    """As when CLOISTER_SITE is forgotten: what mends a site's folder would wreck this one."""
    tmp_path.chmod(0o755)
    (finding,) = examine(tmp_path)
    assert finding.state is FAILED
    assert "nobody enrolled" in finding.message
    assert "CLOISTER_SITE" in finding.remedy
    assert "chmod" not in finding.remedy
