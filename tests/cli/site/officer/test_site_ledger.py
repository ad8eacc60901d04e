"""The ledger as an officer reads it: what was spent, what is left, and who checked that it adds up."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from cli.officer import verification
from cli.officer.account import Account
from cli.officer.ledger_chart import spending
from cli.officer.ledger_page import ledger_page
from cli.officer.verification import Books, verify_books
from privacy.accounting import cross_check
from privacy.ceiling import Ceiling
from privacy.ledger import Charge, Ledger, Settlement, recount
from privacy.plan import PrivacyPlan
from privacy.statement import Statement
from protocol.errors import LedgerError
from protocol.keys import create_identity, public_hex
from protocol.terms import Relation, Trust

CEILING = Ceiling(epsilon=8.0, delta=1e-6, relation=Relation.ADD_REMOVE)


def facts(site_cli, officer, *more):
    status, out, err = site_cli("ledger", "--site", officer.folder, "--json", *more)
    assert status == 0, err
    return json.loads(out)


def test_a_new_ledger_says_that_nothing_was_released(says, new_officer, site_cli, tmp_path):
    status, out, err = says("ledger", "--site", new_officer.folder, "--verify", "--html", tmp_path / "l.html")
    assert status == 0, err
    assert "Nothing was ever charged: nothing was released." in out
    assert "nothing is spent, 8.000 of epsilon is left" in out
    assert "nothing was released" in (tmp_path / "l.html").read_text("utf-8")
    found = facts(site_cli, new_officer)
    assert (found["statement"], found["runs"], found["entries"]) == (None, [], 1)


def test_studies_runs_and_rounds_are_told_with_what_is_left(says, officer):
    officer.set_policy(yearly_epsilon=4.0)
    status, out, err = says("ledger", "--site", officer.folder)
    assert (status, err) == (0, "")
    assert "long-ago" in out
    assert "1-3" in out
    assert "2020-03-02" in out
    assert "lately" in out
    assert "1-5" in out
    assert "5 noisy sums of gradients, noise 2, each record at 0.2" in out
    assert "differential privacy per record under add/remove" in out
    assert "It does not hold against the site's own operator." in out
    assert "for ever: (" in out
    assert "within 365 days: (" in out


def test_numbers_are_those_of_the_events(site_cli, officer):
    officer.set_policy(yearly_epsilon=4.0)
    found = facts(site_cli, officer)
    plans = [PrivacyPlan.from_study(study) for study in Account.open(officer.folder).studies.values()]
    events = {plan.study.name: plan.round_event.times(plan.study.training.rounds) for plan in plans}
    in_all = cross_check(list(events.values()), delta=1e-6, relation=Relation.ADD_REMOVE)
    lately = cross_check([events["lately"]], delta=1e-6, relation=Relation.ADD_REMOVE)
    for_ever, yearly = found["ceilings"]
    assert for_ever["spent"]["pld"] == pytest.approx(in_all.pld)
    assert yearly["spent"]["pld"] == pytest.approx(lately.pld)
    assert yearly["spent"]["pld"] < for_ever["spent"]["pld"]
    statement = Statement.from_mapping(found["statement"])
    assert (statement.epsilon, statement.delta, statement.trust) == (in_all.pld, 1e-6, Trust.NONE)
    assert [(run["name"], run["rounds"], run["sealed"], run["unsealed"]) for run in found["runs"]] == [
        ("long-ago", 3, 3, 0), ("lately", 5, 4, 1),
    ]  # fmt: skip


def test_a_ledger_is_read_also_without_policy_and_approvals(says, officer):
    (officer.folder / "policy.toml").unlink()
    shutil.rmtree(officer.folder / "approvals")
    status, out, _ = says("ledger", "--site", officer.folder, "--verify")
    assert status == 0
    assert "There is no ceiling to compare with" in out
    assert "It holds against the coordinator and colluding sites only while the secure sum holds" in out, (
        "of an unknown study no more may be claimed than of one under trust in a sum"
    )


def test_deterministic_noise_is_no_privacy_in_the_ledger_either(says, new_officer, monkeypatch):
    study = new_officer.study("fixed", privacy={"noise": "deterministic"})
    new_officer.run(study, since=datetime(2020, 1, 1, tzinfo=UTC), monkeypatch=monkeypatch)
    assert "NOT PRIVATE" in says("ledger", "--site", new_officer.folder)[1]


def test_verification_says_what_was_checked_and_by_whom(says, officer):
    status, out, err = says("ledger", "--site", officer.folder, "--verify")
    assert (status, err) == (0, "")
    for words in (
        "ok The file:",
        "ok The chain: 16 entries",
        public_hex(officer.key)[:16],
        "ok The rules: 8 charges",
        "ok The seals: 7, ",
        "1 paid rounds are not sealed",
        "counted again entry by entry: 8 compositions",
        "an independent Fourier accountant finds",
        "a Rényi bound",
        "ok The egress record: 7 lines in one chain",
    ):
        assert words in out, words
    assert "NOTE" not in out
    assert "BAD" not in out


def changed(officer, sql: str) -> None:
    """Change rows of the ledger as somebody would who has the file, append-only triggers put back afterwards."""
    with sqlite3.connect(officer.folder / "ledger.sqlite") as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        assert connection.execute(sql).rowcount > 0
        for _, text in triggers:
            connection.execute(text)
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET payload = replace(payload, '\"sample_rate\":0.2', '\"sample_rate\":0.1')",
        "UPDATE entries SET payload = replace(payload, '2020-03-02', '2020-03-03')",
        "UPDATE entries SET signature = substr(signature, 2) || 'a' WHERE position = 5",
        "UPDATE entries SET hash = substr(hash, 2) || 'a' WHERE position = 5",
        "DELETE FROM entries WHERE position = 5",
        "DELETE FROM entries WHERE position > 12",
    ],
)
def test_a_damaged_ledger_is_refused(says, officer, sql):
    assert says("ledger", "--site", officer.folder, "--verify")[0] == 0
    changed(officer, sql)
    status, out, err = says("ledger", "--site", officer.folder, "--verify")
    assert (status, out) == (1, "")
    assert "ledger" in err.lower()


def test_a_ledger_cut_off_at_its_end_is_found_by_the_egress_record_alone(says, officer):
    changed(officer, "DELETE FROM entries WHERE position > 12")
    assert says("ledger", "--site", officer.folder)[0] == 0, "in itself the chain is intact"
    assert "lacks" in says("ledger", "--site", officer.folder, "--verify")[2]


def test_an_older_copy_that_was_put_back_is_found(says, new_officer, monkeypatch, tmp_path):
    new_officer.run(new_officer.study("one"), since=datetime(2020, 1, 1, tzinfo=UTC), monkeypatch=monkeypatch)
    shutil.copy(new_officer.folder / "ledger.sqlite", tmp_path / "old")
    new_officer.run(new_officer.study("two"), since=datetime(2020, 2, 1, tzinfo=UTC), monkeypatch=monkeypatch)
    assert says("ledger", "--site", new_officer.folder, "--verify")[0] == 0
    shutil.copy(tmp_path / "old", new_officer.folder / "ledger.sqlite")
    status, _, err = says("ledger", "--site", new_officer.folder, "--verify")
    assert status == 1
    assert "lacks 4 entries" in err


def test_a_total_that_does_not_add_up_is_a_fault(officer):
    books = Books.open(officer.folder)
    assert verify_books(books).faults == ()
    charge = next(entry for entry in books.account.entries if isinstance(entry.record, Charge))
    forged = replace(charge, record=replace(charge.record, event=charge.record.event.times(2)))
    account = replace(books.account, entries=books.account.entries)
    assert account.events()  # what the ledger's own rules add up is kept before the entries are exchanged
    object.__setattr__(
        account, "entries", tuple(forged if entry is charge else entry for entry in account.entries)
    )  # fmt: skip
    (fault,) = verify_books(replace(books, account=account)).faults
    assert "Counted again, there are 9 compositions, not 8." in fault


def test_what_was_given_back_is_counted_as_such(new_officer, tmp_path):
    plan = PrivacyPlan.from_study(new_officer.study())
    with Ledger.create(tmp_path / "l", key=new_officer.key, data_set="visits") as ledger:
        block = ledger.reserve(
            study=plan.study.hash, run="r", first_round=0, rounds=10, event_per_round=plan.round_event, ceilings=()
        )
        ledger.use(block, 0)
        ledger.settle(block, 3)
        entries = ledger.entries()
    assert isinstance(entries[-1].record, Settlement)
    assert recount(entries) == {plan.round_event: 3}
    account = Account(site="north", key=new_officer.key.public_key(), entries=entries, policy=None, studies={})
    (run,) = account.runs
    assert (run.first_round, run.last_round, run.rounds) == (0, 2, 3)
    assert run.events == (plan.round_event.times(3),) == tuple(account.events())


def test_a_record_that_was_moved_away_is_a_remark_and_no_fault_of_the_ledger(says, officer):
    (officer.folder / "egress.jsonl").rename(officer.folder / "egress-of-last-year.jsonl")
    status, out, _ = says("ledger", "--site", officer.folder, "--verify")
    assert status == 0
    assert "NOTE 7 sealed rounds, of 2020-03-02 to" in out


def test_another_data_set_is_refused(says, officer):
    path = officer.folder / "site.toml"
    path.write_text(path.read_text("utf-8").replace('set = "visits"', 'set = "visitors"'), "utf-8")
    status, _, err = says("ledger", "--site", officer.folder)
    assert status == 1
    assert "'visits'" in err
    assert "'visitors'" in err


class Page(HTMLParser):
    """What a page would load or run, and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [f"{name}={value}" for name, value in attributes
                        if name in ("src", "href", "srcset", "action") and not value.startswith("#")]  # fmt: skip

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_complete_in_itself_and_holds_no_value_of_a_record(says, officer, tmp_path):
    officer.set_policy(yearly_epsilon=4.0)
    path = tmp_path / "ledger.html"
    status, _, err = says("ledger", "--site", officer.folder, "--verify", "--html", path)
    assert status == 0, err
    text = path.read_text("utf-8")
    page = Page(text)
    assert page.loaded == []
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    assert re.findall(r"url\((?!#)|@import", text) == []
    assert "default-src 'none'" in text
    said = " ".join(" ".join(page.words).split())
    for words in ("Ledger of visits at north", "long-ago", "lately", "Spent within 365 days", "1 to 5 (5)",
                  "1 paid and not left yet", "independent Fourier accountant", "charged round 3 of"):  # fmt: skip
        assert words in said, words
    assert page.tags.count("svg") == 1
    assert "marker" in (officer.folder / "visits.csv").read_text("utf-8")
    assert "marker" not in text
    for private in ("patient", "email", "zip"):
        assert private not in text, "columns belong into the study, not into the account of what was spent"


