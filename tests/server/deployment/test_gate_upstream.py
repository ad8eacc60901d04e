"""What the gate takes of the SuperLink's answers."""

import asyncio
import json
from contextlib import suppress

import pytest

from protocol.tls import client_context, server_context
from server.deployment.folder import CoordinatorFolder
from server.deployment.gate.requests import JSON, PROTOBUF
from server.deployment.gate.server import serve
from server.deployment.gate.upstream import Upstream

PATH = "/v1/fleet/get-run"
WORDS = b"internal: /var/lib/flower.sqlite is locked"


def folder_in(root):
    return CoordinatorFolder.create(
        root / "c", name="test", host="localhost", port=1, enrolment_port=2, superlink_port=3
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_in(tmp_path_factory.mktemp("coordinator"))


class SuperLink:
    """Answers with one status, type and body."""

    def __init__(self, status=200, body=b"", media_type=PROTOBUF, **headers):
        self.status, self.body, self.media_type, self.headers = status, body, media_type, headers
        self.scopes, self.bodies = [], []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        event = await receive()
        self.bodies.append(event["body"])
        headers = [(b"content-type", self.media_type.encode()), (b"content-length", str(len(self.body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


async def asked(folder, app, *, ca=None, times=1):
    """Ask such a SuperLink, and return the last answer."""
    context = server_context(
        ca=folder.ca, certificate=folder.link_certificate, key=folder.link_key, require_client=False
    )
    port = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(app, host="127.0.0.1", port=0, context=context, certificates_in_state=False, listening=port.set_result)
    )
    upstream = Upstream(url=f"https://localhost:{await port}", context=client_context(ca=ca or folder.ca))
    try:
        for _ in range(times):
            answer = await upstream.ask(PATH, {"content-type": PROTOBUF, "accept": PROTOBUF}, b"body")
        return answer
    finally:
        await upstream.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_an_answer_is_passed_with_nothing_of_its_headers(folder):
    app = SuperLink(body=b"run", cookie="x")
    answer = asyncio.run(asked(folder, app))
    assert (answer.status, answer.body, answer.media_type, answer.reason) == (200, b"run", PROTOBUF, "")
    assert (app.scopes[0]["method"], app.scopes[0]["path"], app.bodies) == ("POST", PATH, [b"body"])


def test_connections_are_used_again(folder):
    app = SuperLink()
    asyncio.run(asked(folder, app, times=5))
    assert len(app.scopes) == 5
    assert len({scope["state"]["connection"] for scope in app.scopes}) == 1


@pytest.mark.parametrize(
    ("status", "told"),
    [(400, 400), (401, 401), (404, 404), (409, 409), (412, 412), (422, 422), (500, 500), (502, 503), (503, 503),
     (504, 503), (301, 502), (204, 502), (206, 502), (505, 502)],
)  # fmt: skip
def test_failures_are_told_without_a_word(folder, status, told):
    body = b"" if status == 204 else json.dumps({"code": 2004, "detail": WORDS.decode()}).encode()
    answer = asyncio.run(asked(folder, SuperLink(status=status, body=body, media_type=JSON, location="https://x/")))
    assert (answer.status, answer.body, answer.media_type) == (told, b"", "")
    assert str(status) in answer.reason
    assert (answer.retry_s is not None) == (told == 503)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (json.dumps({"code": 2007, "detail": WORDS.decode(), "extra": WORDS.decode()}).encode(), 2007),
        (WORDS, 2008),
        (b"[]", 2008),
        (b'{"code": "2007"}', 2008),
        (b'{"code": true}', 2008),
        (b"\xff", 2008),
    ],
)
def test_of_a_run_that_does_not_run_flowers_number_is_told(folder, body, code):
    answer = asyncio.run(asked(folder, SuperLink(status=403, body=body, media_type=JSON)))
    assert (answer.status, answer.media_type) == (403, JSON)
    assert json.loads(answer.body) == {"code": code, "detail": "Refused."}


def test_an_answer_of_another_type_is_none(folder):
    answer = asyncio.run(asked(folder, SuperLink(body=WORDS, media_type="text/html")))
    assert (answer.status, answer.body) == (502, b"")


def test_a_superlink_that_is_down_may_come_back(folder):
    async def go():
        upstream = Upstream(url="https://localhost:1", context=client_context(ca=folder.ca))
        try:
            return await upstream.ask(PATH, {}, b"")
        finally:
            await upstream.close()

    answer = asyncio.run(go())
    assert (answer.status, answer.body, answer.retry_s) == (503, b"", 1)
    assert "ConnectError" in answer.reason


def test_who_asks_while_the_coordinator_ends_may_come_back(folder):
    async def go():
        upstream = Upstream(url="https://localhost:1", context=client_context(ca=folder.ca))
        await upstream.close()
        return await upstream.ask(PATH, {}, b"")

    assert asyncio.run(go()).status == 503


def test_only_our_own_superlink_is_asked(folder, tmp_path):
    app = SuperLink(body=b"run")
    answer = asyncio.run(asked(folder, app, ca=folder_in(tmp_path).ca))
    assert (answer.status, answer.body) == (503, b"")
    assert app.scopes == []


def test_no_proxy_comes_between(folder, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert asyncio.run(asked(folder, SuperLink(body=b"run"))).body == b"run"
