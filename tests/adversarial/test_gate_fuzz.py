"""Thousands of things that a member could send by accident or in malice: no crash, no hang, and nothing told.

All are sent to a gate that listens, by TLS with a member's certificate, or before the handshake; behind the gate
listens a SuperLink that babbles whenever it fails.
"""

import asyncio
import logging
import os
import random
import ssl
from base64 import b64encode
from contextlib import suppress
from itertools import pairwise

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node

from protocol.keys import create_ec_key
from protocol.tls import certificate_digest, client_context, server_context
from server.deployment.folder import CoordinatorFolder
from server.deployment.gate.gate import Gate
from server.deployment.gate.limits import ConnectionLimits, GateLimits
from server.deployment.gate.requests import FLEET
from server.deployment.gate.server import serve
from server.deployment.gate.upstream import Upstream

CASES = 10_000 if os.environ.get("CLOISTER_HYPOTHESIS") == "nightly" else 800
AT_ONCE = 40
SOON = 30.0
BABBLE = b"Traceback: sqlite3.OperationalError at /var/lib/flower.sqlite"


class Babbler:
    """A SuperLink that answers, or fails with many words."""

    def __init__(self):
        self.paths = set()

    async def __call__(self, scope, receive, send):
        size, more = 0, True
        while more:
            event = await receive()
            size, more = size + len(event.get("body", b"")), event.get("more_body", False)
        self.paths.add(scope["path"])
        status = [200, 400, 401, 403, 404, 409, 500, 503, 200][size % 9]
        kind, body = (b"application/protobuf", b"") if status == 200 else (b"application/json", BABBLE)
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"x-why", BABBLE)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Federation:
    """A coordinator's folder and one member."""

    def __init__(self, root):
        self.folder = folder = CoordinatorFolder.create(
            root / "c", name="test", host="localhost", port=1, enrolment_port=2, superlink_port=3
        )
        key = create_ec_key(root / "tls.key", bits=256)
        public = create_ec_key(root / "node.key", bits=384).public_key()
        self.node_key = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
        made = folder.authority().issue_site(request.public_bytes(Encoding.PEM).decode(), site="north")
        (root / "tls.pem").write_bytes(made.public_bytes(Encoding.PEM))
        self.roster = folder.roster()
        self.roster.redeem(
            "north", self.roster.invite("north"), identity_key="1" * 64, node_key=self.node_key.decode(),
            certificate=certificate_digest(made.public_bytes(Encoding.DER)), not_after=made.not_valid_after_utc,
        )  # fmt: skip
        self.context = client_context(ca=folder.ca, certificate=root / "tls.pem", key=root / "tls.key")

    def server(self, certificate, key, *, require_client):
        return server_context(ca=self.folder.ca, certificate=certificate, key=key, require_client=require_client)

    def head(self, path, size):
        """The head of an honest request."""
        return (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/protobuf\r\n"
            f"flwr-public-key: {b64encode(self.node_key).decode()}\r\nflwr-timestamp: 2026-01-01T00:00:00+00:00\r\n"
            f"flwr-signature: c2lnbmVk\r\ncontent-length: {size}\r\n\r\n"
        ).encode()

    def bodies(self):
        """Honest bodies, by path."""
        metadata = Metadata(run_id=5, message_id="a" * 64, src_node_id=77, dst_node_id=1, reply_to_message_id="b" * 64)
        tree = ObjectTree(object_id="a" * 64, children=[ObjectTree(object_id="c" * 64)])
        push = PushMessagesRequest(
            node=Node(node_id=77), messages_list=[Message(metadata=metadata)], message_object_trees=[tree]
        )
        node = PullMessagesRequest(node=Node(node_id=77))
        special = {
            "/v1/fleet/activate-node": ActivateNodeRequest(public_key=self.node_key, heartbeat_interval=30),
            "/v1/fleet/push-messages": push,
            "/v1/fleet/push-object": PushObjectRequest(
                node=Node(node_id=77), run_id=5, object_id="c" * 64, object_content=bytes(300), session_id="s"
            ),
        }
        return {path: special.get(path, node).SerializeToString() for path in FLEET}


def mutated(data, dice):
    """The same bytes, hurt in one to four places."""
    data = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at, length = dice.randint(0, len(data)), dice.choice([1, 1, 1, 4, 30])
        match dice.randrange(6):
            case 0:
                data[at : at + length] = dice.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = dice.randbytes(length)
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at:at] = dice.choice([b"\r\n", b"\n", b"\0", b" ", b":", b"%2e", b"/../", b"\xff", b"\x80" * 12])
            case _:
                if data:
                    data[at % len(data)] ^= 1 << dice.randrange(8)
    return bytes(data)


