"""One run: train or draw, judge, and say under which promise."""

import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.baselines import independent_columns, permuted_labels
from perf.results import peers
from perf.results.judges import Measures, measure, synthetic_rows
from perf.results.machine import machine_words, versions
from perf.results.result import Promise, Result
from perf.results.sets import SETS, Prepared, prepare, unit_count
from perf.results.setting import Among, Peer, Setting, Yardstick
from privacy.statement import Statement
from protocol.study import Study
from protocol.terms import Trust
from records.dataset import Records
from records.schema import Schema
from simulations.federation import alone, simulate
from simulations.recipes import RECIPES, PublicFacts


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a trial changes in a recipe; a run with changes is not kept among the results.

    Attributes:
        training: Values of the study's training section.
        options: Options of the family.
        privacy: Values of the study's privacy section.
        statistics: Values of the study's statistics section.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    privacy: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)


_NO_CHANGES = Changes()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """What a run drew.

    Attributes:
        measures: How good it is.
        promise: What was promised to the records; None where nothing was.
        seconds: Wall time of training.
        peak_mb: Most memory held, in MiB.
    """

    measures: Measures
    promise: Promise | None
    seconds: float
    peak_mb: float


def run(setting: Setting, *, root: Path | None = None, changes: Changes = _NO_CHANGES) -> Result:
    """Carry out one run.

    Args:
        setting: What to run.
        root: The data folder; None for the one that ``CLOISTER_DATA`` names.
        changes: Changes to the recipe.

    Returns:
        Its measures and what belongs to them.

    Raises:
        CloisterError: Data are missing, or training fails.
    """
    prepared = prepare(setting.data_set, seed=setting.seed, root=root)
    drawn = _carry_out(setting, prepared, changes)
    return Result(
        setting=setting,
        measures=drawn.measures,
        promise=drawn.promise,
        seconds=round(drawn.seconds, 2),
        peak_mb=round(drawn.peak_mb),
        machine=machine_words(),
        versions=versions(),
    )


def study_of(setting: Setting, *, public_records: int, changes: Changes = _NO_CHANGES) -> Study:
    """Return the study of a training: the family's recipe at these public facts."""
    data_set = SETS[setting.data_set]
    columns = len(Schema.from_mapping(data_set.schema_mapping).columns)
    noises = 1 if setting.trust is Trust.SUM or setting.among is Among.ALONE else setting.sites
    facts = PublicFacts(units=public_records, columns=columns, epsilon=setting.epsilon or None, noises=noises)
    recipe = RECIPES[setting.system].sections(facts)
    statistics = {**recipe.get("statistics", {}), **changes.statistics}
    return Study.from_mapping(
        {
            "study": {"name": setting.data_set, "purpose": "A measurement on public records."},
            "schema": data_set.schema_mapping,
            "model": {
                "family": setting.system,
                "options": {**recipe["model"]["options"], **changes.options},
            },
            "training": {**recipe["training"], "seed": setting.seed, **changes.training},
            "privacy": {**recipe["privacy"], **_promised(setting), **changes.privacy},
            "federation": {
                "sites": setting.sites,
                "public_records": public_records,
                "dropouts": setting.dropouts,
                "colluders": setting.colluders,
            },
        }
        | ({"statistics": statistics} if statistics else {})
    )


def _promised(setting: Setting) -> dict[str, Any]:
    data_set = SETS[setting.data_set]
    noise = {"epsilon": setting.epsilon} if setting.epsilon else {"noise_multiplier": 0.0}
    delta = {} if data_set.delta is None else {"delta": data_set.delta}
    return {
        **noise,
        **delta,
        "unit": data_set.unit.value,
        "trust": setting.trust.value,
    }


def _carry_out(setting: Setting, prepared: Prepared, changes: Changes) -> _Drawn:
    if setting.system in tuple(Yardstick):
        return _yardstick(setting, prepared)
    if setting.system in tuple(Peer):
        return _peer(setting, prepared)
    study = study_of(setting, public_records=prepared.public_records, changes=changes)
    parts = prepared.parts(sites=setting.sites, partition=setting.partition, seed=setting.seed)
    if setting.among is Among.TOGETHER:
        return _train(study, parts, prepared, seed=setting.seed)
    return _each_alone(setting, parts, prepared, changes)


def _yardstick(setting: Setting, prepared: Prepared) -> _Drawn:
    """Draw from real records."""
    train, generator = prepared.pooled, np.random.default_rng(setting.seed)
    codes: NDArray[np.integer] = train.codes
    with _measured() as cost:
        if setting.system == Yardstick.INDEPENDENT:
            rows = synthetic_rows(train)
            codes = independent_columns(
                train.codes.astype(np.int64), train.schema.cardinalities, rows=rows, generator=generator
            )
        elif setting.system == Yardstick.PERMUTED:
            target = train.schema.index(train.schema.target or train.schema.names[-1])
            codes = permuted_labels(train.codes.astype(np.int64), target=target, generator=generator)
    return _Drawn(measures=measure(prepared, codes.astype(np.int32)), promise=None, **cost)


