"""Arithmetic over columns: the same as Python's, whatever the names, and nothing that makes no sense."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import SchemaError
from records.column import Column, Kind
from records.expression import parse_expression

NAMES = ("a", "b", "c")
COLUMNS = [Column(name=name, kind=Kind.CONTINUOUS, lower=-100, upper=100) for name in NAMES]
DATES = [Column(name=name, kind=Kind.DATE, lower="2020-01-01", upper="2024-12-31") for name in ("came", "went")]
OTHERS = [Column(name="age", kind=Kind.INTEGER, lower=0, upper=99), Column(name="ill", kind=Kind.BOOLEAN)]
NUMBERS = ("2", "0.5", ".25", "1e1")
OPERATORS = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}


def _leaf(text):
    return (text, lambda _: np.full(20, float(text))) if text in NUMBERS else (text, lambda values: values[text])


def _binary(parts):
    (left, one), sign, (right, other) = parts
    return f"({left}) {sign} ({right})", lambda values: OPERATORS[sign](one(values), other(values))


def _product_first(parts):
    """No brackets: the product comes before the sum, and sums from left to right."""
    (a, one), (b, other), (c, third) = parts
    return f"({a}) - ({b})*{c} - {c}", lambda values: one(values) - other(values) * third(values) - third(values)


def _negative(part):
    return f"-({part[0]})", lambda values: 0.0 - part[1](values)


def _floor(part):
    return f"floor({part[0]})", lambda values: np.floor(part[1](values))


def _extreme(drawn):
    (name, function), parts = drawn
    return (
        f"{name}({', '.join(text for text, _ in parts)})",
        lambda values: function.reduce([part(values) for _, part in parts]),
    )


TERMS = st.recursive(
    st.sampled_from([*NAMES, *NUMBERS]).map(_leaf),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(_binary),
        st.tuples(inner, inner, st.sampled_from(NAMES).map(_leaf)).map(_product_first),
        inner.map(_negative),
        inner.map(_floor),
        st.tuples(
            st.sampled_from([("min", np.minimum), ("max", np.maximum)]), st.lists(inner, min_size=2, max_size=3)
        ).map(_extreme),
    ),
    max_leaves=8,
)


def parsed(text, columns=COLUMNS):
    return parse_expression(text, columns=columns, where="here")


@settings(max_examples=300, deadline=None)
@given(term=TERMS, seed=st.integers(0, 99))
def test_it_is_worked_out_as_written(term, seed):
    text, twin = term
    generator = np.random.default_rng(seed)
    values = {index: generator.integers(-9, 9, 20).astype(float) for index in range(3)}
    with np.errstate(all="ignore"):
        wanted = twin({name: values[index] for index, name in enumerate(NAMES)})
    expression = parsed(text)
    found = np.broadcast_to(expression.evaluate(values), 20)
    np.testing.assert_allclose(found, wanted, equal_nan=True)
    plain = text.replace("max", "").replace("floor", "")
    assert expression.columns == tuple(index for index, name in enumerate(NAMES) if name in plain)
    if expression.linear is not None:
        weighted = sum(weight * values[index] for index, weight in expression.linear.items() if index >= 0)
        np.testing.assert_allclose(weighted + expression.linear.get(-1, 0.0), found)


def test_names_may_hold_blanks_operators_and_each_other():
    names = ["hours", "hours-per-week", "max heart rate", "2nd", "max"]
    columns = [Column(name=name, kind=Kind.INTEGER, lower=0, upper=99) for name in names]
    values = {index: np.array([10.0**index]) for index in range(5)}
    found = parsed("hours-per-week - hours + max heart rate*2nd", columns).evaluate(values)
    assert found.tolist() == [10 - 1 + 100 * 1000]
    assert parsed("max - hours", columns).evaluate(values).tolist() == [9999.0]


def test_missing_values_make_the_result_missing():
    values = {0: np.array([1.0, np.nan]), 1: np.array([2.0, 2.0])}
    for text in ("a + b", "min(a, b)", "b * (a - 0)"):
        assert np.isnan(parsed(text).evaluate(values)).tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "dates"),
    [("went - came", False), ("came + age", True), ("max(came, went)", True), ("came + (went - came) * 0.5", True)],
)
def test_days_and_dates_are_told_apart(text, dates):
    assert parsed(text, DATES + OTHERS).dates is dates


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("came + went", "dates are added up"),
        ("age - came", "dates are added up"),
        ("came * 2", "a date is multiplied"),
        ("max(came, age)", "compares a date with a number"),
        ("age + ill", "column ill is boolean"),
        ("age + ", "ends too early"),
        ("(age", "a bracket is not closed"),
        ("age age", "'age' is not understood"),
        ("ages + 1", "'ages + 1' is not understood"),
        ("__import__('os')", "is not understood"),
        ("age ** 2", "is not understood"),
        ("floor(age, 2)", "floor has 2 arguments"),
        ("min(age)", "min has 1 arguments"),
    ],
)
def test_what_makes_no_sense_is_refused(text, said):
    with pytest.raises(SchemaError) as caught:
        parsed(text, DATES + OTHERS)
    assert said in str(caught.value)
    assert "here" in str(caught.value)


@pytest.mark.parametrize("text", ["(" * 5000 + "age", "-" * 5000 + "age", "age" + " + age" * 5000, "max(" * 5000])
def test_endless_expressions_exhaust_nobody(text):
    with pytest.raises(SchemaError, match=r"\.\.\.'?: it is too long") as caught:
        parsed(text, OTHERS)
    assert len(str(caught.value)) < 250
    assert parsed("age" + " + age" * 99, OTHERS).evaluate({0: np.array([2.0])}).tolist() == [200.0]
