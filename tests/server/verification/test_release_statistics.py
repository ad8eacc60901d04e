"""A release with rounds of statistics against its sites' ledgers and transcripts."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from privacy.events import NoisyRelease
from privacy.ledger import Ledger, LedgerExtract
from privacy.plan import PrivacyPlan
from protocol.study import Study
from records.dataset import Records
from server.release import Release
from server.verification import ReleaseVerification, read_transcript, verify_release

LATER = "9999-01-01T00:00:00+00:00"
OTHER_RUN = "e" * 64


def opened(folder: Path) -> Release:
    return Release.open(folder, device=torch.device("cpu"))


def fault(found: ReleaseVerification) -> str:
    assert len(found.faults) == 1, found.faults
    return found.faults[0]


@pytest.fixture
def counted(
    tmp_path: Path, deploy: Callable[..., Any], tiny_study: Callable[..., Study], tiny_records: Callable[..., Records]
) -> Callable[..., Any]:
    """Return a function that makes a release of one round of statistics and two of training."""

    def build(**sections: Any) -> Any:
        study = tiny_study(training={"rounds": 2}, **sections)
        study = replace(study, statistics=replace(study.statistics, rounds=1))
        names = ("north", "south") if study.federation.sites == 2 else "abcdef"
        return deploy(tmp_path / "run", study, {name: tiny_records(20, seed=seed) for seed, name in enumerate(names)})

    return build


def test_ledgers_and_transcripts_of_both_stages_pass(counted: Callable[..., Any]) -> None:
    run = counted(privacy={"trust": "sum"}, federation={"sites": 6, "dropouts": 1, "colluders": 1})
    found = verify_release(
        opened(run.folder),
        extracts=[run.extract(site) for site in run.keys],
        transcripts=[read_transcript(path) for path in run.told.values()],
    )
    assert found.faults == ()
    told = "\n".join(found.passed)
    assert "All 3 rounds of the study were run" in told
    assert "a: its ledger shows 3 of the 3 rounds" in told
    assert "1 noisy sum of statistics, noise" in told
    assert "1 noisy sum of gradients, noise" in told
    assert "a: its transcript shows it masked in 3 of 3 rounds." in told


@pytest.fixture
def another_ledger(counted: Callable[..., Any], tmp_path: Path) -> Callable[..., ReleaseVerification]:
    """Return a function that gives north a ledger of its own making, and checks the release against it."""

    def check(
        events: Callable[[PrivacyPlan], Mapping[int, NoisyRelease]],
        others: Callable[[PrivacyPlan], Mapping[int, NoisyRelease]] = lambda _: {},
    ) -> ReleaseVerification:
        run = counted()
        plan, name = PrivacyPlan.from_study(run.study), opened(run.folder).provenance["run"]
        with Ledger.create(tmp_path / "ledger", key=run.keys["north"], data_set="wards") as ledger:
            for number, event in others(plan).items():
                charge = ledger.charge(study=run.study.hash, run=OTHER_RUN, round=number, event=event, ceilings=())
                ledger.seal(charge, hashlib.sha256(f"other {number}".encode()).hexdigest())
            for number, event in events(plan).items():
                charge = ledger.charge(study=run.study.hash, run=name, round=number, event=event, ceilings=())
                ledger.seal(charge, hashlib.sha256(f"{number}".encode()).hexdigest())
            extract = LedgerExtract.of(
                ledger.entries(), site="north", study=run.study.hash, time=LATER, key=run.keys["north"]
            )
        folder = run.name(run.copy(tmp_path / "release"), {"north": charge.hash})
        return verify_release(opened(folder), extracts=[extract])

    return check


def honest(plan: PrivacyPlan) -> dict[int, NoisyRelease]:
    events = {number: plan.stage(number).event for number in (1, 2, 3)}
    return {number: event for number, event in events.items() if event is not None}


def test_a_ledger_that_says_the_same_passes(another_ledger: Callable[..., ReleaseVerification]) -> None:
    """The twin of all that follow."""
    assert another_ledger(honest).faults == ()


def test_statistics_that_were_charged_as_training_are_found(
    another_ledger: Callable[..., ReleaseVerification],
) -> None:
    found = another_ledger(lambda plan: honest(plan) | {1: honest(plan)[2]})
    assert "north was charged for 1 noisy sum of gradients" in fault(found)
    assert "in round 1; the study says 1 noisy sum of statistics" in fault(found)


def test_statistics_that_nobody_paid_for_are_found(another_ledger: Callable[..., ReleaseVerification]) -> None:
    found = another_ledger(lambda plan: {number: event for number, event in honest(plan).items() if number > 1})
    assert "its ledger shows 2 rounds that were charged and left" in fault(found)


def test_statistics_of_another_run_are_more_than_the_statement_counts(
    another_ledger: Callable[..., ReleaseVerification],
) -> None:
    found = another_ledger(honest, lambda plan: {1: honest(plan)[1]})
    assert "north was charged for 2 rounds of this study's statistics, and the statement counts 1" in fault(found)


def test_a_statement_that_leaves_statistics_out_is_found(counted: Callable[..., Any], tmp_path: Path) -> None:
    run = counted()
    folder = run.copy(tmp_path / "release")
    plan = PrivacyPlan.from_study(run.study)
    last = replace(plan, study=replace(run.study, statistics=type(run.study.statistics)()))
    entries = opened(run.folder).statement.ledger_entries
    cheaper = last.statement(rounds=2, simulated=False, ledger_entries=entries)
    assert cheaper.epsilon < opened(run.folder).statement.epsilon

    def lie(value: Any) -> None:
        value.clear()
        value.update(cheaper.to_mapping())

    run.rewrite(folder, "statement.json", lie)
    run.seal(folder)
    found = verify_release(opened(folder))
    assert "The statement is not that of the study and its rounds." in fault(found)
