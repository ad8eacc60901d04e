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
from simulations.audit.channel.layers import code_signals, input_layers, public_inputs
from simulations.audit.channel.twin import ChannelTwin, Setting
from strategies.server_model import ServerModel
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


def flat(study: Study) -> tuple[Any, np.ndarray]:
    """A study's model, and a gradient that says where each of its numbers is."""
    family = build_study_model(study)
    return family, np.arange(float(sum(p.numel() for p in family.shared.parameters())))


def starts(family: Family) -> dict[str, int]:
    """Where the gradient of each weight begins."""
    sizes = {name: weight.numel() for name, weight in family.shared.named_parameters()}
    return dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))


@pytest.mark.parametrize(
    ("options", "entered", "sizes"), [({}, [3, 1, 2], (2, 4, 10)), ({"decoder": "factorised"}, [3], (10, 4, 2))]
)
def test_layers_of_an_auto_encoder(
    tiny_study: Studies, options: dict[str, Any], entered: list[int], sizes: tuple[int, ...]
) -> None:
    """Columns are in the order in which the decoder generates them: those with the fewest codes first."""
    family, vector = flat(tiny_study(model={"options": {"latent": 2} | options}))
    layers = input_layers(family, vector)
    assert [each.entered for each in layers] == entered
    assert all(each.rows.shape[0] == sum(sizes[: each.entered]) for each in layers)
    assert [each.logits for each in layers] == [False] + [True] * (len(entered) - 1)
    # The encoder's own columns are those of the record: 16 features enter it, the last column's behind all others.
    first = 0 if sizes[0] == 10 else 14
    assert layers[0].rows[0].tolist() == [starts(family)["encoder.1.weight"] + first + 16 * row for row in range(4)]
    for place, each in enumerate(layers[1:], start=1):
        # Two latent numbers enter before the features, which the decoder scales.
        begin = starts(family)[f"decoder.heads.{place}.weight"] + 2
        assert each.rows[0, 0] == pytest.approx(begin / 0.7)


def test_signals_of_an_auto_encoder(tiny_study: Studies) -> None:
    family, vector = flat(tiny_study(model={"options": {"latent": 2}}))
    found = code_signals(family, vector)
    assert found is not None
    begin = starts(family)["decoder.shapes.weight"]
    assert [each[0] - begin for each in found.totals] == [14, 10, 0]
    assert [each.tolist() for each in found.shares] == [[0.5] * 2, [0.25] * 4, [pytest.approx(0.1)] * 10]
    assert [None if each is None else each.shape for each in found.tables] == [None, (2, 4), (6, 10)]
    with torch.no_grad():
        family.decoder.heads[2].weight[0, 3] = 1.0
    trained = code_signals(family, vector)
    assert trained is not None
    assert trained.shares == trained.tables == ()  # records now have probabilities of their own


def test_layers_of_an_auto_encoder_with_a_critic(claiming_study: Studies) -> None:
    family, vector = flat(claiming_study(family="vaegan"))
    encoder, critic, *heads = input_layers(family, vector)
    assert (encoder.rows.shape, critic.rows.shape) == ((16, 4), (16, 12))
    assert critic.rows[0, 0] == starts(family)["critic.2.weight"] + 14
    assert [each.entered for each in heads] == [1, 2]
    assert public_inputs(family).order == (2, 1, 0)


@pytest.mark.parametrize("family", ["vae", "gan", "vaegan"])
@pytest.mark.parametrize("strategy", ["gradients", "updates"])
def test_weights_are_those_that_sites_receive(claiming_study: Studies, family: str, strategy: str) -> None:
    study = claiming_study(family=family, strategy=strategy)
    twin = ChannelTwin(study=study, setting=Setting.NO_PROTECTION, batch=5)
    model = build_study_model(study)
    assert (twin.weights == ServerModel(model, study.training).weights()).all()
    assert twin.dimension == sum(p.numel() for p in model.shared.parameters())
    assert (len(twin.weights) > twin.dimension) == (family == "gan" and strategy == "updates")
    assert twin.observe(CODES, random=DeterministicRandom(0)).vector.shape == (twin.dimension,)


def test_what_fakes_add_is_taken_away(claiming_study: Studies) -> None:
    """A site without records sends what its fakes make: the attacker expects as much."""
    study = claiming_study(family="gan", strategy="updates")
    twin = ChannelTwin(study=study, setting=Setting.NO_PROTECTION, batch=1)
    silent = [twin.observe(CODES[:1], random=DeterministicRandom(seed), left_out=0) for seed in range(12)]
    vectors = np.array([each.vector for each in silent])
    spread = vectors.std(axis=0, ddof=1)
    assert twin.takes_fakes
    assert float(np.sqrt(np.mean(spread**2))) == pytest.approx(silent[0].noise, rel=0.25)
    assert np.linalg.norm(vectors.mean(axis=0)) < 0.6 * np.linalg.norm(vectors, axis=1).mean()
    plain = claiming_study(family="vae", strategy="updates")
    assert not ChannelTwin(study=plain, setting=Setting.NO_PROTECTION, batch=1).takes_fakes


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
