"""What the coordinator sees of a twin's round: sums of clipped gradients, with the noise that was planned."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from models.family import Family
from privacy.dp_sgd import clipped_gradient_sum
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.randomness import DeterministicRandom
from protocol.study import Study
from protocol.terms import NoiseOrigin, Trust
from simulations.audit.channel.twin import ChannelTwin, Setting, input_layers
from strategies.study_model import build_study_model

Studies = Callable[..., Study]
CODES = np.array([[0, 1, 0], [9, 3, 1], [4, 0, 1], [7, 2, 0], [2, 2, 1]], dtype=np.int32)


def observed(study: Study, setting: Setting, *, seed: int = 0, **options: Any) -> np.ndarray:
    twin = ChannelTwin(study=study, setting=setting, batch=1 if setting.summed else len(CODES))
    return twin.observe(CODES, random=DeterministicRandom(seed), **options).vector


def critic_gradients(study: Study, codes: np.ndarray) -> np.ndarray:
    """The sum of clipped gradients, one record after the other; a critic's loss draws nothing."""
    model = build_study_model(study)
    total = np.zeros(sum(p.numel() for p in model.shared.parameters()))

    def loss_of(record: torch.Tensor) -> Callable[[], torch.Tensor]:
        return lambda: model.unit_loss(record[None], generator=torch.Generator())

    for record in torch.as_tensor(codes):
        loss, clip_norm = loss_of(record), study.privacy.clip_norm
        total += clipped_gradient_sum(model.shared, loss, units=None, clip_norm=clip_norm).numpy()
    return total


@pytest.mark.parametrize("setting", [Setting.NO_PROTECTION, Setting.SECURE_SUM])
@pytest.mark.parametrize("unit", ["record", "person"])
def test_without_noise_the_sum_of_clipped_gradients_is_seen(
    claiming_study: Studies, setting: Setting, unit: str
) -> None:
    study = claiming_study(family="gan", unit=unit)
    assert np.allclose(observed(study, setting), critic_gradients(study, CODES), atol=1e-4)
    without = critic_gradients(study, np.delete(CODES, 3, axis=0))
    assert np.allclose(observed(study, setting, left_out=3), without, atol=1e-4)
    assert not np.allclose(observed(study, setting), without, atol=1e-2)


@pytest.mark.parametrize("setting", [Setting.LOCAL_NOISE, Setting.SHARED_NOISE])
@pytest.mark.parametrize("strategy", ["gradients", "updates"])
def test_noise_has_the_scale_that_the_attacker_is_told(
    claiming_study: Studies, setting: Setting, strategy: str
) -> None:
    study = claiming_study(strategy=strategy, noise=1.5)
    twin = ChannelTwin(study=study, setting=setting, batch=1 if setting.summed else len(CODES))
    seen = [twin.observe(CODES, random=DeterministicRandom(seed)) for seed in range(8)]
    noise = np.std([each.vector for each in seen], axis=0, ddof=1)
    # The records' own latent draws add a little; what a change of the weights was clipped by takes a little away.
    assert float(np.sqrt(np.mean(noise**2))) == pytest.approx(seen[0].noise, rel=0.15)
    if strategy == "gradients":
        # Golden: in a sum of five sites four shares must suffice, since a site knows its own.
        shares = 5 / 4 if setting.summed else 1
        assert seen[0].noise == pytest.approx(1.5 * study.privacy.clip_norm * np.sqrt(shares), rel=1e-2)


def test_noise_does_not_depend_on_what_the_study_says_of_trust(claiming_study: Studies) -> None:
    plain, summed = (
        ChannelTwin(study=claiming_study(trust=trust, sites=7), setting=Setting.SHARED_NOISE, batch=1)
        for trust in ("none", "sum")
    )
    assert plain.plan.step_mechanism(40) == summed.plan.step_mechanism(40)
    assert summed.plan.study.privacy.trust is Trust.SUM
    assert summed.plan.study.privacy.noise is NoiseOrigin.SYSTEM


@pytest.mark.parametrize(("sites", "seen"), [(2, 5), (7, 7), (30, 10)])
def test_sites_of_a_sum(claiming_study: Studies, sites: int, seen: int) -> None:
    study = claiming_study(sites=sites)
    assert ChannelTwin(study=study, setting=Setting.SECURE_SUM, batch=1).records == seen
    assert ChannelTwin(study=study, setting=Setting.NO_PROTECTION, batch=3).records == 3


def test_divisor_of_a_step_is_the_studys(claiming_study: Studies) -> None:
    study = claiming_study(strategy="updates", sites=4, public_records=800, rate=0.2)
    for setting in Setting:
        plan = ChannelTwin(study=study, setting=setting, batch=1).plan
        assert plan.expected_units_per_site == PrivacyPlan.from_study(study).expected_units_per_site == 40


@pytest.mark.parametrize(("options", "entered"), [({}, [3, 1, 2]), ({"decoder": "factorised"}, [3])])
def test_layers_of_an_auto_encoder(tiny_study: Studies, options: dict[str, Any], entered: list[int]) -> None:
    family = build_study_model(tiny_study(model={"options": {"latent": 2} | options}))
    count = sum(p.numel() for p in family.shared.parameters())
    layers = input_layers(family, np.arange(float(count)))
    assert [each.entered for each in layers] == entered
    assert all(each.rows.shape[0] == sum((10, 4, 2)[: each.entered]) for each in layers)
    assert [each.logits for each in layers] == [False] + [True] * (len(entered) - 1)
    named = dict(family.shared.named_parameters())
    start = 0
    for name, parameter in named.items():
        if name == "encoder.0.weight":
            assert layers[0].rows[0, 0] == start
        start += parameter.numel()


def test_layers_of_a_critic(claiming_study: Studies) -> None:
    family = build_study_model(claiming_study(family="gan"))
    (layer,) = input_layers(family, np.arange(float(sum(p.numel() for p in family.shared.parameters()))))
    assert layer.rows.shape == (16, 12)
    assert layer.rows[:3, 0].tolist() == [0.0, 1.0, 2.0]


def test_unknown_family_is_refused(tiny_study: Studies) -> None:
    layout = build_study_model(tiny_study()).layout
    family = cast(Family, SimpleNamespace(shared=nn.Linear(2, 1), layout=layout))
    with pytest.raises(InputError, match="vae or gan"):
        input_layers(family, np.zeros(3))


def test_wrong_numbers_of_records_are_refused(claiming_study: Studies) -> None:
    with pytest.raises(InputError, match="at least one record"):
        ChannelTwin(study=claiming_study(), setting=Setting.LOCAL_NOISE, batch=0)
    twin = ChannelTwin(study=claiming_study(), setting=Setting.LOCAL_NOISE, batch=2)
    with pytest.raises(InputError, match="Give as many"):
        twin.observe(CODES, random=DeterministicRandom(0))
