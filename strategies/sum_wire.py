"""How the messages of a secure sum ride on Flower's: beside the header, in a record of their own.

The message of a round carries a request or a contribution as without a secure sum, and in the record ``sum`` the flat
form of a :class:`~privacy.secure_sum.messages.SumMessage`. The masked vector is the contribution's own vector, so that
it travels once.
"""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from models.family import Family
from privacy.dp_sgd import parameter_count
from privacy.plan import PrivacyPlan
from privacy.secure_sum import MaskedInput, OfferList, SumPolicy, SumStage, SurvivorList, UnmaskRequest
from privacy.secure_sum.messages import SumMessage
from privacy.stage import Stage
from protocol.errors import ApprovalError, WireError
from protocol.fingerprint import code_fingerprint
from protocol.messages import Contribution, SumTurn, encode
from protocol.terms import ContributionKind
from strategies.study_model import statistics_of

_PART = "sum"
AnySum = TypeVar("AnySum", bound=SumMessage)


def sum_policy(plan: PrivacyPlan, model: Family, *, run: str) -> SumPolicy:
    """Return the terms of a run's secure sum, the same at the coordinator and at every site.

    Args:
        plan: The study's privacy plan.
        model: The study's model, as `strategies.study_model.build_study_model` gives it.
        run: Identifier of the run.

    Raises:
        ApprovalError: If the study pins no keys.
        StudyError: If its drop-outs and colluders do not fit its number of sites.
    """
    study, shares = plan.study, plan.shares
    if shares is None or study.federation.roster is None:
        raise ApprovalError("The study pins no sites' keys.", remedy="Write federation.roster into the study.")
    return SumPolicy(
        run=run,
        study=study.hash,
        code=code_fingerprint(),
        roster=study.federation.roster,
        minimum_cohort=max(shares.survivors, study.federation.quorum),
        stages=tuple(part for stage in plan.stages for part in _sum_stages(plan, stage, model)),
    )


def _sum_stages(plan: PrivacyPlan, stage: Stage, model: Family) -> Iterator[SumStage]:
    """Return length and limit of the vectors of a stage; every round of statistics may have a length of its own."""
    if stage.kind is ContributionKind.STATISTICS:
        found = statistics_of(plan.study, model)
        for number in range(1, stage.rounds + 1):
            size = found.dimension(number)
            yield SumStage(rounds=1, coordinates=size, limit=plan.mechanism(stage, size).grid.limit)
        return
    size = parameter_count(model.shared)
    gradients = stage.kind is ContributionKind.GRADIENTS
    grid = plan.mechanism(stage, size).grid if gradients else plan.update_grid(size)
    yield SumStage(rounds=stage.rounds, coordinates=size, limit=grid.limit)


def with_sum(record: RecordDict, message: SumMessage) -> RecordDict:
    """Put a message of the secure sum beside a message of the round."""
    record[_PART] = ConfigRecord({**message.to_mapping()})
    return record


def without_sum(record: RecordDict) -> RecordDict:
    """Return the message of the round alone; it shares its content."""
    return RecordDict({name: part for name, part in record.items() if name != _PART})


def turn(message: SumMessage, *, study: str, run: str, warrant: str) -> RecordDict:
    """Return a message of the secure sum that carries no vector."""
    return with_sum(encode(SumTurn(study=study, run=run, warrant=warrant)), message)


def read_sum(record: RecordDict, kind: type[AnySum], *, vector: NDArray[np.uint32] | None = None) -> AnySum:
    """Read the secure sum's part of a message.

    Raises:
        WireError: If there is none, or it is malformed.
    """
    part = record.config_records.get(_PART)
    if part is None:
        raise WireError("A message has no part of the secure sum.", remedy="Both ends must run the same study.")
    return kind.from_mapping(dict(part), vector=vector)


def sum_kind(record: RecordDict) -> type[SumMessage] | None:
    """Return what a coordinator's turn asks for: one of a closed set, None for keys or a preparation.

    Raises:
        WireError: If it is something else.
    """
    part = record.config_records.get(_PART)
    if part is None:
        return None
    for kind in (OfferList, SurvivorList, UnmaskRequest):
        if part.get("type") == kind.__name__:
            return kind
    raise WireError("A turn of the secure sum asks for something unknown.", remedy="Both ends must run the same code.")


def masked_input(record: RecordDict, contribution: Contribution) -> MaskedInput:
    """Read a masked contribution as the secure sum's message: its words are the contribution's vector."""
    return read_sum(record, MaskedInput, vector=contribution.vector.view(np.uint32))
