"""A coordinator made of Flower's own SuperLink, a gate that asks for certificates, and site folders to go with them."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from sqlalchemy import select

from client.node.connection import Connection
from client.node.link import FleetLink
from client.node.node import Node
from protocol.keys import create_ec_key, read_ec_key

ROOT = Path(__file__).parents[3]
SERVER = 1
YEAR = timedelta(days=365)
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class Authority:
    """A certificate authority for a test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, folder / "ca.pem"
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        usage = x509.KeyUsage(key_cert_sign=True, crl_sign=True, **dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False))  # fmt: skip
        builder = self._builder(self.name, self.key.public_key(), expires=datetime.now(UTC) + YEAR)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = builder.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def _builder(self, name: x509.Name, public: Any, *, expires: datetime) -> x509.CertificateBuilder:
        own = self.key.public_key()
        return (
            x509.CertificateBuilder()
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .issuer_name(self.name)
            .subject_name(name)
            .not_valid_before(datetime.now(UTC) - YEAR)
            .not_valid_after(expires)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
        )

    def issue(self, path: Path, key: Path, *, server: bool = False, expires: datetime | None = None,
              host: str = "localhost", address: str = "127.0.0.1") -> Path:  # fmt: skip
        """Write a certificate for a key."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(name, read_ec_key(key).public_key(), expires=expires or datetime.now(UTC) + YEAR / 2)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if server:
            names = [x509.DNSName(host), x509.IPAddress(ip_address(address))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return path

    def server(self, name: str, **names: str) -> tuple[Path, Path]:
        """Return certificate and key of a server on this machine."""
        name = f"{name}-{x509.random_serial_number():x}"
        key = self.folder / f"{name}.key"
        create_ec_key(key, bits=256)
        return self.issue(self.folder / f"{name}.pem", key, server=True, **names), key

    def site(self, folder: Path, *, port: int, expires: datetime | None = None) -> Path:
        """Make the part of a site's folder that concerns the coordinator."""
        folder.mkdir(parents=True)
        create_ec_key(folder / "tls.key", bits=256)
        create_ec_key(folder / "node.key", bits=384)
        self.issue(folder / "tls.pem", folder / "tls.key", expires=expires)
        (folder / "ca.pem").write_bytes(self.file.read_bytes())
        told = {"version": 1, "federation": "test", "host": "127.0.0.1", "port": port, "site": "north",
                "coordinator_key": "0" * 64, "ca_fingerprint": "0" * 64}  # fmt: skip
        (folder / "coordinator.json").write_text(json.dumps(told))
        return folder


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Wait for something that happens in another thread or process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


