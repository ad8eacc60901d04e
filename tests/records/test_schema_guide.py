"""The guide's examples are schemas, and what it says of them is so."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from protocol.errors import RecordsError
from records.codec import Codec
from records.completion import Completion
from records.constraints import Constraint
from records.schema import Column, Schema

GUIDE = Path(__file__).parents[2] / "docs" / "schema.md"
TEXT = GUIDE.read_text("utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.splitlines()[1])
def test_an_example_is_a_schema(text):
    schema = Schema.from_mapping(tomllib.loads(text))
    assert Schema.from_mapping(schema.to_mapping()) == schema


@pytest.mark.parametrize("made", [Column, Constraint])
def test_every_key_is_explained(made):
    keys = set(made.__dataclass_fields__)
    explained = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in TEXT.splitlines() if "|" in line)))
    assert keys - explained == set()


def test_the_example_of_constraints_holds_in_what_is_written():
    schema = Schema.from_mapping(tomllib.loads(EXAMPLES[1]))
    generator = np.random.default_rng(0)
    drawn = np.stack([generator.integers(0, size, 5000) for size in schema.cardinalities], axis=1)
    found = Completion(schema.rule_book, allowed={}, generator=generator).complete(drawn)
    codes, values = found.codes[found.stands], {i: held[found.stands] for i, held in found.values.items()}
    table = Codec(schema).decode(codes, generator=generator, values=values)
    assert 100 < len(table) < 5000
    for row in table.to_pylist():
        assert row["systolic"] - row["diastolic"] == row["pulse_pressure"] >= 0
        assert (row["left"] - row["entered"]).days == row["days"] >= 0
        assert not (row["sex"] == "M" and row["pregnant"])
        assert abs(row["weight"] / row["height"] ** 2 - row["bmi"]) < 0.050001
        assert row["obese"] == (row["bmi"] >= 30)
        assert row["diabetic"] or row["diagnosis"] not in ("E11.0", "E11.9")
    np.testing.assert_array_equal(Codec(schema).encode(table, source="written"), codes)
    broken = table.set_column(table.schema.get_field_index("days"), "days", pa.array([366 - 1] * len(table)))
    with pytest.raises(RecordsError, match="days: .* rows break the constraint 'days = left - entered'"):
        Codec(schema).encode(broken, source="broken")
