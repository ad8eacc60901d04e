"""Gradient inversion: without protection it works, and with noise it is held against chance."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from privacy.audit.channel import inversion
from privacy.audit.finding import Claim, Finding, Verdict
from privacy.mechanisms.gaussian import GaussianMechanism
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.randomness import DeterministicRandom, RandomSource
from protocol.study import Study
from records.dataset import Records
from records.schema import Schema
from simulations.audit.channel.attacker import ChannelAttacker, Outcome, attacked_cells, baseline_cells, control_cells
from simulations.audit.channel.audit import ChannelAudit, channel_audit, one_round_claim
from simulations.audit.channel.twin import ChannelTwin, Setting
from strategies.study_model import study_schema

Studies = Callable[..., Study]
Tables = Callable[..., Records]
HONEST = 60 if os.environ.get("CLOISTER_HYPOTHESIS") == "nightly" else 2


def audited(study: Study, records: Records | None = None, *, seed: int = 1, **options: Any) -> ChannelAudit:
    arguments: dict[str, Any] = {"rounds": 8, "batches": (1,)} | options
    return channel_audit(study, records, random=DeterministicRandom(seed), **arguments)


@pytest.fixture
def one_each(tiny_records: Tables) -> Records:
    """Few enough records for the attacker to learn quickly what he can know."""
    return tiny_records(100)


def two_kinds(count: int, schema: Schema) -> Records:
    """A table of two kinds of records: what is in a batch is told by how many there are of each."""
    kinds = np.array([[1, 0, 0], [8, 3, 1]], dtype=np.int32)
    return Records(codes=kinds[np.arange(count) % 2], persons=None, schema=schema)


def break_noise(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Multiply the noise that sites add; what they claim stays."""
    sound = GaussianMechanism.privatise

    def broken(self: GaussianMechanism, vector: np.ndarray, *, random: RandomSource) -> Any:
        if factor == 0.0:
            return self.grid.quantise(vector)
        return sound(replace(self, noise_multiplier=self.noise_multiplier * factor), vector, random=random)

    monkeypatch.setattr(GaussianMechanism, "privatise", broken)


@pytest.mark.parametrize(
    ("family", "strategy"), [("vae", "gradients"), ("vae", "updates"), ("gan", "gradients"), ("vaegan", "gradients")]
)
def test_a_batch_of_one_record_is_read_off_exactly(
    claiming_study: Studies, tiny_records: Tables, family: str, strategy: str
) -> None:
    study = claiming_study(family=family, strategy=strategy)
    attacker = ChannelAttacker(study, tiny_records(60), random=DeterministicRandom(0))
    twin = ChannelTwin(study=study, setting=Setting.NO_PROTECTION, batch=1)
    for number in range(10):
        codes = attacker.batch(twin)
        found = attacker.reconstruct(twin, codes, number=number)
        assert found.exact
        assert found.codes.tolist() == codes.tolist()
        # The same record under the study's noise is not.
        assert not attacker.reconstruct(replace(twin, setting=Setting.LOCAL_NOISE), codes, number=number).exact


@pytest.mark.parametrize("family", ["vae", "vaegan"])
@pytest.mark.parametrize("count", [2, 5, 8])
def test_batches_of_several_records_are_read_off_exactly(
    claiming_study: Studies, tiny_records: Tables, family: str, count: int
) -> None:
    study = claiming_study(family=family)
    attacker = ChannelAttacker(study, tiny_records(60), random=DeterministicRandom(0))
    twin = ChannelTwin(study=study, setting=Setting.NO_PROTECTION, batch=count)
    exact = 0
    for number in range(10):
        codes = attacker.batch(twin)
        found = attacker.reconstruct(twin, codes, number=number)
        exact += sorted(found.codes.tolist()) == sorted(codes.tolist())
        assert not attacker.reconstruct(replace(twin, setting=Setting.LOCAL_NOISE), codes, number=number).exact
    # Of more records than a column has codes, now and then others have the same tables of two columns.
    assert exact >= (10 if count < 8 else 7)


