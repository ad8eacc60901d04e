"""What can be examined on the way to the coordinator: proxy, name, port, TLS, clock, and what the gate says.

Everything goes the way that the client goes: over the proxy of the environment where there is one, with the
federation's authority as the only one that is trusted. Nothing about the site is sent but its certificate.
"""

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from client.credentials import Enrolled
from client.doctor.finding import Finding, State, failed, warning, well
from client.node.trouble import clock_is_off
from protocol.errors import InputError
from protocol.keys import passphrase
from protocol.tls import client_context

STUDIES_PATH = "/v1/cloister/studies"
_TIMEOUT_SECONDS = 10.0
_PROXIES = ("http", "https")
_DOUBTFUL_SECONDS = 3.0
_IGNORE_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name
_EXPIRED, _NOT_YET, _OTHER_NAMES = 10, 9, (62, 64)  # X509_V_ERR_*: dates; host name, address
_FIREWALL = "Let the firewall allow outgoing TCP connections to {}; incoming ones are never needed."


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the coordinator is reached.

    Attributes:
        folder: The site's folder.
        host: Of the coordinator.
        port: Of its gate.
        proxy: URL of the proxy of the environment; None for the direct way.
    """

    folder: Path
    host: str
    port: int
    proxy: str | None

    @classmethod
    def of(cls, folder: Path) -> "Way":
        """Return the way of an enrolled site.

        Raises:
            InputError: If it was not enrolled.
        """
        known = Enrolled.read(folder)
        return cls(folder=folder, host=known.host, port=known.port, proxy=environment_proxy(known.host))

    @property
    def target(self) -> str:
        """Host and port, as in an address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of asking the gate.

    Attributes:
        status: Of the HTTP answer; None where there was none.
        offset: Seconds that this machine's clock is ahead of the coordinator's; None where it did not say.
        error: What went wrong instead of an answer.
    """

    status: int | None = None
    offset: float | None = None
    error: Exception | None = None


def environment_proxy(host: str) -> str | None:
    """Return the proxy for HTTPS that the environment names for a host, None where it names none."""
    if proxy_bypass(host):
        return None
    found = getproxies()
    return found.get("https") or found.get("all")


def network_findings(folder: Path) -> Iterator[Finding]:
    """Examine the way to the coordinator; what would only repeat a failure is left out."""
    try:
        way = Way.of(folder)
    except InputError:
        return  # said by the check of the enrolment
    first = [check_proxy(way), check_name(way)]
    yield from first
    if any(finding.state is State.FAILED for finding in first):
        return
    port = check_port(way)
    yield port
    if port.state is State.FAILED:
        return
    strict = ask(way)
    yield check_tls(way, strict)
    yield check_clock(strict if strict.offset is not None else ask(way, any_time=True))
    if strict.status is not None or _refused_by_gate(strict):
        yield check_gate(strict)


def check_proxy(way: Way) -> Finding:
    """Find a proxy that cannot be reached."""
    if way.proxy is None:
        return well("proxy", "None is set for the coordinator in the environment (HTTPS_PROXY).")
    parts = urlsplit(way.proxy if "://" in way.proxy else f"http://{way.proxy}")
    if parts.scheme not in _PROXIES or not parts.hostname:
        return failed("proxy", f"HTTPS_PROXY names a proxy of the kind {parts.scheme!r}.",
                      remedy="Use an HTTP proxy that allows CONNECT: http://HOST:PORT.")  # fmt: skip
    shown = f"{parts.hostname}:{parts.port or 80}"  # never with its password
    try:
        socket.create_connection((str(parts.hostname), parts.port or 80), timeout=_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        return failed(
            "proxy",
            f"The proxy {shown} of HTTPS_PROXY cannot be reached: {error}.",
            remedy="Mend HTTPS_PROXY, or take the coordinator out of it: NO_PROXY=" + way.host,
        )
    return well("proxy", f"The proxy {shown} answers.")


def check_name(way: Way) -> Finding:
    """Find a coordinator whose name is not known here."""
    try:
        found = socket.getaddrinfo(way.host, way.port, type=socket.SOCK_STREAM)
    except OSError as error:
        said = f"The name {way.host} is not known here: {error.strerror or error}."
        if way.proxy is not None:
            return warning("name", said, remedy="Nothing, where the proxy knows it.")
        return failed("name", said, remedy="Mend this machine's name resolution, or ask the coordinator for its name.")
    return well("name", f"{way.host} is {found[0][4][0]}.")


def check_port(way: Way) -> Finding:
    """Find a firewall, a proxy that refuses, or a coordinator that is not there."""
    remedy = f"{_FIREWALL.format(way.target)} If they are, the coordinator is not running: ask its operator."
    try:
        if way.proxy is None:
            socket.create_connection((way.host, way.port), timeout=_TIMEOUT_SECONDS).close()
        else:
            _tunnel(way)
    except httpx.ProxyError as error:
        return failed("port", f"The proxy does not connect to {way.target}: {error}.",
                      remedy=f"Let the proxy allow CONNECT to {way.target}.")  # fmt: skip
    except (OSError, httpx.HTTPError) as error:
        return failed("port", f"{way.target} cannot be reached: {error or type(error).__name__}.", remedy=remedy)
    return well("port", f"{way.target} accepts connections.")


def _tunnel(way: Way) -> None:
    """Let the proxy connect; what is at the other end is looked at later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with httpx.Client(verify=context, timeout=_TIMEOUT_SECONDS) as client:
            client.get(f"https://{way.target}/")
    except httpx.ConnectError as error:
        if _tls_error(error) is None:
            raise


