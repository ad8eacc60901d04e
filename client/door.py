"""The door: the only place that builds a message which leaves the site.

For a contribution it does, in this order: check that the site approved this study, that its policy allows it, and that
the coordinator vouches for the run; refuse whatever can be refused; charge the ledger, which refuses when a ceiling
would be passed; bound; add noise; mask; sign; put the reply into the outbox; where there is a secure sum, write down
its session; seal the round in the ledger; enter the reply in the egress record; send. An exception never reaches
Flower, whose error replies carry its text to the server: whatever goes wrong leaves as one word of a closed set, and
the text stays in the site's own log.

The same request again gets the same reply again. A site that is killed has one of these on its disk, and goes on from
there when the request comes again; a round is charged once and released once in all of them:

======================== ======================================= ===============================================
killed after             on the disk                             the same request again
======================== ======================================= ===============================================
nothing yet              nothing                                 is charged and computed
the charge               a charge without a seal: nothing left   is computed, with fresh noise, for that charge
the reply in the outbox  the same, and a reply that nobody knows the same; the unknown reply never leaves
the session (sum only)   the session names the reply, the masks  gets that reply, sealed first
                         are used up
the seal, the record     the ledger names the reply              gets that reply
======================== ======================================= ===============================================

Masks are used up on the disk before anything masked with them leaves, and before that they masked nothing that left.
Whoever loses a race for the seal releases nothing. Another request for a sealed round is refused, and so is a sealed
round whose reply is lost: no noise is ever drawn for it again. Studies that add no noise promise nothing, and their
rounds are computed whenever they are asked for, except under masks.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from client.egress import Departure, DepartureKind, contribution_terms
from client.outbox import reply_digest
from client.site import Site
from client.sum_member import MemberTurn, member_turn
from privacy.ledger import Charged, Entry, RoundState, Sealed, Spent, Uncharged
from privacy.mechanisms.gaussian import Mechanism, Words
from privacy.plan import PrivacyPlan
from privacy.secure_sum import (
    KeyOffer,
    MaskedInput,
    OfferList,
    Preparation,
    RoundStart,
    SiteSession,
    SurvivorList,
    UnmaskRequest,
)
from privacy.secure_sum.messages import SumMessage
from privacy.stage import Stage
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
from protocol.randomness import RandomSource
from protocol.record_bytes import record_bytes, record_from_bytes
from protocol.study import Study
from protocol.terms import ContributionKind, Trust
from protocol.warrant import NO_WARRANT, check_warrant
from strategies.sum_wire import read_sum, sum_kind, turn, with_sum, without_sum

_LOGGER = logging.getLogger("cloister.site")
_ANOTHER = "Nothing was released. The coordinator must repeat the request as it was, or go on with the next round."

_REASONS: tuple[tuple[type[CloisterError], RefusalReason], ...] = (
    (ApprovalError, RefusalReason.NOT_APPROVED),
    (BudgetError, RefusalReason.BUDGET),
    (LedgerError, RefusalReason.LEDGER),
    (RecordsError, RefusalReason.RECORDS),
    (WireError, RefusalReason.WIRE),
    (CloisterError, RefusalReason.INTERNAL),
)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A round that may be computed: everything was checked but the ledger."""

    site: Site
    plan: PrivacyPlan
    stage: Stage
    request: RoundRequest
    message: Message
    mechanism: Mechanism
    random: RandomSource


def answer(message: Message, site_of: Callable[[], Site], respond: Callable[[Site, Message], Message]) -> Message:
    """Return what ``respond`` makes of a message, or a refusal that says nothing but its kind."""
    site = None
    try:
        site = site_of()
        return respond(site, message)
    except CloisterError as error:
        reason = next(word for kind, word in _REASONS if isinstance(error, kind))
        _LOGGER.warning("refused: %s", error)
    except Exception:  # noqa: BLE001 - the text of any exception may hold a value of a record, and Flower would send it
        reason = RefusalReason.INTERNAL
        _LOGGER.exception("refused after an unexpected failure")
    return _refuse(site, message, reason)


