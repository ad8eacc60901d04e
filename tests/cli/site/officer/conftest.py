"""A site with a history: two studies in its ledger and its egress record, and a coordinator that signs more."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.consent import consent_to
from client.credentials import Enrolled
from client.egress import Departure, DepartureKind, Egress, Placement
from client.policy import write_policy
from privacy.ledger import Ledger, book
from privacy.plan import PrivacyPlan
from protocol.keys import create_identity, public_hex
from protocol.signed_study import SignedStudy
from protocol.study import Study

MARKER = "marker-record-4711"
SCHEMA: dict[str, Any] = {
    "target": "ill",
    "person": "patient",
    "drop": ["email"],
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 29},
        {"name": "zip code", "kind": "categorical", "categories": ["10", "20"], "not_identifier": True},
        {"name": "ill", "kind": "boolean"},
    ],
}


@dataclass(kw_only=True)
class Officer:
    """A site's folder, and whom it is enrolled with."""

    folder: Path
    key: Ed25519PrivateKey
    coordinator: Ed25519PrivateKey

    def study(self, name: str = "hearts-2", **sections: dict[str, Any]) -> Study:
        """A study with this site in its roster; sections may be overridden."""
        mapping: dict[str, Any] = {
            "study": {"name": name, "purpose": "Teaching data for a course."},
            "schema": SCHEMA,
            "model": {"family": "vae"},
            "training": {"rounds": 4},
            "privacy": {"noise_multiplier": 2.0, "delta": 1e-6, "sample_rate": 0.1},
            "federation": {
                "sites": 2,
                "public_records": 1000,
                "roster": {"north": public_hex(self.key), "south": "a" * 64},
            },
        }
        for section, values in sections.items():
            mapping[section] = mapping[section] | values
        return Study.from_mapping(mapping)

    def sign(self, study: Study, *, key: Ed25519PrivateKey | None = None) -> Path:
        """Write the signed study to a file, signed by the coordinator if no other key is given."""
        path = self.folder.parent / f"{study.name}.study.json"
        path.write_text(SignedStudy.sign(study, key or self.coordinator).to_text(), "utf-8")
        return path

    def set_policy(self, **values: Any) -> None:
        """Write another policy."""
        (self.folder / "policy.toml").unlink(missing_ok=True)
        write_policy(self.folder / "policy.toml", **{"epsilon": 8.0, "delta": 1e-6} | values)

    def run(self, study: Study, *, since: datetime, monkeypatch: pytest.MonkeyPatch, unsealed: int = 0) -> None:
        """Approve a study and live through its rounds, one a day."""
        plan, egress = PrivacyPlan.from_study(study), Egress(self.folder / "egress.jsonl")
        signed = SignedStudy.sign(study, self.coordinator)
        consent_to(signed, key=self.key, site="north", by="Ada", ceilings=()).write(self.folder / "approvals")
        run = hashlib.sha256(study.name.encode()).hexdigest()
        with Ledger.open(self.folder / "ledger.sqlite", key=self.key, data_set="visits") as ledger:
            for number in range(1, study.training.rounds + 1):
                now = (since + timedelta(days=number)).isoformat(timespec="seconds")
                monkeypatch.setattr(book, "_now", lambda now=now: now)
                entry = ledger.charge(
                    study=study.hash, run=run, round=number, event=plan.round_event, ceilings=()
                )  # fmt: skip
                if number > study.training.rounds - unsealed:
                    continue
                digest = hashlib.sha256(f"{study.name} {number}".encode()).hexdigest()
                ledger.seal(entry, digest=digest)
                egress.record(
                    Departure(
                        kind=DepartureKind.CONTRIBUTION,
                        study=study.hash,
                        run=run,
                        round=number,
                        bytes=1000,
                        sha256=digest,
                        norm_bound=1.0,
                        noise=2.0,
                        placement=Placement.WHOLE,
                        entry=entry.hash,
                    )  # fmt: skip
                )


@pytest.fixture
def new_officer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Officer:
    """An enrolled site that released nothing yet; no coordinator answers."""
    folder = tmp_path / "site"
    folder.mkdir()
    officer = Officer(folder=folder, key=create_identity(folder / "key.pem"), coordinator=Ed25519PrivateKey.generate())
    (folder / "site.toml").write_text('name = "north"\n[data]\nlocation = "visits.csv"\nset = "visits"\n', "utf-8")
    (folder / "visits.csv").write_text(f"patient,email,age,zip code,ill\n{MARKER},{MARKER}@x,21,10,true\n", "utf-8")
    enrolled = Enrolled(
        federation="hearts", host="127.0.0.1", port=1, coordinator_key=public_hex(officer.coordinator),
        ca_fingerprint="0" * 64, site="north",
    )  # fmt: skip
    (folder / "coordinator.json").write_bytes(enrolled.to_bytes())
    officer.set_policy()
    monkeypatch.setattr(book, "_now", lambda: "2020-01-01T00:00:00+00:00")
    Ledger.create(folder / "ledger.sqlite", key=officer.key, data_set="visits").close()
    return officer


@pytest.fixture
def officer(new_officer: Officer, monkeypatch: pytest.MonkeyPatch) -> Officer:
    """The same site after two studies: one long ago, one ended lately whose last round has not left yet."""
    old = new_officer.study("long-ago", training={"rounds": 3})
    new_officer.run(old, since=datetime(2020, 3, 1, tzinfo=UTC), monkeypatch=monkeypatch)
    late = new_officer.study("lately", training={"rounds": 5}, privacy={"sample_rate": 0.2})
    new_officer.run(late, since=datetime.now(UTC) - timedelta(days=30), monkeypatch=monkeypatch, unsealed=1)
    monkeypatch.undo()
    return new_officer


@pytest.fixture
def says(site_cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run ``cloister site ...`` on a wide terminal; give status, output on one line, errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        status, out, err = site_cli(*arguments)
        return status, " ".join(out.split()), err

    return call
