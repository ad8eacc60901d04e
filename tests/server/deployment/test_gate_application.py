"""The gate as an application: who is let in, what passes, and what is said to those who are not."""

import asyncio
import hashlib
import logging
from base64 import b64encode
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PullObjectRequest
from flwr.proto.node_pb2 import Node

from protocol.errors import InputError
from server.deployment.gate.gate import Gate
from server.deployment.gate.limits import GateLimits
from server.deployment.gate.requests import FLEET, PROTOBUF, Answer
from server.deployment.roster import Member

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEARTBEAT = "/v1/fleet/send-node-heartbeat"


def member(name):
    return Member(
        name=name, identity_key="0" * 64, node_key=f"key of {name}\n", certificate="newest", not_after=NOW,
        enrolled=NOW, revoked=None, seen=None,
    )  # fmt: skip


class FakeRoster:
    """Certificates are the names of sites."""

    def __init__(self, *names):
        self.members = {hashlib.sha256(name.encode()).hexdigest(): member(name) for name in names}
        self.seen, self.fails = [], False

    def by_certificate(self, digest):
        if self.fails:
            raise InputError("The roster is locked.", remedy="Wait.")
        return self.members.get(digest)

    def revoke(self, name):
        del self.members[hashlib.sha256(name.encode()).hexdigest()]

    def saw(self, name):
        self.seen.append(name)


class FakeSuperLink:
    """Answers with what it is given, and remembers what came."""

    def __init__(self, answer=None):
        self.asked, self.answer = [], answer or Answer(status=200, body=b"ok", media_type=PROTOBUF)

    async def ask(self, path, headers, body):
        self.asked.append((path, dict(headers), body))
        await asyncio.sleep(0)
        return self.answer


@dataclass
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def headers_of(site, body, **changes):
    headers = {
        "host": "localhost",
        "content-type": PROTOBUF,
        "content-length": str(len(body)),
        "flwr-public-key": b64encode(f"key of {site}\n".encode()).decode(),
        "flwr-timestamp": "now",
        "flwr-signature": "c2ln",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]


async def ask(gate, path, *, site="north", method="POST", body=b"", headers=None, query=b"", state=None,
              version="1.1", **changes):  # fmt: skip
    """One request as uvicorn would hand it over."""
    scope = {
        "type": "http", "http_version": version, "method": method, "raw_path": path.encode(), "path": path,
        "query_string": query,
        "headers": headers_of(site, body, **changes) if headers is None else headers,
        "client": ("203.0.113.7", 40_000),
        "state": {"certificate": site.encode(), "connection": 1} if state is None else state,
    }  # fmt: skip
    sent, events = [], [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if events:
            return events.pop(0)
        await asyncio.Event().wait()
        raise NotImplementedError

    async def send(event):
        sent.append(event)

    await gate(scope, receive, send)
    start, end = sent
    return Reply(start["status"], end["body"], {k.decode(): v.decode() for k, v in start["headers"]})


def heartbeat(node=77):
    return SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=30).SerializeToString()


def gate_of(*, superlink=None, roster=None, **settings):
    return Gate(roster=roster or FakeRoster("north", "south"), upstream=superlink or FakeSuperLink(), **settings)


def test_a_member_passes():
    superlink, roster = FakeSuperLink(), FakeRoster("north")
    reply = asyncio.run(ask(gate_of(superlink=superlink, roster=roster), HEARTBEAT, body=heartbeat()))
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"ok", PROTOBUF)
    ((path, headers, body),) = superlink.asked
    assert (path, body) == (HEARTBEAT, heartbeat())
    assert headers["flwr-signature"] == "c2ln"
    assert roster.seen == ["north"]


def test_only_flowers_own_headers_are_passed_on():
    superlink = FakeSuperLink()
    extra = {"authorization": "x", "cookie": "x", "x_forwarded_for": "x", "flwr_task_token": "x", "connection": "close",
             "flwr_package_version": "1.41.0", "x_flwr_client": "x", "accept_encoding": "gzip"}  # fmt: skip
    reply = asyncio.run(ask(gate_of(superlink=superlink), HEARTBEAT, body=heartbeat(), **extra))
    assert reply.status == 200
    assert set(superlink.asked[0][1]) == {
        "flwr-public-key", "flwr-timestamp", "flwr-signature", "flwr-package-version", "content-type", "accept",
    }  # fmt: skip