@pytest.mark.parametrize(
    "options", [{}, {"splines": 0}, {"decoder": "factorised", "latent": 8}], ids=["splines", "indicators", "factorised"]
)
def test_codes_that_share_features_are_read_off_too(given_noise: Studies, options: dict[str, Any]) -> None:
    """Numbers whose neighbours share features, and more categories than indicators."""
    columns = [
        {"name": "years", "kind": "integer", "lower": 0, "upper": 79, "missing": True},
        {"name": "place", "kind": "categorical", "categories": [f"place {number}" for number in range(140)]},
        {"name": "ill", "kind": "boolean"},
        {"name": "dose", "kind": "continuous", "lower": 0.0, "upper": 1.0, "bins": 30},
    ]
    study = given_noise(1.5, schema={"columns": columns, "target": "ill"}, model={"options": options})
    attacker = ChannelAttacker(study, None, random=DeterministicRandom(0))
    for count in (1, 4):
        twin = ChannelTwin(study=study, setting=Setting.NO_PROTECTION, batch=count)
        noisy = replace(twin, setting=Setting.LOCAL_NOISE)
        for number in range(3):
            codes = attacker.batch(twin)
            found = attacker.reconstruct(twin, codes, number=number)
            assert found.exact
            assert sorted(found.codes.tolist()) == sorted(codes.tolist())
            assert not attacker.reconstruct(noisy, codes, number=number).exact


@pytest.mark.parametrize("family", ["gan", "vaegan"])
def test_fakes_in_a_change_of_the_weights_leave_little_to_guess(
    claiming_study: Studies, tiny_records: Tables, family: str
) -> None:
    """What a site draws by itself is in what it sends, so that nothing is exact; the attacker knows what to expect."""
    study = claiming_study(family=family, strategy="updates")
    attacker = ChannelAttacker(study, tiny_records(100), random=DeterministicRandom(0))
    twin = ChannelTwin(study=study, setting=Setting.NO_PROTECTION, batch=1)
    noisy = replace(twin, setting=Setting.LOCAL_NOISE)
    right, hidden, guessed = [], [], []
    for number in range(15):
        codes = attacker.batch(twin)
        found = attacker.reconstruct(twin, codes, number=number)
        assert not found.exact
        right.append((found.codes == codes).mean())
        hidden.append((attacker.reconstruct(noisy, codes, number=number).codes == codes).mean())
        guessed.append((attacker.known.most_common() == codes).mean())
    assert np.mean(right) > 0.8
    assert np.mean(right) > np.mean(hidden) + 0.2
    assert np.mean(right) > np.mean(guessed) + 0.2


@pytest.mark.parametrize(("family", "unit"), [("vae", "person"), ("gan", "record")])
def test_four_settings(claiming_study: Studies, one_each: Records, family: str, unit: str) -> None:
    study = claiming_study(family=family, unit=unit)
    records = replace(one_each, schema=study_schema(study), persons=np.arange(len(one_each)))
    found = audited(study, records, batches=(1, 2), rounds=16)
    assert [each.subject for each in found.demonstrations] == [
        "no protection, 1 record at one site",
        "no protection, 2 records at one site",
        "secure sum only, 1 record at each of 5 sites",
    ]
    assert [each.subject for each in found.findings] == [
        "local noise, 1 record at one site",
        "local noise, 2 records at one site",
        "shared noise, 1 record at each of 5 sites",
    ]
    for bare, noisy in zip(found.demonstrations, found.findings, strict=True):
        assert bare.verdict is Verdict.VIOLATED
        assert bare.attacked.value > 0.9
        assert not any("claim" in sentence for sentence in bare.words)
        assert noisy.verdict in (Verdict.CONSISTENT, Verdict.UNDERPOWERED)
        assert noisy.canaries == bare.canaries == 16 * (5 if "each" in noisy.subject else int(noisy.subject[13]))
        assert noisy.baseline is not None
        assert noisy.control is not None
        assert noisy.ceiling is not None
        assert noisy.claim is not None
        assert noisy.ceiling <= noisy.claim.epsilon
        assert Finding.from_mapping(noisy.to_mapping()) == noisy
        # Five per cent for all of them together.
        assert noisy.attacked.confidence == pytest.approx(1.0 - 0.05 / 3)
    assert [(twin.name, bool(twin.caught_by), twin.required) for twin in found.broken_twins] == [
        (f"noise missing: {bare.subject}", noisy.verdict is Verdict.CONSISTENT, False)
        for bare, noisy in zip(found.demonstrations, found.findings, strict=True)
    ]
    assert any("1 in 5" in text or "5 sites" in text for text in found.demonstrations[2].words)