def _peer(setting: Setting, prepared: Prepared) -> _Drawn:
    """Draw by a synthesizer in an environment of its own; it protects records, so that a person gives it one."""
    train = prepared.pooled
    delta = study_of(_like(setting), public_records=prepared.public_records).privacy.delta
    delta = min(1e-5, 1 / (10 * prepared.public_records)) if delta is None else delta
    drawn = peers.draw(
        one_record_each(train, generator=np.random.default_rng(setting.seed)),
        mechanism=setting.system,
        epsilon=setting.epsilon,
        delta=delta,
        rows=synthetic_rows(train),
        seed=setting.seed,
    )
    promise = Promise(
        epsilon=setting.epsilon,
        delta=delta,
        unit=SETS[setting.data_set].unit.value,
        relation="add_remove",
        accountant="zero-concentrated",
        private=True,
    )
    return _Drawn(
        measures=measure(prepared, drawn.codes), promise=promise, seconds=drawn.seconds, peak_mb=drawn.peak_mb
    )


def _like(setting: Setting) -> Setting:
    """A training under the same promise, of which the delta is taken."""
    return Setting(data_set=setting.data_set, system=next(iter(RECIPES)), epsilon=setting.epsilon)


def one_record_each(records: Records, *, generator: np.random.Generator) -> Records:
    """Keep one record of every person, drawn at random: a person more or less is then a record more or less."""
    if records.persons is None:
        return records
    shuffled = generator.permutation(len(records))
    first = np.unique(records.persons[shuffled], return_index=True)[1]
    return records.take(np.sort(shuffled[first]))


def _train(study: Study, parts: Mapping[str, Records], prepared: Prepared, *, seed: int) -> _Drawn:
    """Train a study and judge its generator."""
    codes, statement, cost = _trained(study, parts, rows=synthetic_rows(prepared.pooled), seed=seed)
    return _Drawn(measures=measure(prepared, codes), promise=_promise(study, statement), **cost)


def _trained(
    study: Study, parts: Mapping[str, Records], *, rows: int, seed: int
) -> tuple[NDArray[np.int32], Statement, dict[str, float]]:
    """Train a study; returns codes ``[rows, columns]``, the statement and what training cost."""
    with tempfile.TemporaryDirectory() as folder:
        with _measured() as cost:
            release = simulate(study, parts, release=Path(folder) / "release")
        codes = np.concatenate(list(release.sample_codes(rows, allowed={}, seed=seed)))
    return codes, release.statement, cost


def _each_alone(setting: Setting, parts: Mapping[str, Records], prepared: Prepared, changes: Changes) -> _Drawn:
    """Train every site by itself at the same promise; measures are means over the sites.

    ``auroc@SITE`` is that of the site's own generator.
    """
    drawn = {site: _alone(setting, site, records, prepared, changes) for site, records in parts.items()}
    shared = [name for name in next(iter(drawn.values())).measures if "@" not in name]
    measures = {name: float(np.mean([each.measures[name] for each in drawn.values()])) for name in shared}
    own = {key: each.measures[key] for site, each in drawn.items() if (key := f"auroc@{site}") in each.measures}
    first = next(iter(drawn.values()))
    return _Drawn(
        measures=measures | own,
        promise=first.promise,
        seconds=sum(each.seconds for each in drawn.values()),
        peak_mb=max(each.peak_mb for each in drawn.values()),
    )


def _alone(setting: Setting, site: str, records: Records, prepared: Prepared, changes: Changes) -> _Drawn:
    size = max(2, unit_count(records, prepared.unit))
    study = study_of(setting, public_records=size, changes=changes)
    return _train(alone(study, public_records=size), {site: records}, prepared, seed=setting.seed)


def _promise(study: Study, statement: Statement) -> Promise:
    return Promise(
        epsilon=statement.check.pld,
        delta=statement.check.delta,
        unit=statement.unit.value,
        relation=statement.check.relation.value,
        accountant=statement.accountant,
        private=statement.private and study.privacy.noise_multiplier != 0.0,
    )


@contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """Fill in ``seconds`` and ``peak_mb`` at the end: the peak is that of the process so far."""
    cost: dict[str, float] = {}
    begin = time.perf_counter()
    yield cost
    cost["seconds"] = time.perf_counter() - begin
    cost["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
