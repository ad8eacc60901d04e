"""A job goes on whatever happens to its processes: the same weights, one charge per round, one release."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from protocol.errors import ApprovalError, InputError
from protocol.keys import create_identity
from protocol.study import Study
from server.job import Job
from server.progress import JobState, Progress
from server.release import Release
from server.verification import verify_release

MakeStudy = Callable[..., Study]
Deploy = Callable[..., AbstractContextManager[Any]]
SIX = ("a", "b", "c", "d", "e", "f")
GAN: dict[str, Any] = {
    "family": "gan",
    "options": {"latent": 4, "generator_widths": [8], "critic_widths": [8], "fake_batch": 16, "critic_steps": 2},
}
KINDS: dict[str, dict[str, Any]] = {
    "vae-gradients": {},
    "vae-updates": {"training": {"rounds": 3, "strategy": "updates", "local_steps": 2}},
    "gan-gradients": {"model": GAN},
}
SUM: dict[str, Any] = {
    "privacy": {"trust": "sum"},
    "federation": {"sites": 6, "dropouts": 1, "minimum_sites": 6, "deadline": 5.0},
}


def progress(deployed: Any) -> Progress:
    found = Progress.read(deployed.folder / "progress.json")
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trust", ["none", "sum"])
def test_killed_at_every_few_steps_it_gives_the_same_weights(
    without_noise: MakeStudy, deployment: Deploy, kind: str, trust: str
) -> None:
    """Every process of the job is killed a little later than the one before; none begins from the start."""
    sections, names = (SUM | KINDS[kind], SIX) if trust == "sum" else (KINDS[kind], ("north", "south"))
    study = without_noise(**sections)
    with deployment(study, names) as undisturbed:
        undisturbed.serve()
    with deployment(study, names) as deployed:
        deaths = 0
        while not deployed.serve_until_step(6 + deaths // 2):
            deaths += 1
            assert deaths < 200, "it never gets on"
        assert deaths > 3, "nothing was tested"
        assert deployed.weights() == undisturbed.weights()
        assert deployed.charges() == dict.fromkeys(names, [1, 2, 3])
        assert progress(deployed).state is JobState.FINISHED


@pytest.mark.slow
def test_killed_at_any_one_step_it_gives_the_same_weights(without_noise: MakeStudy, deployment: Deploy) -> None:
    study = without_noise()
    with deployment(study) as undisturbed:
        undisturbed.serve()
    alive, ended = 0, False
    while not ended:
        with deployment(study) as deployed:
            ended = deployed.serve_until_step(alive)
            deployed.serve()
            assert deployed.weights() == undisturbed.weights(), alive
            assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2, 3]}, alive
            left = {path.name for path in deployed.folder.iterdir()}
            assert left <= {"study.json", "run.json", "checkpoint", "progress.json", "lock", "release"}, alive
        alive += 1
    assert alive > 30, "most steps were not seen"


@pytest.mark.slow
def test_killed_at_any_third_step_of_a_secure_sum(without_noise: MakeStudy, deployment: Deploy) -> None:
    study = without_noise(**SUM, training={"rounds": 2})
    with deployment(study, SIX) as undisturbed:
        undisturbed.serve()
    alive, ended = 0, False
    while not ended:
        with deployment(study, SIX) as deployed:
            ended = deployed.serve_until_step(alive)
            deployed.serve()
            assert deployed.weights() == undisturbed.weights(), alive
            assert deployed.charges() == dict.fromkeys(SIX, [1, 2]), alive
        alive += 3
    assert alive > 40, "most steps were not seen"


def test_a_job_and_a_simulation_give_the_same_weights(
    without_noise: MakeStudy, deployment: Deploy, start: Callable[..., Any]
) -> None:
    with deployment(without_noise()) as deployed:
        deployed.serve()
    with deployment(without_noise()) as simulated, simulated.grid.as_server():
        run = start(simulated.grid, simulated.study)
        run.execute()
    released = Release.open(deployed.folder / "release", device=torch.device("cpu"))
    expected = run.model.released_state()
    assert all(torch.equal(value, expected[name]) for name, value in released.model.generator.state_dict().items())


def test_the_same_round_is_asked_for_in_the_same_bytes(tiny_study: MakeStudy, deployment: Deploy) -> None:
    """Also with real noise, and the generator's own draws: they follow from run and round."""
    with deployment(tiny_study(model=GAN)) as deployed:
        deaths = 0
        while not deployed.serve_until_step(14 + deaths):
            deaths += 1
        assert deaths
        asked: dict[tuple[int, int], set[str]] = {}
        for node, _, content in deployed.grid.contents:
            header = content.config_records["header"]
            if header["type"] == "round-request":
                asked.setdefault((node, header["round"]), set()).add(content.array_records["vector"].object_id)
    assert set(asked) == {(node, number) for node in (2, 3) for number in (1, 2, 3)}
    assert all(len(ids) == 1 for ids in asked.values())


