"""The public data sets of the results table, and who of them is trained on and who is tested on."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.utility import BENCHMARK_TRAIN_SHARE
from protocol.errors import InputError
from protocol.terms import Unit
from records.dataset import Records, load_records
from records.schema import Schema
from simulations.comparison import concatenate
from simulations.scenario import DATA_VARIABLE, split

FEW_RECORDS = 10_000
"""Below this many records the test rows are few, and every seed splits the set anew."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A public data set.

    Attributes:
        schema: Name of its schema among the ready ones.
        file: The one file, relative to the data folder; empty where every site has its own.
        sites: File of each natural site.
        test: File of the test records where they were published apart; empty to keep a fifth back.
        unit: Whom a statement protects.
        delta: Of the statement; None for the study's default, min(1e-5, 1 / (10 n)).
    """

    schema: str
    file: str = ""
    sites: Mapping[str, str] = field(default_factory=dict)
    test: str = ""
    unit: Unit = Unit.RECORD
    delta: float | None = None

    @property
    def schema_mapping(self) -> dict[str, Any]:
        """The schema as a study holds it."""
        path = files("simulations") / "scenarios" / f"{self.schema}.schema.toml"
        return tomllib.loads(path.read_text(encoding="utf-8"))


SETS: Mapping[str, DataSet] = {
    "adult": DataSet(schema="adult", file="adult/adult.data"),
    "adult-binned": DataSet(schema="adult_binned", file="adult_binned/adult.csv.gz", delta=1e-9),
    "breast-wdbc": DataSet(schema="breast_wdbc", file="breast_wdbc/wdbc.data"),
    "cardio": DataSet(schema="cardio", file="cardio/cardio_train.csv"),
    "cervical": DataSet(schema="cervical", file="cervical/risk_factors_cervical_cancer.csv"),
    "diabetes130": DataSet(schema="diabetes130", file="diabetes130/diabetic_data.csv.gz", unit=Unit.PERSON),
    "heart-disease": DataSet(
        schema="heart_disease",
        sites={
            "cleveland": "heart_disease/processed.cleveland.data",
            "hungarian": "heart_disease/processed.hungarian.data",
            "switzerland": "heart_disease/processed.switzerland.data",
            "long-beach": "heart_disease/processed.va.data",
        },
    ),
    "ilpd": DataSet(schema="ilpd", file="ilpd/ilpd.csv"),
    "mnist": DataSet(
        schema="mnist", file="mnist/train-images-idx3-ubyte.gz", test="mnist/t10k-images-idx3-ubyte.gz", delta=1e-5
    ),
    "online-shoppers": DataSet(schema="online_shoppers", file="online_shoppers/online_shoppers_intention.csv"),
    "pneumoniamnist": DataSet(
        schema="pneumoniamnist",
        file="pneumoniamnist/pneumoniamnist_rebuilt.npz#train",
        test="pneumoniamnist/pneumoniamnist_rebuilt.npz#test",
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A data set in two halves that share nobody.

    Attributes:
        name: Of the data set.
        train: Training records of each natural site; one part where there are none.
        test: Test records, likewise.
        unit: Whom a statement protects.
    """

    name: str
    train: Mapping[str, Records]
    test: Mapping[str, Records]
    unit: Unit = Unit.RECORD

    @property
    def pooled(self) -> Records:
        """The training records of all sites under one another."""
        return pooled(list(self.train.values()))

    @property
    def held_out(self) -> Records:
        """The test records of all sites under one another."""
        return pooled(list(self.test.values()))

    @property
    def is_federated(self) -> bool:
        """Whether the set has sites of its own."""
        return len(self.train) > 1

    @property
    def public_records(self) -> int:
        """Public number of training units, to two digits and so nobody's secret; 39,073 becomes 39,000."""
        units = sum(unit_count(records, self.unit) for records in self.train.values())
        return int(round(units, 1 - (len(str(units)) - 1)))

    def parts(self, *, sites: int, partition: str, seed: int) -> dict[str, Records]:
        """Give every site its training records.

        Args:
            sites: Their number.
            partition: How to split, as for `records.partition.partition`; ignored by natural sites.
            seed: Of the split.

        Returns:
            Records by site.

        Raises:
            InputError: A set with sites of its own is asked for another number of them.
        """
        if sites == 1:
            return {"pool": self.pooled}
        if not self.is_federated:
            return split(self.pooled, partition, sites=sites, seed=seed)
        if sites != len(self.train):
            raise InputError(f"{self.name} has {len(self.train)} sites.", remedy="Give that number, or 1 to pool them.")
        return dict(self.train)


def unit_count(records: Records, unit: Unit) -> int:
    """Return how many records there are, or how many persons they are about."""
    if unit is Unit.RECORD or not len(records):
        return len(records)
    return int(records.units.max()) + 1


def pooled(parts: Sequence[Records]) -> Records:
    """Put records under one another; a single part stays as it is."""
    return parts[0] if len(parts) == 1 else concatenate(list(parts))


def split_units(records: Records, *, seed: int) -> tuple[Records, Records]:
    """Keep a fifth of the people back, or of the records without a person key: nobody is in both halves.

    Without persons this is `evaluation.utility.benchmark_split` for seed 0, in its order of rows: the first 80 % of
    ``numpy.random.default_rng(seed).permutation(units)`` are trained on. With persons it is the same of persons,
    each with all records.

    Args:
        records: Records.
        seed: Of the split; part of the definition of a benchmark, nothing private depends on it.

    Returns:
        Records to train on, records to test on.
    """
    units = int(records.units.max()) + 1
    order = np.random.default_rng(seed).permutation(units)
    rank = np.empty(units, dtype=np.int64)
    rank[order] = np.arange(units)
    rows = np.argsort(rank[records.units], kind="stable")
    trained = int(np.count_nonzero(rank[records.units] < int(BENCHMARK_TRAIN_SHARE * units)))
    return records.take(rows[:trained]), records.take(rows[trained:])


def prepare(name: str, *, seed: int, root: Path | None = None) -> Prepared:
    """Read a data set and keep its test records back.

    Args:
        name: One of :data:`SETS`.
        seed: Of a run. A set of fewer than :data:`FEW_RECORDS` records is split by it; a larger one always by 0.
        root: The data folder; None for the one that ``CLOISTER_DATA`` names.

    Returns:
        The two halves.

    Raises:
        InputError: The data folder is not named.
        RecordsError: A file cannot be read.
    """
    data_set, root = SETS[name], root or data_folder()
    schema = Schema.from_mapping(data_set.schema_mapping)
    locations = data_set.sites or {"all": data_set.file}
    records = {site: load_records(root / file, schema=schema) for site, file in locations.items()}
    if data_set.test:
        test = {"all": load_records(root / data_set.test, schema=schema)}
        return Prepared(name=name, train=records, test=test, unit=data_set.unit)
    few = sum(len(part) for part in records.values()) < FEW_RECORDS
    halves = {site: split_units(part, seed=seed if few else 0) for site, part in records.items()}
    return Prepared(
        name=name,
        train={site: half[0] for site, half in halves.items()},
        test={site: half[1] for site, half in halves.items()},
        unit=data_set.unit,
    )


def data_folder() -> Path:
    """Return the folder of the public data sets.

    Raises:
        InputError: The environment does not name it.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise InputError("No data.", remedy=f"Let {DATA_VARIABLE} name the folder of the data sets.")
    return Path(folder)
