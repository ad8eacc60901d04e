"""A site's enrolment with a coordinator, and the renewal of its certificate.

Private keys are made here and never leave. Before the code's secret is sent, the coordinator has shown the
authority whose fingerprint the code carries, and a certificate of it for its own host name. Proxies of the
environment are honoured.
"""

import json
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from client.credentials import (
    CA_FILE,
    CERTIFICATE_FILE,
    COORDINATOR_FILE,
    KEY_FILE,
    Enrolled,
    held,
    replace_credentials,
)
from protocol.enrolment import (
    CA_PATH,
    ENROL_PATH,
    MOST_BYTES,
    RENEWAL_PATH,
    EnrolmentAnswer,
    EnrolmentRequest,
    RenewalRequest,
)
from protocol.errors import InputError, WireError
from protocol.invitation import Invitation
from protocol.keys import create_ec_key, create_identity, new_ec_key, private_pem, read_ec_key, read_identity
from protocol.plain_text import printable
from protocol.tls import certificate_digest, check_dates, client_context

_NODE_KEY_FILE = "node.key"
_TIMEOUT_SECONDS = 20.0
_MOST_SKEW = timedelta(minutes=5)
_NEW_CODE = "Ask the coordinator for a new code."
_NO_TRUST = "Send nothing there, and ask the coordinator."
_CHECK_PLACE = "Ask the coordinator for the right host and port, and the network's administrator to let you there."
_ONCE_MORE = "Try again; if the code is refused then, ask the coordinator for a new one."
# Python's servers close such a connection without the alert that would say so.
_NOT_ACCEPTED = "Try again; if it stays so, the site's certificate is not accepted: ask the coordinator for a new code."
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64  # OpenSSL's X509_V_ERR numbers
_Key = TypeVar("_Key")


@dataclass(frozen=True, kw_only=True)
class _Reply:
    """What a server answered."""

    status: int
    body: bytes
    date: datetime | None


def enrol(folder: Path, invitation: Invitation) -> Enrolled:
    """Enrol a site by its invitation.

    Keys that the folder holds are kept: the ledger is signed with the identity key. A node key alone is made anew,
    where the coordinator says that it was revoked. A failed attempt leaves a
    folder in which the same code can be tried again, unless the coordinator took the code.

    Args:
        folder: The site's; made if it is not there.
        invitation: What the code says.

    Returns:
        What the site now knows of its coordinator, as written into the folder.

    Raises:
        InputError: If the coordinator is not reached, is not the one that wrote the code, refuses the code, or this
            machine's clock is off; or the folder belongs to another federation or site, or cannot be written.
        WireError: If the answer is malformed, or not the certificate that was asked for.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}.", remedy="Choose a folder of your own.") from error
    with held(folder):
        _refuse_other(folder, invitation)
        identity = _kept(folder / "key.pem", read=read_identity, create=create_identity)
        authority = _authority(invitation)
        key = new_ec_key(bits=256)
        asked = _certificate_request(key, invitation.site)
        answer = _redeem(invitation, _request(folder, identity, invitation, asked), authority)
        if answer is None:
            # The site was revoked, and with it the key that its node is known by. Nothing else depends on that one.
            (folder / _NODE_KEY_FILE).unlink()
            answer = _redeem(invitation, _request(folder, identity, invitation, asked), authority)
        if answer is None:
            raise InputError("The coordinator refuses a key that was made just now.", remedy=_NEW_CODE)
        _check_answer(answer, key, site=invitation.site, federation=invitation.federation, authority=authority)
        enrolled = Enrolled(
            federation=invitation.federation,
            host=invitation.host,
            port=invitation.port,
            coordinator_key=answer.coordinator_key,
            ca_fingerprint=invitation.ca_fingerprint,
            site=invitation.site,
        )
        files = {CA_FILE: authority.public_bytes(Encoding.PEM), COORDINATOR_FILE: enrolled.to_bytes()}
        replace_credentials(folder, files | _pair(answer, key))
    return enrolled


def renew(folder: Path) -> Enrolled:
    """Fetch a new certificate, for a new key, under the present one.

    Args:
        folder: The site's.

    Returns:
        What the site knows of its coordinator, which is unchanged.

    Raises:
        InputError: If the site is not enrolled, its certificate has expired, or the coordinator is not reached or
            refuses; the present certificate stays then.
        WireError: If the answer is malformed, or not the certificate that was asked for.
    """
    with held(folder):
        enrolled = Enrolled.read(folder)
        context = client_context(ca=folder / CA_FILE, certificate=folder / CERTIFICATE_FILE, key=folder / KEY_FILE)
        key = new_ec_key(bits=256)
        request = RenewalRequest(tls_request=_certificate_request(key, enrolled.site))
        place = _place(enrolled.host, enrolled.port)
        with _explained(place, broken_off=_NOT_ACCEPTED):
            reply = _exchange("POST", f"https://{place}{RENEWAL_PATH}", context=context, content=request.to_bytes())
        if reply.status != httpx.codes.OK:
            raise InputError(
                f"The coordinator did not renew the certificate ({reply.status}).",
                remedy=f"Ask the coordinator whether {enrolled.site} still takes part.",
            )
        answer = EnrolmentAnswer.from_bytes(reply.body)
        authority = _certificate(answer.ca, "authority")
        if _fingerprint(authority) != enrolled.ca_fingerprint or answer.coordinator_key != enrolled.coordinator_key:
            raise WireError("The coordinator's keys are others than before.", remedy=_NO_TRUST)
        _check_answer(answer, key, site=enrolled.site, federation=enrolled.federation, authority=authority)
        replace_credentials(folder, _pair(answer, key))
    return enrolled


def _refuse_other(folder: Path, invitation: Invitation) -> None:
    """Refuse a folder that is another site's, or in another federation: its ledger and approvals stay apart."""
    if not (folder / COORDINATOR_FILE).exists():
        return
    present = Enrolled.read(folder)
    if (present.federation, present.site) != (invitation.federation, invitation.site):
        raise InputError(
            f"{folder} is enrolled as {present.site} of {present.federation}; the code is for {invitation.site} of "
            f"{invitation.federation}.",
            remedy="Use another folder.",
        )
    if present.ca_fingerprint != invitation.ca_fingerprint:
        raise InputError(
            f"The code is of another authority than the one that {folder} is enrolled with: the federation was made "
            "anew, or somebody takes its place.",
            remedy=f"Ask the coordinator by telephone; if it was made anew, remove {folder / COORDINATOR_FILE} first.",
        )


