"""The data sheet says what every row fulfils by declaration, and nothing where nothing is declared."""

import html
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from records.column import Column, Kind
from records.constraints import Broken, Constraint
from server.bundle.data_sheet import data_sheet
from server.bundle.subject import Subject
from server.release import Release
from server.verification import verify_release

HEADING = "What every row fulfils"


def words_of(page: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())


def declared(deployed: Any, *constraints: Constraint) -> Subject:
    """The subject of a real release whose schema declares constraints besides."""
    release = Release.open(deployed.folder, device=torch.device("cpu"))
    code = Column(name="code", kind=Kind.CATEGORICAL, categories=tuple(f"c{number}" for number in range(42)))
    schema = replace(release.schema, columns=(*release.schema.columns, code), constraints=constraints)
    return replace(
        Subject.of(release, verify_release(release)),
        release=replace(release, schema=schema),
    )


def test_nothing_is_said_where_nothing_is_declared(deployed: Any) -> None:
    assert HEADING not in data_sheet(declared(deployed))


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (Broken.REFUSE, "the site takes no part until it has none"),
        (Broken.DROP, "left out of training"),
        (Broken.MEND, "the implied column is overwritten"),
    ],
)
def test_each_constraint_has_a_line_with_what_becomes_of_other_records(
    deployed: Any, broken: Broken, told: str
) -> None:
    implied = Constraint(
        column="ill", when=("colour = red",), value="yes", broken=broken, description="From <the> form."
    )
    sheet = data_sheet(declared(deployed, implied))
    assert HEADING in sheet
    assert f"ill = yes when colour = red {told} From <the> form." in words_of(sheet)
    assert "<the>" not in sheet, "words of a schema are no markup"


def test_a_lookup_is_told_value_by_value_and_cut_where_it_is_long(deployed: Any) -> None:
    pairs = tuple((f"c{number}", "red") for number in range(42))
    short = words_of(data_sheet(declared(deployed, Constraint(column="colour", by="code", lookup=pairs[:2]))))
    assert "colour by code: c0 gives red, c1 gives red the site" in short
    long = words_of(data_sheet(declared(deployed, Constraint(column="colour", by="code", lookup=pairs))))
    assert "c39 gives red, and 2 more the site" in long
    assert "c40 gives" not in long


def test_no_line_of_the_page_counts_records_of_a_site(deployed: Any) -> None:
    sheet = words_of(
        data_sheet(declared(deployed, Constraint(never=("colour = red", "ill = yes"), broken=Broken.DROP)))
    )
    assert "never colour = red and ill = yes left out of training" in sheet
    assert "How many records of a site break one is not in the release." in sheet
