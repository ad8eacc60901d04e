"""Views of a record: functions of it and the key alone, rows of its unit, and within one clip."""

import pytest
import torch

from models.families import build_family
from models.images.augmentation import record_views
from models.images.shape import ImageShape
from privacy.dp_sgd import chunked_gradient_sum

SHAPE = ImageShape(height=8, width=9, channels=3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def records(count):
    return torch.randint(0, 256, (count, 1 + SHAPE.size), generator=generator(1))


def test_an_empty_batch_has_no_views():
    codes = records(3)[:0]
    assert record_views(codes, SHAPE, count=4, shift=1, flip=True, generator=generator()).shape == codes.shape
    assert float(contribution(build(), codes, views_apart=False).norm()) == 0.0


def slowly_moved(pixels, down, right, *, flip):
    """One pixel after the other."""
    found = torch.empty_like(pixels)
    for row in range(SHAPE.height):
        for column in range(SHAPE.width):
            source = min(max(row - down, 0), SHAPE.height - 1), min(max(column - right, 0), SHAPE.width - 1)
            found[:, row, SHAPE.width - 1 - column if flip else column] = pixels[:, source[0], source[1]]
    return found


def test_one_view_is_the_record():
    codes = records(3)
    assert record_views(codes, SHAPE, count=1, shift=2, flip=True, generator=generator()) is codes


@pytest.mark.parametrize("flip", [False, True])
def test_every_view_is_a_move_of_its_own_record(flip):
    codes = records(4)
    found = record_views(codes, SHAPE, count=6, shift=1, flip=flip, generator=generator(5)).view(4, 6, -1)
    seen = set()
    for row in range(4):
        pixels = codes[row, 1:].view(SHAPE.channels, SHAPE.height, SHAPE.width)
        moves = {
            (down, right, mirror): slowly_moved(pixels, down, right, flip=mirror).flatten()
            for down in (-1, 0, 1) for right in (-1, 0, 1) for mirror in ((False, True) if flip else (False,))
        }  # fmt: skip
        assert torch.equal(found[row, 0], codes[row])
        for view in found[row, 1:]:
            assert view[0] == codes[row, 0]
            kinds = [move for move, moved in moves.items() if torch.equal(view[1:], moved)]
            assert len(kinds) == 1
            seen.update(kinds)
    assert len(seen) > 6
    assert any(mirror for _, _, mirror in seen) is flip


def test_views_depend_on_the_record_and_the_key_alone():
    codes = records(5)
    among = record_views(codes, SHAPE, count=3, shift=2, flip=True, generator=generator(5)).view(5, 3, -1)
    alone = record_views(codes[3:4], SHAPE, count=3, shift=2, flip=True, generator=generator(5))
    assert torch.equal(among[3], alone)
    other = record_views(codes[3:4], SHAPE, count=3, shift=2, flip=True, generator=generator(6))
    assert not torch.equal(other, alone)


def test_moves_are_even():
    codes = torch.zeros(3000, 1 + SHAPE.size, dtype=torch.long)
    codes[:, 0] = torch.arange(3000)  # so that no two records share their moves
    codes[:, 1 + 4 * SHAPE.width + 4] = 1
    views = record_views(codes, SHAPE, count=2, shift=1, flip=False, generator=generator(2)).view(3000, 2, -1)
    lit = views[:, 1, 1 : 1 + SHAPE.height * SHAPE.width].argmax(dim=1)
    counts = torch.stack([(lit == (4 + y) * SHAPE.width + 4 + x).sum() for y in (-1, 0, 1) for x in (-1, 0, 1)])
    assert int(counts.sum()) == 3000
    assert float((counts / 3000 - 1 / 9).abs().max()) < 5 * (1 / 9 * 8 / 9 / 3000) ** 0.5


def build():
    return build_family("vae", {"views": 4, "widths": [4]}, cardinalities=(256,), label=0, image=SHAPE)


def contribution(family, codes, *, views_apart):
    """The clipped sum over the views of records; apart, each view would be a unit of its own."""
    rows = family.views(codes, generator=generator(7))
    units = None if views_apart else torch.arange(len(codes)).repeat_interleave(family.views_per_record)
    return chunked_gradient_sum(
        family.shared,
        lambda part: family.unit_loss(part, generator=generator(8)),
        rows,
        units=units,
        clip_norm=1.0,
        chunk=8,
        padded=True,
    )


def test_the_views_of_a_record_are_clipped_together():
    family, codes = build(), records(4)
    whole, without = (contribution(family, part, views_apart=False) for part in (codes, codes[1:]))
    assert 0.5 < float((whole - without).norm()) <= 1.0 + 1e-9
    # The broken twin takes each view for a unit: one record more is then worth up to four clip norms.
    whole, without = (contribution(family, part, views_apart=True) for part in (codes, codes[1:]))
    assert float((whole - without).norm()) > 1.5
