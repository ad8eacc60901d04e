"""The site's folder: everything needed and nothing unknown, a key for the owner alone, and how the app finds it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from flwr.app import Context, RecordDict

from client.consent import Withdrawal, consent_to
from client.settings import FOLDER_VARIABLE
from client.site import Site, close_site, locate_site, open_site, resident
from protocol.errors import ApprovalError, CloisterError, InputError, LedgerError, RecordsError
from protocol.keys import create_identity, read_identity
from protocol.study import Study
from records.codec import Codec
from records.dataset import Records
from simulations.federation import simulated_site
from simulations.site_folders import write_site_folders

MakeStudy = Callable[..., Study]
MakeRecords = Callable[..., Records]


@pytest.fixture
def folder(tmp_path: Path, tiny_study: MakeStudy, tiny_records: MakeRecords) -> Iterator[Path]:
    """A whole site's folder, with its records beside site.toml."""
    root = tmp_path / "sites"
    write_site_folders(root, tiny_study(), {"north": {"location": "records.csv", "set": "north"}})
    records = tiny_records(30)
    table = Codec(records.schema).decode(records.codes, generator=np.random.default_rng(0))
    pyarrow.csv.write_csv(table, root / "0" / "records.csv")
    yield root / "0"
    close_site(root / "0")


def rewritten(folder: Path, **changes: Any) -> None:
    """Write site.toml anew; None removes a key."""
    values: dict[str, Any] = {"name": "north", "data": {"location": "records.csv", "set": "north"}} | changes
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / "site.toml").write_text(tomli_w.dumps(kept), "utf-8")


def context(**node_config: Any) -> Context:
    return Context(1, 2, node_config, RecordDict(), {})


def test_a_whole_folder_opens(folder: Path, tiny_study: MakeStudy) -> None:
    site = open_site(folder)
    assert (site.name, site.ledger.data_set, site.ledger.simulated) == ("north", "north", False)
    assert site.approvals.study(tiny_study().hash) == tiny_study()
    assert open_site(folder) is site, "a second ledger object on the same file in one process"


def test_paths_are_relative_to_the_folder_not_to_where_the_client_was_started(
    folder: Path, tiny_study: MakeStudy, tiny_records: MakeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    site = open_site(folder)
    assert site.trainer(tiny_study()).dimension > 0
    np.testing.assert_array_equal(site._read(tiny_study()).codes, tiny_records(30).codes)


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        ("site.toml", InputError),
        ("key.pem", InputError),
        ("policy.toml", ApprovalError),
        ("ledger.sqlite", LedgerError),
    ],
)
def test_a_missing_file_is_named(folder: Path, missing: str, error: type[CloisterError]) -> None:
    (folder / missing).unlink()
    with pytest.raises(error, match=missing):
        open_site(folder)
    assert not (folder / missing).exists(), "opening a site must never make a fresh ledger or key"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": None}, "name"),
        ({"data": None}, "data"),
        ({"data": "records.csv"}, "data"),
        ({"data": 3}, "data"),
        ({"data": {"location": "records.csv"}}, "set"),
        ({"data": {"set": "north"}}, "location"),
        ({"data": {"location": "records.csv", "set": "north", "ledgr": "x"}}, "ledgr"),
        ({"data": {"location": "records.csv", "set": "north", "share": 3}}, "share"),
        ({"data": {"location": "records.csv", "set": "north", "share": {"scheme": "iid"}}}, "sites"),
        ({"polcy": 1}, "polcy"),
        ({"name": "North Site"}, "North Site"),
        ({"name": "../south"}, "south"),
        ({"device": "quantum"}, "quantum"),
    ],
)
def test_what_site_toml_says_wrong_is_named(folder: Path, changes: dict[str, Any], named: str) -> None:
    rewritten(folder, **changes)
    with pytest.raises(InputError, match=named):
        open_site(folder)


@pytest.mark.parametrize("text", [b"name = ", b"\xff\xfe"])
def test_a_site_file_that_is_no_toml_is_named(folder: Path, text: bytes) -> None:
    (folder / "site.toml").write_bytes(text)
    with pytest.raises(InputError, match="site.toml"):
        open_site(folder)


