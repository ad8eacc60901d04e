"""The listening port: who gets through the handshake, how slowly one may speak, and how it ends."""

import asyncio
import logging
import socket
import ssl
from contextlib import asynccontextmanager, suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from protocol.errors import InputError
from protocol.keys import create_ec_key
from protocol.tls import client_context, server_context
from server.deployment.folder import CoordinatorFolder
from server.deployment.gate.limits import ConnectionLimits
from server.deployment.gate.server import serve

SOON = 5.0
GET = b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return CoordinatorFolder.create(
        tmp_path_factory.mktemp("coordinator") / "c", name="test", host="localhost", port=1, enrolment_port=2,
        superlink_port=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(folder, tmp_path_factory):
    """A site's context, and its certificate in DER."""
    root = tmp_path_factory.mktemp("site")
    key = create_ec_key(root / "tls.key", bits=256)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    issued = folder.authority().issue_site(request.public_bytes(Encoding.PEM).decode(), site="north")
    (root / "tls.pem").write_bytes(issued.public_bytes(Encoding.PEM))
    context = client_context(ca=folder.ca, certificate=root / "tls.pem", key=root / "tls.key")
    return context, issued.public_bytes(Encoding.DER)


class Echo:
    """Reads the body and tells its length; a path of /hold waits until the server ends."""

    def __init__(self):
        self.scopes, self.left = [], 0

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        size, more = 0, True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                self.left += 1
                return
            size, more = size + len(event["body"]), event["more_body"]
        if scope["path"] == "/hold":
            await scope["state"]["closing"].wait()
        if scope["path"] == "/stuck":
            await asyncio.Event().wait()
        body = str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def listening(folder, app, *, require_client=True, site_of=None, **limits):
    """A server, its port, and a task that ends with it."""
    context = server_context(
        ca=folder.ca, certificate=folder.server_certificate, key=folder.server_key, require_client=require_client
    )
    port = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            app, host="127.0.0.1", port=0, context=context, certificates_in_state=require_client,
            limits=ConnectionLimits(**limits), listening=port.set_result, site_of=site_of,
        )
    )  # fmt: skip
    try:
        yield await port, task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def connect(port, context):
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")


async def exchange(port, context, data):
    """Send bytes on a new connection and return all that comes until its end."""
    reader, writer = await connect(port, context)
    writer.write(data)
    found = await everything(reader)
    writer.transport.abort()
    return found


async def everything(reader):
    try:
        return await asyncio.wait_for(reader.read(), SOON)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_the_application_learns_which_certificate_was_shown(folder, site):
    context, der = site
    app = Echo()

    async def go():
        async with listening(folder, app) as (port, _):
            for _ in range(2):
                reader, writer = await connect(port, context)
                for _ in range(2):
                    writer.write(GET)
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON)
                    await reader.readexactly(1)
                writer.transport.abort()
            return head

    head = asyncio.run(go()).lower()
    states = [scope["state"] for scope in app.scopes]
    assert [state["certificate"] for state in states] == [der] * 4
    first, second, third, fourth = [state["connection"] for state in states]
    assert first == second != third == fourth
    assert b"\r\ndate: " in head
    assert b"server:" not in head


def test_without_a_certificate_nothing_reaches_the_application(folder, caplog):
    app = Echo()

    async def go():
        async with listening(folder, app) as (port, _):
            return await exchange(port, client_context(ca=folder.ca), GET)

    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        assert asyncio.run(go()) == b""
    assert app.scopes == []
    assert caplog.messages == ["refused 127.0.0.1: handshake: PEER_DID_NOT_RETURN_A_CERTIFICATE"]


def test_a_port_that_asks_for_no_certificate_gives_none(folder):
    app = Echo()

    async def go():
        async with listening(folder, app, require_client=False) as (port, _):
            return await exchange(
                port, client_context(ca=folder.ca), GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            )

    assert asyncio.run(go()).startswith(b"HTTP/1.1 200 ")
    assert "certificate" not in app.scopes[0]["state"]


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nhost: a\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(folder, site, sent, caplog):
    async def go():
        async with listening(folder, Echo(), head_s=0.1, idle_s=60) as (port, _):
            return await exchange(port, site[0], sent)

    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        assert asyncio.run(go()) == b""
    assert caplog.messages == ["refused 127.0.0.1: the head of a request: too slow"]


def test_a_second_head_that_does_not_come_ends_the_connection(folder, site):
    async def go():
        async with listening(folder, Echo(), head_s=0.1, idle_s=60) as (port, _):
            reader, writer = await connect(port, site[0])
            writer.write(GET)
            await asyncio.wait_for(reader.readuntil(b"0"), SOON)
            await asyncio.sleep(0.3)
            assert not reader.at_eof(), "a connection may be idle between requests for longer than that"
            writer.write(b"GET")
            await everything(reader)
            return reader.at_eof() or reader.exception()

    assert asyncio.run(go())


