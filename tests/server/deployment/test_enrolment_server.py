"""The enrolment server's application: who is let in, who learns nothing, and what it survives."""

import asyncio
import json
import logging
import random

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from protocol.enrolment import MOST_BYTES, EnrolmentAnswer, EnrolmentRequest, RenewalRequest
from protocol.errors import ApprovalError, InputError, WireError
from protocol.keys import new_ec_key, public_hex
from protocol.tls import certificate_digest
from server.deployment import enrolment
from server.deployment.enrolment import enrolment_app, renewal_answer
from server.deployment.folder import CoordinatorFolder


def tls_request(key=None, *, name="north"):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key or new_ec_key(bits=256), SHA256()).public_bytes(Encoding.PEM).decode()


def node_key(bits=384):
    return new_ec_key(bits=bits).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class Coordinator:
    """The application, called without a network."""

    def __init__(self, root):
        self.folder = CoordinatorFolder.create(
            root, name="hearts", host="127.0.0.1", port=9443, enrolment_port=9444, superlink_port=9445
        )
        self.roster = self.folder.roster()
        self.authority = self.folder.authority()
        self.app = enrolment_app(self.folder, self.roster, self.authority, failure_seconds=0.0)
        self.keys = {}

    def request(self, site="north", *, secret, **changes):
        key = self.keys.setdefault(site, (Ed25519PrivateKey.generate(), node_key()))
        values = {"tls_request": tls_request(name=site), "node_key": key[1]} | changes
        return EnrolmentRequest.signed(key[0], site=site, secret=secret, **values).to_bytes()

    def ask_all(self, *bodies, method="POST", path="/v1/enroll", address="192.0.2.1", **more):
        async def run():
            transport = httpx.ASGITransport(app=self.app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="https://coordinator") as client:
                return await asyncio.gather(*(client.request(method, path, content=body, **more) for body in bodies))

        return asyncio.run(run())

    def ask(self, body=b"", **more):
        return self.ask_all(body, **more)[0]


@pytest.fixture
def coordinator(tmp_path):
    made = Coordinator(tmp_path / "c")
    yield made
    made.roster.close()


def test_authority_is_shown_to_everybody(coordinator):
    reply = coordinator.ask(method="GET", path="/v1/ca")
    assert reply.status_code == 200
    assert reply.text == coordinator.folder.ca.read_text("utf-8")


def test_invited_site_gets_its_certificate(coordinator):
    secret, key = coordinator.roster.invite("north"), new_ec_key(bits=256)
    reply = coordinator.ask(coordinator.request(secret=secret, tls_request=tls_request(key, name="south")))
    answer = EnrolmentAnswer.from_bytes(reply.content)
    certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    assert reply.status_code == 200
    assert certificate.public_key() == key.public_key()
    # The request asked for "south"; the invitation was for "north".
    assert certificate.subject.rfc4514_string() == "CN=north"
    assert (answer.federation, answer.coordinator_key) == ("hearts", public_hex(coordinator.folder.key()))
    member = coordinator.roster.by_certificate(certificate_digest(certificate.public_bytes(Encoding.DER)))
    assert member.name == "north"
    assert member.not_after == certificate.not_valid_after_utc
    assert member.identity_key == public_hex(coordinator.keys["north"][0])


def test_replayed_request_is_refused(coordinator):
    body = coordinator.request(secret=coordinator.roster.invite("north"))
    assert coordinator.ask(body).status_code == 200
    before = coordinator.roster.members()
    replayed = coordinator.ask(body)
    assert (replayed.status_code, replayed.content) == (403, b"")
    assert coordinator.roster.members() == before


def test_of_many_requests_at_once_one_wins(coordinator):
    secret = coordinator.roster.invite("north")
    bodies = [coordinator.request(secret=secret) for _ in range(8)]
    statuses = [reply.status_code for reply in coordinator.ask_all(*bodies)]
    assert sorted(statuses) == [200] + [403] * 7


def test_unknown_name_and_wrong_secret_look_the_same(coordinator):
    secret = coordinator.roster.invite("north")
    used = coordinator.request("west", secret=coordinator.roster.invite("west"))
    assert coordinator.ask(used).status_code == 200
    replies = [
        coordinator.ask(body)
        for body in (
            coordinator.request("north", secret="00" * 32),
            coordinator.request("nobody", secret="00" * 32),
            coordinator.request("nobody", secret=secret),
            used,
        )
    ]
    assert {(reply.status_code, reply.content, tuple(reply.headers.items())) for reply in replies} == {
        (403, b"", tuple(replies[0].headers.items()))
    }


