"""How long noise takes: ``python -m perf.noise [--json]``.

The peer is numpy's float64 normal generator, which is faster than anything safe: it is predictable and its
floats have gaps. Run on an idle machine; every time is the best of several runs on one core.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from privacy.mechanisms.discrete_gaussian import sample_discrete_gaussian
from privacy.mechanisms.skellam import LARGEST_VARIANCE, SMALLEST_VARIANCE, sample_skellam
from protocol.randomness import SystemRandom

MILLION = 1_000_000


def best_milliseconds(call: Callable[[], object], *, repeats: int) -> float:
    """The shortest of ``repeats`` timings of ``call``, after one that is thrown away."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000.0 * min(times)


def measure(*, sigma: float, repeats: int) -> dict[str, float]:
    """Milliseconds per million samples of exact noise, of numpy's normal, and of raw keystream words.

    Skellam noise has the variance sigma^2, or the nearest that it is made for.
    """
    variance = min(max(sigma**2, SMALLEST_VARIANCE), LARGEST_VARIANCE)
    source, peer = SystemRandom(), np.random.default_rng(0)
    noise = best_milliseconds(lambda: sample_discrete_gaussian(MILLION, sigma=sigma, random=source), repeats=repeats)
    skellam = best_milliseconds(lambda: sample_skellam(MILLION, variance=variance, random=source), repeats=repeats)
    normal = best_milliseconds(lambda: peer.normal(0.0, sigma, MILLION), repeats=repeats)
    keystream = best_milliseconds(lambda: source.uint64(MILLION // 2), repeats=repeats)
    return {
        "sigma": sigma,
        "noise_ms_per_million": noise,
        "skellam_ms_per_million": skellam,
        "numpy_normal_ms_per_million": normal,
        "ratio": noise / normal,
        "keystream_ms_per_million_uint32": keystream,
    }


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.noise", description="Time exact noise against numpy.")
    parser.add_argument("--json", action="store_true", help="write one flat JSON object")
    parser.add_argument("--sigma", type=float, default=2.0**16, help="noise scale in grid steps (65536)")
    parser.add_argument("--repeats", type=int, default=9, help="timings of which the best counts (9)")
    options = parser.parse_args(arguments)
    result = measure(sigma=options.sigma, repeats=options.repeats)
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    for name, value in result.items():
        sys.stdout.write(f"{name:<34}{value:>12.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
