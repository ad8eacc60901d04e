"""The moment generator: it meets what was released, and no more."""

import itertools

import pytest
import torch

from models.families import build_family
from models.layout import OneHotLayout
from models.moments import MomentGenerator, MomentsOptions
from protocol.errors import StudyError

LAYOUT = OneHotLayout(cardinalities=(3, 40, 2), ordered=(0, 40, 0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def dependent_table(count=3000):
    """The second column's half follows from the first and the third."""
    made = generator(7)
    first = torch.randint(3, (count,), generator=made)
    third = (torch.rand(count, generator=made) < 0.3).long()
    second = torch.where(first == 0, 5, 25) + 5 * third + torch.randint(5, (count,), generator=made)
    return torch.stack([first, second, third], dim=1)


def fitted(table, *, noise=0.0, seed=0, **options):
    family = MomentGenerator(LAYOUT, MomentsOptions(**{"components": 64, "steps": 400} | options))
    total = family.statistics.weighted_sum(1, table, torch.ones(len(table)))
    total = total + noise * torch.randn(total.shape, generator=generator(9), dtype=torch.float64)
    family.learn_statistics(1, total / len(table), deviation=noise / len(table), generator=generator(seed))
    return family


def distance(table, drawn):
    """Mean total variation over pairs of columns, the long one in eight cells."""
    table, drawn = (torch.stack([c[:, 0], c[:, 1] // 5, c[:, 2]], dim=1) for c in (table, drawn))
    found = []
    for i, j in itertools.combinations(range(3), 2):
        shares = [torch.bincount(c[:, i] * 8 + c[:, j], minlength=64) / len(c) for c in (table, drawn)]
        found.append(float((shares[0] - shares[1]).abs().sum() / 2))
    return sum(found) / 3


def test_draws_meet_the_pairs_that_were_released():
    table, family = dependent_table(), fitted(dependent_table())
    drawn, weight = family.draw(20_000, allowed={}, generator=generator(1))
    assert torch.equal(weight, torch.zeros(20_000))
    assert distance(table, drawn) < 0.03
    shuffled = torch.stack([table[torch.randperm(3000, generator=generator(j)), j] for j in range(3)], dim=1)
    assert distance(table, shuffled) > 0.15


def three_way(table, drawn):
    """Total variation over all three columns together, the long one in eight cells."""
    places = [(c[:, 0] * 8 + c[:, 1] // 5) * 2 + c[:, 2] for c in (table, drawn)]
    shares = [torch.bincount(p, minlength=48) / len(p) for p in places]
    return float((shares[0] - shares[1]).abs().sum() / 2)


def parity_table(count=3000):
    """The second column's half is the parity of the first and the label: no pair of columns shows it."""
    made = generator(8)
    first, label = torch.randint(2, (count,), generator=made), torch.randint(2, (count,), generator=made)
    second = 20 * ((first + label) % 2) + torch.randint(20, (count,), generator=made)
    return torch.stack([first, second, label], dim=1)


def test_pairs_by_label_hold_what_pairs_do_not():
    table = parity_table()
    with_labels, without = (
        fitted(table, label=2, by_label=by_label).draw(20_000, allowed={}, generator=generator(1))[0]
        for by_label in (True, False)
    )
    assert distance(table, with_labels) < 0.03
    assert three_way(table, with_labels) < 0.08
    assert distance(table, without) < 0.03
    assert three_way(table, without) > 0.3


def test_the_label_is_the_target_and_a_study_may_do_without():
    def counts(target, **options):
        return build_family("moments", options, cardinalities=(3, 40, 2, 9), label=target).statistics

    assert counts(2).label == 2
    assert counts(2).labels == 2
    assert counts(None, label=2).label == 2
    plain = counts(None)
    # No target, no wish for labels, and a target of many codes: the same tables, in the same order.
    for other in (counts(2, by_label=False), counts(3), plain):
        assert other.label is None
        assert other.pairs == tuple(itertools.combinations(range(4), 2))
        assert other.dimension(1) == plain.dimension(1)
    with pytest.raises(StudyError, match=r"label=4.*below 4"):
        counts(4)


def test_weights_do_not_depend_on_what_is_counted():
    """A release of a study that was made when pairs had no labels can be read all the same."""
    shapes = [
        {name: tuple(weight.shape) for name, weight in family.generator.state_dict().items()}
        for family in (build_family("moments", {}, cardinalities=(3, 40, 2), label=label) for label in (None, 2))
    ]
    assert shapes[0] == shapes[1] == {"weights": (512,), "codes": (512, 45)}


def misfit(family, noise):
    """Root mean square difference between the mixture's shares of codes and the noisy ones, in units of the noise."""
    table = dependent_table()
    total = family.statistics.weighted_sum(1, table, torch.ones(len(table)))
    total = total + noise * torch.randn(total.shape, generator=generator(9), dtype=torch.float64)
    found = family.statistics.read(total / len(table), deviation=noise / len(table))
    shares = torch.softmax(family.generator.weights, dim=0)
    own = [(shares @ column).double() for column in family.generator.probabilities()]
    apart = torch.cat([a - b for a, b in zip(own, found.columns, strict=True)])
    return float(apart.square().mean().sqrt().detach()) / found.deviation


def test_the_fit_ends_where_the_counts_are_met_as_well_as_their_noise_allows(monkeypatch):
    """With noise it stays as far from the noisy shares as their noise is; run on, it fits the noise."""
    early = misfit(fitted(dependent_table(), noise=40.0), 40.0)
    monkeypatch.setattr("models.moments._LOOK_EVERY", 10**9)
    late = misfit(fitted(dependent_table(), noise=40.0), 40.0)
    assert early > late + 0.03
    assert early > 0.7


def test_restrictions_give_the_conditional_distribution_with_equal_weights():
    family = fitted(dependent_table())
    allowed = {0: torch.tensor([False, True, True]), 2: torch.tensor([False, True])}
    drawn, weight = family.draw(20_000, allowed=allowed, generator=generator(2))
    assert set(drawn[:, 0].tolist()) <= {1, 2}
    assert set(drawn[:, 2].tolist()) == {1}
    everything, _ = family.draw(200_000, allowed={}, generator=generator(3))
    kept = everything[(everything[:, 0] > 0) & (everything[:, 2] == 1)]
    assert float(weight[0].exp()) == pytest.approx(len(kept) / len(everything), abs=0.005)
    assert torch.equal(weight, weight[:1].expand(20_000))
    assert distance(kept, drawn) < 0.02


def test_a_condition_without_probability_weighs_nothing():
    family = fitted(dependent_table())
    _, weight = family.draw(5, allowed={0: torch.tensor([False, False, False])}, generator=generator())
    assert torch.equal(weight, torch.full((5,), float("-inf")))


def test_a_fit_is_the_same_again_and_survives_being_written_down():
    family, again = fitted(dependent_table()), fitted(dependent_table())
    fresh = MomentGenerator(LAYOUT, MomentsOptions(components=64))
    fresh.load_state_dict(family.state_dict())
    rows = [f.draw(100, allowed={}, generator=generator())[0] for f in (family, again, fresh)]
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def test_it_is_not_trained_by_gradients():
    family = build_family("moments", {}, cardinalities=(2, 2), label=None)
    with pytest.raises(StudyError, match="not trained by gradients"):
        family.unit_loss(torch.zeros(1, 2), generator=generator())


@pytest.mark.parametrize(
    "options", [{"components": 0}, {"steps": 0}, {"pair_cells": 1}, {"rate": 0.0}, {"spread": 0.0}]
)
def test_sizes_that_fit_nothing_are_refused(options):
    with pytest.raises(StudyError):
        MomentsOptions(**options)
