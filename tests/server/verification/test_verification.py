"""Offline verification of a release, and of what its sites say they were told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from privacy.plan import PrivacyPlan
from privacy.secure_sum import Transcript
from privacy.secure_sum.transcript import TranscriptEvent
from protocol.errors import InputError, ReleaseError
from protocol.keys import public_hex
from server.release import Release
from server.verification import ReleaseVerification, read_transcript, verify_release
from server.verification.provenance import Provenance
from server.verification.transcripts import check_transcripts
from simulations.federation import simulate
from strategies.study_model import build_study_model
from strategies.sum_wire import sum_policy

CPU = torch.device("cpu")


def opened(folder: Path) -> Release:
    return Release.open(folder, device=CPU)


def transcripts(run: Any) -> list[Transcript]:
    return [read_transcript(path) for path in run.told.values()]


def fault(found: ReleaseVerification) -> str:
    assert len(found.faults) == 1, found.faults
    return found.faults[0]


def resigned(transcript: Transcript, run: Any, entries: Any) -> Transcript:
    """What a site that lies, or an older copy of its transcript, would say under its own signature."""
    policy = sum_policy(PrivacyPlan.from_study(run.study), build_study_model(run.study), run=transcript.run)
    return Transcript.signed(entries, policy=policy, site=transcript.site, identity=run.keys[transcript.site])


def test_an_honest_run_passes_every_check_and_says_what_was_not_checked(deployed_sum: Any) -> None:
    found = verify_release(opened(deployed_sum.folder), transcripts=transcripts(deployed_sum))
    assert found.faults == ()
    found.require()
    told = "\n".join(found.passed)
    assert found.passed[0].startswith("Every file has the checksum")
    for words in (
        "signed by the coordinator whose key is " + public_hex(deployed_sum.coordinator),
        "epsilon was recomputed from its events",
        "All 3 rounds of the study were run; by the coordinator's count",
        "those of the study's roster",
        "told a, b, c, d, e, f the same",
        "f: its transcript shows it masked in 3 of 3 rounds",
    ):
        assert words in told, words
    left = "\n".join(found.remarks)
    assert "Whether that key is the coordinator's was not checked" in left
    assert "No ledger was checked of a, b, c, d, e, f" in left
    assert "cannot be seen from here" in left
    assert "transcript" not in left
    assert "ask a, b, c, d, e, f, each for the first digits of its own" in left
    assert "Nothing ties the generator's weights to this run but the coordinator's signature" in left
    assert "the total of each site's ledger, not this statement" in left


def test_what_is_missing_is_named(deployed_sum: Any) -> None:
    some = [told for told in transcripts(deployed_sum) if told.site in "ab"]
    found = verify_release(
        opened(deployed_sum.folder), transcripts=some, coordinator=public_hex(deployed_sum.coordinator)
    )
    assert found.faults == ()
    left = "\n".join(found.remarks)
    assert "No transcript was given of c, d, e, f" in left
    assert "Whether that key" not in left
    (alone,) = (told for told in some if told.site == "a")
    passed = "\n".join(verify_release(opened(deployed_sum.folder), transcripts=[alone]).passed)
    assert "nobody's is there to compare" in passed
    assert "the same in every round" not in passed


def test_another_coordinators_key_is_found(deployed: Any, tmp_path: Path) -> None:
    found = verify_release(opened(deployed.folder), coordinator="ab" * 32)
    assert "not by the coordinator abab" in fault(found)
    with pytest.raises(ReleaseError, match="not by the coordinator"):
        found.require()
    folder = deployed.copy(tmp_path / "unsigned")
    (folder / "SIGNATURE").unlink()
    (folder / "signed_study.json").unlink()
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if "signed_study" not in line))
    unsigned = verify_release(opened(folder), coordinator=public_hex(deployed.coordinator))
    assert "signed by nobody" in fault(unsigned)
    assert any("could have made all of it up" in remark for remark in verify_release(opened(folder)).remarks)


def test_what_a_site_did_not_sign_is_refused(deployed_sum: Any) -> None:
    first, *others = transcripts(deployed_sum)
    changed = replace(first, entries=(*first.entries[:-1], replace(first.entries[-1], hash="0" * 64)))
    found = verify_release(opened(deployed_sum.folder), transcripts=[changed, *others])
    assert "not that of 'a'" in fault(found)


def test_a_coordinator_that_told_sites_different_things_is_found(deployed_sum: Any) -> None:
    first, *others = transcripts(deployed_sum)
    place = next(i for i, one in enumerate(first.entries) if one.event is TranscriptEvent.STARTED and one.round == 2)
    entries = [replace(one, hash="0" * 64) if i == place else one for i, one in enumerate(first.entries)]
    changed = resigned(first, deployed_sum, entries)
    found = verify_release(opened(deployed_sum.folder), transcripts=[changed, *others])
    assert "told sites different things: round 2" in fault(found)


def test_a_transcript_that_ends_early_is_found(deployed_sum: Any) -> None:
    first, *others = transcripts(deployed_sum)
    early = resigned(first, deployed_sum, [one for one in first.entries if one.round < 3])
    found = verify_release(opened(deployed_sum.folder), transcripts=[early, *others])
    assert "shows 2 rounds in which it took part; 3 of its contributions" in fault(found)


def test_transcripts_that_share_nothing_compare_nothing(deployed_sum: Any) -> None:
    """Two sites that were never there together say nothing about each other; the claim needs a round of both."""
    first, second = (told for told in transcripts(deployed_sum) if told.site in "ab")
    release = opened(deployed_sum.folder)
    shorter = [
        resigned(one, deployed_sum, [entry for entry in one.entries if entry.round in kept])
        for one, kept in ((first, (0, 1)), (second, (0, 2)))
    ]
    found = replaced_contributions(release, {"a": 1, "b": 1}, shorter)
    assert "The transcripts of a, b are signed with their keys; no two share a round" in found[0]
    partly = replaced_contributions(release, {"a": 1}, [shorter[0], second])
    assert "told a, b the same in 1 of 3 rounds" in partly[0]
    both = replaced_contributions(release, {}, [first, second])
    assert "told a, b the same in every round" in both[0]


def replaced_contributions(release: Release, counts: dict[str, int], given: list[Transcript]) -> list[str]:
    """What is said of transcripts of a release that counts on fewer contributions of some sites."""
    said = Provenance.from_mapping(release.provenance)
    sites = {name: replace(one, contributions=counts.get(name, 3)) for name, one in said.sites.items()}
    plan = PrivacyPlan.from_study(release.study)
    return list(
        check_transcripts(given, extracts={}, release=release, provenance=replace(said, sites=sites), plan=plan)
    )


def test_a_transcript_without_what_the_site_was_told_is_found(deployed_sum: Any) -> None:
    first, *others = transcripts(deployed_sum)
    rest = [one for one in first.entries if (one.round, one.event) != (2, TranscriptEvent.STARTED)]
    found = verify_release(
        opened(deployed_sum.folder), transcripts=[resigned(first, deployed_sum, rest), *others]
    )  # fmt: skip
    assert "does not hold what it was told before it masked in round 2" in fault(found)


def test_a_site_has_one_transcript(deployed_sum: Any) -> None:
    first, *_ = transcripts(deployed_sum)
    found = verify_release(opened(deployed_sum.folder), transcripts=[first, first])
    assert "more than one transcript" in fault(found)


def test_transcripts_of_another_run_are_refused(
    deployed_sum: Any, deploy: Callable[..., Any], tiny_records: Callable[..., Any], tmp_path: Path
) -> None:
    study = replace(deployed_sum.study, federation=replace(deployed_sum.study.federation, roster=None))
    other = deploy(tmp_path / "other", study, {name: tiny_records(20) for name in "abcdef"})
    found = verify_release(opened(other.folder), transcripts=transcripts(deployed_sum))
    assert "another run or study" in fault(found)


def test_no_transcripts_without_a_secure_sum(deployed: Any, deployed_sum: Any) -> None:
    found = verify_release(opened(deployed.folder), transcripts=transcripts(deployed_sum)[:1])
    assert "no secure sum" in fault(found)


def test_a_simulation_says_that_it_is_one(
    tiny_study: Callable[..., Any], tiny_records: Callable[..., Any], tmp_path: Path
) -> None:
    plain = simulate(tiny_study(), {name: tiny_records(20) for name in ("a", "b")}, release=tmp_path / "plain")
    found = verify_release(plain)
    assert found.faults == ()
    left = "\n".join(found.remarks)
    assert "This is a simulation" in left
    assert "Nobody signed the release" in left
    assert "weights to this run but the word of whoever made the release" in left
    assert "Whose keys" not in left
    assert "ledger was checked" not in left


def test_a_release_without_noise_says_that_nothing_was_charged(
    given_noise: Callable[..., Any], tiny_records: Callable[..., Any], deploy: Callable[..., Any], tmp_path: Path
) -> None:
    run = deploy(tmp_path, given_noise(0.0), {name: tiny_records(20) for name in ("a", "b")})
    found = verify_release(opened(run.folder))
    assert found.faults == ()
    assert any("adds no noise: nothing is promised" in remark for remark in found.remarks)


LIES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "a lower epsilon": (
        "statement.json", lambda value: value["check"].update(pld=1.0), "claims epsilon 1.0, its events cost",
    ),
    "a lower epsilon under replace-one": (
        "statement.json", lambda value: value["replace_one"].update(pld=1.0), "claims epsilon 1.0, its events cost",
    ),
    "more noise in the events": (
        "statement.json", lambda value: value["events"][0].update(noise_multiplier=90.0), "not that of the study",
    ),
    "fewer steps in the events": (
        "statement.json", lambda value: value["events"][0].update(count=1), "not that of the study",
    ),
    "another delta": (
        "statement.json",
        lambda value: [value[name].update(delta=1e-2) for name in ("check", "replace_one")],
        "not that of the study",
    ),
    "a promise against the operator": (
        "statement.json", lambda value: value["against_whom"].pop(), "not that of the study",
    ),
    "simulated or not": ("provenance.json", lambda value: value.update(simulated=True), "not that of the study"),
    "fewer rounds": ("provenance.json", lambda value: value.update(rounds=2), "not that of the study"),
    "a site that nobody knows": (
        "provenance.json",
        lambda value: value["sites"].update(west=value["sites"].pop("north")),
        "Site west took part under another key",
    ),
    "another key": (
        "provenance.json",
        lambda value: value["sites"]["north"].update(public_key="ab" * 32),
        "Site north took part under another key",
    ),
    "more contributions than rounds": (
        "provenance.json", lambda value: value["sites"]["north"].update(contributions=4), "do not make 3 rounds",
    ),
    "too few contributions": (
        "provenance.json", lambda value: value["sites"]["north"].update(contributions=0), "do not make 3 rounds",
    ),
    "another ledger entry": (
        "provenance.json",
        lambda value: value["sites"]["north"].update(last_ledger_entry="ab" * 32),
        "other ledger entries",
    ),
    "no ledger entry": (
        "provenance.json",
        lambda value: value["sites"]["north"].update(last_ledger_entry=None),
        "other ledger entries",
    ),
    "a field that is missing": ("provenance.json", lambda value: value.pop("code"), "provenance lacks 'code'"),
    "a field that nobody knows": (
        "provenance.json", lambda value: value.update(epsilon=0.1), "has an unknown field 'epsilon'",
    ),
    "a site's field that nobody knows": (
        "provenance.json", lambda value: value["sites"]["north"].update(note="certified"), "unknown field 'note'",
    ),
    "a version that nobody knows": (
        "provenance.json", lambda value: value["versions"].update(epsilon="0.1"), "unknown field 'epsilon'",
    ),
    "a device that is none": (
        "provenance.json", lambda value: value.update(device="certified (0.1, 1e-9)"), "device is 'certified",
    ),
    "no time": ("provenance.json", lambda value: value.update(seconds=-1), "seconds is -1"),
    "a field of another kind": ("provenance.json", lambda value: value.update(rounds="3"), "rounds is '3'"),
    "no sites": ("provenance.json", lambda value: value.update(sites={}), "names no sites"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_although_checksums_and_signature_are_made_anew(deployed: Any, tmp_path: Path, lie: str) -> None:
    name, edit, words = LIES[lie]
    folder = deployed.copy(tmp_path / "release")
    deployed.rewrite(folder, name, edit)
    with pytest.raises(ReleaseError, match="was changed"):
        opened(folder)
    deployed.seal(folder)
    found = verify_release(opened(folder))
    assert any(words in one for one in found.faults), found.faults


def test_fewer_rounds_are_found_although_the_statement_fits(deployed: Any, tmp_path: Path) -> None:
    """A coordinator that keeps the last rounds to itself would promise less than was spent."""
    folder = deployed.copy(tmp_path / "release")
    entries = opened(folder).statement.ledger_entries
    shorter = PrivacyPlan.from_study(deployed.study).statement(rounds=2, simulated=False, ledger_entries=entries)
    deployed.rewrite(folder, "statement.json", lambda value: value.update(shorter.to_mapping()))

    def shorten(value: Any) -> None:
        value["rounds"] = 2
        for site in value["sites"].values():
            site["contributions"] = 2

    deployed.rewrite(folder, "provenance.json", shorten)
    deployed.seal(folder)
    assert "has 2 rounds, its study 3" in fault(verify_release(opened(folder)))


def test_the_last_digits_of_another_machine_are_no_lie(deployed: Any, tmp_path: Path) -> None:
    folder = deployed.copy(tmp_path / "release")

    def nudge(value: Any) -> None:
        value["check"]["pld"] *= 1 + 1e-12
        value["events"][0]["noise_multiplier"] *= 1 + 1e-14

    deployed.rewrite(folder, "statement.json", nudge)
    deployed.seal(folder)
    assert verify_release(opened(folder)).faults == ()


@pytest.mark.parametrize("content", ["", "[]", "{}", "no json", "[" * 100_000])
def test_what_is_no_transcript_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "told.json"
    path.write_text(content)
    with pytest.raises(InputError, match="told.json is no transcript"):
        read_transcript(path)
    with pytest.raises(InputError, match="away.json"):
        read_transcript(tmp_path / "away.json")
