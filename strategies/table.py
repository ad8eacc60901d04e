"""The closed table of strategies."""

from privacy.plan import PrivacyPlan
from protocol.terms import ContributionKind
from strategies.gradients import GradientDescent
from strategies.server_model import ServerModel
from strategies.statistics import ReleasedStatistics
from strategies.strategy import Strategy
from strategies.updates import FederatedUpdates

TRAINING: dict[ContributionKind, type[Strategy]] = {kind.kind: kind for kind in (GradientDescent, FederatedUpdates)}


def build_strategy(plan: PrivacyPlan, model: ServerModel, *, number: int | None = None) -> Strategy:
    """Return the strategy of a round.

    Args:
        plan: The study's privacy plan.
        model: The server's model.
        number: Of the round, among all rounds of the run; None for the last one.

    Raises:
        StudyError: If the run has no such round, or the family does not go with the strategy.
    """
    number = plan.rounds if number is None else number
    kind = plan.stage(number).kind
    if kind is ContributionKind.STATISTICS:
        return ReleasedStatistics(plan, model, number=number)
    return TRAINING[kind](plan, model)