class SuperLink:
    """Flower's SuperLink in a process of its own, and its database, through which a test plays the ServerApp."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder, self.port, self.ca = folder, free_port(), authority.file
        self.certificate, self.key = authority.server("link")
        self._process: subprocess.Popen[bytes] | None = None
        self.store = SqlObjectStore(str(folder / "flower.sqlite"))
        self.state = SqlLinkState(str(folder / "flower.sqlite"), NoOpFederationManager(), self.store)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Flower's use of Alembic
            self.store.initialize()
            self.state.initialize()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        (self.folder / "secret").write_bytes(b"0" * 64)
        command = [Path(sys.executable).with_name("flower-superlink"), "--isolation", "process",
                   "--host", "127.0.0.1", "--port", str(self.port), "--enable-supernode-auth",
                   "--database", self.folder / "flower.sqlite", "--ssl-ca-certfile", self.ca,
                   "--ssl-certfile", self.certificate, "--ssl-keyfile", self.key,
                   "--superexec-auth-secret-file", self.folder / "secret",
                   "--disable-runtime-dependency-installation"]  # fmt: skip
        surroundings = {**os.environ, **QUIET, "FLWR_HOME": str(self.folder / "home")}
        with (self.folder / "superlink.log").open("ab") as log:
            self._process = subprocess.Popen(
                list(map(str, command)), env=surroundings, stdout=log, stderr=log, cwd=self.folder, process_group=0
            )
        self.wait()

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until the port answers."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port), 1)):
                return
            if time.monotonic() > deadline:
                raise TimeoutError((self.folder / "superlink.log").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """End the process as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End all."""
        self.kill()
        for held in (self.state, self.store):
            held._engine.dispose()

    def register(self, site: Path) -> int:
        """Make a site's node key known; returns the node's id."""
        public = public_key_to_bytes(read_ec_key(site / "node.key").public_key())
        return self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public, 0)

    def run(self, fab: Fab | None = None) -> int:
        """Begin a run, as if its ServerApp had been started; returns its id."""
        fab_hash = None if fab is None else self.state.store_fab(fab)
        run_id = self.state.create_run(
            "cloister/test", "1.0.0", fab_hash, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        (task,) = self.state.get_tasks(run_ids=[run_id])
        assert self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)
        return run_id

    def end(self, run_id: int) -> None:
        """End a run."""
        (task,) = self.state.get_tasks(run_ids=[run_id])
        assert self.state.finish_task(task.task_id, "completed", "")

    def ask(self, run_id: int, node_id: int, content: RecordDict, *, kind: str = "query.echo", ttl: float = 600.0,
            complete: bool = True) -> str:  # fmt: skip
        """Send a message to a node, all of it or without its parts; returns its id."""
        wait_until(lambda: self.node(node_id).status != "registered")  # Flower takes no message for one never seen
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = SERVER, run_id, SERVER
        message = Message(content, node_id, kind, ttl=ttl)
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(run_id)
        header = remove_content_from_message(message)  # as Flower's grid does: the content travels as objects alone
        stored, missing = self.state.store_message_and_object_tree(header, get_object_tree(message), session)
        assert stored
        self.parts = lambda: [self.state.store_object(run_id, session, name, part.deflate())
                              for name, part in get_all_nested_objects(message).items() if name in missing]  # fmt: skip
        if complete:
            assert all(self.parts())
        return message.object_id

    def answer(self, run_id: int, message_id: str, *, seconds: float = 30.0) -> Message:
        """Wait for the answer to a message."""
        (task,) = self.state.get_tasks(run_ids=[run_id])
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.state.acknowledge_task_heartbeat(task.task_id)
            for header in self.state.get_message_res({message_id}, run_id):
                return header if header.has_error() else self._inflate(run_id, header.metadata.message_id)
            time.sleep(0.05)
        raise TimeoutError(message_id)

    def answers(self, message_id: str) -> int:
        """How many answers to a message the database holds."""
        return self._count(select(MessageRes.message_id).where(MessageRes.reply_to_message_id == message_id))

    def taken(self, message_id: str, *, seconds: float = 30.0) -> None:
        """Wait until a node has been given a message."""
        asked = select(MessageIns.message_id).where(MessageIns.message_id == message_id, MessageIns.delivered_at != "")
        wait_until(lambda: self._count(asked) == 1, seconds=seconds)

    def _count(self, query: Any) -> int:
        with self.state.session() as session:
            return len(session.execute(query).all())

    def holds(self, text: str) -> bool:
        """Whether a text is anywhere in the database or its journals."""
        return any(text.encode() in path.read_bytes() for path in self.folder.glob("flower.sqlite*"))

    def node(self, node_id: int) -> Any:
        """What Flower knows about a node."""
        (found,) = self.state.get_node_info(node_ids=[node_id])
        return found

    def _inflate(self, run_id: int, message_id: str) -> Message:
        names = [part.object_id for part in iterate_object_tree(self.store.get_object_tree(message_id))]
        deadline = time.monotonic() + 10
        while True:
            contents = {name: self.state.get_object(run_id, name) for name in names}
            if all(contents.values()):
                return inflate_object_from_contents(message_id, contents)
            assert time.monotonic() < deadline, "an answer never became complete"
            time.sleep(0.02)


@dataclass
class TinyGate:
    """Asks for client certificates and passes the bytes on; it can also be shut, or answer by itself."""

    context: ssl.SSLContext
    upstream: tuple[int, Path]
    canned: bytes | None = None
    port: int = field(default_factory=free_port)
    certificates: list[bytes] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)

    def open(self) -> None:
        """Listen, in a thread."""
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._work(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def shut(self) -> None:
        """Close the port and all connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)
            self._loop.close()

    async def _work(self, ready: threading.Event) -> None:
        self._end, sides = asyncio.Event(), list[_Side]()
        trusting = ssl.create_default_context(cafile=str(self.upstream[1]))

        def accept() -> _Side:
            sides.append(_Side(arrived))
            return sides[-1]

        def arrived(near: _Side) -> None:
            self.certificates.append(near.transport.get_extra_info("ssl_object").getpeercert(binary_form=True) or b"")
            if self.canned is not None:
                near.take = lambda data: (self.requests.append(data), near.transport.write(self.canned),
                                          near.transport.close())  # fmt: skip
                return
            task = asyncio.get_running_loop().create_task(self._behind(near, sides, trusting))
            sides[0].tasks.append(task)

        server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", self.port, ssl=self.context)
        ready.set()
        await self._end.wait()
        server.close()
        for side in sides:
            for task in side.tasks:
                task.cancel()
            if side.transport is not None:
                side.transport.abort()
        await asyncio.sleep(0.01)

    async def _behind(self, near: "_Side", sides: list["_Side"], trusting: ssl.SSLContext) -> None:
        far = _Side(lambda _side: None)
        sides.append(far)
        with suppress(OSError):
            await asyncio.get_running_loop().create_connection(
                lambda: far, "127.0.0.1", self.upstream[0], ssl=trusting, server_hostname="localhost"
            )
            near.join(far)
            return
        near.transport.abort()


