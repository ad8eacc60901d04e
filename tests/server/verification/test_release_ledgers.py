"""A release against its sites' ledgers: each thing that could be wrong is made wrong, and must be found."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from privacy.ledger import Charge, Entry, Ledger, LedgerExtract, Seal, recount
from privacy.plan import PrivacyPlan
from protocol.errors import InputError, LedgerError, ReleaseError
from server.release import Release
from server.verification import ReleaseVerification, read_extract, read_transcript, verify_release
from server.verification.ledgers import LedgerCheck
from server.verification.provenance import Provenance
from server.verification.transcripts import _agrees
from simulations.federation import simulate

CPU = torch.device("cpu")
LATER = "9999-01-01T00:00:00+00:00"


def opened(folder: Path) -> Release:
    return Release.open(folder, device=CPU)


def checked(run: Any, *extracts: LedgerExtract, folder: Path | None = None) -> ReleaseVerification:
    return verify_release(opened(folder or run.folder), extracts=extracts)


def fault(found: ReleaseVerification) -> str:
    assert len(found.faults) == 1, found.faults
    return found.faults[0]


@pytest.fixture
def another_ledger(deployed: Any, tmp_path: Path) -> Callable[..., tuple[LedgerExtract, Path]]:
    """Return a function that writes north another ledger, and a release that names its last entry."""

    def write(rounds: Sequence[int], *, unsealed: int = 0, **changes: Any) -> tuple[LedgerExtract, Path]:
        event = PrivacyPlan.from_study(deployed.study).round_event
        run = opened(deployed.folder).provenance["run"]
        with Ledger.create(tmp_path / "ledger", key=deployed.keys["north"], data_set="wards") as ledger:
            for index, number in enumerate(rounds):
                charge = ledger.charge(
                    study=deployed.study.hash, run=run, round=number, event=replace(event, **changes), ceilings=()
                )
                if index < len(rounds) - unsealed:
                    ledger.seal(charge, hashlib.sha256(f"{number}".encode()).hexdigest())
            extract = LedgerExtract.of(
                ledger.entries(), site="north", study=deployed.study.hash, time=LATER, key=deployed.keys["north"]
            )
        return extract, deployed.name(deployed.copy(tmp_path / "release"), {"north": charge.hash})

    return write


def test_honest_ledgers_pass_and_are_told_in_sentences(deployed: Any) -> None:
    found = checked(deployed, deployed.extract("north"), deployed.extract("south"))
    assert found.faults == ()
    told = "\n".join(found.passed)
    for site in ("north", "south"):
        for words in (
            f"{site}: 7 entries of its ledger, each with its hash and its signature",
            f"{site}: its ledger shows 3 of the 3 rounds, each charged once, and 3 of its contributions",
            "is charged as the study's terms come to: 1 noisy sum of gradients, noise",
            "each record at 0.5",
            f"{site}: the entry that the release names",
            f"{site}: counted again from its entries, 3 compositions cost (",
        ):
            assert words in told, words
    assert told.count("an independent Fourier accountant finds") == 2
    left = "\n".join(found.remarks)
    assert "No ledger was checked" not in left
    assert "ask north, south, each for the first digits of its own" in left


def test_one_ledger_leaves_the_other_unchecked(deployed: Any) -> None:
    found = checked(deployed, deployed.extract("south"))
    assert found.faults == ()
    assert any(remark.startswith("No ledger was checked of north: ") for remark in found.remarks)


def test_another_ledger_that_says_the_same_passes(another_ledger: Any, deployed: Any) -> None:
    """The twin of all that follow: what they change is all that makes them fail."""
    extract, folder = another_ledger([1, 2, 3])
    assert checked(deployed, extract, folder=folder).faults == ()


@pytest.mark.parametrize(
    ("rounds", "unsealed", "changes", "words"),
    [
        ((1, 2), 0, {}, "its ledger shows 2 rounds that were charged and left"),
        ((1, 3), 0, {}, "its ledger shows 2 rounds that were charged and left"),
        ((1, 2, 3), 1, {}, "its ledger shows 2 rounds that were charged and left"),
        ((0, 1, 2), 0, {}, "charged for round 0"),
        ((1, 2, 3, 4), 0, {}, "charged for round 4, and the release has 3"),
        ((3, 1, 2), 0, {}, "up to the entry that the release names, 2 rounds left"),
        ((1, 2, 3), 0, {"noise_multiplier": 9.0}, "was charged for 1 noisy sum of gradients, noise 9"),
        ((1, 2, 3), 0, {"noise_multiplier": 0.5}, "was charged for 1 noisy sum of gradients, noise 0.5"),
        ((1, 2, 3), 0, {"sample_rate": 0.25}, "each record at 0.25 in round 1; the study says"),
        ((1, 2, 3), 0, {"count": 2}, "was charged for 2 noisy sums"),
    ],
)
def test_a_ledger_that_does_not_fit_the_release_is_found(
    another_ledger: Any, deployed: Any, rounds: Sequence[int], unsealed: int, changes: dict[str, Any], words: str
) -> None:
    extract, folder = another_ledger(rounds, unsealed=unsealed, **changes)
    assert words in fault(checked(deployed, extract, folder=folder))


def test_noise_is_compared_but_for_its_last_digits(another_ledger: Any, deployed: Any) -> None:
    noise = PrivacyPlan.from_study(deployed.study).noise_multiplier
    extract, folder = another_ledger([1, 2, 3], noise_multiplier=noise * (1 + 1e-12))
    assert checked(deployed, extract, folder=folder).faults == ()


def test_one_percent_less_noise_is_found(another_ledger: Any, deployed: Any) -> None:
    noise = PrivacyPlan.from_study(deployed.study).noise_multiplier
    extract, folder = another_ledger([1, 2, 3], noise_multiplier=noise * 0.99)
    assert "the study says" in fault(checked(deployed, extract, folder=folder))


def test_an_entry_that_the_ledger_does_not_hold_is_found(deployed: Any, tmp_path: Path) -> None:
    folder = deployed.name(deployed.copy(tmp_path / "release"), {"north": "ab" * 32})
    found = checked(deployed, deployed.extract("north"), folder=folder)
    assert "names entry abababababab of north's ledger" in fault(found)


def test_a_seal_is_no_charge(deployed: Any, tmp_path: Path) -> None:
    seal = next(entry for entry in reversed(deployed.entries["north"]) if isinstance(entry.record, Seal))
    folder = deployed.name(deployed.copy(tmp_path / "release"), {"north": seal.hash})
    assert "which is no charge of the run" in fault(checked(deployed, deployed.extract("north"), folder=folder))


def test_another_sites_extract_is_found(deployed: Any) -> None:
    swapped = LedgerExtract.of(
        deployed.entries["south"], site="north", study=deployed.study.hash, time=LATER, key=deployed.keys["south"]
    )
    assert "and the release's site has the key" in fault(checked(deployed, swapped))


def test_an_extract_of_no_site_of_another_study_or_twice_is_found(deployed: Any) -> None:
    north = deployed.extract("north")
    stranger = LedgerExtract.of(
        deployed.entries["north"], site="west", study=deployed.study.hash, time=LATER, key=deployed.keys["north"]
    )
    other = LedgerExtract.of(
        deployed.entries["north"], site="north", study="0" * 64, time=LATER, key=deployed.keys["north"]
    )
    assert "west is no site of the release" in fault(checked(deployed, stranger))
    assert "is about another study" in fault(checked(deployed, other))
    assert "more than one extract" in fault(checked(deployed, north, north))


def test_a_simulated_ledger_is_no_ledger(deployed: Any) -> None:
    with Ledger.in_memory(key=deployed.keys["north"], data_set="wards") as ledger:
        event = PrivacyPlan.from_study(deployed.study).round_event
        ledger.charge(study=deployed.study.hash, run="r", round=1, event=event, ceilings=())
        extract = LedgerExtract.of(
            ledger.entries(), site="north", study=deployed.study.hash, time=LATER, key=deployed.keys["north"]
        )
    assert "is a simulation's" in fault(checked(deployed, extract))


def test_a_simulation_has_no_ledgers(
    deployed: Any, tiny_study: Callable[..., Any], tiny_records: Callable[..., Any], tmp_path: Path
) -> None:
    parts = {name: tiny_records(20) for name in ("north", "south")}
    release = simulate(tiny_study(), parts, release=tmp_path / "release")
    found = verify_release(release, extracts=[deployed.extract("north")])
    assert "its ledgers ended with it" in fault(found)


def test_a_statement_below_the_ledger_is_found(deployed: Any) -> None:
    """The statement is lowered in memory, past every other check: the ledger alone must find it."""
    release = opened(deployed.folder)
    lower = replace(release.statement, check=replace(release.statement.check, pld=release.statement.epsilon * 0.99))
    check = LedgerCheck(
        extract=deployed.extract("north"),
        release=replace(release, statement=lower),
        provenance=Provenance.from_mapping(release.provenance),
        plan=PrivacyPlan.from_study(deployed.study),
    )
    with pytest.raises(ReleaseError, match="under add_remove, and the statement claims"):
        list(check.sentences())
    assert len(list(replace(check, release=release).sentences())) == 5


def test_other_peoples_accountants_find_the_same_in_the_ledger(deployed: Any) -> None:
    """The slow twin: every charge by itself, handed to Google's and Opacus' own accountants, without our code."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant
    from opacus.accountants import PRVAccountant

    release, extract = opened(deployed.folder), deployed.extract("north")
    delta, epsilon = release.statement.delta, release.statement.epsilon
    events = [entry.record.event for entry in extract.entries if isinstance(entry.record, Charge)]
    assert [event.times(count) for event, count in recount(extract.entries).items()] == [events[0].times(3)]
    google, opacus = PLDAccountant(value_discretization_interval=1e-4), PRVAccountant()
    for event in events:
        google.compose(PoissonSampledDpEvent(event.sample_rate, GaussianDpEvent(event.noise_multiplier)))
        opacus.step(noise_multiplier=event.noise_multiplier, sample_rate=event.sample_rate)
    assert google.get_epsilon(delta) == pytest.approx(epsilon, rel=1e-6)
    assert opacus.get_epsilon(delta) == pytest.approx(epsilon, rel=0.01, abs=0.01)
    assert google.get_epsilon(delta / 10) > epsilon * 1.05, "the comparison can fail"


