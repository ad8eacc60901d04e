"""The client in the foreground: it starts only where it can work, alone, says what it does, and ends cleanly."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.node.memory import only_one

ROOT = Path(__file__).parents[3]


@contextmanager
def client(folder: Path, *options: str, **environment: str):
    """A client's process, and its log; whatever happens it is gone in the end."""
    log = folder.parent / "client.log"
    settings = os.environ | {"CLOISTER_SITE": str(folder), "OMP_NUM_THREADS": "1"} | environment
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.app", "site", "start", *options],
            cwd=ROOT, env=settings, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            yield process, log
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(log: Path, words: str, process: subprocess.Popen) -> str:
    deadline = time.monotonic() + 60
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return log.read_text()


def test_a_client_says_what_it_does_is_alone_and_ends_cleanly(enrolled, site_cli):
    assert "not running" in site_cli("status", "--site", enrolled)[1]
    with client(enrolled) as (process, log):
        text = wait_for(log, "waiting for the coordinator", process)
        assert "north of hearts" in text
        assert "epsilon 0.000 of 8 ever" in text
        assert "no study is approved" in text
        deadline = time.monotonic() + 30
        while "running\n" not in (out := site_cli("status", "--site", enrolled)[1]) or "not running" in out:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        status, _, err = site_cli("start", "--site", enrolled)
        assert status == 1
        assert "running already" in err
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert log.read_text().endswith("ended\n")
    assert "not running" in site_cli("status", "--site", enrolled)[1]


def test_under_systemd_the_log_has_no_times(enrolled):
    with client(enrolled, JOURNAL_STREAM="8:1") as (process, log):
        assert "\nINFO north of hearts" in "\n" + wait_for(log, "waiting", process)


@pytest.mark.parametrize(
    ("name", "said"),
    [("policy.toml", "policy"), ("tls.key", "keys"), ("ledger.sqlite", "ledger"), ("site.toml", "settings"),
     ("coordinator.json", "enrolment")],
)  # fmt: skip
def test_a_client_that_could_only_refuse_is_not_started(enrolled, site_cli, name, said):
    (enrolled / name).unlink()
    status, _, err = site_cli("start", "--site", enrolled)
    assert status == 1
    assert "was not started" in err
    assert f"FAILED   {said}" in err
    assert "->" in err, "it says what to do"


def test_a_client_without_its_approved_records_is_not_started(enrolled, site_cli, records, monkeypatch):
    from client.doctor import studies
    from client.doctor.finding import well

    records.unlink()
    monkeypatch.setattr(studies, "check_approvals", lambda _: well("approvals", "One study."))
    status, _, err = site_cli("start", "--site", enrolled)
    assert status == 1
    assert "FAILED   records" in err
    assert "no such file" in err


def test_an_open_folder_is_not_started(enrolled, site_cli):
    enrolled.chmod(0o755)
    status, _, err = site_cli("start", "--site", enrolled)
    assert status == 1
    assert "chmod" in err


def test_a_second_client_is_refused_before_it_connects(enrolled, site_cli):
    with only_one(enrolled):
        status, _, err = site_cli("start", "--site", enrolled)
    assert status == 1
    assert "running already" in err
