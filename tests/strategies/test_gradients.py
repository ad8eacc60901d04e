"""Gradients: the divisor is public, whatever sites hold; and a federation is the training on its pooled records."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.site import Site
from client.training import Trainer
from privacy.plan import PrivacyPlan
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from protocol.terms import NoiseOrigin
from records.dataset import Records
from simulations.comparison import concatenate
from simulations.federation import simulate, with_sites
from strategies.gradients import GradientDescent
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model
from strategies.table import build_strategy

PLAIN: dict[str, Any] = {"optimiser": "sgd", "learning_rate": 0.5, "momentum": 0.0, "averaging": 0.0}
MakeStudy = Callable[..., Study]
MakeRecords = Callable[..., Records]


def strategy_of(study: Study) -> GradientDescent:
    model = ServerModel(build_study_model(study), study.training)
    strategy = build_strategy(PrivacyPlan.from_study(study), model)
    assert isinstance(strategy, GradientDescent)
    return strategy


@pytest.mark.parametrize(("contributors", "divisor"), [(2, 50.0), (1, 25.0)])
def test_the_divisor_is_the_expected_number_of_units_at_the_sites_that_are_there(
    tiny_study: MakeStudy, contributors: int, divisor: float
) -> None:
    strategy = strategy_of(tiny_study(training=PLAIN))
    before = strategy.model.weights()
    total = np.linspace(-1, 1, strategy.model.dimension)
    strategy.apply(total, contributors=contributors, generator=torch.Generator())
    np.testing.assert_allclose(before - strategy.model.weights(), 0.5 * total / divisor, atol=1e-6)


def test_one_grid_step_is_what_sites_mean_by_it(tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    study = tiny_study()
    strategy = strategy_of(study)
    trainer = Trainer(PrivacyPlan.from_study(study), tiny_records(3), device=torch.device("cpu"))
    mechanism = PrivacyPlan.from_study(study).step_mechanism(trainer.dimension)
    assert mechanism.grid.dimension == strategy.model.dimension
    assert strategy.step == mechanism.grid.step


def test_the_divisor_does_not_change_with_the_records(
    given_noise: MakeStudy, tiny_records: MakeRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = given_noise(0.0, training=PLAIN | {"rounds": 1}, privacy={"sample_rate": 1.0})
    ratios = []
    apply = GradientDescent.apply

    def watched(self: GradientDescent, total: np.ndarray, **rest: Any) -> None:
        before = self.model.weights()
        apply(self, total, **rest)
        moved = before - self.model.weights()
        ratios.append(float(np.linalg.norm(0.5 * total) / np.linalg.norm(moved)))

    monkeypatch.setattr(GradientDescent, "apply", watched)
    for count in (1, 40, 300):
        parts = {"north": tiny_records(count, seed=1), "south": tiny_records(2, seed=2)}
        simulate(study, parts, release=tmp_path / str(count))
    np.testing.assert_allclose(ratios, 100.0, rtol=1e-3)


@pytest.mark.parametrize(("family", "options"), [("vae", {}), ("gan", {"critic_steps": 1, "generator_rate": 0.01})])
def test_a_federation_is_training_on_the_pooled_records(
    given_noise: MakeStudy, tiny_records: MakeRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    family: str, options: dict[str, Any],
) -> None:  # fmt: skip
    """Nobody is left out by sampling, nothing is blurred, and latent draws belong to the record."""
    study = given_noise(
        0.0,
        model={"family": family, "options": options},
        training=PLAIN | {"rounds": 5},
        privacy={"sample_rate": 1.0},
    )
    study = replace(study, privacy=replace(study.privacy, noise=NoiseOrigin.DETERMINISTIC))

    def same_for_all(self: Site, study: Study, *, run: str, number: int) -> DeterministicRandom:
        del self, run
        return DeterministicRandom(study.training.seed).child(number)

    received: list[np.ndarray] = []
    gradient_sum = Trainer.gradient_sum

    def watched(self: Trainer, weights: np.ndarray, **rest: Any) -> np.ndarray:
        received.append(weights)
        return gradient_sum(self, weights, **rest)

    monkeypatch.setattr(Site, "random", same_for_all)
    monkeypatch.setattr(Trainer, "gradient_sum", watched)
    parts = {"north": tiny_records(30, seed=1), "south": tiny_records(70, seed=2)}
    last = []
    for name, sites in (
        ("together", parts),
        ("pooled", {"pool": concatenate(list(parts.values()))}),
        ("half", {"pool": parts["north"]}),
    ):
        simulate(with_sites(study, len(sites)), sites, release=tmp_path / name)
        last.append(received[-1])
    # The weights that the last round starts from: four steps were taken.
    together, pooled, half = last
    assert np.abs(together - received[0]).max() > 1e-2, "nothing was learnt: the comparison proves nothing"
    np.testing.assert_allclose(together, pooled, atol=1e-5)
    assert np.abs(together - half).max() > 1e-3
