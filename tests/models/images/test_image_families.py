"""Image families: a record's loss is its own, the clip bounds every record whatever the precision, and they learn."""

import pytest
import torch
from torch import nn

from models.families import IMAGE_FAMILIES, build_family
from models.images.family import ImageFamily
from models.images.shape import ImageShape, pixel_codes, split_codes
from privacy.dp_sgd import chunked_gradient_sum, parameter_count, reference_gradient_sum
from protocol.errors import PrivacyError, StudyError

SHAPE = ImageShape(height=8, width=10, channels=3, levels=16)
TRAINED = ("vae", "gan")
SMALL = {"vae": {"widths": [4, 8], "latent": 3}, "gan": {"critic_widths": [4, 8], "generator_widths": [8], "latent": 3}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(name, options=None, *, image=SHAPE, cardinalities=(3, 4)):
    return build_family(name, SMALL[name] | (options or {}), cardinalities=cardinalities, label=0, image=image)


def records(count, *, seed=1, image=SHAPE):
    made = generator(seed)
    columns = torch.randint(0, 3, (count, 2), generator=made)
    return torch.cat([columns, torch.randint(0, image.levels, (count, image.size), generator=made)], dim=1).int()


def gradient(family, codes, *, units=None, clip_norm=1.0, chunk=4):
    return chunked_gradient_sum(
        family.shared,
        lambda part: family.unit_loss(part, generator=generator(3)),
        codes,
        units=units,
        clip_norm=clip_norm,
        chunk=chunk,
        padded=True,
    )


@pytest.mark.parametrize("name", TRAINED)
def test_no_records_have_no_losses(name):
    family = build(name)
    assert family.unit_loss(records(0), generator=generator()).shape == (0,)
    assert float(gradient(family, records(0)).norm()) == 0.0


def test_the_table_of_image_families_is_another():
    assert set(TRAINED) <= set(IMAGE_FAMILIES)
    with pytest.raises(StudyError, match="for images.*vae, gan"):
        build_family("vaegan", {}, cardinalities=(2,), label=None, image=SHAPE)
    with pytest.raises(StudyError, match="encoder_widths does not exist"):
        build("vae", {"encoder_widths": [3]})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vae", {"widths": []}, "widths=.*one to three"),
        ("vae", {"widths": [4, 4, 4, 4]}, "one to three"),
        ("vae", {"views": 0}, "views=0"),
        ("vae", {"shift": 9}, "shift=9"),
        ("vae", {"latent": 0}, "latent=0"),
        ("vae", {"kl_weight": 0.0}, "kl_weight"),
        ("gan", {"critic_norm": "batch"}, "critic_norm='batch'.*group, none"),
        ("gan", {"fake_batch": 0}, "at least 1"),
        ("gan", {"weight_limit": 0.0}, "weight_limit"),
        ("gan", {"generator_widths": [0]}, "generator_widths"),
    ],
)
def test_options_that_cannot_be_used_are_refused(name, options, message):
    with pytest.raises(StudyError, match=message):
        build(name, options)


@pytest.mark.parametrize("options", [{}, {"critic_norm": "group"}])
@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_of_a_record_depends_on_that_record_alone(name, options):
    if options and name != "gan":
        pytest.skip("an option of the other family")
    family, codes = build(name, options), records(12)
    losses = family.unit_loss(codes, generator=generator(3)).detach()
    assert losses.shape == (12,)
    alone = family.unit_loss(codes[[7, 2]], generator=generator(3)).detach()
    torch.testing.assert_close(alone, losses[[7, 2]], rtol=1e-4, atol=1e-4)
    changed = codes.clone()
    changed[0, 5:] = 0
    moved = family.unit_loss(changed, generator=generator(3)).detach()
    own = abs(float(moved[0] - losses[0]))
    assert own > 1e-4
    assert float((moved - losses)[1:].abs().max()) < 0.01 * own


@pytest.mark.parametrize("name", TRAINED)
def test_per_record_gradients_are_those_of_plain_backward_passes(name):
    family, codes = build(name, {"critic_norm": "group"} if name == "gan" else {}), records(5)
    slow = torch.zeros(parameter_count(family.shared), dtype=torch.float64)
    weights = [p for p in family.shared.parameters() if p.requires_grad]
    for row in range(5):
        loss = family.unit_loss(codes[row : row + 1], generator=generator(3)).sum()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        flat = torch.cat([torch.zeros_like(w).flatten() if g is None else g.flatten()
                          for w, g in zip(weights, found, strict=True)]).double()  # fmt: skip
        slow += flat * min(1.0, 0.5 / float(flat.norm()))
    for chunk in (2, 5):
        fast = gradient(family, codes, clip_norm=0.5, chunk=chunk)
        torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-4)
    reference = reference_gradient_sum(
        family.shared, lambda: family.unit_loss(codes, generator=generator(3)), units=None, clip_norm=0.5
    )
    torch.testing.assert_close(reference, slow, rtol=1e-3, atol=1e-4)


