"""The ready studies are named where a user looks for them."""

import re
from pathlib import Path

import pytest

from cli.simulate import simulate
from simulations.scenario import ready_names

ROOT = Path(__file__).parents[2]


def test_the_help_lists_all_of_them() -> None:
    told = re.search(r"Ready studies: ([a-z0-9_,\s]+)\.", simulate.__doc__ or "")
    assert told is not None
    assert tuple(" ".join(told[1].split()).split(", ")) == ready_names()


@pytest.mark.parametrize("name", ready_names())
def test_the_readme_names_each_of_them(name: str) -> None:
    _, _, paragraph = (ROOT / "README.md").read_text("utf-8").partition("**Ready studies**")
    assert f"`{name}`" in paragraph.partition("\n\n")[0]