def test_failures_take_a_constant_time(coordinator, monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr(enrolment.asyncio, "sleep", sleep)
    coordinator.app = enrolment_app(coordinator.folder, coordinator.roster, coordinator.authority, failure_seconds=1e6)
    assert coordinator.ask(coordinator.request(secret=coordinator.roster.invite("north"))).status_code == 200
    assert waits == []
    for body in (b"", coordinator.request(secret="00" * 32), coordinator.request("nobody", secret="00" * 32)):
        assert coordinator.ask(body).status_code in {400, 403}
    # Counted from when the attempt began: what it took is taken off, so that the whole is the same.
    assert len(waits) == 3
    assert all(1e6 - 60 < wait < 1e6 for wait in waits)


def test_failed_attempts_are_limited_by_address(coordinator):
    secret = coordinator.roster.invite("north")
    bad, good = coordinator.request(secret="00" * 32), coordinator.request(secret=secret)
    statuses = [coordinator.ask(bad).status_code for _ in range(21)]
    assert statuses == [403] * 20 + [429]
    assert coordinator.ask(good).status_code == 429
    assert coordinator.ask(good, address="192.0.2.2").status_code == 200


def test_attempts_at_once_do_not_slip_past_the_limit(coordinator):
    coordinator.app = enrolment_app(coordinator.folder, coordinator.roster, coordinator.authority, failure_seconds=0.05)
    bodies = [coordinator.request(secret="00" * 32)] * 20
    assert {reply.status_code for reply in coordinator.ask_all(*bodies)} == {403}
    assert coordinator.ask(bodies[0]).status_code == 429


def test_failed_attempts_are_limited_in_all(coordinator, monkeypatch):
    monkeypatch.setattr(enrolment, "_MOST_FAILURES_IN_ALL", 3)
    for number in range(3):
        assert coordinator.ask(b"", address=f"192.0.2.{number}").status_code == 400
    assert coordinator.ask(b"", address="192.0.2.9").status_code == 429


def test_limit_ends_with_its_window(coordinator):
    seconds = [0.0]
    coordinator.app._failures.clock = lambda: seconds[0]
    for _ in range(20):
        coordinator.ask(b"")
    assert coordinator.ask(b"").status_code == 429
    seconds[0] += 600
    assert coordinator.ask(b"").status_code == 400


def test_one_holder_of_ipv6_is_one_address(coordinator):
    for number in range(20):
        coordinator.ask(b"", address=f"2001:db8:1:2::{number:x}")
    assert coordinator.ask(b"", address="2001:db8:1:2:ffff::1").status_code == 429
    assert coordinator.ask(b"", address="2001:db8:1:3::1").status_code == 400


def test_too_many_at_once_are_turned_away(coordinator):
    coordinator.app._at_work = 64
    assert coordinator.ask(b"").status_code == 503


def test_keys_of_others_are_told_to_whoever_holds_the_secret(coordinator):
    assert coordinator.ask(coordinator.request(secret=coordinator.roster.invite("north"))).status_code == 200
    coordinator.keys["north"] = (Ed25519PrivateKey.generate(), node_key())
    secret = coordinator.roster.invite("north")
    refused = coordinator.ask(coordinator.request(secret=secret))
    assert refused.status_code == 409
    assert "revoke" in refused.json()["remedy"]
    # Without the secret, the same keys learn nothing.
    assert coordinator.ask(coordinator.request(secret="00" * 32)).content == b""
    assert coordinator.roster.is_invited("north", secret)


@pytest.mark.parametrize("change", ["proof", "tls_request", "node_key"])
def test_malformed_parts_are_refused_whoever_asks(coordinator, change):
    secret = coordinator.roster.invite("north")
    for site, word in (("north", secret), ("nobody", "00" * 32)):
        if change == "proof":
            values = json.loads(coordinator.request(site, secret=word)) | {"proof": "00" * 64}
            body = json.dumps(values).encode()
        else:
            wrong = {"tls_request": tls_request(new_ec_key(bits=384)), "node_key": node_key(256)}[change]
            body = coordinator.request(site, secret=word, **{change: wrong})
        reply = coordinator.ask(body)
        assert (reply.status_code, reply.content) == (400, b"")
    assert coordinator.roster.is_invited("north", secret)
    assert coordinator.roster.members() == ()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("POST", "/v1/ca"), ("GET", "/v1/enroll"), ("HEAD", "/v1/ca"), ("GET", "/v1/ca/"),
        ("POST", "/v1/fleet/pull-messages"), ("POST", "/v1/control/start-run"), ("GET", "/docs"),
        ("POST", "/v1/enroll/../control/x"), ("OPTIONS", "/v1/enroll"),
    ],
)  # fmt: skip
def test_everything_else_is_not_there(coordinator, method, path):
    reply = coordinator.ask(method=method, path=path)
    assert (reply.status_code, reply.content) == (404, b"")


