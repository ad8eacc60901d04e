"""Gradients of single records, and the attack on all rounds, against dense matrices."""

from itertools import product

import numpy as np
import pytest
import torch

from models.families import build_family
from privacy.audit.intervals import auroc
from protocol.errors import InputError
from protocol.study import Study
from simulations.audit.model.deadline import Deadline
from simulations.audit.model.pool import Crowd, uniform_codes
from simulations.audit.model.record_gradients import RecordGradients
from simulations.audit.model.signals import gradients
from simulations.audit.model.twin import TrainedTwin

CARDINALITIES, CLIP = (4, 3, 5), 0.7
OPTIONS = {"vae": {"latent": 2}, "gan": {"latent": 3, "generator_widths": [8], "critic_widths": [8]}}


def dense(family, codes, weights=None, *, seed=0, clip_norm=CLIP) -> np.ndarray:
    """One backward pass per record; latent noise is drawn for the batch, so each record's loss is taken out of it."""
    model = build_family(family, OPTIONS[family], cardinalities=CARDINALITIES, label=None)
    own = list(model.shared.parameters())
    if weights is not None:
        torch.nn.utils.vector_to_parameters(torch.as_tensor(weights), own)
    rows = []
    for record in range(len(codes)):
        losses = model.unit_loss(torch.as_tensor(codes), generator=torch.Generator().manual_seed(seed))
        found = torch.autograd.grad(losses[record], own, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(own, found, strict=True)]
        row = torch.cat([each.flatten() for each in filled])
        rows.append(row.double().numpy() * min(1.0, clip_norm / float(row.norm())))
    return np.stack(rows)