@pytest.mark.parametrize("path", sorted(FLEET))
def test_every_path_of_the_table_is_parsed_before_it_passes(path):
    superlink = FakeSuperLink()
    reply = asyncio.run(ask(gate_of(superlink=superlink), path, body=b"\xff\xff\xff"))
    assert (reply.status, reply.body) == (400, b"")
    assert superlink.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1/control/register-node", "/v1/control/start-run", "/v1/runtime/acquire-task", "/health", "/docs",
        "/openapi.json", "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-fab", "/v1/fleet/",
        f"/{HEARTBEAT}", f"{HEARTBEAT}/", HEARTBEAT.upper(), "/v1/fleet/../control/list-nodes", "/v1//fleet/get-run",
        "/v1/fleet/%67et-run", "/v1/fleet/get-run%2f", "/v1/fleet/get-run%00", "/v1/fleet/%2e%2e/control/list-nodes",
        f"https://localhost{HEARTBEAT}", f"http://127.0.0.1:9091{HEARTBEAT}", "*", f"{HEARTBEAT};x", f"{HEARTBEAT}#",
        "/v1/fleet\\get-run", "/./v1/fleet/get-run", "localhost:8000",
    ],
)  # fmt: skip
def test_no_other_path_passes(path, caplog):
    superlink = FakeSuperLink()
    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        reply = asyncio.run(ask(gate_of(superlink=superlink), path, body=heartbeat()))
    assert (reply.status, reply.body) == (404, b"")
    assert superlink.asked == []
    assert caplog.messages == [f"refused north: POST {path}: not among what passes"]


def test_a_query_passes_nowhere():
    superlink = FakeSuperLink()
    reply = asyncio.run(ask(gate_of(superlink=superlink), HEARTBEAT, body=heartbeat(), query=b"a=b"))
    assert reply.status == 404
    assert superlink.asked == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "post"])
def test_no_other_method_passes(method):
    superlink = FakeSuperLink()
    assert asyncio.run(ask(gate_of(superlink=superlink), HEARTBEAT, body=heartbeat(), method=method)).status == 404
    assert superlink.asked == []


@pytest.mark.parametrize("state", [{}, {"certificate": None}, {"certificate": b""}, {"certificate": b"stranger"}])
def test_who_is_not_on_the_roster_is_told_nothing(state, caplog):
    superlink = FakeSuperLink()
    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        for path in (HEARTBEAT, "/nowhere"):
            reply = asyncio.run(ask(gate_of(superlink=superlink), path, body=heartbeat(), state=state))
            assert (reply.status, reply.body, reply.headers["connection"]) == (403, b"", "close")
    assert superlink.asked == []
    assert all(line.startswith("refused 203.0.113.7: ") for line in caplog.messages)


def test_revocation_works_between_two_requests():
    roster = FakeRoster("north")
    gate = gate_of(roster=roster)
    assert asyncio.run(ask(gate, HEARTBEAT, body=heartbeat())).status == 200
    roster.revoke("north")
    assert asyncio.run(ask(gate, HEARTBEAT, body=heartbeat())).status == 403


def test_a_roster_that_fails_lets_nobody_in():
    roster, superlink = FakeRoster("north"), FakeSuperLink()
    roster.fails = True
    reply = asyncio.run(ask(gate_of(roster=roster, superlink=superlink), HEARTBEAT, body=heartbeat()))
    assert (reply.status, reply.body) == (503, b"")
    assert superlink.asked == []


@pytest.mark.parametrize(
    "key",
    [None, "", "AAAA", b64encode(b"key of south\n").decode(), b64encode(b"key of north").decode(), "key of north\n"],
)
def test_a_site_shows_its_own_node_key(key, caplog):
    superlink = FakeSuperLink()
    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        reply = asyncio.run(ask(gate_of(superlink=superlink), HEARTBEAT, body=heartbeat(), flwr_public_key=key))
    assert (reply.status, reply.body) == (403, b"")
    assert superlink.asked == []
    assert caplog.messages == [f"refused north: POST {HEARTBEAT}: the node key of another site"]


def test_a_site_activates_itself_alone():
    superlink = FakeSuperLink()
    gate, path = gate_of(superlink=superlink), "/v1/fleet/activate-node"
    body = ActivateNodeRequest(public_key=b"key of south\n").SerializeToString()
    assert asyncio.run(ask(gate, path, body=body)).status == 403
    assert superlink.asked == []
    body = ActivateNodeRequest(public_key=b"key of north\n").SerializeToString()
    assert asyncio.run(ask(gate, path, body=body)).status == 200


