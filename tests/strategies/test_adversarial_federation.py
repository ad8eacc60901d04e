"""The adversarial family end to end: the critic is the only thing that travels, either way."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from client.training import Trainer
from protocol.study import Study
from records.dataset import Records
from server.release import Release
from simulations.federation import simulate
from strategies.study_model import build_study_model


@pytest.mark.parametrize("critic_steps", [1, 2])
def test_the_critic_is_the_only_thing_that_travels(
    tiny_study: Callable[..., Study], tiny_records: Callable[..., Records], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, critic_steps: int,
) -> None:  # fmt: skip
    options = {"critic_steps": critic_steps, "critic_widths": [8], "generator_widths": [8]}
    study = tiny_study(model={"family": "gan", "options": options}, training={"rounds": 4})
    fresh = build_study_model(study)
    critic = sum(p.numel() for p in fresh.critic.parameters())
    assert critic != sum(p.numel() for p in fresh.generator.parameters())

    received: list[np.ndarray] = []
    sent: list[int] = []
    original = Trainer.gradient_sum

    def watched(self: Trainer, weights: np.ndarray, **rest: Any) -> np.ndarray:
        received.append(weights)
        return original(self, weights, **rest)

    def tap(message: Message, raw: bytes) -> None:
        del raw
        arrays = [array for record in message.content.array_records.values() for array in record.values()]
        sent.extend(array.shape[0] for array in arrays)

    monkeypatch.setattr(Trainer, "gradient_sum", watched)
    parts = {"north": tiny_records(40, seed=1), "south": tiny_records(40, seed=2)}
    release = simulate(study, parts, release=tmp_path / "release", tap=tap)

    assert {len(weights) for weights in received} == {critic}
    assert set(sent) == {critic}
    first = torch.nn.utils.parameters_to_vector(fresh.critic.parameters()).detach().numpy()
    np.testing.assert_array_equal(received[0], first)
    assert not np.array_equal(received[0], received[-1])

    opened = Release.open(tmp_path / "release", device=torch.device("cpu"))
    assert set(opened.model.generator.state_dict()) == set(fresh.generator.state_dict())
    moved = [
        not torch.equal(a, b)
        for a, b in zip(opened.model.generator.parameters(), fresh.generator.parameters(), strict=True)
    ]
    assert any(moved), "the generator was never trained"
    codes = np.concatenate(list(release.sample_codes(200, allowed={}, seed=0)))
    assert codes.shape == (200, 3)
    assert (codes.max(axis=0) < release.schema.cardinalities).all()
    assert release.statement.private


def test_released_counts_reach_the_generator(
    given_noise: Callable[..., Study], tiny_records: Callable[..., Records], tmp_path: Path
) -> None:
    """One statistics round before a single round of training: who is ill at what age is met; without it, it is not."""
    parts = {"north": tiny_records(400, seed=1), "south": tiny_records(400, seed=2)}
    codes = np.concatenate([records.codes for records in parts.values()])
    options = {"critic_widths": [4], "generator_widths": [32], "fake_batch": 256, "table_steps": 300}
    distances = []
    for rounds in (1, 0):
        study = given_noise(0.0, model={"family": "gan", "options": options}, training={"rounds": 1})
        if rounds:
            study = replace(study, statistics=replace(study.statistics, rounds=1, share=0.5))
        release = simulate(study, parts, release=tmp_path / str(rounds))
        drawn = np.concatenate(list(release.sample_codes(4000, allowed={}, seed=0)))
        distances.append(distance(drawn[:, 0] * 3 + drawn[:, 2], codes[:, 0] * 3 + codes[:, 2]))
    told, untold = distances
    assert told < 0.1
    assert told < 0.3 * untold


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation distance of two columns of codes."""
    shares = [np.bincount(each, minlength=40) / len(each) for each in (one, other)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)
