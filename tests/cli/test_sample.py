"""``cloister sample`` writes what was asked for, the same for the same seed, whole or not at all."""

import datetime
import errno
import gzip
import io
import itertools
import json
import re
import sys
import time

import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet
import pytest

from cli import progress
from server.release import Release

NAMES = ["age", "colour", "dose", "seen", "ill"]


def read(path):
    if path.suffix == ".parquet":
        return parquet.read_table(path)
    return arrow_csv.read_csv(path)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.csv.gz"])
def test_rows_are_written_by_the_ending(cloister, odd_release, tmp_path, name):
    target = tmp_path / name
    status, out, err = cloister("sample", odd_release, "-n", 300, "-o", target, "--seed", 1)
    assert (status, out) == (0, "")
    assert "SIMULATED: (" in err
    assert "300 records in" in err
    table = read(target)
    assert (table.num_rows, table.column_names) == (300, NAMES)
    assert set(table["age"].to_pylist()) == set(range(20, 30))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_same_rows_in_every_form(cloister, odd_release, tmp_path):
    paths = [tmp_path / name for name in ("a.csv", "b.csv.gz", "c.other", "d.parquet")]
    for path in paths:
        form = ["--format", "csv"] if path.suffix == ".other" else []
        assert cloister("sample", odd_release, "-n", 50, "-o", path, "--seed", 1, *form)[0] == 0
    _, out, err = cloister("sample", odd_release, "-n", 50, "--seed", 1)
    text = paths[0].read_bytes()
    assert out.encode() == text == gzip.decompress(paths[1].read_bytes()) == paths[2].read_bytes()
    assert "SIMULATED" in err
    ages = [int(line.split(",")[0]) for line in out.splitlines()[1:]]
    assert ages == parquet.read_table(paths[3])["age"].to_pylist()


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.csv.gz"])
def test_one_seed_gives_the_same_bytes_and_another_does_not(cloister, odd_release, tmp_path, name, monkeypatch):
    written = []
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        (tmp_path / folder).mkdir()
        assert cloister("sample", odd_release, "-q", "-o", tmp_path / folder / name, "--seed", seed)[0] == 0
        written.append((tmp_path / folder / name).read_bytes())
        monkeypatch.setattr(time, "time", lambda: 1e9)  # the clock is not in the file
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_without_a_seed_the_one_that_was_taken_is_told(cloister, odd_release):
    _, first, told = cloister("sample", odd_release, "-n", 50)
    _, second, _ = cloister("sample", odd_release, "-n", 50)
    assert first != second
    seed = re.search(r"--seed (\d+)", told)[1]
    assert cloister("sample", odd_release, "-n", 50, "--seed", seed)[1] == first


def test_conditions_hold_in_every_row(cloister, odd_release, tmp_path):
    conditions = {
        "age>=23": lambda row: row["age"] >= 23,
        "colour in red|blue, light": lambda row: row["colour"] in ("red", "blue, light"),
        "dose is missing": lambda row: row["dose"] is None,
        "seen<2024-01-10": lambda row: row["seen"] < datetime.date(2024, 1, 10),
        "ill=true": lambda row: row["ill"],
    }
    options = itertools.chain.from_iterable(("--where", condition) for condition in conditions)
    status, _, err = cloister("sample", odd_release, "-n", 200, "-o", tmp_path / "a.parquet", *options)
    assert status == 0
    assert "Only age: 23 ... 29 (7 of 10 codes)." in err
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(rows) == 200
    assert all(holds(row) for row in rows for holds in conditions.values())
    cloister("sample", odd_release, "-n", 200, "-o", tmp_path / "b.parquet")
    free = parquet.read_table(tmp_path / "b.parquet").to_pylist()
    assert not any(all(holds(row) for row in free) for holds in conditions.values())


def test_parquet_carries_the_statement_and_names_the_release(cloister, odd_release, tmp_path, sums_hash):
    target = tmp_path / "a.parquet"
    status, out, _ = cloister("sample", odd_release, "-o", target, "--seed", 3, "--where", "age>=23", "--json")
    assert status == 0
    found = json.loads(out)
    seconds = found.pop("seconds")
    headline = (odd_release / "statement.txt").read_text("utf-8").splitlines()[0]
    facts = {"release": sums_hash, "statement": headline, "where": "age>=23"}
    assert found == {"output": str(target), "format": "parquet", "rows": 1000, "seed": 3} | facts
    assert 0 < seconds < 600
    metadata = parquet.read_schema(target).metadata
    assert {key.decode(): text.decode() for key, text in metadata.items()} == {
        f"cloister.{key}": text for key, text in facts.items()
    }


def test_an_existing_file_is_replaced_by_force_only(cloister, odd_release, tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("mine", "utf-8")
    status, _, err = cloister("sample", odd_release, "-o", target)
    assert (status, target.read_text("utf-8")) == (1, "mine")
    assert err == f"cloister: {target} exists. Choose another name, or add --force to replace it.\n"
    assert cloister("sample", odd_release, "-n", 5, "-o", target, "--force")[0] == 0
    assert len(target.read_text("utf-8").splitlines()) == 6


def test_nothing_half_written_is_left(cloister, odd_release, tmp_path, monkeypatch):
    whole = Release.sample

    def full_disk(self, count, **options):
        yield next(whole(self, count, **options))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Release, "sample", full_disk)
    for name in ("a.parquet", "a.csv", "a.csv.gz"):
        status, _, err = cloister("sample", odd_release, "-q", "-o", tmp_path / name)
        assert status == 1
        assert err.startswith(f"cloister: {tmp_path / name}: No space left on device.")
    assert not list(tmp_path.iterdir())


def test_quiet_says_nothing(cloister, odd_release, tmp_path):
    arguments = ("-q", "-n", 5, "--where", "age>=23", "-o", tmp_path / "a.csv")
    assert cloister("sample", odd_release, *arguments) == (0, "", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "patience", "quiet", "shown"),
    [
        (Terminal, 0.0, False, True),
        (Terminal, 60.0, False, False),
        (Terminal, 0.0, True, False),
        (io.StringIO, 0.0, False, False),
    ],
)  # fmt: skip
def test_a_bar_is_shown_to_people_who_wait(monkeypatch, stream, patience, quiet, shown):
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", patience)
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress_bar(10, label="sampling", unit="records", quiet=quiet) as advance:
        for _ in range(4):
            time.sleep(0.06)
            advance(2)
        time.sleep(0.2)
    seen = sys.stderr.getvalue()
    assert ("sampling" in seen) == shown
    assert ("records/s" in seen) == shown
    assert bool(seen) == shown