def test_an_idle_connection_ends_at_last(folder, site):
    async def go():
        async with listening(folder, Echo(), head_s=60, idle_s=1) as (port, _):
            reader, writer = await connect(port, site[0])
            writer.write(GET)
            return await everything(reader)

    assert asyncio.run(go()).endswith(b"\r\n\r\n0")


def test_a_body_that_does_not_come_ends_the_connection(folder, site, caplog):
    app = Echo()
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc"

    async def go():
        async with listening(folder, app, body_s=0.1) as (port, _):
            return await exchange(port, site[0], head)

    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        assert asyncio.run(go()) == b""
    assert app.left == 1
    assert caplog.messages == ["refused 127.0.0.1: the body of a request: too slow"]


def test_a_body_that_trickles_is_not_given_more_time(folder, site):
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"

    async def go():
        async with listening(folder, Echo(), body_s=0.3) as (port, _):
            reader, writer = await connect(port, site[0])
            writer.write(head)
            sent = 0
            while not reader.at_eof() and reader.exception() is None and sent < 500:
                writer.write(b"a")
                sent += 1
                await asyncio.sleep(0.02)
            return sent

    assert asyncio.run(go()) < 500


def test_an_answer_may_take_longer_than_a_request(folder, site):
    app = Echo()

    async def go():
        async with listening(folder, app, head_s=0.05, body_s=0.05) as (port, task):
            reader, writer = await connect(port, site[0])
            writer.write(GET.replace(b"/x", b"/hold"))
            await asyncio.sleep(0.3)
            assert not reader.at_eof()
            task.cancel()
            return await everything(reader)

    assert asyncio.run(go()).endswith(b"\r\n\r\n0")


def test_a_handshake_that_does_not_come_ends_the_connection(folder, caplog):
    async def go():
        async with listening(folder, Echo(), handshake_s=0.1) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            found = await everything(reader)
            writer.transport.abort()
            return found

    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        assert asyncio.run(go()) == b""
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("refused 127.0.0.1: handshake: ")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n x: folded\r\nnul: \x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        b"\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 400_000,
    ],
)
def test_malformed_http_is_refused_without_a_word(folder, site, sent, caplog):
    app = Echo()

    async def go():
        async with listening(folder, app) as (port, _):
            return await exchange(port, site[0], sent)

    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        answer = asyncio.run(go())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body == b""
    assert app.scopes == []
    assert caplog.messages == ["refused 127.0.0.1: request: malformed HTTP"]


def test_malformed_http_inside_a_body_ends_the_connection(folder, site):
    app = Echo()
    sent = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"

    async def go():
        async with listening(folder, app) as (port, _):
            found = await exchange(port, site[0], sent)
            await asyncio.sleep(0.01)
            return found

    assert asyncio.run(go()) == b""
    assert app.left == 1