def _kept(path: Path, *, read: Callable[[Path], _Key], create: Callable[[Path], _Key]) -> _Key:
    return read(path) if path.exists() else create(path)


def _authority(invitation: Invitation) -> x509.Certificate:
    """Fetch the authority's certificate, and hold it against the code; nothing secret is said before that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what is fetched is checked against the code instead
    place = _place(invitation.host, invitation.enrolment_port)
    with _explained(place):
        reply = _exchange("GET", f"https://{place}{CA_PATH}", context=context)
    if reply.status != httpx.codes.OK:
        raise InputError(f"{place} is no enrolment server (it answered {reply.status}).", remedy=_CHECK_PLACE)
    authority = _certificate(reply.body.decode("ascii", errors="replace"), "authority")
    if _fingerprint(authority) != invitation.ca_fingerprint:
        raise InputError(f"This is not the coordinator that wrote the code: {place}.", remedy=_NO_TRUST)
    _check_clock(reply.date)
    return authority


def _request(folder: Path, identity: Ed25519PrivateKey, invitation: Invitation, tls_request: str) -> EnrolmentRequest:
    node = _kept(folder / _NODE_KEY_FILE, read=read_ec_key, create=lambda path: create_ec_key(path, bits=384))
    return EnrolmentRequest.signed(
        identity,
        site=invitation.site,
        secret=invitation.secret,
        tls_request=tls_request,
        node_key=node.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    )


def _redeem(invitation: Invitation, request: EnrolmentRequest, authority: x509.Certificate) -> EnrolmentAnswer | None:
    """Send the request to whoever the authority certifies as the host; None if the node key was revoked."""
    place = _place(invitation.host, invitation.enrolment_port)
    with tempfile.TemporaryDirectory() as passing:
        ca = Path(passing) / CA_FILE
        ca.write_bytes(authority.public_bytes(Encoding.PEM))
        context = client_context(ca=ca)
    with _explained(place):
        reply = _exchange("POST", f"https://{place}{ENROL_PATH}", context=context, content=request.to_bytes())
    if reply.status == httpx.codes.GONE:
        return None
    if reply.status != httpx.codes.OK:
        raise _refused(reply)
    return EnrolmentAnswer.from_bytes(reply.body)


def _refused(reply: _Reply) -> InputError:
    """Return what a refused enrolment means."""
    told = {
        400: ("The coordinator does not understand the request.", "Install the coordinator's version of Cloister."),
        403: ("The code was used, has expired or was withdrawn.", _NEW_CODE),
        429: ("Too many attempts failed.", "Wait ten minutes and try again."),
    }
    if reply.status == httpx.codes.CONFLICT:
        try:
            words = json.loads(reply.body)
            problem, remedy = (printable(str(words[name])[:500]) for name in ("problem", "remedy"))
            return InputError(problem, remedy=remedy)
        except (ValueError, KeyError, TypeError, RecursionError):
            return InputError("The site's keys are another's.", remedy="Use the site's own folder.")
    problem, remedy = told.get(
        reply.status, (f"The coordinator could not enrol the site ({reply.status}).", "Try again in a minute.")
    )
    return InputError(problem, remedy=remedy)


def _check_answer(
    answer: EnrolmentAnswer,
    key: EllipticCurvePrivateKey,
    *,
    site: str,
    federation: str,
    authority: x509.Certificate,
) -> None:
    """Refuse an answer that is not what was asked for."""
    certificate = _certificate(answer.certificate, "certificate")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        certificate.verify_directly_issued_by(authority)
        issued = True
    except (ValueError, TypeError, InvalidSignature):
        issued = False
    faults = {
        "comes from another authority": issued,
        "is for another key": certificate.public_key() == key.public_key(),
        "is for another site": [name.value for name in names] == [site],
        "is of another federation": answer.federation == federation,
        "carries another authority": _fingerprint(_certificate(answer.ca, "authority")) == _fingerprint(authority),
    }
    for fault, good in faults.items():
        if not good:
            raise WireError(f"The coordinator's answer {fault}.", remedy=_NEW_CODE)
    check_dates(certificate, name="The new certificate", now=datetime.now(UTC), remedy="Set this machine's clock.")


def _pair(answer: EnrolmentAnswer, key: EllipticCurvePrivateKey) -> dict[str, bytes]:
    return {CERTIFICATE_FILE: answer.certificate.encode(), KEY_FILE: private_pem(key)}


def _certificate_request(key: EllipticCurvePrivateKey, site: str) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return asked.public_bytes(Encoding.PEM).decode()


def _certificate(pem: str, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise WireError(f"The coordinator's {what} is no certificate.", remedy=_CHECK_PLACE) from error


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate_digest(certificate.public_bytes(Encoding.DER))


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _exchange(method: str, url: str, *, context: ssl.SSLContext, content: bytes | None = None) -> _Reply:
    """Send one request, and read no more of the answer than one can be long."""
    with (
        httpx.Client(verify=context, timeout=_TIMEOUT_SECONDS) as client,
        client.stream(method, url, content=content) as response,
    ):
        body = b""
        for part in response.iter_bytes():
            body += part
            if len(body) > MOST_BYTES:
                raise WireError(f"{url} answered more than {MOST_BYTES} bytes.", remedy=_CHECK_PLACE)
        return _Reply(status=response.status_code, body=body, date=_date(response.headers.get("date")))


def _date(text: str | None) -> datetime | None:
    try:
        found = None if text is None else parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else found.replace(tzinfo=UTC)


def _check_clock(there: datetime | None) -> None:
    """Refuse to go on with a clock that later makes certificates and signatures look invalid."""
    skew = timedelta(0) if there is None else datetime.now(UTC) - there
    if abs(skew) > _MOST_SKEW:
        way = "ahead of" if skew > timedelta(0) else "behind"
        raise InputError(
            f"This machine's clock is {round(abs(skew) / timedelta(minutes=1))} minutes {way} the coordinator's.",
            remedy="Set the clock that is wrong, then use the same code again.",
        )


@contextmanager
def _explained(place: str, *, broken_off: str = _ONCE_MORE) -> Iterator[None]:
    """Say in the project's words why a server was not reached, and what to do where it broke off."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _trouble(error, place, broken_off=broken_off) from error


