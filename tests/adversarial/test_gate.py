"""Whoever is outside gets past the gate with nothing, and a member no further than to what is meant for it.

The same is tried against a stock SuperLink, started as the coordinator starts it but reachable directly. It succeeds
there: what keeps it out is the gate, not chance.
"""

import asyncio
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListFederationsRequest,
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from protocol.keys import create_ec_key, read_ec_key
from protocol.tls import certificate_digest, client_context, server_context
from server.deployment.folder import CoordinatorFolder
from server.deployment.gate.gate import Gate
from server.deployment.gate.limits import GateLimits
from server.deployment.gate.server import serve
from server.deployment.gate.upstream import Upstream

SOON = 20.0
OBJECT_BYTES = 100_000


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def certificate(key, *, name="north", issuer=None, issuer_key=None, days=30.0, purpose=ExtendedKeyUsageOID.CLIENT_AUTH):
    """A certificate by whatever issuer; by itself if there is none. Those of negative days have expired."""
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer_key or key
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, SHA256())
    )


def context_with(ca, key_path, made, root):
    """A client's TLS context that shows a certificate, which need not be any good."""
    path = root / f"{made.serial_number}.pem"
    path.write_bytes(made.public_bytes(Encoding.PEM))
    context = client_context(ca=ca)
    context.load_cert_chain(path, key_path)
    return context


class Site:
    """A site that has enrolled."""

    def __init__(self, folder, roster, name, root):
        root.mkdir()
        self.name, self.root = name, root
        self.key = create_ec_key(root / "tls.key", bits=256)
        self.node_key = create_ec_key(root / "node.key", bits=384)
        self.node_pem = self.node_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self.key, SHA256())
        made = folder.authority().issue_site(request.public_bytes(Encoding.PEM).decode(), site=name)
        roster.redeem(
            name, roster.invite(name), identity_key=os.urandom(32).hex(), node_key=self.node_pem.decode(),
            certificate=certificate_digest(made.public_bytes(Encoding.DER)), not_after=made.not_valid_after_utc,
        )  # fmt: skip
        self.context = context_with(folder.ca, root / "tls.key", made, root)


class Watched:
    """The way to the SuperLink; knows what took it."""

    def __init__(self, upstream):
        self.upstream, self.asked = upstream, []

    async def ask(self, path, headers, body):
        self.asked.append(path)
        return await self.upstream.ask(path, headers, body)


