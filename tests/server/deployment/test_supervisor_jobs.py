"""Jobs and their runs, with a stand-in for the SuperLink and a clock that is moved by hand."""

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.errors import FederationError, InputError, StudyError
from protocol.keys import public_hex
from protocol.signed_study import SignedStudy
from server.deployment.dispatch import Dispatcher
from server.deployment.jobs import agreed_study, all_jobs, create_job, find_job, jobs_of, read_study
from server.deployment.membership import align_nodes
from server.deployment.roster import Member
from server.deployment.study_offers import offers
from server.deployment.superlink import NodeRecord
from server.progress import JobState, ProgressFile

KEY = Ed25519PrivateKey.generate()


def member(name: str, **fields) -> Member:
    now = datetime.now(UTC)
    known = {
        "name": name, "identity_key": public_hex(Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32))),
        "node_key": f"node of {name}", "certificate": "00" * 32, "not_after": now, "enrolled": now, "revoked": None,
        "seen": None,
    }  # fmt: skip
    return Member(**(known | fields))


NORTH, SOUTH, EAST = member("north"), member("south"), member("east")


@contextmanager
def at_work(job):
    """Hold a job's lock, as a server does."""
    descriptor = os.open(job.folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def tell(job, **facts):
    ProgressFile(job.folder / "progress.json", rounds=3).tell(**facts)


@pytest.fixture
def job(tmp_path, tiny_study):
    """A job of a study of two sites and three rounds."""
    study = agreed_study(tiny_study(), [NORTH, SOUTH], sites=None)
    return create_job(tmp_path, SignedStudy.sign(study, KEY))


class Link:
    """Remembers what was asked; runs end when the test says so."""

    def __init__(self):
        self.submitted, self.stopped, self.endings, self.away = [], [], {}, False

    def submit(self, bundle, config):
        if self.away:
            raise FederationError("The SuperLink does not answer.", remedy="-")
        self.submitted.append((bundle, dict(config)))
        return len(self.submitted)

    def ending(self, run):
        return self.endings.get(run)

    def stop(self, run):
        self.stopped.append(run)


@pytest.fixture
def scene():
    """Link, dispatcher, and a list whose only element is the time."""
    link, now = Link(), [1000.0]
    return link, Dispatcher(link, b"bundle", device="cpu", clock=lambda: now[0]), now


def test_a_job_is_submitted_once_while_its_server_begins_and_works(job, scene):
    link, dispatcher, now = scene
    for _ in range(20):
        dispatcher.tick([job])
        now[0] += 1
    assert link.submitted == [(b"bundle", {"job": str(job.folder), "device": "cpu"})]
    with at_work(job):
        for _ in range(500):
            dispatcher.tick([job])
            now[0] += 1
    assert len(link.submitted) == 1
    assert link.stopped == []


def test_a_server_that_died_on_its_way_is_replaced_at_once(job, scene):
    link, dispatcher, _ = scene
    dispatcher.tick([job])
    with at_work(job):
        dispatcher.tick([job])
        tell(job, state=JobState.RUNNING, round_number=1)
    dispatcher.tick([job])
    assert len(link.submitted) == 2
    assert link.stopped == [1]


def test_a_run_that_fails_at_once_is_tried_again_later_and_later(job, scene):
    link, dispatcher, now = scene
    times = []
    while len(times) < 9:
        before = len(link.submitted)
        dispatcher.tick([job])
        if len(link.submitted) > before:
            times.append(now[0])
            link.endings[len(link.submitted)] = "failed: no such module"
        now[0] += 0.25
    gaps = [round(later - earlier) for earlier, later in zip(times, times[1:], strict=False)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60]
    assert link.stopped == []


def test_a_run_that_never_begins_is_given_up(job, scene):
    link, dispatcher, now = scene
    dispatcher.tick([job])
    now[0] += 119
    dispatcher.tick([job])
    assert len(link.submitted) == 1
    now[0] += 3
    dispatcher.tick([job])
    now[0] += 3
    dispatcher.tick([job])
    assert len(link.submitted) == 2
    assert link.stopped == [1]


def test_when_the_executor_died_what_had_not_begun_is_submitted_anew(job, scene):
    link, dispatcher, _ = scene
    dispatcher.tick([job])
    dispatcher.lost()
    dispatcher.tick([job])
    assert link.stopped == [1]
    assert len(link.submitted) == 2


def test_finished_failed_and_stopped_jobs_get_no_run(job, scene):
    link, dispatcher, now = scene
    tell(job, state=JobState.FAILED, message="no room")
    dispatcher.tick([job])
    job.stop()
    dispatcher.tick([job])
    job.resume()
    assert job.progress().state is JobState.WAITING
    job.release.mkdir()
    dispatcher.tick([job])
    assert link.submitted == []
    job.release.rmdir()
    dispatcher.tick([job])
    assert len(link.submitted) == 1
    del now


def test_a_stopped_job_may_end_its_round_but_not_linger(job, scene):
    link, dispatcher, now = scene
    dispatcher.tick([job])
    with at_work(job):
        dispatcher.tick([job])
        job.stop()
        dispatcher.tick([job])
        assert link.stopped == []
        now[0] += 21
        dispatcher.tick([job])
    assert link.stopped == [1]
    assert job.progress().state is JobState.STOPPED
    dispatcher.tick([job])
    assert len(link.submitted) == 1


def test_a_damaged_job_does_not_hold_up_another(tmp_path, job, scene, tiny_study):
    link, dispatcher, _ = scene
    other = create_job(tmp_path, SignedStudy.sign(agreed_study(tiny_study(), [NORTH, EAST], sites=None), KEY))
    (job.folder / "study.json").write_text("{}")
    dispatcher.tick([job, other])
    dispatcher.tick([job, other])
    assert [config["job"] for _, config in link.submitted] == [str(other.folder)]


def test_a_link_that_is_away_is_told_to_the_caller(job, scene):
    link, dispatcher, _ = scene
    link.away = True
    with pytest.raises(FederationError, match="does not answer"):
        dispatcher.tick([job])
    link.away = False
    dispatcher.tick([job])
    assert len(link.submitted) == 1


def test_a_job_holds_the_signed_study_and_a_run_of_its_own(tmp_path, job):
    signed = job.signed_study()
    signed.verify(public_hex(KEY))
    assert job.name == signed.study.hash[:16]
    again = create_job(tmp_path, signed)
    assert again.name == f"{job.name}-2"
    runs = [json.loads((each.folder / "run.json").read_text()) for each in (job, again)]
    assert {run["version"] for run in runs} == {1}
    assert len({run["run"] for run in runs} | {"0" * 64}) == 3
    assert all(len(run["run"]) == 64 for run in runs)
    assert [each.name for each in jobs_of(tmp_path, signed.study)] == [job.name, again.name]
    assert (job.folder.stat().st_mode & 0o777, (job.folder / "study.json").stat().st_mode & 0o777) == (0o700, 0o600)
    (tmp_path / ".half").mkdir()
    (tmp_path / "0123456789abcdef").mkdir()  # without run.json: not finished being made
    assert len(all_jobs(tmp_path)) == 2


def test_a_job_is_found_by_its_name_its_beginning_and_its_study(tmp_path, job, tiny_study):
    assert find_job(tmp_path, job.name).folder == find_job(tmp_path, job.name[:5]).folder == job.folder
    assert find_job(tmp_path, "tiny").folder == job.folder
    with pytest.raises(InputError, match="'large'"):
        find_job(tmp_path, "large")
    create_job(tmp_path, SignedStudy.sign(agreed_study(tiny_study(), [NORTH, EAST], sites=None), KEY))
    with pytest.raises(InputError, match="several"):
        find_job(tmp_path, "tiny")


def test_the_roster_is_filled_in_and_the_number_of_sites_is_the_studys(tiny_study):
    study = agreed_study(tiny_study(), [NORTH, SOUTH, EAST], sites=["south", "north"])
    assert study.federation.roster == {"north": NORTH.identity_key, "south": SOUTH.identity_key}
    assert agreed_study(study, [NORTH, SOUTH, EAST], sites=None).hash == study.hash
    with pytest.raises(StudyError, match="for 2 sites; chosen are 3: east, north, south"):
        agreed_study(tiny_study(), [NORTH, SOUTH, EAST], sites=None)
    with pytest.raises(StudyError, match="west: not enrolled"):
        agreed_study(tiny_study(), [NORTH, SOUTH], sites=["north", "west"])
    renewed = replace(SOUTH, identity_key=EAST.identity_key)
    with pytest.raises(StudyError, match="other sites or keys"):
        agreed_study(study, [NORTH, renewed], sites=None)


def test_a_study_is_read_in_both_forms(tmp_path, job):
    assert read_study(job.folder / "study.json") == job.signed_study()
    with pytest.raises(StudyError, match="No such file"):
        read_study(tmp_path / "none.json")
    (tmp_path / "odd").write_bytes(b"\xff\xfe")
    with pytest.raises(StudyError, match="no text"):
        read_study(tmp_path / "odd")


def test_a_site_is_offered_what_waits_for_it_and_nothing_else(tmp_path, job, tiny_study):
    text = job.signed_study().to_text()
    assert offers(tmp_path, NORTH) == [text]
    assert offers(tmp_path, EAST) == []
    assert offers(tmp_path, replace(NORTH, identity_key=EAST.identity_key)) == []
    again = create_job(tmp_path, job.signed_study())
    assert offers(tmp_path, NORTH) == [text]
    for each in (job, again):
        each.stop()
    assert offers(tmp_path, NORTH) == []
    job.resume()
    other = create_job(tmp_path, SignedStudy.sign(agreed_study(tiny_study(), [NORTH, EAST], sites=None), KEY))
    (other.folder / "study.json").write_text("{}")
    assert offers(tmp_path, NORTH) == [text]


class Nodes:
    """A SuperLink that knows nodes alone, and as Flower's never takes a key twice."""

    def __init__(self):
        self.known: list[NodeRecord] = []

    def nodes(self):
        return list(self.known)

    def register(self, key, *, name):
        if any(node.key == key for node in self.known):
            raise FederationError(f"{name}: key in use.", remedy="-")
        self.known.append(NodeRecord(number=len(self.known) + 1, key=key, registered=True))

    def unregister(self, number):
        self.known = [replace(node, registered=node.registered and node.number != number) for node in self.known]

    @property
    def registered(self):
        return sorted(node.key.decode() for node in self.known if node.registered)


def test_the_link_knows_the_nodes_of_the_members_and_no_others():
    link = Nodes()
    assert align_nodes(link, [NORTH, SOUTH]) == []
    numbers = [node.number for node in link.nodes()]
    assert align_nodes(link, [NORTH, SOUTH]) == []
    assert [node.number for node in link.nodes()] == numbers
    moved = replace(SOUTH, node_key="a new node of south")
    assert align_nodes(link, [NORTH, moved]) == []
    assert link.registered == ["a new node of south", "node of north"]
    assert align_nodes(link, [moved]) == []
    (problem,) = align_nodes(link, [NORTH, moved, EAST])
    assert problem.startswith("north: its node key was revoked")
    assert link.registered == ["a new node of south", "node of east"]
