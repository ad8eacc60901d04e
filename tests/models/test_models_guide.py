"""The guide to the model families lists every option with its true default."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from models.families import FAMILIES, build_family

GUIDE = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_option_is_listed_with_its_default(name):
    section = re.split(r"\n## ", GUIDE.split(f"\n## `{name}`")[1])[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, flags=re.MULTILINE))
    family = build_family(name, {}, cardinalities=(2, 2), label=None)
    defaults = {field.name: field.default for field in dataclasses.fields(family.options)}
    assert set(listed) == set(defaults)
    for key, text in listed.items():
        if key != "label":
            value = json.loads(text.strip().strip("`"))
            assert (tuple(value) if isinstance(value, list) else value) == defaults[key]
