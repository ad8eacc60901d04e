"""Judging at every site: who is kept back, whom each figure is about, and a site that gains from the others."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from perf.heterogeneity import hospital_table, mean_and_error, with_site_column
from protocol.errors import InputError
from protocol.study import Study
from records.dataset import Records
from records.schema import Schema
from simulations import at_each_site
from simulations.at_each_site import AtEachSite, compare_at_sites, hold_out_evenly

MakeRecords = Callable[..., Records]


def test_a_fifth_of_each_label_is_kept_back_and_nobody_is_in_both(tiny_records: MakeRecords) -> None:
    parts = {"north": tiny_records(200), "south": tiny_records(60, seed=1)}
    train, test = hold_out_evenly(parts, seed=0)
    for name, records in parts.items():
        both = np.concatenate([train[name].codes, test[name].codes])
        assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, records.codes.tolist()))
        for label in (0, 1):
            members = (records.codes[:, 2] == label).sum()
            assert (test[name].codes[:, 2] == label).sum() == max(1, round(0.2 * members))


def test_a_rare_label_is_tested_on_and_a_single_one_is_trained_on() -> None:
    schema = Schema.from_mapping({"target": "ill", "columns": [{"name": "ill", "kind": "boolean"}]})

    def few(ill: int) -> Records:
        codes = np.array([[1]] * ill + [[0]] * 20, dtype=np.int32)
        return Records(codes=codes, persons=None, schema=schema)

    _, test = hold_out_evenly({"two": few(2), "one": few(1)}, seed=0)
    assert test["two"].codes.sum() == 1
    assert test["one"].codes.sum() == 0


def test_a_person_is_kept_back_with_all_records(tiny_records: MakeRecords) -> None:
    records = replace(tiny_records(60), persons=np.repeat(np.arange(20), 3))
    train, test = hold_out_evenly({"north": records}, seed=0)
    assert train["north"].persons is not None
    assert len(np.unique(train["north"].persons)) + len(np.unique(test["north"].persons)) == 20
    assert len(test["north"]) % 3 == 0


def test_without_a_target_nothing_can_be_judged() -> None:
    schema = Schema.from_mapping({"columns": [{"name": "ill", "kind": "boolean"}]})
    records = Records(codes=np.zeros((4, 1), np.int32), persons=None, schema=schema)
    with pytest.raises(InputError, match="no target"):
        hold_out_evenly({"north": records}, seed=0)


def test_a_site_without_a_second_label_gains_from_the_others(
    given_noise: Callable[..., Study], tiny_records: MakeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The south has seen nobody who is well: alone it can guess only. Its generator is judged all the same."""
    monkeypatch.setattr(at_each_site, "SYNTHETIC_ROWS", 1000)
    north, south = tiny_records(600), tiny_records(300, seed=1)
    sick = np.flatnonzero(south.codes[:, 2] == 1)
    well = np.flatnonzero(south.codes[:, 2] == 0)[:1]
    parts = {"north": north, "south": south.take(np.concatenate([sick, well]))}
    plain = given_noise(0.0, training={"rounds": 30, "learning_rate": 0.2}, privacy={"sample_rate": 1.0})
    study = with_site_column(plain, ["north", "south"])
    schema = Schema.from_mapping(study.schema)
    with_site = {
        name: Records(
            codes=np.column_stack([np.full(len(part), place), part.codes]).astype(np.int32), persons=None, schema=schema
        )
        for place, (name, part) in enumerate(parts.items())
    }

    def make(sites: int, size: int) -> Study:
        return replace(study, federation=replace(study.federation, sites=sites, public_records=size))

    found = compare_at_sites(make, with_site, seed=0)
    assert found.alone.keys() == found.federated.keys() == found.real.keys() == {"north", "south"}
    assert found.federated["north"] > 0.7
    assert found.personal is not None
    assert found.federated_everywhere > found.alone_everywhere["south"] + 0.1


def test_the_table_pairs_seeds() -> None:
    found = [
        AtEachSite(
            alone={"a": 0.5 + step}, federated={"a": 0.6 + step}, real={"a": 0.7}, personal={"a": 0.8},
            alone_everywhere={"a": 0.4}, federated_everywhere=0.45 + step,
        )
        for step in (0.0, 0.1)
    ]  # fmt: skip
    table = hospital_table(found, {"a": None})  # type: ignore[dict-item]  # names are all that is taken
    assert table["at a"]["gain"] == pytest.approx((0.1, 0.0))
    assert table["at a"]["alone"] == pytest.approx((0.55, 0.05))
    assert table["at a"]["personal_gain"] == pytest.approx((0.25, 0.05))
    assert table["a, everywhere"]["gain"] == pytest.approx((0.1, 0.05))


def test_one_run_has_no_error() -> None:
    assert mean_and_error([0.25]) == (0.25, 0.0)
