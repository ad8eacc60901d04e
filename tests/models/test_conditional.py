"""Conditional sampling against the exact conditional distribution of a small table."""

import itertools

import pytest
import torch
from scipy import stats

import models.conditional
from models.conditional import Rows, sample_complete, sample_where
from models.families import build_family
from protocol.errors import InputError

CARDINALITIES = (3, 2, 4)
RECORDS = torch.tensor(list(itertools.product(*(range(size) for size in CARDINALITIES))))
CONDITION = {1: torch.tensor([False, True]), 2: torch.tensor([True, False, False, True])}
COUNT = 6000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_vae(*, scale=1.5, bias=0.0):
    """Random weights; ``bias`` makes the second code of the second column rarer."""
    family = build_family("vae", {"latent": 1}, cardinalities=CARDINALITIES, label=None)
    made = generator(3)
    with torch.no_grad():
        for parameter in family.decoder.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=made))
        family.decoder.shapes.weight[family.layout.offsets[1] :][:2, 0] += torch.tensor([bias, -bias])
    return family


def exact(family, allowed):
    """p(x | condition) by integrating over the latent and summing over all records."""
    z = torch.linspace(-8.0, 8.0, 2001)
    prior = torch.exp(-z.square() / 2)
    with torch.no_grad():
        losses = [family.decoder.negative_log_likelihood(r.expand(2001, 3), z[:, None]) for r in RECORDS]
    mass = torch.stack([((-loss).exp() * prior).double().sum() for loss in losses])
    for column, mask in allowed.items():
        mass = mass * mask[RECORDS[:, column]]
    return mass / mass.sum()


