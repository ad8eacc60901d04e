"""The door: the only place that builds a message which leaves the site.

For a contribution it does, in this order: check that the site approved this study; charge the ledger, and
refuse when a ceiling would be passed; bound; add noise; mask; sign; send. An exception never reaches Flower,
whose error replies carry its text to the server: whatever goes wrong leaves as one word of a closed set, and
the text stays in the site's own log.
"""

import logging
from collections.abc import Callable

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from client.site import Site
from client.sum_member import member_session
from privacy.ceiling import Ceiling
from privacy.ledger import Entry
from privacy.mechanisms.gaussian import Words
from privacy.plan import PrivacyPlan
from privacy.secure_sum import MaskedInput, OfferList, RoundStart, SiteSession, SurvivorList, UnmaskRequest
from privacy.secure_sum.messages import SumMessage
from protocol.errors import (
    ApprovalError,
    BudgetError,
    CloisterError,
    LedgerError,
    PrivacyError,
    RecordsError,
    WireError,
)
from protocol.fingerprint import code_fingerprint
from protocol.messages import (
    NO_ENTRY,
    Contribution,
    Hello,
    Introduction,
    Refusal,
    RefusalReason,
    RoundRequest,
    SumTurn,
    decode,
    encode,
    is_finite,
    vector_hash,
)
from protocol.terms import ContributionKind, Trust
from strategies.sum_wire import read_sum, sum_kind, turn, with_sum, without_sum

_LOGGER = logging.getLogger("cloister.site")

_REASONS: tuple[tuple[type[CloisterError], RefusalReason], ...] = (
    (ApprovalError, RefusalReason.NOT_APPROVED),
    (BudgetError, RefusalReason.BUDGET),
    (LedgerError, RefusalReason.LEDGER),
    (RecordsError, RefusalReason.RECORDS),
    (WireError, RefusalReason.WIRE),
    (CloisterError, RefusalReason.INTERNAL),
)


def answer(message: Message, site_of: Callable[[], Site], respond: Callable[[Site, Message], Message]) -> Message:
    """Return what ``respond`` makes of a message, or a refusal that says nothing but its kind."""
    try:
        return respond(site_of(), message)
    except CloisterError as error:
        reason = next(word for kind, word in _REASONS if isinstance(error, kind))
        _LOGGER.warning("refused: %s", error)
    except Exception:  # noqa: BLE001 - the text of any exception may hold a value of a record, and Flower would send it
        reason = RefusalReason.INTERNAL
        _LOGGER.exception("refused after an unexpected failure")
    return Message(encode(Refusal(reason=reason)), reply_to=message)


def introduce(site: Site, message: Message) -> Message:
    """Say who the site is, where it has approved the study and runs the same code."""
    hello = decode(message.content, Hello)
    study = site.approvals.study(hello.study)
    site.policy.check(site.plan(study))
    if hello.code != code_fingerprint():
        _LOGGER.warning("the coordinator runs code %s, this site %s", hello.code, code_fingerprint())
        return Message(encode(Refusal(reason=RefusalReason.CODE)), reply_to=message)
    introduction = Introduction(study=study.hash, code=code_fingerprint(), site=site.name, public_key=site.public_key)
    return Message(encode(introduction), reply_to=message)


