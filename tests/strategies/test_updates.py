"""Updates: federated averaging by hand, all sites alike; a critic's local steps with fakes that a site draws itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from client.training import Trainer
from privacy.dp_sgd import clipped_gradient_sum
from privacy.plan import PrivacyPlan
from protocol.errors import WireError
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from records.dataset import Records
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


GAN: dict[str, Any] = {
    "family": "gan",
    "options": {"latent": 4, "generator_widths": [8], "critic_widths": [6], "fake_batch": 32, "critic_steps": 1},
}


def trainer_of(study: Study, records: Records) -> Trainer:
    return Trainer(PrivacyPlan.from_study(study), records, device=torch.device("cpu"))


def test_a_critic_that_trains_by_itself_gets_its_generator_beside_it(tiny_study: MakeStudy) -> None:
    """With gradients nothing but the critic travels; with updates the generator follows it, there and not back."""
    local = ServerModel(
        build_study_model(tiny_study(model=GAN, training=AVERAGING)), tiny_study(training=AVERAGING).training
    )
    gradients = ServerModel(build_study_model(tiny_study(model=GAN)), tiny_study().training)
    critic = torch.nn.utils.parameters_to_vector(local.family.shared.parameters()).detach().numpy()
    beside = torch.nn.utils.parameters_to_vector(local.family.generator.parameters()).detach().numpy()
    np.testing.assert_array_equal(gradients.weights(), critic)
    np.testing.assert_array_equal(local.weights(), np.concatenate([critic, beside]))
    assert local.dimension == gradients.dimension == len(critic)


def test_local_steps_of_a_critic_by_hand(given_noise: MakeStudy, tiny_records: Callable[..., Records]) -> None:
    """Each step follows the records' clipped gradients and those of fakes that the received generator draws."""
    study = given_noise(0.0, model=GAN, training=AVERAGING | {"update_norm": 1e6}, privacy={"sample_rate": 1.0})
    plan, records = PrivacyPlan.from_study(study), tiny_records(40)
    trainer = trainer_of(study, records)
    received = ServerModel(build_study_model(study), study.training).weights()
    received[trainer.dimension :] *= 1.5  # a generator that is not the one every site starts with
    random = DeterministicRandom(7)
    change = trainer.local_update(received, random=random)
    assert change.shape == (trainer.dimension,)

    family = build_study_model(study)
    ends = {}
    for fakes in (True, False):
        torch.nn.utils.vector_to_parameters(
            torch.tensor(received), [*family.shared.parameters(), *family.generator.parameters()]
        )
        current = received[: trainer.dimension].astype(np.float64)
        for step in range(2):
            source = random.child("step", step)
            torch.nn.utils.vector_to_parameters(torch.tensor(current).float(), family.shared.parameters())
            codes = torch.as_tensor(records.codes)
            total = clipped_gradient_sum(
                family.shared,
                lambda codes=codes: family.unit_loss(codes, generator=torch.Generator()),
                units=None,
                clip_norm=study.privacy.clip_norm,
            ).numpy()
            mean = total / plan.expected_units_per_site
            if fakes:
                made = torch.Generator().manual_seed(source.child("public").seed64() >> 1)
                mean = mean + family.public_gradient(clip_norm=study.privacy.clip_norm, generator=made).numpy()
            current = current - study.training.local_learning_rate * mean
        ends[fakes] = current - received[: trainer.dimension]
    np.testing.assert_allclose(change, ends[True], atol=1e-4)
    # The broken twin: a site that leaves the fakes out.
    assert np.abs(change - ends[False]).max() > 1e-3


@pytest.mark.parametrize("seed", [3, 4])
def test_what_a_site_sends_follows_from_noisy_sums_and_what_it_received(
    tiny_study: MakeStudy, tiny_records: Callable[..., Records], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Sites of different records whose noisy sums are the same send the same: fakes add nothing that is not public."""
    study = tiny_study(model=GAN, training=AVERAGING | {"update_norm": 1e6})
    sites = [trainer_of(study, tiny_records(count, seed=count)) for count in (40, 60)]
    received = ServerModel(build_study_model(study), study.training).weights()
    free = [site.local_update(received, random=DeterministicRandom(seed)) for site in sites]
    mechanism = type(PrivacyPlan.from_study(study).step_mechanism(sites[0].dimension))
    words = np.arange(sites[0].dimension, dtype=np.int64)
    monkeypatch.setattr(mechanism, "privatise", lambda *_, **__: words.astype(np.int32))
    fixed = [site.local_update(received, random=DeterministicRandom(seed)) for site in sites]
    np.testing.assert_array_equal(*fixed)
    assert np.abs(fixed[0]).max() > 0.0
    # The broken twin: sums of their own.
    assert np.abs(free[0] - free[1]).max() > 1e-3


def test_weights_without_the_generator_are_refused(tiny_study: MakeStudy, tiny_records: Callable[..., Records]) -> None:
    study = tiny_study(model=GAN, training=AVERAGING)
    trainer = trainer_of(study, tiny_records(10))
    with pytest.raises(WireError, match="the message"):
        trainer.local_update(np.zeros(trainer.dimension, dtype=np.float32), random=DeterministicRandom(0))


@pytest.mark.parametrize("family", ["gan", "vaegan"])
def test_a_federation_trains_its_critic_locally(
    tiny_study: MakeStudy, tiny_records: Callable[..., Records], tmp_path: Path, family: str
) -> None:
    options = GAN["options"] if family == "gan" else {"critic_widths": [6], "fake_batch": 32}
    study = tiny_study(model={"family": family, "options": options}, training=AVERAGING | {"rounds": 3})
    sent: list[int] = []

    def tap(message: Message, raw: bytes) -> None:
        del raw
        arrays = [array for record in message.content.array_records.values() for array in record.values()]
        sent.extend(array.shape[0] for array in arrays)

    parts = {"north": tiny_records(40, seed=1), "south": tiny_records(40, seed=2)}
    release = simulate(study, parts, release=tmp_path / "release", tap=tap)
    fresh = build_study_model(study)
    assert set(sent) == {sum(p.numel() for p in fresh.shared.parameters())}
    moved = [
        not torch.equal(a, b)
        for a, b in zip(release.model.generator.parameters(), fresh.generator.parameters(), strict=True)
    ]
    assert any(moved), "the generator was never trained"
