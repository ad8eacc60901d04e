"""What federating gains on a ready study: all sites together against each alone, at the same promise.

``python -m perf.federation heart_disease --seeds 5 --json``

Every site keeps a fifth of its records back. Each generator's 4,000 synthetic rows train scikit-learn's
HistGradientBoostingClassifier(random_state=0), which is tested on what all sites kept back. Figures are means over
seeds of the split; noise is freshly random in every run.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simulations.comparison import Comparison, compare
from simulations.scenario import Scenario, ready_names


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scenario", choices=ready_names())
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epsilon", type=float, help="instead of the study's own")
    parser.add_argument("--data", type=Path, help="folder of the data sets; CLOISTER_DATA if not given")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    scenario = Scenario.ready(arguments.scenario)
    study = scenario.study
    if arguments.epsilon:
        study = replace(study, privacy=replace(study.privacy, epsilon=arguments.epsilon, noise_multiplier=None))
    parts = scenario.load(arguments.data, scheme=None, sites=None, seed=0)
    begin = time.perf_counter()
    found = [compare(study, parts, seed=seed) for seed in range(arguments.seeds)]
    result = summary(found) | {"seeds": arguments.seeds, "seconds": time.perf_counter() - begin}
    result |= {"epsilon": found[0].statement.epsilon, "delta": found[0].statement.delta}
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:24}{value:.4f}")


def summary(found: list[Comparison]) -> dict[str, Any]:
    """Return mean AUROCs, and in how many runs the federation beat the mean of the sites alone."""
    lines = {row.name: [] for row in found[0].rows}  # type: dict[str, list[float]]
    for comparison in found:
        for row in comparison.rows:
            lines[row.name].append(row.auroc)
    means = {name.replace(" ", "_"): float(np.mean(values)) for name, values in lines.items()}
    gains = [comparison.federated.auroc - comparison.mean_alone for comparison in found]
    return means | {
        "alone_mean": float(np.mean([comparison.mean_alone for comparison in found])),
        "federated_wins": sum(gain > 0 for gain in gains),
        "gain": float(np.mean(gains)),
        "gain_sd": float(np.std(gains, ddof=1)) if len(gains) > 1 else 0.0,
    }


if __name__ == "__main__":
    main()
