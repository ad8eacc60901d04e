"""A population of skewed columns that depend on each other, releases that remember it, and releases that do not."""

from collections.abc import Callable

import numpy as np
import pytest

from privacy.audit.release.tables import AttackTables, Columns

SIZES = (6, 4, 12, 3, 8, 5, 2, 20)
ORDERED = (0, 0, 12, 3, 7, 0, 0, 20)  # the fifth column's last code means missing
COLUMNS = Columns(names=tuple("abcdefgh"), cardinalities=SIZES, ordered=ORDERED)


def population(rows: int, generator: np.random.Generator) -> np.ndarray:
    """Each column depends on the one before; the dependence itself is always the same."""
    fixed = np.random.default_rng(7)
    codes = np.zeros((rows, len(SIZES)), dtype=np.int32)
    before, width = np.zeros(rows, dtype=np.int64), 1
    for column, size in enumerate(SIZES):
        chances = fixed.dirichlet(np.full(size, 0.4), size=width).cumsum(axis=1)
        codes[:, column] = np.minimum((chances[before] < generator.random(rows)[:, None]).sum(axis=1), size - 1)
        before, width = codes[:, column], size
    return codes


@pytest.fixture
def columns() -> Columns:
    return COLUMNS


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """Records of the population."""
    return population


@pytest.fixture
def make_tables() -> Callable[..., AttackTables]:
    """Build tables; ``kind`` is "copy" (training records, each once), "fresh" (an honest draw) or "half" of each."""

    def make(seed: int, kind: str, *, pairs: int = 200, trained: int = 400) -> AttackTables:
        generator = np.random.default_rng(seed)
        training, held, fresh = (population(rows, generator) for rows in (trained, pairs + 400, trained))
        repeated = {"copy": trained, "fresh": 0, "half": trained // 2}[kind]
        release = np.concatenate([generator.permutation(training)[:repeated], fresh[repeated:]])
        return AttackTables(
            columns=COLUMNS,
            synthetic=release,
            members=training[:pairs],
            controls=held[:pairs],
            reference=held[pairs:],
        )

    return make
