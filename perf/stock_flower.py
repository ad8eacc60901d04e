"""Rounds of a no-op app under Flower's own deployment runtime; the peer of `perf.deployment`, for measuring only.

SuperLink and SuperExec as Flower recommends them for a deployment that lasts (TLS, node authentication, a database,
apps in processes of their own), three SuperNodes with everything at its default. A round is one
``grid.send_and_receive`` of one array, which the clients send back.
"""

import json
import textwrap
import time
import warnings
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from perf.processes import Processes, free_ports
from protocol.errors import FederationError
from protocol.keys import new_ec_key

_PROJECT = """
    [project]
    name = "nothing"
    version = "1.0.0"
    description = "Sends an array back."
    license = "Apache-2.0"

    [tool.flwr.app]
    publisher = "nobody"

    [tool.flwr.app.components]
    serverapp = "nothing.server:app"
    clientapp = "nothing.client:app"

    [tool.flwr.app.config]
    sites = 3
    rounds = 1
    parameters = 1
    times = ""
"""
_SERVER = """
    import json
    import time
    from pathlib import Path

    import numpy as np
    from flwr.app import ArrayRecord, Message, RecordDict
    from flwr.serverapp import ServerApp

    app = ServerApp()


    @app.main()
    def main(grid, context):
        config, random, times = context.run_config, np.random.default_rng(0), []
        while len(nodes := list(grid.get_node_ids())) < config["sites"]:
            time.sleep(0.5)
        for _ in range(config["rounds"]):
            begin = time.perf_counter()
            model = ArrayRecord([random.random(config["parameters"], dtype=np.float32)])
            messages = [Message(RecordDict({"model": model}), dst_node_id=node, message_type="train") for node in nodes]
            replies = list(grid.send_and_receive(messages))
            if len(replies) != len(nodes) or any(reply.has_error() for reply in replies):
                raise RuntimeError("a client did not answer")
            times.append(time.perf_counter() - begin)
        Path(config["times"]).write_text(json.dumps(times))
"""
_CLIENT = """
    from flwr.app import Message
    from flwr.clientapp import ClientApp

    app = ClientApp()


    @app.train()
    def train(message, context):
        return Message(message.content, reply_to=message)
"""


def measure_flower(folder: Path, *, sites: int, parameters: int, rounds: int) -> list[float]:
    """Return the seconds of each round.

    Args:
        folder: An empty folder.
        sites: Number of SuperNodes.
        parameters: Length of the float32 array that goes both ways.
        rounds: How many rounds, all of them told.

    Raises:
        FederationError: If Flower fails.
    """
    (port,) = free_ports(1)
    with Processes(folder) as processes:
        # An authority and the SuperLink's certificate; nothing else of Cloister's is used.
        gate, enrolment = free_ports(2)
        made = folder / "made"
        processes.do("cloister", "coordinator", "init", made, "--name", "peer", "--host", "127.0.0.1", "--port", gate,
                     "--enrolment-port", enrolment, "--superlink-port", port)  # fmt: skip
        secret = made / "superexec.secret"
        processes.start(
            "superlink", "flower-superlink", "--isolation", "process", "--host", "127.0.0.1", "--port", port,
            "--ssl-ca-certfile", made / "ca.pem", "--ssl-certfile", made / "link.pem", "--ssl-keyfile",
            made / "link.key", "--database", folder / "flower.sqlite", "--enable-supernode-auth",
            "--superexec-auth-secret-file", secret, "--disable-runtime-dependency-installation",
            environment={"FLWR_HOME": str(folder / "home")},
        )  # fmt: skip
        with _Control(port, made / "ca.pem") as control:
            processes.wait_for(control.answers, what="the SuperLink")
            processes.start(
                "superexec", "flower-superexec", "--root-certificates", made / "ca.pem", "--runtime-api-address",
                f"127.0.0.1:{port}", "--superexec-auth-secret-file", secret,
                environment={"FLWR_HOME": str(folder / "home")},
            )  # fmt: skip
            for number, runtime in enumerate(free_ports(sites)):
                key = folder / f"node-{number}.key"
                control.register(key)
                processes.start(
                    f"node-{number}", "flower-supernode", "--root-certificates", made / "ca.pem", "--superlink",
                    f"127.0.0.1:{port}", "--auth-supernode-private-key", key, "--port", runtime,
                    environment={"FLWR_HOME": str(folder / f"home-{number}")},
                )  # fmt: skip
            times = folder / "times.json"
            control.run(_bundle(folder / "app"), sites=sites, parameters=parameters, rounds=rounds, times=str(times))
            processes.wait_for(times.exists, what="Flower's rounds", seconds=120 + 40 * rounds, every=0.5)
            time.sleep(0.1)
            found: list[float] = json.loads(times.read_text())
    return found


def _bundle(folder: Path) -> bytes:
    """Build the app."""
    from flwr.cli.build import build_fab_from_disk

    (folder / "nothing").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(textwrap.dedent(_PROJECT))
    for name, code in {"__init__": "", "server": _SERVER, "client": _CLIENT}.items():
        (folder / "nothing" / f"{name}.py").write_text(textwrap.dedent(code))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return build_fab_from_disk(folder)


class _Control:
    """Flower's control API, as its command line uses it."""

    def __init__(self, port: int, ca: Path) -> None:
        from flwr.supercore.control.control_http_client import ControlHttpClient

        self._client = ControlHttpClient.from_server_address(f"127.0.0.1:{port}", False, ca.read_bytes(), [])  # noqa: FBT003 - Flower's signature

    def __enter__(self) -> "_Control":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._client.close()

    def answers(self) -> bool:
        """Say whether the SuperLink answers."""
        import httpx
        from flwr.proto.control_pb2 import ListNodesRequest

        try:
            self._client.ListNodes(ListNodesRequest())
        except httpx.HTTPError:
            return False
        return True

    def register(self, path: Path) -> None:
        """Make a node's key, and make it known."""
        from flwr.proto.control_pb2 import RegisterNodeRequest
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        key = new_ec_key(bits=384)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        self._client.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(key.public_key())))

    def run(self, bundle: bytes, **config: str | int) -> None:
        """Start a run."""
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab
        from flwr.supercore.inflatable.inflatable_object import get_object_id

        fab = fab_to_proto(Fab(get_object_id(bundle), bundle, {}))
        started = self._client.StartRun(StartRunRequest(fab=fab, override_config=user_config_to_proto(dict(config))))
        if not started.run_id:
            raise FederationError("Flower did not start the run.", remedy="See the SuperLink's log.")
