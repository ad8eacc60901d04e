"""Every byte that leaves a site: only allow-listed fields, one vector, one word of refusal, and never a marker."""

import hashlib
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

import client.app
from client import door
from client.app import app as client_app
from client.egress import read
from client.site import FOLDER_VARIABLE
from client.training import Trainer
from protocol.errors import FederationError
from protocol.messages import RefusalReason, RoundRequest, encode
from protocol.record_bytes import record_bytes
from protocol.study import Study
from protocol.terms import SITE_NAME
from protocol.warrant import NO_WARRANT
from records.dataset import load_records
from server.app import app as server_app
from simulations.federation import simulate
from simulations.grid import InMemoryGrid, run_in_memory
from simulations.site_folders import write_site_folders
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model, study_schema

CATEGORY, PERSON, MAIL = "chartreuse-7q", "person-9zk", "mail-2vd@clinic"
FILE, FOLDER, TEXT = "secrets-5wn", "vault-4xw", "boom-3hj"
MARKERS = (CATEGORY, PERSON, MAIL, FILE, FOLDER, TEXT, "colour", "green")
FIELDS = {
    "introduction": {"version", "type", "study", "code", "site", "public_key", "signature"},
    "contribution": {
        "version", "type", "study", "run", "round", "kind", "site", "model", "entry", "signature",
    },
    "refusal": {"version", "type", "reason"},
}  # fmt: skip
MOST_OVERHEAD = 1500
MakeStudy = Callable[..., Study]


@dataclass
class Wire:
    """What was seen to leave the sites, and what was wrong with it."""

    dimension: int
    kinds: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)
    digests: list[str] = field(default_factory=list)

    def tap(self, message: Message, raw: bytes) -> None:
        self.leaks += [f"the marker {marker}" for marker in MARKERS if marker.encode() in raw]
        if message.has_error():
            self.leaks.append("an error reply of Flower's")
            self.kinds.append("error")
            return
        self.digests.append(hashlib.sha256(record_bytes(message.content)).hexdigest())
        header = dict(message.content.config_records.get("header", {}))
        kind = str(header.get("type"))
        self.kinds.append(kind)
        if set(header) != FIELDS.get(kind, set()):
            self.leaks.append(f"fields {sorted(set(header) ^ FIELDS.get(kind, set()))} in a {kind}")
        self._values(header)
        numbers = self._vector(message, kind)
        if len(raw) > numbers + MOST_OVERHEAD:
            self.leaks.append(f"a {kind} of {len(raw)} bytes for {numbers} bytes of vector")

    def _values(self, header: dict[str, Any]) -> None:
        """Every value is a number, a hash, a name or a word of a closed set: nothing can hide in a field."""
        closed = {"contribution", "introduction", "refusal", "gradients", "updates", *map(str, RefusalReason)}
        for name, value in header.items():
            hexadecimal = isinstance(value, str) and len(value) in (64, 128) and not value.strip("0123456789abcdef")
            named = name == "site" and bool(SITE_NAME.fullmatch(str(value)))
            if not (type(value) is int or hexadecimal or named or value in closed):
                self.leaks.append(f"{name} is {value!r}")
        if header.get("type") == "refusal":
            self.reasons.add(str(header.get("reason")))

    def _vector(self, message: Message, kind: str) -> int:
        """Return the bytes that the vector may take: four per weight in a contribution, else none."""
        parts = {"header", "vector"} if kind == "contribution" else {"header"}
        if set(message.content) != parts:
            self.leaks.append(f"a {kind} holds {sorted(message.content)}")
        arrays = [array for record in message.content.array_records.values() for array in record.values()]
        shapes = [(array.dtype, tuple(array.shape)) for array in arrays]
        allowed = [("int32", (self.dimension,))] if kind == "contribution" else []
        if shapes != allowed:
            self.leaks.append(f"a {kind} carries {shapes}")
        return 4 * self.dimension * len(allowed)


@pytest.fixture
def study(tiny_study: MakeStudy) -> Study:
    """A study of persons whose files hold more than it asks for."""
    return tiny_study(schema={"person": "who", "drop": ["mail"]}, privacy={"unit": "person"})


@pytest.fixture
def wire(study: Study) -> Wire:
    return Wire(dimension=ServerModel(build_study_model(study), study.training).dimension)


def write_records(path: Path, *, colour: str = "green") -> Path:
    rows = [f"{PERSON}-{n},{MAIL},{20 + n % 10},{colour},{'true' if n % 3 else 'false'}" for n in range(40)]
    path.write_text("\n".join(["who,mail,age,colour,ill", *rows]) + "\n", "utf-8")
    return path


