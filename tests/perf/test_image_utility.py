"""The accuracy that perf.image_utility prints is that of a classifier which saw nothing but the given records."""

import numpy as np
import pytest

from perf.image_utility import accuracy
from perf.results.sets import Prepared
from protocol.image_shape import ImageShape
from records.column import Column, Kind
from records.dataset import Records
from records.schema import Schema

SCHEMA = Schema(
    columns=(Column(name="side", kind=Kind.CATEGORICAL, categories=("left", "right")),),
    target="side",
    image=ImageShape(height=8, width=8),
)


def codes(count: int, *, seed: int) -> np.ndarray:
    """Records whose bright half says the class."""
    generator = np.random.default_rng(seed)
    side = generator.integers(0, 2, count)
    images = generator.integers(0, 100, (count, 8, 8))
    for row, each in enumerate(side):
        images[row, :, 4 * each : 4 * each + 4] += 100
    return np.concatenate([side[:, None], images.reshape(count, -1)], axis=1).astype(np.int32)


def records(rows: np.ndarray) -> Records:
    return Records(codes=rows, persons=None, schema=SCHEMA)


def test_what_can_be_learnt_is_learnt_and_wrong_labels_teach_wrong_labels():
    data = Prepared(name="sides", train={"all": records(codes(64, seed=0))}, test={"all": records(codes(100, seed=1))})
    drawn = codes(128, seed=2)
    assert accuracy(data, drawn, seed=0) == 1.0
    drawn[:, 0] = 1 - drawn[:, 0]
    assert accuracy(data, drawn, seed=0) == pytest.approx(0.0)