def _trouble(error: Exception, place: str, *, broken_off: str) -> InputError:
    """Return what a failed connection means."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _distrust(cause, place)
        if isinstance(cause, ssl.SSLError) and "ALERT_CERTIFICATE" in (cause.reason or ""):
            return InputError(f"{place} does not accept this site's certificate ({cause.reason}).", remedy=_NEW_CODE)
        if isinstance(cause, ssl.SSLError):
            return InputError(f"{place}: the secure connection failed ({cause.reason}).", remedy=_CHECK_PLACE)
        if isinstance(cause, socket.gaierror):
            return InputError(f"The name in {place}, or the proxy's, is not found.", remedy=_CHECK_PLACE)
        if isinstance(cause, ConnectionRefusedError):
            return InputError(f"Nothing answers at {place}.", remedy=_CHECK_PLACE)
    if isinstance(error, httpx.ProxyError):
        return InputError(f"The proxy does not lead to {place}: {error}.", remedy="Check HTTPS_PROXY and NO_PROXY.")
    if isinstance(error, httpx.ReadError | httpx.ReadTimeout | httpx.RemoteProtocolError):
        return InputError(f"{place} broke off the connection.", remedy=broken_off)
    return InputError(f"{place} cannot be reached: {error}.", remedy=_CHECK_PLACE)


def _distrust(error: ssl.SSLCertVerificationError, place: str) -> InputError:
    if error.verify_code in {_NOT_YET_VALID, _EXPIRED}:
        return InputError(
            f"The certificate of {place} is {'expired' if error.verify_code == _EXPIRED else 'not yet valid'} by "
            f"this machine's clock, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
            remedy="Set the clock; if it is right, tell the coordinator.",
        )
    if error.verify_code in {_OTHER_HOST, _OTHER_ADDRESS}:
        return InputError(f"The certificate of {place} is for another host.", remedy=_NO_TRUST)
    return InputError(f"{place} is not this federation's coordinator: {error.verify_message}.", remedy=_NO_TRUST)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Go through an exception and all that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