def p_value(codes, distribution):
    """Chi-square test of drawn codes, rare cells together."""
    place = (codes * torch.tensor([8, 4, 1])).sum(dim=1)
    observed, expected = torch.bincount(place, minlength=24).double(), distribution * len(codes)
    assert float(observed[expected == 0].sum()) == 0.0
    often = expected >= 5
    observed = torch.cat([observed[often], observed[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    keep = expected > 0
    return stats.chisquare(observed[keep].numpy(), expected[keep].numpy()).pvalue


def test_rejection_draws_the_exact_conditional():
    family = random_vae()
    rows = sample_where(family, COUNT, allowed=CONDITION, generator=generator())
    assert rows.shape == (COUNT, 3)
    assert rows.dtype == torch.long
    assert p_value(rows, exact(family, CONDITION)) > 1e-4


def test_ignoring_the_weights_is_found_out():
    family = random_vae()
    rows = family.draw(COUNT, allowed=CONDITION, generator=generator())[0]
    assert p_value(rows, exact(family, CONDITION)) < 1e-10


def test_resampling_is_close_to_the_conditional(monkeypatch):
    family = random_vae()
    monkeypatch.setattr(models.conditional, "_rejects_well", lambda _: False)
    rows = sample_where(family, COUNT, allowed=CONDITION, generator=generator(), batch=4096)
    # Rows of one pool are not independent: every third of them is nearly so.
    assert p_value(rows[::3], exact(family, CONDITION)) > 1e-4


def test_rare_conditions_are_resampled_and_still_right():
    family = random_vae(bias=4.0)
    weight = family.draw(20_000, allowed=CONDITION, generator=generator())[1]
    assert float(weight.exp().mean()) < models.conditional.LEAST_ACCEPTANCE
    rows = sample_where(family, 2000, allowed=CONDITION, generator=generator())
    assert p_value(rows[::3], exact(family, CONDITION)) > 1e-4
    unweighted = family.draw(2000, allowed=CONDITION, generator=generator())[0]
    assert p_value(unweighted[::3], exact(family, CONDITION)) < 1e-8


def test_no_condition_is_a_plain_draw():
    family = random_vae()
    rows = sample_where(family, 5000, allowed={}, generator=generator(), batch=512)
    assert p_value(rows, exact(family, {})) > 1e-4
    alone = family.draw(300, allowed={}, generator=generator())[0]
    assert torch.equal(sample_where(family, 300, allowed={}, generator=generator(), batch=512), alone)


@pytest.mark.parametrize("allowed", [{}, CONDITION])
def test_counts_are_met_and_seeds_repeat(allowed):
    family = random_vae()
    for count in (0, 1, 257):
        first, second = (
            sample_where(family, count, allowed=allowed, generator=generator(4), batch=64) for _ in range(2)
        )
        assert first.shape == (count, 3)
        assert torch.equal(first, second)


def test_conditions_without_probability_are_refused(monkeypatch):
    monkeypatch.setattr(models.conditional, "_POOL_DRAWS", 1 << 15)
    with pytest.raises(InputError, match=r"columns \[1, 2\] nearly no probability.*Widen"):
        sample_where(random_vae(bias=200.0), 10, allowed=CONDITION, generator=generator(), batch=1024)
    # A few lucky rows are not enough either: the pool must be worth several times the rows asked for.
    with pytest.raises(InputError, match="draws are worth"):
        sample_where(random_vae(bias=30.0, scale=6.0), 8000, allowed=CONDITION, generator=generator(), batch=1024)


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({3: torch.ones(2, dtype=torch.bool)}, "column 3.*0 to 2"),
        ({-1: torch.ones(2, dtype=torch.bool)}, "column -1"),
        ({1: torch.ones(3, dtype=torch.bool)}, r"boolean mask \[2\]"),
        ({1: torch.ones(2)}, "float32"),
        ({1: torch.zeros(2, dtype=torch.bool)}, "allows no code"),
    ],
)
def test_masks_that_do_not_fit_are_refused(allowed, message):
    with pytest.raises(InputError, match=message):
        sample_where(random_vae(), 5, allowed=allowed, generator=generator())


@pytest.mark.parametrize(("count", "batch"), [(-1, 10), (5, 0)])
def test_counts_out_of_range_are_refused(count, batch):
    with pytest.raises(InputError, match="records in batches"):
        sample_where(random_vae(), count, allowed={}, generator=generator(), batch=batch)


def test_effective_size_of_equal_and_of_one_sided_weights():
    assert models.conditional._effective_size(torch.full((50,), -700.0, dtype=torch.float64)) == pytest.approx(50)
    lonely = torch.tensor([0.0, -1000.0, -1000.0], dtype=torch.float64)
    assert models.conditional._effective_size(lonely) == pytest.approx(1)
    assert models.conditional._effective_size(torch.tensor([float("-inf")] * 2)) == 0.0


def completing(codes, *, most=6):
    """Rows stand whose codes add up to something small; what is written beside them is the sum."""
    total = codes.sum(dim=1)
    return Rows(codes, total[:, None].double(), total <= most)


def exact_completed(family, allowed, most):
    mass = exact(family, allowed) * (RECORDS.sum(dim=1) <= most)
    return mass / mass.sum()


@pytest.mark.parametrize("allowed", [{}, CONDITION])
@pytest.mark.parametrize("rejects", [True, False])
def test_rows_follow_the_model_given_that_they_stand(allowed, rejects, monkeypatch):
    family = random_vae()
    monkeypatch.setattr(models.conditional, "_rejects_well", lambda _: rejects)
    rows, values = sample_complete(
        family, COUNT, allowed=allowed, complete=lambda c: completing(c, most=2), generator=generator(), batch=4096
    )
    assert rows.shape == (COUNT, 3)
    assert torch.equal(values[:, 0], rows.sum(dim=1).double())
    step = 1 if rejects else 3  # rows of one pool are not independent
    assert p_value(rows[::step], exact_completed(family, allowed, 2)) > 1e-4
    # Broken twin: completion left out.
    plain = sample_where(family, COUNT, allowed=allowed, generator=generator(), batch=4096)
    assert not bool((plain.sum(dim=1) <= 2).all())


def test_completion_may_write_what_the_model_was_not_allowed_to_draw():
    def overwrite(codes):
        codes = codes.clone()
        codes[:, 1] = 0
        return Rows(codes.int(), torch.empty(len(codes), 0), torch.ones(len(codes), dtype=torch.bool))

    rows, values = sample_complete(
        random_vae(), 100, allowed=CONDITION, complete=overwrite, generator=generator(), batch=64
    )
    assert (rows.dtype, values.shape) == (torch.long, (100, 0))
    assert bool((rows[:, 1] == 0).all())


def test_rare_rows_that_all_weigh_the_same_are_not_resampled():
    # One row in a thousand stands: a pool would have to hold four thousand draws per row.
    def rarely(codes):
        stands = torch.zeros(len(codes), dtype=torch.bool)
        stands[:4] = True
        return Rows(codes, torch.empty(len(codes), 0), stands)

    rows, _ = sample_complete(random_vae(), 60, allowed={}, complete=rarely, generator=generator(), batch=4096)
    assert len(rows) == 60


def test_constraints_without_probability_are_refused(monkeypatch):
    monkeypatch.setattr(models.conditional, "_POOL_DRAWS", 1 << 13)
    with pytest.raises(InputError, match="records under the schema's constraints nearly no probability: 8192 draws"):
        sample_complete(
            random_vae(), 1, allowed={}, complete=lambda c: completing(c, most=-1), generator=generator(), batch=1024
        )


def test_wide_tables_are_drawn_in_smaller_batches():
    wide = build_family("vae", {"latent": 1}, cardinalities=(20_000, 20_000), label=None)
    assert models.conditional._most_rows(random_vae()) == 16_384
    assert 500 < models.conditional._most_rows(wide) < 1000
