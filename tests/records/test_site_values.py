"""What a site fills in: its own name and columns that it lacks, whatever a source holds there."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from protocol.errors import RecordsError, SchemaError, StudyError
from protocol.study import FederationTerms
from records.dataset import Records, load_records
from records.schema import Schema
from records.site_values import check_site_terms, fixed_codes

HOSPITALS = ["north", "south"]
MAPPING: dict[str, Any] = {
    "site_column": "hospital",
    "target": "ill",
    "columns": [
        {"name": "hospital", "kind": "categorical", "categories": HOSPITALS},
        {"name": "age", "kind": "integer", "lower": 20, "upper": 29},
        {"name": "chol", "kind": "integer", "lower": 0, "upper": 9, "missing": True},
        {"name": "ill", "kind": "boolean"},
    ],
}
SCHEMA = Schema.from_mapping(MAPPING)
NAMES = ["age", "chol", "ill"]
BARE = Schema.from_mapping(MAPPING | {"format": {"header": False, "names": NAMES}})
SOUTH = fixed_codes(SCHEMA, site="south", lacking=("chol",))
EXPECTED = [[1, 3, 10, 1], [1, 0, 10, 0]]


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ("age,ill", "23,yes", "20,no"),
        ("age,chol,ill", "23,,yes", "20,,no"),
        ("age,chol,ill", "23,7,yes", "20,8,no"),
        ("hospital,age,ill", "north,23,yes", "nowhere,20,no"),
        ("ill,hospital,chol,age", "yes,north,x,23", "no,,y,20"),
    ],
    ids=["absent", "all missing", "values there", "another site's name", "other order"],
)
def test_a_text_file_gives_the_same_codes_whatever_it_holds_there(tmp_path: Path, lines: tuple[str, ...]) -> None:
    records = load_records(written(tmp_path / "r.csv", *lines), schema=SCHEMA, fixed=SOUTH)
    assert records.codes.tolist() == EXPECTED
    assert records.codes.dtype == np.int32


@pytest.mark.parametrize("lines", [("23,yes", "20,no"), ("23,7,yes", "20,,no")], ids=["absent", "there"])
def test_a_file_without_header_may_be_shorter(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert load_records(written(tmp_path / "r.csv", *lines), schema=BARE, fixed=SOUTH).codes.tolist() == EXPECTED


def test_a_file_of_another_width_is_still_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="another number of fields"):
        load_records(written(tmp_path / "r.csv", "23,7,yes,1", "20,8,no,1"), schema=BARE, fixed=SOUTH)


def test_parquet_and_databases_may_lack_it_too(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"age": [23, 20], "ill": [True, False]}), tmp_path / "r.parquet")
    assert load_records(tmp_path / "r.parquet", schema=SCHEMA, fixed=SOUTH).codes.tolist() == EXPECTED


def test_a_column_that_nobody_declared_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "age,ill", "23,yes")
    with pytest.raises(RecordsError, match="column chol: is not there") as caught:
        load_records(path, schema=SCHEMA, fixed=fixed_codes(SCHEMA, site="south", lacking=()))
    assert "federation.lacking" in caught.value.remedy


def test_codes_are_overwritten_in_a_copy() -> None:
    codes = np.array([[0, 3, 7, 1]], dtype=np.int32)
    records = Records(codes=codes, persons=None, schema=SCHEMA)
    assert records.with_codes(SOUTH).codes.tolist() == [[1, 3, 10, 1]]
    assert codes.tolist() == [[0, 3, 7, 1]]
    assert records.with_codes({}) is records


def test_a_site_that_the_schema_does_not_name_is_refused() -> None:
    with pytest.raises(RecordsError, match="'west' is not among"):
        fixed_codes(SCHEMA, site="west", lacking=())


@pytest.mark.parametrize("column", ["hospital", "weight", "age"])
def test_not_every_column_may_lack(column: str) -> None:
    with pytest.raises(StudyError, match=r"federation\.lacking\.north names '" + column):
        check_site_terms(SCHEMA, FederationTerms(sites=2, public_records=10, lacking={"north": [column]}))


@pytest.mark.parametrize(
    "terms",
    [
        {"sites": 3},
        {"sites": 2, "roster": {"north": "a" * 64, "west": "b" * 64}},
        {"sites": 2, "lacking": {"west": ["chol"]}},
    ],
    ids=["number", "roster", "lacking"],
)
def test_the_site_column_names_the_sites_of_the_study(terms: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="hospital"):
        check_site_terms(SCHEMA, FederationTerms(public_records=10, **terms))


def test_sites_that_fit_pass() -> None:
    roster = {"south": "a" * 64, "north": "b" * 64}
    terms = FederationTerms(sites=2, public_records=10, roster=roster, lacking={"north": ["chol"]})
    check_site_terms(SCHEMA, terms)
    check_site_terms(Schema(columns=SCHEMA.columns), FederationTerms(sites=7, public_records=10))


@pytest.mark.parametrize(
    "column",
    [
        {"name": "hospital", "kind": "categorical", "categories": HOSPITALS, "missing": True},
        {"name": "hospital", "kind": "categorical", "categories": HOSPITALS, "other": True},
        {"name": "hospital", "kind": "categorical", "categories": HOSPITALS, "aliases": {"n": "north"}},
        {"name": "hospital", "kind": "categorical", "categories": ["North", "South"]},
        {"name": "hospital", "kind": "ordinal", "categories": HOSPITALS},
        {"name": "ward", "kind": "categorical", "categories": HOSPITALS},
    ],
    ids=["missing", "other", "aliases", "capitals", "ordinal", "no such column"],
)
def test_a_site_column_holds_names_of_sites_and_nothing_else(column: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="hospital"):
        Schema.from_mapping(MAPPING | {"columns": [column, *MAPPING["columns"][1:]]})


def test_the_schema_keeps_its_site_column() -> None:
    assert SCHEMA.to_mapping()["site_column"] == "hospital"
    assert Schema.from_mapping(SCHEMA.to_mapping()) == SCHEMA
