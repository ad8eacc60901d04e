"""Moments of images: bounded for every record, summed exactly, learnt from, and drawn from."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.conditional import sample_where
from models.images.deformation import deformed
from models.images.moment_rounds import Axes, ImageMoments, frequencies, matrices, triangle
from models.images.moments import ImageMixture, ImageMomentsOptions
from models.images.noisy_cells import NoisyCells
from models.images.shape import ImageShape
from models.images.shrinkage import nearest_covariance, shrunk_covariances, shrunk_means
from models.layout import OneHotLayout
from protocol.errors import InputError, StudyError

SHAPE = ImageShape(height=8, width=9)
LAYOUT = OneHotLayout(cardinalities=(4, 3))
COLOUR = ImageShape(height=8, width=8, channels=3, levels=16)
OPTIONS = ImageMomentsOptions(components=2, directions=10, frequencies=5, deformation=0.0, label=1)
ROUNDS = (1, 2, 3)


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def family(shape: ImageShape = SHAPE, options: ImageMomentsOptions = OPTIONS) -> ImageMixture:
    return ImageMixture(LAYOUT, shape, options)


def records(count: int, *, seed: int, shape: ImageShape = SHAPE) -> torch.Tensor:
    """Records of three classes of two kinds of image each: a bright block at one of six places."""
    generator = seeded(seed)
    label = torch.randint(3, (count,), generator=generator)
    kind = torch.randint(2, (count,), generator=generator)
    images = 0.1 + 0.1 * torch.rand(count, shape.channels, shape.height, shape.width, generator=generator)
    for row in range(count):
        left, top = 2 * int(label[row]), 4 * int(kind[row])
        images[row, :, top : top + 3, left : left + 3] += 0.5 + 0.2 * torch.rand(1, generator=generator)
    pixels = (images * (shape.levels - 1)).round().long().flatten(1)
    other = (label + torch.randint(2, (count,), generator=generator)) % 4
    return torch.cat([other[:, None], label[:, None], pixels], dim=1)


def learn(model: ImageMixture, codes: torch.Tensor, *, deviation: float = 0.0, public: int | None = None) -> None:
    """Give the model its three rounds, with noise of a standard deviation per coordinate of the means."""
    size, generator = public or len(codes), seeded(11)
    for number in ROUNDS:
        total = model.statistics.weighted_sum(number, codes, torch.ones(len(codes), dtype=torch.float64))
        noise = torch.randn(len(total), generator=generator, dtype=torch.float64)
        model.learn_statistics(number, total / size + deviation * noise, deviation=deviation, generator=seeded(3))


def draws(model: ImageMixture, count: int, *, seed: int) -> torch.Tensor:
    generator = seeded(seed)
    return model.depict(model.draw(count, allowed={}, generator=generator)[0], generator=generator)


def one(statistics: ImageMoments, number: int, row: torch.Tensor) -> torch.Tensor:
    return statistics.weighted_sum(number, row[None], torch.ones(1, dtype=torch.float64))


def strange_axes(model: ImageMixture, *, scale: float, seed: int) -> None:
    """Weights that no server of this house would send."""
    with torch.no_grad():
        for weight in model.shared.parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=seeded(seed)))


# --- the bound


@given(
    seed=st.integers(0, 10_000),
    low=st.integers(0, 255),
    high=st.integers(0, 255),
    number=st.sampled_from(ROUNDS),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30, float("inf"), float("nan")]),
)
def test_no_record_is_longer_than_the_bound_whatever_the_weights(seed, low, high, number, scale):
    model = family()
    strange_axes(model, scale=scale, seed=seed)
    pixels = torch.where(torch.rand(SHAPE.size, generator=seeded(seed)) < 0.5, low, high)
    row = torch.cat([torch.tensor([seed % 4, seed % 3]), pixels])
    vector = one(model.statistics, number, row)
    length = float(torch.linalg.vector_norm(vector))
    assert bool(vector.isfinite().all())
    assert length <= model.statistics.norm(number) * (1 + 1e-12)
    assert length == pytest.approx(float(model.statistics.norms(number, row[None])), rel=1e-9)


@pytest.mark.parametrize("count", [1, 3, 7, 63, 1023, 1024, 1025])
@pytest.mark.parametrize("number", ROUNDS)
def test_every_product_of_matrices_has_one_size_however_many_records_there_are(monkeypatch, number, count):
    """Another size may round a row otherwise, and where centres tie, a rounding moves a record to another cell."""
    model, sizes = family(), set()
    whole = ImageMoments._images

    def noting(self: ImageMoments, codes: torch.Tensor) -> torch.Tensor:
        sizes.add(len(codes))
        return whole(self, codes)

    monkeypatch.setattr(ImageMoments, "_images", noting)
    codes = records(count, seed=1)
    model.statistics.weighted_sum(number, codes, torch.ones(count, dtype=torch.float64))
    model.statistics.norms(number, codes)
    assert sizes == {1024}


@pytest.mark.parametrize("pixel", [255, 128])
@pytest.mark.parametrize("count", [3, 7, 103])
def test_a_record_more_moves_the_sum_by_its_own_vector_also_where_centres_tie(pixel, count):
    """Blank images have no contrast but rounding; two centres are equally near to them."""
    large = ImageShape(height=28, width=28)
    model = family(large, ImageMomentsOptions(components=2, directions=10, frequencies=14, label=1))
    with torch.no_grad():
        model.shared.radius.fill_(1e-3)
        model.shared.centres.zero_()
        model.shared.centres[:, 0] += 1e-3
        model.shared.centres[:, 1] -= 1e-3
    blank = torch.full((count + 1, 2 + large.size), pixel)
    blank[:, :2] = 0
    sums = [
        model.statistics.weighted_sum(3, blank[:size], torch.ones(size, dtype=torch.float64))
        for size in (count, count + 1)
    ]
    assert float(torch.linalg.vector_norm(sums[1] - sums[0])) <= 1.0 + 1e-9


def test_the_bound_is_met_and_a_ball_without_a_border_would_pass_it(monkeypatch):
    """The broken twin does not shorten what lies outside the ball."""
    model, row = family(), records(1, seed=0)[0]
    with torch.no_grad():
        model.shared.centres.zero_()
        model.shared.radius.fill_(0.1)
    for number in (2, 3):
        assert float(torch.linalg.vector_norm(one(model.statistics, number, row))) == pytest.approx(1.0, abs=1e-12)
    whole = model.statistics._placed

    def unshortened(number: int, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return whole(number, codes)[0], 1.001 * whole(number, codes)[1]

    monkeypatch.setattr(model.statistics, "_placed", unshortened)
    for number in (2, 3):
        assert float(torch.linalg.vector_norm(one(model.statistics, number, row))) > 1.0


@pytest.mark.parametrize("pixel", [0, 255])
def test_extreme_images_come_close_to_the_bound_of_the_first_round(pixel):
    model = family()
    row = torch.cat([torch.tensor([0, 0]), torch.full((SHAPE.size,), pixel)])
    # No contrast: energy and mean are all there is.
    assert float(torch.linalg.vector_norm(one(model.statistics, 1, row))) == pytest.approx(0.1**0.5, abs=1e-9)
    half = torch.cat([torch.tensor([0, 0]), 255 * (torch.arange(SHAPE.size) % 9 < 4)])
    assert 0.95 < float(torch.linalg.vector_norm(one(model.statistics, 1, half))) <= 1.0


def test_codes_outside_the_levels_are_clipped():
    """A site's records have the schema's codes; the bound does not hang on it."""
    model, row = family(), records(1, seed=0)[0]
    row[2:] = 10**6 * torch.randint(-1, 2, (SHAPE.size,), generator=seeded(0))
    for number in ROUNDS:
        assert float(torch.linalg.vector_norm(one(model.statistics, number, row))) <= 1 + 1e-12


# --- sums


@pytest.mark.parametrize("number", ROUNDS)
@pytest.mark.parametrize("shape", [SHAPE, COLOUR], ids=["grey", "colour"])
def test_a_weighted_sum_equals_a_loop_over_records(number, shape, monkeypatch):
    model, codes = family(shape), records(40, seed=1, shape=shape)
    strange_axes(model, scale=0.3, seed=2)
    weights = torch.rand(40, generator=seeded(4), dtype=torch.float64)
    expected = sum(w * one(model.statistics, number, row) for w, row in zip(weights, codes, strict=True))
    monkeypatch.setattr("models.images.moment_rounds._ROWS", 7)
    found = model.statistics.weighted_sum(number, codes, weights)
    assert found.shape == (model.statistics.dimension(number),)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_the_parts_of_a_round_are_what_they_are_called():
    """By hand: counts, tables, mean and second moments of the records of one class."""
    model, codes = family(), records(60, seed=5)
    with torch.no_grad():
        model.shared.centres.normal_(generator=seeded(6))
        model.shared.radius.fill_(50.0)
    total = model.statistics.weighted_sum(2, codes, torch.ones(60, dtype=torch.float64))
    seen = model.statistics.read_cells(2, total)
    label = codes[:, 1]
    assert seen.counts[:, 0].tolist() == pytest.approx([float((label == each).sum()) for each in range(3)])
    for each in range(3):
        expected = [float(((label == each) & (codes[:, 0] == code)).sum()) for code in range(4)]
        assert seen.tables[0][each].tolist() == pytest.approx(expected)
        features = (codes[label == each, 2:].double() / 255) @ frequencies(SHAPE, 5).T
        ball = (features[:, :10] - model.shared.centres[each, 0].double()) / 50.0
        torch.testing.assert_close(seen.means[each, 0], ball.sum(dim=0))
        torch.testing.assert_close(seen.spreads[each, 0], ball.T @ ball)


def test_a_record_belongs_to_the_nearest_centre_of_its_class():
    model, codes = family(), records(60, seed=5)
    learn(model, codes)
    seen = model.statistics.read_cells(3, model.statistics.weighted_sum(3, codes, torch.ones(60)))
    features = model.shared.reduced((codes[:, 2:].double() / 255) @ frequencies(SHAPE, 5).T)
    for each in range(3):
        distances = torch.cdist(features[codes[:, 1] == each], model.shared.centres[each].double())
        expected = distances.argmin(dim=1).bincount(minlength=2).double()
        torch.testing.assert_close(seen.counts[each], expected)


def test_no_records_add_nothing_and_rounds_end():
    model = family()
    nothing = torch.zeros(0, model.code_columns, dtype=torch.long)
    for number in ROUNDS:
        assert not model.statistics.weighted_sum(number, nothing, torch.zeros(0)).any()
        assert len(model.statistics.norms(number, nothing)) == 0
    assert model.statistics_rounds == 3
    with pytest.raises(InputError, match="round 4"):
        model.statistics.dimension(4)


def test_frequencies_are_orthonormal_and_begin_with_the_brightness_of_channels():
    rows = frequencies(COLOUR, 4)
    torch.testing.assert_close(rows @ rows.T, torch.eye(48, dtype=torch.float64))
    images = torch.rand(3, 8, 8, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close((rows @ images.flatten())[:3] / 8, images.mean(dim=(1, 2)))


def test_a_triangle_has_the_norm_of_its_matrix_and_gives_it_back():
    rows = torch.randn(2, 5, 5, generator=seeded(0))
    symmetric = rows + rows.mT
    vectors = triangle(symmetric)
    torch.testing.assert_close(torch.linalg.vector_norm(vectors, dim=1), torch.linalg.matrix_norm(symmetric))
    torch.testing.assert_close(matrices(vectors, 5), symmetric)


# --- learning


def test_without_noise_classes_have_their_means_and_covariances():
    options = ImageMomentsOptions(components=1, directions=45, frequencies=9, deformation=0.0, label=1)
    model, codes = family(options=options), records(1500, seed=7)
    learn(model, codes)
    held = model.generator
    images = codes[:, 2:].double() / 255
    features = model.shared.reduced(images @ frequencies(SHAPE, 9).T).detach()
    for each in range(3):
        inside = features[codes[:, 1] == each]
        torch.testing.assert_close(held.means[each, 0].double(), inside.mean(dim=0), rtol=0, atol=0.02)
        covariance = held.factors[each, 0] @ held.factors[each, 0].T
        expected = inside.T.cov(correction=0)
        error = torch.linalg.matrix_norm(covariance.double() - expected) / torch.linalg.matrix_norm(expected)
        assert float(error) < 0.05
    shares = held.class_logits.softmax(dim=0).double()
    torch.testing.assert_close(shares, codes[:, 1].bincount().double() / 1500, rtol=0, atol=1e-6)


def test_directions_are_the_principal_ones():
    model, codes = family(), records(800, seed=8)
    learn(model, codes)
    features = (codes[:, 2:].double() / 255) @ frequencies(SHAPE, 5).T
    contrast = features[:, 1:] / torch.linalg.vector_norm(features[:, 1:], dim=1, keepdim=True)
    found = model.shared.directions.double()
    torch.testing.assert_close(found @ found.T, torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-5)
    values = torch.linalg.eigvalsh(contrast.T @ contrast).flip(0)
    kept = (contrast @ found.T).square().sum(dim=0)
    torch.testing.assert_close(kept, values[:9], rtol=1e-4, atol=1e-3)


def test_the_public_number_of_records_may_be_rough():
    codes = records(600, seed=9)
    exact, rough = family(), family()
    learn(exact, codes)
    learn(rough, codes, public=1800)
    for name, value in exact.generator.state_dict().items():
        if name.startswith(("class_logits", "tables")):
            first, second = value.softmax(-1), rough.generator.state_dict()[name].softmax(-1)
        elif name == "factors":
            first, second = value @ value.mT, rough.generator.factors @ rough.generator.factors.mT
        else:
            first, second = value, rough.generator.state_dict()[name]
        torch.testing.assert_close(first, second, rtol=0, atol=2e-3)


def test_noise_of_any_size_leaves_a_model_that_draws():
    for deviation in (1e-3, 0.1, 100.0):
        model = family()
        learn(model, records(300, seed=10), deviation=deviation)
        assert not model.draw(50, allowed={}, generator=seeded(0))[1].any()
        drawn = draws(model, 50, seed=0)
        assert drawn.shape == (50, model.code_columns)
        assert 0 <= int(drawn.min()) <= int(drawn.max()) <= 255


def test_noisy_moments_are_drawn_to_what_is_known():
    """Shrinking cuts the error to less than half; without noise it changes nothing; noise that is denied hurts."""
    generator = seeded(12)
    target = torch.diag(torch.linspace(3.0, 0.1, 12, dtype=torch.float64))
    draws = torch.randn(30, 12, 40, generator=generator, dtype=torch.float64)
    spread = target.sqrt() @ draws
    truth = spread @ spread.mT / 40
    noise = matrices(0.5 * torch.randn(30, 78, generator=generator, dtype=torch.float64), 12)
    variance = torch.full((30,), 0.25, dtype=torch.float64)

    def error(found: torch.Tensor) -> float:
        return float((found - truth).square().sum())

    shrunk = shrunk_covariances(truth + noise, target=target, variance=variance)
    assert error(shrunk) < 0.5 * error(truth + noise)
    assert error(shrunk) < 0.9 * error(target.expand_as(truth))
    assert error(shrunk_covariances(truth + noise, target=target, variance=variance / 1e6)) > 1.5 * error(shrunk)
    torch.testing.assert_close(shrunk_covariances(truth, target=target, variance=0.0 * variance), truth)
    assert float(torch.linalg.eigvalsh(nearest_covariance(truth + 9 * noise, floor=0.01)).min()) > 0.0099
    means = torch.randn(30, 12, generator=generator, dtype=torch.float64) @ target.sqrt() * 0.5
    noisy = means + 0.5 * torch.randn(30, 12, generator=generator, dtype=torch.float64)
    found = shrunk_means(noisy, target=target, variance=variance)
    assert float((found - means).square().sum()) < 0.7 * float((noisy - means).square().sum())


def test_the_stated_noise_of_cells_is_the_noise_that_they_have():
    model = family()
    dimension = model.statistics.dimension(3)
    base = torch.zeros(dimension, dtype=torch.float64)
    base[:6] = 0.2**0.5 / 6  # equal shares
    found = []
    for seed in range(400):
        noisy = base + 1e-3 * torch.randn(dimension, generator=seeded(seed), dtype=torch.float64)
        noisy[:6] = base[:6]
        found.append(NoisyCells(model.statistics.read_cells(3, noisy), deviation=1e-3, radius=7.0))
    zero = torch.zeros_like(found[0].means)
    diagonal = torch.stack([cells.around(zero).diagonal(dim1=-2, dim2=-1) for cells in found]).square().mean(dim=(0, 3))
    torch.testing.assert_close(diagonal, found[0].spread_noise, rtol=0.15, atol=0)
    whole = torch.stack([cells.by_class(zero).diagonal(dim1=-2, dim2=-1) for cells in found]).square().mean(dim=(0, 2))
    torch.testing.assert_close(whole, found[0].class_noise, rtol=0.15, atol=0)
    means = torch.stack([cells.means for cells in found]).square().mean(dim=(0, 3))
    torch.testing.assert_close(means, found[0].mean_noise, rtol=0.15, atol=0)


# --- drawing


@pytest.mark.parametrize("shape", [SHAPE, COLOUR], ids=["grey", "colour"])
def test_draws_look_like_the_records(shape):
    model, codes = family(shape), records(900, seed=13, shape=shape)
    learn(model, codes)
    drawn = draws(model, 2000, seed=0)
    assert drawn.shape == (2000, model.code_columns)
    assert int(drawn[:, 2:].min()) >= 0
    assert int(drawn[:, 2:].max()) <= shape.levels - 1
    for each in range(3):
        real = codes[codes[:, 1] == each, 2:].double().mean(dim=0) / (shape.levels - 1)
        fake = drawn[drawn[:, 1] == each, 2:].double().mean(dim=0) / (shape.levels - 1)
        assert float((real - fake).abs().mean()) < 0.05
        # The two kinds of a class are apart: a class of one Gaussian would draw what is between them.
        kinds = drawn[drawn[:, 1] == each, 2:].double().view(-1, shape.channels, shape.height, shape.width)
        bright = kinds[:, 0, 0:3, 2 * each : 2 * each + 3].mean(dim=(1, 2)) / (shape.levels - 1)
        assert float(((bright > 0.3) & (bright < 0.45)).double().mean()) < 0.1


def test_columns_follow_the_label():
    model, codes = family(), records(900, seed=13)
    learn(model, codes)
    drawn = draws(model, 3000, seed=0)
    for each in range(3):
        inside = drawn[drawn[:, 1] == each, 0].bincount(minlength=4).double()
        real = codes[codes[:, 1] == each, 0].bincount(minlength=4).double()
        torch.testing.assert_close(inside / inside.sum(), real / real.sum(), rtol=0, atol=0.06)


def test_restrictions_are_kept_and_their_weights_are_right():
    model, codes = family(), records(900, seed=13)
    learn(model, codes)
    label = {1: torch.tensor([False, True, True])}
    drawn, weight = model.draw(500, allowed=label, generator=seeded(1))
    assert set(drawn[:, 1].tolist()) == {1, 2}
    assert not weight.any()
    both = {0: torch.tensor([True, False, False, False])}
    found = sample_where(model, 3000, allowed=both, generator=seeded(2), batch=4096)
    assert set(found[:, 0].tolist()) == {0}
    # Code 0 of the other column occurs with label 0 half of the time and with label 2 hardly ever but by noise.
    plain = model.draw(30_000, allowed={}, generator=seeded(3))[0]
    expected = plain[plain[:, 0] == 0, 1].bincount(minlength=3).double()
    shares = found[:, 1].bincount(minlength=3).double() / 3000
    torch.testing.assert_close(shares, expected / expected.sum(), rtol=0, atol=0.04)


def test_deformations_are_small_and_none_at_strength_zero():
    images = torch.zeros(200, 1, 9, 9)
    images[:, :, 3:6, 3:6] = 1.0
    assert torch.equal(deformed(images, strength=0.0, generator=seeded(0)), images)
    found = deformed(images, strength=1.0, generator=seeded(0))
    assert bool(((found >= 0) & (found <= 1)).all())
    change = (found - images).abs().mean()
    assert 0.005 < float(change) < 0.08
    assert float((found[0] - found[1]).abs().mean()) > 0.005
    assert float((found.mean(dim=0) - found.mean(dim=0).flip(2)).abs().max()) < 0.1


# --- state and options


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_state_draws_the_same_records_in_another_model(rounds):
    model, codes = family(), records(300, seed=14)
    for number in range(1, rounds + 1):
        means = model.statistics.weighted_sum(number, codes, torch.ones(300)) / 300
        model.learn_statistics(number, means, deviation=1e-3, generator=seeded(0))
    other = family()
    other.generator.load_state_dict(model.generator.state_dict())
    first, second = (draws(each, 40, seed=5) for each in (model, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, draws(family(), 40, seed=5))


def test_sites_see_directions_and_centres_alone():
    model = family()
    learn(model, records(300, seed=14))
    assert set(dict(model.shared.named_parameters())) == {"directions", "centres", "radius"}
    assert all(weight.requires_grad for weight in model.shared.parameters())
    site = family()
    vector = torch.nn.utils.parameters_to_vector(model.shared.parameters()).detach()
    torch.nn.utils.vector_to_parameters(vector, site.shared.parameters())
    row = records(1, seed=15)[0]
    for number in ROUNDS:
        assert torch.equal(one(model.statistics, number, row), one(site.statistics, number, row))


def test_initialising_forgets():
    model = family()
    learn(model, records(300, seed=14))
    model.initialise(generator=seeded(0))
    for (name, value), (_, fresh) in zip(model.state_dict().items(), family().state_dict().items(), strict=True):
        assert torch.equal(value, fresh), name


def test_it_has_no_gradients():
    with pytest.raises(StudyError, match="not trained by gradients"):
        family().unit_loss(records(1, seed=0), generator=seeded(0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"components": 0},
        {"directions": 3},
        {"frequencies": 2},
        {"deformation": -0.1},
        {"deformation": float("nan")},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(StudyError):
        ImageMomentsOptions(**wrong)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (ImageMomentsOptions(label=2), SHAPE),
        (ImageMomentsOptions(directions=26, frequencies=5), SHAPE),
        (ImageMomentsOptions(directions=128, components=64, label=1, frequencies=9), ImageShape(height=28, width=28)),
    ],
    ids=["label", "directions", "numbers"],
)
def test_options_that_do_not_fit_the_schema_are_refused(options, shape):
    layout = OneHotLayout(cardinalities=(4, 30)) if options.directions == 128 else LAYOUT
    with pytest.raises(StudyError):
        ImageMixture(layout, shape, options)


def test_without_a_label_there_is_one_class():
    options = ImageMomentsOptions(components=3, directions=10, frequencies=5, label=None)
    model, codes = family(options=options), records(400, seed=16)
    learn(model, codes)
    drawn = sample_where(model, 400, allowed={}, generator=seeded(0))
    for column, size in enumerate(LAYOUT.cardinalities):
        shares = [rows[:, column].bincount(minlength=size).double() / 400 for rows in (drawn, codes)]
        torch.testing.assert_close(*shares, rtol=0, atol=0.1)


def test_each_round_narrows_what_is_known():
    """Draws come closer to the records of their class with every round."""
    model, codes = family(), records(900, seed=17)
    errors = []
    for number in ROUNDS:
        means = model.statistics.weighted_sum(number, codes, torch.ones(900)) / 900
        model.learn_statistics(number, means, deviation=0.0, generator=seeded(0))
        drawn = draws(model, 900, seed=1)
        nearest = [
            torch.cdist(drawn[drawn[:, 1] == each, 2:].double(), codes[codes[:, 1] == each, 2:].double()).min(dim=1)
            for each in range(3)
        ]
        errors.append(float(torch.cat([found.values for found in nearest]).mean()))
    assert all(later < earlier for earlier, later in pairwise(errors))


def test_axes_start_with_the_lowest_frequencies():
    axes = Axes(features=25, channels=1, classes=2, components=3, directions=6)
    features = torch.arange(25.0)[None].double()
    assert axes.reduced(features).tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
