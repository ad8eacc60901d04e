"""How a site stands, from its folder alone."""

import json

import pytest

from cli.site.status import budget_words, rounded_down, rounded_up
from client.consent import consent_to
from client.egress import Departure, DepartureKind, Egress
from client.node.memory import only_one
from client.policy import Policy
from client.service import is_running
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.keys import read_identity
from protocol.study import Study
from protocol.terms import Relation


@pytest.fixture
def study() -> Study:
    return Study.from_mapping(
        {
            "study": {"name": "tiny"},
            "schema": {"columns": [{"name": "ill", "kind": "boolean"}]},
            "model": {"family": "vae"},
            "training": {"rounds": 3},
            "privacy": {"epsilon": 5.0, "delta": 1e-6, "sample_rate": 0.5},
            "federation": {"sites": 2, "public_records": 1000},
        }
    )


def facts(site_cli, folder):
    status, out, err = site_cli("status", "--site", folder, "--json")
    assert status == 0, err
    return json.loads(out)


def test_a_new_site(enrolled, site_cli):
    found = facts(site_cli, enrolled)
    assert found["site"] == "north"
    assert found["federation"] == "hearts"
    assert found["running"] is False
    assert found["studies"] == []
    assert found["last_departure"] is None
    assert found["budget"] == [{"epsilon": 0.0, "ceiling": 8.0, "delta": 1e-6, "days": None}]
    out = site_cli("status", "--site", enrolled)[1]
    assert "8.000 is left" in out
    assert "cloister site approve" in out
    assert "nothing" in out


def test_what_was_approved_spent_and_sent(enrolled, site_cli, study):
    key, plan = read_identity(enrolled / "key.pem"), PrivacyPlan.from_study(study)
    policy = Policy.from_toml(enrolled / "policy.toml")
    ceilings = policy.ceilings(Relation.ADD_REMOVE)
    consent_to(study, key=key, site="north", by="Dr. A", ceilings=ceilings).write(enrolled / "approvals")
    with Ledger.open(enrolled / "ledger.sqlite", key=key, data_set="visits") as ledger:
        for number in (1, 2, 3):
            ledger.charge(study=study.hash, run="a" * 64, round=number, event=plan.round_event, ceilings=ceilings)
    Egress(enrolled / "egress.jsonl").record(
        Departure(kind=DepartureKind.INTRODUCTION, study=study.hash, run="", round=0, bytes=321, sha256="b" * 64)
    )
    found = facts(site_cli, enrolled)
    (spent,) = found["budget"]
    assert spent["epsilon"] == pytest.approx(5.0, abs=0.01), "the study's own target is spent after its last round"
    assert spent["epsilon"] <= 5.0
    (approved,) = found["studies"]
    assert (approved["study"], approved["approved_by"], approved["same_code"]) == ("tiny", "Dr. A", True)
    assert found["last_departure"]["bytes"] == 321
    out = site_cli("status", "--site", enrolled)[1]
    assert "tiny" in out
    assert "introduction, 321 bytes" in out


def test_a_yearly_ceiling_is_told_beside(enrolled, site_cli):
    with (enrolled / "policy.toml").open("a") as file:
        file.write("\nyearly_epsilon = 3.0\n")
    assert [ceiling["days"] for ceiling in facts(site_cli, enrolled)["budget"]] == [None, 365]
    assert "of 3 in 365 days" in site_cli("status", "--site", enrolled)[1]


def test_an_approval_for_another_code_is_pointed_at(enrolled, site_cli, study, monkeypatch):
    from client import consent

    key = read_identity(enrolled / "key.pem")
    monkeypatch.setattr(consent, "code_fingerprint", lambda: "f" * 64)
    consent_to(study, key=key, site="north", by="Dr. A", ceilings=()).write(enrolled / "approvals")
    assert "approve it again" in site_cli("status", "--site", enrolled)[1]


def test_a_site_without_data_or_policy(hub, site_cli, tmp_path):
    assert site_cli("enroll", hub.code("north"), "--site", tmp_path / "north")[0] == 0
    found = facts(site_cli, tmp_path / "north")
    assert found["data_set"] is None
    assert found["budget"] == []
    assert "nothing is released" in site_cli("status", "--site", tmp_path / "north")[1]


def test_a_folder_that_is_no_site(site_cli, tmp_path):
    status, out, err = site_cli("status", "--site", tmp_path)
    assert (status, out) == (1, "")
    assert "enroll" in err


def test_the_lock_says_who_runs(tmp_path):
    assert not is_running(tmp_path), "and asking leaves no trace"
    assert list(tmp_path.iterdir()) == []
    with only_one(tmp_path):
        assert is_running(tmp_path)
        assert is_running(tmp_path)
    assert not is_running(tmp_path)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    import os

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        is_running(tmp_path)


def test_rounding_ends_on_the_private_side():
    assert rounded_up(1.2341) == "1.235"
    assert rounded_up(1.25) == "1.250"
    assert rounded_down(1.2349) == "1.234"
    assert rounded_down(-0.5) == "0.000"
    words = budget_words([{"epsilon": 1.23451, "ceiling": 8.0, "delta": 1e-6, "days": None}])
    assert words == "epsilon 1.235 of 8 ever at delta 1e-06 is spent, 6.765 is left"
