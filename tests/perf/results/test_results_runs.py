"""Runs: what they draw, what they say they promised, and what is kept of them."""

import dataclasses
import json
import math

import numpy as np
import pytest

from perf.results import runs
from perf.results.judges import measure, synthetic_rows
from perf.results.result import Promise, Result, keep, kept, path_of
from perf.results.runs import Changes, one_record_each, run, study_of
from perf.results.sets import DataSet, Prepared, split_units
from perf.results.setting import Among, Setting
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.terms import Trust, Unit
from records.dataset import Records
from records.schema import Schema
from simulations.recipes import RECIPES

TABLE = {
    "target": "ill",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 0, "upper": 9},
        {"name": "ill", "kind": "boolean"},
    ],
}
QUICK = Changes(training={"rounds": 3})


def prepared(sites=1, rows=300):
    """Old people are ill."""
    ages = np.random.default_rng(0).integers(0, 10, size=rows)
    codes = np.stack([ages, ages > 5], axis=1).astype(np.int32)
    parts = np.array_split(codes, sites)
    halves = [
        split_units(Records(codes=part, persons=None, schema=Schema.from_mapping(TABLE)), seed=0) for part in parts
    ]
    return Prepared(
        name="toy",
        train={f"ward-{i}": half[0] for i, half in enumerate(halves)},
        test={f"ward-{i}": half[1] for i, half in enumerate(halves)},
    )


@pytest.fixture
def toy(monkeypatch):
    """One toy in place of a public data set."""

    class Toy(DataSet):
        schema_mapping = TABLE

    monkeypatch.setitem(runs.SETS, "ilpd", Toy(schema="toy", file="toy.csv"))
    monkeypatch.setattr(runs, "prepare", lambda *_, **__: prepared())


def result(**changes):
    """A result that nobody measured, for the file and nothing else."""
    fields = {
        "setting": Setting(data_set="adult", system="vae", epsilon=1.0, sites=10, trust=Trust.SUM, dropouts=1, seed=3),
        "measures": {"auroc": 0.75},
        "promise": Promise(
            epsilon=0.99, delta=1e-6, unit="record", relation="add_remove", accountant="PLD", private=True
        ),
        "seconds": 1.0,
        "peak_mb": 100.0,
        "machine": "none",
        "versions": {"code": "none"},
    }
    return Result(**(fields | changes))


@pytest.mark.usefixtures("toy")
def test_the_promise_is_the_statement_s_and_within_what_was_asked():
    done = run(Setting(data_set="ilpd", system="vae", epsilon=2.0), changes=QUICK)
    assert done.promise.private
    assert 1.8 < done.promise.epsilon <= 2.0
    assert done.promise.delta == pytest.approx(1e-5)
    assert set(done.measures) >= {"auroc", "auroc_logistic", "accuracy", "tvd1", "tvd2"}


@pytest.mark.usefixtures("toy")
def test_without_noise_nothing_is_promised():
    assert not run(Setting(data_set="ilpd", system="vae"), changes=QUICK).promise.private


@pytest.mark.usefixtures("toy")
def test_yardsticks_order_as_they_must():
    real, independent, permuted = (
        run(Setting(data_set="ilpd", system=system)).measures for system in ("real", "independent", "permuted")
    )
    assert real["tvd2"] == 0 < independent["tvd1"] < 0.02
    assert real["auroc"] == 1.0
    assert abs(permuted["auroc"] - 0.5) < 0.3
    assert permuted["tvd1"] == 0 < permuted["tvd2"]


@pytest.mark.usefixtures("toy")
def test_sites_alone_make_the_same_promise_and_are_averaged():
    setting = Setting(data_set="ilpd", system="vae", epsilon=2.0, sites=3, trust=Trust.NONE, among=Among.ALONE)
    done = run(setting, changes=QUICK)
    assert 1.8 < done.promise.epsilon <= 2.0
    assert done.seconds > 0


