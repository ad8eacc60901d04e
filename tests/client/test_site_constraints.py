"""Records that break a constraint at a site: left out of training and counted there, or the reason to stop."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.doctor.finding import State
from client.doctor.studies import check_records, read_approvals
from client.site import close_site, open_site
from protocol.errors import RecordsError
from protocol.study import Study
from simulations.site_folders import write_site_folders

FILE = "age,colour,ill\n20,red,true\n26,red,false\n27,,false\n28,red,true\n"
Folder = Callable[[str], tuple[Study, Path]]


@pytest.fixture
def folder(tiny_study: Callable[..., Study], tmp_path: Path) -> Iterator[Folder]:
    """Return a function that sets up a site whose file holds two red ones over 24, by what becomes of them."""

    def make(broken: str) -> tuple[Study, Path]:
        study = tiny_study(schema={"constraints": [{"never": ["age >= 25", "colour = red"], "broken": broken}]})
        write_site_folders(tmp_path, study, {name: {"location": "r.csv", "set": name} for name in ("north", "south")})
        (tmp_path / "0" / "r.csv").write_text(FILE, "utf-8")
        return study, tmp_path / "0"

    yield make
    close_site(tmp_path / "0")


def test_they_are_left_out_and_only_the_doctor_at_the_site_counts_them(folder: Folder) -> None:
    study, place = folder("drop")
    assert open_site(place).trainer(study)._codes.tolist() == [[0, 0, 1], [7, 3, 0]]
    (consent,) = read_approvals(place).consents.values()
    finding = check_records(place, consent)
    assert finding.state is State.OK
    assert "2 records fit the study's schema; 2 break its constraints and are left out" in finding.message


def test_they_stop_the_site_where_the_schema_says_so(folder: Folder) -> None:
    study, place = folder("refuse")
    (consent,) = read_approvals(place).consents.values()
    assert check_records(place, consent).state is State.FAILED
    with pytest.raises(RecordsError, match="2 of 4 rows break the constraint 'never age >= 25 and colour = red'"):
        open_site(place).trainer(study)
