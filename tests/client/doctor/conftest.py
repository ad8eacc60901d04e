"""A federation of one authority and one site, made here from certificates alone, and a gate to ask."""

import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from client.consent import consent_to
from client.policy import Policy, write_policy
from privacy.ledger import Ledger
from protocol.keys import create_ec_key, create_identity, private_pem, read_ec_key
from protocol.study import Study
from protocol.terms import Relation
from protocol.tls import certificate_digest

NOW = datetime.now(UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(kw_only=True)
class Authority:
    """A private certificate authority."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = self.issue(self.key.public_key(), "authority", is_authority=True)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        return certificate_digest(self.certificate.public_bytes(Encoding.DER))

    def issue(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        *,
        host: str | None = None,
        since: timedelta = timedelta(days=-2),
        until: timedelta = timedelta(days=90),
        is_authority: bool = False,
    ) -> x509.Certificate:
        """Return a certificate that a strict verification accepts."""
        own = x509.SubjectKeyIdentifier.from_public_key
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("authority"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + since)
            .not_valid_after(NOW + until)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(**usage, digital_signature=True, key_cert_sign=is_authority, crl_sign=is_authority),
                critical=True,
            )
            .add_extension(own(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )  # fmt: skip
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def another_authority() -> Authority:
    return Authority()


@pytest.fixture
def certify(authority: Authority) -> Callable[..., None]:
    """Write a site's certificate anew; dates and issuer as wanted."""

    def write(folder: Path, issuer: Authority = authority, **dates: timedelta) -> None:
        key = read_ec_key(folder / "tls.key").public_key()
        (folder / "tls.pem").write_bytes(issuer.issue(key, "north", **dates).public_bytes(Encoding.PEM))

    return write


@pytest.fixture
def site_folder(tmp_path: Path, authority: Authority, certify: Callable[..., None]) -> Path:
    """A site in good health: enrolled, with records, ledger and policy."""
    folder = tmp_path / "north"
    folder.mkdir(mode=0o700)
    key = create_identity(folder / "key.pem")
    create_ec_key(folder / "tls.key", bits=256)
    create_ec_key(folder / "node.key", bits=384)
    (folder / "ca.pem").write_bytes(authority.pem)
    certify(folder)
    known = {
        "version": 1, "federation": "test", "host": "127.0.0.1", "port": 1, "coordinator_key": "a" * 64,
        "ca_fingerprint": authority.fingerprint, "site": "north",
    }  # fmt: skip
    (folder / "coordinator.json").write_text(json.dumps(known))
    (folder / "records.csv").write_text("age,colour,ill\n21,red,true\n25,green,false\n29,,true\n")
    settings = {"name": "north", "data": {"location": "records.csv", "set": "visits"}}
    (folder / "site.toml").write_text(tomli_w.dumps(settings))
    write_policy(folder / "policy.toml", epsilon=8.0, delta=1e-4)
    Ledger.create(folder / "ledger.sqlite", key=key, data_set="visits").close()
    return folder


@pytest.fixture
def approve() -> Callable[[Path, Study], Path]:
    """Let a site approve a study."""
    from protocol.keys import read_identity

    def record(folder: Path, study: Study) -> Path:
        ceilings = Policy.from_toml(folder / "policy.toml").ceilings(Relation.ADD_REMOVE)
        key = read_identity(folder / "key.pem")
        return consent_to(study, key=key, site="north", by="A Tester", ceilings=ceilings).write(folder / "approvals")

    return record


class _Handler(http.server.BaseHTTPRequestHandler):
    status, date = 200, ""

    def do_GET(self) -> None:
        self.send_response_only(self.status)
        self.send_header("Date", self.date or self.date_time_string())
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def gate(tmp_path: Path, authority: Authority) -> Callable[..., Any]:
    """Return a context that runs a server with mutual TLS, whatever is wrong with it, and points a site at it."""

    @contextmanager
    def serve(
        folder: Path,
        *,
        status: int = 200,
        date: str = "",
        issuer: Authority = authority,
        host: str = "127.0.0.1",
        clients: Authority = authority,
        **dates: timedelta,
    ) -> Iterator[int]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, private, trusted = (tmp_path / name for name in ("gate.pem", "gate.key", "clients.pem"))
        certificate.write_bytes(issuer.issue(key.public_key(), "gate", host=host, **dates).public_bytes(Encoding.PEM))
        private.write_bytes(private_pem(key, encrypted=False))
        trusted.write_bytes(clients.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cafile=str(trusted))
        context.load_cert_chain(str(certificate), str(private))
        handler = type("Handler", (_Handler,), {"status": status, "date": date})

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, address: Any) -> None:
                # The handshake belongs to the connection's own thread, and may fail.
                try:
                    with context.wrap_socket(request, server_side=True) as secured:
                        super().finish_request(secured, address)
                except (ssl.SSLError, OSError):
                    pass

        server = Server(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            point(folder, port=server.server_port)
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return serve


def point(folder: Path, **changes: Any) -> None:
    """Change what a site knows about its coordinator."""
    path = folder / "coordinator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def pointed() -> Callable[..., None]:
    return point
