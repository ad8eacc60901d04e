"""Approving a study: what is shown, what forbids it, what is written down, and how it is taken back."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.officer.account import Account
from cli.officer.offers import read_offers
from client.approvals import Approvals
from client.consent import Consent, Withdrawal
from client.credentials import Enrolled
from client.rules import Enrolment
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from protocol.errors import ApprovalError, WireError
from protocol.fingerprint import code_fingerprint
from protocol.keys import public_hex, read_identity
from protocol.signed_study import SignedStudy
from protocol.study import Study
from server.deployment.jobs import create_job


def approved(folder: Path) -> dict[str, Consent]:
    key = read_identity(folder / "key.pem").public_key()
    enrolment = Enrolment.from_folder(folder)
    coordinator = None if enrolment is None else enrolment.coordinator
    return dict(Approvals.from_folder(folder / "approvals", key=key, coordinator=coordinator).consents)


def test_an_officer_reads_and_consents(says, officer, monkeypatch):
    study = officer.study()
    before = (officer.folder / "ledger.sqlite").read_bytes()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    status, out, err = says("approve", officer.sign(study), "--site", officer.folder, "--name", "Dr. A. Lovelace")
    assert (status, err) == (0, "")
    for words in (
        "hearts-2, " + study.hash,
        "Teaching data for a course.",
        "model family vae",
        "3 columns of 'visits': age (integer): 20 to 29, in 10 steps zip code (categorical): 2 categories: 10, 20",
        "ill (boolean, the target): true or false",
        "About 1,000 records at all sites together (public_records)",
        "each record takes part with probability 0.1 (sample_rate)",
        "Left out, whatever they hold: email",
        "patient only says whom a record is about",
        "though their names read so: zip code",
        "Each record, over all 4 rounds: (",
        "1e-06)-differential privacy per record under add/remove",
        "every other site, and the coordinator with every message",
        "Of at most (8, 1e-06)-differential privacy per record under add/remove, for ever: (",
        "2: north, south; at least 2 in every round",
        "4; a round waits at most 600 s",
        code_fingerprint()[:16],
        "Allows it.",
        "Approve hearts-2 at 'north' as Dr. A. Lovelace? [y/N]",
    ):
        assert words in out, words
    consent = approved(officer.folder)[study.hash]
    assert (consent.by, consent.site, consent.coordinator) == (
        "Dr. A. Lovelace", "north", public_hex(officer.coordinator),
    )  # fmt: skip
    assert (consent.study, consent.code, consent.ceilings[0].epsilon) == (study, code_fingerprint(), 8.0)
    assert (officer.folder / "ledger.sqlite").read_bytes() == before, "looking at a study must cost nothing"


def test_long_lists_of_categories_are_shown_in_full_when_asked(says, officer):
    columns = [{"name": "ward", "kind": "categorical", "categories": [f"w{number}" for number in range(20)]}]
    columns.append(
        {"name": "dose", "kind": "continuous", "lower": 0, "upper": 5, "out_of_bounds": "clip", "missing": True}
    )
    study = officer.sign(officer.study(schema={"columns": columns, "target": "ward"}))
    _, short, _ = says("approve", study, "--site", officer.folder, "--yes")
    assert "20 categories: w0, w1, w2, w3, w4, w5, w6, w7, and 12 more" in short
    assert "w8" not in short
    assert "--columns" in short
    assert "dose (continuous): 0.0 to 5.0, in 32 steps; what lies beyond is moved to the bound; may be missing" in short
    _, full, _ = says("approve", study, "--site", officer.folder, "--yes", "--columns")
    assert "w18, w19" in full


def test_another_account_writes_nothing(says, officer, monkeypatch):
    """Root's approval or withdrawal would be a file that the client, which is not root, cannot read."""
    study = officer.sign(officer.study())
    monkeypatch.setattr("os.getuid", lambda: officer.folder.stat().st_uid + 1)
    for words in ((study, "--yes"), ("--withdraw", "lately", "--yes")):
        status, _, err = says("approve", *words, "--site", officer.folder)
        assert status == 1
        assert "belongs to" in err
        assert "sudo -u" in err
    assert not (officer.folder / "approvals" / "withdrawn").exists()
    assert "lately" in {consent.study.name for consent in approved(officer.folder).values()}


def test_a_folder_that_nobody_enrolled_in_is_named_as_such(says, tmp_path):
    status, _, err = says("approve", "hearts-2", "--site", tmp_path)
    assert status == 1
    assert "not a site's folder" in err
    assert "CLOISTER_SITE" in err


