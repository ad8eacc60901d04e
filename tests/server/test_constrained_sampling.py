"""Sampled rows fulfil the schema's constraints as written: every family, with and without conditions."""

import numpy as np
import pytest
import torch

import server.sampling
from models.families import FAMILIES, build_family
from protocol.errors import InputError
from records.codec import Codec
from records.column import Kind
from records.condition import parse_conditions
from records.schema import Schema
from server.sampling import draw_records

SCHEMA = Schema.from_mapping(
    {
        "target": "obese",
        "columns": [
            {"name": "sex", "kind": "categorical", "categories": ["F", "M"]},
            {"name": "pregnant", "kind": "boolean"},
            {"name": "systolic", "kind": "integer", "lower": 60, "upper": 260, "bins": 8, "missing": True},
            {"name": "diastolic", "kind": "integer", "lower": 30, "upper": 160, "bins": 6},
            {"name": "pulse", "kind": "integer", "lower": 0, "upper": 230, "bins": 9, "missing": True},
            {"name": "entered", "kind": "date", "lower": "2020-01-01", "upper": "2020-12-31", "bins": 6},
            {"name": "left", "kind": "date", "lower": "2020-01-01", "upper": "2021-12-31", "bins": 8},
            {"name": "bmi", "kind": "continuous", "edges": [10, 18.5, 25, 30, 60], "scale": "log"},
            {"name": "obese", "kind": "boolean"},
        ],
        "constraints": [
            {"holds": "systolic > diastolic"},
            {"column": "pulse", "equals": "systolic - diastolic"},
            {"holds": "entered <= left"},
            {"never": ["sex = M", "pregnant = yes"]},
            {"column": "obese", "when": ["bmi >= 30"], "value": "yes"},
            {"column": "obese", "when": ["bmi < 30"], "value": "no"},
        ],
    }
)


def random_model(family, schema=SCHEMA, *, seed=0):
    """A model whose weights are random: it knows nothing of any constraint."""
    model = build_family(
        family,
        {},
        cardinalities=schema.cardinalities,
        label=schema.index(schema.target),
        ordered=tuple(0 if c.kind is Kind.CATEGORICAL else c.values_cardinality for c in schema.columns),
        groups=tuple(c.group_codes for c in schema.columns),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def written(model, count, *, where=(), seed=1, schema=SCHEMA):
    allowed = parse_conditions(where, schema=schema)
    generator, codec = np.random.default_rng(0), Codec(schema)
    parts = list(draw_records(model, schema, count, allowed=allowed, seed=seed))
    codes = np.concatenate([part for part, _ in parts])
    rows = [row for part, held in parts for row in codec.decode(part, generator=generator, values=held).to_pylist()]
    return rows, codes, allowed


def broken(row):
    """The constraints that a row breaks, said in Python."""
    said = {
        "systolic": row["systolic"] is not None and not row["systolic"] > row["diastolic"],
        "pulse": row["systolic"] is not None and row["pulse"] != row["systolic"] - row["diastolic"],
        "left": row["left"] < row["entered"],
        "pregnant": row["sex"] == "M" and row["pregnant"],
        "obese": row["obese"] != (row["bmi"] >= 30),
    }
    return {name for name, wrong in said.items() if wrong}


WHERE = [(), ("sex = M",), ("obese = yes", "left < 2021-01-01"), ("pulse < 100", "systolic is not missing")]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", WHERE, ids=str)
def test_every_row_of_every_family_fulfils_them_as_written(family, where):
    rows, codes, allowed = written(random_model(family), 400, where=where)
    assert len(rows) == 400
    assert [broken(row) for row in rows if broken(row)] == []
    for index, mask in allowed.items():
        assert mask[codes[:, index]].all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sampler_without_completion_breaks_every_one(family, monkeypatch):
    class Nothing(server.sampling._Completed):
        def __call__(self, codes):
            rows = super().__call__(codes)
            gone = torch.full_like(rows.values, np.nan)
            return rows._replace(codes=codes.int(), values=gone, stands=torch.ones_like(rows.stands))

    monkeypatch.setattr(server.sampling, "_Completed", Nothing)
    model = random_model(family)
    parts = list(draw_records(model, SCHEMA, 2000, allowed={}, seed=1))
    rows = Codec(SCHEMA).decode(parts[0][0], generator=np.random.default_rng(0)).to_pylist()
    assert set().union(*map(broken, rows)) == {"systolic", "pulse", "left", "pregnant", "obese"}


def test_codes_are_those_of_what_is_written_and_seeds_repeat(monkeypatch):
    monkeypatch.setattr(server.sampling, "_BATCH", 150)
    model = random_model("vae")
    rows, codes, _ = written(model, 400)
    again, same, _ = written(model, 400)
    assert rows == again
    np.testing.assert_array_equal(codes, same)
    assert not np.array_equal(codes, written(model, 400, seed=2)[1])
    import pyarrow as pa

    arrow = pa.Table.from_pylist(rows)
    np.testing.assert_array_equal(Codec(SCHEMA).encode(arrow, source="written"), codes)


def test_conditions_that_constraints_forbid_are_refused_before_anything_is_drawn():
    model = random_model("vae")
    model.draw = None  # nobody may ask it
    with pytest.raises(InputError, match="conditions and the constraints of the schema leave no value of column"):
        written(model, 5, where=("sex = M", "pregnant = yes"))


def test_conditions_that_only_values_rule_out_are_refused_after_a_while(monkeypatch):
    monkeypatch.setattr("models.conditional._POOL_DRAWS", 1 << 15)
    where = ("pulse >= 204", "systolic < 185", "systolic is not missing")
    with pytest.raises(InputError, match="under the schema's constraints nearly no probability"):
        written(random_model("vae"), 5, where=where)


def test_a_schema_without_constraints_is_sampled_as_before():
    plain = Schema.from_mapping({k: v for k, v in SCHEMA.to_mapping().items() if k != "constraints"})
    model = random_model("vae")
    (codes, values), *rest = draw_records(model, plain, 300, allowed={}, seed=7)
    alone = model.draw(300, allowed={}, generator=torch.Generator().manual_seed(7))[0]
    np.testing.assert_array_equal(codes, alone.numpy())
    assert (values, rest) == ({}, [])