def introduce(site: Site, message: Message) -> Message:
    """Say who the site is, where it has approved the study and runs the same code."""
    hello = decode(message.content, Hello)
    study = site.approvals.study(hello.study)
    site.policy.check(site.plan(study))
    if hello.code != code_fingerprint():
        _LOGGER.warning("the coordinator runs code %s, this site %s", hello.code, code_fingerprint())
        return _refuse(site, message, RefusalReason.CODE)
    unsigned = Introduction(
        study=study.hash, code=code_fingerprint(), site=site.name, public_key=site.public_key, signature="0" * 128
    )
    signature = site.key.sign(unsigned.signed_bytes(hello.challenge)).hex()
    content = encode(Introduction(**{**vars(unsigned), "signature": signature}))
    if site.egress.keeps:
        site.egress.record(_departure(DepartureKind.INTRODUCTION, record_bytes(content), asked=hello))
    return Message(content, reply_to=message)


def contribute(site: Site, message: Message) -> Message:
    """Take part in one round."""
    request = decode(without_sum(message.content), RoundRequest)
    study, plan = _allowed(site, request)
    stage = plan.stage(request.round)
    if request.kind is not stage.kind:
        raise ApprovalError(
            f"{request.kind.value} are not what the approved study has in round {request.round}.",
            remedy="Ask the coordinator why the request differs from the study.",
        )
    if not is_finite(request):
        raise WireError("The weights received are not finite.", remedy="The coordinator must mend its model.")
    init = study.model.init
    if init is not None and request.round == 1 and vector_hash(request.vector) != init.sent:
        raise ApprovalError(
            "The first weights are not those of the public release that the approved study names.",
            remedy="Ask the coordinator what it started from.",
        )
    trainer = site.trainer(study)
    # Whatever can be refused is refused before it is paid for.
    trainer.check_size(request.vector)
    random = site.random(study, run=request.run, number=request.round)
    if plan.private and not random.private:
        raise PrivacyError("The study promises privacy and the noise is not secret.", remedy="Report this defect.")
    task = _Task(
        site=site,
        plan=plan,
        stage=stage,
        request=request,
        message=message,
        mechanism=plan.mechanism(stage, trainer.contribution_size(request.round)),
        random=random,
    )
    if study.privacy.trust is Trust.NONE:
        return _contribute_alone(task)
    with member_turn(site, study, run=request.run) as member:
        return _contribute_masked(task, member)


def _contribute_alone(task: _Task) -> Message:
    """Take part in a round whose contributions are private one by one."""
    site, request, state = task.site, task.request, _state(task)
    if isinstance(state, Sealed):
        reply = site.outbox.get(state.digest, run=request.run)
        kept = decode(record_from_bytes(reply), Contribution)
        if (kept.kind, kept.model) != (request.kind, vector_hash(request.vector)):
            raise LedgerError(f"Round {request.round} was released for other weights.", remedy=_ANOTHER)
        return _send(task, reply, entry=state.entry)
    entry = _pay(task, state)
    content = _signed(task, entry=entry, vector=_compute(task).astype(np.int32))
    reply = record_bytes(content)
    if entry is not None:
        site.ledger.seal(entry, site.outbox.put(reply, run=request.run, round=request.round))
    return _send(task, reply, entry=entry, content=content)