def case(federation, number):
    """One case: whether it is sent before the handshake, and its bytes."""
    dice = random.Random(number)  # noqa: S311 - cases are to come again
    path, body = dice.choice(sorted(federation.bodies().items()))
    match number % 5:
        case 0:
            return dice.random() < 0.3, dice.randbytes(dice.choice([0, 1, 5, 100, 3_000]))
        case 1:
            wrong = mutated(body, dice)
            return False, federation.head(path, len(wrong)) + wrong
        case 2:
            wrong = dice.randbytes(dice.choice([1, 10, 100, 1_000]))
            return False, federation.head(path, len(wrong)) + wrong
        case 3:
            return False, mutated(federation.head(path, len(body)), dice) + body
        case _:
            return False, mutated(federation.head(path, len(body)) + body, dice)


async def send(federation, port, data, *, before_handshake=False):
    """Send bytes, and return all that comes until the gate ends the connection."""
    tls = {} if before_handshake else {"ssl": federation.context, "server_hostname": "localhost"}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
    found = b""
    try:
        writer.write(data)
        async with asyncio.timeout(SOON):
            while more := await reader.read(65_536):
                found += more
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.transport.abort()
    return found


class Listening:
    """A gate and a SuperLink in this event loop."""

    def __init__(self, federation):
        self.federation, self.babbler, self.faults = federation, Babbler(), []
        self.upstream, self.tasks, self.port = None, [], 0

    async def _serve(self, app, **settings):
        port = asyncio.get_running_loop().create_future()
        limits = ConnectionLimits(head_s=0.3, body_s=0.3, handshake_s=0.5, idle_s=1, goodbye_s=0.5,
                                  address_handshakes=10_000, handshakes=10_000)  # fmt: skip
        self.tasks.append(asyncio.create_task(
            serve(app, host="127.0.0.1", port=0, limits=limits, listening=port.set_result, **settings)
        ))  # fmt: skip
        return await port

    async def __aenter__(self):
        asyncio.get_running_loop().set_exception_handler(lambda _, what: self.faults.append(what))
        folder = self.federation.folder
        link = self.federation.server(folder.link_certificate, folder.link_key, require_client=False)
        port = await self._serve(self.babbler, context=link, certificates_in_state=False)
        self.upstream = Upstream(url=f"https://localhost:{port}", context=client_context(ca=folder.ca))
        gate = Gate(
            roster=self.federation.roster, upstream=self.upstream,
            limits=GateLimits(poll_s=0.05, requests_per_second=1e6, request_burst=10**6, site_requests=10_000),
        )  # fmt: skip
        door = self.federation.server(folder.server_certificate, folder.server_key, require_client=True)
        self.port = await self._serve(gate, context=door, certificates_in_state=True)
        return self

    async def __aexit__(self, *_):
        await self.upstream.close()
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def statuses(answer):
    """The statuses of an answer of one or more parts; each must be empty or an error number of Flower's."""
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        found.append(int(lines[0].split(b" ")[1]))
        size = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        body, answer = rest[:size], rest[size:]
        assert body == b"" or (body.startswith(b'{"code": ') and body.endswith(b', "detail": "Refused."}')), body
    return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    made = Federation(tmp_path_factory.mktemp("federation"))
    yield made
    made.roster.close()


@pytest.mark.slow
def test_nothing_that_is_sent_breaks_the_gate(federation, caplog):
    seen, told = set(), []

    async def one(listening, number, turn):
        async with turn:
            before_handshake, data = case(federation, number)
            answer = await send(federation, listening.port, data, before_handshake=before_handshake)
            if not before_handshake:
                seen.update(statuses(answer))
            told.append(answer)

    async def go():
        async with Listening(federation) as listening:
            turn = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(one(listening, number, turn) for number in range(CASES)))
            path = "/v1/fleet/deactivate-node"
            serves = statuses(await send(federation, listening.port, federation.head(path, 0)))
            await asyncio.sleep(1.0)
            # What serves, what keeps its time, what accepts, and this.
            left = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}
        return listening, serves, left

    with caplog.at_level(logging.ERROR):
        listening, serves, left = asyncio.run(go())
    assert len(told) == CASES
    assert serves == [200], "it serves on"
    assert all(word not in answer for answer in told for word in (b"Traceback", b"sqlite", b"uvicorn", b"x-why"))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert listening.faults == []
    assert {name for name in left if "run_asgi" in name or "_shake_hands" in name} == set()
    assert {400, 403, 404} <= seen, "the cases reached the gate's own checks"
    assert listening.babbler.paths, "some went through"
    assert listening.babbler.paths <= set(FLEET)


@pytest.mark.parametrize("body", [BABBLE, b"Internal Server Error", b'{"code": 2004, "detail": "%s"}' % BABBLE])
def test_a_gate_that_babbles_is_caught(body):
    with pytest.raises(AssertionError):
        statuses(b"HTTP/1.1 500 \r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def test_cases_are_as_different_as_they_should_be(federation):
    cases = [case(federation, number)[1] for number in range(500)]
    assert len(set(cases)) > 450
    assert cases == [case(federation, number)[1] for number in range(500)]
    assert sum(first != second for first, second in pairwise(cases)) > 490
