"""Ready scenarios: every name opens, and missing data are said plainly."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest

from protocol.errors import CloisterError, InputError, RecordsError, StudyError
from protocol.study import Study
from records.codec import Codec
from records.dataset import Records
from simulations.scenario import DATA_VARIABLE, Scenario, ready_names, split
from strategies.study_model import build_study_model, study_schema

NAMES = (
    "adult",
    "breast_cancer",
    "breast_wdbc",
    "cardio",
    "cervical",
    "diabetes130",
    "heart_disease",
    "ilpd",
    "mnist",
    "online_shoppers",
    "pneumoniamnist",
)


def write(records: Records, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Codec(records.schema).decode(records.codes, generator=np.random.default_rng(0))
    pyarrow.csv.write_csv(table, path)
    return path


def whole(parts: dict[str, Records]) -> np.ndarray:
    codes = np.concatenate([part.codes for part in parts.values()])
    return codes[np.lexsort(codes.T)]


@pytest.fixture
def own(tiny_study: Callable[..., Study]) -> Scenario:
    """A study of one's own, whose file is given."""
    return Scenario(study=tiny_study(), sites={}, file="records.csv", partition="iid", source="files")


def test_ready_names_are_what_is_documented() -> None:
    assert ready_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_ready_scenario_is_a_whole_study(name: str) -> None:
    scenario = Scenario.ready(name)
    assert scenario.study.name.replace("-", "_") == name
    assert scenario.study.purpose
    assert scenario.study.federation.sites == (len(scenario.sites) or scenario.study.federation.sites)
    assert build_study_model(scenario.study).layout.columns == len(study_schema(scenario.study).names)
    assert Scenario.ready(name).study.hash == scenario.study.hash


@pytest.mark.parametrize("name", ["", "adults", "adult.toml", "../adult", "adult_binned", "adult.schema"])
def test_another_name_lists_the_ready_ones(name: str) -> None:
    with pytest.raises(InputError, match="breast_cancer"):
        Scenario.ready(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "breast_cancer"])
def test_without_data_the_error_says_how_to_give_them(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scenario = Scenario.ready(name)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(InputError, match=DATA_VARIABLE):
        scenario.load(None, scheme=None, sites=None, seed=0)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(RecordsError, match="no such file"):
        scenario.load(None, scheme=None, sites=None, seed=0)
    with pytest.raises(CloisterError, match="none"):
        scenario.load(tmp_path / "none", scheme=None, sites=None, seed=0)


def test_the_demonstration_needs_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    scenario = Scenario.ready("breast_cancer")
    parts = scenario.load(None, scheme=None, sites=None, seed=0)
    assert list(parts) == ["site-1", "site-2", "site-3", "site-4"]
    assert sum(len(part) for part in parts.values()) == 569
    assert all(part.schema == study_schema(scenario.study) for part in parts.values())
    assert len(scenario.load(None, scheme="dirichlet:0.5", sites=7, seed=0)) == 7


def test_the_breast_cancer_records_are_encoded_as_their_measurements_say() -> None:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    scenario = Scenario.ready("breast_cancer")
    (records,) = scenario.load(None, scheme="iid", sites=1, seed=0).values()
    schema = study_schema(scenario.study)
    # 212 malignant and 357 benign: Wolberg, Street and Mangasarian 1995.
    assert np.bincount(records.codes[:, schema.index("diagnosis")]).tolist() == [357, 212]
    radius = bunch.data[:, list(bunch.feature_names).index("mean radius")]
    order = np.argsort(radius, kind="stable")
    codes = records.codes[order, schema.index("mean radius")]
    assert (np.diff(codes) >= 0).all()
    assert codes[0] < codes[-1]


def test_one_file_is_split_among_the_studys_sites(
    own: Scenario, tiny_records: Callable[..., Records], tmp_path: Path
) -> None:
    records = tiny_records(31)
    file = write(records, tmp_path / "records.csv")
    for data in (file, tmp_path, str(file)):
        parts = own.load(data, scheme=None, sites=None, seed=0)
        assert [len(part) for part in parts.values()] == [16, 15]
        np.testing.assert_array_equal(whole(parts), whole({"all": records}))
    again = own.load(file, scheme=None, sites=None, seed=0)
    np.testing.assert_array_equal(again["site-1"].codes, parts["site-1"].codes)
    other = own.load(file, scheme=None, sites=None, seed=1)
    assert not np.array_equal(other["site-1"].codes, parts["site-1"].codes)


def test_a_column_makes_the_sites(own: Scenario, tiny_records: Callable[..., Records], tmp_path: Path) -> None:
    file = write(tiny_records(200), tmp_path / "records.csv")
    parts = own.load(file, scheme="column:colour", sites=3, seed=0)
    assert len(parts) == 3
    seen = [set(part.codes[:, 1].tolist()) for part in parts.values()]
    assert [len(codes) for codes in seen] == [1, 1, 2], "the last site takes the rest"
    assert set.union(*seen) == {0, 1, 2, 3}
    assert sum(map(len, seen)) == 4
    for scheme, sites in (("column:shape", 2), ("column:colour", 5), ("columns", 2), ("dirichlet:x", 2)):
        with pytest.raises(StudyError):
            own.load(file, scheme=scheme, sites=sites, seed=0)


def test_files_of_sites_are_read_as_they_are(
    own: Scenario, tiny_records: Callable[..., Records], tmp_path: Path
) -> None:
    scenario = replace(own, file="", sites={"north": "a/north.csv", "south": "a/south.csv"})
    for seed, file in enumerate(scenario.sites.values()):
        write(tiny_records(10 + seed, seed=seed), tmp_path / file)
    for sites in (None, 2):
        parts = scenario.load(tmp_path, scheme=None, sites=sites, seed=0)
        assert {name: len(part) for name, part in parts.items()} == {"north": 10, "south": 11}
    for scheme, sites in (("iid", None), (None, 3)):
        with pytest.raises(InputError, match="one file per site"):
            scenario.load(tmp_path, scheme=scheme, sites=sites, seed=0)
    assert len(scenario.load(tmp_path / "a" / "north.csv", scheme=None, sites=5, seed=0)) == 5


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:0.3"])
def test_persons_stay_whole(tiny_records: Callable[..., Records], scheme: str) -> None:
    schema = replace(tiny_records(0).schema, person="who")
    persons = np.arange(60, dtype=np.int64) // 3
    records = Records(codes=tiny_records(60).codes, persons=persons, schema=schema)
    parts = split(records, scheme, sites=4, seed=0)
    assert sum(len(np.unique(part.persons)) for part in parts.values()) == 20
    for part in parts.values():
        assert part.persons is not None
        assert (np.bincount(part.persons) == 3).all()