def test_large_bodies_are_refused_unread(coordinator):
    assert coordinator.ask(b" " * (MOST_BYTES + 1)).status_code == 413
    assert coordinator.ask(b" " * MOST_BYTES).status_code == 400
    read = []

    async def endless(more=1_000):
        for number in range(more):
            read.append(number)
            yield b" " * 1_024

    async def run():
        transport = httpx.ASGITransport(app=coordinator.app, client=("192.0.2.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="https://coordinator") as client:
            return await client.post("/v1/enroll", content=endless())

    assert asyncio.run(run()).status_code == 413
    assert len(read) < 70
    for length in ("-1", "9" * 30, "x"):
        assert coordinator.ask(b"x", headers={"content-length": length}).status_code == 413


def test_slow_bodies_are_given_up(coordinator, monkeypatch):
    monkeypatch.setattr(enrolment, "_BODY_SECONDS", 0.01)

    async def run():
        sent = []

        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/enroll", "headers": [], "client": ("192.0.2.1", 1)}
        await coordinator.app(scope, receive, send)
        return sent

    assert asyncio.run(run())[0]["status"] == 408


def test_every_attempt_is_logged_without_the_secret(coordinator, caplog):
    caplog.set_level(logging.DEBUG, logger="cloister.gate")
    secret = coordinator.roster.invite("north")
    good = coordinator.request(secret=secret)
    for body in (good, good, b"{", good.replace(b'"north"', b'"no\\nrth"')):
        coordinator.ask(body)
    lines = [record.getMessage() for record in caplog.records if record.name == "cloister.gate"]
    assert len(lines) == 4
    assert [line.split(": ")[1].split()[0] for line in lines] == ["200", "403", "400", "400"]
    assert "192.0.2.1" in lines[0]
    assert "north" in lines[0]
    assert not any(secret in line or "\n" in line for line in lines)


def test_trouble_of_the_coordinator_is_not_told(coordinator, caplog, monkeypatch):
    def broken(*_arguments):
        raise InputError("/secret/place cannot be used.", remedy="x")

    monkeypatch.setattr(coordinator.roster, "is_invited", broken)
    reply = coordinator.ask(coordinator.request(secret="00" * 32))
    assert (reply.status_code, reply.content) == (503, b"")
    assert "/secret/place" in caplog.text


def test_hostile_json_is_survived(coordinator, monkeypatch):
    """600 mutations of a good request, and random bytes: nobody gets in, nothing breaks, nothing is said."""
    monkeypatch.setattr(enrolment, "_MOST_FAILURES", 10_000)
    secret = coordinator.roster.invite("north")
    good, draw = coordinator.request(secret=secret), random.Random(7)  # noqa: S311 - what to break, no key
    odd = ["null", "[]", "{}", "1e999", "-0", '"\\ud800"', '"' + "A" * 5_000 + '"', "[" * 500, "NaN", "\0", "true"]
    bodies = []
    for _ in range(200):
        place = draw.randrange(len(good))
        bodies.append(good[:place] + bytes([good[place] ^ 1 << draw.randrange(8)]) + good[place + 1 :])
        values = {name: json.dumps(value) for name, value in json.loads(good).items()}
        values[draw.choice(sorted(values))] = draw.choice(odd)
        bodies.append(("{" + ",".join(f'"{name}":{value}' for name, value in values.items()) + "}").encode())
        bodies.append(draw.randbytes(draw.randrange(300)))
    replies = coordinator.ask_all(*bodies[:64])
    for start in range(64, len(bodies), 64):
        replies += coordinator.ask_all(*bodies[start : start + 64])
    told = {(reply.status_code, reply.content) for reply in replies}
    # 403: a bit of the name or of the secret was changed, and then the proof is wrong: 400 comes first.
    assert told == {(400, b"")}
    assert coordinator.roster.members() == ()
    assert coordinator.roster.is_invited("north", secret)
    assert coordinator.ask(good).status_code == 200


def test_renewal_certifies_another_key_for_the_same_site(coordinator):
    reply = coordinator.ask(coordinator.request(secret=coordinator.roster.invite("north")))
    old = x509.load_pem_x509_certificate(EnrolmentAnswer.from_bytes(reply.content).certificate.encode())
    presented = certificate_digest(old.public_bytes(Encoding.DER))
    parts = (coordinator.folder, coordinator.roster, coordinator.authority)
    key = new_ec_key(bits=256)
    body = RenewalRequest(tls_request=tls_request(key, name="south")).to_bytes()
    answer = EnrolmentAnswer.from_bytes(renewal_answer(*parts, site="north", presented=presented, body=body))
    new = x509.load_pem_x509_certificate(answer.certificate.encode())
    assert new.public_key() == key.public_key()
    assert new.subject.rfc4514_string() == "CN=north"
    for certificate in (old, new):
        digest = certificate_digest(certificate.public_bytes(Encoding.DER))
        assert coordinator.roster.by_certificate(digest).name == "north"
    with pytest.raises(WireError):
        renewal_answer(*parts, site="north", presented=presented, body=b"{}")
    coordinator.roster.revoke("north")
    with pytest.raises(ApprovalError, match="takes part"):
        renewal_answer(*parts, site="north", presented=presented, body=body)


def test_application_starts_and_stops(coordinator):
    async def run():
        incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent = []

        async def receive():
            return next(incoming)

        async def send(message):
            sent.append(message["type"])

        await coordinator.app({"type": "lifespan"}, receive, send)
        await coordinator.app({"type": "websocket"}, receive, send)
        return sent

    assert asyncio.run(run()) == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]