def contribute(site: Site, message: Message) -> Message:
    """Take part in one round."""
    request = decode(without_sum(message.content), RoundRequest)
    study = site.approvals.study(request.study)
    plan = site.plan(study)
    site.policy.check(plan)
    if request.kind is not study.training.strategy or request.round > study.training.rounds:
        raise ApprovalError(
            f"Round {request.round} of {request.kind.value} is not in the approved study.",
            remedy="Ask the coordinator why the request differs from the study.",
        )
    if not is_finite(request):
        raise WireError("The weights received are not finite.", remedy="The coordinator must mend its model.")
    trainer = site.trainer(study)
    # Whatever can be refused is refused before it is paid for.
    trainer.check_size(request.vector)
    mechanism = plan.step_mechanism(trainer.dimension)
    random = site.random(study, run=request.run, number=request.round)
    if plan.private and not random.private:
        raise PrivacyError("The study promises privacy and the noise is not secret.", remedy="Report this defect.")

    def compute() -> tuple[Entry | None, Words]:
        entry = _charge(site, plan, request)
        if request.kind is ContributionKind.GRADIENTS:
            exact = trainer.gradient_sum(request.vector, random=random)
            vector = mechanism.privatise(exact, random=random.child("noise"))
        else:
            change = trainer.local_update(request.vector, random=random)
            vector = plan.update_grid(trainer.dimension).quantise(change)
        return entry, vector

    if study.privacy.trust is Trust.NONE:
        entry, vector = compute()
        return _send(site, request, entry=entry, vector=vector.astype(np.int32), message=message)
    start = read_sum(message.content, RoundStart)
    with member_session(site, study, run=request.run) as session:
        # Before the charge, and bound to the round that is charged: the ledger then holds that a round is masked once.
        session.require_start(start, round_number=request.round)
        entry, vector = compute()
        masked = session.mask(start, model=vector_hash(request.vector), vector=vector)
    words = masked.vector.view(np.int32)
    return _send(site, request, entry=entry, vector=words, message=message, masked=masked)


def take_turn(site: Site, message: Message) -> Message:
    """Take a turn in a secure sum: keys, preparation, survivors, shares. No record is involved."""
    asked = decode(without_sum(message.content), SumTurn)
    study = site.approvals.study(asked.study)
    site.policy.check(site.plan(study))
    if asked.round > study.training.rounds:
        raise ApprovalError(
            f"Round {asked.round} is not in the approved study.",
            remedy="Ask the coordinator why the request differs from the study.",
        )
    with member_session(site, study, run=asked.run) as session:
        told = _told(session, message, asked)
    return Message(turn(told, study=study.hash, run=asked.run), reply_to=message)


def _told(session: SiteSession, message: Message, asked: SumTurn) -> SumMessage:
    """Do what a turn asks for."""
    kind = sum_kind(message.content)
    if kind is None:
        return session.prepare(asked.round) if session.agreed else session.offer()
    if kind is OfferList:
        return session.accept_offers(read_sum(message.content, OfferList))
    if kind is SurvivorList:
        return session.sign_survivors(read_sum(message.content, SurvivorList))
    return session.reveal(read_sum(message.content, UnmaskRequest))


def _charge(site: Site, plan: PrivacyPlan, request: RoundRequest) -> Entry | None:
    """Write down what the round costs before anything is computed for it.

    There is no entry where the study adds no noise: nothing is promised then.
    """
    if plan.round_event is None:
        return None
    ceiling = Ceiling(epsilon=site.policy.epsilon, delta=site.policy.delta, relation=plan.study.privacy.relation)
    return site.ledger.charge(
        study=request.study, run=request.run, round=request.round, event=plan.round_event, ceiling=ceiling
    )


def _send(
    site: Site,
    request: RoundRequest,
    *,
    entry: Entry | None,
    vector: NDArray[np.int32],
    message: Message,
    masked: MaskedInput | None = None,
) -> Message:
    """Sign and wrap; what is masked takes the secure sum's part with it."""
    unsigned = Contribution(
        study=request.study,
        run=request.run,
        round=request.round,
        kind=request.kind,
        site=site.name,
        model=vector_hash(request.vector),
        entry=NO_ENTRY if entry is None else entry.hash,
        signature="0" * 128,
        vector=vector,
    )
    signature = site.key.sign(unsigned.signed_bytes()).hex()
    record = encode(Contribution(**{**vars(unsigned), "signature": signature}))
    return Message(record if masked is None else with_sum(record, masked), reply_to=message)
