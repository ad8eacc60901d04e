"""The command line on a study of images: simulate, sample, evaluate."""

import json

import numpy as np
import pyarrow.parquet as parquet
import pytest
import tomli_w
from matplotlib.image import imread

from records.dataset import load_records
from records.schema import Schema

SCHEMA = {
    "target": "label",
    "image": {"height": 8, "width": 8, "levels": 16},
    "columns": [{"name": "label", "kind": "categorical", "categories": ["0", "1", "2"]}],
}
STUDY = {
    "study": {"name": "stripes"},
    "schema": SCHEMA,
    "training": {"rounds": 2, "learning_rate": 0.01},
    "privacy": {"epsilon": 8.0, "delta": 1e-3, "sample_rate": 0.2},
    "federation": {"sites": 2, "public_records": 120},
}
MODELS = {
    "vae": {"latent": 2, "widths": [4], "views": 2},
    "gan": {"latent": 2, "critic_widths": [4], "generator_widths": [4], "fake_batch": 8, "critic_steps": 1},
}


@pytest.fixture(scope="session")
def stripes(tmp_path_factory):
    """Images of 16 x 16 pixels, with labels, in two parts."""
    made = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 120), ("test", 40)):
        arrays[f"{part}_images"] = made.integers(0, 256, (count, 16, 16), dtype=np.uint8)
        arrays[f"{part}_labels"] = made.integers(0, 3, (count, 1), dtype=np.uint8)
    path = tmp_path_factory.mktemp("images") / "stripes.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session", params=sorted(MODELS))
def image_release(request, stripes, tmp_path_factory):
    """A release of two rounds of each family."""
    from cli.app import run

    folder = tmp_path_factory.mktemp("release")
    model = {"model": {"family": request.param, "options": MODELS[request.param]}}
    (folder / "study.toml").write_text(tomli_w.dumps(STUDY | model), "utf-8")
    release = folder / "release"
    assert run(["simulate", str(folder / "study.toml"), "--data", f"{stripes}#train", "-o", str(release)]) == 0
    return release


def test_images_are_written_and_read_back(cloister, image_release, tmp_path):
    schema = Schema.from_mapping(SCHEMA)
    target = tmp_path / "some.npz"
    status, _, err = cloister("sample", image_release, "-n", 30, "-o", target, "--seed", 1)
    assert status == 0
    assert "30 records in" in err
    arrays = np.load(target, allow_pickle=False)
    assert arrays["images"].shape == (30, 8, 8)
    assert arrays["images"].dtype == np.uint8
    assert set(arrays["labels"].tolist()) == {0, 1, 2}
    assert "SIMULATED" in str(arrays["cloister.statement"])
    rows = load_records(target, schema=schema)
    other = tmp_path / "some.parquet"
    assert cloister("sample", image_release, "-n", 30, "-o", other, "--seed", 1)[0] == 0
    np.testing.assert_array_equal(rows.codes, load_records(other, schema=schema).codes)
    assert b"cloister.statement" in parquet.read_schema(other).metadata


def test_conditions_hold(cloister, image_release, tmp_path):
    target = tmp_path / "some.npz"
    assert cloister("sample", image_release, "-n", 12, "-o", target, "--where", "label=2")[0] == 0
    assert np.load(target)["labels"].tolist() == [2] * 12


def test_a_sheet_shows_the_images(cloister, image_release, tmp_path):
    sheet, arrays = tmp_path / "some.png", tmp_path / "some.npz"
    assert cloister("sample", image_release, "-n", 10, "-o", sheet, "--seed", 3)[0] == 0
    assert cloister("sample", image_release, "-n", 10, "-o", arrays, "--seed", 3)[0] == 0
    shown = np.rint(imread(sheet)[..., 0] * 255)
    images = np.load(arrays)["images"]
    assert shown.shape == (24, 32)  # three rows of four
    np.testing.assert_array_equal(shown[:8, :8], images[0])
    np.testing.assert_array_equal(shown[8:16, 8:16], images[5])
    assert (shown[16:, 16:] == 0).all()


@pytest.mark.parametrize("arguments", [(), ("-o", "some.csv"), ("-o", "some.csv.gz")])
def test_images_are_not_written_as_text(cloister, image_release, tmp_path, arguments):
    paths = [tmp_path / each if "." in each else each for each in arguments]
    status, out, err = cloister("sample", image_release, *paths)
    assert (status, out) == (2, "") or (status != 0 and not out)
    assert "Images are not written as CSV" in err
    assert list(tmp_path.iterdir()) == []


def test_tables_are_not_written_as_images(cloister, odd_release, tmp_path):
    for name in ("some.npz", "some.png"):
        status, _, err = cloister("sample", odd_release, "-o", tmp_path / name)
        assert status != 0
        assert "no images" in err
    assert list(tmp_path.iterdir()) == []


def test_images_are_evaluated_as_images(cloister, image_release, stripes, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.images.classifier.LEAST_STEPS", 5)
    report = tmp_path / "report.html"
    status, out, err = cloister(
        "evaluate", image_release, "--real", f"{stripes}#test", "--train", f"{stripes}#train", "-o", report, "--json"
    )
    assert status == 0, err
    found = json.loads(out)
    assert (found["kind"], found["rows"]) == ("images", {"train": 120, "test": 40, "synthetic": 40})
    assert found["nearest"]["copies"] == 0
    assert found["statement"] is not None
    assert "Images compared" in report.read_text("utf-8").replace("images", "Images")
    status, out, _ = cloister("evaluate", image_release, "--real", f"{stripes}#train")
    assert status == 0
    assert "Feature distance" in out
    assert "add --train FILE" in out.replace("\n", " ")
