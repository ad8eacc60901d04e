"""Flower's SuperLink and SuperExec: how they are started, and what the coordinator asks of them.

The SuperLink listens on the loopback device only, behind TLS, with node authentication, a database, and its apps
in processes of their own (the one form that survives a kill). Its control API has no password: any user of this
machine reaches it. What they could do with it is to disturb; code they submit is never run
(`server.deployment.processes.server_app`), and a site takes part only in what the coordinator signed.
"""

import hashlib
import http.client
import shlex
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx

from protocol.errors import FederationError
from protocol.keys import PASSPHRASE_FILE_VARIABLE, PASSPHRASE_VARIABLE
from server.deployment.processes import leash
from server.deployment.processes.child import Child
from server.deployment.processes.flower import clean_environment, flower_program, write_launcher
from server.deployment.processes.server_app import BUNDLE_VARIABLE, STUDIES_VARIABLE

LOOPBACK = "127.0.0.1"
_RUN_CONFIG_KEYS = ("study", "release", "simulated", "device", "job")
_TASK_POLL_SECONDS = "0.5"  # asked over TLS, also when nothing runs; what it delays is the start of a run
_HEALTH_SECONDS = 3.0
_MOST_RUNS = 1000
_SERVER_APP = "flwr-serverapp"


@dataclass(frozen=True, kw_only=True)
class LinkFiles:
    """Where the SuperLink's things lie.

    Attributes:
        home: Flower's private folder; made by :func:`prepare`.
        ca: Certificate of the authority, PEM.
        certificate: The SuperLink's own, for 127.0.0.1, PEM.
        key: Its private key, without a passphrase: the stock program cannot ask for one.
        secret: What SuperExec shows to get work.
        database: The SuperLink's memory.
        logs: Folder of logs.
        studies: Folder of jobs.
        port: Of the loopback device.
    """

    home: Path
    ca: Path
    certificate: Path
    key: Path
    secret: Path
    database: Path
    logs: Path
    studies: Path
    port: int


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """A node as the SuperLink knows it.

    Attributes:
        number: Flower's node id.
        key: Public key, PEM.
        registered: False once it was unregistered; Flower never takes that key again.
    """

    number: int
    key: bytes
    registered: bool


@dataclass(frozen=True, kw_only=True)
class LinkPrograms:
    """SuperLink and SuperExec, ready to be started.

    Attributes:
        superlink: Holds messages and runs.
        superexec: Starts a ServerApp for each run, in its own process group.
        bundle: The launcher as the SuperLink takes it.
    """

    superlink: Child
    superexec: Child
    bundle: bytes


def prepare(files: LinkFiles, *, mark: Mapping[str, str]) -> LinkPrograms:
    """Write what the programs need, and say how they are started.

    Args:
        files: Where everything lies.
        mark: Variables for their environment, by which they are known as this coordinator's.

    Returns:
        The programs, not started.
    """
    empty, programs = files.home / "empty", files.home / "programs"
    for folder in (files.home, empty, programs, files.logs):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    bundle = _bundle(files.home / "launcher")
    _write_programs(programs, files.logs / "serverapp.log")
    environment = clean_environment(home=files.home, programs=programs) | dict(mark)
    environment |= {
        BUNDLE_VARIABLE: hashlib.sha256(bundle).hexdigest(),
        STUDIES_VARIABLE: str(files.studies),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _TASK_POLL_SECONDS,
    }

    # The SuperLink needs no key of ours but its own, which is in the clear; servers, whom SuperExec starts, need one.
    public = {
        name: value
        for name, value in environment.items()
        if name not in (PASSPHRASE_VARIABLE, PASSPHRASE_FILE_VARIABLE)
    }

    def child(name: str, arguments: list[str], variables: Mapping[str, str]) -> Child:
        command = [flower_program(f"flower-{name}"), *arguments]
        return Child(name, command, environment=variables, folder=empty, log=files.logs / f"{name}.log")

    return LinkPrograms(
        superlink=child("superlink", _superlink_arguments(files), public),
        superexec=child("superexec", _superexec_arguments(files), environment),
        bundle=bundle,
    )