def test_no_is_no(says, officer, monkeypatch):
    before = approved(officer.folder)
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        status, _, _ = says("approve", officer.sign(officer.study()), "--site", officer.folder)
        assert status != 0
    assert approved(officer.folder) == before


def test_what_is_spent_and_what_would_be_is_told_apart_by_period(says, officer):
    officer.set_policy(yearly_epsilon=4.0)
    _, out, _ = says("approve", officer.sign(officer.study()), "--site", officer.folder, "--yes")
    for_ever, yearly = (part.split(" left.")[0] for part in out.split("Of at most ")[1:])
    assert "for ever" in for_ever
    assert "within 365 days" in yearly
    spent = [float(part.split(": (")[1].split(",")[0]) for part in (for_ever, yearly)]
    assert spent[0] > spent[1] > 0, "what was spent long ago counts for ever, and in no year"


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ({"families": ["gan"]}, 'families = ["gan"]'),
        ({"trust": ["sum"]}, 'trust = ["sum"]'),
        ({"minimum_sites": 3}, "minimum_sites = 3"),
        ({"most_rounds": 3}, "most_rounds = 3"),
        ({"studies": ["0" * 64]}, 'studies = ["0'),
        ({"epsilon": 0.5}, "epsilon = 0.5"),
        ({"yearly_epsilon": 0.5}, "yearly_epsilon = 0.5"),
    ],
)
def test_what_the_policy_forbids_is_not_approved(says, officer, policy, line):
    officer.set_policy(**policy)
    study = officer.study()
    status, out, err = says("approve", officer.sign(study), "--site", officer.folder, "--yes")
    assert status == 1
    number = 1 + next(
        index for index, text in enumerate((officer.folder / "policy.toml").read_text("utf-8").splitlines())
        if text.startswith(line)
    )  # fmt: skip
    assert f"think about line {number} of policy.toml, {line}" in out
    assert "not approved" in err
    assert study.hash not in approved(officer.folder)


def test_a_default_that_forbids_is_named_as_one(says, officer):
    study = officer.study(privacy={"noise_multiplier": 0.0})
    status, out, _ = says("approve", officer.sign(study), "--site", officer.folder, "--yes")
    assert status == 1
    assert "NOT PRIVATE" in out
    assert "think about allow_not_private in policy.toml, which has its default there" in out


def test_all_faults_are_told_at_once(says, officer):
    officer.set_policy(families=["gan"], most_rounds=1, epsilon=0.01)
    status, out, err = says("approve", officer.sign(officer.study()), "--site", officer.folder, "--yes")
    assert (status, out.count("think about")) == (1, 3)
    assert "3 things forbid it" in err


def test_hours_forbid_a_moment_and_no_study(says, officer):
    hour = (datetime.now(UTC).hour + 12) % 24
    officer.set_policy(hours=[f"{hour:02}:00-{hour:02}:30"])
    status, out, _ = says("approve", officer.sign(officer.study()), "--site", officer.folder, "--yes")
    assert status == 0
    assert f"This site answers {hour:02}:00-{hour:02}:30 (UTC) alone." in out


def test_another_unit_or_another_roster_is_refused(says, officer):
    person = officer.study(privacy={"unit": "person"})
    stranger = officer.study(federation={"roster": {"west": "b" * 64, "south": "a" * 64}})
    impostor = officer.study(federation={"roster": {"north": "b" * 64, "south": "a" * 64}})
    for study, said in ((person, "do not add up"), (stranger, "no site named 'north'"), (impostor, "another key")):
        status, out, _ = says("approve", officer.sign(study), "--site", officer.folder, "--yes")
        assert status == 1
        assert said in out
        assert study.hash not in approved(officer.folder)


def test_a_study_of_another_coordinator_is_refused(says, officer):
    study = officer.study()
    status, out, err = says(
        "approve", officer.sign(study, key=Ed25519PrivateKey.generate()), "--site", officer.folder, "--yes"
    )
    assert (status, out) == (1, "")
    assert "not by this site's coordinator" in err
    assert study.hash not in approved(officer.folder)


def test_a_study_that_was_changed_after_it_was_signed_is_refused(says, officer):
    path = officer.sign(officer.study())
    text = path.read_text("utf-8")
    path.write_text(text.replace("a course", "a sales"), "utf-8")
    status, _, err = says("approve", path, "--site", officer.folder, "--yes")
    assert status == 1
    assert "changed after it was signed" in err


