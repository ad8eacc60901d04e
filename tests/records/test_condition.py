"""Conditions meet exactly the codes all of whose values meet them; what cannot be met says why."""

import datetime
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InputError
from records.codec import Codec
from records.condition import describe_mask, parse_conditions
from records.schema import Schema

SCHEMA = Schema.from_mapping(
    {
        "drop": ["email"],
        "columns": [
            {"name": "age", "kind": "integer", "edges": [*range(0, 100, 5), 99], "missing": True},
            {"name": "capital-gain", "kind": "integer", "lower": 0, "upper": 9},
            {"name": "dose", "kind": "continuous", "lower": 0, "upper": 8, "bins": 8, "points": [0]},
            {"name": "seen", "kind": "date", "lower": "2024-01-01", "upper": "2024-12-31", "bins": 400},
            {"name": "ward", "kind": "categorical", "categories": ["north", "south end", "a|b"],
             "other": True, "aliases": {"N": "north"}, "missing": True},
            {"name": "pain", "kind": "ordinal", "categories": ["none", "some", "much"]},
            {"name": "income", "kind": "continuous", "lower": 0, "upper": 100, "bins": 4},
            {"name": "income>50K", "kind": "boolean"},
            {"name": "flipped", "kind": "boolean", "true_values": ["0", "JA"], "false_values": ["1", "nein"]},
            {"name": "hours per week", "kind": "integer", "lower": 1, "upper": 3},
        ],
    }
)  # fmt: skip
COMPARISONS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def met(*texts: str) -> list[str]:
    """Labels of the codes that meet conditions on one column."""
    masks = parse_conditions(texts, schema=SCHEMA)
    ((index, mask),) = masks.items()
    assert mask.dtype == np.bool_
    labels = SCHEMA.columns[index].code_labels
    return [label for label, each in zip(labels, mask, strict=True) if each]


def wrong(*texts: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_conditions(texts, schema=SCHEMA)
    assert repr(texts[-1]) in caught.value.problem
    return caught.value


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["ward=north"], ["north"]),
        (["  ward =  south end "], ["south end"]),
        (["ward=N"], ["north"]),
        (["ward=a|b"], ["a|b"]),
        (["ward=other"], ["other"]),
        (["ward!=north"], ["south end", "a|b", "other"]),
        (["ward in north|other"], ["north", "other"]),
        (["ward is missing"], ["(missing)"]),
        (["ward IS NOT Missing"], ["north", "south end", "a|b", "other"]),
        (["ward in north|other", "ward!=other"], ["north"]),
        (["pain>=some"], ["some", "much"]),
        (["pain<some"], ["none"]),
        (["pain>none", "pain<=some"], ["some"]),
        (["income>50K=true"], ["true"]),
        (["income>50K = NO"], ["false"]),
        (["income>50"], ["[75, 100]"]),
        (["income>=50"], ["[50, 75)", "[75, 100]"]),
        (["flipped=0"], ["true"]),
        (["flipped=ja"], ["true"]),
        (["flipped=false"], ["false"]),
        (["hours per week=2"], ["2"]),
        (["hours per week in 1|3"], ["1", "3"]),
        (["capital-gain>=8.5"], ["9"]),
        (["capital-gain!=0", "capital-gain < 3"], ["1", "2"]),
        (["age<10"], ["0 to 4", "5 to 9"]),
        (["age<9"], ["0 to 4"]),
        (["age>92"], ["95 to 99"]),
        (["dose=0"], ["0"]),
        (["dose<=1"], ["0", "(0, 1)"]),
        (["age!=37.5", "age>=90"], ["90 to 94", "95 to 99"]),
        (["dose>=7"], ["[7, 8]"]),
        (["seen=2024-02-29"], ["2024-02-29"]),
        (["seen>2024-12-29"], ["2024-12-30", "2024-12-31"]),
    ],
)  # fmt: skip
def test_codes_that_meet(texts, labels):
    assert met(*texts) == labels


def test_conditions_on_several_columns_and_none():
    masks = parse_conditions(["pain=much", "ward=north"], schema=SCHEMA)
    assert sorted(masks) == [SCHEMA.index("ward"), SCHEMA.index("pain")]
    assert [mask.shape for mask in (masks[4], masks[5])] == [(5,), (3,)]
    assert parse_conditions([], schema=SCHEMA) == {}


@pytest.mark.parametrize("sign", COMPARISONS)
def test_missing_meets_no_comparison(sign):
    mask = parse_conditions([f"ward{sign}north" if sign in ("=", "!=") else f"age{sign}50"], schema=SCHEMA)
    assert [bool(met[-1]) for met in mask.values()] == [False]


@given(
    column=st.sampled_from(["age", "capital-gain", "dose", "income"]),
    sign=st.sampled_from(sorted(COMPARISONS)),
    value=st.one_of(st.integers(-2, 102), st.floats(-2, 102, allow_nan=False).map(lambda x: round(x, 2))),
)
def test_every_value_drawn_from_a_code_that_meets_does_so(column, sign, value):
    """The slow twin: decode every code many times, and compare the values themselves."""
    try:
        mask = parse_conditions([f"{column} {sign} {value}"], schema=SCHEMA)[SCHEMA.index(column)]
    except InputError:
        mask = np.zeros(SCHEMA.column(column).cardinality, dtype=bool)
    for code in range(SCHEMA.column(column).values_cardinality):
        holds = [COMPARISONS[sign](drawn, value) for drawn in drawn_values(column, code)]
        if mask[code]:
            assert all(holds)
        elif SCHEMA.column(column).cells.whole:  # few values per cell: all of them are seen
            assert not all(holds)


