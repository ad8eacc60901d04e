"""The closed table of strategies."""

from privacy.plan import PrivacyPlan
from protocol.terms import ContributionKind
from strategies.gradients import GradientDescent
from strategies.server_model import ServerModel
from strategies.strategy import Strategy
from strategies.updates import FederatedUpdates

STRATEGIES: dict[ContributionKind, type[Strategy]] = {kind.kind: kind for kind in (GradientDescent, FederatedUpdates)}


def build_strategy(plan: PrivacyPlan, model: ServerModel) -> Strategy:
    """Return the strategy that the plan's study names."""
    return STRATEGIES[plan.study.training.strategy](plan, model)
