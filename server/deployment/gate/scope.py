"""Which objects, messages and runs of Flower's a site may ask for: those of the messages that were handed to it."""

from http import HTTPStatus

from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest

from server.deployment.gate.mailbox import Mailbox
from server.deployment.gate.requests import (
    JSON,
    NO_RUN,
    NOT_RUNNING,
    PROTOBUF,
    Answer,
    FleetRequest,
    flower_error,
    refusal,
)


def out_of_scope(request: FleetRequest, mailbox: Mailbox) -> Answer | None:
    """Answer a request for what was not handed to the site as the SuperLink answers for what does not exist.

    Args:
        request: What the site asks.
        mailbox: What was handed to it.

    Returns:
        The answer; None if the request may pass.
    """
    match request:
        case PullObjectRequest():
            if not mailbox.may_pull(run=request.run_id, name=request.object_id):
                return _nothing(PullObjectResponse(object_found=False, object_available=False))
        case PushObjectRequest():
            return _odd_object(request, mailbox)
        case PushMessagesRequest():
            return _odd_reply(request, mailbox)
        case ConfirmMessageReceivedRequest():
            if not mailbox.may_finish(run=request.run_id, message=request.message_object_id):
                return _nothing(ConfirmMessageReceivedResponse())
        case GetRunRequest():
            if not mailbox.may_know(request.run_id):
                return _error(NO_RUN, "a run of which nothing was handed to the site")
    return None


def noted(request: FleetRequest, answer: Answer, mailbox: Mailbox) -> None:
    """Remember what follows from a request that the SuperLink took."""
    if answer.status != HTTPStatus.OK:
        return
    match request:
        case ActivateNodeRequest():
            mailbox.lose_all()
        case PullObjectRequest():
            # A little more than the object has: the answer that it comes in.
            mailbox.fetched(run=request.run_id, name=request.object_id, size=len(answer.body))
        case PushMessagesRequest():
            # The message is finished when the site confirms it, and no sooner: a site that is killed while it sends the
            # objects of its reply is handed the message again.
            message = request.messages_list[0].metadata.reply_to_message_id
            mailbox.await_objects(answer.body, message=message, tree=request.message_object_trees[0])
        case ConfirmMessageReceivedRequest():
            mailbox.finish(request.message_object_id)


def _odd_object(request: PushObjectRequest, mailbox: Mailbox) -> Answer | None:
    """Refuse an object that is not awaited, and one that is no part of a message of ours or too much."""
    name, session = request.object_id, request.session_id
    if not mailbox.may_push(run=request.run_id, session=session, name=name):
        return _nothing(PushObjectResponse(stored=False))
    if reason := mailbox.odd_object(session=session, name=name, content=request.object_content):
        return refusal(HTTPStatus.FORBIDDEN, reason)
    return None


def _odd_reply(request: PushMessagesRequest, mailbox: Mailbox) -> Answer | None:
    """Refuse a reply to what was not handed to the site, and one that is no message of ours."""
    metadata = request.messages_list[0].metadata
    message = metadata.reply_to_message_id
    if not mailbox.may_answer(run=metadata.run_id, message=message):
        # A site that answers after the coordinator has started again learns that its run is over: runs end then.
        return _error(NOT_RUNNING, "a reply to no message that was handed to the site")
    if reason := mailbox.odd_reply(message=message, tree=request.message_object_trees[0]):
        return refusal(HTTPStatus.FORBIDDEN, reason)
    return None


def _error(code: int, reason: str) -> Answer:
    """Return one of Flower's errors."""
    return Answer(status=HTTPStatus.FORBIDDEN, body=flower_error(code), media_type=JSON, reason=reason)


def _nothing(response: PullObjectResponse | PushObjectResponse | ConfirmMessageReceivedResponse) -> Answer:
    """Return Flower's answer for what does not exist."""
    return Answer(
        status=HTTPStatus.OK,
        body=response.SerializeToString(),
        media_type=PROTOBUF,
        reason="an object that was not handed to the site, or is not awaited of it",
    )
