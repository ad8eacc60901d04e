"""Audits of studies of images: canaries among convolutions, made-up records with pixels, and clear refusals."""

import numpy as np
import pytest
import torch

from models.families import build_family
from models.images.shape import ImageShape
from privacy.audit.mechanism.canaries import CanaryKind, design_canaries
from privacy.dp_sgd import chunked_gradient_sum, parameter_count
from protocol.errors import InputError
from protocol.randomness import DeterministicRandom, SystemRandom
from protocol.study import Study
from records.codec import check_codes
from simulations.audit.channel.attacker import _pool
from simulations.audit.mechanism.canary_family import CanaryFamily, reachable_coordinates, tensor_sizes
from simulations.audit.model.pool import make_pool
from simulations.audit.release.attacks import columns_of
from strategies.study_model import study_schema

SHAPE = ImageShape(height=8, width=8, levels=4)
OPTIONS = {"vae": {"latent": 2, "widths": [4], "views": 3}, "gan": {"critic_widths": [4], "critic_norm": "group"}}
COUNTS = {CanaryKind.DIRAC: 6, CanaryKind.SPREAD: 2, CanaryKind.ZERO: 1, CanaryKind.HUGE: 1, CanaryKind.NON_FINITE: 2}


@pytest.fixture
def study():
    return Study.from_mapping(
        {
            "study": {"name": "stripes"},
            "schema": {
                "image": {"height": 8, "width": 8, "levels": 4},
                "columns": [{"name": "label", "kind": "categorical", "categories": ["0", "1", "2"]}],
            },
            "model": {"family": "vae", "options": OPTIONS["vae"]},
            "training": {"rounds": 2},
            "privacy": {"epsilon": 8.0, "delta": 1e-3, "sample_rate": 0.2},
            "federation": {"sites": 2, "public_records": 60},
        }
    )


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_canaries_add_up_among_convolutions_and_views(name):
    inner = build_family(name, OPTIONS[name], cardinalities=(3,), label=0, image=SHAPE)
    reachable = reachable_coordinates(inner.shared)
    assert 0 < reachable.sum() < parameter_count(inner.shared)  # convolutions cannot be reached
    canaries = design_canaries(
        tensor_sizes(inner.shared), reachable=reachable, counts=COUNTS, clip_norm=0.25, random=SystemRandom()
    )
    family = CanaryFamily(inner, canaries)
    made = np.random.default_rng(0)
    codes = np.zeros((4 + len(canaries), family.code_columns), dtype=np.int32)
    codes[:, 0], codes[:, 1:-1] = made.integers(0, 3, len(codes)), made.integers(0, 4, (len(codes), 64))
    codes[4:, -1] = np.arange(len(canaries)) + 1

    def total(rows):
        views = family.views(torch.from_numpy(rows), generator=torch.Generator().manual_seed(1))
        return chunked_gradient_sum(
            family.shared,
            lambda part: family.unit_loss(part, generator=torch.Generator().manual_seed(2)),
            views,
            units=torch.arange(len(rows)).repeat_interleave(family.views_per_record),
            clip_norm=0.25,
            chunk=min(12, family.most_rows_per_pass),
            padded=True,
        ).numpy()

    added = total(codes) - total(codes[:4])
    expected = 0.25 * canaries.expected(np.ones((1, len(canaries)), dtype=int))[0]
    np.testing.assert_allclose(added, expected, atol=1e-5)
    assert family.take_seen().all()


def test_made_up_records_have_images(study):
    pool = make_pool(study, None, canaries=10, planted_share=0.5, random=DeterministicRandom(0))
    schema = study_schema(study)
    for codes in (pool.base.codes, pool.candidates.codes, pool.population):
        check_codes(codes, schema)
        assert codes.shape[1] == 65
    assert pool.candidates.codes[:, 1:].max() == 3


def test_attacks_that_know_tables_alone_say_so(study):
    with pytest.raises(InputError, match="without images.*cloister audit mechanism"):
        _pool(study, None, np.random.default_rng(0))
    with pytest.raises(InputError, match="without images.*cloister evaluate"):
        columns_of(study_schema(study))
