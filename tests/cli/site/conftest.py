"""The commands of a site, run in this process."""

import asyncio
import socket
import threading
from dataclasses import dataclass

import pytest

from cli.app import run
from protocol.tls import client_context, server_context
from server.deployment.enrolment import enrolment_app
from server.deployment.folder import CoordinatorFolder
from server.deployment.gate.gate import Gate
from server.deployment.gate.server import serve
from server.deployment.gate.upstream import Upstream
from server.deployment.roster import Roster
from server.deployment.study_offers import site_routes


@pytest.fixture(autouse=True)
def nothing_from_the_environment(monkeypatch):
    for name in ("CLOISTER_SITE", "CLOISTER_PASSPHRASE", "CLOISTER_PASSPHRASE_FILE", "HTTPS_PROXY", "https_proxy",
                 "ALL_PROXY", "all_proxy"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site_cli(capfd):
    """Run ``cloister site ...``; give exit status, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run(["site", *map(str, arguments)])
        caught = capfd.readouterr()
        return status, caught.out, caught.err

    return call


@dataclass(kw_only=True)
class Hub:
    """A coordinator's two public doors, without Flower behind them."""

    folder: CoordinatorFolder
    roster: Roster

    def code(self, name: str) -> str:
        """A fresh code for a site."""
        return self.folder.invitation(name, secret=self.roster.invite(name)).text()


def free_ports(count: int) -> list[int]:
    """Ports that were free an instant ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


@pytest.fixture
def hub(tmp_path):
    ports = dict(zip(("port", "enrolment_port", "superlink_port"), free_ports(3), strict=True))
    folder = CoordinatorFolder.create(tmp_path / "hub", name="hearts", host="127.0.0.1", **ports)
    authority, listening, doors = folder.authority(), threading.Semaphore(0), []

    async def run() -> None:
        upstream = Upstream(url=f"https://127.0.0.1:{folder.superlink_port}", context=client_context(ca=folder.ca))
        gate = Gate(roster=roster, upstream=upstream, routes=site_routes(folder, roster, authority))
        enrolment = enrolment_app(folder, roster, authority, failure_seconds=0.01)
        for port, application, certified in ((folder.port, gate, True), (folder.enrolment_port, enrolment, False)):
            context = server_context(
                ca=folder.ca, certificate=folder.server_certificate, key=folder.server_key, require_client=certified
            )
            door = serve(
                application, host="127.0.0.1", port=port, context=context, certificates_in_state=certified,
                listening=lambda _: listening.release(),
            )  # fmt: skip
            doors.append(asyncio.create_task(door))
        await asyncio.gather(*doors, return_exceptions=True)
        await upstream.close()

    with folder.roster() as roster, asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(run(),))
        thread.start()
        try:
            assert listening.acquire(timeout=20)
            assert listening.acquire(timeout=20)
            yield Hub(folder=folder, roster=roster)
        finally:
            for door in doors:
                loop.call_soon_threadsafe(door.cancel)
            thread.join()


@pytest.fixture
def records(tmp_path):
    """A site's records."""
    path = tmp_path / "visits.csv"
    path.write_text("age,colour,ill\n21,red,true\n25,green,false\n29,,true\n")
    return path


@pytest.fixture
def enrolled(hub, site_cli, tmp_path, records):
    """A site that is ready but for an approved study."""
    folder = tmp_path / "north"
    status, _, err = site_cli("enroll", hub.code("north"), "--site", folder, "--data", records, "--epsilon", "8")
    assert status == 0, err
    return folder