@pytest.fixture
def sites(tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sites in folders, as they are found in production."""
    root = tmp_path / FOLDER
    names = ("north", "south")
    write_site_folders(root, study, {name: {"location": f"{FILE}.csv", "set": name} for name in names})
    for number in range(2):
        write_records(root / str(number) / f"{FILE}.csv")
    monkeypatch.setenv(FOLDER_VARIABLE, str(root))
    return root


def run(study: Study, wire: Wire, release: Path) -> None:
    """Run the real server against the sites' folders."""
    config = {"study": study.text, "release": str(release)}
    nodes = [{"partition-id": 0}, {"partition-id": 1}]
    run_in_memory(server_app, client_app, node_configs=nodes, run_config=config, tap=wire.tap)


@pytest.mark.parametrize("strategy", ["gradients", "updates"])
def test_a_whole_study_sends_allow_listed_fields_and_bounded_vectors(
    tmp_path: Path, study: Study, wire: Wire, tiny_study: MakeStudy, strategy: str
) -> None:
    if strategy == "updates":
        training = {"strategy": "updates", "local_steps": 2}
        sections = {"schema": {"person": "who", "drop": ["mail"]}, "privacy": {"unit": "person"}}
        study = tiny_study(training=training, **sections)
    (tmp_path / FOLDER).mkdir()
    parts = {
        name: load_records(write_records(tmp_path / FOLDER / f"{FILE}-{name}.csv"), schema=study_schema(study))
        for name in ("north", "south")
    }
    simulate(study, parts, release=tmp_path / "release", tap=wire.tap)
    assert wire.leaks == []
    assert wire.kinds == ["introduction"] * 2 + ["contribution"] * 6


def test_sites_in_folders_send_the_same(tmp_path: Path, study: Study, wire: Wire, sites: Path) -> None:
    run(study, wire, tmp_path / "release")
    assert wire.leaks == []
    assert wire.kinds == ["introduction"] * 2 + ["contribution"] * 6
    ledgers = [sqlite3.connect(sites / str(number) / "ledger.sqlite") for number in range(2)]
    rows = [ledger.execute("SELECT count(*) FROM entries").fetchone()[0] for ledger in ledgers]
    for ledger in ledgers:
        ledger.close()
    assert rows == [7, 7], "an opening; a charge and a seal for each of three rounds"
    recorded = [line.departure.sha256 for number in range(2) for line in read(sites / str(number) / "egress.jsonl")]
    assert sorted(recorded) == sorted(wire.digests), "every byte that leaves a site is recorded"


def unfit_records(sites: Path, study: Study) -> None:
    del study
    write_records(sites / "1" / f"{FILE}.csv", colour=CATEGORY)


def no_records(sites: Path, study: Study) -> None:
    del study
    (sites / "1" / f"{FILE}.csv").unlink()


def no_approval(sites: Path, study: Study) -> None:
    (sites / "1" / "approvals" / f"{study.hash}.json").unlink()


def changed_approval(sites: Path, study: Study) -> None:
    (sites / "1" / "approvals" / f"{study.hash}.json").write_text(f'"{TEXT}"', "utf-8")


def no_policy(sites: Path, study: Study) -> None:
    del study
    (sites / "1" / "policy.toml").unlink()


def wrong_policy(sites: Path, study: Study) -> None:
    del study
    (sites / "1" / "policy.toml").write_text(f'"{TEXT}" = 1', "utf-8")


def low_ceiling(sites: Path, study: Study) -> None:
    del study
    (sites / "1" / "policy.toml").write_text(tomli_w.dumps({"epsilon": 0.5, "delta": 1e-4}), "utf-8")


def no_site(sites: Path, study: Study) -> None:
    del study
    (sites / "1" / "site.toml").unlink()


def damaged_ledger(sites: Path, study: Study) -> None:
    del study
    (sites / "1" / "ledger.sqlite").write_bytes(TEXT.encode() * 1000)


def wrong_key(sites: Path, study: Study) -> None:
    del study
    (sites / "1" / "key.pem").write_text(TEXT, "utf-8")


@pytest.mark.parametrize(
    ("accident", "reason"),
    [
        (unfit_records, RefusalReason.RECORDS),
        (no_records, RefusalReason.RECORDS),
        (no_approval, RefusalReason.NOT_APPROVED),
        (changed_approval, RefusalReason.NOT_APPROVED),
        (no_policy, RefusalReason.NOT_APPROVED),
        (wrong_policy, RefusalReason.NOT_APPROVED),
        (low_ceiling, RefusalReason.BUDGET),
        (no_site, RefusalReason.INTERNAL),
        (damaged_ledger, RefusalReason.LEDGER),
        (wrong_key, RefusalReason.INTERNAL),
    ],
)
def test_whatever_is_wrong_with_a_site_leaves_as_one_word(
    tmp_path: Path, study: Study, wire: Wire, sites: Path, accident: Any, reason: RefusalReason,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    accident(sites, study)
    with caplog.at_level(logging.CRITICAL), pytest.raises(FederationError):
        run(study, wire, tmp_path / "release")
    assert wire.leaks == []
    assert wire.reasons == {reason.value}


@pytest.fixture
def failing_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose failure tells of a person."""

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError(f"{TEXT}: could not embed {PERSON} of {FOLDER}/{FILE}")

    monkeypatch.setattr(Trainer, "gradient_sum", fail)


@pytest.mark.usefixtures("sites", "failing_model")
def test_what_an_exception_says_stays_at_the_site(tmp_path: Path, study: Study, wire: Wire) -> None:
    with pytest.raises(FederationError, match="north"):
        run(study, wire, tmp_path / "release")
    assert wire.leaks == []
    assert wire.reasons == {RefusalReason.INTERNAL.value}


def malformed(study: Study) -> list[RecordDict]:
    """Requests that a coordinator gone wrong, or bad, may send."""
    weights = ServerModel(build_study_model(study), study.training).weights()
    kind = study.training.strategy
    request = encode(
        RoundRequest(study=study.hash, run="a" * 64, round=1, kind=kind, warrant=NO_WARRANT, vector=weights)
    )
    found = [RecordDict(), RecordDict({"header": ConfigRecord()}), RecordDict({TEXT: ConfigRecord({TEXT: TEXT})})]
    changes = [(name, TEXT) for name in ("round", "run", "study", "warrant")]
    for name, value in (("round", 0), *changes, ("version", 1), (TEXT, 1)):
        header = ConfigRecord({**request["header"], name: value})
        found.append(RecordDict({"header": header, "vector": request["vector"]}))
    array = request["vector"]["vector"]
    for vector in (ArrayRecord(), ArrayRecord({"vector": array, TEXT: array})):
        found.append(RecordDict({"header": request["header"], "vector": vector}))
    found.append(RecordDict({**request, TEXT: MetricRecord({TEXT: 1.0})}))
    return found


@pytest.mark.usefixtures("sites")
def test_malformed_requests_are_answered_with_one_word(study: Study, wire: Wire) -> None:
    grid = InMemoryGrid(client_app, [{"partition-id": 0}], tap=wire.tap)
    requests = malformed(study)
    with grid.as_server():
        for message_type in ("query.hello", "train.gradients", "train.updates"):
            grid.send_and_receive([Message(content, 2, message_type) for content in requests])
    assert wire.leaks == []
    assert wire.kinds == ["refusal"] * 3 * len(requests)
    assert wire.reasons == {RefusalReason.WIRE.value}


@pytest.mark.usefixtures("sites")
def test_a_message_for_no_part_of_the_app_gets_no_word_of_the_sites(study: Study, wire: Wire) -> None:
    grid = InMemoryGrid(client_app, [{"partition-id": 0}], tap=wire.tap)
    with grid.as_server():
        grid.send_and_receive([Message(malformed(study)[-1], 2, "evaluate")])
    assert wire.leaks == ["an error reply of Flower's"], "Flower refuses it before the site's code is reached"


@pytest.mark.usefixtures("sites", "failing_model")
def test_a_door_that_lets_an_exception_through_is_caught(
    tmp_path: Path, study: Study, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.app, "answer", lambda message, site_of, respond: respond(site_of(), message))
    with pytest.raises(FederationError):
        run(study, wire, tmp_path / "release")
    assert {f"the marker {PERSON}", f"the marker {TEXT}", "an error reply of Flower's"} <= set(wire.leaks)


def extra_field(record: RecordDict) -> None:
    record["header"]["records"] = 40


def extra_metric(record: RecordDict) -> None:
    record["metrics"] = MetricRecord({"loss": 0.1})


def path_as_name(record: RecordDict) -> None:
    record["header"]["site"] = f"/{FOLDER}"


def second_vector(record: RecordDict) -> None:
    if "vector" in record:
        record["vector"]["exact"] = record["vector"]["vector"]


def wider_vector(record: RecordDict) -> None:
    if "vector" in record:
        record["vector"] = ArrayRecord([record["vector"]["vector"].numpy().astype(np.int64)])


def text_as_reason(record: RecordDict) -> None:
    record["header"]["entry"] = f"could not read {FILE}"


@pytest.mark.parametrize(
    ("twin", "leak"),
    [
        (extra_field, "fields ['records']"),
        (extra_metric, "holds ['header', 'metrics'"),
        (path_as_name, "site is"),
        (second_vector, "a contribution carries"),
        (wider_vector, "a contribution carries"),
        (text_as_reason, "entry is"),
    ],
)
@pytest.mark.usefixtures("sites")
def test_a_door_that_sends_more_is_caught(
    study: Study, wire: Wire, monkeypatch: pytest.MonkeyPatch, twin: Any, leak: str
) -> None:
    weights = ServerModel(build_study_model(study), study.training).weights()
    kind = study.training.strategy
    request = encode(
        RoundRequest(study=study.hash, run="a" * 64, round=1, kind=kind, warrant=NO_WARRANT, vector=weights)
    )

    def more(message: Any) -> RecordDict:
        record = encode(message)
        twin(record)
        return record

    monkeypatch.setattr(door, "encode", more)
    grid = InMemoryGrid(client_app, [{"partition-id": 0}], tap=wire.tap)
    with grid.as_server():
        grid.send_and_receive([Message(request, 2, "train.gradients")])
    assert any(leak in found for found in wire.leaks), wire.leaks
