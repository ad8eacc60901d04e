"""What a site's ledger shows around a release: other studies, other runs, and how old the extract is."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from privacy.ledger import Charge, Entry, Ledger, LedgerExtract
from privacy.plan import PrivacyPlan
from protocol.errors import ReleaseError
from server.release import Release
from server.verification import ReleaseVerification, verify_release
from server.verification.ledgers import LedgerCheck
from server.verification.provenance import Provenance

LATER = "9999-01-01T00:00:00+00:00"
OTHER_RUN = "e" * 64


def opened(folder: Path) -> Release:
    return Release.open(folder, device=torch.device("cpu"))


def checked(extract: LedgerExtract, folder: Path) -> ReleaseVerification:
    return verify_release(opened(folder), extracts=[extract])


def fault(found: ReleaseVerification) -> str:
    assert len(found.faults) == 1, found.faults
    return found.faults[0]


@pytest.fixture
def history(deployed: Any, tmp_path: Path) -> Callable[..., tuple[LedgerExtract, Path]]:
    """Return a function that gives north a ledger of (study, run, rounds), ours where None, and a release to it."""

    def write(*charged: tuple[str | None, str | None, Sequence[int]], time: str = LATER) -> tuple[LedgerExtract, Path]:
        ours, run = deployed.study.hash, opened(deployed.folder).provenance["run"]
        event = PrivacyPlan.from_study(deployed.study).round_event
        with Ledger.create(tmp_path / "ledger", key=deployed.keys["north"], data_set="wards") as ledger:
            for study, other, rounds in charged:
                for number in rounds:
                    charge = ledger.charge(
                        study=study or ours, run=other or run, round=number, event=event, ceilings=()
                    )  # fmt: skip
                    ledger.seal(charge, hashlib.sha256(f"{number}".encode()).hexdigest())
                    if (study, other) == (None, None):
                        named_entry = charge.hash
            extract = LedgerExtract.of(
                ledger.entries(), site="north", study=ours, time=time, key=deployed.keys["north"]
            )  # fmt: skip
        return extract, deployed.name(deployed.copy(tmp_path / "release"), {"north": named_entry})

    return write


def about(found: ReleaseVerification, words: str) -> list[str]:
    return [remark for remark in found.remarks if words in remark]


def test_what_other_studies_were_charged_is_told(history: Any) -> None:
    """A coordinator may start from what they released: the generator then depends on more than its statement says."""
    sibling = "1" * 64
    extract, folder = history(
        (sibling, "a", range(1, 8)),
        (None, None, [1]),
        (sibling, "a", [8, 9]),
        (None, None, [2, 3]),
        (sibling, "b", [1]),
    )
    found = checked(extract, folder)
    assert found.faults == ()
    (told,) = about(found, "of other studies")
    assert "7 noisy sums before this run's first round and 2 noisy sums between that and its last" in told
    assert "the generator may depend on them as well, and this statement does not cover them" in told
    assert about(found, "what bounds all of that together is the total of each site's ledger")
    assert sibling[:12] not in told
    (age,) = about(found, "was made at")
    assert "gone on with other studies" in age


def test_of_other_studies_nothing_is_told_where_there_are_none(history: Any) -> None:
    extract, folder = history((None, None, [1, 2, 3]))
    found = checked(extract, folder)
    assert found.faults == ()
    assert about(found, "of other studies") == []
    (age,) = about(found, "was made at")
    assert "what was charged later is not in it" in age
    assert "gone on" not in age


@pytest.mark.parametrize("order", ["before", "after"])
def test_another_whole_run_of_the_study_is_a_fault(history: Any, order: str) -> None:
    runs = [(None, OTHER_RUN, [1, 2, 3]), (None, None, [1, 2, 3])]
    extract, folder = history(*(runs if order == "before" else runs[::-1]))
    told = fault(checked(extract, folder))
    assert "north was charged for 6 rounds of this study, and the statement counts 3" in told
    assert "3 in run eeeeeeeeeeee" in told


def test_another_run_is_told_where_the_statement_covers_it(history: Any, deployed: Any) -> None:
    """An approval gives a new run what the one before has left: together they are what the statement counts."""
    for rounds, holds in (([1, 2], True), ([1, 2, 3], False)):
        extract, folder = history((None, OTHER_RUN, rounds), (None, None, [3]))
        release = opened(folder)
        said = Provenance.from_mapping(release.provenance)
        north = replace(said.sites["north"], contributions=1)
        check = LedgerCheck(
            extract=extract,
            release=release,
            provenance=replace(said, sites={**said.sites, "north": north}),
            plan=PrivacyPlan.from_study(deployed.study),
        )
        if holds:
            assert "3 compositions cost" in list(check.sentences())[-1], "the total is that of both runs"
            (told,) = (remark for remark in check.remarks() if "another run of the study, eeee" in remark)
            assert "charged for 2 rounds" in told
            assert "The statement covers them" in told
        else:
            with pytest.raises(ReleaseError, match="charged for 4 rounds of this study"):
                list(check.sentences())
        shutil.rmtree(folder)
        (folder.parent / "ledger").unlink()


def test_an_extract_that_is_older_than_the_release_is_found(history: Any, deployed: Any) -> None:
    extract, folder = history((None, None, [1, 2, 3]))
    last = next(one for one in reversed(extract.entries) if isinstance(one.record, Charge))
    key = deployed.keys["north"]

    def made(entries: Sequence[Entry], time: str) -> LedgerExtract:
        return LedgerExtract.of(entries, site="north", study=deployed.study.hash, time=time, key=key)

    before = made(extract.entries[:-2], LATER)
    assert "older than the release, or of another copy" in fault(checked(before, folder))
    early = (datetime.fromisoformat(last.time) - timedelta(seconds=1)).isoformat()
    backdated = made(extract.entries, early)
    assert "before the entry that the release names" in fault(checked(backdated, folder))
    just = made(extract.entries, last.time)
    assert checked(just, folder).faults == ()


def test_a_site_that_the_release_leaves_out_is_told(deployed_sum: Any, tmp_path: Path) -> None:
    folder = deployed_sum.copy(tmp_path / "release")
    gone: list[str] = []
    deployed_sum.rewrite(
        folder, "provenance.json", lambda value: gone.append(value["sites"].pop("f")["last_ledger_entry"])
    )
    deployed_sum.rewrite(folder, "statement.json", lambda value: value["ledger_entries"].remove(gone[0]))
    deployed_sum.seal(folder)
    found = verify_release(opened(folder), extracts=[deployed_sum.extract("f")])
    (told,) = about(found, "3 rounds left it, and by the coordinator's count 0 of its contributions")
    assert "does not even name the site" in told
    assert about(found, "of the study's roster took no part") == []
    (told,) = about(verify_release(opened(folder)), "of the study's roster took no part")
    assert told.startswith("The release says that f of the")
    honest = verify_release(opened(deployed_sum.folder), extracts=[deployed_sum.extract("f")])
    assert about(honest, "rounds left it") == about(honest, "took no part") == []