def test_a_release_is_signed_and_made_once(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study()) as deployed:
        deployed.serve()
        before, pushed = deployed.weights(), len(deployed.grid.pushed)
        deployed.serve()
    assert (deployed.weights(), len(deployed.grid.pushed)) == (before, pushed)
    release = Release.open(deployed.folder / "release", device=torch.device("cpu"))
    assert release.coordinator == deployed.key.public_key().public_bytes_raw().hex()
    assert any(release.coordinator in sentence for sentence in verify_release(release).passed)
    assert release.provenance["simulated"] is False
    assert release.provenance["run"] == json.loads((deployed.folder / "run.json").read_text())["run"]
    assert release.provenance["sites"].keys() == {"north", "south"}


def test_a_release_that_is_there_ends_the_job(tiny_study: MakeStudy, deployment: Deploy) -> None:
    """Killed after the release was written and before anybody was told."""
    with deployment(tiny_study()) as deployed:
        deployed.serve()
        (deployed.folder / "progress.json").unlink()
        deployed.serve()
        assert progress(deployed).state is JobState.FINISHED
        assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2, 3]}


def test_a_second_server_on_the_same_job_ends_at_once(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study()) as deployed:
        job = Job.open(deployed.folder)
        assert not job.held
        with job.at_work() as wanted:
            assert wanted
            assert Job.open(deployed.folder).held
            deployed.serve()
            assert deployed.grid.pushed == []
        assert not job.held


def test_the_operator_may_stop_between_rounds_and_go_on(without_noise: MakeStudy, deployment: Deploy) -> None:
    with deployment(without_noise()) as undisturbed:
        undisturbed.serve()
    with deployment(without_noise()) as deployed:

        def stop_in_round_two(_: int) -> None:
            if deployed.charges()["south"] == [1, 2]:
                (deployed.folder / "stop").touch()

        deployed.grid.on_idle = stop_in_round_two
        deployed.serve()
        assert progress(deployed).state is JobState.STOPPED
        assert not (deployed.folder / "release").exists()
        pushed = len(deployed.grid.pushed)
        deployed.serve()
        assert len(deployed.grid.pushed) == pushed, "a stopped job asks nobody"
        deployed.grid.on_idle = lambda _: None
        (deployed.folder / "stop").unlink()
        deployed.serve()
        assert progress(deployed).state is JobState.FINISHED
        assert deployed.weights() == undisturbed.weights()
        assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2, 3]}


def test_the_operator_may_stop_while_sites_are_waited_for(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study()) as deployed:
        deployed.grid.away = {2, 3}
        messages = []

        def stop_soon(node: Any) -> list[Any]:
            del node
            messages.append(1)
            if len(messages) == 5:
                (deployed.folder / "stop").touch()
            return []

        deployed.grid.get_nodes = lambda: stop_soon(None)
        deployed.serve()
        found = progress(deployed)
    assert found.state is JobState.STOPPED
    assert dict(found.sites) == {"north": "away", "south": "away"}


def test_what_cannot_go_on_fails_for_good(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study()) as deployed:
        deployed.serve_until_step(30)
        for path in (deployed.folder / "checkpoint").iterdir():
            path.write_bytes(b"rubbish")
        with pytest.raises(InputError, match="no checkpoint is whole"):
            deployed.serve()
        assert progress(deployed).state is JobState.FAILED
        assert Job.open(deployed.folder).failed
        pushed = len(deployed.grid.pushed)
        deployed.serve()
        assert len(deployed.grid.pushed) == pushed


def test_a_full_disk_ends_a_process_and_not_the_job(
    without_noise: MakeStudy, deployment: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deployment(without_noise()) as undisturbed:
        undisturbed.serve()
    with deployment(without_noise()) as deployed:
        fsync = __import__("os").fsync

        def full(descriptor: int) -> None:
            if not deployed.grid.delivering and deployed.charges()["south"] == [1, 2]:
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(InputError, match="No space left"):
                deployed.serve()
        assert progress(deployed).state is JobState.WAITING
        deployed.serve()
        assert deployed.weights() == undisturbed.weights()
        assert deployed.charges() == {"north": [1, 2, 3], "south": [1, 2, 3]}


def test_a_study_that_another_signed_is_refused(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study()) as deployed:
        path = deployed.folder.parent.parent / "key.pem"
        path.unlink()
        create_identity(path)
        with pytest.raises(ApprovalError, match="signed by"):
            deployed.serve()
        assert deployed.grid.pushed == []


def test_a_folder_that_is_no_job_is_named(tmp_path: Path) -> None:
    create_identity(tmp_path / "key.pem")
    with pytest.raises(InputError, match=r"study\.json"):
        Job.open(tmp_path / "studies" / "none")


def test_the_run_is_named_once(tiny_study: MakeStudy, deployment: Deploy) -> None:
    with deployment(tiny_study()) as deployed:
        first = Job.open(deployed.folder)
        assert Job.open(deployed.folder).run == first.run
        assert Job.open(deployed.folder).warrant == first.warrant
        (deployed.folder / "run.json").write_text('{"version": 1, "run": "short"}')
        with pytest.raises(InputError, match="malformed"):
            _ = Job.open(deployed.folder).run
