"""The adversarial network: who sees what, what stays fixed, what released counts do, and that it learns a table."""

import itertools

import pytest
import torch
from scipy import stats

from models.families import build_family
from privacy.dp_sgd import clipped_gradient_sum, parameter_count
from protocol.errors import StudyError

CARDINALITIES = (2, 2, 2)
RECORDS = torch.tensor(list(itertools.product(range(2), repeat=3)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gan(*, label=None, cardinalities=CARDINALITIES, **options):
    options = {"latent": 8, "generator_widths": [32], "critic_widths": [16], "fake_batch": 256} | options
    return build_family("gan", options, cardinalities=cardinalities, label=label)


def weights(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def toy_table(count=4000):
    made = generator(11)
    first = (torch.rand(count, generator=made) < 0.4).long()
    second = first ^ (torch.rand(count, generator=made) < 0.1).long()
    third = 1 - (first ^ (torch.rand(count, generator=made) < 0.2).long())
    return torch.stack([first, second, third], dim=1)


def shares(codes):
    return torch.bincount((codes * torch.tensor([4, 2, 1])).sum(dim=1), minlength=8) / len(codes)


def distance_to_toy(family):
    drawn = family.draw(20_000, allowed={}, generator=generator(5))[0]
    return float((shares(drawn) - shares(toy_table())).abs().sum() / 2)


def train(family, *, steps, clip_norm=1.0):
    """Sites and server in one loop, without noise."""
    table, made = toy_table(), generator(6)
    optimiser = torch.optim.Adam(family.shared.parameters(), lr=4e-3, betas=(0.5, 0.9))
    sizes = [p.numel() for p in family.shared.parameters()]
    for _ in range(steps):
        batch = table[torch.randint(len(table), (256,), generator=made)]
        total = clipped_gradient_sum(
            family.shared,
            lambda b=batch: family.unit_loss(b, generator=made),
            units=None,
            clip_norm=clip_norm,
        )
        mean = total / 256 + family.public_gradient(clip_norm=clip_norm, generator=made)
        for parameter, part in zip(family.shared.parameters(), mean.float().split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        optimiser.step()
        family.free_steps(generator=made)
    return family


def test_what_is_shared_holds_nothing_of_the_generator():
    family = gan()
    shared = {id(p) for p in family.shared.parameters()}
    inside = {id(p) for p in family.generator.parameters()}
    assert shared
    assert inside
    assert not shared & inside
    assert shared | inside == {id(p) for p in family.parameters()}


@pytest.mark.parametrize("loss", ["non_saturating", "least_squares", "wasserstein"])
def test_a_public_gradient_leaves_everything_as_it_was(loss):
    family = gan(loss=loss)
    before, held = weights(family), [p.grad for p in family.parameters()]
    gradient = family.public_gradient(clip_norm=0.1, generator=generator())
    assert gradient.shape == (parameter_count(family.shared),)
    assert gradient.dtype == torch.float64
    assert 0.0 < float(gradient.norm()) <= 0.1
    # The running statistics of the generator's batch norm follow its fakes; its weights do not move.
    for key, value in family.state_dict().items():
        if "running" not in key and "num_batches" not in key:
            assert torch.equal(value, before[key]), key
    assert [p.grad for p in family.parameters()] == held
    # Free of the fakes' number: a mean. Twice the clip norm lets no more than twice the gradient pass.
    assert float(family.public_gradient(clip_norm=1e6, generator=generator()).norm()) > 0.1


def test_free_steps_train_the_generator_every_few_calls_and_never_the_critic():
    family = gan(critic_steps=3)
    trainable = [p.requires_grad for p in family.parameters()]
    critic, own = weights(family.critic), weights(family.generator)
    for parameter in family.critic.parameters():
        parameter.grad = torch.ones_like(parameter)
    moved = []
    for _ in range(6):
        family.free_steps(generator=generator())
        moved.append(not torch.equal(own["head.weight"], family.generator.state_dict()["head.weight"]))
        own = weights(family.generator)
    assert moved == [False, False, True, False, False, True]
    assert unchanged(family.critic, critic)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in family.critic.parameters())
    assert [p.requires_grad for p in family.parameters()] == trainable


def test_label_shares_are_learnt_unless_they_are_public():
    public = gan(label=2, class_shares=[3.0, 1.0], critic_steps=1)
    learnt = gan(label=2, critic_steps=1)
    for family, moves in ((public, False), (learnt, True)):
        before = family.generator.label_logits.detach().clone()
        family.free_steps(generator=generator())
        assert torch.equal(family.generator.label_logits, before) != moves
    learnt.initialise(generator=generator(1))
    assert torch.equal(learnt.generator.label_logits, torch.zeros(2))
    public.initialise(generator=generator(1))
    assert torch.equal(public.generator.label_logits, torch.tensor([3.0, 1.0]).log())


def test_new_weights_forget_the_optimiser():
    family = gan(critic_steps=2)
    family.free_steps(generator=generator())
    family.initialise(generator=generator(1))
    own = weights(family.generator)
    family.free_steps(generator=generator())
    assert torch.equal(own["head.weight"], family.generator.state_dict()["head.weight"])


def test_real_and_fake_halves_balance_when_both_are_the_same_records():
    """Least squares at a score of one half: the clipped means of both halves cancel."""
    family = gan(loss="least_squares", critic_widths=[])
    with torch.no_grad():
        for parameter in family.critic.parameters():
            parameter.zero_()
        family.critic[-1].bias.fill_(0.5)
    fakes = family.draw(4096, allowed={}, generator=generator())[0]
    for clip_norm in (0.1, 1e6):
        real = clipped_gradient_sum(
            family.critic,
            lambda: family.unit_loss(fakes, generator=generator()),
            units=None,
            clip_norm=clip_norm,
        )
        fake = family.public_gradient(clip_norm=clip_norm, generator=generator(1))
        assert float((real / 4096 + fake).norm()) < 0.25 * float(fake.norm())


def test_fakes_are_one_hot_and_pass_gradients_back():
    family = gan(label=0, cardinalities=(3, 4, 2), fake_batch=64)
    fakes = family._fakes(*family._generated(generator=generator()), generator=generator())
    rounded = fakes.detach().round()
    assert float((fakes.detach() - rounded).abs().max()) < 1e-5
    assert torch.equal(rounded.sum(dim=1), torch.full((64,), 3.0))
    gradient = torch.autograd.grad((fakes * torch.arange(9.0)).sum(), family.generator.head.weight)[0]
    assert float(gradient[3:].norm()) > 0.0
    assert float(gradient[:3].norm()) == 0.0  # the label is given, not generated


def test_draws_do_not_depend_on_each_other_and_leave_the_mode_alone():
    family = gan()
    train(family, steps=8)
    assert family.generator.training
    before = weights(family.generator)
    drawn = family.draw(100, allowed={}, generator=generator())[0]
    assert family.generator.training
    assert unchanged(family.generator, before)
    family.eval()
    assert torch.equal(family.draw(100, allowed={}, generator=generator())[0], drawn)
    assert not family.generator.training


def test_labels_follow_their_public_shares_and_conditions():
    family = gan(label=2, cardinalities=(2, 2, 3), class_shares=[1.0, 2.0, 5.0])
    labels = family.draw(8000, allowed={}, generator=generator())[0][:, 2]
    observed = torch.bincount(labels, minlength=3).numpy()
    assert stats.chisquare(observed, [1000, 2000, 5000]).pvalue > 1e-4
    codes, weight = family.draw(8000, allowed={2: torch.tensor([True, True, False])}, generator=generator())
    observed = torch.bincount(codes[:, 2], minlength=3).numpy()
    assert observed[2] == 0
    assert stats.chisquare(observed[:2], [8000 / 3, 16000 / 3]).pvalue > 1e-4
    assert float(weight.abs().max()) == 0.0


@pytest.mark.parametrize("loss", ["non_saturating", "least_squares", "wasserstein"])
def test_it_learns_a_table_of_three_columns(loss):
    start = distance_to_toy(gan(loss=loss))
    assert start > 0.3
    trained = train(gan(loss=loss, critic_steps=1), steps=400)
    assert distance_to_toy(trained) < 0.6 * start


def release_counts(family, *, deviation=1e-4):
    table = toy_table()
    means = family.statistics.weighted_sum(1, table, torch.ones(len(table), dtype=torch.float64)) / len(table)
    noise = torch.randn(means.shape, generator=generator(12), dtype=torch.float64)
    family.learn_statistics(1, means + deviation * noise, deviation=deviation, generator=generator(13))
    return family


@pytest.mark.parametrize("label", [0, None])
def test_released_counts_teach_the_generator_before_any_critic_does(label):
    family = gan(label=label)
    start, critic = distance_to_toy(family), weights(family.critic)
    release_counts(family)
    assert unchanged(family.critic, critic)
    # Labelled counts of three columns are the whole table; pairs leave out what three columns have together.
    assert distance_to_toy(family) < 0.15 * start
    if label == 0:
        known = torch.bincount(toy_table()[:, 0], minlength=2) / 4000
        torch.testing.assert_close(family.generator.label_logits.detach().softmax(0), known, atol=1e-3, rtol=0)


def test_the_generator_is_held_to_released_counts_while_it_plays():
    """The broken twin forgets them, and follows a critic that calls all records with a first code of 1 real."""
    distances = []
    for kept in (True, False):
        family = release_counts(gan(critic_steps=1, table_weight=20.0, generator_rate=5e-3))
        with torch.no_grad():
            for parameter in family.critic.parameters():
                parameter.zero_()
            family.critic[0].weight[:, 1], family.critic[-1].weight[:] = 1.0, 1.0
        family._match = family._match if kept else None
        for step in range(60):
            family.free_steps(generator=generator(step))
        distances.append(distance_to_toy(family))
    assert distances[0] < 0.5 * distances[1]


def test_public_label_shares_stay_what_they_are_beside_released_counts():
    family = gan(label=0, class_shares=[3.0, 1.0])
    release_counts(family)
    torch.testing.assert_close(family.generator.label_logits.detach(), torch.tensor([3.0, 1.0]).log())


def test_known_label_shares_are_not_moved_by_the_critic():
    family = release_counts(gan(label=0, critic_steps=1))
    before = family.generator.label_logits.detach().clone()
    family.free_steps(generator=generator())
    assert torch.equal(family.generator.label_logits, before)


def test_new_weights_forget_what_was_released():
    family = release_counts(gan(table_steps=2))
    assert "released.means" in family.training_state()
    family.initialise(generator=generator())
    assert "released.means" not in family.training_state()


def test_without_counts_or_critic_nothing_trains_the_generator():
    family = gan(critic_steps=1, adversarial_weight=0.0)
    with pytest.raises(StudyError, match="adversarial_weight=0"):
        family.free_steps(generator=generator())
    release_counts(gan(critic_steps=1, adversarial_weight=0.0, table_steps=2)).free_steps(generator=generator())


@pytest.mark.parametrize("loss", ["wasserstein", "non_saturating"])
def test_a_critic_that_plays_for_wasserstein_stays_bounded(loss):
    family = gan(loss=loss, weight_limit=0.02, critic_steps=3)
    with torch.no_grad():
        for parameter in family.critic.parameters():
            parameter.fill_(-0.5)
    family.free_steps(generator=generator())
    largest = max(float(parameter.detach().abs().max()) for parameter in family.critic.parameters())
    assert largest == pytest.approx(0.02 if loss == "wasserstein" else 0.5)


def test_more_generator_steps_per_turn():
    one, two = gan(critic_steps=1), gan(critic_steps=1, generator_steps=2)
    made = generator(4)
    for _ in range(2):
        one.free_steps(generator=made)
    two.free_steps(generator=generator(4))
    assert unchanged(two.generator, weights(one.generator))


def test_conditions_on_any_column_are_weighted():
    """With the label given, the weights of draws add up to the share of the condition."""
    family = release_counts(gan(label=0))
    only = torch.tensor([False, True])
    codes, weight = family.draw(4000, allowed={0: only, 1: only}, generator=generator())
    assert codes[:, :2].min() == 1
    drawn = family.draw(20_000, allowed={0: only}, generator=generator(1))[0]
    assert float(weight.exp().mean()) == pytest.approx(float((drawn[:, 1] == 1).double().mean()), abs=0.02)
    assert float(weight.max()) <= 0.0