class Stand:
    """A SuperLink that is reachable directly, a gate before it, and two sites."""

    def __init__(self, root):
        self.root, self.clients = root, []
        self.folder = CoordinatorFolder.create(
            root / "coordinator", name="test", host="localhost", port=free_port(), enrolment_port=free_port(),
            superlink_port=free_port(),
        )  # fmt: skip
        self.link, self.gate = f"localhost:{self.folder.superlink_port}", f"localhost:{self.folder.port}"
        self.ca = self.folder.ca.read_bytes()
        self.roster = self.folder.roster()
        self.north = Site(self.folder, self.roster, "north", root / "north")
        self.south = Site(self.folder, self.roster, "south", root / "south")
        self.process = self._start_superlink()
        try:
            self._await_superlink()
            self._start_gate()
            self.control = ControlHttpClient(f"https://{self.link}", verify=client_context(ca=self.folder.ca))
            for site in (self.north, self.south):
                self.control.RegisterNode(RegisterNodeRequest(public_key=site.node_pem, name=site.name))
                site.node = Node(node_id=self.node_of(site, self.gate).ActivateNode(
                    ActivateNodeRequest(public_key=site.node_pem, heartbeat_interval=1800)).node_id)  # fmt: skip
        except BaseException:
            self.end()
            raise

    def _start_superlink(self):
        folder, self.log = self.folder, (self.root / "superlink.log").open("wb")
        command = [
            str(Path(sys.executable).parent / "flower-superlink"), "--host", "127.0.0.1",
            "--port", str(folder.superlink_port), "--ssl-ca-certfile", str(folder.ca),
            "--ssl-certfile", str(folder.link_certificate), "--ssl-keyfile", str(folder.link_key),
            "--isolation", "process", "--superexec-auth-secret-file", str(folder.superexec_secret),
            "--database", str(folder.flower_database), "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        ]  # fmt: skip
        quiet = {"FLWR_HOME": str(self.root / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        return subprocess.Popen(
            command, env=os.environ | quiet, stdout=self.log, stderr=self.log, cwd=self.root, start_new_session=True
        )

    def _await_superlink(self):
        deadline = time.monotonic() + 60
        with httpx.Client(verify=client_context(ca=self.folder.ca), trust_env=False) as client:
            while True:
                with suppress(httpx.TransportError):
                    if client.get(f"https://{self.link}/health").status_code == 200:
                        return
                if self.process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail((self.root / "superlink.log").read_text()[-2_000:])
                time.sleep(0.1)

    def _start_gate(self):
        ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run_gate(ready)))
        self.thread.start()
        assert ready.wait(SOON)

    async def _run_gate(self, ready):
        folder, upstream = self.folder, Upstream(url=f"https://{self.link}", context=client_context(ca=self.folder.ca))
        self.loop, self.watched = asyncio.get_running_loop(), Watched(upstream)
        limits = GateLimits(poll_s=1.0, object_bytes=OBJECT_BYTES)
        context = server_context(
            ca=folder.ca, certificate=folder.server_certificate, key=folder.server_key, require_client=True
        )
        self.serving = asyncio.create_task(
            serve(
                Gate(roster=self.roster, upstream=self.watched, limits=limits), host="127.0.0.1", port=folder.port,
                context=context, certificates_in_state=True, listening=lambda _: ready.set(),
            )
        )  # fmt: skip
        with suppress(asyncio.CancelledError):
            await self.serving
        await upstream.close()

    def end(self):
        self.close_clients()
        if hasattr(self, "control"):
            self.control.close()
        if hasattr(self, "serving"):
            self.loop.call_soon_threadsafe(self.serving.cancel)
            self.thread.join(SOON)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        self.roster.close()

    def control_at(self, address, context=None):
        return self._kept(ControlHttpClient(f"https://{address}", verify=context or client_context(ca=self.folder.ca)))

    def _kept(self, client):
        self.clients.append(client)
        return client

    def close_clients(self):
        while self.clients:
            self.clients.pop().close()

    def node_of(self, site, address, *, context=None, keys=None):
        """Flower's node client with a site's node key, or other keys."""
        private = keys[0] if keys else site.node_key
        shown = context or (site.context if address == self.gate else client_context(ca=self.folder.ca))
        interceptor = NodeAuthHttpInterceptor(private, private.public_key())
        return self._kept(FleetHttpClient(f"https://{address}", interceptors=[interceptor], verify=shown))

    def bundle(self):
        """A Flower app without code."""
        from flwr.cli.build import build_fab_from_disk

        app = self.root / "app"
        if not app.exists():
            app.mkdir()
            (app / "app.py").write_text("app = None\n")
            (app / "pyproject.toml").write_text(
                '[project]\nname = "nothing"\nversion = "1.0.0"\nlicense = "Apache-2.0"\n'
                '[tool.flwr.app]\npublisher = "nobody"\n[tool.flwr.app.components]\n'
                'serverapp = "app:app"\nclientapp = "app:app"\n'
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pathspec, by flwr
            return build_fab_from_disk(app)

    def start_run(self, control=None):
        content = self.bundle()
        fab = fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {}))
        return (control or self.control).StartRun(StartRunRequest(fab=fab, federation="")).run_id


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    made = Stand(tmp_path_factory.mktemp("gate"))
    yield made
    made.end()


@pytest.fixture(autouse=True)
def no_client_is_left(stand):
    yield
    stand.close_clients()


# Each takes the stand, an address and a TLS context; it returns something if it got what it wanted.


def register_a_node(stand, address, context):
    key = public_key_to_bytes(generate_key_pairs()[1])
    return stand.control_at(address, context).RegisterNode(RegisterNodeRequest(public_key=key, name="x")).node_id


def unregister_a_node(stand, address, context):
    victim = register_a_node(stand, stand.link, client_context(ca=stand.folder.ca))
    stand.control_at(address, context).UnregisterNode(UnregisterNodeRequest(node_id=victim))
    return True


def list_nodes(stand, address, context):
    return stand.control_at(address, context).ListNodes(ListNodesRequest()).nodes_info


def list_federations(stand, address, context):
    return stand.control_at(address, context).ListFederations(ListFederationsRequest()).federations


def start_a_run(stand, address, context):
    return stand.start_run(stand.control_at(address, context))


def list_runs(stand, address, context):
    stand.start_run()
    return stand.control_at(address, context).ListRuns(ListRunsRequest(limit=10)).run_dict


def stop_a_run(stand, address, context):
    run = stand.start_run()
    return stand.control_at(address, context).StopRun(StopRunRequest(run_id=run)).success


