"""Enrolment and renewal end to end: a site's folder, real sockets, TLS, and a real server."""

import asyncio
import socket
import ssl
import stat
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from client import enrolment
from client.credentials import Enrolled
from client.enrolment import enrol, renew
from protocol.errors import InputError, WireError
from protocol.keys import PASSPHRASE_VARIABLE, public_hex, read_ec_key, read_identity
from protocol.tls import certificate_digest, client_context, read_certificate, server_context
from server.deployment.enrolment import enrolment_app, renewal_answer
from server.deployment.folder import CoordinatorFolder

HOST = "127.0.0.1"
FILES = {"key.pem", "node.key", "tls.key", "tls.pem", "ca.pem", "coordinator.json", ".credentials.lock"}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", PASSPHRASE_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def served(app, listener, context, **more):
    """Run an application on a socket in a thread."""
    config = uvicorn.Config(app, ssl_context_factory=lambda _config, _default: context, interface="asgi3",
                            log_config=None, ws="none", lifespan="off", **more)  # fmt: skip
    server = uvicorn.Server(config)
    started = threading.Event()

    async def run():
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0.001)
        started.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert started.wait(30)
        yield
    finally:
        server.should_exit = True
        thread.join()


def gate_app(coordinator):
    """A gate of three lines: whoever has a certificate is north, and what was shown is its newest."""

    async def app(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        member = coordinator.roster.member("north")
        status, answer = 404, b""
        if member and (scope["method"], scope["path"]) == ("POST", "/v1/cloister/certificate"):
            parts = (coordinator.folder, coordinator.roster, coordinator.folder.authority())
            answer = renewal_answer(*parts, site="north", presented=member.certificate, body=body)
            status = 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    return app


class Coordinator:
    def __init__(self, root, *, host=HOST):
        self.listeners = [socket.create_server((HOST, 0)) for _ in range(2)]
        ports = [listener.getsockname()[1] for listener in self.listeners]
        self.folder = CoordinatorFolder.create(
            root, name="hearts", host=host, port=ports[0], enrolment_port=ports[1], superlink_port=1
        )
        self.roster = self.folder.roster()
        self.posted = []
        self.app = enrolment_app(self.folder, self.roster, self.folder.authority(), failure_seconds=0.0)

    async def recording(self, scope, receive, send):
        if scope["method"] == "POST":
            self.posted.append(scope["path"])
        await self.app(scope, receive, send)

    def context(self, *, require_client=False):
        folder = self.folder
        return server_context(
            ca=folder.ca, certificate=folder.server_certificate, key=folder.server_key, require_client=require_client
        )

    @contextmanager
    def serving(self, **more):
        with served(self.recording, self.listeners[1], self.context(), **more):
            yield self

    @contextmanager
    def guarding(self):
        with served(gate_app(self), self.listeners[0], self.context(require_client=True)):
            yield self

    def invitation(self, site="north", **changes):
        return replace(self.folder.invitation(site, secret=self.roster.invite(site)), host=HOST, **changes)

    def close(self):
        self.roster.close()
        for listener in self.listeners:
            listener.close()


@pytest.fixture
def stopped(tmp_path):
    made = Coordinator(tmp_path / "coordinator")
    yield made
    made.close()


@pytest.fixture
def coordinator(stopped):
    with stopped.serving():
        yield stopped


def digest(folder):
    return certificate_digest(read_certificate(folder / "tls.pem").public_bytes(Encoding.DER))


def test_site_enrols_with_its_code(coordinator, tmp_path):
    folder = tmp_path / "site"
    invitation = coordinator.invitation()
    enrolled = enrol(folder, invitation)
    assert enrolled == Enrolled.read(folder)
    assert (enrolled.federation, enrolled.site, enrolled.host) == ("hearts", "north", HOST)
    assert enrolled.port == coordinator.folder.port
    assert enrolled.coordinator_key == public_hex(coordinator.folder.key())
    assert enrolled.ca_fingerprint == coordinator.folder.authority().fingerprint
    assert {path.name for path in folder.iterdir()} == FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    member = coordinator.roster.by_certificate(digest(folder))
    assert member.name == "north"
    assert member.identity_key == public_hex(read_identity(folder / "key.pem"))
    assert read_ec_key(folder / "node.key").curve.name == "secp384r1"
    assert client_context(ca=folder / "ca.pem", certificate=folder / "tls.pem", key=folder / "tls.key")


def test_code_is_good_once_and_a_folder_keeps_what_it_has(coordinator, tmp_path):
    invitation = coordinator.invitation()
    enrol(tmp_path / "site", invitation)
    before = {path.name: path.read_bytes() for path in (tmp_path / "site").iterdir()}
    for folder in (tmp_path / "site", tmp_path / "thief"):
        with pytest.raises(InputError, match=r"used, has expired or was withdrawn.*new code"):
            enrol(folder, invitation)
    assert {path.name: path.read_bytes() for path in (tmp_path / "site").iterdir()} == before
    assert not (tmp_path / "thief" / "coordinator.json").exists()
    assert len(coordinator.roster.members()) == 1


def test_of_two_sites_with_one_code_one_wins(coordinator, tmp_path):
    invitation, outcomes = coordinator.invitation(), {}

    def attempt(number):
        try:
            outcomes[number] = enrol(tmp_path / f"site-{number}", invitation)
        except InputError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number, outcome in outcomes.items() if isinstance(outcome, Enrolled)]
    assert len(outcomes) == 4
    assert len(winners) == 1
    assert coordinator.roster.by_certificate(digest(tmp_path / f"site-{winners[0]}")).name == "north"


