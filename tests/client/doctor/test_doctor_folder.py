"""Each check of a site's folder, and the one thing that breaks it."""

import json
import os
import sqlite3
from collections import namedtuple
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client.doctor import State, local_findings
from client.doctor import folder as examined
from client.doctor.finding import Finding
from client.doctor.folder import (
    check_certificate,
    check_disk,
    check_enrolment,
    check_folder,
    check_keys,
    check_ledger,
    check_policy,
    check_settings,
)
from privacy.ledger import Ledger
from protocol.errors import InputError
from protocol.keys import create_identity

OK, WARNING, FAILED = State.OK, State.WARNING, State.FAILED


def of(finding: Finding, state: State, said: str, remedy: str = "") -> None:
    """Assert what a finding says."""
    assert finding.state is state, finding
    assert said in finding.message
    assert remedy in finding.remedy


def test_a_healthy_site_is_found_healthy(site_folder):
    found = list(local_findings(site_folder))
    assert [finding.state for finding in found] == [OK] * 8, found
    assert len({finding.check for finding in found}) == 8


@pytest.mark.parametrize(("state", "remedy"), [(OK, "Do something."), (WARNING, ""), (FAILED, "")])
def test_a_remedy_goes_with_a_complaint_and_with_nothing_else(state, remedy):
    with pytest.raises(InputError):
        Finding(check="x", state=state, message="y.", remedy=remedy)


def test_a_missing_folder_ends_the_examination(tmp_path):
    found = list(local_findings(tmp_path / "nowhere"))
    assert len(found) == 1
    of(found[0], FAILED, "no folder", "cloister site enroll")


@pytest.mark.parametrize("name", ["", "key.pem", "tls.key", "node.key"])
def test_what_others_may_read_is_found(site_folder, name):
    (site_folder / name).chmod(0o750 if not name else 0o640)
    of(check_folder(site_folder), FAILED, str(site_folder / name), f"chmod go= {site_folder / name}")


def test_what_is_advised_can_be_copied(site_folder):
    moved = site_folder.rename(site_folder.with_name("no rth"))
    moved.chmod(0o755)
    of(check_folder(moved), FAILED, str(moved), f"chmod go= '{moved}';")


def test_an_open_folder_inside_is_found(site_folder):
    (site_folder / "approvals").mkdir(mode=0o755)
    of(check_folder(site_folder), FAILED, "approvals", "chmod")


def test_a_missing_site_toml_is_told_once(site_folder):
    (site_folder / "site.toml").unlink()
    of(check_settings(site_folder), FAILED, "site.toml")
    of(check_ledger(site_folder), FAILED, "not looked at", "settings first")


def test_what_is_public_may_be_read(site_folder):
    (site_folder / "tls.pem").chmod(0o644)
    (site_folder / "lunch").mkdir(mode=0o755)
    assert check_folder(site_folder).state is OK


def test_somebody_elses_folder_is_found(site_folder, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: site_folder.stat().st_uid + 1)
    of(check_folder(site_folder), FAILED, "belongs to user", "owner")


