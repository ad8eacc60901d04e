"""What goes wrong in a hospital's cellar: cables, clocks, disks, certificates. The study waits, or goes on without.

One federation of three sites of which two make a round, with a study that does not end, goes through it all. Every test
leaves it as it found it: with all three taking part.
"""

import json
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from cli.officer.verification import Books
from perf.loopback import TREE, Loopback, Role, free_ports, small_study
from privacy.ledger import Charge
from protocol.fingerprint import PACKAGES
from protocol.keys import read_ec_key
from protocol.messages import RefusalReason
from server.deployment.authority import Authority
from server.deployment.processes.child import Child
from server.patience import REFUSING

DEADLINE = 12.0
ROUNDS = 2000
POLICY = {"epsilon": 8.0, "delta": 1e-4}
PATIENCE = 240.0
# A machine whose clock is an hour ahead, for Python; what must not notice is the system's own TLS library.
AN_HOUR_AHEAD = """
import datetime, time
SHIFT = 3600.0
real, now = datetime.datetime, time.time
class Kind(type(real)):
    def __instancecheck__(cls, found): return isinstance(found, real)
class Ahead(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None): return real.fromtimestamp(now() + SHIFT, tz)
datetime.datetime, time.time = Ahead, lambda: now() + SHIFT
"""
pytestmark = pytest.mark.slow


