import numpy as np
import pytest

from evaluation.table import CodedTable
from protocol.errors import RecordsError, SchemaError
from records.codec import Codec
from records.schema import Schema


def test_table_says_what_the_schema_says(make_table):
    table = make_table(50, 0)
    assert table.names == ("age", "weight", "ward", "pain", "ill")
    assert table.kinds == ("integer", "continuous", "categorical", "ordinal", "boolean")
    assert table.cardinalities == (41, 16, 4, 3, 2)
    assert table.may_be_missing == (True, False, True, False, False)
    assert table.labels[0][0] == "20"
    assert table.labels[3] == ("none", "some", "much")
    assert table.is_numeric.tolist() == [True, True, False, False, False]
    assert table.target_index == 4


def test_numbers_per_code_equal_the_codecs_numbers_per_row(make_table):
    table = make_table(300, 1)
    schema = Schema.from_mapping(
        {"columns": [{"name": "age", "kind": "integer", "lower": 20, "upper": 59, "missing": True}]}
    )
    slow = Codec(schema).numeric(table.codes[:, :1])
    np.testing.assert_array_equal(table.numeric()[:, :1], slow)
    assert np.isnan(table.numeric()[table.codes[:, 0] == 40, 0]).all()
    assert np.isnan(table.numeric()[:, 2]).all()


def test_take_and_with_codes_keep_the_description(make_table):
    table = make_table(20, 2)
    taken = table.take([3, 3, 0])
    np.testing.assert_array_equal(taken.codes, table.codes[[3, 3, 0]])
    assert taken.labels == table.labels


def test_codes_are_copied_and_cannot_be_written(make_table):
    table = make_table(20, 2)
    with pytest.raises(ValueError, match="read-only"):
        table.codes[0, 0] = 1


@pytest.mark.parametrize("value", [-1, 41])
def test_code_outside_is_refused_without_telling_it(make_table, value):
    table = make_table(20, 3)
    codes = table.codes.copy()
    codes[4, 0] = value
    with pytest.raises(RecordsError, match=r"'age' has 1 codes outside 0\.\.40"):
        table.with_codes(codes)


def test_wrong_shape_is_refused(make_table):
    with pytest.raises(RecordsError, match="5 columns"):
        make_table(20, 3).with_codes(np.zeros((4, 3)))


def describe(**changes):
    description = {
        "names": ("a",),
        "kinds": ("categorical",),
        "cardinalities": (2,),
        "may_be_missing": (False,),
        "labels": (("x", "y"),),
        "values": (np.full(2, np.nan),),
        "target": None,
        "codes": np.zeros((1, 1), dtype=np.int64),
    }
    return CodedTable(**(description | changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kinds": ()}, "differ in length"),
        ({"labels": (("x",),)}, "2 codes, 1 labels"),
        ({"target": "b"}, "'b' is not a column"),
    ],
)
def test_contradicting_description_is_refused(changes, problem):
    assert describe().rows == 1
    with pytest.raises(SchemaError, match=problem):
        describe(**changes)
