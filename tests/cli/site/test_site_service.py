"""What an administrator installs: it is confined, complete, and systemd accepts it."""

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cli.templates import COORDINATOR, SITE, Service, container_command, containerfile, systemd_unit
from protocol.errors import InputError

ANALYZE = shutil.which("systemd-analyze")


def a_service(**changes) -> Service:
    values = {"role": SITE, "command": Path("/opt/bin/cloister"), "folder": Path("/srv/north"), "user": "cloister"}
    return Service(**values | changes)


def options(unit: str) -> dict[str, list[str]]:
    """Every option of the [Service] section with its values, in order."""
    section = unit.split("[Service]\n")[1].split("[Install]")[0]
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_may_write_one_folder_and_do_nothing_else():
    found = options(systemd_unit(a_service()))
    expected = {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ReadWritePaths": "/srv/north", "AmbientCapabilities": "",
        "CapabilityBoundingSet": "", "Restart": "always", "User": "cloister", "UMask": "0077", "ProtectHome": "yes",
        "PrivateDevices": "yes", "ExecStart": "/opt/bin/cloister site start",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == {name: [value] for name, value in expected.items()}
    assert "CLOISTER_SITE=/srv/north" in found["Environment"]
    assert "LoadCredential" not in found
    assert "StartLimitIntervalSec=0" in systemd_unit(a_service()), "a coordinator that is away for a day ends nothing"


def test_the_passphrase_comes_as_a_credential():
    found = options(systemd_unit(a_service(passphrase=Path("/etc/cloister/word"))))
    assert found["LoadCredential"] == ["passphrase:/etc/cloister/word"]
    assert "CLOISTER_PASSPHRASE_FILE=%d/passphrase" in found["Environment"]


def test_a_gpu_stays_visible_and_no_other_device():
    found = options(systemd_unit(a_service(accelerator=True)))
    assert "PrivateDevices" not in found
    assert found["DevicePolicy"] == ["closed"]
    assert found["DeviceAllow"] == ["char-nvidia* rw", "char-drm rw"]


@pytest.mark.parametrize(
    "changes",
    [
        {"folder": Path("/home", "x", "north")},
        {"command": Path("/root", "venv", "bin", "cloister")},
        {"readable": (Path("/home", "x", "visits.csv"),)},
    ],
)
def test_what_lies_in_a_home_is_seen(changes):
    assert options(systemd_unit(a_service(**changes)))["ProtectHome"] == ["read-only"]


def test_the_coordinators_unit():
    found = options(systemd_unit(a_service(role=COORDINATOR)))
    assert found["ExecStart"] == ["/opt/bin/cloister coordinator start"]
    assert "CLOISTER_COORDINATOR=/srv/north" in found["Environment"]


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "guest"},
        {"user": "root; reboot"},
        {"user": ""},
        {"folder": Path("north")},
        {"folder": Path("/srv/no\nExecStartPre=+reboot")},
        {"folder": Path('/srv/no"rth')},
        {"folder": Path("/srv/$HOME")},
        {"passphrase": Path("word")},
    ],
)
def test_nothing_can_be_slipped_into_a_unit(changes):
    with pytest.raises(InputError):
        a_service(**changes)


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("role", [SITE, COORDINATOR])
@pytest.mark.parametrize("folder", ["north", "no rth 100%"])
@pytest.mark.parametrize("accelerator", [False, True])
def test_systemd_accepts_the_unit_and_finds_it_confined(tmp_path, role, folder, accelerator):
    place = tmp_path / folder
    place.mkdir()
    command = tmp_path / "cloister"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    service = a_service(
        role=role, command=command, folder=place, passphrase=tmp_path / "word", accelerator=accelerator,
    )  # fmt: skip
    unit = tmp_path / f"cloister-{role}.service"
    unit.write_text(systemd_unit(service))
    done = subprocess.run([ANALYZE, "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    # The scale ends at 10, "unsafe"; a plain unit has 9.6.
    security = [ANALYZE, "security", "--offline=true", "--threshold=30", "--no-pager", str(unit)]
    assessed = subprocess.run(security, capture_output=True, text=True)
    assert assessed.returncode == 0, assessed.stdout[-200:]
    lines = unit.read_text().splitlines()
    unit.write_text("\n".join(line for line in lines if "=yes" not in line and "System" not in line))
    assert subprocess.run(security, capture_output=True, text=True).returncode != 0, "the measure finds a bare unit"


def test_the_container_is_confined_and_opens_nothing():
    folder, data, word = Path("/srv/no rth"), Path("/data/v.csv"), Path("/etc/w")
    words = shlex.split(container_command(folder=folder, owner="990:991", data=data, passphrase=word))
    assert words[:3] == ["podman", "run", "--detach"]
    assert {"--read-only", "no-new-privileges", "990:991"} <= set(words)
    assert {"/srv/no rth:/site", "/data/v.csv:/data/v.csv:ro"} <= set(words)
    assert words[words.index("--cap-drop") + 1] == "all"
    assert not {"-p", "--publish", "--privileged", "--network"} & set(words)
    assert words[-1] == "cloister-site"
    text = containerfile()
    assert "EXPOSE" not in text
    steps = [line.split()[0] for line in text.splitlines() if line and line[0].isupper()]
    assert steps[-1] == "CMD"
    assert "USER 10001:10001" in text
    assert text.index("USER") > text.rindex("COPY --from"), "nothing is done as root after it"


def test_what_the_container_copies_is_there():
    root = Path(__file__).parents[3]
    pins = (root / "constraints.txt").read_text().splitlines()
    assert sum(line.startswith("torch==") for line in pins) == 1


def test_the_command_prints_the_unit_of_its_folder(site_cli, tmp_path):
    (tmp_path / "north").mkdir()
    (tmp_path / "north" / "key.pem").touch()
    status, out, err = site_cli("service", "systemd", "--site", tmp_path / "north", "--user", "nobody")
    assert (status, err) == (0, "")
    found = options(out)
    assert found["ReadWritePaths"] == [str(tmp_path / "north")]
    assert found["ExecStart"][0].endswith("/cloister site start")
    assert configparser.ConfigParser(strict=False, interpolation=None).read_string(out) is None


def test_the_command_reads_device_and_records_of_the_site(site_cli, tmp_path):
    (tmp_path / "key.pem").touch()
    (tmp_path / "site.toml").write_text('name = "n"\ndevice = "cuda"\n[data]\nlocation = "/data/v.csv"\nset = "s"\n')
    assert "DevicePolicy" in options(site_cli("service", "systemd", "--site", tmp_path, "--user", "nobody")[1])
    out = site_cli("service", "container", "--site", tmp_path)[1]
    assert "/data/v.csv:/data/v.csv:ro" in out
    assert out.startswith("# One Cloister site.")


def test_a_folder_that_is_not_there(site_cli, tmp_path):
    status, out, err = site_cli("service", "systemd", "--site", tmp_path / "nowhere")
    assert (status, out) == (1, "")
    assert "enroll" in err


def test_what_root_is_to_copy_names_the_one_folder(site_cli, tmp_path, monkeypatch):
    from cli.site import service

    folder = tmp_path / "sites dir" / "north"
    folder.mkdir(parents=True)
    (folder / "key.pem").touch()
    monkeypatch.setattr(service, "_container_owner", lambda _: None)
    out = site_cli("service", "container", "--site", folder)[1]
    (line,) = [line for line in out.splitlines() if "chown -R" in line]
    assert shlex.split(line.removeprefix("#"))[:4] == ["chown", "-R", "10001:10001", str(folder)]


def test_the_container_says_who_reads_the_passphrase(site_cli, tmp_path):
    folder, word = tmp_path / "north", tmp_path / "my word"
    folder.mkdir()
    (folder / "key.pem").touch()
    status, _, err = site_cli("service", "container", "--site", folder, "--passphrase-file", word)
    assert status == 1
    assert "no such file" in err
    word.write_text("correct horse")
    out = site_cli("service", "container", "--site", folder, "--passphrase-file", word)[1]
    owner = folder.stat()
    user = f"{owner.st_uid}:{owner.st_gid}" if owner.st_uid else "10001:10001"
    assert f"#   chown {user} '{word}' && chmod 400 '{word}'" in out
    assert "podman exec -it cloister-site /opt/cloister/bin/cloister site approve" in out


def test_a_folder_that_nobody_enrolled_in_gets_no_unit(site_cli, tmp_path):
    status, out, err = site_cli("service", "systemd", "--site", tmp_path)
    assert (status, out) == (1, "")
    assert "enroll" in err
