"""Records of a site: persons are numbered densely, nothing is left out silently."""

import numpy as np
import pytest

from protocol.errors import RecordsError
from records.dataset import Records, load_records
from records.schema import Schema

BASE = {
    "columns": [{"name": "age", "kind": "integer", "lower": 0, "upper": 9, "missing": True}],
    "person": "patient_id",
}
SCHEMA = Schema.from_mapping(BASE)


def _load(tmp_path, text, schema=SCHEMA):
    path = tmp_path / "visits.csv"
    path.write_text(text, encoding="utf-8")
    return load_records(path, schema=schema)


def test_persons_are_numbered_in_the_order_of_their_first_record(tmp_path):
    records = _load(tmp_path, "patient_id,age\nz9,1\na1,2\n z9 ,3\nb,\n")
    assert records.persons.tolist() == [0, 1, 0, 2]
    assert records.persons.dtype == np.int64
    assert records.codes.tolist() == [[1], [2], [3], [10]]
    assert records.codes.dtype == np.int32
    assert len(records) == 4


def test_persons_stay_the_same_across_blocks(tmp_path):
    count = 300_000
    keys = [f"long-patient-key-{index % 1000:08d}" for index in range(count)]
    records = _load(tmp_path, "patient_id,age\n" + "".join(f"{key},1\n" for key in keys))
    assert np.array_equal(records.persons, np.arange(count) % 1000)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("patient_id,age\n,1\nb,2\n?,3\n", "column patient_id: 2 of 3 rows have no person key"),
        ("age\n1\n", "column patient_id: is not there"),
    ],
)
def test_a_record_without_person_is_refused(tmp_path, text, word):
    with pytest.raises(RecordsError, match=word):
        _load(tmp_path, text, Schema.from_mapping({**BASE, "missing_values": ["?"]}))


def test_problems_of_the_whole_file_are_counted_together(tmp_path):
    schema = Schema.from_mapping({"columns": [{"name": name, "kind": "boolean"} for name in ("a", "b")]})
    text = "a,b\n" + "maybe,1\n" * 400_000 + "1,\n" * 3
    with pytest.raises(RecordsError) as caught:
        _load(tmp_path, text, schema)
    assert "column a: 400,000 of 400,003 rows are neither a true nor a false value (+1 more column)." in str(
        caught.value
    )


def test_some_of_the_records():
    records = Records(codes=np.arange(4, dtype=np.int32)[:, None], persons=np.array([0, 2, 1, 2]), schema=SCHEMA)
    part = records.take(np.array([3, 1]))
    assert part.codes.tolist() == [[3], [1]]
    assert part.persons.tolist() == [0, 0]
    assert records.units.tolist() == [0, 2, 1, 2]
    assert Records(codes=records.codes, persons=None, schema=SCHEMA).units.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("codes", "persons"),
    [
        (np.zeros((2, 1), np.int64), None),
        (np.full((2, 1), 11, np.int32), None),
        (np.zeros((2, 2), np.int32), None),
        (np.zeros((2, 1), np.int32), np.array([0])),
        (np.zeros((2, 1), np.int32), np.array([0.0, 1.0])),
        (np.zeros((2, 1), np.int32), np.array([0, 2])),
        (np.zeros((2, 1), np.int32), np.array([-1, 0])),
    ],
)
def test_arrays_that_do_not_fit_are_refused(codes, persons):
    with pytest.raises(RecordsError):
        Records(codes=codes, persons=persons, schema=SCHEMA)