def is_healthy(files: LinkFiles) -> bool:
    """Say whether the SuperLink answers, under a certificate of this coordinator's authority."""
    try:
        context = ssl.create_default_context(cafile=str(files.ca))
        connection = http.client.HTTPSConnection(LOOPBACK, files.port, timeout=_HEALTH_SECONDS, context=context)
    except (OSError, ssl.SSLError):
        return False
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Control:
    """What the coordinator asks of its SuperLink; made once, closed at the end.

    Raises:
        FederationError: From every request: the SuperLink does not answer, or refuses.
    """

    def __init__(self, files: LinkFiles) -> None:
        from flwr.supercore.control import ControlHttpClient

        self._client = ControlHttpClient.from_server_address(
            server_address=f"{LOOPBACK}:{files.port}",
            insecure=False,
            root_certificates=files.ca.read_bytes(),
            interceptors=[],
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def nodes(self) -> list[NodeRecord]:
        """Return every node that was ever registered."""
        from flwr.proto.control_pb2 import ListNodesRequest

        with _told():
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [
            NodeRecord(number=node.node_id, key=node.public_key, registered=node.status != "unregistered")
            for node in found
        ]

    def register(self, key: bytes, *, name: str) -> None:
        """Let a node with this public key (PEM) connect."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        with _told():
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))

    def unregister(self, number: int) -> None:
        """Let a node connect no more."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        with _told():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=number))

    def submit(self, bundle: bytes, config: Mapping[str, str]) -> int:
        """Start a run of the launcher and return Flower's number of it."""
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        fab = fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {}))
        with _told():
            answer = self._client.StartRun(
                StartRunRequest(fab=fab, override_config=user_config_to_proto(dict(config)), federation="")
            )
        if not answer.HasField("run_id"):
            raise FederationError("Flower did not start a run.", remedy="Look at superlink.log.")
        return int(answer.run_id)

    def ending(self, run: int) -> str | None:
        """Return how a run ended, in Flower's words; None while it has not."""
        from flwr.proto.control_pb2 import ListRunsRequest

        with _told():
            status = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
        return f"{status.sub_status} {status.details}".strip() if status.status == "finished" else None

    def unfinished(self) -> list[int]:
        """Return the runs that have not ended."""
        from flwr.proto.control_pb2 import ListRunsRequest

        with _told():
            found = self._client.ListRuns(ListRunsRequest(limit=_MOST_RUNS)).run_dict
        return [number for number, run in found.items() if run.status.status != "finished"]

    def stop(self, run: int) -> None:
        """End a run; its ServerApp finds out when it next asks for anything."""
        from flwr.proto.control_pb2 import StopRunRequest

        with _told():
            self._client.StopRun(StopRunRequest(run_id=run))


@contextmanager
def _told() -> Iterator[None]:
    """Turn what httpx raises into one sentence."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        said = error.response.text.strip()[:300]
        raise FederationError(
            f"The SuperLink answered {error.response.status_code} to {error.request.url.path}: {said}",
            remedy="Look at superlink.log.",
        ) from error
    except (httpx.HTTPError, ValueError) as error:
        raise FederationError(f"The SuperLink does not answer: {error}.", remedy="Look at superlink.log.") from error


def _superlink_arguments(files: LinkFiles) -> list[str]:
    return [
        *("--host", LOOPBACK, "--port", str(files.port)),
        *("--ssl-ca-certfile", str(files.ca), "--ssl-certfile", str(files.certificate)),
        *("--ssl-keyfile", str(files.key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(files.secret)),
        *("--database", str(files.database)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]


def _superexec_arguments(files: LinkFiles) -> list[str]:
    return [
        *("--runtime-api-address", f"{LOOPBACK}:{files.port}", "--root-certificates", str(files.ca)),
        *("--superexec-auth-secret-file", str(files.secret)),
    ]


def _bundle(folder: Path) -> bytes:
    """Build the app without code."""
    import warnings

    from flwr.cli.build import build_fab_from_disk

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pathspec, by flwr
        return build_fab_from_disk(write_launcher(folder, run_config_keys=_RUN_CONFIG_KEYS))


def _write_programs(folder: Path, log: Path) -> None:
    """Write what SuperExec starts by name: our ServerApp, on a leash, and a refusal of every other kind of task."""
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    python, tied = shlex.quote(sys.executable), f"-I -S {shlex.quote(leash.__file__)} -"
    app = f'{python} -m server.deployment.processes.server_app "$@" >>{shlex.quote(str(log))} 2>&1'
    for name in TASK_TYPE_TO_COMMAND.values():
        line = f"exec {python} {tied} {app}" if name == _SERVER_APP else "exit 1"
        path = folder / name
        path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        path.chmod(0o700)
