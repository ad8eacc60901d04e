"""A study on one machine: the real apps, true noise every time, and errors before anything is trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load_file

from client.site import _residents
from privacy.plan import PrivacyPlan
from protocol.errors import FederationError, InputError
from protocol.messages import Contribution, decode
from protocol.study import Study
from records.dataset import Records
from simulations.federation import alone, permissive_policy, simulate, with_sites

MakeStudy = Callable[..., Study]
MakeRecords = Callable[..., Records]


@pytest.fixture
def parts(tiny_records: MakeRecords) -> dict[str, Records]:
    return {"north": tiny_records(30, seed=1), "south": tiny_records(30, seed=2)}


def run(study: Study, parts: dict[str, Records], folder: Path) -> list[Contribution]:
    """Simulate, and return what left the sites."""
    sent: list[Contribution] = []

    def tap(message: Message, raw: bytes) -> None:
        del raw
        if "vector" in message.content:
            sent.append(decode(message.content, Contribution))

    simulate(study, parts, release=folder, tap=tap)
    return sent


def test_twice_the_same_study_is_one_hash_and_two_noises(
    tiny_study: MakeStudy, parts: dict[str, Records], tmp_path: Path
) -> None:
    study = tiny_study(privacy={"sample_rate": 1.0})
    first, second = (run(study, parts, tmp_path / name) for name in ("first", "second"))
    assert {each.study for each in first + second} == {study.hash}
    assert len({each.run for each in first + second}) == 2
    vectors = np.stack([each.vector for each in first + second])
    assert len(np.unique(vectors, axis=0)) == 2 * 3 * 2
    weights = [load_file(tmp_path / name / "generator.safetensors") for name in ("first", "second")]
    assert any(not np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_deterministic_noise_is_the_same_twice_which_is_why_it_is_not_private(
    without_noise: MakeStudy, parts: dict[str, Records], tmp_path: Path
) -> None:
    first, second = (run(without_noise(), parts, tmp_path / name) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.vector, other.vector)


def test_sites_draw_noise_of_their_own_in_every_round(
    without_noise: MakeStudy, tiny_records: MakeRecords, tmp_path: Path
) -> None:
    """Even from one seed: the same records at two sites, and no two vectors alike."""
    sent = run(without_noise(), {name: tiny_records(30) for name in ("north", "south")}, tmp_path / "release")
    assert len(np.unique(np.stack([each.vector for each in sent]), axis=0)) == 6


def test_a_study_given_by_its_noise_can_be_simulated(
    given_noise: MakeStudy, parts: dict[str, Records], tmp_path: Path
) -> None:
    release = simulate(given_noise(2.0), parts, release=tmp_path / "release")
    assert release.statement.private
    assert release.statement.simulated
    assert release.statement.noise_multiplier == 2.0


@pytest.mark.parametrize("sites", [1, 3])
def test_another_number_of_sites_is_refused_at_once(
    tiny_study: MakeStudy, parts: dict[str, Records], tmp_path: Path, sites: int
) -> None:
    with pytest.raises(InputError, match=f"2 sites, the study has {sites}"):
        simulate(tiny_study(federation={"sites": sites}), parts, release=tmp_path / "release")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_release_is_refused_before_training(
    tiny_study: MakeStudy, parts: dict[str, Records], tmp_path: Path
) -> None:
    seen: list[Any] = []
    with pytest.raises(InputError, match="exists"):
        simulate(tiny_study(), parts, release=tmp_path, tap=lambda *message: seen.append(message))
    assert seen == []


def test_a_failed_simulation_leaves_no_release_and_no_site(
    tiny_study: MakeStudy, parts: dict[str, Records], tmp_path: Path
) -> None:
    other = replace(parts["south"], schema=replace(parts["south"].schema, description="other"))
    with pytest.raises(FederationError, match="south"):
        simulate(tiny_study(), parts | {"south": other}, release=tmp_path / "release")
    assert list(tmp_path.iterdir()) == []
    assert _residents == {}


def test_empty_sites_take_part(tiny_study: MakeStudy, tiny_records: MakeRecords, tmp_path: Path) -> None:
    parts = {"north": tiny_records(0), "south": tiny_records(1)}
    release = simulate(tiny_study(), parts, release=tmp_path / "release")
    assert [site["contributions"] for site in release.provenance["sites"].values()] == [3, 3]


def test_a_permissive_policy_allows_the_study_once(tiny_study: MakeStudy, given_noise: MakeStudy) -> None:
    policy = permissive_policy(tiny_study())
    assert (policy.epsilon, policy.delta) == (5.0, 1e-4)
    policy = permissive_policy(given_noise(1.0))
    assert policy.epsilon == 300.0


def test_relatives_of_a_study_have_hashes_of_their_own(tiny_study: MakeStudy) -> None:
    study = tiny_study(federation={"sites": 3, "minimum_sites": 3})
    wider, single = with_sites(study, 10), alone(study, public_records=40)
    assert (wider.federation.sites, wider.federation.quorum) == (10, 10)
    assert (single.federation.sites, single.federation.public_records) == (1, 40)
    assert len({study.hash, wider.hash, single.hash}) == 3
    assert PrivacyPlan.from_study(single).noise_multiplier == PrivacyPlan.from_study(study).noise_multiplier