def test_a_site_sends_messages_in_its_own_name():
    superlink = FakeSuperLink()
    message = Message(metadata=Metadata(src_node_id=88, dst_node_id=1, reply_to_message_id="b", message_id="a"))
    request = PushMessagesRequest(
        node=Node(node_id=77), messages_list=[message], message_object_trees=[ObjectTree(object_id="a")]
    )
    path = "/v1/fleet/push-messages"
    assert asyncio.run(ask(gate_of(superlink=superlink), path, body=request.SerializeToString())).status == 403
    assert superlink.asked == []


def test_what_was_handed_to_one_site_is_not_there_for_another():
    tree = ObjectTree(object_id="a" * 64)
    handed = PullMessagesResponse(
        messages_list=[Message(metadata=Metadata(run_id=5, message_id="a" * 64))], message_object_trees=[tree]
    )
    superlink = FakeSuperLink(Answer(status=200, body=handed.SerializeToString(), media_type=PROTOBUF))
    gate = gate_of(superlink=superlink)
    pull = PullObjectRequest(node=Node(node_id=77), run_id=5, object_id="a" * 64).SerializeToString()

    async def both():
        await ask(gate, "/v1/fleet/pull-messages", body=b"")
        before = len(superlink.asked)
        await ask(gate, "/v1/fleet/pull-object", body=pull, site="south")
        south = len(superlink.asked) - before
        await ask(gate, "/v1/fleet/pull-object", body=pull)
        return south, len(superlink.asked) - before - south

    assert asyncio.run(both()) == (0, 1)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"content_type": None}, 415),
        ({"content_type": "application/json"}, 415),
        ({"content_type": "application/protobuf; charset=utf-8"}, 415),
        ({"content_type": "text/plain"}, 415),
        ({"content_length": None}, 411),
        ({"content_length": "-1"}, 411),
        ({"content_length": "+5"}, 411),
        ({"content_length": "1e3"}, 411),
        ({"content_length": "9" * 30}, 411),
        ({"content_length": "4194305"}, 413),
        ({"transfer_encoding": "chunked"}, 400),
        ({"content_encoding": "gzip"}, 400),
        ({"upgrade": "h2c"}, 400),
    ],
)
def test_bodies_are_of_one_type_and_of_known_length(changes, status):
    superlink = FakeSuperLink()
    reply = asyncio.run(ask(gate_of(superlink=superlink), HEARTBEAT, body=heartbeat(), **changes))
    assert (reply.status, reply.body, reply.headers["connection"]) == (status, b"", "close")
    assert superlink.asked == []


@pytest.mark.parametrize("name", ["flwr-public-key", "flwr-timestamp", "content-type", "content-length"])
def test_headers_that_matter_are_there_once(name):
    superlink = FakeSuperLink()
    headers = headers_of("north", heartbeat())
    headers.append(next(header for header in headers if header[0] == name.encode()))
    reply = asyncio.run(ask(gate_of(superlink=superlink), HEARTBEAT, body=heartbeat(), headers=headers))
    assert reply.status == 400
    assert superlink.asked == []


def test_headers_that_matter_are_ascii():
    headers = [*headers_of("north", heartbeat(), flwr_timestamp=None), (b"flwr-timestamp", b"n\xf6w")]
    assert asyncio.run(ask(gate_of(), HEARTBEAT, body=heartbeat(), headers=headers)).status == 400


def test_objects_may_be_larger_than_the_rest():
    gate = gate_of(limits=GateLimits(object_bytes=2_000, control_bytes=1_000))
    body = bytes(1_500)
    assert asyncio.run(ask(gate, HEARTBEAT, body=body)).status == 413
    assert asyncio.run(ask(gate, "/v1/fleet/push-object", body=body)).status == 400, "read, and found malformed"
    assert asyncio.run(ask(gate, "/v1/fleet/push-object", body=bytes(2_001))).status == 413


@pytest.mark.parametrize("version", ["1.0", "2.0", "0.9", "9.9"])
def test_no_other_version_of_http_passes(version):
    superlink = FakeSuperLink()
    reply = asyncio.run(ask(gate_of(superlink=superlink), HEARTBEAT, body=heartbeat(), version=version))
    assert reply.status == 505
    assert superlink.asked == []


def test_headers_are_bounded():
    reply = asyncio.run(ask(gate_of(), HEARTBEAT, body=heartbeat(), cookie="a" * 16_384))
    assert reply.status == 431


