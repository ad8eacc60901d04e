"""TLS as every connection of a federation uses it: version 1.3, the federation's own authority, nothing else.

The certificates that the operating system trusts are never consulted. Host names are checked against subject
alternative names. Sessions are not resumed: every connection shows its certificate anew.
"""

import hashlib
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from protocol.errors import InputError
from protocol.keys import passphrase, read_ec_key

SITE_REMEDY = "Run `cloister site enroll` with a new code; before it expires, `cloister site renew` is enough."
COORDINATOR_REMEDY = "Start the coordinator again: it renews its own certificates."
_CLOCK = "Set this machine's clock: the certificate cannot be from the future."
_MOST_BYTES = 65_536


def client_context(*, ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Return what a site connects with.

    Args:
        ca: The federation's CA certificate, PEM: the only one that is trusted.
        certificate: The site's own certificate, PEM; None where the server asks for none.
        key: Its private key.

    Returns:
        A context that demands TLS 1.3, a certificate of that CA and the host's name in it.

    Raises:
        InputError: If a file is missing or damaged, the certificate is expired or not yet valid, or the key is
            another's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, ca=ca, remedy=SITE_REMEDY)
    context.check_hostname = True
    context.hostname_checks_common_name = False
    if (certificate is None) != (key is None):
        raise InputError("A certificate goes with its key.", remedy="Give both or neither.")
    if certificate is not None and key is not None:
        _load_pair(context, certificate, key, remedy=SITE_REMEDY)
    return context


def server_context(*, ca: Path, certificate: Path, key: Path, require_client: bool) -> ssl.SSLContext:
    """Return what the coordinator listens with.

    Args:
        ca: The federation's CA certificate, PEM: the only issuer of client certificates.
        certificate: The server's certificate, PEM.
        key: Its private key.
        require_client: Whether the handshake fails without a client certificate of that CA.

    Returns:
        A context that speaks TLS 1.3 alone.

    Raises:
        InputError: As `client_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, ca=ca, remedy=COORDINATOR_REMEDY)
    context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_NONE
    # A resumed session would outlive the certificate that opened it.
    context.num_tickets = 0
    _load_pair(context, certificate, key, remedy=COORDINATOR_REMEDY)
    return context


def certificate_digest(der: bytes) -> str:
    """Return the SHA-256 of a certificate's DER form, 64 hexadecimal digits.

    Example:
        >>> certificate_digest(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(der).hexdigest()


def read_certificate(path: Path, *, remedy: str = SITE_REMEDY) -> x509.Certificate:
    """Read the one certificate of a PEM file, whether or not it is valid now.

    Raises:
        InputError: If there is none.
    """
    try:
        with path.open("rb") as file:
            pem = file.read(_MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy=remedy) from error
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise InputError(f"{path} is no certificate.", remedy=remedy) from error


def check_dates(certificate: x509.Certificate, *, name: str, now: datetime, remedy: str = SITE_REMEDY) -> None:
    """Refuse a certificate that is expired or not yet valid.

    Args:
        certificate: Which.
        name: What a message calls it, such as its file.
        now: The time, with a time zone.
        remedy: What to do about an expired one.

    Raises:
        InputError: Saying since when, or from when.
    """
    if now > certificate.not_valid_after_utc:
        raise InputError(f"{name} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC.", remedy=remedy)
    if now < certificate.not_valid_before_utc:
        since = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M}"
        raise InputError(f"{name} is valid from {since} UTC, and it is {now:%Y-%m-%d %H:%M} here.", remedy=_CLOCK)


def _harden(context: ssl.SSLContext, *, ca: Path, remedy: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    authority = read_certificate(ca, remedy=remedy)
    check_dates(authority, name=str(ca), now=datetime.now(UTC), remedy="The federation needs a new authority.")
    context.load_verify_locations(cafile=str(ca))


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path, *, remedy: str) -> None:
    """Load a certificate and its key, saying first what OpenSSL would say less clearly."""
    leaf, private = read_certificate(certificate, remedy=remedy), read_ec_key(key)
    check_dates(leaf, name=str(certificate), now=datetime.now(UTC), remedy=remedy)
    public = leaf.public_key()
    if not isinstance(public, EllipticCurvePublicKey) or public != private.public_key():
        raise InputError(f"{certificate} is not the certificate of {key}.", remedy=remedy)
    try:
        # A callable, lest OpenSSL ask at the terminal; where the key is in the clear, it is never called.
        context.load_cert_chain(certfile=str(certificate), keyfile=str(key), password=lambda: passphrase() or b"")
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{certificate} or {key} cannot be loaded: {error}.", remedy=remedy) from error
