"""The same study, in memory and under Flower's own runtime with Ray, gives the same weights."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
from safetensors.numpy import load_file

from client.site import FOLDER_VARIABLE
from protocol.study import Study
from records.codec import Codec
from records.dataset import Records, load_records
from simulations.federation import simulate
from simulations.flower_runtime import run_with_flower
from simulations.site_folders import write_site_folders
from strategies.study_model import study_schema

ROOT = Path(__file__).parents[2]


def write_csv(records: Records, path: Path) -> None:
    table = Codec(records.schema).decode(records.codes, generator=np.random.default_rng(0))
    pyarrow.csv.write_csv(table, path)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "trust"), [("gradients", "none"), ("updates", "none"), ("gradients", "sum")])
def test_same_weights_in_memory_and_under_flower(
    strategy: str,
    trust: str,
    tmp_path: Path,
    without_noise: Callable[..., Study],
    tiny_records: Callable[..., Records],
) -> None:
    names = ("north", "south") if trust == "none" else ("north", "south", "east", "west", "centre")
    study = without_noise(
        training={"rounds": 3, "strategy": strategy, "local_steps": 3, "seed": 5},
        privacy={"trust": trust},
        federation={"sites": len(names)},
    )
    paths = {name: tmp_path / f"{name}.csv" for name in names}
    for number, path in enumerate(paths.values()):
        write_csv(tiny_records(60, seed=number), path)
    parts = {name: load_records(path, schema=study_schema(study)) for name, path in paths.items()}
    in_memory = simulate(study, parts, release=tmp_path / "memory")

    sites = {name: {"location": str(path), "set": name} for name, path in paths.items()}
    study = write_site_folders(tmp_path / "sites", study, sites)
    run = run_with_flower(
        ROOT,
        run_config={"study": study.text, "release": str(tmp_path / "flower"), "simulated": True},
        sites=len(names),
        environment=dict(os.environ) | {FOLDER_VARIABLE: str(tmp_path / "sites"), "OMP_NUM_THREADS": "1"},
        timeout_s=180,
    )
    assert run.returncode == 0, run.log

    expected = load_file(tmp_path / "memory" / "generator.safetensors")
    found = load_file(tmp_path / "flower" / "generator.safetensors")
    assert set(expected) == set(found)
    moved = 0.0
    for name, weights in expected.items():
        np.testing.assert_allclose(found[name], weights, atol=1e-6, err_msg=name)
        moved = max(moved, float(np.abs(weights).max()))
    assert moved > 0.01, "the weights never moved: the comparison would prove nothing"
    assert not in_memory.statement.private
