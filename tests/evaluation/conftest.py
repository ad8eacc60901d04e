"""A small table with one column of every kind, made from the real schema."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from evaluation.table import CodedTable, coded_table
from records.schema import Schema

SCHEMA = {
    "target": "ill",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 59, "missing": True},
        {"name": "weight", "kind": "continuous", "lower": 40.0, "upper": 120.0, "bins": 16},
        {
            "name": "ward",
            "kind": "categorical",
            "categories": ["north", "south", "<b>east</b>"],
            "missing": True,
        },
        {"name": "pain", "kind": "ordinal", "categories": ["none", "some", "much"]},
        {"name": "ill", "kind": "boolean"},
    ],
}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Boosted trees of a few hundred rows wait for their threads longer than they work."""
    with threadpool_limits(limits=1):
        yield


def draw(rows: int, generator: np.random.Generator) -> np.ndarray:
    """Codes with relationships: illness depends on age and pain, weight on age."""
    age = generator.integers(0, 40, rows)
    weight = np.clip(age * 16 // 40 + generator.integers(-2, 3, rows), 0, 15)
    pain = np.clip(age // 14 + generator.integers(-1, 2, rows), 0, 2)
    ill = (age + 12 * pain + generator.normal(0, 8, rows) > 32).astype(int)
    ward = np.where(generator.random(rows) < 0.2, 3, generator.integers(0, 3, rows))
    known_age = np.where(generator.random(rows) < 0.1, 40, age)
    return np.stack([known_age, weight, ward, pain, ill], axis=1)


@pytest.fixture
def make_table():
    def make(rows: int, seed: int) -> CodedTable:
        return coded_table(Schema.from_mapping(SCHEMA), draw(rows, np.random.default_rng(seed)))

    return make