def test_enough_rounds_give_a_verdict(claiming_study: Studies, one_each: Records) -> None:
    found = audited(claiming_study(noise=2.0, family="gan"), one_each, rounds=30)
    assert [each.verdict for each in found.findings] == [Verdict.CONSISTENT, Verdict.CONSISTENT]
    assert [twin.caught_by for twin in found.broken_twins] == [("gradient inversion",)] * 2
    few = audited(claiming_study(noise=0.8), one_each)
    assert few.findings[0].verdict is Verdict.UNDERPOWERED
    assert few.broken_twins[0].caught_by == ()  # as the attack is underpowered
    assert few.findings[0].needed is not None
    assert few.findings[0].needed > 8


@pytest.mark.parametrize(("family", "factor"), [("vae", 0.02), ("gan", 0.02), ("gan", 0.0)])
def test_missing_noise_violates(
    claiming_study: Studies, one_each: Records, monkeypatch: pytest.MonkeyPatch, family: str, factor: float
) -> None:
    break_noise(monkeypatch, factor)
    for found in audited(claiming_study(noise=2.0, family=family), one_each, rounds=40).findings[:1]:
        assert found.verdict is Verdict.VIOLATED
        assert found.claim is not None
        assert found.lower_bound is not None
        assert found.lower_bound > found.claim.epsilon


def test_a_study_without_noise_is_told_so(claiming_study: Studies, one_each: Records) -> None:
    for found in audited(claiming_study(noise=0.0), one_each, rounds=12).findings:
        assert found.verdict is Verdict.VIOLATED
        assert found.claim is None
        assert "nothing protects" in found.words[-1]


def test_what_records_have_in_common_is_no_violation(claiming_study: Studies) -> None:
    """A batch shows how many it has of each kind, noise or not; leaving one record out shows as much."""
    study, records = claiming_study(noise=0.5), two_kinds(80, study_schema(claiming_study()))
    attacker = ChannelAttacker(study, records, random=DeterministicRandom(0))
    outcome = Outcome(twin=ChannelTwin(study=study, setting=Setting.SHARED_NOISE, batch=2))
    for number in range(15):
        codes = attacker.batch(outcome.twin)
        outcome.rounds.append(attacker.attack(outcome.twin, codes, number=number))
    attacked, baseline, control = (outcome.cells(part) for part in (attacked_cells, baseline_cells, control_cells))
    assert attacked.low > baseline.high
    assert attacked.low < control.high
    shown = outcome.shown(one_round_claim(outcome.twin))
    assert shown.lower_bound is not None
    assert shown.lower_bound < 1.0


def test_honest_audits_raise_no_alarm(claiming_study: Studies) -> None:
    study, records = claiming_study(noise=1.0, family="gan"), two_kinds(60, study_schema(claiming_study()))
    for seed in range(HONEST):
        for found in audited(study, records, seed=seed, batches=(4,), rounds=8).findings:
            assert found.verdict in (Verdict.CONSISTENT, Verdict.UNDERPOWERED)


