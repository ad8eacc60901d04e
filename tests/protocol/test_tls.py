"""TLS 1.3 with the federation's own authority, over real sockets, and what else is refused."""

import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from protocol.errors import InputError
from protocol.keys import PASSPHRASE_VARIABLE, create_ec_key
from protocol.tls import certificate_digest, check_dates, client_context, read_certificate, server_context

HOST = "127.0.0.1"


class Authority:
    """A certificate authority of a few lines, so that these tests need nothing above ``protocol``."""

    def __init__(self, folder, *, days=10.0):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.key = create_ec_key(folder / "ca.key", bits=256)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.ca = folder / "ca.pem"
        self._write(self.ca, self.name, self.key, ca=True, start=-1, days=days)

    def _write(self, path, subject, key, *, ca, start, days, host=HOST):
        now = datetime.now(UTC)
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False)  # fmt: skip
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=start)).not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )  # fmt: skip
        if not ca:
            names = [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)]
            above = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            builder = builder.add_extension(above, critical=False)
        path.write_bytes(builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM))

    def pair(self, name, *, start=-1.0, days=5.0, host=HOST):
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._write(certificate, subject, create_ec_key(key, bits=256), ca=False, start=start, days=days, host=host)
        return {"certificate": certificate, "key": key}


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "authority")


@contextmanager
def served(context):
    """Answer every connection's first bytes with the peer certificate's digest; yields the port."""
    listener = socket.create_server((HOST, 0))
    listener.settimeout(10)

    def work():
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain:
                plain.settimeout(10)
                try:
                    with context.wrap_socket(plain, server_side=True) as secure:
                        secure.recv(10)
                        secure.sendall(certificate_digest(secure.getpeercert(binary_form=True) or b"").encode())
                except OSError:
                    continue

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def ask(port, context, *, host=HOST):
    """Connect, speak, and return the answer with the version of TLS; the first read shows a refused handshake."""
    with (
        socket.create_connection((HOST, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(b"hello")
        answer = secure.recv(64)
        if not answer:
            raise ConnectionError("closed without an answer")
        return answer.decode(), secure.version(), secure.session is not None and secure.session.has_ticket


def gate(authority, *, require_client=True):
    return server_context(ca=authority.ca, **authority.pair(f"server-{require_client}"), require_client=require_client)


def test_both_sides_know_each_other(authority):
    pair = authority.pair("north")
    der = read_certificate(pair["certificate"]).public_bytes(Encoding.DER)
    with served(gate(authority)) as port:
        answer = ask(port, client_context(ca=authority.ca, **pair))
    assert answer == (certificate_digest(der), "TLSv1.3", False)


def test_sessions_are_not_resumed(authority):
    context = gate(authority, require_client=False)
    with served(context) as port:
        assert ask(port, client_context(ca=authority.ca))[2] is False
    # The twin: what the default would hand out.
    context.num_tickets = 2
    with served(context) as port:
        assert ask(port, client_context(ca=authority.ca))[2] is True


def test_server_that_asks_for_no_certificate(authority):
    with served(gate(authority, require_client=False)) as port:
        assert ask(port, client_context(ca=authority.ca))[0] == certificate_digest(b"")


def test_gate_refuses_who_has_no_certificate(authority, tmp_path):
    other = Authority(tmp_path / "other")
    stranger = client_context(ca=authority.ca, **other.pair("north"))
    with served(gate(authority)) as port:
        for context in (client_context(ca=authority.ca), stranger):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(port, context)
    # The twin: a gate that forgets to require one lets the first in.
    with served(gate(authority, require_client=False)) as port:
        assert ask(port, client_context(ca=authority.ca))[0]


def test_older_tls_is_refused_by_both(authority):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(authority.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    pair = authority.pair("site")
    old.load_cert_chain(pair["certificate"], pair["key"])
    with served(gate(authority)) as port, pytest.raises((ssl.SSLError, ConnectionError)):
        ask(port, old)
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lax.maximum_version = ssl.TLSVersion.TLSv1_2
    server = authority.pair("lax")
    lax.load_cert_chain(server["certificate"], server["key"])
    with served(lax) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(port, client_context(ca=authority.ca))
        # The twin: among themselves the two would speak.
        assert ask(port, old)[1] == "TLSv1.2"


def test_another_host_and_another_authority_are_refused(authority, tmp_path):
    elsewhere = server_context(
        ca=authority.ca, **authority.pair("elsewhere", host="train.example.org"), require_client=False
    )
    with served(elsewhere) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            ask(port, client_context(ca=authority.ca))
        assert ask(port, client_context(ca=authority.ca), host="train.example.org")[0]
        other = Authority(tmp_path / "other")
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, client_context(ca=other.ca), host="train.example.org")


def test_system_authorities_are_not_trusted(authority):
    context = client_context(ca=authority.ca)
    assert [dict(found["subject"][0])["commonName"] for found in context.get_ca_certs()] == ["authority"]


@pytest.mark.parametrize(
    ("start", "days", "words"),
    [(-9.0, -1.0, r"expired on .*site enroll.*site renew"), (1.0, 5.0, r"is valid from .*clock")],
)
def test_dates_are_told_before_connecting(authority, start, days, words):
    with pytest.raises(InputError, match=words):
        client_context(ca=authority.ca, **authority.pair("north", start=start, days=days))


def test_missing_and_mixed_files_are_told(authority):
    one, two = authority.pair("one"), authority.pair("two")
    with pytest.raises(InputError, match=r"one\.pem is not the certificate of .*two\.key.*site enroll"):
        client_context(ca=authority.ca, certificate=one["certificate"], key=two["key"])
    with pytest.raises(InputError, match=r"none\.pem: No such file.*site enroll"):
        client_context(ca=authority.ca, certificate=authority.folder / "none.pem", key=one["key"])
    with pytest.raises(InputError, match=r"none\.key: No such file"):
        client_context(ca=authority.ca, certificate=one["certificate"], key=authority.folder / "none.key")
    with pytest.raises(InputError, match="no certificate"):
        client_context(ca=one["key"])
    with pytest.raises(InputError, match="both or neither"):
        client_context(ca=authority.ca, certificate=one["certificate"])
    with pytest.raises(InputError, match="Start the coordinator again"):
        server_context(ca=authority.folder / "none", **one, require_client=True)


def test_expired_authority_is_told(tmp_path):
    with pytest.raises(InputError, match="new authority"):
        client_context(ca=Authority(tmp_path / "old", days=-0.5).ca)


def test_key_under_a_passphrase_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "word")
    authority = Authority(tmp_path / "authority")
    with served(gate(authority)) as port:
        assert ask(port, client_context(ca=authority.ca, **authority.pair("north")))[1] == "TLSv1.3"


def test_dates_are_checked_to_the_second(authority):
    certificate = read_certificate(authority.ca)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    second = timedelta(seconds=1)
    check_dates(certificate, name="x", now=first)
    check_dates(certificate, name="x", now=last)
    for now in (first - second, last + second):
        with pytest.raises(InputError):
            check_dates(certificate, name="x", now=now)