def some(family, count=9, seed=0):
    codes = uniform_codes(CARDINALITIES, count, generator=np.random.default_rng(seed))
    model = build_family(family, OPTIONS[family], cardinalities=CARDINALITIES, label=None)
    start = torch.nn.utils.parameters_to_vector(model.shared.parameters()).detach()
    # Some tensors begin at zero; nothing should.
    return codes, model, start + 0.1 * torch.randn(len(start), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", ["vae", "gan"])
def test_products_and_sums_are_those_of_dense_gradients(family):
    codes, model, weights = some(family)
    slow = dense(family, codes, weights, seed=3)
    fast = RecordGradients(model, weights, codes, clip_norm=CLIP, seed=3)
    vector = np.random.default_rng(1).standard_normal(slow.shape[1])
    shares = np.random.default_rng(2).standard_normal(len(codes))
    assert fast.along(torch.as_tensor(vector)).numpy() == pytest.approx(slow @ vector, abs=1e-4)
    assert fast.products().numpy() == pytest.approx(slow @ slow.T, abs=1e-4)
    assert fast.combined(torch.as_tensor(shares)).numpy() == pytest.approx(shares @ slow, abs=1e-4)
    # Clipped where they must be, and nowhere else.
    free = RecordGradients(model, weights, codes, clip_norm=1e6, seed=3).products().diagonal().sqrt().numpy()
    assert fast.products().diagonal().sqrt().numpy() == pytest.approx(np.minimum(free, CLIP), rel=1e-4)
    assert free.max() > CLIP


def test_a_network_with_other_layers_is_refused():
    codes, model, weights = some("gan")
    model.critic.append(torch.nn.LayerNorm(1))
    with pytest.raises(InputError):
        RecordGradients(model, weights, codes, clip_norm=CLIP, seed=0)


def made_up_twin(study: Study, words, weights, step) -> TrainedTwin:
    model = build_family("gan", OPTIONS["gan"], cardinalities=CARDINALITIES, label=None)
    return TrainedTwin(study=study, insider=model, released=model, weights=weights, words=words, step=step)


def critic_study(**privacy) -> Study:
    columns = [
        {"name": f"c{number}", "kind": "categorical", "categories": [f"v{code}" for code in range(count)]}
        for number, count in enumerate(CARDINALITIES)
    ]
    return Study.from_mapping(
        {
            "study": {"name": "sums", "purpose": "A test."},
            "schema": {"columns": columns},
            "model": {"family": "gan", "options": OPTIONS["gan"]},
            "training": {"rounds": 3},
            "privacy": {"sample_rate": 0.3, "delta": 1e-5, "clip_norm": CLIP} | privacy,
            "federation": {"sites": 2, "public_records": 100},
        }
    )


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_the_signal_is_fishers_discriminant(noise):
    """Against the covariance matrix written out and inverted."""
    study, step = critic_study(noise_multiplier=noise), 1e-4
    codes, _, start = some("gan")
    crowd_codes = some("gan", count=6, seed=4)[0]
    crowd = Crowd(codes=crowd_codes, numbers=np.linspace(3.0, 9.0, 6))
    generator = np.random.default_rng(5)
    weights = np.stack([start.numpy() + 0.05 * generator.standard_normal(len(start)) for _ in range(3)])
    words = generator.integers(-20_000, 20_000, size=(2, 3, len(start)))
    views = np.arange(len(codes)) % 2
    twin = made_up_twin(study, words, weights.astype(np.float32), step)
    found = gradients(twin, codes, views=views, crowd=crowd, deadline=Deadline(60.0))
    slow = np.zeros(len(codes))
    for number in range(3):
        known = dense("gan", crowd_codes, weights[number].astype(np.float32))
        spread = (known.T * crowd.numbers * 0.3 * 0.7) @ known
        unknown = max(0.1 / len(start), 1e-5) * np.trace(spread)
        covariance = spread + (noise**2 * CLIP**2 + unknown) * np.eye(len(start))
        own = dense("gan", codes, weights[number].astype(np.float32))
        for record, view in enumerate(views):
            left = words[view, number] * step - 0.3 * crowd.numbers @ known
            slow[record] += own[record] @ np.linalg.solve(covariance, left)
    assert found == pytest.approx(slow, rel=1e-3, abs=1e-3 * np.abs(slow).max())


def test_the_crowd_has_to_be_weighed_down():
    """Sums of a crowd with a record in every other one; the plain inner product, a broken attack, drowns in it."""
    study, generator = critic_study(noise_multiplier=0.0), np.random.default_rng(6)
    start = some("gan")[2]
    every = generator.permutation(np.array(list(product(*map(range, CARDINALITIES))), dtype=np.int32))
    codes, crowd_codes = every[:20], every[20:]
    known, own = dense("gan", crowd_codes, start), dense("gan", codes, start)
    included, rounds, step = np.arange(20) % 2 == 0, 40, 1e-6
    drawn = generator.random((rounds, len(known))) < 0.3
    taken = (generator.random((rounds, 20)) < 0.3) & included
    words = np.round((drawn @ known + taken @ own) / step).astype(np.int64)[None]
    weights = np.repeat(start.numpy()[None], rounds, axis=0)
    crowd = Crowd(codes=crowd_codes, numbers=np.ones(len(known)))
    twin = made_up_twin(study, words, weights, step)
    found = gradients(twin, codes, views=np.zeros(20, dtype=np.int64), crowd=crowd, deadline=Deadline(60.0))
    plain = (own @ (words[0] * step - 0.3 * known.sum(axis=0)).T).sum(axis=1)
    area, broken = (auroc(each[included], each[~included], confidence=0.95).value for each in (found, plain))
    assert area > 0.7 > broken


def test_the_time_is_watched():
    study = critic_study(noise_multiplier=1.0)
    codes, _, start = some("gan")
    twin = made_up_twin(study, np.zeros((2, 3, len(start)), dtype=np.int64), np.stack([start.numpy()] * 3), 1.0)
    late = Deadline(1e-9)
    with pytest.raises(InputError, match="does not suffice"):
        gradients(
            twin, codes, views=np.zeros(9, dtype=np.int64), crowd=Crowd(codes=codes, numbers=np.ones(9)), deadline=late
        )
    with pytest.raises(InputError):
        Deadline(0.0)
