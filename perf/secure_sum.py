"""What the secure sum costs: ``python -m perf.secure_sum [--sites 10] [--parameters 1000000] [--json]``.

Everything runs in one process without a transport. ``client_cpu_ms`` is one site's processor time in a steady round:
put a float64 vector on the integer grid, mask it, and tell the shares; medians over sites and rounds. ``server_s`` is
the coordinator's time for all sites of a round. ``upload_ratio`` counts every byte of a site's answers, in their flat
form, against 4 bytes per parameter. ``peak_mb`` is what the coordinator allocates beside the message in its hands.
The peers are Flower's SecAgg+ in Flower's simulation (`perf.secagg_plus`) and, where TenSEAL is installed, CKKS
(`perf.ckks`), unless ``--no-peer``. ``--table`` scales
both sizes instead.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from perf.ckks import measure as measure_ckks
from perf.noise import measure as measure_noise
from privacy.mechanisms.grid import IntegerGrid
from privacy.secure_sum import MaskedInput, Reveal, RoundStart, ServerSession, SiteSession, SumPolicy, SumStage
from protocol.randomness import SystemRandom

MODEL = "0" * 64
TABLE_SITES = (3, 10, 30, 100)
TABLE_PARAMETERS = (10_000, 100_000, 1_000_000, 10_000_000)
MOST_SECONDS = 60.0
PEER_SECONDS = 300

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Stopwatch:
    """Adds up the times of calls, and what they allocate while tracing is on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.calls = 0
        self.seconds = 0.0
        self.kept = 0
        self.peak = 0

    def __call__(
        self, call: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """Time one call."""
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        begin = self._clock()
        result = call(*arguments, **named)
        self.seconds += self._clock() - begin
        after, peak = tracemalloc.get_traced_memory()
        self.calls += 1
        self.peak = max(self.peak, self.kept + peak - before)
        self.kept += after - before
        return result


class Federation:
    """Sites and coordinator that have agreed on keys."""

    def __init__(self, sites: int, parameters: int) -> None:
        keys = {f"site-{i:03d}": Ed25519PrivateKey.generate() for i in range(sites)}
        self.grid = IntegerGrid.fit(
            clip_norm=1.0,
            dimension=parameters,
            expected_units=64,
            noise_multiplier=1.0,
            contributors=sites,
        )
        policy = SumPolicy(
            run="0" * 64,
            study="0" * 64,
            code="0" * 64,
            roster={name: key.public_key().public_bytes_raw().hex() for name, key in keys.items()},
            minimum_cohort=3,
            stages=(SumStage(rounds=1_000_000, coordinates=parameters, limit=self.grid.limit),),
        )
        self.sites = {
            name: SiteSession(policy, site=name, identity=key, random=SystemRandom()) for name, key in keys.items()
        }
        self.server = ServerSession(policy)
        for site in self.sites.values():
            self.server.add_offer(site.offer())
        offers = self.server.close_offers()
        for site in self.sites.values():
            self.server.add_preparation(site.accept_offers(offers))

    def contribute(self, site: SiteSession, start: RoundStart, vector: NDArray[np.float64]) -> MaskedInput:
        """What a site does with its vector."""
        return site.mask(start, model=MODEL, vector=self.grid.quantise(vector))

    def round(self, number: int, vector: NDArray[np.float64]) -> "RoundCost":
        """One round in which nobody drops out."""
        clocks = {name: Stopwatch(time.process_time) for name in self.sites}
        server, uploaded = Stopwatch(time.perf_counter), 0
        start = server(self.server.start_round, number, model=MODEL)
        for name, site in self.sites.items():
            masked = clocks[name](self.contribute, site, start, vector)
            server(self.server.add_masked, masked)
            uploaded += flat_bytes(masked) + masked.vector.nbytes
        server(self.server.close_masking)
        for name, request in server(self.server.unmask_requests).items():
            reveal = clocks[name](self.sites[name].reveal, request)
            server(self.server.add_reveal, reveal)
            uploaded += flat_bytes(reveal)
        result = server(self.server.finish_round)
        if not np.array_equal(result.vector, len(self.sites) * self.grid.quantise(vector)):
            raise SystemExit("the sum is wrong")
        return RoundCost(
            sites=tuple(clock.seconds for clock in clocks.values()),
            server=server.seconds,
            upload_ratio=uploaded / (4 * vector.size * len(self.sites)),
            exchanges=max(clock.calls for clock in clocks.values()),
            server_peak=server.peak,
        )


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """Seconds of each site and of the coordinator, uploaded over plain bytes, answers per site, bytes allocated."""

    sites: tuple[float, ...]
    server: float
    upload_ratio: float
    exchanges: int
    server_peak: int


def flat_bytes(message: MaskedInput | Reveal) -> int:
    """Bytes of a message's flat form as JSON, the vector aside."""
    return len(json.dumps(message.to_mapping()))


def measure(sites: int, parameters: int, *, rounds: int) -> dict[str, float]:
    """Steady rounds, after one that is thrown away, and one more that is traced and not timed; or a single one."""
    federation = Federation(sites, parameters)
    vector = np.random.default_rng(0).normal(size=parameters) / np.sqrt(parameters)
    first = 2 if rounds > 1 else 1
    if rounds > 1:
        federation.round(1, vector)
    timed = [federation.round(number, vector) for number in range(first, first + rounds)]
    cost: dict[str, float] = {
        "sites": sites,
        "parameters": parameters,
        "client_cpu_ms": 1000 * statistics.median(seconds for found in timed for seconds in found.sites),
        "server_s": statistics.median(found.server for found in timed),
        "upload_ratio": max(found.upload_ratio for found in timed),
        "exchanges": max(found.exchanges for found in timed),
    }
    if rounds > 1:
        tracemalloc.start()
        cost["peak_mb"] = federation.round(first + rounds, vector).server_peak / 2**20
        tracemalloc.stop()
    return cost


def estimate(sites: int, parameters: int) -> float:
    """About how many seconds one round and the agreement take: a nanosecond per masked word, a millisecond per pair."""
    return 1e-9 * sites * (sites + 30) * parameters + 1e-3 * sites**2


def measure_peer(sites: int, parameters: int) -> dict[str, object]:
    """Flower's SecAgg+ in a process of its own, or why it could not be run."""
    command = [sys.executable, "-m", "perf.secagg_plus", "--sites", str(sites), "--parameters", str(parameters)]
    missing: dict[str, object] = {"peer_client_cpu_ms": None}
    try:
        done = subprocess.run(  # noqa: S603 - our own module, our own numbers
            command, capture_output=True, text=True, timeout=PEER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return missing | {"peer_reason": f"it took more than {PEER_SECONDS} s"}
    if done.returncode != 0:
        return missing | {"peer_reason": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def write_table() -> None:
    """Costs for federations and models of all sizes, one round each."""
    heads = ("sites", "parameters", "client_cpu_ms", "server_s", "upload_ratio")
    sys.stdout.write("".join(f"{head:>15}" for head in heads) + "\n")
    for sites in TABLE_SITES:
        for parameters in TABLE_PARAMETERS:
            line = f"{sites:>15}{parameters:>15}"
            if estimate(sites, parameters) > MOST_SECONDS:
                sys.stdout.write(f"{line}   skipped: it would take more than {MOST_SECONDS:.0f} s\n")
                continue
            cost = measure(sites, parameters, rounds=1)
            sys.stdout.write(
                f"{line}{cost['client_cpu_ms']:>15.1f}{cost['server_s']:>15.3f}{cost['upload_ratio']:>15.4f}\n"
            )
            sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.secure_sum", description="Time the secure sum.")
    parser.add_argument("--sites", type=int, default=10, help="sites in the federation (10)")
    parser.add_argument("--parameters", type=int, default=1_000_000, help="length of the vector (1000000)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, more than one (5)")
    parser.add_argument("--json", action="store_true", help="write one flat JSON object")
    parser.add_argument("--table", action="store_true", help="3 to 100 sites, 10^4 to 10^7 parameters")
    parser.add_argument("--no-peer", action="store_true", help="leave Flower's SecAgg+ out")
    options = parser.parse_args(arguments)
    if options.table:
        write_table()
        return 0
    result: dict[str, object] = dict(measure(options.sites, options.parameters, rounds=max(2, options.rounds)))
    result["noise_ms_per_million"] = measure_noise(sigma=2.0**16, repeats=5)["noise_ms_per_million"]
    if not options.no_peer:
        result |= measure_peer(options.sites, options.parameters)
        result |= measure_ckks(options.parameters)
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    for name, value in result.items():
        sys.stdout.write(f"{name:<24}{value:>14.4f}\n" if isinstance(value, float) else f"{name:<24}{value!s:>14}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
