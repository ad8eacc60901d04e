"""What is tried: read from options and files, and never a promise."""

import numpy as np
import pytest
import tomli_w

from protocol.errors import InputError
from simulations.sweep.space import Choices, Range, Scale, Space, applied


def read(*choices: str, ranges: tuple[str, ...] = ()) -> Space:
    return Space.read(choices=choices, ranges=ranges, file=None)


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("training.learning_rate=0.01,0.03", "training.learning_rate", (0.01, 0.03)),
        ("training.rounds=100", "training.rounds", (100,)),
        ("training.optimiser=sgd, adam", "training.optimiser", ("sgd", "adam")),
        ('training.optimiser="sgd"', "training.optimiser", ("sgd",)),
        ("model.options.hidden=[64,64],[128]", "model.options.hidden", ([64, 64], [128])),
        ("model.options.flag=true,false", "model.options.flag", (True, False)),
    ],
)
def test_lists_are_read_as_toml_or_as_words(text, key, values):
    assert read(text).axes == (Choices(key=key, values=values),)


@pytest.mark.parametrize(
    ("text", "low", "high", "scale", "whole"),
    [
        ("privacy.clip_norm=0.3:3:log", 0.3, 3.0, Scale.LOG, False),
        ("privacy.clip_norm=1:3", 1.0, 3.0, Scale.LINEAR, False),  # the study declares a real number
        ("training.rounds=100:300", 100.0, 300.0, Scale.LINEAR, True),
        ("model.options.latent=1:16:log", 1.0, 16.0, Scale.LOG, True),
        ("statistics.share=0.05:0.3", 0.05, 0.3, Scale.LINEAR, False),
    ],
)
def test_ranges_are_read(text, low, high, scale, whole):
    (axis,) = read(ranges=(text,)).axes
    assert axis == Range(key=text.partition("=")[0], low=low, high=high, scale=scale, whole=whole)


def test_a_file_says_the_same_as_options(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(
        tomli_w.dumps({
            "training": {"learning_rate": [0.01, 0.03]},
            "privacy": {"clip_norm": {"low": 0.3, "high": 3, "scale": "log"}},
            "model": {"family": ["vae", "gan"], "options": {"latent": {"low": 1, "high": 8}}},
        }),
        "utf-8",
    )  # fmt: skip
    found = Space.read(choices=(), ranges=(), file=path)
    wanted = read(
        "training.learning_rate=0.01,0.03",
        "model.family=vae,gan",
        ranges=("privacy.clip_norm=0.3:3:log", "model.options.latent=1:8"),
    )
    assert found.to_mapping() == wanted.to_mapping()


@pytest.mark.parametrize(
    "text",
    [
        "privacy.epsilon=1,10",
        "privacy.delta=1e-5,1e-3",
        "privacy.noise_multiplier=0,1",
        "privacy.unit=record,person",
        "privacy.trust=none,sum",
        "privacy.noise=deterministic",
        "federation.public_records=100,1000",
        "schema.target=a,b",
        "study.name=a,b",
        "training.seed=1,2",
        "training.nonsense=1",
        "model.options=1",
        "model.options.=1",
        "model.options.a.b=1",
        "statistics=1",
    ],
)
def test_what_is_promised_or_unknown_is_not_tuned(text):
    with pytest.raises(InputError):
        read(text)


@pytest.mark.parametrize(
    ("choices", "ranges"),
    [
        ((), ()),
        (("training.rounds",), ()),
        (("training.rounds=",), ()),
        (("training.rounds=3,3",), ()),
        (("model.options.day=2024-01-01",), ()),  # a date, which no journal could keep
        (("training.learning_rate=nan",), ()),
        (("training.rounds=3",), ("training.rounds=3:5",)),
        ((), ("training.rounds=5:3",)),
        ((), ("training.rounds=3",)),
        ((), ("training.rounds=3:5:cubic",)),
        ((), ("training.rounds=a:b",)),
        ((), ("training.learning_rate=0:1:log",)),
        ((), ("training.learning_rate=0.1:inf",)),
    ],
)
def test_what_is_no_space_is_refused(choices, ranges):
    with pytest.raises(InputError):
        Space.read(choices=choices, ranges=ranges, file=None)


def test_a_bad_file_is_refused(tmp_path):
    path = tmp_path / "space.toml"
    with pytest.raises(InputError, match="Check the path"):
        Space.read(choices=(), ranges=(), file=path)
    for text in ("[training\n", "[training]\nrounds = 3\n", "[training]\nrounds = {low = 1, high = 2, step = 1}\n"):
        path.write_text(text, "utf-8")
        with pytest.raises(InputError):
            Space.read(choices=(), ranges=(), file=path)


def test_draws_stay_inside_and_cover_the_scale():
    generator = np.random.default_rng(1)
    log = Range(key="privacy.clip_norm", low=0.01, high=1.0, scale=Scale.LOG, whole=False)
    drawn = np.array([log.draw(generator) for _ in range(2000)])
    assert 0.01 <= drawn.min() < 0.011
    assert 0.9 < drawn.max() <= 1.0
    assert abs((drawn < 0.1).mean() - 0.5) < 0.05  # a linear scale would have 0.09
    whole = Range(key="training.rounds", low=1, high=3, scale=Scale.LINEAR, whole=True)
    assert {whole.draw(generator) for _ in range(100)} == {1, 2, 3}
    assert all(type(whole.draw(generator)) is int for _ in range(5))


def test_values_are_put_in_a_copy():
    study = {"training": {"rounds": 3}, "model": {"family": "vae"}}
    changed = applied(study, {"training.rounds": 5, "model.options.latent": 2})
    assert changed == {"training": {"rounds": 5}, "model": {"family": "vae", "options": {"latent": 2}}}
    assert study == {"training": {"rounds": 3}, "model": {"family": "vae"}}