def test_site_comes_back_and_keeps_its_identity(coordinator, tmp_path):
    folder = tmp_path / "site"
    enrol(folder, coordinator.invitation())
    kept = {name: (folder / name).read_bytes() for name in ("key.pem", "node.key")}
    first = digest(folder)
    enrol(folder, coordinator.invitation())
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert digest(folder) != first
    assert coordinator.roster.by_certificate(first) is None
    # Without its key.pem it is another site.
    (folder / "key.pem").unlink()
    invitation = coordinator.invitation()
    with pytest.raises(InputError, match=r"another identity key.*revoke"):
        enrol(folder, invitation)
    (folder / "key.pem").write_bytes(kept["key.pem"])
    (folder / "key.pem").chmod(0o600)
    enrol(folder, invitation)


def test_wrong_authority_is_refused_before_the_secret_leaves(coordinator, tmp_path, monkeypatch):
    impostor = Coordinator(tmp_path / "impostor")
    port = impostor.folder.enrolment_port
    invitation = coordinator.invitation(enrolment_port=port)
    with impostor.serving():
        with pytest.raises(InputError, match=r"not the coordinator that wrote the code.*Send nothing"):
            enrol(tmp_path / "site", invitation)
        assert impostor.posted == []
        # The twin: without the comparison, the impostor is handed the secret.
        monkeypatch.setattr(enrolment, "_fingerprint", lambda _certificate: invitation.ca_fingerprint)
        with pytest.raises(InputError):
            enrol(tmp_path / "site", invitation)
        assert impostor.posted == ["/v1/enroll"]
        monkeypatch.undo()
    impostor.close()
    # The code was not used: the same folder enrols with it where it should have gone.
    enrol(tmp_path / "site", replace(invitation, enrolment_port=coordinator.folder.enrolment_port))


def test_borrowed_authority_is_refused_before_the_secret_leaves(coordinator, tmp_path):
    """Whoever shows the right CA certificate, which is public, but has none of it for the host, gets nothing."""
    impostor = Coordinator(tmp_path / "impostor")
    true = coordinator.folder.authority().pem.encode()

    async def app(scope, receive, send):
        if scope["method"] == "POST":
            impostor.posted.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": true})

    with served(app, impostor.listeners[1], impostor.context()):
        with pytest.raises(InputError, match=r"not this federation's coordinator.*Send nothing"):
            enrol(tmp_path / "site", coordinator.invitation(enrolment_port=impostor.folder.enrolment_port))
        assert impostor.posted == []
    impostor.close()


def test_certificate_for_another_host_is_refused(tmp_path):
    elsewhere = Coordinator(tmp_path / "elsewhere", host="train.example.org")
    with elsewhere.serving(), pytest.raises(InputError, match=r"for another host.*Send nothing"):
        enrol(tmp_path / "site", elsewhere.invitation())
    assert elsewhere.posted == []
    elsewhere.close()