def test_too_many_requests_are_refused_and_other_sites_are_not():
    gate = gate_of(limits=GateLimits(requests_per_second=0.001, request_burst=5, patience_s=0.001))

    async def many():
        north = [(await ask(gate, HEARTBEAT, body=heartbeat())) for _ in range(20)]
        return north, await ask(gate, HEARTBEAT, body=heartbeat(), site="south")

    north, south = asyncio.run(many())
    assert [reply.status for reply in north] == [200] * 6 + [429] * 14
    assert north[-1].headers["retry-after"] == "1"
    assert north[-1].body == b""
    assert south.status == 200


def test_a_site_slightly_too_fast_is_held_back_not_refused():
    gate = gate_of(limits=GateLimits(requests_per_second=100.0, request_burst=1, patience_s=1.0))

    async def some():
        loop = asyncio.get_running_loop()
        begun = loop.time()
        replies = [await ask(gate, HEARTBEAT, body=heartbeat()) for _ in range(12)]
        return [reply.status for reply in replies], loop.time() - begun

    statuses, seconds = asyncio.run(some())
    assert statuses == [200] * 12
    assert seconds >= 0.09


def test_bodies_of_all_sites_at_once_are_bounded():
    gate = gate_of(limits=GateLimits(bytes_in_flight=10))
    assert asyncio.run(ask(gate, HEARTBEAT, body=heartbeat())).status == 503


class Half:
    """A request of which half the body has come; `finish` sends the rest, or nothing more if none is asked for."""

    def __init__(self, gate, path, *, site="north", sent=b"", declared=None, **changes):
        self.sent, self.more, self.answers, self.rest = [{"type": "http.request", "body": sent, "more_body": True}], \
            asyncio.Event(), [], b""  # fmt: skip
        length = str(len(sent) if declared is None else declared)
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "raw_path": path.encode(), "query_string": b"",
            "headers": headers_of(site, b"", content_length=length, **changes), "client": None,
            "state": {"certificate": site.encode(), "connection": 1},
        }  # fmt: skip
        self.task = asyncio.create_task(gate(scope, self.receive, self.send))

    async def receive(self):
        if self.sent:
            return self.sent.pop()
        await self.more.wait()
        return {"type": "http.request", "body": self.rest, "more_body": False}

    async def send(self, event):
        self.answers.append(event)

    async def finish(self, rest=b""):
        self.rest = rest
        self.more.set()
        await self.task
        return self.answers[0]["status"]


def test_bytes_that_were_only_announced_keep_nobody_out():
    """Eight requests of one site that announce what all sites may send at once, and send nothing."""
    gate = gate_of(limits=GateLimits(object_bytes=64 * 2**20))

    async def go():
        idle = [Half(gate, "/v1/fleet/push-object", declared=64 * 2**20) for _ in range(8)]
        await asyncio.sleep(0)
        reply = await ask(gate, HEARTBEAT, body=heartbeat(), site="south")
        for each in idle:
            await each.finish()
        return reply

    assert asyncio.run(go()).status == 200


def test_one_site_has_its_share_of_the_bytes_and_gives_it_back():
    gate = gate_of(limits=GateLimits(site_bytes_in_flight=1_000, bytes_in_flight=1_500))

    async def go():
        first = Half(gate, HEARTBEAT, sent=bytes(800))
        await asyncio.sleep(0)
        second = await ask(gate, HEARTBEAT, body=bytes(300))
        other = await ask(gate, HEARTBEAT, body=heartbeat(), site="south")
        all_sites = await ask(gate, HEARTBEAT, body=bytes(900), site="south")
        await first.finish()
        return second.status, other.status, all_sites.status, (await ask(gate, HEARTBEAT, body=heartbeat())).status

    assert asyncio.run(go()) == (429, 200, 503, 200)
    assert gate._held == 0


def test_requests_at_once_are_bounded():
    class Slow(FakeSuperLink):
        async def ask(self, path, headers, body):
            await release.wait()
            return await super().ask(path, headers, body)

    async def many():
        nonlocal release
        release = asyncio.Event()
        tasks = [asyncio.create_task(ask(gate, HEARTBEAT, body=heartbeat())) for _ in range(6)]
        await asyncio.sleep(0.01)
        release.set()
        return [(await task).status for task in tasks]

    release = asyncio.Event()
    gate = gate_of(superlink=Slow(), limits=GateLimits(site_requests=4))
    assert sorted(asyncio.run(many())) == [200] * 4 + [429] * 2