def test_a_page_is_not_replaced_unasked(says, officer, tmp_path):
    (tmp_path / "l.html").write_text("mine", "utf-8")
    assert says("ledger", "--site", officer.folder, "--html", tmp_path / "l.html")[0] == 1
    assert (tmp_path / "l.html").read_text("utf-8") == "mine"
    assert says("ledger", "--site", officer.folder, "--html", tmp_path / "l.html", "--force")[0] == 0


def test_words_of_a_policy_or_site_cannot_become_markup(officer):
    account = replace(Account.open(officer.folder), site="<script>x</script>", notes=("<b>note</b>",))
    text = ledger_page(account, None)
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;b&gt;note" in text


def test_the_curves_end_where_the_account_stands(officer):
    officer.set_policy(yearly_epsilon=4.0)
    account, now = Account.open(officer.folder), datetime.now(UTC)
    for ceiling, points in spending(account, account.ceilings(), now=now).items():
        times = [time for time, _ in points]
        assert times == sorted(times)
        assert points[0][1] == 0.0
        assert points[-1] == (now, account.check(ceiling).pld)
    for_ever, yearly = spending(account, account.ceilings(), now=now + timedelta(days=400)).values()
    assert [epsilon for _, epsilon in for_ever] == sorted(epsilon for _, epsilon in for_ever)
    assert yearly[-1][1] == 0.0, "after a year and nothing new the yearly budget is whole again"