class _Side(asyncio.Protocol):
    """One connection of two that are joined."""

    def __init__(self, arrived: Callable[["_Side"], None]) -> None:
        self._arrived, self._early, self.other = arrived, bytearray(), None
        self.transport, self.tasks = None, []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._arrived(self)

    def take(self, data: bytes) -> None:
        self._early += data

    def data_received(self, data: bytes) -> None:
        self.take(data)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.abort()

    def join(self, other: "_Side") -> None:
        self.other, other.other = other, self
        other.transport.write(bytes(self._early))
        self.take, other.take = other.transport.write, self.transport.write


@dataclass
class RunningNode:
    """A node that works in a thread of the test."""

    node: Node
    stop: threading.Event = field(default_factory=threading.Event)
    result: list[bool] = field(default_factory=list)

    def start(self) -> None:
        """Start it."""
        self.thread = threading.Thread(target=lambda: self.result.append(self.node.run(self.stop)), daemon=True)
        self.thread.start()

    def end(self) -> bool:
        """Stop it; returns what `Node.run` returned."""
        self.stop.set()
        self.thread.join(15)
        return self.result[0]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "other-authority")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SuperLink, Authority]]:
    """A SuperLink for all tests that do not hurt it, and its authority."""
    folder = tmp_path_factory.mktemp("superlink")
    authority = Authority(folder / "authority")
    link = SuperLink(folder, authority)
    try:
        link.start()
        yield link, authority
    finally:
        link.close()


@pytest.fixture
def own_superlink(tmp_path: Path, authority: Authority) -> Iterator[SuperLink]:
    """A SuperLink that a test may kill."""
    link = SuperLink(tmp_path, authority)
    try:
        link.start()
        yield link
    finally:
        link.close()


@pytest.fixture
def gate_before() -> Iterator[Callable[..., TinyGate]]:
    """Return a builder of gates before a SuperLink."""
    from protocol.tls import server_context

    opened: list[TinyGate] = []

    def build(authority: Authority, upstream: SuperLink | None = None, *, canned: bytes | None = None) -> TinyGate:
        certificate, key = authority.server("gate")
        context = server_context(ca=authority.file, certificate=certificate, key=key, require_client=True)
        target = (0, authority.file) if upstream is None else (upstream.port, upstream.ca)
        gate = TinyGate(context, target, canned=canned)
        gate.open()
        opened.append(gate)
        return gate

    yield build
    for gate in opened:
        gate.shut()


@pytest.fixture
def run_node() -> Iterator[Callable[..., RunningNode]]:
    """Return a function that runs a node; all are stopped at the end."""
    running: list[RunningNode] = []

    def start(folder: Path, app: Callable[..., Any], **arguments: Any) -> RunningNode:
        arguments = {"first_wait_s": 0.05, "renew": lambda _folder: None, **arguments}
        held = RunningNode(Node(folder, app=app, **arguments))
        held.start()
        running.append(held)
        return held

    yield start
    for held in running:
        if not held.result:
            held.end()


@pytest.fixture
def words() -> Callable[[str], RecordDict]:
    """Return a builder of a message's content."""
    return lambda text: RecordDict({"said": ConfigRecord({"text": text})})


def echo(message: Message, context: Any) -> Message:
    """Answer with what was asked, and with what the app was told."""
    told = {"text": str(message.content["said"]["text"]), "node": context.node_id, "config": str(context.run_config),
            "node_config": str(context.node_config)}  # fmt: skip
    return Message(RecordDict({"said": ConfigRecord(told)}), reply_to=message)


@pytest.fixture
def echo_app() -> Callable[..., Message]:
    return echo


@pytest.fixture
def unused_port() -> int:
    return free_port()


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def site(shared, gate_before, tmp_path) -> tuple[Path, int, SuperLink, TinyGate]:
    """A registered site that reaches a SuperLink through a gate: folder, node id, SuperLink, gate."""
    link, authority = shared
    gate = gate_before(authority, link)
    folder = authority.site(tmp_path / "site", port=gate.port)
    return folder, link.register(folder), link, gate


@pytest.fixture
def status() -> Callable[..., bytes]:
    """Return a builder of an answer of HTTP without a body."""

    def build(code: int, *, headers: dict[str, str] | None = None) -> bytes:
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        lines = {"date": date, "content-length": "0", "connection": "close", **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 {code} {httpx.codes.get_reason_phrase(code)}\r\n{head}\r\n".encode()

    return build


@pytest.fixture
def fleet(site) -> Iterator[FleetLink]:
    """The link of a site, signed on."""
    with FleetLink(Connection.open(site[0])) as link:
        link.activate(None)
        yield link
        link.deactivate()