class Relay:
    """A network between the sites and the gate that can fall silent, and break.

    Args:
        target: Port of the gate.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        (self.port,) = free_ports(1)
        self._flows = threading.Event()
        self._ends: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend()

    def silence(self) -> None:
        """Let nothing through, and tell nobody: a cable was pulled."""
        self._flows.clear()

    def cut(self) -> None:
        """Reset every connection and take no new one."""
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._flows.set()

    def mend(self) -> None:
        """Let everything through."""
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while read := source.recv(65536):
                self._flows.wait()
                sink.sendall(read)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Scene:
    """The federation, its network and its study.

    Args:
        federation: Three sites; everything is done in here.
    """

    def __init__(self, federation: Loopback) -> None:
        self.federation = federation
        study = small_study(
            name="endless", sites=3, rounds=ROUNDS, federation={"minimum_sites": 2, "deadline": DEADLINE}
        )
        federation.init()
        federation.start_coordinator()
        self.relay = Relay(federation.port)
        federation.enrol_all(records=100, policy=POLICY)
        for name in federation.names:
            self._through_relay(name)
        self.job = federation.offer(study)
        for name in federation.names:
            federation.approve(name, "endless")
            federation.start_site(name)
        self.all_take_part()

    def _through_relay(self, name: str) -> None:
        path = self.federation.site_folder(name) / "coordinator.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"port": self.relay.port}))

    def re_enrol(self, name: str) -> None:
        """Do what a site is told to do when its certificate is of no use any more."""
        (code,) = self.federation.invite(name).values()
        self.federation.here("site", "enroll", code, "--site", str(self.federation.site_folder(name)))
        self._through_relay(name)

    def round(self) -> int:
        return self.federation.round(self.job)

    def contributions(self, name: str) -> int:
        """How many contributions left a site."""
        text = (self.federation.site_folder(name) / "egress.jsonl").read_text().splitlines()
        return sum('"kind":"contribution"' in line for line in text)

    def takes_part(self, *names: str, more: int = 1) -> None:
        """Wait until each of some sites has contributed again."""
        due = {name: self.contributions(name) + more for name in names}
        self.federation.wait(
            lambda: all(self.contributions(name) >= count for name, count in due.items()),
            f"{', '.join(names)} contribute",
            patience=PATIENCE,
        )

    def all_take_part(self) -> None:
        self.federation.wait(
            lambda: all((self.federation.site_folder(name) / "egress.jsonl").exists() for name in "abc"), "a beginning"
        )
        self.takes_part("a", "b", "c")

    def pid(self, name: str) -> int:
        return next(pid for role, found, pid in self.federation.processes() if role is Role.SITE and found == name)

    def heard(self, name: str) -> int:
        """How much a site's client has said up to now."""
        return len(self.federation.said(name))

    def says(self, name: str, words: str, *, since: int) -> None:
        """Wait until a site's client has said something since then."""
        self.federation.wait(
            lambda: words in self.federation.said(name)[since:], f"{name} says {words!r}", patience=PATIENCE
        )

    def stop_site(self, name: str) -> None:
        self.federation.sites[name].end(within_s=30.0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Iterator[Scene]:
    federation = Loopback(tmp_path_factory.mktemp("faults"), sites=("a", "b", "c"))
    try:
        yield Scene(federation)
    finally:
        federation.end()
        assert federation.marked() == [], "processes of the federation are left"


@pytest.fixture(autouse=True)
def shown(scene, request) -> Iterator[None]:
    """Show the logs where a test fails; and whatever happened, every book is in order."""
    sys.stdout.write(f"{request.node.name} after round {scene.round()}\n")
    yield
    sys.stdout.write(scene.federation.logs())
    for name in scene.federation.names:
        books = Books.open(scene.federation.site_folder(name))
        charges = [entry.record for entry in books.account.entries if isinstance(entry.record, Charge)]
        rounds = Counter((charge.study, charge.run, charge.first_round) for charge in charges)
        assert set(rounds.values()) == {1}
        assert books.contradictions == ()


def test_a_cut_network_is_waited_for_at_both_ends(scene):
    begin, since = scene.round(), scene.heard("a")
    scene.relay.silence()
    scene.federation.wait(lambda: scene.federation.progress(scene.job)["state"] == "waiting", "the server waits")
    at = scene.round()
    scene.relay.cut()
    scene.says("a", "Trying again.", since=since)
    assert at <= scene.round() <= at + 1  # what had left already may still count
    scene.relay.mend()
    scene.all_take_part()
    scene.federation.wait(lambda: scene.federation.progress(scene.job)["state"] == "running", "the server goes on")
    scene.federation.wait_for_round(scene.job, begin + 2, patience=PATIENCE)
    assert all(child.running for child in scene.federation.sites.values())


def test_a_slow_site_delays_a_round_by_the_deadline_and_comes_back(scene):
    stopped = scene.pid("c")
    os.kill(stopped, signal.SIGSTOP)
    try:
        before, at = scene.contributions("c"), scene.round()
        waits = []
        for number in (at + 1, at + 2, at + 3):
            begin = time.monotonic()
            scene.federation.wait_for_round(scene.job, number, patience=PATIENCE)
            waits.append(time.monotonic() - begin)
        assert max(waits) < DEADLINE + 20, "a round waited for longer than the study says"
        assert scene.contributions("c") == before
    finally:
        os.kill(stopped, signal.SIGCONT)
    scene.takes_part("c", more=2)
    assert scene.pid("c") == stopped


def test_a_second_client_of_a_site_is_refused(scene):
    folder = str(scene.federation.site_folder("a"))
    second = scene.federation.command("site", "start", "--site", folder, status=1)
    assert "running already" in second.stderr
    scene.takes_part("a")


def test_a_full_disk_refuses_before_anything_is_released(scene):
    """The disk of b is full for everything but the small: no ledger entry can be written."""
    pid, ledger = scene.pid("b"), scene.federation.site_folder("b") / "ledger.sqlite"
    room = 24 * 1024
    scene.federation.wait(lambda: ledger.stat().st_size > room, "a ledger that is larger than the room")
    before, since = resource.prlimit(pid, resource.RLIMIT_FSIZE), scene.heard("b")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        scene.says("b", "refused: ", since=since)
        gone, at = scene.contributions("b"), scene.round()
        scene.federation.wait_for_round(scene.job, at + 3, patience=PATIENCE)
        assert scene.contributions("b") == gone
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    scene.takes_part("b", more=2)
    scene.federation.here("site", "ledger", "--verify", "--site", str(scene.federation.site_folder("b")))


def test_a_clock_that_is_off_by_an_hour_is_said_so(scene):
    scene.stop_site("c")
    folder = str(scene.federation.site_folder("c"))
    doctor = scene.federation.command("site", "doctor", "--site", folder, before=AN_HOUR_AHEAD, status=1).stdout
    (line,) = [line for line in doctor.splitlines() if line.startswith("FAILED   clock")]
    assert "3600" in line or "an hour" in line or "60 min" in line, line
    before, ours = scene.contributions("c"), scene.federation.sites["c"]
    scene.federation.sites["c"] = scene.federation.site_process("c", before=AN_HOUR_AHEAD)
    try:
        scene.federation.start_site("c")
        scene.federation.wait(
            lambda: (
                "clock is 3600 s ahead" in scene.federation.said("c")
                or "clock is 3599 s ahead" in scene.federation.said("c")
            ),
            "the client says what is wrong with the clock",
        )
        scene.takes_part("a", "b")
        assert scene.contributions("c") == before
        scene.stop_site("c")
    finally:
        scene.federation.sites["c"].kill()
        scene.federation.sites["c"] = ours
    scene.federation.start_site("c")
    scene.takes_part("c")


def test_an_expired_certificate_is_refused_with_the_remedy_and_the_remedy_helps(scene):
    scene.stop_site("c")
    folder = scene.federation.site_folder("c")
    issue_expired(scene.federation.folder, folder, site="c")
    doctor = scene.federation.here("site", "doctor", "--site", str(folder), status=1)
    assert "certificate expired" in doctor
    assert "enroll CODE" in doctor
    start = scene.federation.command("site", "start", "--site", str(folder), status=1)
    assert "certificate expired" in start.stderr
    assert "failed: certificate" in start.stderr
    scene.takes_part("a", "b")
    scene.re_enrol("c")
    scene.federation.start_site("c")
    scene.takes_part("c")


def issue_expired(coordinator: Path, folder: Path, *, site: str) -> None:
    """Give a site a certificate of its own authority that was short, and is over."""
    key = read_ec_key(folder / "tls.key")
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    authority = Authority.open(coordinator / "ca.pem", coordinator / "ca.key")
    made = datetime.now(UTC) - timedelta(minutes=30)  # the authority itself is not much older
    text = request.public_bytes(Encoding.PEM).decode()
    certificate = authority.issue_site(text, site=site, days=0.01, now=made)
    (folder / "tls.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


def test_a_study_that_was_not_approved_or_with_other_code_gets_nothing_and_status_says_so(scene, tmp_path):
    federation = scene.federation
    second = small_study(name="second", sites=3, rounds=2, privacy={"epsilon": 0.5}, federation={"deadline": 120.0})
    job = federation.offer(second)
    for name in ("a", "b"):
        federation.approve(name, "second")
    waits_for(scene, job, RefusalReason.NOT_APPROVED)
    assert federation.round(job) == 0

    other = tmp_path / "other"
    copy_with_other_code(other)
    ours = federation.sites["c"]
    scene.stop_site("c")
    # Approved with that other code, so that what differs is the code alone.
    folder = str(federation.site_folder("c"))
    federation.command("site", "approve", "second", "--yes", "--site", folder, tree=other)
    federation.sites["c"] = federation.site_process("c", tree=other)
    try:
        federation.start_site("c")
        waits_for(scene, job, RefusalReason.CODE)
        assert federation.round(job) == 0
        scene.stop_site("c")
    finally:
        federation.sites["c"].kill()
        federation.sites["c"] = ours
    federation.approve("c", "second")
    federation.start_site("c")
    federation.wait(lambda: (job / "release").is_dir(), "the approved study is released", patience=PATIENCE)
    scene.all_take_part()


def waits_for(scene: Scene, job: Path, word: RefusalReason) -> None:
    """Wait until the operator is told why a study does not begin."""

    def told() -> bool:
        said = scene.federation.here("coordinator", "status", "--json", "--folder", str(scene.federation.folder))
        (study,) = [study for study in json.loads(said)["studies"] if study["job"] == job.name]
        return study["state"] == "waiting" and study["sites"].get("c") == REFUSING and word.value in study["message"]

    scene.federation.wait(told, f"the status says {word!r}", patience=PATIENCE, every=1.0)


def copy_with_other_code(tree: Path) -> None:
    """Copy the source, with a comment more."""
    for package in (*PACKAGES, "cli", "simulations", "perf"):
        shutil.copytree(TREE / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tree / "protocol" / "terms.py").open("a") as file:
        file.write("# Another version.\n")


def test_a_revoked_site_is_refused_at_once_and_no_other(scene):
    """The last: after it the federation has two sites."""
    folder = str(scene.federation.site_folder("c"))
    scene.federation.here("site", "doctor", "--site", folder)
    begin, since = time.monotonic(), scene.heard("c")
    scene.federation.here("coordinator", "revoke", "c", "--folder", str(scene.federation.folder))
    doctor = scene.federation.here("site", "doctor", "--site", folder, status=1)
    assert any(line.startswith("FAILED") and "gate" in line for line in doctor.splitlines()), doctor
    gone = scene.contributions("c")
    scene.says("c", "Ask the coordinator whether the site is still on the roster", since=since)
    sys.stdout.write(f"refused {time.monotonic() - begin:.1f} s after it was revoked\n")
    assert scene.contributions("c") <= gone + 1  # a round that it was asked for before
    scene.takes_part("a", "b", more=2)
    assert isinstance(scene.federation.sites["c"], Child)
    assert scene.federation.sites["c"].running, "it goes on asking: it may be let in again"
