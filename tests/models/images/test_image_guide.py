"""The guide to studies of images lists every option with its true default."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from models.families import build_family
from models.images.shape import ImageShape

GUIDE = (Path(__file__).parents[3] / "docs" / "image-studies.md").read_text("utf-8")
SHARED = {"views", "shift", "flip", "mixed_precision"}


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_every_option_is_listed_with_its_default(name):
    section = re.split(r"\n##", GUIDE.split(f"\n### `{name}`")[1])[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, flags=re.MULTILINE))
    family = build_family(name, {}, cardinalities=(2,), label=0, image=ImageShape(height=8, width=8))
    defaults = {field.name: field.default for field in dataclasses.fields(family.options)}
    assert set(listed) == (set(defaults) if name == "vae" else set(defaults) - SHARED)
    for key, text in listed.items():
        value = json.loads(text.strip().strip("`"))
        assert (tuple(value) if isinstance(value, list) else value) == defaults[key]
    assert [defaults[key] for key in ("views", "shift", "flip", "mixed_precision")] == [1, 1, False, False]
