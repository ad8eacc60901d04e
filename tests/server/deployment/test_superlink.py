"""Flower's SuperLink and SuperExec as the coordinator runs them: alone on loopback, and only the launcher runs."""

import os
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.cli.build import build_fab_from_disk

from protocol.errors import FederationError
from server.deployment.processes.flower import clean_environment, flower_program
from server.deployment.superlink import Control, is_healthy, prepare
from server.deployment.supervisor import link_files, listening_hosts

FOREIGN = """
import pathlib
pathlib.Path({mark!r}).touch()
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    pass
"""


@pytest.fixture(scope="module")
def link(coordinator_tools, tmp_path_factory):
    """Files, programs and control of a SuperLink that runs for the tests of this file."""
    files = link_files(coordinator_tools["make_folder"](tmp_path_factory.mktemp("link") / "coordinator"))
    programs = prepare(files, mark={"CLOISTER_SUPERVISOR": "test"})
    assert not is_healthy(files)
    try:
        programs.superlink.start()
        coordinator_tools["wait_until"](lambda: is_healthy(files), within_s=60)
        programs.superexec.start()
        control = Control(files)
        yield files, programs, control
        control.close()
    finally:
        programs.superexec.end(within_s=2.0)
        programs.superlink.end(within_s=2.0)


def ending(control, run, *, within_s=60.0):
    deadline = time.monotonic() + within_s
    while (found := control.ending(run)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def node_key():
    key = generate_private_key(SECP384R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_nodes_are_registered_and_a_key_never_comes_back(link):
    _, _, control = link
    key = node_key()
    control.register(key, name="north")
    (found,) = [node for node in control.nodes() if node.key == key]
    assert found.registered
    with pytest.raises(FederationError, match="already in use"):
        control.register(key, name="south")
    control.unregister(found.number)
    (found,) = [node for node in control.nodes() if node.key == key]
    assert not found.registered
    with pytest.raises(FederationError, match="already in use"):
        control.register(key, name="north")


@pytest.mark.slow
def test_a_run_of_the_launcher_runs_the_package_that_this_process_runs(link, tmp_path):
    _, programs, control = link
    run = control.submit(programs.bundle, {"job": str(tmp_path / "studies" / "none"), "device": "cpu"})
    assert run in control.unfinished()
    assert "no study of this coordinator" in ending(control, run)  # the first thing that server.app looks at
    assert run not in control.unfinished()
    with pytest.raises(FederationError, match="already finished"):
        control.stop(run)


def foreign_bundle(folder, *, mark):
    folder.mkdir()
    launcher = (folder.parent / "launcher.toml").read_text("utf-8")
    (folder / "pyproject.toml").write_text(launcher.replace("server.app:app", "foreign:app"), "utf-8")
    (folder / "foreign.py").write_text(FOREIGN.format(mark=str(mark)), "utf-8")
    return build_fab_from_disk(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of pathspec, by flwr
def test_foreign_code_is_run_by_the_stock_program_and_refused_by_ours(link, tmp_path):
    files, _, control = link
    mark = tmp_path / "foreign code ran"
    (tmp_path / "launcher.toml").write_bytes((files.home / "launcher" / "pyproject.toml").read_bytes())
    bundle = foreign_bundle(tmp_path / "foreign", mark=mark)
    assert "not the coordinator's launcher" in ending(control, control.submit(bundle, {"job": ""}))
    assert not mark.exists()
    ours = files.home / "programs" / "flwr-serverapp"
    text = ours.read_text("utf-8")
    try:
        ours.write_text(f'#!/bin/sh\nexec {flower_program("flwr-serverapp")} "$@"\n', "utf-8")
        assert ending(control, control.submit(bundle, {"job": ""})).startswith("completed")
        assert mark.exists()
    finally:
        ours.write_text(text, "utf-8")


def test_the_environment_names_no_other_code_no_proxy_and_no_other_flower(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("FLWR_DATABASE", "elsewhere.db")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("CLOISTER_ANYTHING", "kept")
    found = clean_environment(home=tmp_path, programs=tmp_path / "programs")
    assert "/elsewhere" not in found.get("PYTHONPATH", "")
    assert "FLWR_DATABASE" not in found
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_HOME"] == str(tmp_path)
    assert found["PATH"].split(os.pathsep)[0] == str(tmp_path / "programs")
    assert "127.0.0.1" in found["NO_PROXY"]
    assert found["CLOISTER_ANYTHING"] == "kept"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_a_coordinator_named_by_loopback_listens_there_alone(host):
    (found,) = listening_hosts(host)
    assert found == ("127.0.0.1" if host == "localhost" else host)


def test_a_coordinator_with_a_name_of_its_own_listens_on_every_address():
    found = listening_hosts("hub.example.org")
    assert found[0] == "0.0.0.0"  # noqa: S104 - this is the claim
