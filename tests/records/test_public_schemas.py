"""The ready schemas of public data sets load, and load all of their data."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from records.codec import Codec
from records.dataset import load_records
from records.schema import Schema

FOLDER = Path(__file__).parents[2] / "simulations" / "scenarios"
NAMES = (
    "adult",
    "adult_binned",
    "breast_wdbc",
    "cardio",
    "cervical",
    "diabetes130",
    "heart_disease",
    "ilpd",
    "online_shoppers",
)
DATA = Path(os.environ.get("CLOISTER_DATA", "/absent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="CLOISTER_DATA names no folder with the public data sets")


def _schema(name):
    return Schema.from_toml(FOLDER / f"{name}.schema.toml")


@pytest.mark.parametrize("name", NAMES)
def test_a_ready_schema_round_trips_codes_and_mapping(name):
    schema = _schema(name)
    assert schema.target in schema.names
    assert Schema.from_mapping(json.loads(json.dumps(schema.to_mapping()))) == schema
    generator = np.random.default_rng(0)
    codes = np.stack([generator.integers(0, k, 2000) for k in schema.cardinalities], axis=1).astype(np.int32)
    codec = Codec(schema)
    np.testing.assert_array_equal(codec.encode(codec.decode(codes, generator=generator), source="x"), codes)


@needs_data
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "file", "rows", "positive"),
    [  # counts as the publishers state them
        ("heart_disease", "heart_disease/processed.cleveland.data", 303, 139),
        ("heart_disease", "heart_disease/processed.hungarian.data", 294, 106),
        ("heart_disease", "heart_disease/processed.switzerland.data", 123, 115),
        ("heart_disease", "heart_disease/processed.va.data", 200, 149),
        ("adult", "adult/adult.data", 32_561, 7_841),
        ("adult", "adult/adult.test", 16_281, 3_846),
        ("adult_binned", "adult_binned/adult.csv.gz", 48_842, 11_687),
        ("online_shoppers", "online_shoppers/online_shoppers_intention.csv", 12_330, 1_908),
        ("breast_wdbc", "breast_wdbc/wdbc.data", 569, 212),
        ("ilpd", "ilpd/ilpd.csv", 583, 416),
        ("cervical", "cervical/risk_factors_cervical_cancer.csv", 858, 55),
        ("diabetes130", "diabetes130/diabetic_data.csv.gz", 101_766, 11_357),
    ],
)
def test_the_public_data_load_whole(name, file, rows, positive):
    schema = _schema(name)
    records = load_records(DATA / file, schema=schema)
    assert len(records) == rows
    assert int((records.codes[:, schema.index(str(schema.target))] == 1).sum()) == positive


@needs_data
@pytest.mark.data
def test_hidden_zeros_of_heart_disease_are_missing():
    schema = _schema("heart_disease")
    swiss = load_records(DATA / "heart_disease/processed.switzerland.data", schema=schema)
    chol = schema.column("chol").cardinality - 1
    assert (swiss.codes[:, schema.index("chol")] == chol).all()  # README: zero in all 123 rows


@needs_data
@pytest.mark.data
def test_pressures_that_cannot_be_move_to_the_bounds():
    schema = _schema("cardio")
    records = load_records(DATA / "cardio/cardio_train.csv", schema=schema)
    assert len(records) == 70_000
    pressure = records.codes[:, schema.index("ap_hi")]
    last = schema.column("ap_hi").cardinality - 1
    assert (pressure == 0).sum() >= 7  # README: not above zero in 7 rows
    assert (pressure == last).any()  # README: up to 16,020


@needs_data
@pytest.mark.data
def test_a_measurement_that_was_not_made_is_a_value_of_its_own_in_diabetes():
    schema = _schema("diabetes130")
    records = load_records(DATA / "diabetes130/diabetic_data.csv.gz", schema=schema)
    measured = records.codes[:, schema.index("A1Cresult")] != schema.code_labels("A1Cresult").index("None")
    assert 0.15 < measured.mean() < 0.19  # Strack and others 2014: in 18 % of the encounters that they kept


@needs_data
@pytest.mark.data
def test_the_binned_adult_domain_is_the_published_one():
    published = json.loads((DATA / "adult_binned/adult-domain.json").read_text(encoding="utf-8"))
    schema = _schema("adult_binned")
    assert dict(zip(schema.names, schema.cardinalities, strict=True)) == published


@needs_data
@pytest.mark.data
def test_without_the_aliases_the_adult_test_file_would_be_refused():
    schema = _schema("adult")
    bare = tuple(dataclasses.replace(column, aliases=()) for column in schema.columns)
    with pytest.raises(Exception, match="column income: 16,281 of 16,281 rows hold a category"):
        load_records(DATA / "adult/adult.test", schema=dataclasses.replace(schema, columns=bare))
