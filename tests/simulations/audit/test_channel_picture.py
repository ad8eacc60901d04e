"""The picture of the channel."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.image import imread

from protocol.errors import InputError
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from records.dataset import Records
from simulations.audit.channel.attacker import ChannelAttacker
from simulations.audit.channel.picture import Panel, channel_picture, draw_panels, panels
from strategies.study_model import study_schema

Studies = Callable[..., Study]
Tables = Callable[..., Records]
ORANGE, GREY = (0xF6, 0xB2, 0x6B), (0xEE, 0xF0, 0xF3)


def share_of(picture: bytes, colour: tuple[int, int, int]) -> float:
    pixels = (imread(io.BytesIO(picture))[..., :3] * 255).round()
    return float((np.abs(pixels - colour).max(axis=2) < 1).mean())


@pytest.mark.parametrize("family", ["vae", "gan"])
def test_originals_and_four_settings(claiming_study: Studies, tiny_records: Tables, family: str) -> None:
    study = claiming_study(family=family)
    attacker = ChannelAttacker(study, tiny_records(100), random=DeterministicRandom(0))
    drawn, baseline = panels(attacker, study)
    original, plain, summed, local, shared = drawn
    assert original.guess is None
    assert all((panel.truth == original.truth).all() for panel in drawn)
    assert plain.right == 1.0
    assert summed.right > 0.8
    assert max(local.right, shared.right) < 1.0
    assert 0.0 < baseline < 1.0
    assert "No protection" in plain.title
    assert "5 sites" in summed.title


def test_right_cells_are_orange_and_wrong_ones_grey(tiny_study: Studies) -> None:
    schema, truth = study_schema(tiny_study()), np.array([[0, 1, 0], [9, 3, 1]], dtype=np.int32)
    right, wrong = (
        draw_panels([Panel(title="x", truth=truth, guess=guess)], schema, baseline=0.5)
        for guess in (truth, (truth + 1) % (10, 4, 2))
    )
    assert share_of(right, ORANGE) > 0.05
    assert share_of(right, GREY) < 0.001
    assert share_of(wrong, GREY) > 0.05
    assert share_of(wrong, ORANGE) < 0.001


def test_picture_is_a_png_and_the_same_twice(claiming_study: Studies, tiny_records: Tables) -> None:
    first, second = (
        channel_picture(claiming_study(), tiny_records(40), random=DeterministicRandom(3)) for _ in range(2)
    )
    assert first.startswith(b"\x89PNG\r\n")
    assert first == second
    height, width, _ = imread(io.BytesIO(first)).shape
    assert 800 < width < 2400
    assert 600 < height < 2400


def test_nothing_to_draw_is_refused(tiny_study: Studies) -> None:
    with pytest.raises(InputError, match="No panel"):
        draw_panels([], study_schema(tiny_study()), baseline=0.5)


def test_a_study_without_noise_says_so(claiming_study: Studies, tiny_records: Tables) -> None:
    attacker = ChannelAttacker(claiming_study(noise=0.0), tiny_records(40), random=DeterministicRandom(0))
    drawn, _ = panels(attacker, claiming_study(noise=0.0))
    assert ["adds none" in panel.title for panel in drawn] == [False, False, False, True, True]
