"""Ready scenarios: a study, and where its sites find their records among the public data sets."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_breast_cancer

from protocol.errors import InputError
from protocol.study import Study
from records.codec import Codec
from records.dataset import Records, load_records
from records.partition import partition
from records.schema import Schema
from records.site_values import site_codes

DATA_VARIABLE = "CLOISTER_DATA"
_FOLDER = files("simulations") / "scenarios"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A study with its records.

    Attributes:
        study: The study.
        sites: File of each site, relative to the data folder; empty where one file is partitioned.
        file: The one file, relative to the data folder.
        partition: How the one file is split.
        source: ``files``, or ``scikit-learn`` for records that come with that package.
    """

    study: Study
    sites: Mapping[str, str]
    file: str
    partition: str
    source: str

    @classmethod
    def ready(cls, name: str) -> Self:
        """Return a ready scenario.

        Raises:
            InputError: If there is none of this name.
        """
        path = Path(str(_FOLDER)) / f"{name}.toml"
        if name not in ready_names():
            raise InputError(
                f"No file and no ready study is named {name!r}.",
                remedy=f"Ready are: {', '.join(ready_names())}.",
            )
        with path.open("rb") as file:
            mapping: dict[str, Any] = tomllib.load(file)
        source = mapping.pop("records")
        schema = tomllib.loads((path.parent / mapping["schema"]["file"]).read_text(encoding="utf-8"))
        return cls(
            study=Study.from_mapping(mapping | {"schema": schema}),
            sites=source.get("sites", {}),
            file=source.get("file", ""),
            partition=source.get("partition", "iid"),
            source=source.get("source", "files"),
        )

    def load(self, data: str | Path | None, *, scheme: str | None, sites: int | None, seed: int) -> dict[str, Records]:
        """Read the records of every site.

        Args:
            data: The data folder, or the one file; None for the folder that ``CLOISTER_DATA`` names.
            scheme: How to split; None for the scenario's way.
            sites: How many sites; None for the study's number.
            seed: Of the split.

        Raises:
            InputError: If there are no data, or files of sites are asked to be split.
        """
        schema = Schema.from_mapping(self.study.schema)
        if self.source == "scikit-learn" and data is None:
            records = breast_cancer(schema)
            return self._parts(records, scheme, sites=sites, seed=seed)
        root = Path(data) if data is not None else _data_folder()
        if self.sites and scheme is None and sites in (None, len(self.sites)) and root.is_dir():
            return {
                name: load_records(root / file, schema=schema, fixed=site_codes(self.study, schema, site=name))
                for name, file in self.sites.items()
            }
        if self.sites and root.is_dir():
            raise InputError(
                f"{self.study.name} has one file per site.",
                remedy="Leave out --sites and --partition, or give a file.",
            )
        # A database is named by a URL, which is no path.
        location = root / self.file if root.is_dir() else data or root
        # Which site a record will be at is not known before they are split.
        unnamed = {} if schema.site_column is None else {schema.site_column: 0}
        records = load_records(location, schema=schema, fixed=unnamed)
        return self._parts(records, scheme, sites=sites, seed=seed)

    def _parts(self, records: Records, scheme: str | None, *, sites: int | None, seed: int) -> dict[str, Records]:
        """Split one file, under the names of the site column if there is one; every site fills in what it has to."""
        schema = records.schema
        parts = split(records, scheme or self.partition, sites=sites or self.study.federation.sites, seed=seed)
        if schema.site_column is not None:
            names = schema.column(schema.site_column).categories
            if len(names) != len(parts):
                raise InputError(
                    f"There are {len(parts)} sites, and the site column {schema.site_column!r} names {len(names)}.",
                    remedy="Give as many sites, or list their names as the column's categories.",
                )
            parts = dict(zip(names, parts.values(), strict=True))
        return {name: part.with_codes(site_codes(self.study, schema, site=name)) for name, part in parts.items()}


def ready_names() -> tuple[str, ...]:
    """Return the names of the ready scenarios."""
    names = (path.name for path in _FOLDER.iterdir())
    return tuple(sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml") and ".schema." not in n))


def split(records: Records, scheme: str, *, sites: int, seed: int) -> dict[str, Records]:
    """Split records over sites named ``site-1``, ``site-2``, ...; see `records.partition.partition`."""
    parts = partition(records, scheme, sites=sites, generator=np.random.default_rng(seed))
    return {f"site-{number}": records.take(rows) for number, rows in enumerate(parts, start=1)}


def breast_cancer(schema: Schema) -> Records:
    """Return the 569 records that scikit-learn embeds, encoded."""
    bunch = load_breast_cancer()
    columns = {str(name): pa.array(bunch.data[:, j]) for j, name in enumerate(bunch.feature_names)}
    columns["diagnosis"] = pa.array([str(bunch.target_names[code]) for code in bunch.target])
    codes = Codec(schema).encode(pa.table(columns), source="scikit-learn's breast cancer records")
    return Records(codes=codes, persons=None, schema=schema)


def _data_folder() -> Path:
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise InputError("No data.", remedy=f"Give --data, or let {DATA_VARIABLE} name the folder of the data sets.")
    return Path(folder)
