"""One run of a federation's twin on canaries of known gradient, each in or out by its own coin, seen in every round.

This is the strongest setting of an audit in one run (Steinke, Nasr, Jagielski 2023, section 6, "white box"): what each
canary's presence does to a release is known exactly, and every release is seen. What such an audit shows is bounded by
its number of canaries, not by the attack.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from privacy.audit.intervals import Side, clopper_pearson
from privacy.audit.mechanism.canaries import CanaryKind, design_canaries
from privacy.audit.model.membership import CONTROL_CONFIDENCE, Attempt, ClaimedSteps, choose_guesses
from privacy.plan import PrivacyPlan
from protocol.errors import InputError
from protocol.randomness import RandomSource
from protocol.study import Study
from protocol.terms import ContributionKind, Trust
from simulations.audit.mechanism.canary_family import canary_records, reachable_coordinates, tensor_sizes
from simulations.audit.mechanism.run import Member, run_twin, twin_study
from simulations.audit.mechanism.twin import HONEST, Parts
from strategies.study_model import build_study_model, study_schema

_SITE = "site-1"
_ROUNDING = 1e-9


def one_run_attempt(
    study: Study, *, canaries: int, random: RandomSource, parts: Parts = HONEST, strangers: bool = False
) -> Attempt:
    """Run a study once, at one site, and score every canary by all that the site sent.

    A canary that is in adds one clip norm along its own direction in each step that it is drawn for, and the noise
    along it is independent of all else. The score is the logarithm of the likelihood ratio of the two cases under the
    study's noise and sample rate, which no other score can beat (Neyman, Pearson 1933).

    Args:
        study: The study; ``trust = "none"``, by gradients, with as many coordinates as canaries and a fifth more.
        canaries: Number of canaries.
        random: Source of directions and coins; noise and samples are the system's.
        parts: What is replaced in a broken twin.
        strangers: Whether coins of their own decide who takes part, while the coins returned decide nothing: a control,
            in which scores can follow the coins only by some way other than what was sent.

    Returns:
        The scores, with the coins.

    Raises:
        InputError: If the study cannot be audited like this.
        CloisterError: Whatever a run can raise.
    """
    if study.privacy.trust is not Trust.NONE or study.training.strategy is not ContributionKind.GRADIENTS:
        raise InputError("The study is not of gradients with local noise.", remedy="Audit its mechanism step by step.")
    plan = PrivacyPlan.from_study(study)
    shared = build_study_model(study).shared
    designed = design_canaries(
        tensor_sizes(shared),
        reachable=reachable_coordinates(shared),
        counts={CanaryKind.DIRAC: canaries},
        clip_norm=study.privacy.clip_norm,
        random=random.child("directions"),
    )
    if len(designed) < canaries or plan.noise_multiplier == 0.0:
        raise InputError(
            f"There is room for {len(designed)} of {canaries} canaries; the noise is {plan.noise_multiplier}.",
            remedy="Use fewer canaries or a larger model, and a study with noise.",
        )
    included = random.child("coins").bernoulli(canaries, 0.5)
    present = random.child("strangers").bernoulli(canaries, 0.5) if strangers else included
    own = canary_records(np.flatnonzero(present), schema=study_schema(study), records_each=(1,))
    alone = twin_study(study, sites=1, rounds=study.training.rounds)
    # Room for all canaries in one pass, whatever the study's own size is.
    alone = replace(alone, federation=replace(alone.federation, public_records=max(2, canaries)))
    log = run_twin(alone, {_SITE: Member(records=own)}, designed, parts=parts, random=random.child("weights"))
    step = PrivacyPlan.from_study(alone).step_mechanism(designed.dimension).grid.step
    releases = np.stack(log.opened).astype(np.float64) * (step / study.privacy.clip_norm)
    return Attempt(
        suspicion=_log_ratios(
            designed.scores(releases), sample_rate=study.privacy.sample_rate, noise=plan.noise_multiplier
        ),
        included=included,
        planted=np.ones(canaries, dtype=np.bool_),
    )


def one_run_room(study: Study) -> int:
    """For how many canaries a study has coordinates; 0 if it cannot be audited by :func:`one_run_attempt`."""
    plan = PrivacyPlan.from_study(study)
    if (
        study.privacy.trust is not Trust.NONE
        or study.training.strategy is not ContributionKind.GRADIENTS
        or plan.noise_multiplier == 0.0
    ):
        return 0
    reachable = int(reachable_coordinates(build_study_model(study).shared).sum())
    return reachable - reachable // 5


def silence_is_heard(attempt: Attempt, study: Study) -> bool:
    """Whether an attack on the silent twin tells as many members as it must.

    Without noise whoever was drawn at least once is more suspicious than everybody who was out.
    """
    members, others = attempt.split()
    seen = clopper_pearson(
        int((members > others.max()).sum()), members.size, confidence=CONTROL_CONFIDENCE, side=Side.UPPER
    )
    return seen.high >= 1.0 - (1.0 - study.privacy.sample_rate) ** study.training.rounds - _ROUNDING


def one_run_lower_bound(attempt: Attempt, claimed: ClaimedSteps) -> float:
    """Epsilon that one run shows by f-DP, with the number of guesses fixed before anything was scored.

    Args:
        attempt: The scores.
        claimed: What the study claims, as of `simulations.audit.model.audit.claimed_steps`.
    """
    made = choose_guesses(len(attempt), lambda counts: claimed.refutes(counts, claimed.confidence))
    return claimed.lower_bound(attempt.guess(made), claimed.confidence)


def _log_ratios(scores: NDArray[np.float64], *, sample_rate: float, noise: float) -> NDArray[np.float64]:
    """Sum over steps [T, K] of the log-ratio of ``(1 - q) N(0, s^2) + q N(1, s^2)`` to ``N(0, s^2)``, [K]."""
    shifted = (scores - 0.5) / noise**2
    if sample_rate == 1.0:
        return np.asarray(shifted.sum(axis=0))
    # Beyond floating point only in a broken twin, where any large number will do.
    terms = np.logaddexp(np.log1p(-sample_rate), np.log(sample_rate) + np.clip(shifted, -1e300, 1e300))
    return np.asarray(terms.sum(axis=0))
