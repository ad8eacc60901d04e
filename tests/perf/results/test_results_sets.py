"""Who is trained on and who is tested on: nobody is in both halves."""

import os
from pathlib import Path

import numpy as np
import pytest

from evaluation.utility import benchmark_split
from perf.results.sets import FEW_RECORDS, SETS, Prepared, prepare, split_units, unit_count
from protocol.errors import InputError
from protocol.terms import Unit
from records.dataset import Records
from records.schema import Schema

SCHEMA = Schema.from_mapping(
    {
        "target": "ill",
        "columns": [
            {"name": "number", "kind": "integer", "lower": 0, "upper": 499, "bins": 500},
            {"name": "ill", "kind": "boolean"},
        ],
    }
)


def records(persons=None, rows=400):
    """Records whose first code is their own number."""
    codes = np.stack([np.arange(rows), np.arange(rows) % 2], axis=1).astype(np.int32)
    return Records(codes=codes, persons=persons, schema=SCHEMA)


def people(rows=400):
    """A person has one to nine records, anywhere in the file."""
    drawn = np.random.default_rng(5).integers(0, 90, size=rows)
    return np.unique(drawn, return_inverse=True)[1].astype(np.int64)


def shared_people(of, train, test):
    """How many people are in both halves."""
    return len(np.intersect1d(of[train.codes[:, 0]], of[test.codes[:, 0]]))


def test_no_person_is_in_both_halves_and_no_record_is_lost():
    of = people()
    train, test = split_units(records(of), seed=0)
    assert shared_people(of, train, test) == 0
    assert sorted([*train.codes[:, 0], *test.codes[:, 0]]) == list(range(400))
    assert unit_count(train, Unit.PERSON) == int(0.8 * (of.max() + 1))
    assert unit_count(train, Unit.RECORD) == len(train)


def test_a_split_of_rows_would_put_people_into_both_halves():
    # The broken twin: what the split would do without the person key.
    of = people()
    rows = benchmark_split(400)
    assert shared_people(of, records().take(rows[0]), records().take(rows[1])) > 0


def test_without_persons_seed_0_is_the_split_of_the_benchmark_in_its_order():
    train, test = split_units(records(), seed=0)
    rows = benchmark_split(400)
    np.testing.assert_array_equal(train.codes[:, 0], rows[0])
    np.testing.assert_array_equal(test.codes[:, 0], rows[1])


def test_another_seed_is_another_split():
    one, other = (split_units(records(), seed=seed)[1].codes[:, 0] for seed in (0, 1))
    assert set(one) != set(other)


@pytest.mark.parametrize(("units", "public"), [(39_073, 39_000), (57_214, 57_000), (466, 470), (455, 460)])
def test_the_public_number_has_two_digits(units, public):
    codes = np.zeros((units, 2), dtype=np.int32)
    part = Records(codes=codes, persons=None, schema=SCHEMA)
    assert Prepared(name="any", train={"all": part}, test={"all": part}).public_records == public


def test_natural_sites_keep_their_records():
    parts = {"north": records(rows=30), "south": records(rows=50)}
    prepared = Prepared(name="any", train=parts, test=parts)
    assert {site: len(part) for site, part in prepared.parts(sites=2, partition="iid", seed=0).items()} == {
        "north": 30,
        "south": 50,
    }
    assert len(prepared.parts(sites=1, partition="iid", seed=0)["pool"]) == 80
    with pytest.raises(InputError, match="2 sites"):
        prepared.parts(sites=5, partition="iid", seed=0)


@pytest.mark.parametrize("name", sorted(SETS))
def test_every_set_has_a_schema_with_a_target_and_a_key_where_persons_are_protected(name):
    schema = Schema.from_mapping(SETS[name].schema_mapping)
    assert schema.target is not None
    assert SETS[name].unit is Unit.RECORD or schema.person is not None


@pytest.mark.data
@pytest.mark.skipif("CLOISTER_DATA" not in os.environ, reason="needs the public data sets")
@pytest.mark.parametrize(
    ("name", "rows", "positive"),
    # Rows and positive targets as the publishers count them (UCI 17, 225, 383 and 45).
    [("breast-wdbc", 569, 212), ("ilpd", 583, 416), ("cervical", 858, 55), ("heart-disease", 920, 509)],
)
def test_small_sets_are_read_whole(name, rows, positive):
    prepared = prepare(name, seed=3, root=Path(os.environ["CLOISTER_DATA"]))
    train, test = prepared.pooled, prepared.held_out
    target = train.schema.index(train.schema.target)
    assert len(train) + len(test) == rows < FEW_RECORDS
    assert train.codes[:, target].sum() + test.codes[:, target].sum() == positive


@pytest.mark.data
@pytest.mark.skipif("CLOISTER_DATA" not in os.environ, reason="needs the public data sets")
def test_readmission_within_thirty_days_is_the_positive_class_and_patients_are_whole():
    # Strack and others 2014, and UCI 296: 101,766 stays of 71,518 patients, 11,357 readmitted within thirty days.
    prepared = prepare("diabetes130", seed=7, root=Path(os.environ["CLOISTER_DATA"]))
    train, test = prepared.pooled, prepared.held_out
    target = train.schema.index("readmitted")
    assert len(train) + len(test) == 101_766
    assert unit_count(train, Unit.PERSON) + unit_count(test, Unit.PERSON) == 71_518
    assert train.codes[:, target].sum() + test.codes[:, target].sum() == 11_357