def drawn_values(column: str, code: int, cache: dict = {}) -> set:  # noqa: B006 -- remembers between examples
    if (column, code) not in cache:
        codes = np.zeros((200, len(SCHEMA.columns)), dtype=np.int32)
        codes[:, SCHEMA.index(column)] = code
        table = Codec(SCHEMA).decode(codes, generator=np.random.default_rng(code))
        cache[column, code] = set(table[column].to_pylist())
    return cache[column, code]


def test_a_condition_by_half_a_cell_is_what_the_slow_twin_would_catch():
    """Broken twin: a cell that is met by its lower edge alone draws values that do not meet it."""
    code = 2  # ages 10 to 14
    assert not all(age < 12 for age in drawn_values("age", code))
    assert not parse_conditions(["age<12"], schema=SCHEMA)[0][code]


def test_dates_are_met_by_day():
    mask = parse_conditions(["seen in 2024-03-01|2024-03-02"], schema=SCHEMA)[3]
    codes = np.zeros((int(mask.sum()), len(SCHEMA.columns)), dtype=np.int32)
    codes[:, 3] = np.flatnonzero(mask)
    days = Codec(SCHEMA).decode(codes, generator=np.random.default_rng(0))["seen"].to_pylist()
    assert days == [datetime.date(2024, 3, 1), datetime.date(2024, 3, 2)]


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("wrd=north", "'wrd' is not a modelled column", "Did you mean 'ward'?"),
        ("zzz=1", "'zzz' is not a modelled column", "Columns are age, capital-gain"),
        ("email=x", "'email' is not a modelled column", "Columns are age"),
        ("agent=5", "'agent' is not a modelled column", "'age'"),
        ("ward", "no operator follows 'ward'", "COLUMN OP VALUE"),
        ("", "'' is not a modelled column", "Columns are"),
        ("ward=", "lacks a value", "ward is missing"),
        ("ward in north|", "lacks a value", "ward is missing"),
        ("ward=east", "no value 'east'", "north, south end, a|b, other"),
        ("ward=missing", "no value 'missing'", '"ward is missing"'),
        ("ward<north", "categorical: its values have no order", "Use =, != or in"),
        ("flipped>0", "boolean: its values have no order", "Use =, != or in"),
        ("pain is missing", "pain is never missing", "Leave the condition out"),
        ("pain>much", "no value of column pain meets it.", "none, some, much"),
        ("age=old", "integer and 'old' is no finite number", "Give a number"),
        ("age=nan", "no finite number", "Give a number"),
        ("dose<1e999", "no finite number", "Give a number"),
        ("age=37", "37 shares its code with all of 35 to 39", '"age>=LOW" and "age<HIGH"'),
        ("dose=2.5", "2.5 shares its code with all of [2, 3)", "Ask for a range"),
        ("age=37.5", "holds whole numbers only", "whole number"),
        ("age=120", "120 is out of the bounds", "from 0 to 99"),
        ("dose>7", "no value of column dose meets it.", "whole cells such as"),
        ("age>120", "no value of column age meets it.", "from 0 to 99"),
        ("seen=2024-02-30", "'2024-02-30' is not a date", "YYYY-MM-DD"),
        ("seen=01/02/2024", "is not a date", "YYYY-MM-DD"),
    ],
)
def test_what_cannot_be_met_says_why(text, problem, remedy):
    error = wrong(text)
    assert problem in error.problem
    assert remedy in error.remedy
    assert "\n" not in str(error)


def test_an_empty_intersection_is_an_error():
    error = wrong("ward=north", "ward=other")
    assert "together with the conditions before it" in error.problem
    error = wrong("age>36", "age<39")
    assert "whole cells such as 50 to 54" in error.remedy


def test_at_most_ten_categories_are_listed():
    names = [f"c{index:02}" for index in range(25)]
    schema = Schema.from_mapping({"columns": [{"name": "x", "kind": "categorical", "categories": names}]})
    with pytest.raises(InputError) as caught:
        parse_conditions(["x=c99"], schema=schema)
    assert "c09 and 15 more" in caught.value.remedy
    assert "c10" not in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age>=37", "age: 40 to 44 ... 95 to 99 (12 of 21 codes)"),
        ("ward in north|other", "ward: north, other (2 of 5 codes)"),
        ("capital-gain!=5", "capital-gain: 0, 1, 2, 3, 4, 6, 7, 8, 9 (9 of 10 codes)"),
    ],
)
def test_a_mask_is_described(text, words):
    ((index, mask),) = parse_conditions([text], schema=SCHEMA).items()
    assert describe_mask(SCHEMA.columns[index], mask) == words


HOSPITALS = {"name": "hospital", "kind": "categorical", "categories": ["north", "south"]}
ILL = {"name": "ill", "kind": "boolean"}


def test_records_of_one_site_can_be_asked_for_where_the_study_declares_it():
    schema = Schema.from_mapping({"site_column": "hospital", "columns": [ILL, HOSPITALS]})
    for text in ("site=south", "hospital = south", "site in south", "site != north"):
        assert {key: mask.tolist() for key, mask in parse_conditions([text], schema=schema).items()} == {
            1: [False, True]
        }
    with pytest.raises(InputError, match="no value 'west'"):
        parse_conditions(["site=west"], schema=schema)


def test_without_a_declared_site_column_sites_are_not_told_apart():
    schema = Schema.from_mapping({"columns": [ILL, HOSPITALS]})
    with pytest.raises(InputError, match="declares no site column") as caught:
        parse_conditions(["site=south"], schema=schema)
    assert "every site approved" in caught.value.remedy


def test_an_ordinary_column_may_be_called_site():
    schema = Schema.from_mapping({"columns": [ILL, HOSPITALS | {"name": "site"}]})
    assert list(parse_conditions(["site=south"], schema=schema)) == [1]