@pytest.mark.parametrize("form", ["json", "toml"])
def test_an_enrolled_site_approves_nothing_unsigned(says, officer, form, tmp_path):
    study = officer.study()
    path = tmp_path / f"plain.{form}"
    path.write_text(study.text if form == "json" else tomli_w.dumps(study.to_mapping()), "utf-8")
    assert (Study.from_text(path.read_text("utf-8")) if form == "json" else Study.from_toml(path)) == study
    status, _, err = says("approve", path, "--site", officer.folder, "--yes")
    assert status == 1
    assert "is not signed" in err
    assert study.hash not in approved(officer.folder)
    (officer.folder / "coordinator.json").unlink()  # a site that only simulations reach
    status, out, _ = says("approve", path, "--site", officer.folder, "--yes")
    assert status == 0
    assert "Signed by nobody" in out
    assert study.hash in approved(officer.folder)


def test_approving_again_after_an_update_pays_for_the_rest_alone(says, officer):
    account = Account.open(officer.folder)
    (ceiling,) = account.ceilings()
    officer.set_policy(epsilon=account.check(ceiling).pld + 0.001)
    lately = next(consent for consent in approved(officer.folder).values() if consent.study.name == "lately")
    old = replace(lately, code="f" * 64, signature="0" * 128)
    old = replace(old, signature=officer.key.sign(old.signed_bytes).hex())
    old.write(officer.folder / "approvals")
    with pytest.raises(ApprovalError, match="approved with code"):
        Approvals.from_folder(officer.folder / "approvals", key=officer.key.public_key()).study(lately.study.hash)
    status, out, err = says("approve", officer.sign(lately.study), "--site", officer.folder, "--yes")
    assert (status, err) == (0, "")
    assert "5 of its 5 rounds are charged already; approving it again pays for the other 0 and no more." in out
    assert "Approved before by Ada" in out
    assert "other code, ffffffffffffffff" in out
    assert approved(officer.folder)[lately.study.hash].code == code_fingerprint()
    status, out, _ = says("approve", officer.sign(officer.study()), "--site", officer.folder, "--yes")
    assert status == 1, "a study that still costs something does not fit any more"
    assert "The study would pass the ceiling for ever" in out


def test_a_broken_consent_is_mended_by_approving_again(says, officer):
    lately = next(consent for consent in approved(officer.folder).values() if consent.study.name == "lately")
    path = officer.folder / "approvals" / f"{lately.study.hash}.json"
    path.write_text(path.read_text("utf-8").replace('"by":"Ada"', '"by":"Eve"'), "utf-8")
    status, _, err = says("approve", officer.sign(lately.study), "--site", officer.folder, "--yes", "--name", "Ada")
    assert status == 0
    assert path.name in err
    assert approved(officer.folder)[lately.study.hash].by == "Ada"


def test_words_of_a_study_cannot_rewrite_the_screen(site_cli, officer):
    purpose = "Harmless\x1b[2J\x1b[1;1H\u202e\rcourse"
    study = officer.study(study={"name": "sly", "purpose": purpose})
    status, out, _ = site_cli("approve", officer.sign(study), "--site", officer.folder, "--yes")
    assert status == 0
    assert "Harmless" in out
    assert not {"\x1b", "\u202e", "\r"} & set(out)


def test_a_withdrawal_is_signed_and_kept(says, officer):
    study = officer.study()
    says("approve", officer.sign(study), "--site", officer.folder, "--yes")
    for unclear in ("12345", "nothing", study.hash[:4]):
        status, _, err = says("approve", "--withdraw", unclear, "--site", officer.folder, "--yes")
        assert status == 1
        assert study.hash[:12] in err
    status, out, _ = says("approve", "--withdraw", study.hash[:8], "--site", officer.folder, "--yes", "--name", "Bob")
    assert status == 0
    assert "refuses hearts-2 from the next message on" in out
    assert study.hash not in approved(officer.folder)
    (record,) = (officer.folder / "approvals" / "withdrawn").iterdir()
    withdrawal = Withdrawal.from_text(record.read_text("utf-8"))
    withdrawal.verify(officer.key.public_key())
    assert (withdrawal.by, withdrawal.consent.study) == ("Bob", study)


def test_a_withdrawal_is_asked_for_too(says, officer, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    status, out, _ = says("approve", "--withdraw", "lately", "--site", officer.folder)
    assert status == 1
    assert "The approval stands." in out
    assert "lately" in {consent.study.name for consent in approved(officer.folder).values()}


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 300])
def test_who_approves_has_a_name(says, officer, name):
    study = officer.study()
    status, _, err = says("approve", officer.sign(study), "--site", officer.folder, "--yes", "--name", name)
    assert status == 1
    assert "Who approves" in err
    assert study.hash not in approved(officer.folder)


