"""The doctor's words and exit status; what it finds is tested in tests/client/doctor."""

import json


def test_a_site_that_works(enrolled, site_cli):
    status, out, err = site_cli("doctor", "--site", enrolled)
    assert status == 0, out
    assert err == ""
    lines = [line for line in out.splitlines() if line.startswith(("ok", "warning", "FAILED"))]
    assert len(lines) == 16
    assert [line for line in lines if not line.startswith("ok")] == [line for line in lines if " approvals " in line]
    assert "Everything works; 1 to look at." in out


def test_a_failure_is_told_with_its_remedy(enrolled, site_cli):
    (enrolled / "key.pem").chmod(0o644)
    status, out, _ = site_cli("doctor", "--site", enrolled)
    assert status == 1
    assert "FAILED   folder" in out
    assert "-> chmod" in out
    assert "1 of the checks failed" in out


def test_json(enrolled, site_cli):
    status, out, _ = site_cli("doctor", "--site", enrolled, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["healthy"] is True
    assert all(finding["remedy"] for finding in found["findings"] if finding["state"] != "ok")
    (enrolled / "policy.toml").unlink()
    status, out, _ = site_cli("doctor", "--site", enrolled, "--json")
    assert status == 1
    assert json.loads(out)["healthy"] is False


def test_every_command_shows_an_example(site_cli):
    status, out, _ = site_cli("--help")
    assert status == 0
    commands = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines() if line.startswith("  ")]
    own = ("enroll", "doctor", "start", "status", "renew", "service")
    assert set(own) <= set(commands)
    for command in own:
        status, out, _ = site_cli(command, "--help")
        assert status == 0
        assert f"cloister site {command}" in out.partition("Example")[2], command


def test_the_folder_comes_from_the_environment(enrolled, site_cli, monkeypatch):
    monkeypatch.setenv("CLOISTER_SITE", str(enrolled))
    assert site_cli("status")[0] == 0
    monkeypatch.delenv("CLOISTER_SITE")
    monkeypatch.chdir(enrolled)
    assert site_cli("status")[0] == 0
