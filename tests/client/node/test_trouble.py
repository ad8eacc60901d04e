"""Every way to fail is told apart, against real sockets where there is one to be had."""

import socket
import ssl
import threading
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from client.node.connection import Connection
from client.node.link import FleetLink
from client.node.trouble import SLOW, Trouble, TroubleKind, diagnose
from protocol.errors import FederationError
from protocol.tls import server_context

LATER = datetime.now(UTC) + timedelta(days=1)


def told(error, *, ahead_s=0.0, expires=LATER):
    return diagnose(error, address="gate.example:443", ahead_s=ahead_s, expires=expires)


def trouble_of(connection):
    """What a node meets that tries to sign on."""
    with FleetLink(connection) as fleet:
        try:
            fleet.activate(None)
        except Exception as error:  # noqa: BLE001 - whatever it is
            return diagnose(
                error, address=connection.address, ahead_s=fleet.ahead_s, expires=connection.expires
            )  # fmt: skip
    raise AssertionError("it signed on")


@pytest.fixture
def listener():
    """Return a function that serves one connection after another in a thread, and the port."""
    servers = []

    def listen(serve):
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def work():
            with suppress(OSError):
                while True:
                    plain, _ = server.accept()
                    with suppress(OSError), plain:
                        serve(plain)

        threading.Thread(target=work, daemon=True).start()
        return server.getsockname()[1]

    yield listen
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_name_that_nobody_knows():
    with pytest.raises(OSError, match=r".") as unknown:
        socket.getaddrinfo("a name with spaces", 443)
    assert isinstance(unknown.value, socket.gaierror)
    error = httpx.ConnectError("no")
    error.__cause__ = unknown.value
    assert told(error).kind is TroubleKind.NAME


