"""What a model need not draw: nothing that could occur is taken away, and hopeless conditions are found at once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import InputError
from records.completion import Completion
from records.narrowing import narrowed
from records.schema import Schema

SCHEMA = Schema.from_mapping(
    {
        "columns": [
            {"name": "low", "kind": "integer", "lower": 0, "upper": 9, "bins": 3, "missing": True},
            {"name": "high", "kind": "integer", "lower": 0, "upper": 9, "bins": 4},
            {"name": "gap", "kind": "integer", "lower": 0, "upper": 9, "bins": 2},
            {"name": "ward", "kind": "categorical", "categories": ["a", "b", "c"]},
            {"name": "grade", "kind": "integer", "lower": 1, "upper": 3},
            {"name": "ill", "kind": "boolean"},
        ],
        "constraints": [
            {"holds": "low < high"},
            {"column": "gap", "equals": "high - low"},
            {"column": "grade", "by": "ward", "lookup": {"a": "1", "b": "3"}},
            {"never": ["grade = 3", "ill = yes"]},
            {"never": ["ward = c", "ill = yes"]},
            {"column": "ward", "when": ["low is missing"], "value": "b"},
        ],
    }
)
EVERY = np.array(list(itertools.product(*(range(size) for size in SCHEMA.cardinalities))))


def standing(allowed):
    """Rows drawn that can stand, found by trying: all codes, several draws within cells."""
    found = np.zeros(len(EVERY), dtype=bool)
    for seed in range(4):
        generator = np.random.default_rng(seed)
        done = Completion(SCHEMA.rule_book, allowed=allowed, generator=generator).complete(EVERY)
        met = np.ones(len(EVERY), dtype=bool)
        for index, mask in allowed.items():
            met &= mask[done.codes[:, index]]
        found |= done.stands & met
    return found


def _masks(draw_bits):
    return {index: np.array(bits) for index, bits in draw_bits.items()}


@st.composite
def _allowed(draw):
    columns = draw(st.sets(st.integers(0, 5), max_size=4))
    sizes = SCHEMA.cardinalities
    return {i: draw(st.lists(st.booleans(), min_size=sizes[i], max_size=sizes[i]).filter(any)) for i in columns}


@settings(deadline=None, max_examples=50)
@given(bits=_allowed())
def test_nothing_that_could_stand_is_taken_away(bits):
    allowed = _masks(bits)
    stands = standing(allowed)
    try:
        masks = narrowed(SCHEMA.rule_book, allowed)
    except InputError:
        assert not stands.any()
        return
    assert not set(masks) & SCHEMA.rule_book.targets
    for index, mask in masks.items():
        assert mask.any()
        assert mask[EVERY[stands][:, index]].all()


def test_what_can_never_occur_is_taken_away():
    masks = narrowed(SCHEMA.rule_book, {5: np.array([False, True])})  # ill: never grade 3, so never ward b
    assert masks.keys() == {0, 5}
    assert masks[0].tolist() == [True, True, True, False]  # a missing "low" would imply ward b
    assert narrowed(SCHEMA.rule_book, {}) == {}


def test_cells_without_room_are_taken_away():
    columns = [{"name": name, "kind": "integer", "lower": 0, "upper": 9} for name in ("low", "high")]
    schema = Schema.from_mapping({"columns": columns, "constraints": [{"holds": "high >= low + 4"}]})
    masks = narrowed(schema.rule_book, {0: np.arange(10) >= 3})
    assert np.flatnonzero(masks[0]).tolist() == [3, 4, 5]
    assert np.flatnonzero(masks[1]).tolist() == [7, 8, 9]
    assert np.flatnonzero(narrowed(schema.rule_book, {})[0]).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("allowed", "column"),
    [
        ({3: [False, True, False], 5: [False, True]}, "ill|ward"),
        ({4: [False, False, True], 5: [False, True]}, "ill|grade|ward"),
        ({0: [False, False, True, False], 1: [True, False, False, False]}, "low|high"),
    ],
)
def test_hopeless_conditions_are_refused_by_name(allowed, column):
    masks = {index: np.array(bits) for index, bits in allowed.items()}
    assert not standing(masks).any()
    with pytest.raises(InputError, match=rf"leave no value of column ({column})\. Widen the conditions"):
        narrowed(SCHEMA.rule_book, masks)