class _Bfloat16:
    """The family's passes in bfloat16 on the CPU, as they are on a GPU with ``mixed_precision``."""

    def __call__(self, device):
        return torch.autocast(device.type, dtype=torch.bfloat16)


@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize("name", TRAINED)
def test_the_clip_bounds_every_record_in_either_precision(name, precise, monkeypatch):
    family, codes = build(name), records(6)
    exact = gradient(family, codes)
    if not precise:
        monkeypatch.setattr(family, "precision", _Bfloat16())
    total = gradient(family, codes)
    assert (float((total - exact).norm()) > 1e-4) is not precise  # the passes are rounder than they were
    for row in range(6):
        without = gradient(family, codes[torch.arange(6) != row])
        assert float((total - without).norm()) <= 1.0 + 1e-6
        assert float((total - without).norm()) > 0.5


def test_a_critic_with_batch_norm_is_refused():
    family = build("gan")
    family.critic.trunk.layers[1] = nn.BatchNorm2d(4)
    with pytest.raises(PrivacyError, match="lets records of a batch meet"):
        gradient(family, records(4))


def test_mixed_precision_leaves_the_processor_alone(monkeypatch):
    plain, mixed = build("vae"), build("vae", {"mixed_precision": True})
    codes = records(4)
    losses = [family.unit_loss(codes, generator=generator(2)) for family in (plain, mixed)]
    assert torch.equal(*losses)
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda kind, *, dtype, enabled: asked.append((kind, dtype, enabled)))
    for family in (plain, mixed):
        for kind in ("cpu", "cuda"):
            family.precision(torch.device(kind))
    assert [enabled for _, _, enabled in asked] == [False, False, False, True]
    assert asked[3][:2] == ("cuda", torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", TRAINED)
def test_mixed_precision_on_a_gpu_keeps_the_bound(name):
    family, codes = build(name, {"mixed_precision": True}).cuda(), records(6).cuda()

    def total(rows):
        return chunked_gradient_sum(
            family.shared,
            lambda part: family.unit_loss(part, generator=torch.Generator("cuda").manual_seed(3)),
            rows,
            units=None,
            clip_norm=1.0,
            chunk=4,
            padded=True,
        )

    for row in range(6):
        kept = [place for place in range(6) if place != row]
        assert float((total(codes) - total(codes[kept])).norm()) <= 1.0 + 1e-6


@pytest.mark.parametrize("name", TRAINED)
def test_draws_are_whole_records_of_the_condition(name):
    family = build(name)
    mask = torch.tensor([False, True, False])
    columns, weight = family.draw(30, allowed={0: mask}, generator=generator())
    assert columns.shape == (30, 2)
    assert (columns[:, 0] == 1).all()
    torch.testing.assert_close(weight, torch.full((30,), 1 / 3).log())  # the columns start flat
    rows = family.depict(columns, generator=generator(1))
    assert rows.shape == (30, family.code_columns)
    assert torch.equal(rows[:, :2], columns)
    assert 0 <= int(rows[:, 2:].min()) <= int(rows[:, 2:].max()) < SHAPE.levels
    assert torch.equal(rows, family.depict(columns, generator=generator(1)))
    assert not torch.equal(rows, family.depict(columns, generator=generator(2)))


def test_the_critic_starts_with_the_generator_and_goes_on_bit_by_bit():
    family, again = build("gan", {"fake_batch": 6, "critic_steps": 1}), build("gan", {"fake_batch": 6})
    again.options = family.options
    family.free_steps(generator=generator(1))
    again.load_state_dict(family.state_dict())
    again.load_training_state(family.training_state())
    for each in (family, again):
        each.free_steps(generator=generator(2))
        gradient_of_fakes = each.public_gradient(clip_norm=1.0, generator=generator(3))
        assert gradient_of_fakes.shape == (parameter_count(each.shared),)
        assert 0 < float(gradient_of_fakes.norm()) <= 1.0
    assert all(torch.equal(a, b) for a, b in zip(family.parameters(), again.parameters(), strict=True))
    fresh = build("gan", {"fake_batch": 6})
    assert any(not torch.equal(a, b) for a, b in zip(family.parameters(), fresh.parameters(), strict=True))


def test_a_wasserstein_critic_stays_bounded_and_its_columns_do_not():
    family = build("gan", {"loss": "wasserstein", "weight_limit": 0.01, "fake_batch": 4})
    family.columns.decoder.set_shapes([torch.tensor([5.0, 0, 0]), torch.zeros(4)])
    family.free_steps(generator=generator(1))
    bounded = [*family.critic.trunk.parameters(), *family.critic.score.parameters()]
    assert max(float(weight.detach().abs().max()) for weight in bounded) <= 0.01
    assert float(family.columns.decoder.shapes.weight.detach().max()) == 5.0


@pytest.mark.parametrize("name", TRAINED)
def test_released_counts_become_shares_of_the_columns(name):
    family, codes = build(name), records(4000)
    assert isinstance(family, ImageFamily)
    counts = family.statistics.weighted_sum(1, codes.long(), torch.ones(4000, dtype=torch.float64))
    family.learn_statistics(1, counts / 4000, deviation=0.0, generator=generator())
    drawn = family.draw(4000, allowed={}, generator=generator())[0]
    real = torch.bincount(codes[:, 1].long(), minlength=4) / 4000
    assert float((torch.bincount(drawn[:, 1], minlength=4) / 4000 - real).abs().max()) < 0.03
    assert int((drawn[:, 1] == 3).sum()) < 20  # a code that no record has


@pytest.mark.parametrize("sides", [(8, 8), (64, 64), (28, 9)])
@pytest.mark.parametrize("name", TRAINED)
def test_every_allowed_shape_can_be_built(name, sides):
    image = ImageShape(height=sides[0], width=sides[1], channels=3)
    family = build_family(name, {}, cardinalities=(2,), label=0, image=image)
    codes = torch.zeros(2, 1 + image.size, dtype=torch.int32)
    assert family.unit_loss(codes, generator=generator()).isfinite().all()
    rows = family.depict(torch.zeros(2, 1, dtype=torch.long), generator=generator())
    assert rows.shape == codes.shape
    assert 8 <= family.most_rows_per_pass <= 8192


def bars(count):
    """Dark images with a bright bar, upright for class 1 and lying for class 0."""
    image = ImageShape(height=8, width=8, levels=4)
    made = generator(9)
    labels = torch.randint(0, 2, (count,), generator=made)
    pixels = torch.randint(0, 2, (count, 8, 8), generator=made).int()
    pixels[:, 3] = 3
    pixels = torch.where(labels[:, None, None] == 1, pixels.transpose(1, 2), pixels)
    return image, torch.cat([labels[:, None].int(), pixels.flatten(1)], dim=1)


def uprightness(rows, image):
    """How much of the brightness lies in columns rather than in rows, ``[n]``."""
    pixels = split_codes(rows, image)[1][:, 0]
    return pixels.sum(dim=1).square().sum(dim=1) - pixels.sum(dim=2).square().sum(dim=1)


def test_an_auto_encoder_learns_what_belongs_to_a_class():
    image, codes = bars(600)
    family = build_family("vae", {"widths": [8, 8], "latent": 4}, cardinalities=(2,), label=0, image=image)
    weights = [p for p in family.shared.parameters() if p.requires_grad]
    optimiser, made = torch.optim.Adam(weights, lr=0.01), generator(2)
    columns = torch.tensor([[0], [1]]).repeat(50, 1)

    def gap():
        upright = uprightness(family.depict(columns, generator=generator(4)), image)
        return float(upright[1::2].mean() - upright[::2].mean())

    before = gap()
    for _ in range(50):
        rows = codes[torch.randint(len(codes), (64,), generator=made)]
        parts = (gradient(family, rows, clip_norm=20.0, chunk=64) / 64).float().split([p.numel() for p in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight.grad = part.view_as(weight)
        optimiser.step()
    real = uprightness(codes, image)
    assert gap() > 0.25 * float(real[codes[:, 0] == 1].mean() - real[codes[:, 0] == 0].mean())
    assert abs(before) < 0.02 * gap()


def test_pixels_are_the_nearest_codes():
    shape = ImageShape(height=8, width=8, levels=5)
    codes = torch.arange(64)[None] % 5
    again = pixel_codes(split_codes(codes, shape)[1], shape)
    assert torch.equal(again, codes)
    assert pixel_codes(torch.full((1, 1, 8, 8), 1.7), shape).unique().tolist() == [4]
    assert pixel_codes(torch.full((1, 1, 8, 8), -0.2), shape).unique().tolist() == [0]