@pytest.mark.parametrize("fault", [ValueError("of its own"), RuntimeError("of torch"), InputError("x", remedy="y")])
def test_an_attack_that_raises_is_no_verdict(
    claiming_study: Studies, one_each: Records, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(inversion, "span_search", fail)
    found = audited(claiming_study(), one_each)
    for each in (*found.findings, *found.demonstrations):
        assert each.verdict is Verdict.NO_VERDICT
        assert type(fault).__name__ in each.words[0]


def test_a_fault_of_ours_ends_the_audit(
    claiming_study: Studies, one_each: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("no such thing")

    monkeypatch.setattr(inversion, "span_search", fail)
    with pytest.raises(TypeError, match="no such thing"):
        audited(claiming_study(), one_each)


def test_claim_is_that_of_one_round_without_sampling(claiming_study: Studies) -> None:
    """Golden: a Gaussian mechanism of noise 1 spends 4.377 at 1e-5 (Balle, Wang 2018, theorem 8)."""
    twin = ChannelTwin(study=claiming_study(noise=1.0, rate=0.01), setting=Setting.LOCAL_NOISE, batch=1)
    claim = one_round_claim(twin)
    assert claim is not None
    assert claim.epsilon == pytest.approx(4.377, abs=5e-3)
    assert one_round_claim(replace(twin, setting=Setting.NO_PROTECTION)) is None


def test_a_release_is_held_against_its_own_claim(claiming_study: Studies, one_each: Records) -> None:
    """A statement of one round in fifty claims less than the study: less may be seen in a round."""
    study = claiming_study()
    own = one_round_claim(ChannelTwin(study=study, setting=Setting.LOCAL_NOISE, batch=1))
    for rounds, most in ((study.training.rounds, 1.005), (1, 0.5)):
        told = PrivacyPlan.from_study(study).statement(rounds=rounds, simulated=True)
        claim = Claim(epsilon=told.epsilon, delta=told.delta, relation=told.relation)
        found = audited(study, one_each, claim=claim).findings[0].claim
        assert (most - 0.01 if rounds > 1 else 0.0) < found.epsilon / own.epsilon < most


def test_the_budget_ends_the_rounds(
    claiming_study: Studies, one_each: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = audited(claiming_study(), one_each, rounds=20, budget=1e-6)
    assert {each.canaries for each in (*spent.findings, *spent.demonstrations)} == {8, 8 * 5}
    # No time passes on a clock that stands still.
    monkeypatch.setattr("simulations.audit.channel.audit.time.monotonic", lambda: 0.0)
    assert audited(claiming_study(), one_each, rounds=10, budget=1e-6).findings[0].canaries == 10


def test_same_seed_same_findings(claiming_study: Studies, tiny_records: Tables) -> None:
    first, second = (audited(claiming_study(), tiny_records(80), rounds=8) for _ in range(2))
    for one, other in zip(first.findings, second.findings, strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)


def test_wrong_arguments_are_refused(claiming_study: Studies, tiny_records: Tables) -> None:
    for wrong in ({"batches": ()}, {"batches": (0,)}, {"rounds": 7}, {"budget": 0.0}, {"budget": float("nan")}):
        with pytest.raises(InputError, match="at least 8 rounds"):
            audited(claiming_study(), tiny_records(40), **wrong)
    with pytest.raises(InputError, match="fewer than 12"):
        audited(claiming_study(), tiny_records(11))
    columns = [{"name": name, "kind": "boolean"} for name in "xyz"]
    stranger = Records(codes=np.ones((20, 3), np.int32), persons=None, schema=Schema.from_mapping({"columns": columns}))
    with pytest.raises(InputError, match="another schema"):
        ChannelAttacker(claiming_study(), stranger, random=DeterministicRandom(0))
    attacker = ChannelAttacker(claiming_study(), tiny_records(20), random=DeterministicRandom(0))
    with pytest.raises(InputError, match="for a batch of 11"):
        attacker.batch(ChannelTwin(study=claiming_study(), setting=Setting.NO_PROTECTION, batch=11))
