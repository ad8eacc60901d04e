"""Starting from a public release: which one may be, what the study then says, and what sites refuse."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from protocol.errors import ReleaseError, StudyError
from protocol.messages import vector_hash
from protocol.public_start import PublicStart
from protocol.study import Study
from records.dataset import Records
from server.deployment.jobs import create_job
from server.release import Release
from server.start import start_weights, with_start
from server.verification import verify_release
from simulations.federation import simulate
from strategies.starting_point import load_start, sent_hash, state_hash
from strategies.study_model import build_study_model

MakeStudy = Callable[..., Study]
WHY = "Made up for a test."
CPU = torch.device("cpu")


@pytest.fixture
def make_release(tmp_path: Path, tiny_records: Callable[..., Records]) -> Callable[..., Path]:
    """Return a function that trains a study among two sites and gives the release's folder."""

    def build(study: Study, name: str = "release", *, start: Path | None = None) -> Path:
        parts = {site: tiny_records(40, seed=seed) for seed, site in enumerate(("north", "south"))}
        simulate(study, parts, release=tmp_path / name, start=start)
        return tmp_path / name

    return build


@pytest.fixture
def public(make_release: Callable[..., Path], given_noise: MakeStudy) -> Path:
    """A release of public records, trained far from its start."""
    training = {"rounds": 2, "learning_rate": 1.0}
    return make_release(given_noise(0.5, study={"name": "census", "public": WHY}, training=training), "public")


def received(study: Study, state: dict[str, Any]) -> np.ndarray:
    """The shared weights that a run sends first."""
    model = build_study_model(study)
    model.load_state_dict(state)
    return nn.utils.parameters_to_vector(model.shared.parameters()).detach().numpy()


def test_a_public_release_holds_all_weights_and_its_mark(public: Path) -> None:
    release = Release.open(public, device=CPU)
    assert release.study.public == release.provenance["public"] == WHY
    assert release.start is not None
    assert set(release.start) == set(release.model.state_dict())
    for name, value in release.model.generator.state_dict().items():
        assert torch.equal(release.start[f"decoder.{name}"], value)
    fresh = build_study_model(release.study).state_dict()
    encoder = [name for name in fresh if name.startswith("encoder.")]
    assert not all(torch.equal(release.start[name], fresh[name]) for name in encoder)
    assert any(WHY in sentence for sentence in verify_release(release).passed)
    assert any(WHY in sentence for sentence in release.statement.sentences())


def test_a_study_starts_there_and_says_so(
    public: Path, make_release: Callable[..., Path], tiny_study: MakeStudy
) -> None:
    plain = tiny_study(training={"rounds": 1, "learning_rate": 1e-6, "averaging": 0.0})
    study = with_start(plain, public)
    state = dict(Release.open(public, device=CPU).start or {})
    assert study.model.init == PublicStart(
        release="census", public=WHY, weights=state_hash(state), sent=vector_hash(received(plain, state))
    )
    assert Study.from_text(study.text) == study
    assert study.hash != plain.hash
    release = Release.open(make_release(study, start=public), device=CPU)
    for name, value in release.model.generator.state_dict().items():
        assert torch.allclose(value, state[f"decoder.{name}"], atol=1e-4)
    assert release.provenance["public_start"] == {"release": "census", "weights": state_hash(state)}
    verification = verify_release(release)
    assert verification.faults == ()
    assert any("started from the public release 'census'" in sentence for sentence in verification.passed)
    assert any("rests on the word" in sentence and "census" in sentence for sentence in verification.remarks)
    assert any("'census'" in sentence and WHY in sentence for sentence in release.statement.sentences())
    # Its own release is not public: whoever starts from it would spend its epsilon again.
    assert release.start is None
    with pytest.raises(StudyError, match="not marked public") as caught:
        with_start(plain, release.folder)
    assert "cost" in caught.value.remedy


def test_without_a_start_training_does_not_begin_there(
    public: Path, make_release: Callable[..., Path], tiny_study: MakeStudy
) -> None:
    study = tiny_study(training={"rounds": 1, "learning_rate": 1e-6, "averaging": 0.0})
    state = Release.open(public, device=CPU).start or {}
    release = Release.open(make_release(study), device=CPU)
    assert not all(
        torch.allclose(value, state[f"decoder.{name}"], atol=1e-4)
        for name, value in release.model.generator.state_dict().items()
    )


