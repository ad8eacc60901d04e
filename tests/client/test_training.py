"""What a site computes: the same sum as a slow twin, for persons too, and for sites with next to no records."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.training import Trainer
from privacy.plan import PrivacyPlan
from protocol.errors import RecordsError, WireError
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from records.dataset import Records
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model, study_schema

MakeStudy = Callable[..., Study]
MakeRecords = Callable[..., Records]
CPU = torch.device("cpu")


def start(study: Study) -> np.ndarray:
    """Initial weights, pushed off the places where a decoder's gradient vanishes."""
    weights = ServerModel(build_study_model(study), study.training).weights()
    return weights + np.random.default_rng(0).normal(0, 0.1, weights.shape).astype(np.float32)


def slow_sum(study: Study, records: Records, weights: np.ndarray, random: DeterministicRandom) -> np.ndarray:
    """One unit at a time, one record at a time: gradient by autograd, mean over the unit, clip, add up."""
    module = build_study_model(study)
    trainable = [p for p in module.shared.parameters() if p.requires_grad]
    torch.nn.utils.vector_to_parameters(torch.tensor(weights), trainable)
    units = records.units if study.privacy.unit == "person" else np.arange(len(records))
    count = int(units.max()) + 1 if len(units) else 0
    chosen = random.child("sample").bernoulli(count, study.privacy.sample_rate)
    seed = random.child("latent").seed64() >> 1
    total = np.zeros(len(weights))
    for unit in np.flatnonzero(chosen):
        rows = []
        for row in np.flatnonzero(units == unit):
            codes = torch.as_tensor(records.codes[row : row + 1])
            loss = module.unit_loss(codes, generator=torch.Generator().manual_seed(seed))
            parts = torch.autograd.grad(loss.sum(), trainable, allow_unused=True)
            flat = [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(trainable, parts, strict=True)]
            rows.append(torch.cat(flat).double().numpy())
        mean = np.mean(rows, axis=0)
        total += mean * min(1.0, study.privacy.clip_norm / np.linalg.norm(mean))
    return total


def with_persons(records: Records, study: Study, persons: list[int]) -> Records:
    return replace(records, persons=np.array(persons, dtype=np.int64), schema=study_schema(study))


@pytest.mark.parametrize("family", ["vae", "gan"])
@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("clip_norm", [0.05, 100.0])
def test_gradient_sum_is_that_of_the_slow_twin(
    tiny_study: MakeStudy, tiny_records: MakeRecords, family: str, count: int, clip_norm: float
) -> None:
    study = tiny_study(model={"family": family, "options": {}}, privacy={"clip_norm": clip_norm})
    records, weights = tiny_records(count), start(study)
    trainer = Trainer(PrivacyPlan.from_study(study), records, device=CPU)
    for seed in range(3):
        found = trainer.gradient_sum(weights, random=DeterministicRandom(seed))
        expected = slow_sum(study, records, weights, DeterministicRandom(seed))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=2e-6 * max(1.0, np.abs(expected).max()))


def test_a_persons_records_make_one_clipped_gradient(tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    study = tiny_study(schema={"person": "who"}, privacy={"unit": "person", "clip_norm": 0.05})
    records = with_persons(tiny_records(9), study, [2, 0, 2, 2, 1, 2, 0, 2, 2])
    weights = start(study)
    trainer = Trainer(PrivacyPlan.from_study(study), records, device=CPU)
    seen = set()
    for seed in range(6):
        found = trainer.gradient_sum(weights, random=DeterministicRandom(seed))
        np.testing.assert_allclose(found, slow_sum(study, records, weights, DeterministicRandom(seed)), atol=1e-6)
        seen.add(round(float(np.linalg.norm(found)) / 0.05, 2))
        assert np.linalg.norm(found) <= 3 * 0.05 + 1e-9, "three persons gave more than three clip norms"
    assert len(seen) > 1


def test_persons_are_protected_only_where_the_records_say_who_they_are(
    tiny_study: MakeStudy, tiny_records: MakeRecords
) -> None:
    study = tiny_study(schema={"person": "who"}, privacy={"unit": "person"})
    nameless = replace(tiny_records(5), schema=study_schema(study))
    with pytest.raises(RecordsError, match="persons"):
        Trainer(PrivacyPlan.from_study(study), nameless, device=CPU)


def test_a_record_study_counts_records_though_persons_are_known(
    tiny_study: MakeStudy, tiny_records: MakeRecords
) -> None:
    study = tiny_study(schema={"person": "who"}, privacy={"clip_norm": 0.05, "sample_rate": 1.0})
    records = with_persons(tiny_records(6), study, [0] * 6)
    found = Trainer(PrivacyPlan.from_study(study), records, device=CPU).gradient_sum(
        start(study), random=DeterministicRandom(0)
    )
    assert np.linalg.norm(found) > 0.05 * 1.01


def test_a_local_update_is_steps_of_noisy_descent_written_out(tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    training = {"strategy": "updates", "local_steps": 3, "local_learning_rate": 0.2, "update_norm": 1e6}
    study = tiny_study(training=training)
    plan, records, weights = PrivacyPlan.from_study(study), tiny_records(20), start(study)
    found = Trainer(plan, records, device=CPU).local_update(weights, random=DeterministicRandom(3))
    current = weights.astype(np.float64)
    mechanism = plan.step_mechanism(len(weights))
    for step in range(3):
        source = DeterministicRandom(3).child("step", step)
        exact = slow_sum(study, records, current.astype(np.float32), source)
        noisy = mechanism.privatise(exact, random=source.child("noise"))
        # 100 public records, sample rate 0.5, two sites: 25 units are expected in a step at a site.
        current = current - 0.2 * noisy * mechanism.grid.step / 25.0
    np.testing.assert_allclose(found, current - weights, atol=1e-5)


def test_a_local_update_is_bounded(tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    study = tiny_study(training={"strategy": "updates", "update_norm": 0.01})
    trainer = Trainer(PrivacyPlan.from_study(study), tiny_records(5), device=CPU)
    change = trainer.local_update(start(study), random=DeterministicRandom(0))
    assert np.linalg.norm(change) == pytest.approx(0.01)


def test_weights_of_another_model_are_refused(tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    study = tiny_study()
    trainer = Trainer(PrivacyPlan.from_study(study), tiny_records(5), device=CPU)
    for weights in (start(study)[:-1], start(study)[None], np.zeros(0, dtype=np.float32)):
        with pytest.raises(WireError, match="weights"):
            trainer.gradient_sum(weights, random=DeterministicRandom(0))


def test_a_trainer_does_not_change_what_it_was_given(tiny_study: MakeStudy, tiny_records: MakeRecords) -> None:
    study = tiny_study()
    weights = start(study)
    weights.setflags(write=False)
    before = weights.copy()
    trainer = Trainer(PrivacyPlan.from_study(study), tiny_records(20), device=CPU)
    first = trainer.gradient_sum(weights, random=DeterministicRandom(0))
    trainer.gradient_sum(weights + 1, random=DeterministicRandom(1))
    np.testing.assert_array_equal(weights, before)
    np.testing.assert_array_equal(first, trainer.gradient_sum(weights, random=DeterministicRandom(0)))