def _contribute_masked(task: _Task, member: MemberTurn) -> Message:
    """Take part in one round of a secure sum, while no other turn of the run is taken."""
    site, request, state = task.site, task.request, _state(task)
    asked = _request_digest(site, task.message)
    digest = member.reply_to(asked)
    if digest is not None:
        entry = _paid(task, state, digest)
        reply = site.outbox.get(digest, run=request.run)
        if isinstance(state, Charged):
            site.ledger.seal(state.entry, digest)
        return _send(task, reply, entry=entry)
    if isinstance(state, Sealed):
        raise LedgerError(f"Round {request.round} was released for another request.", remedy=_ANOTHER)
    start = read_sum(task.message.content, RoundStart)
    # Before the charge, and bound to the round that is charged: the ledger then holds that a round is masked once.
    member.session.require_start(start, round_number=request.round)
    entry = _pay(task, state)
    masked = member.session.mask(start, model=vector_hash(request.vector), vector=_compute(task))
    content = _signed(task, entry=entry, vector=masked.vector.view(np.int32), masked=masked)
    reply = record_bytes(content)
    digest = site.outbox.put(reply, run=request.run, round=request.round)
    member.keep(asked, digest)
    if entry is not None:
        site.ledger.seal(entry, digest)
    return _send(task, reply, entry=entry, content=content)


def take_turn(site: Site, message: Message) -> Message:
    """Take a turn in a secure sum: keys, preparation, survivors, shares. No record is involved."""
    asked = decode(without_sum(message.content), SumTurn)
    study, _ = _allowed(site, asked)
    with member_turn(site, study, run=asked.run) as member:
        request = _request_digest(site, message)
        digest = member.reply_to(request)
        if digest is not None:
            reply = site.outbox.get(digest, run=asked.run)
            content = record_from_bytes(reply)
        else:
            told = _told(member.session, message, asked)
            content = turn(told, study=study.hash, run=asked.run, warrant=NO_WARRANT)
            reply = record_bytes(content)
            # Keys are offered in answer to the very request that later asks for a preparation; asked again before
            # that, a session offers the same ones.
            if isinstance(told, KeyOffer):
                member.save()
            else:
                member.keep(request, site.outbox.put(reply, run=asked.run, round=_round_of(told)))
        gone = _departure(DepartureKind.SUM_TURN, reply, asked=asked, repeated=digest is not None)
        site.egress.record(gone)
    return Message(content, reply_to=message)


def _allowed(site: Site, asked: RoundRequest | SumTurn) -> tuple[Study, PrivacyPlan]:
    """Return an approved study that the policy allows, in a run that its coordinator vouches for."""
    study = site.approvals.study(asked.study)
    plan = site.plan(study)
    site.policy.check(plan)
    coordinator = site.approvals.coordinator(study.hash)
    if coordinator is not None:
        check_warrant(asked.warrant, coordinator=coordinator, study=study.hash, run=asked.run)
    if asked.round > plan.rounds:
        raise ApprovalError(
            f"Round {asked.round} is not in the approved study.",
            remedy="Ask the coordinator why the request differs from the study.",
        )
    return study, plan


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


def _round_of(told: SumMessage) -> int:
    number: int = told.key.round if isinstance(told, Preparation) else vars(told)["round"]
    return number


def _request_digest(site: Site, message: Message) -> str:
    """Return what a request is known by; nothing is known by it at a site that keeps no replies."""
    return reply_digest(record_bytes(message.content)) if site.outbox.keeps else ""


def _state(task: _Task) -> RoundState | None:
    """Return what may still be released for the round; None where the study adds no noise and nothing is charged."""
    request = task.request
    if task.stage.event is None:
        return None
    state = task.site.ledger.round_state(study=request.study, run=request.run, round=request.round)
    if isinstance(state, Spent):
        raise LedgerError(f"Round {request.round} may have been released before.", remedy=_ANOTHER)
    return state


def _paid(task: _Task, state: RoundState | None, digest: str) -> Entry | None:
    """Return the entry that paid for a masked reply which the site remembers."""
    if isinstance(state, Uncharged) or (isinstance(state, Sealed) and state.digest != digest):
        raise LedgerError(
            f"Round {task.request.round}: the ledger and the memory of the secure sum do not belong together.",
            remedy="One of them was put back from a copy: leave this run, and verify the ledger.",
        )
    return state.entry if isinstance(state, Charged | Sealed) else None


