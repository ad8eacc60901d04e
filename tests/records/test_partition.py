"""Parting records among sites: every record once, persons whole, skew as asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import StudyError
from records.dataset import Records
from records.partition import partition
from records.schema import Schema

SCHEMA = Schema.from_mapping({
    "columns": [
        {"name": "ward", "kind": "categorical", "categories": list("abcdef")},
        {"name": "ill", "kind": "boolean"},
    ],
    "target": "ill",
})  # fmt: skip


def _records(rows, *, people=None, seed=0):
    generator = np.random.default_rng(seed)
    codes = np.stack([generator.integers(0, k, rows) for k in SCHEMA.cardinalities], axis=1).astype(np.int32)
    persons = None
    if people is not None:
        persons = np.unique(generator.integers(0, people, rows), return_inverse=True)[1].astype(np.int64)
    return Records(codes=codes, persons=persons, schema=SCHEMA)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 200),
    people=st.none() | st.integers(1, 50),
    scheme=st.sampled_from(
        ["iid", "dirichlet:0.01", "dirichlet:0.5", "dirichlet:100", "quantity:1", "quantity:100", "column:ward"]
    ),
    sites=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_every_record_is_at_exactly_one_site(rows, people, scheme, sites, seed):
    records = _records(rows, people=people, seed=seed)
    try:
        parts = partition(records, scheme, sites=sites, generator=np.random.default_rng(seed))
    except StudyError:
        whole = len(np.unique(records.codes[:, 0])) if scheme.startswith("column") else records.units.max() + 1
        assert sites > whole
        return
    assert len(parts) == sites
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
    assert all(len(part) and np.all(np.diff(part) > 0) and part.dtype == np.int64 for part in parts)
    if people is not None and not scheme.startswith("column"):
        homes = [set(records.persons[part].tolist()) for part in parts]
        assert sum(map(len, homes)) == len(set().union(*homes))


def test_iid_shares_are_equal_and_mixed():
    records = _records(10_000)
    parts = partition(records, "iid", sites=4, generator=np.random.default_rng(0))
    assert [len(part) for part in parts] == [2500] * 4
    rates = [records.codes[part, 1].mean() for part in parts]
    assert max(rates) - min(rates) < 5 * 0.5 / np.sqrt(2500) * 2


@pytest.mark.parametrize(("concentration", "skewed"), [("0.1", True), ("1000", False)])
def test_a_small_concentration_skews_labels_and_sizes(concentration, skewed):
    records = _records(10_000)
    parts = partition(records, f"dirichlet:{concentration}", sites=5, generator=np.random.default_rng(3))
    rates = np.array([records.codes[part, 1].mean() for part in parts])
    sizes = np.array([len(part) for part in parts])
    assert (np.ptp(rates) > 0.5) == skewed
    assert (sizes.max() > 2 * sizes.min()) == skewed


@pytest.mark.parametrize(("ratio", "sites"), [(1, 4), (10, 2), (100, 10), (100, 3)])
def test_sizes_fall_in_geometric_steps_and_labels_stay_mixed(ratio, sites):
    records = _records(40_000)
    parts = partition(records, f"quantity:{ratio}", sites=sites, generator=np.random.default_rng(3))
    sizes = np.array([len(part) for part in parts])
    assert sizes[0] / sizes[-1] == pytest.approx(ratio, rel=0.02)
    assert sizes[:-1] / sizes[1:] == pytest.approx(np.full(sites - 1, ratio ** (1 / (sites - 1))), rel=0.02)
    rates = np.array([records.codes[part, 1].mean() for part in parts])
    assert np.all(np.abs(rates - 0.5) < 5 * 0.5 / np.sqrt(sizes))


def test_a_site_too_small_for_its_share_still_has_a_person():
    records = _records(60, people=30)
    parts = partition(records, "quantity:1e6", sites=10, generator=np.random.default_rng(0))
    homes = [set(records.persons[part].tolist()) for part in parts]
    assert min(map(len, homes)) == 1
    assert max(map(len, homes)) > 9


def test_one_site_per_value_the_largest_first_and_the_rest_pooled():
    ward = np.repeat([2, 0, 5, 1], [10, 30, 20, 5])
    records = Records(codes=np.stack([ward, ward % 2], axis=1).astype(np.int32), persons=None, schema=SCHEMA)
    parts = partition(records, "column:ward", sites=3, generator=np.random.default_rng(0))
    assert [sorted(set(ward[part].tolist())) for part in parts] == [[0], [5], [1, 2]]
    all_own = partition(records, "column:ward", sites=4, generator=np.random.default_rng(0))
    assert [len(part) for part in all_own] == [30, 20, 10, 5]


def test_the_generator_alone_decides():
    records = _records(500)
    first, again, other = (
        partition(records, "dirichlet:1", sites=3, generator=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


@pytest.mark.parametrize(
    ("scheme", "sites", "word"),
    [
        ("even", 2, "partition = 'even' is not known"),
        ("dirichlet", 2, "is not known"),
        ("column:", 2, "is not known"),
        ("iid:3", 2, "is not known"),
        ("dirichlet:0", 2, "not above zero"),
        ("dirichlet:-1", 2, "not above zero"),
        ("dirichlet:inf", 2, "not above zero"),
        ("dirichlet:much", 2, "not above zero"),
        ("quantity", 2, "is not known"),
        ("quantity:0.5", 2, "not at least one"),
        ("quantity:nan", 2, "not at least one"),
        ("column:region", 2, "there is no such column"),
        ("column:ill", 3, "column ill has 2 values"),
        ("iid", 0, "sites = 0"),
        ("iid", 101, "there are 100 units"),
    ],
)
def test_what_cannot_be_parted_is_refused(scheme, sites, word):
    with pytest.raises(StudyError) as caught:
        partition(_records(100), scheme, sites=sites, generator=np.random.default_rng(0))
    assert word in str(caught.value)
    assert caught.value.remedy


def test_label_skew_needs_a_target():
    plain = Schema.from_mapping({"columns": [{"name": "ill", "kind": "boolean"}]})
    records = Records(codes=np.zeros((9, 1), np.int32), persons=None, schema=plain)
    with pytest.raises(StudyError, match="without a target"):
        partition(records, "dirichlet:1", sites=2, generator=np.random.default_rng(0))
