"""Counts of columns under each label: what they count, how long a record's vector is, and what a decoder gets."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.families import build_family
from models.label_columns import LabelColumnCounts, label_weights
from models.layout import OneHotLayout
from models.vae import VaeOptions, VariationalAutoencoder
from protocol.errors import StudyError

SIZES = (3, 2, 20)
LAYOUT = OneHotLayout(cardinalities=SIZES, ordered=(0, 0, 20))


def records(count: int, *, seed: int = 0) -> torch.Tensor:
    """Records whose other columns depend on the label, which is the second column."""
    generator = torch.Generator().manual_seed(seed)
    label = (torch.rand(count, generator=generator) < 0.2).long()
    first = torch.where(torch.rand(count, generator=generator) < 0.7, label, torch.full_like(label, 2))
    last = (torch.randn(count, generator=generator) * 3 + 8 + 4 * label).round().long().clamp(0, 19)
    return torch.stack([first, label, last], dim=1)


def shares_under(codes: torch.Tensor, label: int, column: int) -> torch.Tensor:
    own = codes[codes[:, 1] == label, column]
    return torch.bincount(own, minlength=SIZES[column]).double() / len(own)


def exact_means(counts: LabelColumnCounts, codes: torch.Tensor) -> torch.Tensor:
    return counts.weighted_sum(1, codes, torch.ones(len(codes), dtype=torch.float64)) / len(codes)


def started(codes: torch.Tensor, **options: object) -> VariationalAutoencoder:
    """A model that was told the exact counts and nothing else."""
    model = VariationalAutoencoder(LAYOUT, VaeOptions(**options))  # type: ignore[arg-type]
    weights = torch.ones(len(codes), dtype=torch.float64)
    means = model.statistics.weighted_sum(1, codes, weights) / len(codes)
    model.learn_statistics(1, means, deviation=1e-5, generator=torch.Generator().manual_seed(0))
    return model


def drawn(model: VariationalAutoencoder, count: int = 60_000) -> torch.Tensor:
    return model.draw(count, allowed={}, generator=torch.Generator().manual_seed(3))[0]


def distance_under_labels(model: VariationalAutoencoder, codes: torch.Tensor, column: int) -> float:
    """Total variation distance of a column given the label, the larger of both labels."""
    found = drawn(model)
    return max(
        0.5 * float((shares_under(found, label, column) - shares_under(codes, label, column)).abs().sum())
        for label in (0, 1)
    )


@given(codes=st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1, max_size=9))
def test_it_counts_like_a_slow_loop_and_every_record_is_as_long_as_said(codes: list[tuple[int, ...]]) -> None:
    counts = LabelColumnCounts(LAYOUT, label=1)
    rows = torch.tensor(codes)
    slow = {(j, y, k): 0.0 for j in (0, 2) for y in range(2) for k in range(SIZES[j])}
    for row in codes:
        for j in (0, 2):
            slow[j, row[1], row[j]] += 0.5
    found = counts.weighted_sum(1, rows, torch.full((len(codes),), 0.5, dtype=torch.float64))
    assert found.tolist() == pytest.approx(list(slow.values()))
    one = torch.ones(1, dtype=torch.float64)
    for row in rows:
        assert float(counts.weighted_sum(1, row[None], one).norm()) == pytest.approx(math.sqrt(2))
    assert counts.norm(1) == pytest.approx(math.sqrt(2))
    assert counts.norms(1, rows).tolist() == pytest.approx([math.sqrt(2)] * len(codes))


def test_what_was_released_is_read_as_shares_under_each_label() -> None:
    counts, codes = LabelColumnCounts(LAYOUT, label=1), records(500)
    # A public number of records that is twice the true one halves the means and the noise alike.
    found = counts.read(exact_means(counts, codes) / 2, deviation=1e-4)
    assert found.deviation == pytest.approx(2e-4)
    assert found.columns[1] is None
    for column in (0, 2):
        table = found.columns[column]
        assert table is not None
        for label in (0, 1):
            assert torch.allclose(table[label] / found.labels[label], shares_under(codes, label, column), atol=1e-9)


def test_labels_are_as_little_noisy_as_is_told_however_wide_another_column_is() -> None:
    layout = OneHotLayout(cardinalities=(3, 2, 5, 2000))
    counts = LabelColumnCounts(layout, label=1)
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(size, (400,), generator=generator) for size in layout.cardinalities], dim=1)
    means = exact_means(counts, codes)
    errors, wide, told, share = [], [], 0.0, float((codes[:, 1] == 1).double().mean())
    for _ in range(300):
        noise = 1e-4 * torch.randn(len(means), generator=generator, dtype=torch.float64)
        found = counts.read(means + noise, deviation=1e-4)
        errors.append(float(found.labels[1]) - share)
        table = found.columns[3]
        assert table is not None
        wide.append(float(table[1].sum()) - share)
        told = found.label_deviation
    spread = float(torch.tensor(errors).std())
    # A share is of a noisy total: what all labels have in common falls out, with two equal ones half the variance.
    assert 0.6 * told < spread < 1.1 * told
    assert told == pytest.approx(1e-4 / math.sqrt(1 / 3 + 1 / 5 + 1 / 2000), rel=0.05)
    assert float(torch.tensor(wide).std()) > 10 * spread  # the twin that asks the wide table


def test_weights_say_what_a_label_does_and_nothing_where_noise_hides_it() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.softmax(torch.randn(8, generator=generator, dtype=torch.float64), dim=0)
    logits, features = torch.full((8,), 1 / 8).log(), torch.eye(8)
    clear = label_weights(truth, logits, features, deviation=1e-4)
    assert torch.allclose(torch.softmax(logits + clear, dim=0), truth, atol=1e-3)
    assert float(torch.logsumexp(logits + clear, dim=0)) == pytest.approx(0.0, abs=1e-6)  # logarithms of shares as such
    noisy = truth + 5.0 * torch.randn(8, generator=generator, dtype=torch.float64)
    assert float(label_weights(noisy, logits, features, deviation=5.0).abs().max()) < 0.1
    assert float(label_weights(noisy, logits, features, deviation=1e-4).abs().max()) > 1.0  # the twin that trusts it


def test_a_decoder_that_was_only_told_counts_draws_columns_as_they_are_under_each_label() -> None:
    codes = records(20_000)
    for options in ({}, {"splines": 0}):
        model = started(codes, label=1, **options)
        assert distance_under_labels(model, codes, 2) < 0.05
        assert model.decoder.order.index(1) < model.decoder.order.index(0)
        assert distance_under_labels(model, codes, 0) < 0.05
    plain = started(codes)  # the twin whose counts know no label
    assert distance_under_labels(plain, codes, 2) > 0.3


def test_columns_that_are_drawn_before_the_label_are_what_the_label_depends_on() -> None:
    """Six equal columns, the label last: each agrees with it nine times in ten, as in the counts."""
    layout = OneHotLayout(cardinalities=(2,) * 6)
    generator = torch.Generator().manual_seed(0)
    label = (torch.rand(20_000, generator=generator) < 0.3).long()
    flips = torch.rand(20_000, 5, generator=generator) < torch.tensor([0.1, 0.5, 0.5, 0.5, 0.5])
    codes = torch.cat([label[:, None] ^ flips.long(), label[:, None]], dim=1)
    model = VariationalAutoencoder(layout, VaeOptions(label=5))
    assert model.decoder.order.index(5) == 5
    weights = torch.ones(len(codes), dtype=torch.float64)
    means = model.statistics.weighted_sum(1, codes, weights) / len(codes)
    model.learn_statistics(1, means, deviation=1e-4, generator=generator)
    found = drawn(model)
    assert float((found[:, 0] == found[:, 5]).double().mean()) == pytest.approx(0.9, abs=0.02)
    assert float((found[:, 1] == found[:, 5]).double().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(found[:, 5].double().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("deviation", [0.0, 0.002])
def test_a_label_that_nobody_has_starts_rare_and_breaks_nothing(deviation: float) -> None:
    layout = OneHotLayout(cardinalities=(4, 3, 30), ordered=(0, 0, 30))
    generator = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(size, (5000,), generator=generator) for size in (4, 2, 30)], dim=1)
    model = VariationalAutoencoder(layout, VaeOptions(label=1))
    means = exact_means(model.statistics, codes)
    means = means + deviation * torch.randn(len(means), generator=generator, dtype=torch.float64)
    model.learn_statistics(1, means, deviation=deviation, generator=generator)
    found = drawn(model)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    assert float((found[:, 1] == 2).double().mean()) < 0.01
    for column, size in ((0, 4), (2, 30)):
        shares = torch.bincount(found[:, column], minlength=size).double() / len(found)
        assert 0.5 * float((shares - 1 / size).abs().sum()) < 0.1


def test_noise_of_a_rare_label_does_not_pass_for_what_it_does() -> None:
    """A twentieth has the label, which changes nothing: what the start says of it is small beside the noise."""
    layout = OneHotLayout(cardinalities=(5, 2, 5))
    counts = LabelColumnCounts(layout, label=1)
    truth = torch.tensor([0.95, 0.05])[:, None].expand(2, 5).double() / 5
    generator = torch.Generator().manual_seed(0)
    sizes = []
    for _ in range(40):
        noise = 0.004 * torch.randn(20, generator=generator, dtype=torch.float64)
        model = VariationalAutoencoder(layout, VaeOptions(label=1))
        means = torch.cat([truth.flatten(), truth.flatten()]) + noise
        model.learn_statistics(1, means, deviation=0.004, generator=generator)
        assert isinstance(model.statistics, type(counts))
        head = model.decoder.heads[-1].weight[:, model.options.latent : model.options.latent + 2] * 0.7
        sizes.append((head - head.mean(dim=0)).square().mean(dim=0))
    common, rare = torch.stack(sizes).mean(dim=0).sqrt().tolist()
    # Under the rare label a share of .2 has a noise of .08, a weight of .4, and the prior shrinks it. Taken for the
    # noise of a share of the whole (.004), it would be followed.
    assert rare < 0.4
    assert common < 0.05


def test_a_factorised_decoder_starts_with_the_shapes_of_the_columns() -> None:
    codes = records(20_000)
    model = started(codes, label=1, decoder="factorised")
    assert not isinstance(model.statistics, LabelColumnCounts)  # it could not use them, and their shapes are noisier
    found = drawn(model)
    for column, size in enumerate(SIZES):
        shares = torch.bincount(found[:, column], minlength=size).double() / len(found)
        true = torch.bincount(codes[:, column], minlength=size).double() / len(codes)
        assert 0.5 * float((shares - true).abs().sum()) < 0.1  # its weights of the latent vector are random
        assert 0.5 * float((1 / size - true).abs().sum()) > 0.1  # the twin that starts with equal shares


@pytest.mark.parametrize(("codes", "groups", "starts"), [(10_000, 0, True), (1200, 100, True), (1200, 600, False)])
def test_columns_of_many_codes_start_at_numbers_and_those_of_many_groups_at_none(
    codes: int, groups: int, starts: bool
) -> None:
    """Whatever was released: here nothing but noise. The time of a start grows with the features cubed."""
    group_codes = tuple(code % groups for code in range(codes)) if groups else ()
    layout = OneHotLayout(
        cardinalities=(codes, 4, 3), ordered=(0 if groups else codes, 0, 0), groups=(group_codes, (), ())
    )
    model = VariationalAutoencoder(layout, VaeOptions(label=1))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(model.statistics.dimension(1), generator=generator, dtype=torch.float64)
    model.learn_statistics(1, noise, deviation=1.0, generator=generator)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    assert bool(model.decoder.heads[-1].weight.any()) is starts


def test_many_labels_or_none_are_counted_as_columns_alone() -> None:
    by_label = build_family("vae", {}, cardinalities=SIZES, label=1)
    assert isinstance(by_label.statistics, LabelColumnCounts)
    for label in (None, 2):
        model = build_family("vae", {}, cardinalities=SIZES, label=label)
        assert not isinstance(model.statistics, LabelColumnCounts)
        assert model.statistics.dimension(1) == sum(SIZES)
    with pytest.raises(StudyError, match=r"model\.options\.label=3"):
        build_family("vae", {"label": 3}, cardinalities=SIZES, label=None)
