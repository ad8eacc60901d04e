"""The noise of a mechanism that spends just a claim: what a claim about a study says of each of its steps."""

from privacy.audit.finding import Claim
from privacy.calibration import calibrate_noise_multiplier
from privacy.plan import statistics_share
from protocol.study import Study
from protocol.terms import ContributionKind


def steps_of(study: Study) -> int:
    """Number of noisy steps in all rounds of a study."""
    training = study.training
    return training.rounds * (training.local_steps if training.strategy is ContributionKind.UPDATES else 1)


def claimed_noise(study: Study, claim: Claim) -> float:
    """The noise multiplier with which a study's steps, with its statistics beside them, spend just a claim.

    Args:
        study: The study; its sample rate, rounds and local steps.
        claim: What is claimed of everything together.

    Raises:
        AccountingError: If no noise does.
    """
    return calibrate_noise_multiplier(
        epsilon=claim.epsilon,
        delta=claim.delta,
        sample_rate=study.privacy.sample_rate,
        steps=steps_of(study),
        relation=claim.relation,
        statistics=statistics_share(study),
    )
