"""Whether federating pays at every site: generators are judged on what each single site kept back.

Sites differ, and a mean over all of them can hide one that would be better off by itself. Every site keeps back a fifth
of its people of each label, so that there is something to test on where one label is rare. A generator is worth, at a
site, the area under the ROC curve there of boosted trees that learnt from its synthetic records alone.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.table import coded_table
from evaluation.utility import Learner, train_on_synthetic_test_on_real
from protocol.errors import InputError
from protocol.study import Study
from records.dataset import Records
from records.schema import Schema
from server.release import Release
from simulations.comparison import concatenate
from simulations.federation import alone, simulate

SYNTHETIC_ROWS = 10_000
_HELD_OUT = 0.2
Parts = Mapping[str, Records]
MakeStudy = Callable[[int, int], Study]


@dataclass(frozen=True, kw_only=True)
class AtEachSite:
    """Areas under the ROC curve, tested at each site; all trainings make the same promise.

    Attributes:
        alone: Of each site's own generator, at that site.
        federated: Of the federation's generator, at each site.
        real: Of the real training records of all sites together, at each site.
        personal: Of the federation's records of the site alone; None without a site column.
        alone_everywhere: Of each site's own generator, tested on what all sites kept back.
        federated_everywhere: Of the federation's generator, likewise.
    """

    alone: Mapping[str, float]
    federated: Mapping[str, float]
    real: Mapping[str, float]
    personal: Mapping[str, float] | None
    alone_everywhere: Mapping[str, float]
    federated_everywhere: float


def hold_out_evenly(parts: Parts, *, seed: int) -> tuple[dict[str, Records], dict[str, Records]]:
    """Keep a fifth of every site's people of each label back, at least one where there are two.

    Args:
        parts: Records by site, of a schema with a target.
        seed: Of the choice.

    Returns:
        The training records and the test records, each by site.

    Raises:
        InputError: The schema has no target.
    """
    train, test = {}, {}
    for number, (name, records) in enumerate(parts.items()):
        back = _back(records, np.random.default_rng([seed, number]))
        train[name] = records.take(np.flatnonzero(~back))
        test[name] = records.take(np.flatnonzero(back))
    return train, test


def compare_at_sites(make_study: MakeStudy, parts: Parts, *, seed: int) -> AtEachSite:
    """Train together and alone, and judge at every site.

    Args:
        make_study: Gives the study for a number of sites and a public number of records. Where its schema has a site
            column, sites alone do without that column.
        parts: Records by site.
        seed: Of the split and of the synthetic records; training is always freshly random.

    Returns:
        What each generator is worth at each site.
    """
    train, test = hold_out_evenly(parts, seed=seed)
    together = _train(make_study(len(train), sum(map(len, train.values()))), train)
    rows = _draw(together, {}, seed=seed)
    whole = concatenate(list(test.values()))
    own, everywhere = {}, {}
    for name, records in train.items():
        size = max(2, len(records))
        single = alone(_plain_study(make_study(1, size)), public_records=size)
        drawn = _draw(_train(single, {name: _plain(records)}), {}, seed=seed)
        own[name] = _auroc(drawn, _plain(test[name]))
        everywhere[name] = _auroc(drawn, _plain(whole))
    pooled = concatenate(list(train.values()))
    return AtEachSite(
        alone=own,
        federated={name: _auroc(rows, records) for name, records in test.items()},
        real={name: _auroc(pooled.codes, records) for name, records in test.items()},
        personal=_personal(together, test, seed=seed),
        alone_everywhere=everywhere,
        federated_everywhere=_auroc(rows, whole),
    )


def _back(records: Records, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Choose whom a site keeps back, bool ``[n]``; a person has the label of the person's first record."""
    target = records.schema.target
    if target is None:
        raise InputError("The schema has no target.", remedy="Name the column that is to be predicted.")
    units, first = np.unique(records.units, return_index=True)
    labels = records.codes[first, records.schema.index(target)]
    kept: list[int] = []
    for label in np.unique(labels):
        members = generator.permutation(units[labels == label])
        kept += members[: max(1, round(_HELD_OUT * len(members))) if len(members) > 1 else 0].tolist()
    return np.isin(records.units, kept)


def _train(study: Study, parts: Parts) -> Release:
    with tempfile.TemporaryDirectory() as folder:
        return simulate(study, parts, release=Path(folder) / "release")


def _draw(release: Release, allowed: Mapping[int, NDArray[np.bool_]], *, seed: int) -> NDArray[np.int32]:
    return np.concatenate(list(release.sample_codes(SYNTHETIC_ROWS, allowed=allowed, seed=seed)))


def _personal(release: Release, test: Parts, *, seed: int) -> dict[str, float] | None:
    """Judge each site's own records of a generator that knows sites apart."""
    schema = release.schema
    if schema.site_column is None:
        return None
    place, names = schema.index(schema.site_column), schema.column(schema.site_column).categories
    return {
        name: _auroc(_draw(release, {place: np.array([each == name for each in names])}, seed=seed), records)
        for name, records in test.items()
    }


def _auroc(codes: NDArray[np.int32], test: Records) -> float:
    utility = train_on_synthetic_test_on_real(
        learner=Learner.BOOSTED_TREES,
        real_train=None,
        real_test=coded_table(test.schema, test.codes),
        synthetic=coded_table(test.schema, codes),
    )
    return utility.synthetic.auroc


def _plain(records: Records) -> Records:
    """Return records without their site column."""
    schema = records.schema
    if schema.site_column is None:
        return records
    kept = [index for index, name in enumerate(schema.names) if name != schema.site_column]
    return replace(records, codes=records.codes[:, kept], schema=_plain_schema(schema))


def _plain_schema(schema: Schema) -> Schema:
    columns = tuple(column for column in schema.columns if column.name != schema.site_column)
    return replace(schema, columns=columns, site_column=None)


def _plain_study(study: Study) -> Study:
    """Return a study without its site column."""
    name = study.schema.get("site_column")
    columns = [column for column in study.schema["columns"] if column["name"] != name]
    kept = {key: value for key, value in study.schema.items() if key != "site_column"}
    return replace(study, schema={**kept, "columns": columns})