_READER = """
import sys
from pathlib import Path
from cli.officer.verification import Books, verify_books
books = Books.open(Path(sys.argv[1]))
print(len(books.account.entries), len(verify_books(books).faults))
"""


def test_it_can_be_read_while_the_client_writes(officer):
    plan = PrivacyPlan.from_study(officer.study())
    with Ledger.open(officer.folder / "ledger.sqlite", key=officer.key, data_set="visits") as ledger:
        ledger.charge(study=plan.study.hash, run="r", round=1, event=plan.round_event, ceilings=(CEILING,))
        found = subprocess.run(
            [sys.executable, "-c", _READER, str(officer.folder)],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert found.stdout.split() == ["17", "0"]
        ledger.charge(study=plan.study.hash, run="r", round=2, event=plan.round_event, ceilings=(CEILING,))


def test_what_leaves_while_the_books_are_read_is_no_disagreement(officer, monkeypatch):
    """The record is read, then the ledger, then the record again; a round leaves between any two of them."""
    real, study = Account.open, officer.study()

    def slowly(folder, **known):
        officer.run(study, since=datetime.now(UTC), monkeypatch=monkeypatch)
        account = real(folder, **known)
        officer.run(officer.study("third"), since=datetime.now(UTC), monkeypatch=monkeypatch)
        return account

    monkeypatch.setattr(verification.Account, "open", slowly)
    books = Books.open(officer.folder)
    assert (books.contradictions, books.gaps) == ((), ())
    assert len(books.lines) == 7 + 4 + 4


def test_the_ledger_of_another_key_is_refused(officer):
    (officer.folder / "key.pem").unlink()
    create_identity(officer.folder / "key.pem")
    with pytest.raises(LedgerError):
        Account.open(officer.folder)