def test_without_a_policy_nothing_is_approved(says, officer):
    (officer.folder / "policy.toml").unlink()
    status, _, err = says("approve", officer.sign(officer.study()), "--site", officer.folder, "--yes")
    assert status == 1
    assert "cloister site policy --epsilon E --delta D" in err


def test_no_record_is_read_or_shown(says, officer):
    (officer.folder / "visits.csv").unlink()
    status, out, _ = says("approve", officer.sign(officer.study()), "--site", officer.folder, "--yes")
    assert status == 0
    assert "marker" not in out


def test_the_coordinators_offers_are_listed_and_found_by_name(
    says: Callable[..., tuple[int, str, str]], enrolled: Path, hub, officer
):
    key = read_identity(enrolled / "key.pem")
    roster = {"north": public_hex(key), "south": "a" * 64}
    study = officer.study("offered", federation={"roster": roster})
    assert "no study for this site now" in says("approve", "--site", enrolled)[1]
    create_job(hub.folder.studies, SignedStudy.sign(study, hub.folder.key()))
    status, out, err = says("approve", "--site", enrolled)
    assert (status, err) == (0, "")
    assert f"{study.hash[:12]} not approved offered: Teaching data" in out
    status, _, err = says("approve", "unknown", "--site", enrolled, "--yes")
    assert status == 1
    assert "Offered: offered" in err
    status, out, err = says("approve", "offered", "--site", enrolled, "--yes")
    assert (status, err) == (0, "")
    assert study.hash in approved(enrolled)
    assert f"{study.hash[:12]} approved offered" in says("approve", "--site", enrolled)[1]
    status, _, _ = says("approve", study.hash[:9], "--site", enrolled, "--yes")
    assert status == 0


def test_of_two_studies_of_one_name_the_next_step_names_the_hash(says, enrolled, hub, officer):
    roster = {"north": public_hex(read_identity(enrolled / "key.pem")), "south": "a" * 64}
    studies = [officer.study("masses", federation={"roster": roster}, training={"rounds": rounds}) for rounds in (4, 5)]
    for study in studies:
        create_job(hub.folder.studies, SignedStudy.sign(study, hub.folder.key()))
    assert f"Next: cloister site approve {studies[0].hash[:12]}" in says("approve", "--site", enrolled)[1]


def test_a_coordinator_that_is_away_is_said_to_be(says, enrolled):
    known = replace(Enrolled.read(enrolled), port=1)
    (enrolled / "coordinator.json").write_bytes(known.to_bytes())
    status, _, err = says("approve", "--site", enrolled)
    assert status == 1
    assert "was not reached" in err
    assert "cloister site doctor" in err


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'["{}"]', b"[" * 100_000, b"\xff"])
def test_an_answer_that_is_no_list_of_studies_is_refused(body, officer):
    with pytest.raises(WireError):
        read_offers(body, Enrolment.from_folder(officer.folder))


def test_an_offer_of_another_signer_is_refused(officer):
    enrolment = Enrolment.from_folder(officer.folder)
    mine, foreign = (
        SignedStudy.sign(officer.study(), key).to_text() for key in (officer.coordinator, Ed25519PrivateKey.generate())
    )
    assert read_offers(json.dumps([mine]).encode(), enrolment)[0].study == officer.study()
    with pytest.raises(ApprovalError, match="not by this site's coordinator"):
        read_offers(json.dumps([mine, foreign]).encode(), enrolment)


def test_an_officer_reads_of_statistics_and_training_and_pays_for_what_is_left_of_both(says, officer):
    study = officer.study(name="counted")
    study = replace(study, statistics=replace(study.statistics, rounds=1))
    status, out, err = says("approve", officer.sign(study), "--site", officer.folder, "--yes")
    assert (status, err) == (0, "")
    for words in (
        "From this site go first, in 1 round, one noised sum of statistics per round",
        "into which everything enters once, and then one clipped and noised sum of gradients per round",
        "In the statistics every record takes part. In every step each record takes part with probability 0.1",
        "Each record, over all 5 rounds: (",
        "That covers 1 noisy sum of statistics, noise",
        "4 noisy sums of gradients, noise 2, each record at 0.1",
        "5; a round waits at most 600 s",
    ):
        assert words in out, words
    event = PrivacyPlan.from_study(study).stages[0].event
    with Ledger.open(officer.folder / "ledger.sqlite", key=officer.key, data_set="visits") as ledger:
        ledger.charge(study=study.hash, run="9" * 64, round=1, event=event, ceilings=())
    _, out, _ = says("approve", officer.sign(study), "--site", officer.folder, "--yes")
    assert "1 of its 5 rounds are charged already; approving it again pays for the other 4 and no more." in out
