"""Utility of a trained generator on a public data set, beside its baselines.

``python -m perf.utility adult-binned --epsilon 1 --delta 1e-9 --sites 1 --family vae --json``

Protocol: train on the first 80 % of ``numpy.random.default_rng(0).permutation(n)``, test on the rest; draw as many
synthetic rows as there are training rows; AUROC and accuracy on real test rows of scikit-learn's
HistGradientBoostingClassifier(random_state=0) trained on the synthetic codes; tvd1 and tvd2 are the mean total
variation distances to the training rows over all columns and all pairs of columns.

The recipes below were chosen by some thirty runs on adult-binned at epsilon 1 and 10, judged by these very measures:
for that set the figures are to that extent optimistic.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.baselines import independent_columns, permuted_labels
from evaluation.fidelity import column_distances, pair_distances
from evaluation.table import coded_table
from evaluation.utility import Learner, benchmark_split, train_on_synthetic_test_on_real
from protocol.study import Study
from records.dataset import Records, load_records
from records.schema import Schema
from simulations.federation import simulate
from simulations.scenario import DATA_VARIABLE, split

SETS = {
    "adult-binned": ("adult_binned", "adult_binned/adult.csv.gz"),
    "adult": ("adult", "adult/adult.data"),
    "online-shoppers": ("online_shoppers", "online_shoppers/online_shoppers_intention.csv"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a family is trained here: the same on every data set.

    Attributes:
        training: The study's training section.
        batch: Expected units per round; the sample rate is this over the number of records, at most a quarter.
        options: Options of the family.
    """

    training: dict[str, Any]
    batch: int
    options: dict[str, Any]


RECIPES = {
    "vae": Recipe(training={"rounds": 300, "learning_rate": 0.03, "averaging": 0.99}, batch=4096, options={}),
    "gan": Recipe(
        training={
            "rounds": 3000,
            "learning_rate": 0.002,
            "momentum": 0.5,
            "second_moment": 0.9,
            "averaging": 0.997,
        },
        batch=1024,
        options={},
    ),
}


def main() -> None:
    """Run one measurement and print it."""
    arguments = _arguments()
    schema_name, file = SETS[arguments.data_set]
    root = Path(os.environ.get(DATA_VARIABLE) or sys.exit(f"{DATA_VARIABLE} must name the folder of the data sets"))
    scenarios = Path(__file__).resolve().parent.parent / "simulations" / "scenarios"
    schema = Schema.from_toml(scenarios / f"{schema_name}.schema.toml")
    records = load_records(root / file, schema=schema)
    train_rows, test_rows = benchmark_split(len(records))
    train, test = records.take(train_rows), records.take(test_rows)
    runs = [_one(arguments, schema_name, scenarios, train, test, seed=seed) for seed in range(arguments.seeds)]
    result = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
    result |= {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    _print(arguments, result | {"baselines": _baselines(train, test)})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data_set", choices=sorted(SETS))
    parser.add_argument("--epsilon", type=float, default=1.0, help="0 trains without privacy")
    parser.add_argument("--delta", type=float, default=1e-9)
    parser.add_argument("--sites", type=int, default=1)
    parser.add_argument("--trust", choices=["none", "sum"], default="none", help="where the noise is placed")
    parser.add_argument("--dropouts", type=int, default=0, help="under --trust sum: sites that may drop out")
    parser.add_argument("--colluders", type=int, default=0, help="under --trust sum: sites that may collude")
    parser.add_argument("--family", choices=sorted(RECIPES), default="vae")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs to average")
    parser.add_argument("--option", action="append", default=[], help='family option as TOML, e.g. "latent = 8"')
    parser.add_argument("--training", action="append", default=[], help='training value as TOML, e.g. "rounds = 150"')
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _one(
    arguments: argparse.Namespace,
    schema_name: str,
    scenarios: Path,
    train: Records,
    test: Records,
    *,
    seed: int,
) -> dict[str, float]:
    """Train once and measure."""
    study = _study(arguments, schema_name, scenarios, train, seed=seed)
    parts = split(train, "iid", sites=arguments.sites, seed=seed)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        release = simulate(study, parts, release=Path(folder) / "release")
        seconds = time.perf_counter() - begin
        synthetic = np.concatenate(list(release.sample_codes(len(train), allowed={}, seed=seed)))
    return {**measure(train, test, synthetic), "seconds": seconds}


def _study(arguments: argparse.Namespace, schema_name: str, scenarios: Path, train: Records, *, seed: int) -> Study:
    recipe = RECIPES[arguments.family]
    noise = {"epsilon": arguments.epsilon} if arguments.epsilon else {"noise_multiplier": 0.0}
    size = int(round(len(train), -3))
    return Study.from_mapping(
        {
            "study": {"name": arguments.data_set, "purpose": "A measurement on public records."},
            "schema": tomllib.loads((scenarios / f"{schema_name}.schema.toml").read_text(encoding="utf-8")),
            "model": {
                "family": arguments.family,
                "options": recipe.options | tomllib.loads("\n".join(arguments.option)),
            },
            "training": recipe.training | {"seed": seed} | tomllib.loads("\n".join(arguments.training)),
            "privacy": noise
            | {
                "delta": arguments.delta,
                "sample_rate": min(0.25, recipe.batch / size),
                "trust": arguments.trust,
            },
            "federation": {
                "sites": arguments.sites,
                "public_records": size,
                "dropouts": arguments.dropouts,
                "colluders": arguments.colluders,
            },
        }
    )


def measure(train: Records, test: Records, synthetic: NDArray[np.int32]) -> dict[str, float]:
    """Return auroc, accuracy, tvd1 and tvd2 of synthetic codes, ``[n, columns]``."""
    table, real = coded_table(train.schema, synthetic), coded_table(train.schema, train.codes)
    utility = train_on_synthetic_test_on_real(
        learner=Learner.BOOSTED_TREES,
        real_train=None,
        real_test=coded_table(test.schema, test.codes),
        synthetic=table,
    )
    cardinalities = train.schema.cardinalities
    pairs = pair_distances(real.codes, table.codes, cardinalities)
    return {
        "auroc": utility.synthetic.auroc,
        "accuracy": utility.synthetic.accuracy,
        "tvd1": float(column_distances(real.codes, table.codes, cardinalities).mean()),
        "tvd2": float(pairs[np.triu_indices(len(cardinalities), k=1)].mean()),
    }


def _baselines(train: Records, test: Records) -> dict[str, dict[str, float]]:
    """Return the measures of the real training rows and of independent columns."""
    table = coded_table(train.schema, train.codes)
    independent = independent_columns(
        table.codes, train.schema.cardinalities, rows=len(train), generator=np.random.default_rng(0)
    )
    target = train.schema.index(train.schema.target or train.schema.names[-1])
    permuted = permuted_labels(table.codes, target=target, generator=np.random.default_rng(0))
    return {
        "real": measure(train, test, train.codes),
        "independent_columns": measure(train, test, independent.astype(np.int32)),
        "permuted_labels": measure(train, test, permuted.astype(np.int32)),
    }


def _print(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        for key, number in value.items() if isinstance(value, dict) else [("", value)]:
            text = number if isinstance(number, dict) else f"{number:.4f}"
            print(f"{name:24}{key:12}{text}")


if __name__ == "__main__":
    main()
