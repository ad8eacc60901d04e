"""From a code to a folder, against the coordinator's real doors: complete, private, and safe to type twice."""

import json
import sqlite3
import stat
from types import SimpleNamespace

import pytest

from cli.site import enroll as enrolling
from client.settings import site_settings
from privacy.ledger import Ledger
from protocol.keys import read_identity
from protocol.tls import read_certificate

PRIVATE = ("key.pem", "tls.key", "node.key")


def test_one_command_makes_a_whole_site(hub, site_cli, tmp_path, records):
    folder = tmp_path / "deep" / "north"
    status, out, err = site_cli(
        "enroll", hub.code("north"), "--site", folder, "--data", records, "--epsilon", "8", "--delta", "1e-5"
    )
    assert (status, err) == (0, "")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in PRIVATE:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert name in out
    assert "never leave" in out
    settings = site_settings(folder)
    assert settings == {"name": "north", "device": "cpu", "data": {"location": str(records), "set": "visits"}}
    key = read_identity(folder / "key.pem")
    with Ledger.open(folder / "ledger.sqlite", key=key, data_set="visits") as ledger:
        assert len(ledger.entries()) == 1
    policy = (folder / "policy.toml").read_text()
    assert "epsilon = 8.0" in policy
    assert "delta = 1e-05" in policy
    assert f"cloister site approve STUDY --site {folder}" in out
    assert hub.roster.members()[0].identity_key == key.public_key().public_bytes_raw().hex()


def test_private_keys_stay(hub, enrolled):
    theirs = b"".join(path.read_bytes() for path in hub.folder.root.rglob("*") if path.is_file())
    for name in PRIVATE:
        body = (enrolled / name).read_bytes().splitlines()[1]
        assert body not in theirs


def test_without_options_it_says_what_is_missing_and_how(hub, site_cli, tmp_path):
    folder = tmp_path / "north"
    status, out, _ = site_cli("enroll", hub.code("north"), "--site", folder)
    assert status == 0
    assert "Still missing: site.toml" in out
    assert "--data" in out
    assert "cloister site policy --epsilon" in out
    assert not (folder / "policy.toml").exists(), "a ceiling is the site's own choice"
    assert not (folder / "ledger.sqlite").exists()


def test_the_same_command_again_changes_nothing(hub, site_cli, tmp_path, records):
    folder, code = tmp_path / "north", hub.code("north")
    command = ("enroll", code, "--site", folder, "--data", records, "--epsilon", "8")
    assert site_cli(*command)[0] == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    status, _, err = site_cli(*command)
    assert status == 0, err
    assert "the code was not used again" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_it_goes_on_after_an_interruption(hub, site_cli, tmp_path, records, monkeypatch):
    folder, code = tmp_path / "north", hub.code("north")
    command = ("enroll", code, "--site", folder, "--data", records, "--epsilon", "8")
    from client import data_set

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the ledger, before site.toml
        patch.setattr(data_set, "create_private", killed)
        assert site_cli(*command)[0] == 130
    assert (folder / "ledger.sqlite").exists()
    assert not (folder / "site.toml").exists()
    status, out, _ = site_cli(*command)
    assert status == 0
    assert "site.toml" in out
    assert (folder / "policy.toml").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data", "OTHER"), "site.toml says"),
        (("--set", "stays"), "site.toml says visits"),
        (("--device", "cuda"), "site.toml says cpu"),
        (("--epsilon", "20"), "policy.toml says 8"),
        (("--delta", "1e-9"), "policy.toml says 1e-06"),
    ],
)
def test_values_that_would_be_forgotten_are_refused_before_the_code_is_used(
    hub, site_cli, enrolled, records, options, said
):
    other = records.with_name("other.csv")
    other.write_text(records.read_text())
    before = {path.name: path.read_bytes() for path in enrolled.iterdir() if path.is_file()}
    code = hub.code("north")
    options = tuple(str(other) if option == "OTHER" else option for option in options)
    status, _, err = site_cli("enroll", code, "--site", enrolled, *options)
    assert status == 1
    assert said in err
    assert "edit" in err
    assert {path.name: path.read_bytes() for path in enrolled.iterdir() if path.is_file()} == before
    assert hub.roster.open_invitations()


def test_a_lost_ledger_is_not_made_anew(hub, site_cli, enrolled, records):
    (enrolled / "ledger.sqlite").unlink()
    status, _, err = site_cli("enroll", hub.code("north"), "--site", enrolled, "--data", records)
    assert status == 1
    assert "the ledger is missing" in err
    assert "forget what was spent" in err
    assert not (enrolled / "ledger.sqlite").exists()


def test_a_ledger_of_other_records_is_not_taken(hub, site_cli, enrolled, records):
    (enrolled / "site.toml").unlink()
    status, _, err = site_cli("enroll", hub.code("north"), "--site", enrolled, "--data", records, "--set", "stays")
    assert status == 1
    assert "visits" in err


