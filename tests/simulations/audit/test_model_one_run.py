"""The audit of one run on canaries of known gradient."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.mechanisms.gaussian import NoNoise
from protocol.errors import InputError
from protocol.randomness import SystemRandom
from protocol.study import Study
from simulations.audit.mechanism.twin import Parts
from simulations.audit.model.audit import claimed_steps
from simulations.audit.model.one_run import _log_ratios, one_run_attempt, one_run_lower_bound


def make_study(*, epsilon=1.0, rounds=4, privacy=None, training=None) -> Study:
    columns = [
        {"name": f"c{number}", "kind": "categorical", "categories": [f"v{code}" for code in range(6)]}
        for number in range(6)
    ]
    return Study.from_mapping(
        {
            "study": {"name": "one-run", "purpose": "A test."},
            "schema": {"columns": columns},
            "model": {"family": "vae"},
            "training": {"rounds": rounds} | (training or {}),
            "privacy": {"epsilon": epsilon, "sample_rate": 0.5, "delta": 1e-5} | (privacy or {}),
            "federation": {"sites": 2, "public_records": 1000},
        }
    )


def test_scores_are_log_likelihood_ratios():
    """Against the two mixtures written down: q = 1/4, s = 2, one canary, two steps."""
    scores, rate, noise = np.array([[0.3], [-1.2]]), 0.25, 2.0

    def normal(value, mean):
        return np.exp(-((value - mean) ** 2) / (2 * noise**2))

    slow = sum(
        np.log(((1 - rate) * normal(score, 0) + rate * normal(score, 1)) / normal(score, 0)) for score in (0.3, -1.2)
    )
    assert _log_ratios(scores, sample_rate=rate, noise=noise) == pytest.approx([slow])
    whole = _log_ratios(scores, sample_rate=1.0, noise=noise)
    assert whole == pytest.approx([sum((score - 0.5) / 4 for score in (0.3, -1.2))])


def test_an_honest_run_keeps_its_claim_and_a_silent_mechanism_does_not():
    study = make_study(epsilon=4.0)
    claimed = replace(claimed_steps(study, None), confidence=1.0 - 1e-6)  # an honest run fails once in a million
    honest = one_run_attempt(study, canaries=300, random=SystemRandom())
    assert honest.area(0.95).value > 0.55
    assert one_run_lower_bound(honest, claimed) <= claimed.claim.epsilon
    study = make_study(epsilon=1.0)
    silent = Parts(mechanism=lambda mechanism, _: NoNoise(grid=mechanism.grid))
    naked = one_run_attempt(study, canaries=300, random=SystemRandom(), parts=silent)
    # Whoever is drawn at least once, fifteen of sixteen members, is seen.
    assert naked.area(0.95).value > 0.9
    assert one_run_lower_bound(naked, claimed_steps(study, None)) > 1.0


def test_permuted_coins_show_nothing():
    study = make_study(epsilon=8.0)
    attempt = one_run_attempt(study, canaries=300, random=SystemRandom())
    shuffled = type(attempt)(
        suspicion=attempt.suspicion,
        included=np.random.default_rng(0).permutation(attempt.included),
        planted=attempt.planted,
    )
    area = shuffled.area(0.9999)
    assert area.low < 0.5 < area.high
    assert attempt.area(0.9999).low > 0.5


@pytest.mark.parametrize(
    ("study", "canaries"),
    [
        (make_study(), 10_000),
        (make_study(privacy={"epsilon": 1.0}, training={"strategy": "updates"}), 20),
    ],
)
def test_what_cannot_be_audited_is_refused(study, canaries):
    with pytest.raises(InputError):
        one_run_attempt(study, canaries=canaries, random=SystemRandom())