def test_nothing_is_upgraded(folder, site):
    app = Echo()
    sent = (b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close, upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n")  # fmt: skip

    async def go():
        async with listening(folder, app) as (port, _):
            return await exchange(port, site[0], sent)

    assert asyncio.run(go()).startswith(b"HTTP/1.1 200 ")
    assert app.scopes[0]["type"] == "http"


def test_nobody_chooses_the_address_that_is_written_down(folder, site):
    app = Echo()
    sent = (b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-forwarded-for: 10.9.9.9\r\n"
            b"x-forwarded-proto: http\r\n\r\n")  # fmt: skip

    async def go():
        async with listening(folder, app) as (port, _):
            return await exchange(port, site[0], sent)

    asyncio.run(go())
    assert app.scopes[0]["client"][0] == "127.0.0.1"
    assert app.scopes[0]["scheme"] == "https"


def test_requests_one_after_another_are_all_answered(folder, site):
    async def go():
        async with listening(folder, Echo(), head_s=0.5) as (port, _):
            reader, writer = await connect(port, site[0])
            writer.write(GET * 5)
            found = [await asyncio.wait_for(reader.readuntil(b"\r\n\r\n0"), SOON) for _ in range(5)]
            writer.transport.abort()
            return found

    assert len(asyncio.run(go())) == 5


def test_connections_are_counted(folder, site, caplog):
    async def go():
        async with listening(folder, Echo(), connections=2) as (port, _):
            kept = []
            for _ in range(2):
                kept.append(await connect(port, site[0]))
                kept[-1][1].write(GET)
                await asyncio.wait_for(kept[-1][0].readuntil(b"0"), SOON)
            third = await exchange(port, site[0], GET)
            kept[0][1].transport.abort()
            await asyncio.sleep(0.1)
            fourth = await exchange(port, site[0], GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            for _, writer in kept:
                writer.transport.abort()
            return third, fourth

    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        third, fourth = asyncio.run(go())
    assert third == b""
    assert fourth.startswith(b"HTTP/1.1 200 ")
    assert caplog.messages == ["refused 127.0.0.1: connection: too many connections"]


@pytest.mark.parametrize("shares", [True, False])
def test_one_site_does_not_take_all_connections(folder, site, shares, caplog):
    """The twin knows no sites: there the first takes the place of the second."""
    closing = GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    names = iter(["north"] * 4 + ["south"])

    async def go():
        limits = {"connections": 4, "site_connections": 3}
        async with listening(folder, Echo(), site_of=(lambda _: next(names)) if shares else None, **limits) as (
            port,
            _,
        ):
            kept = []
            for _ in range(4):
                kept.append(await connect(port, site[0]))
                kept[-1][1].write(GET)
                await asyncio.wait_for(kept[-1][0].read(1), SOON)
            south = await exchange(port, site[0], closing)
            for _, writer in kept:
                writer.transport.abort()
            return south

    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        south = asyncio.run(go())
    assert south.startswith(b"HTTP/1.1 200 ") == shares
    if shares:
        assert caplog.messages == ["refused north (127.0.0.1): connection: too many connections of one site"]


def test_a_share_is_given_back(folder, site):
    closing = GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")

    async def go():
        async with listening(folder, Echo(), site_of=lambda _: "north", site_connections=1) as (port, _):
            found = []
            for _ in range(3):
                found.append(await exchange(port, site[0], closing))
                await asyncio.sleep(0.05)
            return found

    assert [answer[:13] for answer in asyncio.run(go())] == [b"HTTP/1.1 200 "] * 3


@pytest.mark.parametrize(("rate", "comes"), [(10_000.0, False), (10.0, True)])
def test_a_body_comes_at_some_rate(folder, site, rate, comes, caplog):
    head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 60\r\n\r\n"

    async def go():
        limits = {"body_s": 60.0, "body_rate": rate, "body_rate_s": 0.1}
        async with listening(folder, Echo(), site_of=lambda _: "north", **limits) as (port, _):
            reader, writer = await connect(port, site[0])
            writer.write(head)
            for _ in range(60):
                writer.write(b"a")
                await asyncio.sleep(0.01)
            return await everything(reader)

    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        assert asyncio.run(go()).endswith(b"60") == comes
    told = [record.getMessage() for record in caplog.records if record.name == "cloister.gate"]
    assert told == ([] if comes else ["refused north (127.0.0.1): the body of a request: too slow"])


def test_handshakes_of_one_address_are_counted(folder, site):
    async def go():
        async with listening(folder, Echo(), address_handshakes=3, handshake_s=1.0) as (port, _):
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            await asyncio.sleep(0.25)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await connect(port, site[0])
            for reader, writer in silent:
                await everything(reader)
                writer.transport.abort()
            later = await exchange(port, site[0], GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            return later

    assert asyncio.run(go()).startswith(b"HTTP/1.1 200 ")


def test_it_ends_soon_whoever_is_there(folder, site):
    async def go():
        loop = asyncio.get_running_loop()
        async with listening(folder, Echo(), grace_s=0.2) as (port, task):
            idle = await connect(port, site[0])
            idle[1].write(GET)
            await idle[0].readuntil(b"0")
            held, stuck = await connect(port, site[0]), await connect(port, site[0])
            held[1].write(GET.replace(b"/x", b"/hold"))
            stuck[1].write(GET.replace(b"/x", b"/stuck"))
            silent = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.05)
            begun = loop.time()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            seconds = loop.time() - begun
            answers = [await everything(reader) for reader, _ in (held, stuck, silent)]
            for _, writer in (idle, held, stuck, silent):
                writer.transport.abort()
            with pytest.raises(OSError, match="refused|Connect call failed"):
                await asyncio.open_connection("127.0.0.1", port)
            return seconds, answers

    seconds, (held, _, silent) = asyncio.run(go())
    assert seconds < 3
    assert held.endswith(b"\r\n\r\n0")
    assert silent == b""


def test_two_ports_of_one_application_number_their_connections_together(folder, site):
    app = Echo()
    closing = GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")

    async def go():
        async with listening(folder, app) as (first, _), listening(folder, app) as (second, _):
            for port in (first, second):
                await exchange(port, site[0], closing)

    asyncio.run(go())
    assert len({scope["state"]["connection"] for scope in app.scopes}) == 2


def test_a_port_that_is_taken_is_said(folder):
    context = server_context(
        ca=folder.ca, certificate=folder.server_certificate, key=folder.server_key, require_client=True
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"Port {port} of 127.0.0.1"):
            asyncio.run(serve(Echo(), host="127.0.0.1", port=port, context=context, certificates_in_state=True))
