"""The noise is really in what leaves the site: right scale on every tensor, fresh in every contribution.

The exact value comes from a twin of the study without noise. All units are sampled and the critic has no draws of
its own, so that noise is all in which two contributions to the same weights differ. Limits are five standard
errors.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest

import privacy.mechanisms.gaussian as gaussian
from client.site import Site
from models.gan import AdversarialNetwork
from privacy.plan import PrivacyPlan
from protocol.messages import RoundRequest
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from strategies.study_model import build_study_model

ROUNDS = 80
CLIP_NORM = 0.3
MULTIPLIER = 6.0
Residuals = Callable[[str], tuple[NDArray[np.float64], list[int]]]


@pytest.fixture
def residuals(
    monkeypatch: pytest.MonkeyPatch, given_noise: Callable[..., Study], make_site: Callable[..., Site],
    ask: Callable[..., Any], first_request: Callable[..., RoundRequest],
) -> Residuals:  # fmt: skip
    """Return a function that gives noise over planned sigma, ``[rounds, d]``, and the sizes of the tensors."""

    # A site that trains by itself adds the gradient of fresh fakes to every step: left out, where noise is measured.
    monkeypatch.setattr(AdversarialNetwork, "public_gradient", lambda *_, **__: None)

    def study_of(multiplier: float, strategy: str) -> Study:
        training = {"rounds": ROUNDS, "strategy": strategy, "local_steps": 1, "local_learning_rate": 1.0}
        return given_noise(
            multiplier,
            model={"family": "gan", "options": {"critic_widths": [6]}},
            training=training | {"update_norm": 1000.0},
            privacy={"sample_rate": 1.0, "clip_norm": CLIP_NORM},
        )

    def contributions(study: Study, rounds: int) -> NDArray[np.float64]:
        site, plan, size = make_site(study), PrivacyPlan.from_study(study), shared_size(study)
        updates = study.training.strategy == "updates"
        grid = plan.update_grid(size) if updates else plan.step_mechanism(size).grid
        requests = [first_request(study, round=number) for number in range(1, rounds + 1)]
        answers = [ask(site, r, message_type=f"train.{study.training.strategy}") for r in requests]
        return np.stack([grid.dequantise(answer.vector) for answer in answers])

    def measure(strategy: str) -> tuple[NDArray[np.float64], list[int]]:
        noisy = study_of(MULTIPLIER, strategy)
        exact = contributions(study_of(0.0, strategy), 2)
        np.testing.assert_array_equal(exact[0], exact[1])
        # One local step divides by the 50 units that are expected at each of the two sites.
        sigma = MULTIPLIER * CLIP_NORM / (50.0 if strategy == "updates" else 1.0)
        shared = build_study_model(noisy).shared
        return (contributions(noisy, ROUNDS) - exact[0]) / sigma, [p.numel() for p in shared.parameters()]

    return measure


def shared_size(study: Study) -> int:
    return sum(weight.numel() for weight in build_study_model(study).shared.parameters())


def faults(noise: NDArray[np.float64], sizes: list[int]) -> list[str]:
    """Say what is wrong with what should be independent standard normal numbers."""
    found = []
    ends = np.cumsum(sizes)
    for number, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        part = noise[:, start:end].ravel()
        if abs(np.mean(part**2) - 1) > 5 * np.sqrt(2 / part.size):
            found.append(f"tensor {number} has {np.std(part):.2f} times the planned noise")
        if abs(part.mean()) > 5 * np.std(part) / np.sqrt(part.size):
            found.append(f"tensor {number} is shifted by {part.mean():.3f}")
        if np.std(part) > 0 and kstest(part / np.std(part), "norm").pvalue < 1e-6:
            found.append(f"tensor {number} is not normal")
    again = np.sum(noise[1:] * noise[:-1]) / np.sqrt(noise[1:].size)
    if abs(again) > 5:
        found.append("contributions repeat noise")
    covariance = noise.T @ noise / np.sqrt(len(noise))
    if np.abs(np.triu(covariance, 1)).max() > 7:
        found.append("coordinates share noise")
    return found


@pytest.mark.parametrize("strategy", ["gradients", "updates"])
def test_every_tensor_gets_the_planned_noise_afresh(residuals: Residuals, strategy: str) -> None:
    noise, sizes = residuals(strategy)
    assert len(sizes) == 4
    assert faults(noise, sizes) == []
    assert len(np.unique(noise, axis=0)) == len(noise)


def halved(*args: Any, **kwargs: Any) -> Any:
    return ORIGINAL(*args, **kwargs) // 2


def seeded(size: int, *, sigma: float, random: Any) -> Any:
    del random
    return ORIGINAL(size, sigma=sigma, random=DeterministicRandom(0))


def one_for_all(size: int, *, sigma: float, random: Any) -> Any:
    return np.full(size, ORIGINAL(1, sigma=sigma, random=random)[0])


def without_last(size: int, **kwargs: Any) -> Any:
    noise = ORIGINAL(size, **kwargs)
    noise[-1:] = 0
    return noise


def without_first_layer(size: int, **kwargs: Any) -> Any:
    noise = ORIGINAL(size, **kwargs)
    noise[: size // 2] = 0
    return noise


def uniform(size: int, *, sigma: float, random: Any) -> Any:
    return ((random.uniform(size) - 0.5) * sigma * np.sqrt(12)).astype(np.int64)


ORIGINAL = gaussian.sample_discrete_gaussian


@pytest.mark.parametrize(
    ("strategy", "twin", "fault"),
    [
        ("gradients", halved, "tensor 0 has 0."),
        ("gradients", seeded, "contributions repeat noise"),
        ("gradients", one_for_all, "coordinates share noise"),
        ("gradients", without_last, "tensor 3 has 0.00 times"),
        ("gradients", without_first_layer, "tensor 0 has"),
        ("gradients", uniform, "tensor 0 is not normal"),
        ("updates", halved, "tensor 0 has 0."),
        ("updates", seeded, "contributions repeat noise"),
    ],
)
def test_broken_noise_is_found(
    residuals: Residuals, monkeypatch: pytest.MonkeyPatch, strategy: str, twin: Any, fault: str
) -> None:
    monkeypatch.setattr(gaussian, "sample_discrete_gaussian", twin)
    found = faults(*residuals(strategy))
    assert any(problem.startswith(fault) for problem in found), found