def _pay(task: _Task, state: RoundState | None) -> Entry | None:
    """Return the entry that pays for the round: the one that was charged already and never sealed, or a new one."""
    return state.entry if isinstance(state, Charged) else _charge(task)


def _charge(task: _Task) -> Entry | None:
    """Write down what the round costs before anything is computed for it.

    There is no entry where the study adds no noise: nothing is promised then.
    """
    study, request = task.plan.study, task.request
    if task.stage.event is None:
        return None
    return task.site.ledger.charge(
        study=request.study,
        run=request.run,
        round=request.round,
        event=task.stage.event,
        ceilings=task.site.policy.ceilings(study.privacy.relation),
        study_rounds=task.stage.rounds,
    )


def _compute(task: _Task) -> Words:
    """Return the bounded and noised contribution in grid steps."""
    trainer, weights = task.site.trainer(task.plan.study), task.request.vector
    if task.request.kind is ContributionKind.STATISTICS:
        exact = trainer.statistics_sum(weights, number=task.request.round)
        return task.mechanism.privatise(exact, random=task.random.child("noise"))
    if task.request.kind is ContributionKind.GRADIENTS:
        exact = trainer.gradient_sum(weights, random=task.random)
        return task.mechanism.privatise(exact, random=task.random.child("noise"))
    change = trainer.local_update(weights, random=task.random)
    return task.plan.update_grid(trainer.dimension).quantise(change)


def _signed(
    task: _Task, *, entry: Entry | None, vector: NDArray[np.int32], masked: MaskedInput | None = None
) -> RecordDict:
    """Sign and wrap; what is masked takes the secure sum's part with it."""
    request = task.request
    unsigned = Contribution(
        study=request.study,
        run=request.run,
        round=request.round,
        kind=request.kind,
        site=task.site.name,
        model=vector_hash(request.vector),
        entry=NO_ENTRY if entry is None else entry.hash,
        signature="0" * 128,
        vector=vector,
    )
    signature = task.site.key.sign(unsigned.signed_bytes()).hex()
    record = encode(Contribution(**{**vars(unsigned), "signature": signature}))
    return record if masked is None else with_sum(record, masked)


def _send(task: _Task, reply: bytes, *, entry: Entry | None, content: RecordDict | None = None) -> Message:
    """Enter a contribution in the egress record and let it leave; without content, it is one from the outbox."""
    request, egress = task.request, task.site.egress
    if egress.keeps:
        gone = _departure(DepartureKind.CONTRIBUTION, reply, asked=request, repeated=content is None)
        terms = contribution_terms(task.plan, task.stage, task.mechanism)
        egress.record(replace(gone, entry="" if entry is None else entry.hash, **terms))
    return Message(record_from_bytes(reply) if content is None else content, reply_to=task.message)


def _refuse(site: Site | None, message: Message, reason: RefusalReason) -> Message:
    """Say no. A word of refusal leaves even where it cannot be recorded: it says nothing, and all could be full."""
    content = encode(Refusal(reason=reason))
    if site is not None and site.egress.keeps:
        asked = None
        with suppress(WireError):
            asked = decode(without_sum(message.content), Hello, RoundRequest, SumTurn)
        gone = _departure(DepartureKind.REFUSAL, record_bytes(content), asked=asked)
        try:
            site.egress.record(replace(gone, reason=reason.value))
        except LedgerError as error:
            _LOGGER.warning("a refusal is not in the egress record: %s", error)
    return Message(content, reply_to=message)


def _departure(
    kind: DepartureKind, reply: bytes, *, asked: Hello | RoundRequest | SumTurn | None, repeated: bool = False
) -> Departure:
    """Describe what answers a message and is about to leave."""
    run, number = (asked.run, asked.round) if isinstance(asked, RoundRequest | SumTurn) else ("", 0)
    return Departure(
        kind=kind,
        study="" if asked is None else asked.study,
        run=run,
        round=number,
        bytes=len(reply),
        sha256=reply_digest(reply),
        repeated=repeated,
    )