def test_older_tls_and_plain_text_are_refused(coordinator):
    place = (HOST, coordinator.folder.enrolment_port)

    def speak(context):
        plain = socket.create_connection(place, timeout=10)
        with plain, context.wrap_socket(plain, server_hostname=HOST) as secure:
            return secure.version()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(coordinator.folder.ca)
    assert speak(context) == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak(context)
    with socket.create_connection(place, timeout=10) as plain:
        plain.sendall(b"GET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        try:
            while part := plain.recv(1_000):
                answer += part
        except ConnectionError:
            pass
    assert b"HTTP" not in answer


def test_expired_code_is_refused(coordinator, tmp_path):
    invitation = coordinator.invitation()
    coordinator.roster._clock = lambda: datetime.now(UTC) + timedelta(days=8)
    with pytest.raises(InputError, match="expired"):
        enrol(tmp_path / "site", invitation)


def test_keys_are_under_the_passphrase(coordinator, tmp_path, monkeypatch):
    # The coordinator's keys are in the clear and were read already.
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "a word")
    folder = tmp_path / "site"
    enrol(folder, coordinator.invitation())
    for name in ("key.pem", "node.key", "tls.key"):
        assert b"ENCRYPTED" in (folder / name).read_bytes()
    assert client_context(ca=folder / "ca.pem", certificate=folder / "tls.pem", key=folder / "tls.key")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "another word")
    invitation = coordinator.invitation()
    with pytest.raises(InputError, match="passphrase is another"):
        enrol(folder, invitation)
    assert coordinator.roster.is_invited("north", invitation.secret)


@pytest.mark.parametrize("hours", [-1, 1])
def test_clock_that_is_off_is_told_before_the_code_is_used(stopped, tmp_path, hours):
    there = format_datetime(datetime.now(UTC) - timedelta(hours=hours), usegmt=True)
    invitation = stopped.invitation()
    way = "ahead of" if hours > 0 else "behind"
    with (
        stopped.serving(date_header=False, headers=[("date", there)]),
        pytest.raises(InputError, match=f"clock is 60 minutes {way} the coordinator's.*Set the clock"),
    ):
        enrol(tmp_path / "site", invitation)
    assert stopped.posted == []
    assert stopped.roster.is_invited("north", invitation.secret)


def test_closed_port_and_unknown_name_are_told(stopped, tmp_path):
    stopped.listeners[1].close()
    invitation = stopped.invitation()
    with pytest.raises(InputError, match=r"Nothing answers at 127\.0\.0\.1:\d+\. Ask"):
        enrol(tmp_path / "site", invitation)
    with pytest.raises(InputError, match="is not found"):
        enrol(tmp_path / "site", replace(invitation, host="nowhere.invalid"))


def test_other_server_is_told(stopped, tmp_path):
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body"})

    with served(app, stopped.listeners[1], stopped.context()), pytest.raises(InputError, match="no enrolment server"):
        enrol(tmp_path / "site", stopped.invitation())


def test_folder_of_another_site_is_refused(coordinator, tmp_path):
    enrol(tmp_path / "site", coordinator.invitation())
    invitation = coordinator.invitation("south")
    with pytest.raises(InputError, match="enrolled as north of hearts; the code is for south"):
        enrol(tmp_path / "site", invitation)
    assert coordinator.roster.is_invited("south", invitation.secret)


def test_a_federation_of_the_same_name_under_another_authority_is_refused(coordinator, tmp_path):
    folder = tmp_path / "site"
    enrol(folder, coordinator.invitation())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="of another authority"):
        enrol(folder, replace(coordinator.invitation(), ca_fingerprint="0" * 64))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_proxy_of_the_environment_is_used(coordinator, tmp_path, monkeypatch):
    asked = []

    async def tunnel(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        place = asked[-1].split()[1].decode().split(":")
        there_reader, there_writer = await asyncio.open_connection(place[0], int(place[1]))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def pump(source, target):
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
            target.close()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer), return_exceptions=True)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(tunnel, HOST, 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{HOST}:{server.sockets[0].getsockname()[1]}")
    try:
        enrol(tmp_path / "site", coordinator.invitation())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(server.wait_closed())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert asked == [f"CONNECT {HOST}:{coordinator.folder.enrolment_port} HTTP/1.1".encode()] * 2


def test_proxy_that_is_not_there_is_told(coordinator, tmp_path, monkeypatch):
    with socket.create_server((HOST, 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://{HOST}:{port}")
    with pytest.raises(InputError, match="Nothing answers"):
        enrol(tmp_path / "site", coordinator.invitation())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"site": "south"}, "another site"),
        ({"key": True}, "another key"),
        ({"authority": True}, "another authority"),
        ({"federation": "lungs"}, "another federation"),
        ({"days": -0.01}, "expired"),
    ],
)
def test_answer_that_was_not_asked_for_is_refused(coordinator, tmp_path, change, fault):
    app = coordinator.app
    if "site" in change or "days" in change:
        issue = app._authority.issue_site
        more = {"days": change["days"]} if "days" in change else {}
        app._authority.issue_site = lambda text, site: issue(text, site=change.get("site", site), **more)
    if "key" in change:
        issue = app._authority.issue_site
        other = enrolment._certificate_request(enrolment.new_ec_key(bits=256), "north")
        app._authority.issue_site = lambda _text, site: issue(other, site=site)
    if "authority" in change:
        foreign = CoordinatorFolder.create(
            tmp_path / "foreign", name="hearts", host=HOST, port=1, enrolment_port=2, superlink_port=3
        ).authority()
        app._authority.issue_site = foreign.issue_site
    app._federation = change.get("federation", app._federation)
    with pytest.raises((WireError, InputError), match=fault):
        enrol(tmp_path / "site", coordinator.invitation())
    assert not (tmp_path / "site" / "tls.pem").exists()


