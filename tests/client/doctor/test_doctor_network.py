"""Each check of the way to the coordinator, against a server on loopback that has exactly that fault."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path

import pytest

from client.doctor.finding import Finding, State
from client.doctor.network import environment_proxy, network_findings

OK, WARNING, FAILED = State.OK, State.WARNING, State.FAILED
ORDER = ["proxy", "name", "port", "TLS", "clock", "gate"]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def examine(folder: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in network_findings(folder)}


def failures(found: dict[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding.state is FAILED]


def test_a_good_way_is_found_good(site_folder, gate):
    with gate(site_folder):
        found = examine(site_folder)
    assert list(found) == ORDER
    assert {finding.state for finding in found.values()} == {OK}, found


def test_a_site_that_was_not_enrolled_has_no_way(site_folder):
    (site_folder / "coordinator.json").unlink()
    assert examine(site_folder) == {}


def test_a_name_that_is_not_known(site_folder, pointed):
    pointed(site_folder, host="coordinator.invalid")
    found = examine(site_folder)
    assert failures(found) == ["name"]
    assert list(found)[-1] == "name"
    assert "coordinator.invalid" in found["name"].message


def test_a_closed_port(site_folder, pointed):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    pointed(site_folder, port=port)
    found = examine(site_folder)
    assert failures(found) == ["port"]
    assert "firewall" in found["port"].remedy


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_an_hour_off(site_folder, gate, hours):
    with gate(site_folder, date=formatdate(time.time() - 3600 * hours, usegmt=True)):
        found = examine(site_folder)
    assert failures(found) == ["clock"]
    assert f"60 minutes {'ahead of' if hours > 0 else 'behind'}" in found["clock"].message
    assert "NTP" in found["clock"].remedy


def test_a_clock_that_is_a_minute_slow_works_and_is_said(site_folder, gate):
    with gate(site_folder, date=formatdate(time.time() + 60, usegmt=True)):
        found = examine(site_folder)
    assert found["clock"].state is WARNING
    assert failures(found) == []


def test_a_gate_that_does_not_say_the_time(site_folder, gate):
    with gate(site_folder, date="soon"):
        assert examine(site_folder)["clock"].state is WARNING


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"until": timedelta(days=-1)}, "expired"),
        ({"since": timedelta(days=1)}, "not valid yet"),
        ({"host": "127.0.0.2"}, "not for the name"),
    ],
)
def test_a_certificate_of_the_coordinator_that_is_wrong(site_folder, gate, fault, said):
    with gate(site_folder, **fault):
        found = examine(site_folder)
    assert "TLS" in failures(found)
    assert said in found["TLS"].message
    if "host" not in fault:  # then the clock is asked for all the same, from the same authority
        assert found["clock"].state is OK


def test_a_stranger_in_the_coordinators_place(site_folder, gate, another_authority):
    with gate(site_folder, issuer=another_authority):
        found = examine(site_folder)
    assert failures(found) == ["TLS"]
    assert "another authority" in found["TLS"].message
    assert found["clock"].state is WARNING, "a stranger's clock is not believed"
    assert "gate" not in found


def test_a_server_that_speaks_no_tls(site_folder, pointed):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_hang_up, args=(listener, 3))
        thread.start()
        pointed(site_folder, port=listener.getsockname()[1])
        found = examine(site_folder)
        thread.join()
    assert failures(found) == ["TLS"]
    assert "no secure connection" in found["TLS"].message


def _hang_up(listener: socket.socket, times: int) -> None:
    for _ in range(times):
        listener.accept()[0].close()


def test_an_own_certificate_that_expired(site_folder, gate, certify):
    certify(site_folder, until=timedelta(days=-1))
    with gate(site_folder):
        found = examine(site_folder)
    assert "expired" in found["TLS"].message
    assert found["TLS"].state is FAILED


def test_a_gate_that_does_not_know_the_site(site_folder, gate, another_authority):
    with gate(site_folder, clients=another_authority):
        found = examine(site_folder)
    assert failures(found) == ["gate"]
    assert "does not accept" in found["gate"].message


@pytest.mark.parametrize(("status", "state"), [(200, OK), (401, FAILED), (403, FAILED), (429, WARNING), (500, FAILED)])
def test_what_the_gate_answers(site_folder, gate, status, state):
    with gate(site_folder, status=status):
        assert examine(site_folder)["gate"].state is state


@contextmanager
def proxy(reply: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that answers CONNECT with ``reply``, and where that is a yes, passes bytes to and fro."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=tunnel, args=(client,), daemon=True).start()

        def tunnel(client: socket.socket) -> None:
            with client:
                head = client.recv(4096)
                if not head:
                    return
                asked.append(head)
                client.sendall(reply)
                if b" 200 " not in reply:
                    return
                host, port = head.split()[1].decode().split(":")
                with socket.create_connection((host, int(port))) as target:
                    back = threading.Thread(target=copy, args=(target, client), daemon=True)
                    back.start()
                    copy(client, target)
                    back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_the_proxy_of_the_environment_is_used(site_folder, gate, monkeypatch):
    with proxy(b"HTTP/1.1 200 OK\r\n\r\n") as (port, asked), gate(site_folder) as target:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{port}")
        found = examine(site_folder)
        assert {finding.state for finding in found.values()} == {OK}, found
        assert asked
        assert all(head.startswith(f"CONNECT 127.0.0.1:{target} ".encode()) for head in asked)
        assert not any("secret" in finding.message for finding in found.values())
        asked.clear()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert failures(examine(site_folder)) == []
        assert not asked


def test_a_proxy_that_refuses(site_folder, gate, monkeypatch):
    with proxy(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as (port, _), gate(site_folder):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        found = examine(site_folder)
    assert failures(found) == ["port"]
    assert "proxy" in found["port"].message


@pytest.mark.parametrize(
    ("url", "said"), [("http://127.0.0.1:1", "cannot be reached"), ("socks5://127.0.0.1:1", "socks5")]
)
def test_a_proxy_that_is_none(site_folder, gate, monkeypatch, url, said):
    with gate(site_folder):
        monkeypatch.setenv("HTTPS_PROXY", url)
        found = examine(site_folder)
    assert failures(found) == ["proxy"]
    assert said in found["proxy"].message


def test_where_the_proxy_comes_from(monkeypatch):
    assert environment_proxy("fed.example.org") is None
    monkeypatch.setenv("ALL_PROXY", "http://a:1")
    assert environment_proxy("fed.example.org") == "http://a:1"
    monkeypatch.setenv("HTTPS_PROXY", "http://b:2")
    assert environment_proxy("fed.example.org") == "http://b:2"
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert environment_proxy("fed.example.org") is None
