"""Updates: federated averaging by hand, all sites alike; and no generator that would have to leave the server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.training import Trainer
from privacy.plan import PrivacyPlan
from protocol.errors import StudyError
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from records.dataset import Records
from server.study_run import StudyRun
from simulations.federation import simulate
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model
from strategies.table import build_strategy
from strategies.updates import FederatedUpdates

AVERAGING: dict[str, Any] = {
    "strategy": "updates", "optimiser": "sgd", "learning_rate": 1.0, "momentum": 0.0, "averaging": 0.0,
    "local_steps": 2, "rounds": 1,
}  # fmt: skip
MakeStudy = Callable[..., Study]


def strategy_of(study: Study) -> FederatedUpdates:
    model = ServerModel(build_study_model(study), study.training)
    strategy = build_strategy(PrivacyPlan.from_study(study), model)
    assert isinstance(strategy, FederatedUpdates)
    return strategy


@pytest.mark.parametrize("contributors", [1, 2])
def test_the_new_weights_are_the_mean_of_the_sites(tiny_study: MakeStudy, contributors: int) -> None:
    strategy = strategy_of(tiny_study(training=AVERAGING))
    before = strategy.model.weights()
    generator = np.random.default_rng(0)
    changes = generator.normal(0, 0.1, (contributors, len(before)))
    strategy.apply(changes.sum(axis=0), contributors=contributors, generator=torch.Generator())
    np.testing.assert_allclose(strategy.model.weights(), (before + changes).mean(axis=0), atol=1e-6)


def test_one_grid_step_is_what_sites_mean_by_it(tiny_study: MakeStudy) -> None:
    study = tiny_study(training=AVERAGING)
    strategy = strategy_of(study)
    assert strategy.step == PrivacyPlan.from_study(study).update_grid(strategy.model.dimension).step


def test_a_round_of_federated_averaging_by_hand(
    without_noise: MakeStudy, tiny_records: Callable[..., Records], tmp_path: Path
) -> None:
    """Train at both sites as they would, and average; sites weigh the same, however much they hold."""
    study = without_noise(training=AVERAGING)
    parts = {"north": tiny_records(10, seed=1), "south": tiny_records(200, seed=2)}
    start = ServerModel(build_study_model(study), study.training).weights()
    ends = []
    for name, records in parts.items():
        trainer = Trainer(PrivacyPlan.from_study(study), records, device=torch.device("cpu"))
        random = DeterministicRandom(study.training.seed).child(name, 1)
        ends.append(start + trainer.local_update(start, random=random))
    expected = build_study_model(study)
    weights = torch.tensor(np.mean(ends, axis=0), dtype=torch.float32)
    torch.nn.utils.vector_to_parameters(weights, expected.shared.parameters())
    released = simulate(study, parts, release=tmp_path / "release").model.generator.state_dict()
    for name, value in expected.generator.state_dict().items():
        np.testing.assert_allclose(released[name], value, atol=1e-5)
    assert np.abs(np.mean(ends, axis=0) - start).max() > 1e-3


def test_a_generator_that_stays_at_the_server_cannot_be_averaged(tiny_study: MakeStudy) -> None:
    study = tiny_study(model={"family": "gan", "options": {}}, training={"strategy": "updates"})
    with pytest.raises(StudyError, match="gan"):
        strategy_of(study)
    with pytest.raises(StudyError, match="gan"):
        StudyRun(None, study, device=torch.device("cpu"))  # type: ignore[arg-type]  # refused before it is used