def test_a_site_that_leaves_in_its_body_gets_no_answer():
    superlink, sent = FakeSuperLink(), []

    async def leave():
        async def receive():
            return {"type": "http.disconnect"}

        async def send(event):
            sent.append(event)

        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "raw_path": HEARTBEAT.encode(),
            "query_string": b"", "headers": headers_of("north", heartbeat()), "client": None,
            "state": {"certificate": b"north"},
        }  # fmt: skip
        await gate_of(superlink=superlink)(scope, receive, send)

    asyncio.run(leave())
    assert superlink.asked == sent == []


async def studies(who, body):
    return 200, f"{who.name} {who.certificate} {len(body)}".encode(), "application/json"


OWN = {("GET", "/v1/cloister/studies"): studies, ("POST", "/v1/cloister/certificate"): studies}


def test_own_calls_get_the_member_with_the_certificate_that_was_shown():
    roster, superlink = FakeRoster("north"), FakeSuperLink()
    gate = gate_of(routes=OWN, roster=roster, superlink=superlink)
    shown = hashlib.sha256(b"north").hexdigest()
    reply = asyncio.run(ask(gate, "/v1/cloister/studies", method="GET", headers=[]))
    assert (reply.status, reply.body) == (200, f"north {shown} 0".encode())
    reply = asyncio.run(ask(gate, "/v1/cloister/certificate", body=b"{}", content_type="application/json"))
    assert (reply.status, reply.body) == (200, f"north {shown} 2".encode())
    reply = asyncio.run(ask(gate, "/v1/cloister/certificate", body=b"{}", content_type=None))
    assert reply.status == 200
    assert (superlink.asked, roster.seen) == ([], []), "whoever asks so is no client that runs"


@pytest.mark.parametrize("change", ["revoked", "as before"])
def test_who_is_revoked_while_the_body_comes_gets_nothing(change):
    called, roster = [], FakeRoster("north")

    async def renew(who, _):
        called.append(who.name)
        return 200, b"", "application/json"

    gate = gate_of(routes={("POST", "/v1/cloister/certificate"): renew}, roster=roster)

    async def go():
        held = Half(gate, "/v1/cloister/certificate", declared=2, content_type="application/json")
        await asyncio.sleep(0)
        if change == "revoked":
            roster.revoke("north")
        return await held.finish(b"{}")

    assert (asyncio.run(go()), called) == ((403, []) if change == "revoked" else (200, ["north"]))


def test_the_gate_knows_whose_certificate_it_is():
    roster = FakeRoster("north")
    gate = gate_of(roster=roster)
    assert (gate.site_of(b"north"), gate.site_of(b"stranger")) == ("north", None)
    roster.fails = True
    assert gate.site_of(b"north") is None


@pytest.mark.parametrize(
    ("method", "path", "changes", "status"),
    [
        ("POST", "/v1/cloister/studies", {"content_type": "application/json"}, 404),
        ("GET", "/v1/cloister/certificate", {}, 404),
        ("POST", "/v1/cloister/certificate", {}, 415),
        ("POST", "/v1/cloister/certificate", {"content_type": "application/json", "content_length": "1048577"}, 413),
        ("GET", "/v1/cloister/studies", {"content_length": "5"}, 413),
    ],
)
def test_own_calls_are_as_strict(method, path, changes, status):
    assert asyncio.run(ask(gate_of(routes=OWN), path, method=method, **changes)).status == status


def test_an_own_call_that_fails_tells_only_us(caplog):
    async def fails(who, _):
        raise InputError(f"secret of {who.name}", remedy="Mend it.")

    gate = gate_of(routes={("GET", "/x"): fails})
    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        reply = asyncio.run(ask(gate, "/x", method="GET", headers=[]))
    assert (reply.status, reply.body) == (500, b"")
    assert caplog.messages == ["refused north: GET /x: secret of north"]


def test_an_own_call_that_hangs_ends():
    async def hangs(*_):
        await asyncio.Event().wait()

    gate = gate_of(routes={("GET", "/x"): hangs}, limits=GateLimits(route_s=0.01))
    assert asyncio.run(ask(gate, "/x", method="GET", headers=[])).status == 503


def test_a_key_that_goes_to_another_site_takes_no_mailbox_along():
    roster = FakeRoster("north")
    gate = gate_of(roster=roster)
    asyncio.run(ask(gate, HEARTBEAT, body=heartbeat()))
    digest = hashlib.sha256(b"north").hexdigest()
    roster.members[digest] = replace(roster.members[digest], node_key="another\n")
    assert asyncio.run(ask(gate, HEARTBEAT, body=heartbeat())).status == 403
