"""Noise that belongs to the record: a function of key and codes, and standard normal."""

import pytest
import torch
from scipy import stats

from models.latent_noise import _mixed, record_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grid(count):
    """Records that differ little: consecutive codes in two columns."""
    return torch.stack([torch.arange(count) // 300, torch.arange(count) % 300], dim=1)


def test_the_noise_of_a_record_does_not_depend_on_the_batch():
    codes = grid(500)
    whole = record_noise(codes, 3, generator=generator())
    for rows in (torch.tensor([499]), torch.arange(499, -1, -1), torch.arange(0, 500, 7)):
        assert torch.equal(record_noise(codes[rows], 3, generator=generator()), whole[rows])


def test_a_batch_of_generator_noise_does_depend_on_it():
    whole = torch.randn(500, 3, generator=generator())
    assert not torch.equal(torch.randn(499, 3, generator=generator())[-1], whole[-1])


def test_another_step_has_other_noise():
    made = generator()
    first, second = (record_noise(grid(2000), 2, generator=made) for _ in range(2))
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.06


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_standard_normal_and_independent_across_records_and_coordinates(seed):
    noise = record_noise(grid(20_000), 4, generator=generator(seed)).double()
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-4
    assert stats.kstest(noise.flatten().numpy() * 1.05, "norm").pvalue < 1e-4
    correlations = torch.corrcoef(noise.T) - torch.eye(4)
    assert float(correlations.abs().max()) < 0.04
    for lag in (1, 300):
        assert abs(float((noise[lag:] * noise[:-lag]).mean())) < 0.02


def test_integer_types_of_codes_make_no_difference():
    codes = grid(100)
    wide = record_noise(codes, 2, generator=generator())
    for kind in (torch.int16, torch.int32):
        assert torch.equal(record_noise(codes.to(kind), 2, generator=generator()), wide)


def test_words_are_mixed_as_published():
    """SplitMix64 with seed 1234567 begins with this word (Vigna's reference program, splitmix64.c)."""
    state = torch.tensor([1234567]) + torch.tensor([-0x61C8864680B583EB])
    assert int(_mixed(state)) % 2**64 == 6457827717110365317