def test_port_that_nobody_listens_on(authority, tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    trouble = trouble_of(Connection.open(authority.site(tmp_path / "site", port=port)))
    assert trouble.kind is TroubleKind.REFUSED
    assert str(port) in trouble.problem


@pytest.fixture
def gate_of(listener):
    """Return a function that runs a server that asks for certificates, and does something after the handshake."""

    def build(authority, serve=lambda _secured: None, *, trusts=None, **names):
        certificate, key = authority.server("gate", **names)
        clients = (trusts or authority).file
        context = server_context(ca=clients, certificate=certificate, key=key, require_client=True)

        def secure(plain):
            with context.wrap_socket(plain, server_side=True) as secured:
                serve(secured)

        return listener(secure)

    return build


def test_coordinator_of_another_authority(authority, other_authority, tmp_path, gate_of):
    port = gate_of(other_authority, trusts=authority)
    trouble = trouble_of(Connection.open(authority.site(tmp_path / "site", port=port)))
    assert trouble.kind is TroubleKind.COORDINATOR_CERTIFICATE
    assert "unable to get local issuer" in trouble.problem
    assert "clock" in trouble.remedy


def test_name_that_is_not_in_the_certificate(authority, tmp_path, gate_of):
    port = gate_of(authority, host="gate.elsewhere.example", address="192.0.2.1")
    trouble = trouble_of(Connection.open(authority.site(tmp_path / "site", port=port)))
    assert trouble.kind is TroubleKind.COORDINATOR_CERTIFICATE
    assert "mismatch" in trouble.problem


def test_site_of_another_authority(authority, other_authority, tmp_path, gate_of):
    folder = other_authority.site(tmp_path / "site", port=gate_of(authority))
    (folder / "ca.pem").write_bytes(authority.file.read_bytes())
    trouble = trouble_of(Connection.open(folder))
    assert trouble.kind is TroubleKind.SITE_CERTIFICATE
    assert "unknown ca" in trouble.problem
    assert "enroll" in trouble.remedy


def test_certificate_that_expires_while_the_client_runs(authority, tmp_path, gate_of):
    """Refused by the server, and told by the own date where the server only hangs up."""
    folder = authority.site(tmp_path / "site", port=gate_of(authority))
    connection, expired = Connection.open(folder), datetime.now(UTC) - timedelta(minutes=1)
    authority.issue(folder / "tls.pem", folder / "tls.key", expires=expired)
    context = ssl.create_default_context(cafile=str(authority.file))
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    trouble = trouble_of(replace(connection, context=context, expires=expired))
    assert trouble.kind is TroubleKind.SITE_CERTIFICATE
    assert "expired on" in trouble.problem
    assert trouble_of(replace(connection, context=context)).kind is TroubleKind.SITE_CERTIFICATE
    assert told(httpx.RemoteProtocolError("hung up"), expires=expired).kind is TroubleKind.SITE_CERTIFICATE


def test_no_tls_at_all(authority, tmp_path, listener):
    port = listener(lambda plain: (plain.recv(100), plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")))
    assert trouble_of(Connection.open(authority.site(tmp_path / "site", port=port))).kind is TroubleKind.TLS


def test_older_tls(authority, tmp_path, listener):
    certificate, key = authority.server("old")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    port = listener(lambda plain: context.wrap_socket(plain, server_side=True))
    assert trouble_of(Connection.open(authority.site(tmp_path / "site", port=port))).kind is TroubleKind.TLS


@pytest.mark.parametrize("after", ["the handshake", "the first bytes"])
def test_connection_that_is_cut(authority, tmp_path, gate_of, listener, after):
    if after == "the handshake":
        port = gate_of(authority, lambda secured: secured.recv(100))
    else:
        port = listener(lambda plain: plain.recv(100))
    assert trouble_of(Connection.open(authority.site(tmp_path / "site", port=port))).kind is TroubleKind.UNREACHABLE


class TestProxy:
    @pytest.fixture
    def through(self, monkeypatch):
        def set_to(port):
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
            for name in ("NO_PROXY", "no_proxy"):
                monkeypatch.delenv(name, raising=False)

        return set_to

    def test_environment_is_honoured_with_the_certificate(self, site, listener, through):
        """The proxy sees the name it is to lead to, and nothing else; the certificate reaches the gate."""
        folder, _node_id, _link, gate = site
        asked = []

        def tunnel(plain):
            asked.append(plain.recv(1000))
            with socket.create_connection(("127.0.0.1", gate.port)) as behind:
                plain.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_pump, args=(behind, plain))
                back.start()
                _pump(plain, behind)
                back.join()

        through(listener(tunnel))
        with FleetLink(Connection.open(folder)) as fleet:
            fleet.activate(None)
            fleet.deactivate()
        assert asked[0].startswith(f"CONNECT 127.0.0.1:{gate.port} ".encode())
        assert gate.certificates[0]

    def test_proxy_that_refuses(self, authority, tmp_path, listener, through):
        through(listener(lambda plain: (plain.recv(1000), plain.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n"))))
        trouble = trouble_of(Connection.open(authority.site(tmp_path / "site", port=9)))
        assert trouble.kind is TroubleKind.PROXY
        assert "403" in trouble.problem


def _pump(source, target):
    with suppress(OSError):
        while block := source.recv(65_536):
            target.sendall(block)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("code", "ahead_s", "kind"),
    [
        (401, 0.0, TroubleKind.NOT_ACCEPTED),
        (401, None, TroubleKind.NOT_ACCEPTED),
        (403, 0.0, TroubleKind.NOT_ACCEPTED),
        (401, 3600.0, TroubleKind.CLOCK),
        (401, -3600.0, TroubleKind.CLOCK),
        (401, 5.0, TroubleKind.CLOCK),
        (401, -200.0, TroubleKind.NOT_ACCEPTED),
        (412, 0.0, TroubleKind.NOT_ACTIVATED),
        (429, 0.0, TroubleKind.BUSY),
        (502, 0.0, TroubleKind.RESTARTING),
        (503, 0.0, TroubleKind.RESTARTING),
        (504, 0.0, TroubleKind.RESTARTING),
        (500, 0.0, TroubleKind.UNEXPECTED),
        (404, 0.0, TroubleKind.UNEXPECTED),
    ],
)
def test_status(code, ahead_s, kind):
    request = httpx.Request("POST", "https://gate.example")
    error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(code))
    assert told(error, ahead_s=ahead_s).kind is kind


def test_clock_is_said_with_its_direction():
    request = httpx.Request("POST", "https://gate.example")
    error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(401))
    assert "3600 s ahead of" in told(error, ahead_s=3600.0).problem
    assert "3600 s behind" in told(error, ahead_s=-3600.0).problem


def test_whatever_else():
    assert told(ValueError("Invalid protobuf response payload")).kind is TroubleKind.UNEXPECTED
    assert told(FederationError("It is not complete.", remedy="Wait.")).problem == "It is not complete."
    assert told(httpx.ReadTimeout("slow")).kind is TroubleKind.UNREACHABLE


def test_every_trouble_has_a_remedy():
    for kind in TroubleKind:
        trouble = Trouble(kind=kind, problem="It does not work.")
        assert trouble.remedy.endswith(".")
        assert trouble.slow == (kind in SLOW)