@pytest.mark.parametrize("kind", ["nothing", "x25519", "encrypted"])
def test_another_key_is_refused(folder: Path, kind: str) -> None:
    pem = b"no key"
    if kind == "x25519":
        pem = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if kind == "encrypted":
        locked = BestAvailableEncryption(b"secret")
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    (folder / "key.pem").write_bytes(pem)
    with pytest.raises(InputError, match="key.pem"):
        open_site(folder)


def test_a_new_key_does_not_open_the_old_ledger(folder: Path) -> None:
    (folder / "key.pem").unlink()
    create_identity(folder / "key.pem")
    with pytest.raises(ApprovalError, match="another site's key"):
        open_site(folder)
    shutil.rmtree(folder / "approvals")
    with pytest.raises(LedgerError):
        open_site(folder)


def test_a_changed_approval_closes_the_site(folder: Path) -> None:
    (path,) = (folder / "approvals").iterdir()
    path.write_text(path.read_text("utf-8").replace('"epsilon":5.0', '"epsilon":9.0'), "utf-8")
    with pytest.raises(ApprovalError, match="changed"):
        open_site(folder)


def test_a_running_site_follows_its_policy(folder: Path) -> None:
    site, policy = open_site(folder), folder / "policy.toml"
    meant, ledger = policy.read_text("utf-8"), site.ledger
    policy.write_text(meant.replace("# minimum_sites = 1", "minimum_sites = 3"), "utf-8")
    assert open_site(folder).policy.minimum_sites == 3
    for broken in ("epsilon = ", "epsilon = 1.0", meant + "epsilom = 1.0", ""):
        policy.write_text(broken, "utf-8")
        for _ in range(2):
            with pytest.raises(ApprovalError, match="policy.toml"):
                open_site(folder)
    policy.unlink()
    with pytest.raises(ApprovalError, match="no policy"):
        open_site(folder)
    policy.write_text(meant, "utf-8")
    assert open_site(folder) is site
    assert (site.policy.minimum_sites, site.ledger) == (1, ledger), "the ledger must stay open"


def test_a_change_that_keeps_size_and_time_is_seen(folder: Path) -> None:
    policy = folder / "policy.toml"
    assert open_site(folder).policy.epsilon == 5.0
    before = policy.stat()
    policy.write_text(policy.read_text("utf-8").replace("epsilon = 5.0", "epsilon = 2.0"), "utf-8")
    os.utime(policy, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert policy.stat().st_size == before.st_size
    assert open_site(folder).policy.epsilon == 2.0


def test_a_running_site_follows_its_approvals(folder: Path, tiny_study: MakeStudy) -> None:
    site, key = open_site(folder), read_identity(folder / "key.pem")
    (path,) = (folder / "approvals").iterdir()
    later = tiny_study(training={"rounds": 4})
    with pytest.raises(ApprovalError):
        open_site(folder).approvals.study(later.hash)
    given = consent_to(later, key=key, site="north", by="Ada", ceilings=())
    written = given.write(folder / "approvals")
    assert open_site(folder).approvals.study(later.hash) == later
    intact = path.read_bytes()
    path.write_bytes(intact.replace(b"A test.", b"A tesT."))
    for _ in range(2):
        with pytest.raises(ApprovalError, match="changed"):  # of all studies, until somebody has looked into it
            open_site(folder)
    path.write_bytes(intact)
    assert open_site(folder) is site
    Withdrawal.sign(given, key=key, by="Ada").write(folder / "approvals")
    with pytest.raises(ApprovalError, match="not approved"):
        open_site(folder).approvals.study(later.hash)
    assert open_site(folder).approvals.study(tiny_study().hash) == tiny_study()
    assert not written.exists()


def enrolled(folder: Path, *, site: str = "north", key: str = "c" * 64) -> None:
    known = {
        "version": 1,
        "federation": "f",
        "host": "h",
        "port": 1,
        "coordinator_key": key,
        "ca_fingerprint": "0" * 64,
    }
    (folder / "coordinator.json").write_text(json.dumps(known | {"site": site}), "utf-8")


def test_an_enrolled_site_has_its_enrolled_name(folder: Path, tiny_study: MakeStudy) -> None:
    enrolled(folder, site="south")
    with pytest.raises(InputError, match=r"north.*south"):
        open_site(folder)
    enrolled(folder)
    assert open_site(folder).name == "north"
    with pytest.raises(ApprovalError, match="signed by nobody"):
        open_site(folder).approvals.study(tiny_study().hash)
    enrolled(folder, site="south")
    with pytest.raises(InputError, match="south"):
        open_site(folder)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"site": "north", "federation": "f", "coordinator_key": "x"}']
)
def test_a_damaged_enrolment_refuses_everything(folder: Path, text: str) -> None:
    open_site(folder)
    (folder / "coordinator.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match="coordinator.json"):
        open_site(folder)


def test_the_app_finds_a_site_by_its_folder_or_its_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    assert locate_site(context()).name == "north"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder.parent))
    assert locate_site(context(**{"partition-id": 0})).name == "north"
    for lost in (context(), context(**{"partition-id": 1}), context(**{"cloister-resident": "north"})):
        with pytest.raises(InputError):
            locate_site(lost)


