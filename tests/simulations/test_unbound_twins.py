"""A study that is bound to its sites and its start can be audited: what a record is promised does not rest on them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from protocol.public_start import PublicStart
from protocol.study import Study
from protocol.terms import Trust
from records.dataset import Records
from simulations.audit.channel.audit import _calibrated
from simulations.audit.mechanism.evidence import audited_study
from simulations.audit.mechanism.run import twin_study
from simulations.comparison import compare
from simulations.federation import alone, unbound
from strategies.study_model import build_study_model, study_schema

START = PublicStart(release="census", public="A test.", weights="0" * 64, sent="1" * 64)


@pytest.fixture
def bound(tiny_study: Callable[..., Study]) -> Study:
    """A study with a site column, a site that lacks a column, and a start."""
    plain = tiny_study(federation={"lacking": {"south": ["colour"]}}, training={"rounds": 2})
    column = {"name": "where", "kind": "categorical", "categories": ["north", "south"]}
    schema = {**plain.schema, "columns": [column, *plain.schema["columns"]], "site_column": "where"}
    return replace(plain, schema=schema, model=replace(plain.model, init=START))


@pytest.mark.parametrize(
    "twin",
    [audited_study, lambda study: twin_study(study, sites=3, rounds=1), _calibrated],
    ids=["small", "run", "one"],
)
def test_a_twin_has_sites_of_its_own(bound: Study, twin: Callable[[Study], Study]) -> None:
    made = twin(bound)
    assert made.model.init is None
    assert made.federation.lacking is None
    assert study_schema(made).site_column is None
    assert study_schema(made).names == ("where", "age", "colour", "ill")
    assert build_study_model(made).layout.cardinalities == build_study_model(unbound(bound)).layout.cardinalities


def test_a_usual_study_stays_as_it_is(tiny_study: Callable[..., Study]) -> None:
    assert unbound(tiny_study()).hash == tiny_study().hash


def test_a_site_alone_keeps_the_start_and_is_no_site_of_the_column(bound: Study) -> None:
    single = alone(bound, public_records=50)
    assert (single.federation.sites, single.privacy.trust, single.model.init) == (1, Trust.NONE, START)
    assert study_schema(single).site_column is None


def test_a_comparison_treats_the_site_as_an_ordinary_column_where_there_is_one_site(bound: Study) -> None:
    study = replace(bound, model=replace(bound.model, init=None))
    schema = study_schema(study)
    generator = np.random.default_rng(0)
    codes = generator.integers(0, schema.cardinalities, (80, 4)).astype(np.int32)
    parts = {
        name: Records(codes=codes[part::2], persons=None, schema=schema) for part, name in enumerate(["north", "south"])
    }
    found = compare(study, parts, seed=0)
    assert [row.name for row in found.alone] == ["north alone", "south alone"]
    assert found.federated.records == found.pooled.records == 64
