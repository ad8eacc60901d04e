"""Utility of generators on public data sets: ``python -m perf.utility adult-binned --epsilon 1 --sites 1 --json``.

Several data sets, systems, epsilons and so on make a grid: every combination is run. ``--write`` keeps the runs among
the project's results (one JSON file each, in docs/results/runs); ``make results`` makes tables and plots of them::

    python -m perf.utility breast-wdbc ilpd --family vae real --epsilon 4 --sites 10 --trust sum --seeds 5 --write

Runs that are there already are left out; ``--again`` repeats them. Yardsticks (real, independent, permuted) have no
epsilon and no sites, peers (mst, aim) are central; what a system does not have is left out of its grid.

Protocol: a fifth of the records, or of the persons with all their records, is kept back. Generators draw as many rows
as they were trained on, at least 10,000. ``auroc`` and ``accuracy`` on the rows that were kept back are those of
scikit-learn's HistGradientBoostingClassifier(random_state=0) trained on the drawn codes, ``auroc_logistic`` that of
its logistic regression; ``tvd1`` and ``tvd2`` are the mean total variation distances to the training rows over all
columns and all pairs of columns. The recipes are in simulations/recipes.py.
"""

import argparse
import itertools
import json
import sys
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from perf.results.result import FOLDER, Result, keep, path_of
from perf.results.runs import Changes, run
from perf.results.sets import SETS
from perf.results.setting import SYSTEMS, Among, Peer, Setting, Yardstick
from protocol.errors import CloisterError
from protocol.terms import Trust


def main() -> None:
    """Run a grid, print it, and keep it if asked to."""
    given = arguments()
    changes = Changes(
        training=_toml(given.training),
        options=_toml(given.option),
        privacy=_toml(given.privacy) | ({} if given.delta is None else {"delta": given.delta}),
        statistics=_toml(given.statistics),
    )
    if given.write and changes != Changes():
        sys.exit("--write keeps runs of the recipes alone: leave out what changes them.")
    try:
        for cell in grid(given):
            _cell(given, cell, changes)
    except CloisterError as error:
        sys.exit(f"{error.problem} {error.remedy}")


def grid(given: argparse.Namespace) -> Iterator[Setting]:
    """Give every cell once, in the order of the command line, seeds left out."""
    chosen = itertools.product(given.data_sets, given.family, given.epsilon, given.sites, given.trust, given.partition)
    seen = set()
    for data_set, system, epsilon, sites, trust, partition in chosen:
        cell = _sensible(
            given,
            {"data_set": data_set, "system": system, "epsilon": epsilon, "sites": sites, "partition": partition},
            Trust(trust),
        )
        if cell not in seen:
            seen.add(cell)
            yield cell


def _sensible(given: argparse.Namespace, values: dict[str, Any], trust: Trust) -> Setting:
    """Leave out of a cell what its system does not have."""
    if values["system"] in tuple(Yardstick):
        return Setting(data_set=values["data_set"], system=values["system"])
    if values["system"] in tuple(Peer):
        return Setting(data_set=values["data_set"], system=values["system"], epsilon=values["epsilon"])
    if SETS[values["data_set"]].sites:
        values = values | {"partition": "natural"}
    if values["sites"] == 1:
        return Setting(**(values | {"partition": "iid"}))
    among = Among.ALONE if given.alone else Among.TOGETHER
    if trust is Trust.NONE or among is Among.ALONE:
        return Setting(**values, among=among)
    return Setting(**values, trust=trust, dropouts=given.dropouts, colluders=given.colluders)


def _cell(given: argparse.Namespace, cell: Setting, changes: Changes) -> None:
    """Run all seeds of a cell that are asked for."""
    results = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        setting = Setting.from_mapping(cell.to_mapping() | {"seed": seed})
        if given.write and not given.again and path_of(setting, folder=FOLDER).exists():
            continue
        results.append(run(setting, changes=changes))
        if given.write:
            keep(results[-1], folder=FOLDER)
    if results:
        _print(cell, results, as_json=given.json)


def _print(cell: Setting, results: Sequence[Result], *, as_json: bool) -> None:
    """Print the means over the seeds."""
    means: dict[str, Any] = {
        name: float(np.mean([result.measures[name] for result in results])) for name in results[0].measures
    }
    means |= {"seconds": float(np.mean([result.seconds for result in results]))}
    means |= {"peak_mb": max(result.peak_mb for result in results), "seeds": len(results)}
    promise = results[0].promise
    if promise is not None and promise.private:
        means |= {"epsilon": promise.epsilon, "delta": promise.delta, "unit": promise.unit}
    if as_json:
        print(json.dumps({"setting": cell.to_mapping(), **means}), flush=True)
        return
    print(cell.key.rpartition("_")[0])
    for name, value in means.items():
        print(f"    {name:20}{value if isinstance(value, str) else format(value, '.4g')}", flush=True)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line; that of the process if None."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data_sets", nargs="+", choices=sorted(SETS), metavar="DATA_SET", help=", ".join(sorted(SETS)))
    parser.add_argument("--family", nargs="+", choices=SYSTEMS, default=["vae"], help="families, yardsticks, peers")
    parser.add_argument("--epsilon", nargs="+", type=float, default=[1.0], help="0 trains without privacy")
    parser.add_argument("--delta", type=float, help="in place of the set's; not with --write")
    parser.add_argument("--sites", nargs="+", type=int, default=[1])
    parser.add_argument("--trust", nargs="+", choices=[*Trust], default=["none"], help="where the noise is placed")
    parser.add_argument("--partition", nargs="+", default=["iid"], help="how one file is split over the sites")
    parser.add_argument("--dropouts", type=int, default=0, help="under --trust sum: sites that may drop out")
    parser.add_argument("--colluders", type=int, default=0, help="under --trust sum: sites that may collude")
    parser.add_argument("--alone", action="store_true", help="each site by itself, in place of all together")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs of every combination")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the runs among the results")
    parser.add_argument("--again", action="store_true", help="with --write: repeat runs that are there")
    parser.add_argument("--json", action="store_true")
    for section in ("option", "training", "privacy", "statistics"):
        parser.add_argument(f"--{section}", action="append", default=[], help='a value as TOML, e.g. "latent = 8"')
    return parser.parse_args(words)


def _toml(lines: Sequence[str]) -> dict[str, Any]:
    return tomllib.loads("\n".join(lines))


if __name__ == "__main__":
    main()