def join_as_a_node_of_ones_own(stand, address, context):
    keys = generate_key_pairs()
    name = public_key_to_bytes(keys[1])
    stand.control_at(address, context).RegisterNode(RegisterNodeRequest(public_key=name, name="y"))
    node = stand.node_of(None, address, context=context, keys=keys)
    number = node.ActivateNode(ActivateNodeRequest(public_key=name, heartbeat_interval=60)).node_id
    node.PullMessages(PullMessagesRequest(node=Node(node_id=number)))
    return number


def read_what_there_is(_, address, context):
    with httpx.Client(verify=context, trust_env=False) as client:
        found = client.get(f"https://{address}/openapi.json")
        found.raise_for_status()
        return "/v1/control/start-run" in found.text


def see_that_it_is_there(_, address, context):
    with httpx.Client(verify=context, trust_env=False) as client:
        found = client.get(f"https://{address}/health")
        found.raise_for_status()
        return found.status_code == 200


def hear_of_the_runtime(_, address, context):
    """The runtime API asks for a secret; that it answers at all is more than a stranger should get."""
    with RuntimeHttpClient(f"https://{address}", verify=context) as client:
        try:
            client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 401:
                return True
            raise
    return True


ATTEMPTS = [
    register_a_node, unregister_a_node, list_nodes, list_federations, start_a_run, list_runs, stop_a_run,
    join_as_a_node_of_ones_own, read_what_there_is, see_that_it_is_there, hear_of_the_runtime,
]  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_with_the_ca_alone_nothing_gets_past_the_gate(stand, attempt):
    context = client_context(ca=stand.folder.ca)
    assert attempt(stand, stand.link, context), "a bare SuperLink lets it through"
    before = len(stand.watched.asked)
    with pytest.raises(httpx.TransportError):
        attempt(stand, stand.gate, context)
    assert len(stand.watched.asked) == before


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_member_gets_no_further(stand, attempt):
    before = len(stand.watched.asked)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        attempt(stand, stand.gate, stand.north.context)
    assert len(stand.watched.asked) == before


def heartbeat(stand, context, *, keys=None, node=None):
    request = SendNodeHeartbeatRequest(node=node or stand.north.node, heartbeat_interval=1800)
    with stand.node_of(stand.north, stand.gate, context=context, keys=keys) as client:
        return client.SendNodeHeartbeat(request).success


def test_a_member_passes(stand):
    assert heartbeat(stand, stand.north.context)


def forged(stand, kind):
    """A context that shows a certificate of some kind."""
    root, key = stand.north.root, stand.north.key
    ca = x509.load_pem_x509_certificate(stand.ca)
    ca_key = read_ec_key(stand.folder.ca_key)
    other = create_ec_key(root / f"{os.urandom(4).hex()}.key", bits=256)
    made = {
        "of another authority": lambda: certificate(key, issuer=ca, issuer_key=other),
        "self-signed": lambda: certificate(key),
        "expired": lambda: certificate(key, issuer=ca, issuer_key=ca_key, days=-1),
        "of a server": lambda: certificate(key, issuer=ca, issuer_key=ca_key, purpose=ExtendedKeyUsageOID.SERVER_AUTH),
        "signed by a site": lambda: certificate(key, issuer=certificate(key), issuer_key=key),
    }[kind]()
    return context_with(stand.folder.ca, root / "tls.key", made, root)


@pytest.mark.parametrize("kind", ["of another authority", "self-signed", "expired", "of a server", "signed by a site"])
def test_certificates_that_are_none_end_in_the_handshake(stand, kind):
    before = len(stand.watched.asked)
    with pytest.raises(httpx.TransportError):
        heartbeat(stand, forged(stand, kind))
    assert len(stand.watched.asked) == before


def test_a_certificate_that_is_on_no_roster_is_refused(stand):
    made = certificate(stand.north.key, issuer=x509.load_pem_x509_certificate(stand.ca),
                       issuer_key=read_ec_key(stand.folder.ca_key))  # fmt: skip
    with pytest.raises(httpx.HTTPStatusError, match="403") as refused:
        heartbeat(stand, context_with(stand.folder.ca, stand.north.root / "tls.key", made, stand.north.root))
    assert refused.value.response.content == b""


def test_a_revoked_site_is_refused_on_the_connection_it_has(stand):
    east = Site(stand.folder, stand.roster, "east", stand.root / "east")
    stand.control.RegisterNode(RegisterNodeRequest(public_key=east.node_pem, name="east"))
    with stand.node_of(east, stand.gate) as client:
        activate = ActivateNodeRequest(public_key=east.node_pem, heartbeat_interval=1800)
        node = Node(node_id=client.ActivateNode(activate).node_id)
        client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=1800))
        outcomes = []

        def wait_for_messages():
            try:
                client.PullMessages(PullMessagesRequest(node=node))
            except httpx.HTTPStatusError as error:
                outcomes.append(error.response.status_code)

        waiting = threading.Thread(target=wait_for_messages)
        waiting.start()
        time.sleep(0.2)
        stand.roster.revoke("east")
        waiting.join(SOON)
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=1800))
    assert outcomes == [403], "a question that is held ends as well"