def test_certificate_is_renewed_under_a_new_key(coordinator, tmp_path):
    folder = tmp_path / "site"
    enrolled = enrol(folder, coordinator.invitation())
    old = {path.name: path.read_bytes() for path in folder.iterdir()}
    first = digest(folder)
    with coordinator.guarding():
        assert renew(folder) == enrolled
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != old[path.name]}
    assert changed == {"tls.pem", "tls.key"}
    assert client_context(ca=folder / "ca.pem", certificate=folder / "tls.pem", key=folder / "tls.key")
    assert {coordinator.roster.by_certificate(known).name for known in (first, digest(folder))} == {"north"}


def test_refused_renewal_leaves_the_present_certificate(coordinator, tmp_path):
    folder = tmp_path / "site"
    enrol(folder, coordinator.invitation())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    coordinator.roster.revoke("north")
    with coordinator.guarding(), pytest.raises(InputError, match=r"did not renew.*takes part"):
        renew(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_site_that_was_revoked_comes_back_with_a_new_node_key_and_its_identity(coordinator, tmp_path):
    folder = tmp_path / "site"
    enrol(folder, coordinator.invitation())
    identity = (folder / "key.pem").read_bytes()
    coordinator.roster.revoke("north")
    node = (folder / "node.key").read_bytes()
    enrol(folder, coordinator.invitation())
    assert (folder / "node.key").read_bytes() != node
    assert (folder / "key.pem").read_bytes() == identity
    assert coordinator.roster.by_certificate(digest(folder)).name == "north"


def test_certificate_of_another_federation_is_told(coordinator, tmp_path):
    folder = tmp_path / "site"
    enrol(folder, coordinator.invitation())
    other = CoordinatorFolder.create(
        tmp_path / "other", name="hearts", host=HOST, port=1, enrolment_port=2, superlink_port=3
    ).authority()
    request = enrolment._certificate_request(read_ec_key(folder / "tls.key"), "north")
    (folder / "tls.pem").write_bytes(other.issue_site(request, site="north").public_bytes(Encoding.PEM))
    with coordinator.guarding(), pytest.raises(InputError, match="certificate is not accepted|does not accept"):
        renew(folder)


def test_expired_certificate_is_told_before_connecting(stopped, coordinator, tmp_path):
    folder = tmp_path / "site"
    enrol(folder, coordinator.invitation())
    request = enrolment._certificate_request(read_ec_key(folder / "tls.key"), "north")
    old = stopped.folder.authority().issue_site(request, site="north", days=-0.01)
    (folder / "tls.pem").write_bytes(old.public_bytes(Encoding.PEM))
    with pytest.raises(InputError, match=r"expired on .*site enroll"):
        renew(folder)


def test_renewal_by_other_keys_of_the_coordinator_is_refused(coordinator, tmp_path):
    folder = tmp_path / "site"
    enrolled = enrol(folder, coordinator.invitation())
    (folder / "coordinator.json").write_bytes(replace(enrolled, coordinator_key="ab" * 32).to_bytes())
    with coordinator.guarding(), pytest.raises(WireError, match="others than before"):
        renew(folder)


def test_answer_is_an_ordinary_certificate(coordinator, tmp_path):
    """What the site holds is what any other program reads as a certificate of that authority."""
    enrol(tmp_path / "site", coordinator.invitation())
    certificate = read_certificate(tmp_path / "site" / "tls.pem")
    authority = x509.load_pem_x509_certificate(coordinator.folder.ca.read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert certificate.issuer == authority.subject
    with pytest.raises(ValueError, match="[Ii]ssuer"):
        authority.verify_directly_issued_by(certificate)
