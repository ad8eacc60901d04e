import json
import math
from dataclasses import replace

import pytest

from privacy.audit.finding import Claim, Curve, Finding, Interval, Tier, Verdict
from protocol.errors import InputError
from protocol.terms import Relation

CLAIM = Claim(epsilon=1.0, delta=1e-5, relation=Relation.ADD_REMOVE)
HALF = Interval(value=0.5, low=0.4, high=0.6, confidence=0.95)
FINDING = Finding(
    tier=Tier.MODEL,
    attack="likelihood",
    subject="a twin",
    claim=CLAIM,
    lower_bound=0.5,
    ceiling=0.9,
    measure="AUROC",
    attacked=HALF,
    baseline=None,
    control=HALF,
    canaries=100,
    needed=None,
    verdict=Verdict.CONSISTENT,
    words=("It held.",),
    curve=Curve(false_positive_rate=(0.0, 0.5, 1.0), true_positive_rate=(0.0, 0.7, 1.0)),
    seconds=1.5,
)


@pytest.mark.parametrize(
    "finding",
    [
        FINDING,
        replace(FINDING, claim=None, lower_bound=None, ceiling=None, curve=None, baseline=HALF),
        replace(FINDING, verdict=Verdict.UNDERPOWERED, needed=4000),
        replace(FINDING, verdict=Verdict.NO_VERDICT, canaries=0, lower_bound=None),
    ],
)
def test_finding_survives_json(finding):
    assert Finding.from_mapping(json.loads(json.dumps(finding.to_mapping(), allow_nan=False))) == finding


def test_no_verdict_is_called_safe():
    assert {verdict.value for verdict in Verdict} == {"violated", "consistent", "underpowered", "no verdict"}


@pytest.mark.parametrize(
    "change",
    [
        {"low": 0.7},
        {"high": 0.4},
        {"value": math.nan},
        {"high": math.inf},
        {"confidence": 1.0},
        {"confidence": 0.0},
        {"low": True},
        {"low": "0.1"},
        {"low": None},
    ],
)
def test_interval_without_an_honest_error_bar_cannot_exist(change):
    with pytest.raises(InputError):
        replace(HALF, **change)


@pytest.mark.parametrize("change", [{"epsilon": -1.0}, {"epsilon": math.inf}, {"delta": 1.0}, {"relation": "add"}])
def test_claim_is_checked(change):
    with pytest.raises(InputError):
        replace(CLAIM, **change)


@pytest.mark.parametrize(
    ("false_rate", "true_rate"),
    [
        ((0.0, 1.0), (0.0, 0.5, 1.0)),
        ((0.1, 1.0), (0.0, 1.0)),
        ((0.0, 0.9), (0.0, 1.0)),
        ((0.0, 0.6, 0.5, 1.0), (0.0, 0.6, 0.7, 1.0)),
        ((0.0,), (0.0,)),
    ],
)
def test_curve_rises_from_corner_to_corner(false_rate, true_rate):
    with pytest.raises(InputError):
        Curve(false_positive_rate=false_rate, true_positive_rate=true_rate)


@pytest.mark.parametrize(
    "change",
    [
        {"tier": "model"},
        {"verdict": "safe"},
        {"attacked": None},
        {"attack": " "},
        {"words": ()},
        {"words": "a sentence"},
        {"words": ("",)},
        {"canaries": -1},
        {"canaries": True},
        {"canaries": 0},
        {"seconds": -1.0},
        {"seconds": None},
        {"lower_bound": math.inf},
        {"lower_bound": -0.1},
        {"claim": None},
        {"needed": 10},
        {"verdict": Verdict.UNDERPOWERED, "needed": 0},
        {"lower_bound": 1.1},
        {"lower_bound": 1.1, "verdict": Verdict.UNDERPOWERED},
    ],
)
def test_finding_that_contradicts_itself_cannot_exist(change):
    with pytest.raises(InputError):
        replace(FINDING, **change)


def test_lower_bound_above_the_claim_is_a_violation_or_no_verdict():
    for verdict in (Verdict.VIOLATED, Verdict.NO_VERDICT):
        assert replace(FINDING, lower_bound=1.1, verdict=verdict).verdict is verdict


@pytest.mark.parametrize(
    "spoil",
    [
        lambda mapping: mapping.update(version=2),
        lambda mapping: mapping.update(version=True),
        lambda mapping: mapping.pop("words"),
        lambda mapping: mapping.update(more=1),
        lambda mapping: mapping.update(verdict="safe"),
        lambda mapping: mapping.update(tier=3),
        lambda mapping: mapping["claim"].update(relation="swap"),
        lambda mapping: mapping["attacked"].pop("low"),
        lambda mapping: mapping.update(attacked=None),
        lambda mapping: mapping.update(attacked=[1, 2]),
        lambda mapping: mapping["curve"].update(true_positive_rate=1.0),
    ],
)
def test_reader_refuses_what_it_does_not_know(spoil):
    mapping = json.loads(json.dumps(FINDING.to_mapping()))
    spoil(mapping)
    with pytest.raises(InputError):
        Finding.from_mapping(mapping)