def test_measures_by_site_are_of_that_site_alone():
    wards = prepared(sites=2)
    own = wards.test["ward-0"]
    codes = np.stack([own.codes[:, 0], 1 - own.codes[:, 1]], axis=1)
    flipped = Records(codes=codes, persons=None, schema=own.schema)
    turned = dataclasses.replace(wards, test={**wards.test, "ward-0": flipped})
    measures = measure(turned, wards.pooled.codes)
    assert measures["auroc@ward-0"] == 0.0
    assert measures["auroc@ward-1"] == 1.0


def test_small_sets_are_judged_by_many_rows():
    assert synthetic_rows(prepared().pooled) == 10_000


def test_one_record_of_each_person_is_kept():
    persons = np.array([0, 0, 1, 2, 2, 2], dtype=np.int64)
    codes = np.stack([np.arange(6), np.zeros(6)], axis=1).astype(np.int32)
    records = Records(codes=codes, persons=persons, schema=Schema.from_mapping(TABLE))
    drawn = {tuple(one_record_each(records, generator=np.random.default_rng(seed)).codes[:, 0]) for seed in range(60)}
    assert drawn == {(a, 2, b) for a in (0, 1) for b in (3, 4, 5)}


@pytest.mark.parametrize("family", sorted(RECIPES))
@pytest.mark.parametrize("units", [300, 2_500, 39_000, 1_000_000])
def test_every_recipe_makes_a_study_that_can_be_planned(family, units):
    setting = Setting(data_set="diabetes130", system=family, epsilon=1.0)
    study = study_of(setting, public_records=units)
    assert study.privacy.unit is Unit.PERSON
    assert study.privacy.sample_rate == pytest.approx(min(1.0, RECIPES[family].batch / units))
    assert study.federation.public_records == units


def test_a_recipe_depends_on_the_number_of_units_and_on_no_data_set():
    texts = {
        study_of(Setting(data_set=name, system="vae", epsilon=1.0), public_records=5_000).to_mapping()["training"][
            "rounds"
        ]
        for name in ("adult", "cardio", "ilpd")
    }
    assert len(texts) == 1


def test_the_plan_of_a_recipe_keeps_the_promise():
    study = study_of(Setting(data_set="cardio", system="vae", epsilon=1.0), public_records=56_000)
    assert PrivacyPlan.from_study(study).delta == pytest.approx(1 / 560_000)


def test_a_result_comes_back_from_its_file(tmp_path):
    kept_one = result()
    path = keep(kept_one, folder=tmp_path)
    assert path == path_of(kept_one.setting, folder=tmp_path)
    assert kept(folder=tmp_path) == [kept_one]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_run_again_takes_the_place_of_the_first(tmp_path):
    keep(result(), folder=tmp_path)
    keep(result(measures={"auroc": 0.5}), folder=tmp_path)
    assert [each.measures["auroc"] for each in kept(folder=tmp_path)] == [0.5]


@pytest.mark.parametrize("text", ["{}", "[]", "nothing", '{"version": 0}'])
def test_a_file_that_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "adult").mkdir()
    (tmp_path / "adult" / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"esult"):
        kept(folder=tmp_path)


def test_numbers_are_kept_to_five_digits():
    text = result(measures={"auroc": math.pi}).to_json()
    assert json.loads(text)["measures"] == {"auroc": 3.14159}


@pytest.mark.parametrize(
    "fields",
    [
        {"data_set": "nothing", "system": "vae"},
        {"data_set": "adult", "system": "nothing"},
        {"data_set": "adult", "system": "real", "epsilon": 1.0},
        {"data_set": "adult", "system": "mst"},
        {"data_set": "adult", "system": "mst", "epsilon": 1.0, "sites": 2},
        {"data_set": "adult", "system": "vae", "among": Among.ALONE},
    ],
)
def test_settings_without_meaning_are_refused(fields):
    with pytest.raises(InputError):
        Setting(**fields)


def test_keys_tell_settings_apart():
    settings = [
        Setting(data_set="adult", system="vae", epsilon=1.0, sites=sites, trust=trust, partition=partition, seed=seed)
        for sites in (5, 10)
        for trust in Trust
        for partition in ("iid", "dirichlet:0.5")
        for seed in (0, 1)
    ]
    settings += [dataclasses.replace(settings[0], among=Among.ALONE), dataclasses.replace(settings[0], colluders=2)]
    assert len({setting.key for setting in settings}) == len(settings)