def test_nothing_older_than_tls_1_3(stand):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(stand.folder.ca)
    context.load_cert_chain(next(stand.north.root.glob("*.pem")), stand.north.root / "tls.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError, match="(?i)version|protocol"):
        heartbeat(stand, context)


def test_nothing_in_the_clear(stand):
    with socket.create_connection(("127.0.0.1", stand.folder.port), timeout=SOON) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = b""
        with suppress(ConnectionError):
            while more := connection.recv(1_000):
                answer += more
    assert b"HTTP" not in answer


def raw(stand, data):
    """What comes back for bytes that a member sends."""
    with (
        socket.create_connection(("127.0.0.1", stand.folder.port), timeout=SOON) as plain,
        stand.north.context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(data)
        answer = b""
        with suppress(ConnectionError, ssl.SSLError):
            while more := connection.recv(65_536):
                answer += more
    return answer


HEADERS = b"host: localhost\r\ncontent-type: application/protobuf\r\n"
HIDDEN = b"POST /v1/control/list-nodes HTTP/1.1\r\n" + HEADERS + b"content-length: 0\r\n\r\n"
PULL = b"POST /v1/fleet/pull-messages HTTP/1.1\r\n" + HEADERS
SMUGGLED = {
    "two lengths": PULL + b"content-length: 0\r\ncontent-length: 5\r\n\r\n" + HIDDEN,
    "one length twice": PULL + b"content-length: 0\r\ncontent-length: 0\r\n\r\n" + HIDDEN,
    "a list of lengths": PULL + b"content-length: 0, 0\r\n\r\n" + HIDDEN,
    "length and chunks": PULL + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks": PULL + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks in disguise": PULL + b"content-length: 0\r\ntransfer-encoding: xchunked\r\n\r\n" + HIDDEN,
    "chunks with a space": PULL + b"content-length: 0\r\ntransfer-encoding : chunked\r\n\r\n" + HIDDEN,
    "bare line feeds": PULL.replace(b"\r\n", b"\n") + b"content-length: 0\n\n" + HIDDEN,
    "a folded header": PULL + b"x: y\r\n content-length: 5\r\ncontent-length: 0\r\n\r\n" + HIDDEN,
    "a body that is a request": PULL + b"content-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "an absolute address": HIDDEN.replace(b"POST /", b"POST https://localhost/"),
    "another host": HIDDEN.replace(b"localhost", b"127.0.0.1"),
    "no host": HIDDEN.replace(b"host: localhost\r\n", b""),
    "two hosts": HIDDEN.replace(b"host: localhost", b"host: localhost\r\nhost: superlink"),
    "dots": HIDDEN.replace(b"/v1/control", b"/v1/fleet/../control"),
    "encoded dots": HIDDEN.replace(b"/v1/control", b"/v1/fleet/%2e%2e/control"),
    "two slashes": HIDDEN.replace(b"/v1/", b"//v1/"),
    "a slash at the end": HIDDEN.replace(b"list-nodes", b"list-nodes/"),
    "capitals": HIDDEN.replace(b"/v1/control", b"/V1/Control"),
    "an older version": HIDDEN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a version to come": HIDDEN.replace(b"HTTP/1.1", b"HTTP/9.9"),
    "a tunnel": b"CONNECT 127.0.0.1:8000 HTTP/1.1\r\nhost: localhost\r\n\r\n" + HIDDEN,
    "an upgrade": HIDDEN.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"),
}


@pytest.mark.parametrize("name", sorted(SMUGGLED))
def test_nothing_is_smuggled(stand, name):
    before = len(stand.watched.asked)
    answer = raw(stand, SMUGGLED[name])
    assert len(stand.watched.asked) == before
    statuses = [part.split(b" ", 1)[0] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses
    assert all(status.startswith(b"4") or status == b"505" for status in statuses), answer
    assert heartbeat(stand, stand.north.context), "and the gate serves on"


def test_what_is_said_to_strangers_names_nothing(stand):
    for data in SMUGGLED.values():
        answer = raw(stand, data).lower()
        for word in (b"uvicorn", b"starlette", b"flower", b"flwr", b"python", b"h11", b"traceback", b"detail"):
            assert word not in answer
