"""An extract of a ledger: all of one study, nothing of another, and no byte that could be changed."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.events import Mechanism, NoisyRelease
from privacy.ledger import Charge, Entry, Ledger, LedgerExtract, Opening, Seal, Settlement, recount
from privacy.ledger.chain import Chain
from protocol.errors import LedgerError
from protocol.keys import public_hex
from protocol.terms import ContributionKind, Relation, Sampler, Unit

OURS, OTHER, RUN = "a" * 64, "b" * 64, "c" * 64
TIME = "2026-01-31T12:00:00+00:00"
EVENT = NoisyRelease(
    mechanism=Mechanism.GAUSSIAN,
    noise_multiplier=2.0,
    sample_rate=0.1,
    sampler=Sampler.POISSON,
    count=1,
    kind=ContributionKind.GRADIENTS,
    relation=Relation.ADD_REMOVE,
    unit=Unit.RECORD,
)
KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def entries() -> tuple[Entry, ...]:
    """Three sealed rounds of ours, two of another study among them, and a block of which one round was used."""
    with Ledger.in_memory(key=KEY, data_set="visits") as ledger:
        for study, number in ((OURS, 1), (OURS, 2), (OTHER, 1), (OURS, 3), (OTHER, 2)):
            entry = ledger.charge(study=study, run=RUN, round=number, event=EVENT, ceilings=())
            ledger.seal(entry, f"{number}" * 64)
        block = ledger.reserve(study=OURS, run="d" * 64, first_round=1, rounds=10, event_per_round=EVENT, ceilings=())
        ledger.use(block, 1)
        ledger.settle(block, 1)
        return ledger.entries()


def extract(entries: tuple[Entry, ...], study: str = OURS, key: Ed25519PrivateKey = KEY) -> LedgerExtract:
    return LedgerExtract.of(entries, site="north", study=study, time=TIME, key=key)


def resigned(found: LedgerExtract, *, key: Ed25519PrivateKey = KEY) -> str:
    """What a site that lies would write: its own signature under whatever it wants to say."""
    return replace(found, signature=key.sign(found._signed()).hex()).to_text()


def test_an_extract_holds_one_study_and_reads_back(entries: tuple[Entry, ...]) -> None:
    made = extract(entries)
    read = LedgerExtract.from_text(made.to_text())
    assert read == made
    assert read.head == entries[-1].hash
    kinds = [type(entry.record) for entry in read.entries]
    assert kinds == [Opening, *[Charge, Seal] * 3, Charge, Settlement]
    assert recount(read.entries) == {EVENT: 4}
    assert [type(entry.record) for entry in read.of_run(RUN)] == [Charge, Seal] * 3
    assert recount(read.of_run("d" * 64)) == {EVENT: 1}


def test_what_others_were_charged_is_counted_by_the_running_total(entries: tuple[Entry, ...]) -> None:
    """The slow twin looks at the whole ledger; the extract has the numbers alone."""
    for study in (OURS, OTHER):
        made = extract(entries, study)
        whole = [recount(entries[: entry.position + 1]).total() for entry in made.entries]
        own = [recount(made.entries[: index + 1]).total() for index in range(len(made.entries))]
        assert made.of_others() == tuple(a - b for a, b in zip(whole, own, strict=True))
    assert extract(entries).of_others() == (0, 0, 0, 0, 0, 1, 1, 2, 2)
    assert max(extract(entries, OTHER).of_others()) == 3


def test_nothing_of_another_study_is_in_it(entries: tuple[Entry, ...]) -> None:
    text = extract(entries).to_text()
    others = [entry for entry in entries if isinstance(entry.record, Charge) and entry.record.study == OTHER]
    assert len(others) == 2
    for entry in others:
        assert entry.payload not in text
        assert entry.signature not in text
        assert entry.nonce not in text
    assert OTHER not in text
    assert others[0].nonce in extract(entries, OTHER).to_text(), "the search finds what is there"


def test_every_entry_can_be_checked_by_itself(entries: tuple[Entry, ...]) -> None:
    mapping = json.loads(extract(entries).to_text())
    for item in mapping["entries"]:
        entry = Entry.read(
            payload=item["payload"], hash_=item["hash"], signature=item["signature"], public_key=KEY.public_key()
        )
        assert entry in entries


def test_a_study_that_was_never_charged_has_no_extract(entries: tuple[Entry, ...]) -> None:
    with pytest.raises(LedgerError, match="nothing of study eeee"):
        extract(entries, "e" * 64)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('\\"noise_multiplier\\":2.0', '\\"noise_multiplier\\":9.0', "does not have the hash"),
        ('"site":"north"', '"site":"south"', "changed after it was signed"),
        (TIME, "2026-02-01T12:00:00+00:00", "changed after it was signed"),
        ('"version":1}', '"version":2}', "not of version 1"),
        ('"version":1}', '"version":true}', "not of version 1"),
        ('"version":1}', '"version":1,"more":0}', "missing or unknown"),
        ('{"entries"', '{ "entries"', "canonical"),
    ],
)
def test_a_changed_extract_is_refused(entries: tuple[Entry, ...], old: str, new: str, message: str) -> None:
    text = extract(entries).to_text()
    assert old in text
    with pytest.raises(LedgerError, match=message):
        LedgerExtract.from_text(text.replace(old, new, 1))


def test_an_entry_that_was_left_out_shows(entries: tuple[Entry, ...]) -> None:
    made = extract(entries)
    for index in range(len(made.entries)):
        rest = replace(made, entries=made.entries[:index] + made.entries[index + 1 :])
        with pytest.raises(LedgerError):
            LedgerExtract.from_text(rest.to_text())


def test_another_key_is_found(entries: tuple[Entry, ...]) -> None:
    made, stranger = extract(entries), Ed25519PrivateKey.generate()
    with pytest.raises(LedgerError, match="changed after it was signed"):
        LedgerExtract.from_text(resigned(made, key=stranger))
    with pytest.raises(LedgerError, match="not signed by this site's key"):
        LedgerExtract.from_text(resigned(replace(made, public_key=public_hex(stranger)), key=stranger))


def test_a_site_cannot_tell_a_story_that_breaks_the_ledgers_rules(entries: tuple[Entry, ...]) -> None:
    """Signed with its own key, and still refused: each of these needs an entry that no ledger would hold."""
    made = extract(entries)
    opening, charge, seal, *rest = made.entries
    for story, message in (
        ((opening, seal, charge, *rest), "no charge that is to be sealed"),
        ((opening, charge, charge, seal, *rest), "out of place"),
        ((opening, seal, *rest), "no charge that is to be sealed"),
        ((charge, seal, *rest), "out of place"),
        (tuple(entries), "another study"),
        ((opening, charge, seal, *rest[:-2], rest[-1]), "no reservation"),
    ):
        with pytest.raises(LedgerError, match=message):
            LedgerExtract.from_text(resigned(replace(made, entries=tuple(story))))


def test_running_totals_of_neighbours_must_add_up(entries: tuple[Entry, ...]) -> None:
    opening, charge, *_ = extract(entries).entries

    def chained(compositions: int, *, position: int) -> Chain:
        entry = Entry.sign(
            charge.record, position=position, previous=opening.hash, time=TIME, nonce="0" * 32,
            compositions=compositions, key=KEY,
        )  # fmt: skip
        chain = Chain(whole=False)
        chain.append(opening)
        chain.append(entry)
        return chain

    assert chained(1, position=1).events() == [EVENT]
    assert chained(7, position=3).events() == [EVENT], "behind a gap others may have been charged"
    for compositions, position in ((2, 1), (0, 1), (0, 3)):
        with pytest.raises(LedgerError, match="does not add up"):
            chained(compositions, position=position)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "no json", "[" * 100_000])
def test_what_is_no_extract_is_refused(text: str) -> None:
    with pytest.raises(LedgerError):
        LedgerExtract.from_text(text)
