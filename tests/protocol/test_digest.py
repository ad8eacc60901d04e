"""Canonical JSON: one form per value, nothing silently converted."""

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import canonical_json, digest
from protocol.errors import WireError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_reads_back_as_the_same_value(value: object) -> None:
    again = json.loads(canonical_json(value))
    assert again == value
    assert canonical_json(again) == canonical_json(value)


@given(st.dictionaries(TEXT, st.integers(), min_size=2, max_size=6))
def test_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)


def test_digest_is_sha256_of_the_bytes() -> None:
    assert (
        digest({"a": [1, 2.5, None, True, "ü"]}) == hashlib.sha256('{"a":[1,2.5,null,true,"ü"]}'.encode()).hexdigest()
    )


def test_an_integer_and_a_float_differ() -> None:
    assert digest(1) != digest(1.0)


def test_a_tuple_is_a_list() -> None:
    assert canonical_json((1, (2,))) == canonical_json([1, [2]])


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        {"a": [-math.inf]},
        {1: 2},
        {None: 1},
        {"a": {True: 1}},
        b"bytes",
        {1, 2},
        object(),
        "\ud800",
    ],
)
def test_refuses_what_is_not_json(value: object) -> None:
    with pytest.raises(WireError):
        canonical_json(value)


def test_refuses_depth_and_cycles() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(WireError, match="nested"):
        canonical_json(cycle)
