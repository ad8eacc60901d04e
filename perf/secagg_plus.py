"""One round of Flower's SecAgg+ in its own simulation: ``python -m perf.secagg_plus``; a peer, for measuring only.

It exists for Flower's legacy strategies. The client's time is all that it does in a round, with a training that
does nothing; the upload is the bytes of all that it answers.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# Before Flower is imported: a measurement tells nobody about itself.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from flwr.client import ClientApp, NumPyClient  # noqa: E402 - the environment comes first
from flwr.client.mod import secaggplus_mod  # noqa: E402 - the environment comes first
from flwr.common import ndarrays_to_parameters  # noqa: E402 - the environment comes first
from flwr.server import LegacyContext, ServerApp, ServerConfig  # noqa: E402 - the environment comes first
from flwr.server.strategy import FedAvg  # noqa: E402 - the environment comes first
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow  # noqa: E402 - the environment comes first
from flwr.simulation import run_simulation  # noqa: E402 - the environment comes first


def size_of(record: Any) -> int:
    """Bytes of what a message carries."""
    total = sum(len(array.data) for arrays in record.array_records.values() for array in arrays.values())
    for values in [*record.config_records.values(), *record.metric_records.values()]:
        for value in values.values():
            for item in value if isinstance(value, list) else [value]:
                total += len(item) if isinstance(item, bytes | str) else 8
    return total


def client_app(parameters: int, folder: str) -> ClientApp:
    """A client that trains nothing, wrapped in SecAgg+, wrapped in a stopwatch."""

    class Idle(NumPyClient):
        def fit(self, _parameters: Any, _config: Any) -> tuple[list[Any], int, dict[str, Any]]:
            return [np.zeros(parameters, dtype=np.float32)], 1, {}

    def stopwatch(message: Any, context: Any, call: Any) -> Any:
        begin = time.process_time()
        answer = call(message, context)
        spent = time.process_time() - begin
        line = json.dumps([context.node_id, spent, size_of(answer.content)])
        (Path(folder) / str(context.node_id)).open("a").write(line + "\n")
        return answer

    return ClientApp(client_fn=lambda _context: Idle().to_client(), mods=[stopwatch, secaggplus_mod])


def server_app(sites: int, parameters: int, times: list[float]) -> ServerApp:
    """One round over all sites, complete graph, the same threshold as ours."""
    app = ServerApp()

    @app.main()
    def main(grid: Any, context: Any) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=sites,
            min_available_clients=sites,
            initial_parameters=ndarrays_to_parameters([np.zeros(parameters, dtype=np.float32)]),
        )
        legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=1), strategy=strategy)
        sum_of_all = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=2 * sites // 3 + 1)
        begin = time.perf_counter()
        DefaultWorkflow(fit_workflow=sum_of_all)(grid, legacy)
        times.append(time.perf_counter() - begin)

    return app


def measure(sites: int, parameters: int) -> dict[str, float]:
    """Run one round and add up what each client did."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run_simulation(
            server_app=server_app(sites, parameters, times),
            client_app=client_app(parameters, folder),
            num_supernodes=sites,
            backend_config={"client_resources": {"num_cpus": 1}},
        )
        found = [[json.loads(line) for line in path.read_text().splitlines()] for path in Path(folder).iterdir()]
    return {
        "peer_client_cpu_ms": 1000 * statistics.median(sum(spent for _, spent, _ in lines) for lines in found),
        "peer_upload_ratio": statistics.median(sum(size for _, _, size in lines) / (4 * parameters) for lines in found),
        "peer_exchanges": max(len(lines) for lines in found),
        "peer_round_s": times[0],
    }


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, write one JSON object as the last line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.secagg_plus", description="Time Flower's SecAgg+.")
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    sys.stdout.write("\n" + json.dumps(measure(options.sites, options.parameters)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
