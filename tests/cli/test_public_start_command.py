"""``--init``, ``quantity:R`` and ``--where site=`` on the command line."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.keys import public_hex
from protocol.signed_study import SignedStudy
from server.deployment.folder import CoordinatorFolder
from server.deployment.jobs import all_jobs

SCHEMA = {
    "target": "ill",
    "site_column": "ward",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 29},
        {"name": "ill", "kind": "boolean"},
        {"name": "ward", "kind": "categorical", "categories": ["east", "west", "north"]},
    ],
}


def write_study(path: Path, *, public: str = "", schema: dict = SCHEMA) -> Path:
    head = {"name": path.stem, "purpose": "A test."} | ({"public": public} if public else {})
    study = {
        "study": head,
        "schema": schema,
        "model": {"family": "vae", "options": {"latent": 2}},
        "training": {"rounds": 2},
        "privacy": {"noise_multiplier": 1.0, "delta": 1e-4, "sample_rate": 0.5},
        "federation": {"sites": 3, "public_records": 120},
    }
    path.write_text(tomli_w.dumps(study))
    return path


@pytest.fixture
def records(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    rows = [f"{age},{str(age > 24).lower()}" for age in generator.integers(20, 30, 130)]
    (tmp_path / "r.csv").write_text("age,ill\n" + "\n".join(rows) + "\n")
    return tmp_path / "r.csv"


def test_a_study_starts_from_a_public_release_and_is_sampled_by_site(cloister, records, tmp_path):
    run = ("--data", records, "--partition", "quantity:10", "--json")
    public = write_study(tmp_path / "first.toml", public="Made up.")
    status, out, err = cloister("simulate", public, *run, "-o", tmp_path / "public")
    assert status == 0, err
    sizes = json.loads(out)["sites"]
    assert list(sizes) == ["east", "west", "north"]
    assert sizes["east"] / sizes["north"] == pytest.approx(10, rel=0.15)

    second = write_study(tmp_path / "second.toml")
    status, out, err = cloister("simulate", second, *run, "-o", tmp_path / "private", "--init", tmp_path / "public")
    assert status == 0, err
    assert cloister("verify", tmp_path / "private")[0] == 0
    assert "'first'" in (tmp_path / "private" / "statement.txt").read_text()

    status, _, err = cloister("simulate", second, *run, "-o", tmp_path / "third", "--init", tmp_path / "private")
    assert status == 1
    assert "not marked public" in err
    assert not (tmp_path / "third").exists()

    status, out, err = cloister("sample", tmp_path / "private", "-n", "50", "--where", "site=west")
    assert status == 0, err
    assert {line.split(",")[2] for line in out.splitlines()[1:]} == {'"west"'}


def test_sites_cannot_be_told_apart_without_a_declared_column(cloister, records, tmp_path):
    plain = {"target": "ill", "columns": SCHEMA["columns"][:2]}
    study = write_study(tmp_path / "plain.toml", schema=plain)
    assert cloister("simulate", study, "--data", records, "-o", tmp_path / "release")[0] == 0
    status, out, err = cloister("sample", tmp_path / "release", "-n", "5", "--where", "site=west")
    assert (status, out) == (1, "")
    assert "declares no site column" in err


def test_the_number_of_sites_is_that_of_the_site_column(cloister, records, tmp_path):
    study = write_study(tmp_path / "study.toml")
    status, _, err = cloister("simulate", study, "--data", records, "--sites", "2", "-o", tmp_path / "release")
    assert status == 1
    assert "the site column 'ward' names 3" in err


def test_a_coordinator_signs_the_start_with_the_study_and_keeps_it_with_the_job(cloister, records, tmp_path):
    plain = {"target": "ill", "columns": SCHEMA["columns"][:2]}
    public = write_study(tmp_path / "census.toml", public="Made up.", schema=plain)
    assert cloister("simulate", public, "--data", records, "-o", tmp_path / "census")[0] == 0
    hub = CoordinatorFolder.create(
        tmp_path / "hub", name="hearts", host="hub.example.org", port=9443, enrolment_port=9444, superlink_port=9445
    )
    with hub.roster() as roster:
        for number, name in enumerate(("east", "west", "north")):
            node = generate_private_key(SECP384R1()).public_key()
            roster.redeem(
                name, roster.invite(name), identity_key=public_hex(Ed25519PrivateKey.generate()),
                node_key=node.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
                certificate=f"{number:064x}", not_after=datetime.now(UTC) + timedelta(days=300),
            )  # fmt: skip
    study = write_study(tmp_path / "stays.toml", schema=plain)
    place = ("--folder", hub.root)

    status, _, err = cloister("study", "sign", study, *place, "--init", tmp_path / "census", "-o", tmp_path / "s.json")
    assert status == 0, err
    signed = SignedStudy.from_text((tmp_path / "s.json").read_text().strip())
    assert signed.study.model.init is not None
    assert signed.study.model.init.release == "census"

    status, _, err = cloister("coordinator", "run", tmp_path / "s.json", *place, "--detach")
    assert status == 1
    assert "starts from the public release 'census'" in err
    assert all_jobs(hub.studies) == []

    run = ("coordinator", "run", study, *place, "--init", tmp_path / "census", "--detach")
    assert cloister(*run)[0] == 0
    (job,) = all_jobs(hub.studies)
    assert job.signed_study() == signed
    assert (job.folder / "start" / "SHA256SUMS").read_bytes() == (tmp_path / "census" / "SHA256SUMS").read_bytes()
    assert cloister(*run)[0] == 0  # the same study, and so the same job
    assert len(all_jobs(hub.studies)) == 1
