"""What it costs that sites differ: ``python -m perf.heterogeneity hospitals``, and ``... skew``.

``hospitals``: heart disease at its four hospitals, each generator judged at each hospital: that of the federation and
that of the hospital by itself, at the same promise. Every hospital keeps back a fifth of its patients of each label;
10,000 synthetic rows train scikit-learn's HistGradientBoostingClassifier(random_state=0). ``--site-column`` declares
the hospital as a column, and judges ``--where site=NAME`` too. Figures are means over seeds of the split, with the
standard error of the mean; noise is freshly random in every run.

``skew``: adult-binned, pooled at one site against ten sites that are alike, differ in the shares of the target
(Dirichlet .5 and .1), or in size (1 to 100), at the same epsilon with shared noise under a secure sum. The protocol is
that of perf.utility.

The recipes are those of simulations.recipes; changes are given as TOML, e.g. --training "rounds = 60".
"""

import argparse
import json
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from perf.results.runs import Changes, run, study_of
from perf.results.setting import Setting
from protocol.study import Study
from protocol.terms import Trust
from records.dataset import Records
from simulations.at_each_site import AtEachSite, compare_at_sites
from simulations.scenario import Scenario

SITE_COLUMN = "hospital"
SKEWS = ("iid", "dirichlet:0.5", "dirichlet:0.1", "quantity:100")
Table = dict[str, dict[str, tuple[float, float]]]


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    begin = time.perf_counter()
    table = _hospitals(arguments) if arguments.what == "hospitals" else _skew(arguments)
    seconds = time.perf_counter() - begin
    if arguments.json:
        print(json.dumps({"table": table, "seeds": arguments.seeds, "seconds": seconds}))
        return
    for row, cells in table.items():
        print(f"{row:24}" + "  ".join(f"{name} {mean:.4f} ({error:.4f})" for name, (mean, error) in cells.items()))
    print(f"{seconds:.0f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["hospitals", "skew"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epsilon", type=float, help="4 for hospitals and 1 for skew, if not given")
    parser.add_argument("--sites", type=int, default=10, help="skew: number of sites")
    parser.add_argument("--skews", nargs="+", default=list(SKEWS), help="skew: partitions, beside the pooled records")
    parser.add_argument(
        "--trust", choices=[trust.value for trust in Trust], default="sum", help="skew: noise placement"
    )
    parser.add_argument("--family", default="vae")
    parser.add_argument("--site-column", action="store_true", help="hospitals: declare the hospital as a column")
    parser.add_argument("--data", type=Path, help="folder of the data sets; CLOISTER_DATA if not given")
    for section in ("training", "option", "privacy", "statistics"):
        parser.add_argument(f"--{section}", action="append", default=[], help="a change as TOML")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _changes(arguments: argparse.Namespace) -> Changes:
    read = {name: tomllib.loads("\n".join(getattr(arguments, name))) for name in ("training", "privacy", "statistics")}
    return Changes(options=tomllib.loads("\n".join(arguments.option)), **read)


def _seeds(arguments: argparse.Namespace) -> range:
    return range(arguments.first_seed, arguments.first_seed + arguments.seeds)


def _hospitals(arguments: argparse.Namespace) -> Table:
    """Judge everybody at every hospital."""
    changes, epsilon = _changes(arguments), arguments.epsilon or 4.0
    scenario = Scenario.ready("heart_disease")
    if arguments.site_column:
        scenario = replace(scenario, study=with_site_column(scenario.study, tuple(scenario.sites)))
    parts = scenario.load(arguments.data, scheme=None, sites=None, seed=0)
    found = []
    for seed in _seeds(arguments):

        def make(sites: int, size: int, seed: int = seed) -> Study:
            setting = Setting(
                data_set="heart-disease", system=arguments.family, epsilon=epsilon, sites=sites, seed=seed
            )
            made = study_of(setting, public_records=size, changes=changes)
            delta = scenario.study.privacy.delta
            return replace(made, schema=scenario.study.schema, privacy=replace(made.privacy, delta=delta))

        found.append(compare_at_sites(make, parts, seed=seed))
    return hospital_table(found, parts)


def with_site_column(study: Study, sites: Sequence[str]) -> Study:
    """Return a study that declares which site a record is from, as its first column."""
    column = {"name": SITE_COLUMN, "kind": "categorical", "categories": list(sites)}
    schema = {**study.schema, "columns": [column, *study.schema["columns"]], "site_column": SITE_COLUMN}
    return replace(study, schema=schema)


def hospital_table(found: Sequence[AtEachSite], parts: Mapping[str, Records]) -> Table:
    """Return means and standard errors: a row for each hospital, tested there, and the same tested everywhere.

    ``gain`` is the federation's less the hospital's own, seed by seed.
    """
    table: Table = {}
    for name in parts:
        cells = {
            "alone": [each.alone[name] for each in found],
            "federated": [each.federated[name] for each in found],
            "real": [each.real[name] for each in found],
            "gain": [each.federated[name] - each.alone[name] for each in found],
        }
        personal = [each.personal[name] for each in found if each.personal is not None]
        if personal:
            cells["personal"] = personal
            cells["personal_gain"] = [one - each.alone[name] for one, each in zip(personal, found, strict=True)]
        table[f"at {name}"] = {key: mean_and_error(values) for key, values in cells.items()}
    for name in parts:
        cells = {
            "alone": [each.alone_everywhere[name] for each in found],
            "federated": [each.federated_everywhere for each in found],
            "gain": [each.federated_everywhere - each.alone_everywhere[name] for each in found],
        }
        table[f"{name}, everywhere"] = {key: mean_and_error(values) for key, values in cells.items()}
    return table


def _skew(arguments: argparse.Namespace) -> Table:
    """Compare pooled records with sites that differ."""
    changes = _changes(arguments)
    pooled = Setting(data_set="adult-binned", system=arguments.family, epsilon=arguments.epsilon or 1.0)
    settings = {"pooled": pooled} | {
        skew: replace(pooled, sites=arguments.sites, trust=Trust(arguments.trust), partition=skew)
        for skew in arguments.skews
    }
    table: Table = {}
    base: Mapping[str, float] = {}
    for name, setting in settings.items():
        runs = [
            run(replace(setting, seed=seed), root=arguments.data, changes=changes).measures
            for seed in _seeds(arguments)
        ]
        base = base or {key: float(np.mean([each[key] for each in runs])) for key in ("auroc", "tvd2")}
        table[name] = {
            key: mean_and_error([each[key] for each in runs]) for key in ("auroc", "accuracy", "tvd1", "tvd2")
        }
        table[name]["cost_percent"] = mean_and_error([100 * (1 - each["auroc"] / base["auroc"]) for each in runs])
    return table


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; zero where there is one value.

    >>> mean_and_error([1.0, 3.0])
    (2.0, 1.0)
    """
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
    return float(np.mean(values)), error


if __name__ == "__main__":
    main()