def test_a_new_code_after_expiry_keeps_identity_ledger_and_policy(hub, site_cli, enrolled):
    kept = {name: (enrolled / name).read_bytes() for name in ("key.pem", "node.key", "site.toml", "policy.toml")}
    certificate = (enrolled / "tls.pem").read_bytes()
    status, _, err = site_cli("enroll", hub.code("north"), "--site", enrolled)
    assert status == 0, err
    assert {name: (enrolled / name).read_bytes() for name in kept} == kept
    assert (enrolled / "tls.pem").read_bytes() != certificate


def test_a_revoked_site_does_not_pass_as_enrolled(hub, site_cli, tmp_path):
    folder, code = tmp_path / "north", hub.code("north")
    assert site_cli("enroll", code, "--site", folder)[0] == 0
    hub.roster.revoke("north")
    status, _, err = site_cli("enroll", code, "--site", folder)
    assert status == 1
    assert "code" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data", "nowhere.csv"), "no such file"),
        (("--data", "FOLDER"), "is a folder"),
        (("--device", "gpu"), "Use cpu, cuda"),
        (("--data", "RECORDS", "--set", " "), "data set"),
        (("--epsilon", "0"), "epsilon"),
        (("--epsilon", "8", "--delta", "1"), "delta"),
    ],
)
def test_what_cannot_be_is_refused_before_the_code_is_used(hub, site_cli, tmp_path, records, options, said):
    folder, code = tmp_path / "north", hub.code("north")
    known = {"RECORDS": str(records), "FOLDER": str(records.parent)}
    options = tuple(known.get(option, option) for option in options)
    status, _, err = site_cli("enroll", code, "--site", folder, *options)
    assert status == 1
    assert said in err
    assert not (folder / "coordinator.json").exists()
    assert site_cli("enroll", code, "--site", folder)[0] == 0, "the code still works"


def test_a_code_copied_wrongly(site_cli, tmp_path):
    status, _, err = site_cli("enroll", "cloister-abc", "--site", tmp_path / "north")
    assert status == 1
    assert "code" in err
    assert not (tmp_path / "north").exists()


def test_a_database_is_named_by_its_url(hub, site_cli, tmp_path):
    with sqlite3.connect(tmp_path / "h.db") as connection:
        connection.execute("CREATE TABLE visits (age INTEGER)")
    connection.close()
    url = f"sqlite:///{tmp_path}/h.db#visits"
    assert site_cli("enroll", hub.code("north"), "--site", tmp_path / "north", "--data", url)[0] == 0
    assert site_settings(tmp_path / "north")["data"] == {"location": url, "set": "visits"}


def test_a_passphrase_covers_all_private_keys(hub, site_cli, tmp_path, monkeypatch):
    code = hub.code("north")
    monkeypatch.setenv("CLOISTER_PASSPHRASE", "correct horse")
    status, out, _ = site_cli("enroll", code, "--site", tmp_path / "north")
    assert status == 0
    assert "under your passphrase" in out
    assert all(b"ENCRYPTED" in (tmp_path / "north" / name).read_bytes() for name in PRIVATE)
    monkeypatch.setenv("CLOISTER_PASSPHRASE", "wrong horse")
    status, _, err = site_cli("enroll", code, "--site", tmp_path / "north")
    assert status == 1
    assert "passphrase" in err


def test_json(hub, site_cli, tmp_path):
    status, out, _ = site_cli("enroll", hub.code("north"), "--site", tmp_path / "north", "--json")
    assert status == 0
    facts = json.loads(out)
    assert facts["site"] == "north"
    assert facts["missing"] == ["site.toml", "policy.toml"]


def test_renewal_replaces_the_certificate(hub, site_cli, enrolled):
    before = read_certificate(enrolled / "tls.pem").serial_number
    status, out, _ = site_cli("renew", "--site", enrolled)
    assert status == 0
    assert "valid until" in out
    assert read_certificate(enrolled / "tls.pem").serial_number != before
    hub.roster.revoke("north")
    assert site_cli("renew", "--site", enrolled)[0] == 1


def test_names_of_data_sets():
    assert enrolling._set_name("/data/visits.csv.gz") == "visits"
    assert enrolling._set_name("postgresql://h/db#public.visits") == "public.visits"


def test_an_open_folder_is_made_private(hub, site_cli, tmp_path, monkeypatch):
    folder = tmp_path / "north"
    folder.mkdir(mode=0o755)
    monkeypatch.chdir(folder)
    status, _, err = site_cli("enroll", hub.code("north"))
    assert status == 0, err
    assert "nobody but its owner" in err
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_next_steps_can_be_copied(hub, site_cli, tmp_path):
    status, out, _ = site_cli("enroll", hub.code("north"), "--site", tmp_path / "no rth")
    assert status == 0
    assert f"Next: cloister site doctor --site '{tmp_path}/no rth'\n" in out


def test_a_home_is_no_sites_folder(hub, site_cli, tmp_path, monkeypatch):
    account = SimpleNamespace(pw_dir=str(tmp_path))
    monkeypatch.setattr(enrolling.pwd, "getpwuid", lambda _: account)
    monkeypatch.chdir(tmp_path)
    status, _, err = site_cli("enroll", hub.code("north"))
    assert status == 1
    assert "--site FOLDER" in err
    assert not (tmp_path / "key.pem").exists()