def ask(way: Way, *, any_time: bool = False) -> Answer:
    """Ask the gate which studies there are, and compare clocks by its answer.

    Args:
        way: How to get there.
        any_time: Whether certificates may be expired or not yet valid: only to learn what time it is there.
    """
    try:
        context = _context(way.folder, any_time=any_time)
        with httpx.Client(verify=context, timeout=_TIMEOUT_SECONDS) as client:
            before = time.time()
            answer = client.get(f"https://{way.target}{STUDIES_PATH}")
            here = (before + time.time()) / 2
    except (httpx.HTTPError, OSError, InputError) as error:
        return Answer(error=error)
    try:
        # The header counts whole seconds: on the average it is half of one late.
        offset = here - parsedate_to_datetime(answer.headers["date"]).timestamp() - 0.5
    except (KeyError, ValueError):
        return Answer(status=answer.status_code)
    return Answer(status=answer.status_code, offset=offset)


def _context(folder: Path, *, any_time: bool) -> ssl.SSLContext:
    authority, certificate, key = folder / "ca.pem", folder / "tls.pem", folder / "tls.key"
    if not any_time:
        return client_context(ca=authority, certificate=certificate, key=key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=str(authority))
    context.verify_flags |= ssl.VerifyFlags(_IGNORE_TIME)
    context.load_cert_chain(certfile=str(certificate), keyfile=str(key), password=lambda: passphrase() or b"")
    return context


def check_tls(way: Way, answer: Answer) -> Finding:
    """Find a certificate of the coordinator that is expired, of another authority or of another name."""
    error = answer.error
    found = None if error is None else _tls_error(error)
    if error is None or _refused_by_gate(answer):
        return well("TLS", f"{way.host} showed a certificate of this federation's authority, over TLS 1.3.")
    if isinstance(error, InputError):
        return failed("TLS", error.problem, remedy=error.remedy)
    if not isinstance(found, ssl.SSLCertVerificationError):
        said = f"{way.target} was reached, but no secure connection came about: {error}."
        return failed("TLS", said, remedy="If a device in between inspects TLS, let it pass this host unopened; "
                      "otherwise ask the coordinator's operator.")  # fmt: skip
    if found.verify_code == _EXPIRED:
        return failed("TLS", f"The certificate of {way.host} expired.",
                      remedy="Check this machine's clock; if it is right, ask the coordinator's operator.")  # fmt: skip
    if found.verify_code == _NOT_YET:
        return failed("TLS", f"The certificate of {way.host} is not valid yet.", remedy="Set this machine's clock.")
    if found.verify_code in _OTHER_NAMES:
        return failed("TLS", f"The certificate is not for the name {way.host}.",
                      remedy="Ask the coordinator's operator under which name sites shall reach it.")  # fmt: skip
    return failed(
        "TLS",
        f"{way.target} showed a certificate of another authority: {found.verify_message.rstrip('.')}.",
        remedy="Something in between answers in the coordinator's place: let it pass this host unopened. If nothing "
        "does, enrol anew with a new code, after asking the coordinator by telephone.",
    )


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """Find what TLS said beneath the layers of the HTTP client."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _refused_by_gate(answer: Answer) -> bool:
    """Whether the gate closed the connection because of the site's certificate."""
    found = None if answer.error is None else _tls_error(answer.error)
    return found is not None and "ALERT" in str(found.reason)


def check_clock(answer: Answer) -> Finding:
    """Find a clock that is so far off that the coordinator refuses what the client signs."""
    if answer.offset is None:
        remedy = "Check the clock by hand: it must be right to within five seconds (NTP)."
        return warning("clock", "The coordinator did not say what time it is there.", remedy=remedy)
    ahead = answer.offset
    said = f"This machine's clock is {_duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the coordinator's."
    remedy = "Set this machine's clock by NTP (timedatectl set-ntp true); if it is right, tell the coordinator."
    if clock_is_off(ahead):
        return failed("clock", said, remedy=remedy)
    if abs(ahead) > _DOUBTFUL_SECONDS:
        return warning("clock", said, remedy=remedy)
    return well("clock", "This machine's clock and the coordinator's agree to within three seconds.")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def check_gate(answer: Answer) -> Finding:
    """Find a site that the coordinator does not let in."""
    if answer.status == httpx.codes.OK:
        return well("gate", "The coordinator lets this site in.")
    if answer.status in (None, httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return failed(
            "gate",
            "The coordinator does not accept this site's certificate.",
            remedy="It is expired or was revoked: ask the coordinator's operator, who can give a new code.",
        )
    if answer.status == httpx.codes.TOO_MANY_REQUESTS:
        return warning("gate", "The coordinator asks for patience.", remedy="Try again in a minute.")
    said = f"The coordinator answered with status {answer.status}."
    return failed("gate", said, remedy="Ask the coordinator's operator to look at its log; the client keeps trying.")
