"""``cloister site ledger --extract``: one study's entries for somebody else, and nothing of another study."""

from pathlib import Path
from typing import Any

import pytest

from cli.officer.account import Account
from privacy.ledger import Charge
from server.verification import read_extract


def test_an_extract_holds_the_study_that_was_named(site_cli: Any, officer: Any, tmp_path: Path) -> None:
    account = Account.open(officer.folder)
    lately = next(run.study for run in account.runs if account.name(run.study) == "lately")
    before = (officer.folder / "ledger.sqlite").read_bytes()
    for number, word in enumerate(("lately", lately, lately[:8])):
        out = tmp_path / f"{number}.json"
        status, told, err = site_cli("ledger", "--site", officer.folder, "--extract", word, "--out", out)
        assert (status, told) == (0, "")
        assert f"written: {out}, 10 of 16 entries, about lately alone." in err
        found = read_extract(out)
        assert (found.site, found.study, found.head) == ("north", lately, account.head)
        charges = [entry.record for entry in found.entries if isinstance(entry.record, Charge)]
        assert [charge.first_round for charge in charges] == [1, 2, 3, 4, 5]
    assert (officer.folder / "ledger.sqlite").read_bytes() == before
    (other,) = (run.study for run in account.runs if run.study != lately)
    assert other not in out.read_text("utf-8")


@pytest.mark.parametrize("word", ["nothing", "12345", ""])
def test_a_study_that_was_not_charged_is_refused(site_cli: Any, officer: Any, tmp_path: Path, word: str) -> None:
    out = tmp_path / "extract.json"
    status, _, err = site_cli("ledger", "--site", officer.folder, "--extract", word, "--out", out)
    assert status == 1
    assert "names 0 studies of the ledger" in err
    assert "lately (" in err
    assert not out.exists()


def test_an_existing_file_is_kept(site_cli: Any, officer: Any, tmp_path: Path) -> None:
    out = tmp_path / "extract.json"
    out.write_text("mine", "utf-8")
    arguments = ("ledger", "--site", officer.folder, "--extract", "lately", "--out", out)
    status, _, err = site_cli(*arguments)
    assert (status, out.read_text("utf-8")) == (1, "mine")
    assert "exists" in err
    assert site_cli(*arguments, "--force")[0] == 0
    assert read_extract(out).site == "north"


def test_both_options_go_together(site_cli: Any, officer: Any, tmp_path: Path) -> None:
    for arguments in (("--extract", "lately"), ("--out", tmp_path / "extract.json")):
        status, _, err = site_cli("ledger", "--site", officer.folder, *arguments)
        assert status == 2
        assert "give both or neither" in err
    assert list(tmp_path.glob("*.json")) == []


def test_a_damaged_ledger_gives_no_extract(site_cli: Any, officer: Any, tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(officer.folder / "ledger.sqlite") as connection:
        connection.execute("DROP TRIGGER entries_never_change")
        connection.execute("UPDATE entries SET payload = replace(payload, '0.2', '0.1') WHERE position = 7")
        connection.execute(
            "CREATE TRIGGER entries_never_change BEFORE UPDATE ON entries"
            " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )
    connection.close()
    out = tmp_path / "extract.json"
    status, _, err = site_cli("ledger", "--site", officer.folder, "--extract", "lately", "--out", out)
    assert status == 1
    assert "does not have the hash it claims" in err
    assert not out.exists()
