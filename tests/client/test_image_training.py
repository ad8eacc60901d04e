"""What a site computes on images: the sum of a slow twin, for records and for persons, with views inside the clip."""

import numpy as np
import pytest
import torch

from client.training import Trainer
from privacy.plan import PrivacyPlan
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from records.dataset import Records
from strategies.study_model import build_study_model, study_schema

COUNT = 7


def image_study(*, unit, views, family="vae"):
    options = {"views": views, "latent": 2}
    options |= {"widths": [4]} if family == "vae" else {"critic_widths": [4]}
    return Study.from_mapping(
        {
            "study": {"name": "stripes"},
            "schema": {
                "person": "who",
                "image": {"height": 8, "width": 8, "levels": 4},
                "columns": [{"name": "label", "kind": "categorical", "categories": ["0", "1", "2"]}],
            },
            "model": {"family": family, "options": options},
            "training": {"rounds": 2},
            "privacy": {"epsilon": 8.0, "delta": 1e-3, "sample_rate": 0.7, "unit": unit, "clip_norm": 0.5},
            "federation": {"sites": 2, "public_records": 60},
        }
    )


def slow_sum(study, records, random):
    """One unit, one record, one view at a time."""
    module = build_study_model(study)
    trainable = [p for p in module.shared.parameters() if p.requires_grad]
    units = records.units if study.privacy.unit == "person" else np.arange(len(records))
    chosen = random.child("sample").bernoulli(int(units.max()) + 1, study.privacy.sample_rate)
    views_seed, seed = (random.child(name).seed64() >> 1 for name in ("views", "latent"))
    total = np.zeros(sum(p.numel() for p in trainable))
    for unit in np.flatnonzero(chosen):
        rows = []
        for row in np.flatnonzero(units == unit):
            codes = torch.as_tensor(records.codes[row : row + 1])
            views = module.views(codes, generator=torch.Generator().manual_seed(views_seed))
            for view in views:
                loss = module.unit_loss(view[None], generator=torch.Generator().manual_seed(seed))
                parts = torch.autograd.grad(loss.sum(), trainable, allow_unused=True)
                flat = [(torch.zeros_like(p) if g is None else g).flatten()
                        for p, g in zip(trainable, parts, strict=True)]  # fmt: skip
                rows.append(torch.cat(flat).double().numpy())
        mean = np.mean(rows, axis=0)
        total += mean * min(1.0, study.privacy.clip_norm / np.linalg.norm(mean))
    return total


@pytest.mark.parametrize("family", ["vae", "gan"])
@pytest.mark.parametrize("unit", ["record", "person"])
@pytest.mark.parametrize("views", [1, 3])
def test_the_sum_is_that_of_the_slow_twin(unit, views, family):
    study = image_study(unit=unit, views=views, family=family)
    made = np.random.default_rng(0)
    codes = np.concatenate([made.integers(0, 3, (COUNT, 1)), made.integers(0, 4, (COUNT, 64))], axis=1)
    persons = np.array([0, 1, 0, 2, 3, 1, 4], dtype=np.int64)
    records = Records(codes=codes.astype(np.int32), persons=persons, schema=study_schema(study))
    trainer = Trainer(PrivacyPlan.from_study(study), records, device=torch.device("cpu"))
    module = build_study_model(study)
    weights = torch.nn.utils.parameters_to_vector([p for p in module.shared.parameters() if p.requires_grad])
    found = trainer.gradient_sum(weights.detach().numpy(), random=DeterministicRandom(3))
    expected = slow_sum(study, records, DeterministicRandom(3))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert np.linalg.norm(found) > 0.4


def test_an_empty_sample_is_a_sample():
    study = image_study(unit="record", views=3)
    records = Records(
        codes=np.zeros((0, 65), dtype=np.int32), persons=np.zeros(0, dtype=np.int64), schema=study_schema(study)
    )
    trainer = Trainer(PrivacyPlan.from_study(study), records, device=torch.device("cpu"))
    weights = np.zeros(trainer.dimension, dtype=np.float32)
    assert not trainer.gradient_sum(weights, random=DeterministicRandom(3)).any()
