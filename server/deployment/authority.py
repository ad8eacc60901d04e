"""The federation's private certificate authority.

It certifies the coordinator's own servers and the sites on the roster, and nobody else's software trusts it.
Out of a site's certificate request only the public key is used: name, purpose and dates are the coordinator's to say.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import InputError, WireError
from protocol.keys import create_ec_key, create_private, read_ec_key, replace_private
from protocol.terms import SITE_NAME
from protocol.tls import certificate_digest, check_dates, read_certificate

if TYPE_CHECKING:
    from server.deployment.folder import CoordinatorFolder

AUTHORITY_DAYS = 3_650
LEAF_DAYS = 365
RENEW_DAYS = 30
SITE_URI = "cloister:site:"
LINK_HOSTS = ("localhost", "127.0.0.1")
_CLOCK_SKEW = timedelta(hours=1)  # of a machine that checks a certificate just made
_NEW_AUTHORITY = "The federation needs a new authority: init a new coordinator and enrol the sites there."
_REMEDY = "Both ends must run the same Cloister."


class Authority:
    """A CA certificate and its key."""

    def __init__(self, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, certificate: Path, key: Path, *, name: str) -> Self:
        """Make an authority and write it; existing files are never replaced.

        Args:
            certificate: Where its certificate goes.
            key: Where its private key goes.
            name: The federation's name.

        Returns:
            The authority.

        Raises:
            InputError: If a file exists or cannot be written.
        """
        private = create_ec_key(key, bits=256)
        made = _authority_certificate(private, name=name, now=datetime.now(UTC))
        create_private(certificate, made.public_bytes(Encoding.PEM))
        return cls(made, private)

    @classmethod
    def open(cls, certificate: Path, key: Path) -> Self:
        """Read an authority.

        Raises:
            InputError: If a file is missing or damaged, or the two do not fit.
        """
        found = read_certificate(certificate, remedy="Put back the coordinator's ca.pem.")
        private = read_ec_key(key)
        if found.public_key() != private.public_key():
            raise InputError(f"{certificate} is not the certificate of {key}.", remedy="Put back the pair.")
        return cls(found, private)

    @property
    def pem(self) -> str:
        """The CA certificate, PEM."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate (DER), 64 hexadecimal digits: what an invitation carries."""
        return certificate_digest(self._certificate.public_bytes(Encoding.DER))

    def issue_site(
        self, request: str, *, site: str, days: float = LEAF_DAYS, now: datetime | None = None
    ) -> x509.Certificate:
        """Certify the public key of a certificate request, for one site.

        Args:
            request: PKCS #10, PEM; everything in it but the public key is ignored.
            site: Whose it is, as the roster says.
            days: For how long; never longer than the authority's own certificate.
            now: The time; None for the clock's.

        Returns:
            A certificate for TLS clients alone, with the common name ``site`` and the URI ``cloister:site:SITE``.

        Raises:
            WireError: If the request is malformed, not signed by its own key, or not on P-256.
            InputError: If the name is none, or the authority has expired.
        """
        if not SITE_NAME.fullmatch(site):
            raise InputError(f"The site's name is {site!r}.", remedy="Use lower-case letters, digits and hyphens.")
        names = [x509.UniformResourceIdentifier(SITE_URI + site)]
        return self._issue(
            requested_key(request), subject=site, names=names, purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
            days=days, now=now,
        )  # fmt: skip

    def issue_server(
        self, key: EllipticCurvePublicKey, *, hosts: Sequence[str], days: float = LEAF_DAYS, now: datetime | None = None
    ) -> x509.Certificate:
        """Certify one of the coordinator's own servers.

        Args:
            key: Its public key.
            hosts: Names and addresses under which it is reached.
            days: For how long.
            now: The time; None for the clock's.

        Returns:
            A certificate for TLS servers alone.

        Raises:
            InputError: If the authority has expired.
        """
        names = [_general_name(host) for host in hosts]
        return self._issue(
            key,
            subject="Cloister coordinator",
            names=names,
            purpose=ExtendedKeyUsageOID.SERVER_AUTH,
            days=days,
            now=now,
        )

    def _issue(
        self,
        key: EllipticCurvePublicKey,
        *,
        subject: str,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        days: float,
        now: datetime | None,
    ) -> x509.Certificate:
        moment = now or datetime.now(UTC)
        check_dates(self._certificate, name="The authority's certificate", now=moment, remedy=_NEW_AUTHORITY)
        until = min(moment + timedelta(days=days), self._certificate.not_valid_after_utc)
        builder = _builder(key, subject=subject, issuer=self._certificate.subject, since=moment, until=until)
        own = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
            .sign(self._key, SHA256())
        )


def requested_key(request: str) -> EllipticCurvePublicKey:
    """Return the public key of a certificate request, proven to be its sender's.

    Raises:
        WireError: If the request is malformed, not signed by that key, or not on P-256.
    """
    try:
        asked = x509.load_pem_x509_csr(request.encode())
        key, signed = asked.public_key(), asked.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, TypeError) as error:
        raise WireError("The certificate request is malformed.", remedy=_REMEDY) from error
    if not signed or not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise WireError("The certificate request is not signed by a key of its own on P-256.", remedy=_REMEDY)
    return key


def ensure_server_certificates(folder: "CoordinatorFolder", *, now: datetime | None = None) -> bool:
    """Make or renew the certificates of the gate and of the SuperLink where they need it.

    A certificate is made anew where there is none, where fewer than 30 days are left, or where the host in
    coordinator.toml is another by now. Keys stay.

    Args:
        folder: The coordinator's.
        now: The time; None for the clock's.

    Returns:
        Whether any was made: running servers must then load it.

    Raises:
        InputError: If a key is missing, or the authority has expired.
    """
    moment = now or datetime.now(UTC)
    servers = (
        (folder.server_certificate, folder.server_key, (folder.host,), True),
        (folder.link_certificate, folder.link_key, LINK_HOSTS, False),
    )
    made = False
    for certificate, key, hosts, encrypted in servers:
        if _serves(certificate, hosts=hosts, until=moment + timedelta(days=RENEW_DAYS)):
            continue
        public = read_ec_key(key, encrypted=encrypted).public_key()
        issued = folder.authority().issue_server(public, hosts=hosts, now=moment)
        replace_private(certificate, issued.public_bytes(Encoding.PEM))
        made = True
    return made


def _serves(path: Path, *, hosts: Sequence[str], until: datetime) -> bool:
    """Return whether a server's certificate still does."""
    if not path.exists():
        return False
    certificate = read_certificate(path, remedy=f"Delete {path.name} and start the coordinator again.")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return list(names) == [_general_name(host) for host in hosts] and certificate.not_valid_after_utc > until


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _authority_certificate(key: EllipticCurvePrivateKey, *, name: str, now: datetime) -> x509.Certificate:
    subject = f"Cloister authority of {name}"[:64]
    until = now + timedelta(days=AUTHORITY_DAYS)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = _builder(key.public_key(), subject=subject, issuer=issuer, since=now, until=until)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )


def _builder(
    key: EllipticCurvePublicKey, *, subject: str, issuer: x509.Name, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since - _CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