def test_without_the_variable_there_is_no_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(InputError, match=FOLDER_VARIABLE):
        locate_site(context(**{"partition-id": 0}))


def test_residents_leave_with_their_block(
    tiny_study: MakeStudy, tiny_records: MakeRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    site: Site = simulated_site("north", tiny_study(), tiny_records(3), device="cpu")
    with resident({"north": site}) as (node,):
        assert locate_site(context(**node)) is site
        with pytest.raises(InputError, match="north"), resident({"north": site}):
            pass
        assert locate_site(context(**node)) is site, "the refused block put the first one out of the house"
    with pytest.raises(InputError):
        locate_site(context(**node))


def test_a_share_of_a_source_is_the_same_at_every_opening(folder: Path, tiny_study: MakeStudy) -> None:
    parts = []
    for number in range(3):
        share = {"scheme": "iid", "sites": 3, "number": number, "seed": 1}
        rewritten(folder, data={"location": "records.csv", "set": "north", "share": share})
        close_site(folder)
        parts.append(open_site(folder)._read(tiny_study()).codes)
    whole = np.concatenate(parts)
    assert [len(part) for part in parts] == [10, 10, 10]
    rewritten(folder)
    close_site(folder)
    found = open_site(folder)._read(tiny_study()).codes
    np.testing.assert_array_equal(np.sort(whole.view("i4,i4,i4"), axis=0), np.sort(found.view("i4,i4,i4"), axis=0))


def test_records_that_do_not_fit_name_no_value(folder: Path, tiny_study: MakeStudy) -> None:
    (folder / "records.csv").write_text("age,colour,ill\n21,chartreuse-marker,true\n", "utf-8")
    with pytest.raises(RecordsError) as caught:
        open_site(folder).trainer(tiny_study())
    assert "marker" not in str(caught.value)


def test_an_older_ledger_put_back_alone_is_refused(
    folder: Path, tiny_study: MakeStudy, first_request: Callable[..., Any], ask: Callable[..., Any]
) -> None:
    study = tiny_study()
    older = folder.parent / "older.sqlite"
    shutil.copy(folder / "ledger.sqlite", older)
    site = open_site(folder)
    first = ask(site, first_request(study))
    close_site(folder)
    newest = folder.parent / "newest.sqlite"
    shutil.copy(folder / "ledger.sqlite", newest)
    shutil.copy(older, folder / "ledger.sqlite")
    with pytest.raises(LedgerError, match="1 entries that paid for what left"):
        open_site(folder)
    # The twin: without the record of what left nothing tells, and the same round is released once more, with new noise.
    record = folder / "egress.jsonl"
    record.rename(folder.parent / "egress.jsonl")
    again = ask(open_site(folder), first_request(study))
    assert not np.array_equal(first.vector, again.vector)
    close_site(folder)
    record.unlink()
    (folder.parent / "egress.jsonl").rename(record)
    shutil.copy(newest, folder / "ledger.sqlite")
    assert open_site(folder).name == "north"
