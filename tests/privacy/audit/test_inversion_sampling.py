"""Records guessed under noise, and the choice between reading and guessing."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.audit.channel.inversion import KnownRecords, Observation, invert
from privacy.audit.channel.public_inputs import offsets_of, one_hot
from privacy.audit.channel.reconstruction import right_cells
from privacy.audit.channel.span_search import InputGradient
from protocol.errors import InputError

CARDINALITIES = (4, 3, 5)
WIDTH = sum(CARDINALITIES)


def known(count: int, *, seed: int = 0) -> KnownRecords:
    """Records with skewed codes, whose gradients are their one-hot vectors, seen through a random rotation."""
    generator = np.random.default_rng(seed)
    codes = np.stack([generator.binomial(size - 1, 0.3, count) for size in CARDINALITIES], axis=1).astype(np.int32)
    return KnownRecords(codes=codes, cardinalities=CARDINALITIES, gradients=seen_as(codes))


def seen_as(codes: np.ndarray) -> np.ndarray:
    rotation = np.linalg.qr(np.random.default_rng(99).normal(size=(30, WIDTH)))[0]
    gradients: np.ndarray = (one_hot(codes, offsets_of(CARDINALITIES)) @ rotation.T / np.sqrt(3)).astype(np.float32)
    return gradients


def observed(codes: np.ndarray, noise: float, *, seed: int) -> Observation:
    """The sum of gradients with noise; no layer that shows the records by themselves."""
    generator = np.random.default_rng(seed)
    total = seen_as(codes).sum(axis=0) + generator.normal(0, noise, 30)
    hidden = InputGradient(entered=3, rows=generator.normal(size=(WIDTH, 9)))
    return Observation(vector=total.astype(np.float64), layers=[hidden], count=len(codes), noise=noise)


def share(noise: float, *, count: int, attempts: int = 12) -> float:
    """Share of cells right."""
    everything = known(300)
    right = []
    for seed in range(attempts):
        codes = known(count, seed=1000 + seed).codes
        found = invert(observed(codes, noise, seed=seed), everything, generator=np.random.default_rng(seed))
        assert not found.exact
        right.append(right_cells(codes, found.codes).mean())
    return float(np.mean(right))


@pytest.mark.parametrize(("count", "least"), [(1, 0.95), (3, 0.75)])
def test_less_noise_leaves_more_cells_right(count: int, least: float) -> None:
    little, some, great = (share(noise, count=count) for noise in (0.02, 0.4, 100.0))
    assert little > least
    assert little > some > great


def test_noise_that_is_not_there_does_not_mislead() -> None:
    """Told of a hundred times the noise that there is, the attacker does as well."""
    everything, right = known(300), []
    for seed in range(10):
        codes = known(1, seed=2000 + seed).codes
        told = replace(observed(codes, 0.02, seed=seed), noise=2.0)
        right.append(right_cells(codes, invert(told, everything, generator=np.random.default_rng(0)).codes).mean())
    assert np.mean(right) > 0.9


def test_great_noise_leaves_the_most_common_codes() -> None:
    everything, codes = known(300), known(2, seed=7).codes
    found = invert(observed(codes, 100.0, seed=0), everything, generator=np.random.default_rng(0))
    assert (found.codes == everything.most_common()).all()


def test_cells_are_those_of_the_posterior() -> None:
    """With one record the sampler has nothing to sample: its answer is that of Bayes, computed the long way."""
    everything, codes, noise = known(60), known(1, seed=8).codes, 0.4
    seen = observed(codes, noise, seed=3)
    scale = min(noise, float(np.sqrt(np.mean(seen.vector**2))))
    weights = np.array(
        [
            np.exp(-0.5 * np.sum((seen.vector - gradient.astype(float)) ** 2) / scale**2)
            for gradient in everything.gradients
        ]
    )
    best = []
    for column, size in enumerate(CARDINALITIES):
        masses = [weights[everything.codes[:, column] == code].sum() for code in range(size)]
        best.append(int(np.argmax(masses)))
    assert invert(seen, everything, generator=np.random.default_rng(0)).codes.tolist() == [best]


def test_what_can_be_read_is_not_guessed() -> None:
    codes = known(1, seed=9).codes
    rows = one_hot(codes, offsets_of(CARDINALITIES)).T @ np.array([[1.0, -0.5]])
    seen = Observation(vector=np.zeros(30), layers=[InputGradient(entered=3, rows=rows)], count=1, noise=0.0)
    found = invert(seen, known(5), generator=np.random.default_rng(0))
    assert found.exact
    assert found.codes.tolist() == codes.tolist()


def test_most_common_codes() -> None:
    codes = np.array([[0, 2, 4], [1, 2, 4], [1, 0, 0]], dtype=np.int32)
    records = KnownRecords(codes=codes, cardinalities=CARDINALITIES, gradients=seen_as(codes))
    assert records.most_common().tolist() == [1, 2, 4]


def test_gradients_must_fit() -> None:
    with pytest.raises(InputError, match="one gradient for each record"):
        KnownRecords(
            codes=np.zeros((2, 3), np.int32), cardinalities=CARDINALITIES, gradients=np.ones((1, 4), np.float32)
        )
    seen = Observation(vector=np.zeros(31), layers=[], count=1, noise=0.0)
    with pytest.raises(InputError, match="one model for both"):
        invert(seen, known(5), generator=np.random.default_rng(0))