@pytest.mark.parametrize("name", ["key.pem", "tls.key", "node.key"])
def test_a_missing_or_damaged_key_is_found(site_folder, name):
    kept = (site_folder / name).read_bytes()
    (site_folder / name).write_bytes(kept[: len(kept) // 2])
    of(check_keys(site_folder), FAILED, name)
    (site_folder / name).unlink()
    of(check_keys(site_folder), FAILED, f"{name} is missing")


def test_a_passphrase_is_tried(site_folder, monkeypatch):
    monkeypatch.setenv("CLOISTER_PASSPHRASE", "correct horse")
    of(check_keys(site_folder), FAILED, "not under the passphrase")
    (site_folder / "key.pem").unlink()
    create_identity(site_folder / "key.pem")
    for name in ("tls.key", "node.key"):
        (site_folder / name).unlink()
        from protocol.keys import create_ec_key

        create_ec_key(site_folder / name, bits=256)
    of(check_keys(site_folder), OK, "open with the passphrase")
    monkeypatch.setenv("CLOISTER_PASSPHRASE", "wrong horse")
    of(check_keys(site_folder), FAILED, "the passphrase is another")
    monkeypatch.delenv("CLOISTER_PASSPHRASE")
    of(check_keys(site_folder), FAILED, "has a passphrase", "CLOISTER_PASSPHRASE_FILE")
    word = site_folder / "word"
    word.write_text("correct horse\n")
    word.chmod(0o604)
    monkeypatch.setenv("CLOISTER_PASSPHRASE_FILE", str(word))
    of(check_keys(site_folder), WARNING, "Everybody may read", "chmod o=")
    monkeypatch.setenv("CLOISTER_PASSPHRASE_FILE", str(site_folder / "nowhere"))
    of(check_keys(site_folder), FAILED, "nowhere")


def test_certificates_are_held_against_the_calendar(site_folder, certify):
    assert check_certificate(site_folder).state is OK
    now = datetime.now(UTC)
    of(check_certificate(site_folder, now=now + timedelta(days=80)), WARNING, "expires", "cloister site renew")
    of(check_certificate(site_folder, now=now + timedelta(days=91)), FAILED, "expired", "new code")
    of(check_certificate(site_folder, now=now - timedelta(days=3)), FAILED, "is valid from", "clock")
    certify(site_folder, until=timedelta(days=-1))
    of(check_certificate(site_folder), FAILED, "expired")


def test_certificate_files_must_belong_together(site_folder, certify, another_authority):
    certify(site_folder, another_authority)
    of(check_certificate(site_folder), FAILED, "not issued by")
    (site_folder / "ca.pem").write_bytes(another_authority.pem)
    of(check_certificate(site_folder), FAILED, "fingerprint was in the invitation")
    (site_folder / "ca.pem").write_text("nothing")
    of(check_certificate(site_folder), FAILED, "no certificate", "enroll")


def test_a_certificate_of_another_key_is_found(site_folder):
    from protocol.keys import create_ec_key

    (site_folder / "tls.key").unlink()
    create_ec_key(site_folder / "tls.key", bits=256)
    of(check_certificate(site_folder), FAILED, "not the certificate of tls.key")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"host": "a"}'])
def test_a_site_that_was_not_enrolled_is_found(site_folder, content):
    path = site_folder / "coordinator.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    said = "not enrolled" if content is None else "coordinator.json"
    of(check_enrolment(site_folder), FAILED, said, "cloister site enroll")


def test_the_enrolment_says_where_the_coordinator_is(site_folder, pointed):
    pointed(site_folder, host="fed.example.org", port=8443)
    of(check_enrolment(site_folder), OK, "fed.example.org:8443")


@pytest.mark.parametrize(("free", "state"), [(10, FAILED), (500, WARNING), (5000, OK)])
def test_a_full_disk_is_found(site_folder, monkeypatch, free, state):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(examined.shutil, "disk_usage", lambda _: usage(10**12, 0, free * 2**20))
    finding = check_disk(site_folder)
    assert finding.state is state
    assert "free" in finding.message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "north"', 'name = "south"', "enrolled as 'north'"),
        ('set = "visits"', 'sett = "visits"', "sett"),
        ('name = "north"', 'name = "north', "not TOML"),
        ('name = "north"', 'name = "north"\ndevice = "warp"', "'warp'"),
        ('name = "north"', 'name = "north"\ndevice = "meta:9:9"', "cannot be used"),
    ],
)
def test_wrong_settings_are_found(site_folder, old, new, said):
    path = site_folder / "site.toml"
    path.write_text(path.read_text().replace(old, new))
    of(check_settings(site_folder), FAILED, said)


def test_missing_settings_are_found(site_folder):
    (site_folder / "site.toml").unlink()
    of(check_settings(site_folder), FAILED, "no site.toml", "--data")


def test_a_missing_gpu_is_found_and_a_forgotten_one_pointed_at(site_folder, monkeypatch):
    import torch

    path = site_folder / "site.toml"
    plain = path.read_text()
    if not torch.cuda.is_available():
        path.write_text('device = "cuda"\n' + plain)
        of(check_settings(site_folder), FAILED, "'cuda'", "device = 'cpu'")
    path.write_text(plain)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    of(check_settings(site_folder), WARNING, "a GPU is there", 'device = "cuda"')


@pytest.mark.gpu
def test_a_gpu_is_used(site_folder):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    path = site_folder / "site.toml"
    path.write_text('device = "cuda"\n' + path.read_text())
    of(check_settings(site_folder), OK, "cuda")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no policy"), ("epsilon = 3.0\n", "lacks"), ("epsilon = 0\ndelta = 1e-6\n", "epsilon"), ("=", "TOML")],
)
def test_a_policy_that_allows_nothing_is_found(site_folder, content, said):
    path = site_folder / "policy.toml"
    path.unlink()
    if content is not None:
        path.write_text(content)
    of(check_policy(site_folder), FAILED, said, "cloister site policy" if content is None else "")


def damage_a_row(folder: Path) -> None:
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        connection.execute("DROP TRIGGER entries_never_change")
        connection.execute("UPDATE entries SET payload = replace(payload, 'visits', 'visitz')")
    connection.close()


def another_keys_ledger(folder: Path) -> None:
    (folder / "ledger.sqlite").unlink()
    (folder / "other").mkdir()
    key = create_identity(folder / "other" / "key.pem")
    Ledger.create(folder / "ledger.sqlite", key=key, data_set="visits").close()


def another_data_set(folder: Path) -> None:
    path = folder / "site.toml"
    path.write_text(path.read_text().replace('set = "visits"', 'set = "stays"'))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "ledger.sqlite").unlink(), "ledger.sqlite"),
        (lambda folder: (folder / "ledger.sqlite").write_bytes(b"x" * 5000), "damaged"),
        (damage_a_row, ""),
        (another_keys_ledger, "key"),
        (another_data_set, "'stays'"),
    ],
)
def test_a_ledger_that_cannot_pay_is_found(site_folder, break_it: Callable[[Path], Any], said):
    break_it(site_folder)
    of(check_ledger(site_folder), FAILED, said)


def test_findings_are_json(site_folder):
    mapping = [finding.to_mapping() for finding in local_findings(site_folder)]
    assert json.loads(json.dumps(mapping)) == mapping
    assert set(mapping[0]) == {"check", "state", "message", "remedy"}
