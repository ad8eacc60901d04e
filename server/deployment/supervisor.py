"""The process of ``cloister coordinator start``: all that sites connect to, and nothing that outlives it.

One process listens for sites (gate and enrolment) and keeps Flower's SuperLink and SuperExec alive. It may be
killed at any moment: the kernel then ends what it started, the folder holds all that matters, and the next start
goes on from there. All it does beside keeping alive is repeated a few times a second, from the folder's present state:
registering who enrolled, submitting jobs, renewing certificates. No order of events is relied on.
"""

import asyncio
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from protocol.errors import CloisterError
from protocol.keys import passphrase
from protocol.tls import client_context, server_context
from server.deployment.authority import ensure_server_certificates
from server.deployment.dispatch import Dispatcher
from server.deployment.enrolment import enrolment_app
from server.deployment.folder import CoordinatorFolder
from server.deployment.gate.gate import Gate
from server.deployment.gate.server import serve
from server.deployment.gate.upstream import Upstream
from server.deployment.jobs import all_jobs
from server.deployment.membership import align_nodes
from server.deployment.processes.keeper import keep_alive
from server.deployment.processes.logs import trim_log
from server.deployment.processes.record import MARK_VARIABLE, SupervisorLock, new_record
from server.deployment.study_offers import site_routes
from server.deployment.superlink import LOOPBACK, Control, LinkFiles, is_healthy, prepare

_LOGGER = logging.getLogger("cloister.coordinator")
_TEND_SECONDS = 0.25
_ALIGN_SECONDS = 60.0
_HEALTH_SECONDS = 5.0
_SICK_SECONDS = 60.0  # so long without an answer, and the SuperLink is taken for dead
_UPKEEP_SECONDS = 30.0
_CERTIFICATE_SECONDS = 3600.0
_MOST_LOG_BYTES = 8_000_000
_SUPEREXEC_GRACE, _SUPERLINK_GRACE = 3.0, 3.0
_LOCAL_NAMES = frozenset({"localhost"})


