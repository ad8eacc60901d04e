"""The benchmark measures what it says: a file of all kinds that fits its schema, loaded whole."""

import numpy as np

from perf.records_encode import measure, mixed_schema, write_csv
from records.dataset import load_records
from records.schema import Kind


def test_the_file_fits_the_schema_and_holds_every_kind(tmp_path):
    schema = mixed_schema(12)
    write_csv(tmp_path / "r.csv", rows=500, columns=12, generator=np.random.default_rng(0))
    records = load_records(tmp_path / "r.csv", schema=schema)
    assert records.codes.shape == (500, 12)
    assert {column.kind for column in schema.columns} == set(Kind)
    assert all(len(np.unique(column)) > 1 for column in records.codes.T)


def test_the_result_is_one_flat_object():
    result = measure(rows=2_000, columns=6)
    assert list(result) == ["seconds", "peak_mb", "rows", "columns", "read_s", "ratio"]
    assert (result["rows"], result["columns"]) == (2_000, 6)
    assert result["seconds"] > 0
    assert result["peak_mb"] > 10
