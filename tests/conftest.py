"""What many tests need: a tiny public table, and a study of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocol.study import Study
from records.dataset import Records
from records.schema import Schema

SCHEMA: dict[str, Any] = {
    "target": "ill",
    "columns": [
        {"name": "age", "kind": "integer", "lower": 20, "upper": 29},
        {"name": "colour", "kind": "categorical", "categories": ["red", "green", "blue"], "missing": True},
        {"name": "ill", "kind": "boolean"},
    ],
}


@pytest.fixture
def tiny_study() -> Callable[..., Study]:
    """Return a builder of a study of two sites and three rounds; sections may be overridden."""

    def build(**sections: dict[str, Any]) -> Study:
        mapping: dict[str, Any] = {
            "study": {"name": "tiny", "purpose": "A test."},
            "schema": SCHEMA,
            "model": {"family": "vae", "options": {"latent": 2}},
            "training": {"rounds": 3},
            "privacy": {"epsilon": 5.0, "delta": 1e-4, "sample_rate": 0.5},
            "federation": {"sites": 2, "public_records": 100},
        }
        for name, section in sections.items():
            mapping[name] = mapping[name] | section
        return Study.from_mapping(mapping)

    return build


@pytest.fixture
def tiny_records() -> Callable[..., Records]:
    """Return a builder of records whose ``ill`` depends on ``age``."""

    def build(count: int, *, seed: int = 0) -> Records:
        generator = np.random.default_rng(seed)
        age = generator.integers(0, 10, count)
        colour = generator.integers(0, 4, count)
        ill = (generator.random(count) < age / 10).astype(int)
        codes = np.stack([age, colour, ill], axis=1).astype(np.int32)
        return Records(codes=codes, persons=None, schema=Schema.from_mapping(SCHEMA))

    return build


@pytest.fixture
def without_noise(tiny_study: Callable[..., Study]) -> Callable[..., Study]:
    """Return a builder of tiny studies in the deterministic test mode."""

    def build(**sections: dict[str, Any]) -> Study:
        study = tiny_study(**sections)
        from protocol.terms import NoiseOrigin

        return replace(study, privacy=replace(study.privacy, noise=NoiseOrigin.DETERMINISTIC))

    return build


@pytest.fixture
def given_noise(tiny_study: Callable[..., Study]) -> Callable[..., Study]:
    """Return a builder of tiny studies that name their noise multiplier instead of an epsilon; 0 for none."""

    def build(noise_multiplier: float, **sections: dict[str, Any]) -> Study:
        study = tiny_study(**sections)
        terms = replace(study.privacy, epsilon=None, noise_multiplier=noise_multiplier)
        return replace(study, privacy=terms)

    return build
