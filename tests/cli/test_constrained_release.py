"""A release of a study with constraints: what ``cloister sample`` writes fulfils them, or it refuses."""

import csv
import json

import numpy as np
import pytest

from records.dataset import Records
from simulations.federation import simulate
from strategies.study_model import study_schema

CONSTRAINTS = [
    {"never": ["age >= 25", "colour = red"]},
    {"column": "ill", "when": ["age = 29"], "value": "yes"},
]


@pytest.fixture
def release(tiny_study, tiny_records, tmp_path):
    study = tiny_study(schema={"constraints": CONSTRAINTS}, training={"rounds": 1})
    schema = study_schema(study)
    parts = {
        name: Records(codes=tiny_records(40, seed=seed).codes, persons=None, schema=schema)
        for seed, name in enumerate(("north", "south"))
    }
    return simulate(study, parts, release=tmp_path / "release")


def test_rows_and_codes_of_a_release_agree_and_fulfil_its_constraints(release):
    rows = [row for table in release.sample(3000, allowed={}, seed=5) for row in table.to_pylist()]
    codes = np.concatenate(list(release.sample_codes(3000, allowed={}, seed=5)))
    assert [row["age"] - 20 for row in rows] == codes[:, 0].tolist()
    assert not any(row["age"] >= 25 and row["colour"] == "red" for row in rows)
    assert all(row["ill"] for row in rows if row["age"] == 29)
    assert {row["colour"] for row in rows} == {"red", "green", "blue", None}
    # The model itself draws what the constraints forbid: they hold because of how it is sampled.
    import torch

    drawn = release.model.draw(3000, allowed={}, generator=torch.Generator().manual_seed(5))[0]
    assert bool(((drawn[:, 0] >= 5) & (drawn[:, 1] == 0)).any())


def test_sample_says_and_keeps_what_the_schema_promises(release, cloister, tmp_path):
    status, _, err = cloister("sample", release.folder, "-n", 200, "-o", tmp_path / "rows.csv", "--where", "colour=red")
    assert status == 0
    assert "Every record fulfils the schema's 2 constraints." in err
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 200
    assert {row["colour"] for row in rows} == {"red"}
    assert max(int(row["age"]) for row in rows) < 25
    assert json.loads(release.study.text)["schema"]["constraints"] == CONSTRAINTS


@pytest.mark.parametrize("where", [("colour=red", "age>=27"), ("age=29", "ill=no")])
def test_sample_refuses_what_no_record_may_be_before_it_begins_a_file(release, cloister, tmp_path, where):
    conditions = [word for text in where for word in ("--where", text)]
    status, _, err = cloister("sample", release.folder, "-n", 5, "-o", tmp_path / "rows.csv", *conditions)
    assert status == 1
    assert "The conditions and the constraints of the schema leave no value of column" in err
    assert list(tmp_path.glob("rows*")) == []