def test_ledger_and_transcript_of_a_site_are_compared(deployed_sum: Any) -> None:
    release, told = opened(deployed_sum.folder), [read_transcript(path) for path in deployed_sum.told.values()]
    found = verify_release(release, transcripts=told, extracts=[deployed_sum.extract("a")])
    assert found.faults == ()
    assert "a: its transcript and its ledger name the same rounds." in found.passed

    def without_round_2(entries: Sequence[Entry]) -> tuple[Entry, ...]:
        gone = {one.hash for one in entries if isinstance(one.record, Charge) and one.record.first_round == 2}
        return tuple(
            one for one in entries
            if one.hash not in gone and not (isinstance(one.record, Seal) and one.record.charge in gone)
        )  # fmt: skip

    extract = deployed_sum.extract("a")
    short = replace(extract, entries=without_round_2(extract.entries))
    short = replace(short, signature=deployed_sum.keys["a"].sign(short._signed()).hex())
    short.verify()  # a site that hides a charge tells a story that is whole in itself
    both = verify_release(release, transcripts=told, extracts=[short])
    assert "2 rounds that were charged and left" in fault(both)
    first = next(one for one in told if one.site == "a")
    with pytest.raises(ReleaseError, match="disagree about round 2"):
        _agrees(first, short, run=release.provenance["run"])


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe"])
def test_what_is_no_extract_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "north.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="north.json"):
        read_extract(path)
    with pytest.raises(InputError, match="away.json"):
        read_extract(tmp_path / "away.json")


def test_an_extract_is_read_from_its_file(deployed: Any, tmp_path: Path) -> None:
    path = tmp_path / "north.json"
    path.write_text(deployed.extract("north").to_text(), "utf-8")
    assert read_extract(path) == deployed.extract("north")
    path.write_text(path.read_text("utf-8").replace('"site":"north"', '"site":"south"'), "utf-8")
    with pytest.raises(InputError, match="changed after it was signed") as caught:
        read_extract(path)
    assert isinstance(caught.value.__cause__, LedgerError)
