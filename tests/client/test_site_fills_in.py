"""A site fills in its own name and what it lacks, in a folder as in a simulation, and never from its file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.doctor.finding import State
from client.doctor.studies import check_records, read_approvals
from client.site import close_site, open_site
from protocol.errors import RecordsError, StudyError
from protocol.study import Study
from records.dataset import Records
from simulations.federation import simulated_site
from simulations.scenario import Scenario
from simulations.site_folders import write_site_folders
from strategies.study_model import study_schema

SITES = ["north", "south"]
FILES = {
    "north": "age,colour,ill\n20,red,true\n21,,false\n",
    "south": "where,age,ill\nnorth,22,true\nnorth,23,false\n",
}
EXPECTED = {"north": [[0, 0, 1, 0], [1, 3, 0, 0]], "south": [[2, 3, 1, 1], [3, 3, 0, 1]]}


@pytest.fixture
def study(tiny_study: Callable[..., Study]) -> Study:
    """A study with a site column; the south lacks colours."""
    plain = tiny_study(federation={"lacking": {"south": ["colour"]}})
    column = {"name": "where", "kind": "categorical", "categories": SITES}
    columns = [*plain.schema["columns"], column]
    return replace(plain, schema={**plain.schema, "columns": columns, "site_column": "where"})


@pytest.fixture
def folders(study: Study, tmp_path: Path) -> Any:
    """The folders of both sites, with their files."""
    write_site_folders(tmp_path, study, {name: {"location": "r.csv", "set": name} for name in SITES})
    for number, name in enumerate(SITES):
        (tmp_path / str(number) / "r.csv").write_text(FILES[name])
    yield [tmp_path / str(number) for number in range(2)]
    for number in range(2):
        close_site(tmp_path / str(number))


def codes(site: Any, study: Study) -> list[list[int]]:
    return site.trainer(study)._codes.tolist()


def test_a_site_in_a_folder_fills_in_what_its_file_cannot_say(study: Study, folders: list[Path]) -> None:
    for name, folder in zip(SITES, folders, strict=True):
        assert codes(open_site(folder), study) == EXPECTED[name]


def test_the_doctor_reads_records_as_the_client_does(folders: list[Path]) -> None:
    for folder in folders:
        (consent,) = read_approvals(folder).consents.values()
        assert check_records(folder, consent).state is State.OK


def test_a_simulated_site_fills_in_the_same(study: Study) -> None:
    schema = study_schema(study)
    for name in SITES:
        told = np.array(EXPECTED[name], dtype=np.int32)
        told[:, 3], told[:, 1] = 0, np.where(told[:, 1] == 3, 1, told[:, 1])  # a lie, and a value where there is none
        wanted = np.array(EXPECTED[name])
        wanted[:, 1] = 3 if name == "south" else told[:, 1]
        site = simulated_site(name, study, Records(codes=told, persons=None, schema=schema), device="cpu")
        assert codes(site, study) == wanted.tolist()


def test_a_site_that_the_study_does_not_name_takes_no_part(study: Study) -> None:
    records = Records(codes=np.zeros((3, 4), np.int32), persons=None, schema=study_schema(study))
    with pytest.raises(RecordsError, match="'west' is not among"):
        simulated_site("west", study, records, device="cpu").trainer(study)


def test_a_study_whose_site_column_names_others_has_no_model(study: Study) -> None:
    with pytest.raises(StudyError, match="where"):
        study_schema(replace(study, federation=replace(study.federation, sites=3)))


def test_one_file_is_split_under_the_names_of_the_site_column(study: Study, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("age,colour,ill\n" + "20,red,true\n" * 30)
    scenario = Scenario(study=study, sites={}, file="", partition="quantity:2", source="files")
    parts = scenario.load(tmp_path / "r.csv", scheme=None, sites=None, seed=0)
    assert {name: (len(part), set(part.codes[:, 3].tolist())) for name, part in parts.items()} == {
        "north": (20, {0}),
        "south": (10, {1}),
    }
    assert set(parts["south"].codes[:, 1].tolist()) == {3}
    assert set(parts["north"].codes[:, 1].tolist()) == {0}
