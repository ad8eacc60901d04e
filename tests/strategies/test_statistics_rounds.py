"""Rounds of statistics, from the sites' records to what the family learns."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privacy.plan import PrivacyPlan
from protocol.errors import StudyError
from protocol.study import Study
from protocol.terms import ContributionKind
from records.dataset import Records
from server.release import Release
from simulations.federation import simulate
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model, check_statistics
from strategies.table import build_strategy

MakeStudy = Callable[..., Study]
MakeRecords = Callable[..., Records]
NAMES = ("a", "b", "c", "d", "e")
WIDTH = 10 + 4 + 2
pytestmark = pytest.mark.usefixtures("tally")


def noiseless(study: Study) -> Study:
    return replace(study, privacy=replace(study.privacy, epsilon=None, noise_multiplier=0.0))


def study_of(tiny_study: MakeStudy, *, trust: str, alone: bool = False, rounds: int = 2, **sections: Any) -> Study:
    """Five sites of a hundred public records in all; statistics before three rounds of training, or alone."""
    training = {"strategy": "statistics", "rounds": rounds} if alone else {"rounds": 3}
    mapping = tiny_study(
        model={"family": "tally", "options": {}},
        training=training,
        privacy={"trust": trust, "sample_rate": 1.0 if alone else 0.5},
        federation={"sites": 5, "public_records": 100} | ({"dropouts": 1} if trust == "sum" else {}),
    ).to_mapping()
    if not alone:
        mapping["statistics"] = {"rounds": rounds, "share": 0.2}
    for name, section in sections.items():
        mapping[name] = mapping.get(name, {}) | section
    return Study.from_mapping(mapping)


def checked(study: Study) -> None:
    """What every run begins with, and ``cloister study check`` too."""
    check_statistics(study, build_study_model(study))


def histogram(parts: dict[str, Records]) -> np.ndarray:
    """The obviously right counts of every column, one behind the other."""
    codes = np.concatenate([part.codes for part in parts.values()])
    return np.concatenate([np.bincount(codes[:, j], minlength=size) for j, size in enumerate((10, 4, 2))])


def run(study: Study, parts: dict[str, Records], folder: Path, **more: Any) -> Release:
    return simulate(study, parts, release=folder, **more)


@pytest.mark.parametrize("trust", ["none", "sum"])
@pytest.mark.parametrize("alone", [False, True])
def test_without_noise_the_family_learns_the_exact_histogram(
    tiny_study: MakeStudy, tiny_records: MakeRecords, tmp_path: Path, trust: str, alone: bool
) -> None:
    parts = {name: tiny_records(20 + seed, seed=seed) for seed, name in enumerate(NAMES)}
    study = noiseless(study_of(tiny_study, trust=trust, alone=alone))
    released = run(study, parts, tmp_path / "release")
    state = released.model.state_dict()
    # A grid step of the sum, and the margin of the clip, are all that is between them.
    assert state["counts"].numpy() * 100 == pytest.approx(histogram(parts), abs=2e-3)
    first = sum(part.codes[:, 0].sum() / 10 for part in parts.values())
    assert state["second"].numpy() * 100 == pytest.approx([0.5 * first, 110.0], abs=2e-3), "the weight came to sites"
    assert state["deviations"].tolist() == [0.0, 0.0]
    assert released.provenance["rounds"] == study.rounds == (2 if alone else 5)
    assert not released.statement.private


def test_training_goes_on_from_what_the_statistics_set(
    tiny_study: MakeStudy, tiny_records: MakeRecords, tmp_path: Path
) -> None:
    parts = {name: tiny_records(20, seed=seed) for seed, name in enumerate(NAMES)}
    study = noiseless(study_of(tiny_study, trust="none", training={"rounds": 1, "learning_rate": 1e-6}))
    released = run(study, parts, tmp_path / "release")
    assert released.model.state_dict()["layer.bias"][0] == pytest.approx(0.5, abs=1e-4)


def test_a_person_counts_once_however_many_records_there_are(
    tiny_study: MakeStudy, tiny_records: MakeRecords, tmp_path: Path
) -> None:
    mapping = study_of(tiny_study, trust="none", alone=True, rounds=1).to_mapping()
    mapping["schema"]["person"] = "who"
    mapping["privacy"]["unit"] = "person"
    study = noiseless(Study.from_mapping(mapping))
    parts = {}
    for seed, name in enumerate(NAMES):
        records = tiny_records(12, seed=seed)
        persons = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 3])
        parts[name] = replace(records, persons=persons, schema=replace(records.schema, person="who"))
    released = run(study, parts, tmp_path / "release")
    expected = np.zeros(WIDTH)
    for part in parts.values():
        for person in range(4):
            own = {"one": replace(part, codes=part.codes[part.persons == person], persons=None)}
            expected += histogram(own) / np.sum(part.persons == person)
    assert released.model.state_dict()["counts"].numpy() * 100 == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("trust", ["none", "sum"])
def test_what_is_released_has_the_noise_that_the_plan_says(
    tiny_study: MakeStudy, tiny_records: MakeRecords, tmp_path: Path, trust: str
) -> None:
    """No records: what is learnt is noise alone. Ten runs of sixteen coordinates."""
    study = study_of(tiny_study, trust=trust, alone=True, rounds=1)
    plan = PrivacyPlan.from_study(study)
    parts = {name: tiny_records(0) for name in NAMES}
    states = [run(study, parts, tmp_path / str(number)).model.state_dict() for number in range(10)]
    noise = np.stack([state["counts"].numpy() for state in states])
    told = float(states[0]["deviations"][0])
    # By hand: sensitivity sqrt(3) over 100 units; five whole noises, or five shares of which three make the whole.
    whole = plan.noise_multiplier * 3**0.5 / 100
    by_hand = whole * 5**0.5 if trust == "none" else whole * (5 / 3) ** 0.5
    assert told == pytest.approx(by_hand, rel=0.01)
    measured = float(np.sqrt(np.mean(noise**2)))
    spread = told / (2 * noise.size) ** 0.5
    assert abs(measured - told) < 4.5 * spread
    # The broken twin says the noise of one site where five were added.
    assert abs(measured - told / 5**0.5) > 4.5 * spread


def test_a_family_that_knows_fewer_rounds_refuses_more(tiny_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match="statistics.rounds is 3, and the family 'tally' has a use for 2"):
        checked(study_of(tiny_study, trust="none", rounds=3))
    with pytest.raises(StudyError, match="training.rounds is 3, and the family 'tally' has a use for 2"):
        checked(study_of(tiny_study, trust="none", alone=True, rounds=3))


def test_a_family_that_learns_nothing_from_statistics_refuses_them(
    tiny_study: MakeStudy, tally: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "statistics", None)
    with pytest.raises(StudyError, match="learns nothing from statistics"):
        checked(study_of(tiny_study, trust="none"))


def test_the_average_begins_anew_after_statistics(tiny_study: MakeStudy) -> None:
    study = study_of(tiny_study, trust="none")
    model = ServerModel(build_study_model(study), study.training)
    generator = torch.Generator().manual_seed(0)
    model.step(torch.ones(model.dimension, dtype=torch.float64), generator=generator)
    strategy = build_strategy(PrivacyPlan.from_study(study), model, number=1)
    assert (strategy.kind, strategy.dimension) == (ContributionKind.STATISTICS, WIDTH)
    strategy.apply(np.ones(WIDTH), contributors=5, generator=generator)
    current = {name: value.clone() for name, value in model.family.generator.state_dict().items()}
    for name, value in model.released_state().items():
        assert torch.equal(value, current[name]), name


def test_missing_sites_shrink_the_divisor_and_so_enlarge_the_noise(tiny_study: MakeStudy) -> None:
    study = study_of(tiny_study, trust="none")
    model = ServerModel(build_study_model(study), study.training)
    plan = PrivacyPlan.from_study(study)
    found = {}
    for contributors in (5, 3):
        build_strategy(plan, model, number=1).apply(
            np.ones(WIDTH), contributors=contributors, generator=torch.Generator()
        )
        state = model.family.state_dict()
        found[contributors] = float(state["counts"][0]), float(state["deviations"][0])
    assert found[3][0] == pytest.approx(found[5][0] * 5 / 3)
    assert found[3][1] == pytest.approx(found[5][1] * (3 / 5) ** 0.5 * 5 / 3)