class Supervisor:
    """The coordinator's process.

    Args:
        folder: The coordinator's folder.
        device: Where servers compute, such as ``cpu``.
    """

    def __init__(self, folder: CoordinatorFolder, *, device: str = "cpu") -> None:
        self._folder = folder
        self._device = device
        self._files = link_files(folder)
        self._record = new_record()
        self._ports: set[int] = set()
        self._stop = asyncio.Event()
        self._contexts: list[ssl.SSLContext] = []
        self._registered: tuple[tuple[str, str], ...] | None = None
        self._aligned = 0.0
        self._executors, self._executors_seen = 0, 0  # how often SuperExec was started

    async def run(self, *, on_ready: Callable[[], None]) -> None:
        """Run until SIGTERM or SIGINT; end everything that was started, whatever ended it.

        Args:
            on_ready: Is called once, when sites can connect and studies can run.

        Raises:
            InputError: Another coordinator runs on the folder, a port is taken, or a key cannot be read.
            FederationError: Flower is not installed.
        """
        lock = SupervisorLock(self._folder.root)
        try:
            if strays := lock.clear_up():
                _LOGGER.warning("ended %d processes that the last start left behind", len(strays))
            _spare_proxies()
            ensure_server_certificates(self._folder)
            self._programs = prepare(self._files, mark={MARK_VARIABLE: self._record.mark})
            self._write_record()
            loop = asyncio.get_running_loop()
            for kind in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(kind, self._stop.set)
            await self._work(on_ready)
        finally:
            lock.release()

    async def _work(self, on_ready: Callable[[], None]) -> None:
        """Do everything at once until one is over: what is over first is asked to stop, or failed."""
        with self._folder.roster() as roster:
            self._roster = roster
            self._control = Control(self._files)
            self._dispatcher = Dispatcher(self._control, self._programs.bundle, device=self._device)
            upstream = Upstream(
                url=f"https://{LOOPBACK}:{self._files.port}", context=client_context(ca=self._folder.ca)
            )
            # The servers first: they need the passphrase, and without it nothing else may have begun.
            works = self._servers(upstream)
            works += [self._stop.wait(), self._keep_superlink(), self._keep_superexec()]
            works += [self._tend(on_ready), self._watch_health(), self._keep_up()]
            tasks = [asyncio.ensure_future(work) for work in works]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                # The SuperLink ends when the last connection to it has.
                await upstream.close()
                self._control.close()
                await asyncio.to_thread(self._programs.superexec.end, within_s=_SUPEREXEC_GRACE)
                await asyncio.to_thread(self._programs.superlink.end, within_s=_SUPERLINK_GRACE)
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()

    def _servers(self, upstream: Upstream) -> list[Coroutine[Any, Any, Any]]:
        """Return the two public servers, on every address that they listen on."""
        folder, authority = self._folder, self._folder.authority()
        routes = site_routes(folder, self._roster, authority)
        gate = Gate(roster=self._roster, upstream=upstream, routes=routes)
        doors = (
            (folder.port, gate, True),
            (folder.enrolment_port, enrolment_app(folder, self._roster, authority), False),
        )
        works: list[Coroutine[Any, Any, Any]] = []
        for port, application, certified in doors:
            context = server_context(
                ca=folder.ca,
                certificate=folder.server_certificate,
                key=folder.server_key,
                require_client=certified,
            )
            self._contexts.append(context)
            works += [
                serve(application, host=host, port=port, context=context, certificates_in_state=certified,
                      listening=self._ports.add, site_of=gate.site_of)
                for host in listening_hosts(folder.host)
            ]  # fmt: skip
        return works

    async def _keep_superlink(self) -> None:
        await keep_alive(self._programs.superlink, started=self._write_record)

    async def _keep_superexec(self) -> None:
        """Start SuperExec when there is somebody whom it can ask, and keep it alive."""
        while not await asyncio.to_thread(is_healthy, self._files):
            await asyncio.sleep(_TEND_SECONDS / 2)

        def started() -> None:
            self._write_record()
            self._executors += 1

        await keep_alive(self._programs.superexec, started=started)

    async def _tend(self, on_ready: Callable[[], None]) -> None:
        """Bring SuperLink and folder together again and again; say once when everything answers."""
        ready, fresh, complaint = False, True, ""
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            if not self._programs.superexec.running:
                continue
            try:
                if fresh:
                    await asyncio.to_thread(self._end_old_runs)
                    fresh = False
                await asyncio.to_thread(self._tend_once)
            except CloisterError as error:
                if str(error) != complaint:
                    _LOGGER.warning("%s", error)
                complaint = str(error)
                continue
            complaint = ""
            if not ready and {self._folder.port, self._folder.enrolment_port} <= self._ports:
                ready = True
                self._record = replace(self._record, ready=datetime.now(UTC).isoformat(timespec="seconds"))
                self._write_record()
                on_ready()

    def _end_old_runs(self) -> None:
        """End the runs of an earlier start: their servers are dead, and each job gets a new one."""
        for run in self._control.unfinished():
            self._control.stop(run)

    def _tend_once(self) -> None:
        members = self._roster.members()
        now = tuple((member.name, member.node_key) for member in members)
        if now != self._registered or time.monotonic() - self._aligned > _ALIGN_SECONDS:
            # Again now and then: whoever is on this machine can take nodes off the SuperLink's list.
            self._aligned = time.monotonic()
            problems = tuple(align_nodes(self._control, members))
            if problems != self._record.problems:
                for problem in problems:
                    _LOGGER.error("%s", problem)
                self._record = replace(self._record, problems=problems)
                self._write_record()
            if now != self._registered:
                _LOGGER.info("sites: %s", ", ".join(name for name, _ in now) or "none yet")
            self._registered = now
        if self._executors_seen != self._executors:
            if self._executors_seen:
                self._dispatcher.lost()
            self._executors_seen = self._executors
        self._dispatcher.tick(all_jobs(self._folder.studies))

    async def _watch_health(self) -> None:
        """End a SuperLink that is alive and does not answer; it is started again."""
        heard = time.monotonic()
        while True:
            await asyncio.sleep(_HEALTH_SECONDS)
            link = self._programs.superlink
            if await asyncio.to_thread(is_healthy, self._files):
                heard = time.monotonic()
            elif link.running and time.monotonic() - max(heard, link.started) > _SICK_SECONDS:
                _LOGGER.warning("%s does not answer; it is started again", link.name)
                link.terminate(signal.SIGKILL)

    async def _keep_up(self) -> None:
        """Keep logs short and certificates valid."""
        checked = time.monotonic()
        while True:
            await asyncio.sleep(_UPKEEP_SECONDS)
            for log in self._folder.logs.glob("*.log"):
                trim_log(log, most=_MOST_LOG_BYTES)
            if time.monotonic() - checked > _CERTIFICATE_SECONDS:
                checked = time.monotonic()
                self._renew_certificates()

    def _renew_certificates(self) -> None:
        try:
            renewed = ensure_server_certificates(self._folder)
        except CloisterError as error:
            _LOGGER.error("%s", error)
            return
        if not renewed:
            return
        for context in self._contexts:
            # A context in use takes the new certificate for the next handshake.
            context.load_cert_chain(
                certfile=str(self._folder.server_certificate),
                keyfile=str(self._folder.server_key),
                password=lambda: passphrase() or b"",
            )
        self._programs.superlink.terminate()  # and is started again, with its new certificate
        _LOGGER.info("the coordinator's certificates were renewed")

    def _write_record(self) -> None:
        children = (self._programs.superlink, self._programs.superexec)
        living = tuple(identity for child in children if (identity := child.identity) is not None)
        self._record = replace(self._record, children=living)
        self._record.write(self._folder.root)


def link_files(folder: CoordinatorFolder) -> LinkFiles:
    """Return where the SuperLink's things lie in a coordinator's folder."""
    return LinkFiles(
        home=folder.root / "flower",
        ca=folder.ca,
        certificate=folder.link_certificate,
        key=folder.link_key,
        secret=folder.superexec_secret,
        database=folder.flower_database,
        logs=folder.logs,
        studies=folder.studies,
        port=folder.superlink_port,
    )


def listening_hosts(host: str) -> tuple[str, ...]:
    """Return the addresses to listen on so that a host's name or address is reached.

    A name of this machine's loopback device is served there alone; any other on every address of the machine, since it
    may be that of a router before it.

    Example:
        >>> listening_hosts("127.0.0.1")
        ('127.0.0.1',)
    """
    try:
        address = ip_address("127.0.0.1" if host in _LOCAL_NAMES else host)
    except ValueError:
        address = None
    if address is not None and address.is_loopback:
        return (str(address),)
    return ("0.0.0.0", "::") if _has_ipv6() else ("0.0.0.0",)  # noqa: S104 - the two ports are for the outside


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def _spare_proxies() -> None:
    """Reach this machine itself without the environment's proxy."""
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        os.environ[name] = f"{known},{LOOPBACK},localhost".lstrip(",")
