"""The authority says what a certificate holds; who asks for one chooses nothing but the key."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from protocol.errors import InputError, WireError
from protocol.keys import PASSPHRASE_VARIABLE, new_ec_key
from protocol.tls import certificate_digest
from server.deployment.authority import Authority, ensure_server_certificates
from server.deployment.folder import CoordinatorFolder


def asked(key, *, name="north", extensions=()):
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def common_names(certificate):
    return [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


@pytest.fixture
def authority(tmp_path):
    return Authority.create(tmp_path / "ca.pem", tmp_path / "ca.key", name="hearts")


@pytest.fixture
def folder(tmp_path):
    return CoordinatorFolder.create(
        tmp_path / "c", name="hearts", host="127.0.0.1", port=9443, enrolment_port=9444, superlink_port=9445
    )


def test_site_certificate_says_what_the_roster_says(authority):
    key = new_ec_key(bits=256)
    certificate = authority.issue_site(asked(key), site="north")
    extensions = certificate.extensions
    assert common_names(certificate) == ["north"]
    assert certificate.public_key() == key.public_key()
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("cloister:site:north")]
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.pem.encode()))
    now = datetime.now(UTC)
    assert timedelta(minutes=59) < now - certificate.not_valid_before_utc < timedelta(minutes=62)
    assert timedelta(days=364) < certificate.not_valid_after_utc - now < timedelta(days=366)


def test_request_chooses_only_its_key(authority):
    greedy = asked(
        new_ec_key(bits=256),
        name="south",
        extensions=(
            x509.BasicConstraints(ca=True, path_length=5),
            x509.SubjectAlternativeName([x509.DNSName("localhost")]),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        ),
    )
    certificate = authority.issue_site(greedy, site="north")
    text = certificate.public_bytes(Encoding.DER)
    assert common_names(certificate) == ["north"]
    assert b"south" not in text
    assert b"localhost" not in text
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_site_certificate_serves_nobody(authority):
    """An independent verifier accepts a server's certificate for its host, and a site's for none."""
    store = Store([x509.load_pem_x509_certificate(authority.pem.encode())])
    host = x509.DNSName("train.example.org")
    verifier = PolicyBuilder().store(store).build_server_verifier(host)
    served = authority.issue_server(new_ec_key(bits=256).public_key(), hosts=["train.example.org"])
    assert verifier.verify(served, [])[0] == served
    clients = PolicyBuilder().store(store).build_client_verifier()
    site = authority.issue_site(asked(new_ec_key(bits=256)), site="north")
    assert clients.verify(site, []).chain[0] == site
    for wrong in (verifier, PolicyBuilder().store(store).build_server_verifier(x509.DNSName("north"))):
        with pytest.raises(VerificationError):
            wrong.verify(site, [])
    with pytest.raises(VerificationError):
        clients.verify(served, [])


def test_authority_signs_no_other_authority(authority):
    certificate = x509.load_pem_x509_certificate(authority.pem.encode())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    years = (certificate.not_valid_after_utc - certificate.not_valid_before_utc) / timedelta(days=365.25)
    assert 9.9 < years < 10.1


def test_serial_numbers_differ(authority):
    request = asked(new_ec_key(bits=256))
    serials = {authority.issue_site(request, site="north").serial_number for _ in range(10)}
    assert len(serials) == 10
    assert min(serials) > 2**100


def test_requests_with_other_keys_are_refused(authority):
    for key in (new_ec_key(bits=384), ec.generate_private_key(ec.SECP256K1()), rsa.generate_private_key(65_537, 2_048)):
        with pytest.raises(WireError, match="P-256"):
            authority.issue_site(asked(key), site="north")


def test_request_signed_by_another_key_is_refused(authority):
    good = x509.load_pem_x509_csr(asked(new_ec_key(bits=256)).encode())
    other = x509.load_pem_x509_csr(asked(new_ec_key(bits=256)).encode())
    der = good.public_bytes(Encoding.DER)
    # Signatures vary in length by a byte or two: take one of the same length.
    while len(other.signature) != len(good.signature):
        other = x509.load_pem_x509_csr(asked(new_ec_key(bits=256)).encode())
    forged = x509.load_der_x509_csr(der.replace(good.signature, other.signature))
    with pytest.raises(WireError, match="not signed by a key of its own"):
        authority.issue_site(forged.public_bytes(Encoding.PEM).decode(), site="north")
    assert authority.issue_site(good.public_bytes(Encoding.PEM).decode(), site="north")


@pytest.mark.parametrize("request_text", ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"])  # fmt: skip # noqa: E501 - one PEM block
def test_malformed_requests_are_refused(authority, request_text):
    with pytest.raises(WireError, match="malformed"):
        authority.issue_site(request_text, site="north")


@pytest.mark.parametrize("site", ["", "North", "a/b", "a" * 64])
def test_odd_names_are_refused(authority, site):
    with pytest.raises(InputError, match="name"):
        authority.issue_site(asked(new_ec_key(bits=256)), site=site)


def test_nothing_outlives_the_authority(authority):
    end = x509.load_pem_x509_certificate(authority.pem.encode()).not_valid_after_utc
    request = asked(new_ec_key(bits=256))
    certificate = authority.issue_site(request, site="north", now=end - timedelta(days=10))
    assert certificate.not_valid_after_utc == end
    with pytest.raises(InputError, match="expired"):
        authority.issue_site(request, site="north", now=end + timedelta(seconds=1))


def test_authority_is_read_again_and_a_wrong_pair_refused(authority, tmp_path):
    read = Authority.open(tmp_path / "ca.pem", tmp_path / "ca.key")
    assert read.fingerprint == authority.fingerprint
    der = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes()).public_bytes(Encoding.DER)
    assert read.fingerprint == certificate_digest(der)
    Authority.create(tmp_path / "b.pem", tmp_path / "b.key", name="other")
    with pytest.raises(InputError, match="not the certificate of"):
        Authority.open(tmp_path / "ca.pem", tmp_path / "b.key")


def test_server_certificates_are_renewed_in_their_last_month(folder):
    before = {path: path.read_bytes() for path in folder.root.iterdir() if path.is_file()}
    now = datetime.now(UTC)
    assert ensure_server_certificates(folder) is False
    assert ensure_server_certificates(folder, now=now + timedelta(days=334)) is False
    assert {path: path.read_bytes() for path in before} == before
    assert ensure_server_certificates(folder, now=now + timedelta(days=336)) is True
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"server.pem", "link.pem"}


def test_server_certificate_follows_the_host(folder):
    text = folder.settings.read_text("utf-8").replace('"127.0.0.1"', '"train.example.org"')
    folder.settings.write_text(text, "utf-8")
    moved = CoordinatorFolder.open(folder.root)
    link = moved.link_certificate.read_bytes()
    assert ensure_server_certificates(moved) is True
    certificate = x509.load_pem_x509_certificate(moved.server_certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["train.example.org"]
    assert moved.link_certificate.read_bytes() == link
    assert ensure_server_certificates(moved) is False


def test_certificates_are_renewed_under_a_passphrase(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "word")
    folder = CoordinatorFolder.create(
        tmp_path / "c", name="hearts", host="::1", port=9443, enrolment_port=9444, superlink_port=9445
    )
    assert b"ENCRYPTED" in folder.server_key.read_bytes()
    assert b"ENCRYPTED" not in folder.link_key.read_bytes()
    assert ensure_server_certificates(folder, now=datetime.now(UTC) + timedelta(days=360)) is True