def test_statistics_come_after_the_start(
    public: Path, make_release: Callable[..., Path], tiny_study: MakeStudy
) -> None:
    """The first round sends the start, of whatever kind it is; sites would refuse anything else."""
    plain = replace(tiny_study(), statistics=type(tiny_study().statistics)(rounds=1, share=0.2))
    release = Release.open(make_release(with_start(plain, public), start=public), device=CPU)
    assert verify_release(release).faults == ()
    assert {event.kind.value for event in release.statement.events} == {"statistics", "gradients"}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"family": "gan", "options": {}}}, "model.family is 'gan'"),
        ({"model": {"family": "vae", "options": {"latent": 3}}}, "model.options is {'latent': 3}"),
        (
            {"schema": {"columns": [{"name": "age", "kind": "integer", "lower": 20, "upper": 29}], "target": "age"}},
            "age",
        ),
    ],
    ids=["family", "options", "columns"],
)
def test_weights_of_another_model_are_refused(
    public: Path, tiny_study: MakeStudy, sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(StudyError) as caught:
        with_start(tiny_study(**sections), public)
    assert said in caught.value.problem


def test_codes_that_mean_something_else_are_refused(public: Path, tiny_study: MakeStudy) -> None:
    study = tiny_study()
    columns = [dict(column) for column in study.schema["columns"]]
    columns[1]["categories"] = ["red", "blue", "green"]
    with pytest.raises(StudyError, match="Column colour"):
        with_start(replace(study, schema={**study.schema, "columns": columns}), public)


def test_other_weights_than_those_of_the_study_are_refused(public: Path, tiny_study: MakeStudy) -> None:
    study = with_start(tiny_study(), public)
    state = dict(Release.open(public, device=CPU).start or {})
    load_start(build_study_model(study), study, state)
    name = next(name for name in state if name.startswith("encoder.") and state[name].is_floating_point())
    changed = state | {name: state[name] + 1e-3}
    assert sent_hash(tiny_study(), changed) != sent_hash(tiny_study(), state)
    for wrong, said in ((changed, "the study names"), (None, "is not given")):
        with pytest.raises(StudyError, match=said):
            load_start(build_study_model(study), study, wrong)
    with pytest.raises(StudyError, match="names no weights"):
        load_start(build_study_model(study), tiny_study(), state)
    assert start_weights(study, "") is None
    other = replace(study.model.init, weights="0" * 64) if study.model.init else None
    with pytest.raises(StudyError, match="names another start"):
        with_start(replace(study, model=replace(study.model, init=other)), public)


@pytest.mark.parametrize("change", ["mark", "file", "study"])
def test_a_mark_cannot_be_put_on_or_taken_off(public: Path, tmp_path: Path, deployed: Any, change: str) -> None:
    """Checksums written anew; a signature over them would be the coordinator's own lie, in its study."""
    folder = Path(shutil.copytree(public, tmp_path / "changed"))
    if change == "mark":
        deployed.rewrite(folder, "provenance.json", lambda value: value.pop("public"))
    elif change == "file":
        (folder / "start.safetensors").unlink()
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        (folder / "SHA256SUMS").write_text("\n".join(line for line in lines if "start" not in line) + "\n")
    else:
        text = json.loads((folder / "study.json").read_text())
        del text["study"]["public"]
        (folder / "study.json").write_text(Study.from_mapping(text).text)
    deployed.seal(folder)
    with pytest.raises(ReleaseError):
        Release.open(folder, device=CPU)


def test_another_start_in_the_provenance_is_found(
    public: Path, make_release: Callable[..., Path], tiny_study: MakeStudy, deployed: Any
) -> None:
    folder = make_release(with_start(tiny_study(training={"rounds": 1}), public), start=public)
    deployed.rewrite(folder, "provenance.json", lambda value: value.pop("public_start"))
    deployed.seal(folder)
    faults = verify_release(Release.open(folder, device=CPU)).faults
    assert any("another start" in fault for fault in faults)


def test_a_job_keeps_its_start_and_begins_there(public: Path, deployment: Any, tiny_study: MakeStudy) -> None:
    study = with_start(tiny_study(training={"rounds": 2}), public)
    with deployment(study) as deployed:
        shutil.copytree(public, deployed.folder / "start")
        deployed.serve()
        sent = [
            content.array_records["vector"]
            for _, _, content in deployed.grid.contents
            if content.config_records["header"]["type"] == "round-request"
            and content.config_records["header"]["round"] == 1
        ]
    release = Release.open(deployed.folder / "release", device=CPU)
    assert verify_release(release).faults == ()
    assert study.model.init is not None
    assert {vector_hash(next(iter(record.values())).numpy()) for record in sent} == {study.model.init.sent}


def test_a_new_job_copies_its_start(public: Path, tmp_path: Path, tiny_study: MakeStudy, deployed: Any) -> None:
    from protocol.signed_study import SignedStudy

    signed = SignedStudy.sign(with_start(tiny_study(), public), deployed.coordinator)
    job = create_job(tmp_path / "studies", signed, start=public)
    assert state_hash(start_weights(signed.study, job.folder / "start") or {}) == state_hash(
        Release.open(public, device=CPU).start or {}
    )


@pytest.mark.parametrize(
    "fields",
    [{"release": "Big Census"}, {"public": ""}, {"public": "two\nlines"}, {"weights": "0" * 63}, {"sent": "X" * 64}],
)
def test_a_malformed_start_is_refused(fields: dict[str, str]) -> None:
    good = {"release": "census", "public": WHY, "weights": "0" * 64, "sent": "1" * 64}
    assert PublicStart(**good).release == "census"
    with pytest.raises(StudyError, match=next(iter(fields))):
        PublicStart(**(good | fields))


def test_why_records_are_public_is_one_line(tiny_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match=r"study\.public"):
        tiny_study(study={"public": "  "})
    assert "public" not in tiny_study().to_mapping()["study"]
    assert "init" not in tiny_study().to_mapping()["model"]
