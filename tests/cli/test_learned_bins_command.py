"""``cloister schema bins``: from a charged release of counts to the schema of a next study."""

import numpy as np
import pytest

from records.schema import Schema
from simulations.federation import simulate
from strategies.study_model import study_schema

COLUMNS = [
    {"name": "cost", "kind": "continuous", "lower": 0, "upper": 1000, "bins": 500, "learn_bins": True},
    {"name": "ill", "kind": "boolean"},
]


@pytest.fixture
def counted(tiny_study, tmp_path):
    """A release of counts of 500 equal cells, of which nearly all records are in the first few; by noise or without."""

    def release(*, columns=COLUMNS, **privacy):
        from records.dataset import Records

        study = tiny_study(
            schema={"columns": columns},
            model={"family": "moments", "options": {"steps": 300}},
            training={"strategy": "statistics", "rounds": 1},
            privacy={"sample_rate": 1.0, "epsilon": 20.0, **privacy},
            federation={"public_records": 4000},
        )
        generator = np.random.default_rng(0)
        parts = {}
        for name in ("north", "south"):
            cost = np.minimum(generator.lognormal(2.5, 0.8, 2000), 999.0)
            codes = np.stack([(cost / 2).astype(np.int32), generator.integers(0, 2, 2000, dtype=np.int32)], axis=1)
            parts[name] = Records(codes=codes, persons=None, schema=study_schema(study))
        return simulate(study, parts, release=tmp_path / f"release{len(list(tmp_path.iterdir()))}").folder

    return release


def test_a_next_study_gets_cells_where_the_records_are(counted, cloister, tmp_path):
    written = tmp_path / "learnt.toml"
    folder = counted()
    status, out, err = cloister("schema", "bins", folder, "--bins", 10, "-o", written)
    assert status == 0, err
    assert out.startswith("cost: 500 codes became 10.\n")
    assert "-differential privacy per record" in out
    learnt = Schema.from_toml(written)
    assert "Cells learnt from release " in learnt.description
    edges = learnt.column("cost").edges
    assert edges[0] == 0
    assert edges[-1] == 1000
    assert sum(edge < 40 for edge in edges) >= 8  # nine in ten records are below 40, where equal cells have one edge
    assert cloister("schema", "check", written)[0] == 0
    assert cloister("schema", "bins", folder, "-o", written)[0] == 1  # never over a file unasked
    again = tmp_path / "again.toml"
    assert cloister("schema", "bins", folder, "--bins", 10, "-o", again)[0] == 0
    assert again.read_text("utf-8") == written.read_text("utf-8")


def test_a_release_without_noise_is_refused(counted, cloister, tmp_path):
    folder = counted(noise="deterministic")
    status, _, err = cloister("schema", "bins", folder, "-o", tmp_path / "learnt.toml")
    assert status == 1
    assert "is not private: edges learnt from it would tell about its records" in err
    assert not (tmp_path / "learnt.toml").exists()


def test_columns_that_do_not_allow_it_stay_as_they_are(counted, cloister, tmp_path):
    plain = [{key: value for key, value in column.items() if key != "learn_bins"} for column in COLUMNS]
    status, _, err = cloister("schema", "bins", counted(columns=plain), "-o", tmp_path / "learnt.toml")
    assert status == 1
    assert "No column allows its cells to be learnt." in err
