"""What was handed to a site, what it may ask for, and what it is handed again."""

import json

import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode, FlowerError

from server.deployment.gate.mailbox import Mailbox
from server.deployment.gate.requests import Answer
from server.deployment.gate.scope import noted, out_of_scope

RUN, ROOT, LEAF = 5, "a" * 64, "b" * 64


def handed(message=ROOT, run=RUN, leaf=LEAF):
    """The SuperLink's answer that hands a message out."""
    tree = ObjectTree(
        object_id=message, children=[ObjectTree(object_id="f" * 64, children=[ObjectTree(object_id=leaf)])]
    )
    metadata = Metadata(run_id=run, message_id=message, src_node_id=1, dst_node_id=77)
    return PullMessagesResponse(
        messages_list=[Message(metadata=metadata)], message_object_trees=[tree]
    ).SerializeToString()


@pytest.fixture
def mailbox():
    box = Mailbox()
    box.hand_out(handed(), connection=1)
    return box


def test_objects_are_those_of_messages_handed_out(mailbox):
    for name in (ROOT, "f" * 64, LEAF):
        assert mailbox.may_pull(run=RUN, name=name)
    assert not mailbox.may_pull(run=RUN, name="c" * 64)
    assert not mailbox.may_pull(run=RUN + 1, name=LEAF)
    assert not Mailbox().may_pull(run=RUN, name=LEAF)


def test_what_is_finished_is_gone_and_its_run_is_remembered(mailbox):
    mailbox.finish(ROOT)
    assert not mailbox.may_pull(run=RUN, name=LEAF)
    assert not mailbox.may_finish(run=RUN, message=ROOT)
    assert mailbox.may_know(RUN)
    assert not mailbox.may_know(RUN + 1)


REPLY, RECORDS, RECORD, ARRAY, CHUNK = (letter * 64 for letter in "12345")
MEBIBYTE = 1024 * 1024


def reply_tree(*, chunks=(CHUNK,), extra=()):
    """The objects of a reply with one array."""
    leaves = [ObjectTree(object_id=name) for name in chunks]
    array = ObjectTree(object_id=ARRAY, children=leaves)
    record = ObjectTree(object_id=RECORD, children=[array])
    records = [record, *(ObjectTree(object_id=name) for name in extra)]
    return ObjectTree(object_id=REPLY, children=[ObjectTree(object_id=RECORDS, children=records)])


def opened(box, *, tree=None, awaited=(REPLY, RECORDS, RECORD, ARRAY, CHUNK), session="s"):
    """A session in which these objects of a reply are awaited."""
    body = PushMessagesResponse(session_id=session, objects_to_push=awaited).SerializeToString()
    box.await_objects(body, message=ROOT, tree=reply_tree() if tree is None else tree)


def deflated(kind, children, body):
    """An object as Flower sends it."""
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def array_of(numbers, *, chunks=(CHUNK,)):
    told = {"dtype": "int32", "shape": [4], "stype": "numpy.ndarray", "arraychunk_ids": numbers}
    return deflated("Array", chunks, json.dumps(told).encode())


def chunk_of(size):
    return deflated("ArrayChunk", [], bytes(size))


def test_objects_to_push_are_those_awaited_in_their_session(mailbox):
    opened(mailbox, awaited=[CHUNK, LEAF])
    assert mailbox.may_push(run=RUN, session="s", name=CHUNK)
    assert not mailbox.may_push(run=RUN, session="", name=CHUNK)
    assert not mailbox.may_push(run=RUN, session="t", name=CHUNK)
    assert not mailbox.may_push(run=RUN, session="s", name=ROOT)
    assert not mailbox.may_push(run=RUN, session="s", name=LEAF), "it is no part of the reply"
    assert not mailbox.may_push(run=RUN + 1, session="s", name=CHUNK)


def test_a_session_without_a_name_opens_nothing(mailbox):
    opened(mailbox, session="")
    assert not mailbox.may_push(run=RUN, session="", name=CHUNK)


def test_only_what_was_handed_out_is_answered(mailbox):
    assert mailbox.may_answer(run=RUN, message=ROOT)
    mailbox.finish(ROOT)
    assert mailbox.may_answer(run=RUN, message=ROOT), "a node may confirm first and answer then"
    assert not mailbox.may_answer(run=RUN + 1, message=ROOT)
    assert not mailbox.may_answer(run=RUN, message=LEAF)
    assert not Mailbox().may_answer(run=RUN, message=ROOT)


def test_a_reply_is_as_large_as_its_message_allows(mailbox):
    """Twice the message and 1 MiB, in however many objects, sessions and attempts."""
    mailbox.fetched(run=RUN, name=LEAF, size=MEBIBYTE)
    mailbox.fetched(run=RUN, name=LEAF, size=MEBIBYTE)  # the same again gives no more room
    mailbox.fetched(run=RUN, name="c" * 64, size=100 * MEBIBYTE)  # nor does what is not of the message
    mailbox.fetched(run=RUN + 1, name=ROOT, size=100 * MEBIBYTE)
    names = [f"{number:064x}" for number in range(100, 110)]
    tree = reply_tree(chunks=names)
    taken = []
    for session in ("s", "t"):
        opened(mailbox, tree=tree, awaited=names, session=session)
        for name in names[:5] if session == "s" else names:
            taken.append(mailbox.odd_object(session=session, name=name, content=chunk_of(MEBIBYTE // 2)) == "")
    assert taken == [True] * 10 + [False] * 5, "five, the same five, and not five more: 3 MiB hold five with heads"


def test_the_room_for_a_reply_grows_with_the_message(mailbox):
    mailbox.fetched(run=RUN, name=LEAF, size=5 * MEBIBYTE)
    opened(mailbox)
    assert mailbox.odd_object(session="s", name=CHUNK, content=chunk_of(5 * MEBIBYTE)) == ""
    small = Mailbox()
    small.hand_out(handed(), connection=1)
    opened(small)
    assert "1048576 bytes" in small.odd_object(session="s", name=CHUNK, content=chunk_of(5 * MEBIBYTE))


def test_an_array_does_not_become_more_than_its_reply_may_be(mailbox):
    """One chunk that is listed 300 times would be 300 chunks in the coordinator's memory."""
    opened(mailbox)
    assert mailbox.odd_object(session="s", name=ARRAY, content=array_of([0])) == ""
    assert "300 chunks" in mailbox.odd_object(session="s", name=ARRAY, content=array_of([0] * 300))
    mailbox.fetched(run=RUN, name=LEAF, size=5 * MEBIBYTE)
    assert mailbox.odd_object(session="s", name=ARRAY, content=array_of([0, 0, 0])) == "", "zeros are such chunks"


def test_a_reply_of_many_objects_or_of_another_shape_is_refused(mailbox):
    assert mailbox.odd_reply(message=ROOT, tree=reply_tree()) == ""
    many = reply_tree(chunks=[f"{number:064x}" for number in range(60_000)])
    assert "more than" in mailbox.odd_reply(message=ROOT, tree=many)
    assert "order" in mailbox.odd_reply(message=ROOT, tree=reply_tree(extra=["6" * 64, "7" * 64, "8" * 64, "9" * 64]))


def test_what_is_refused_is_told_apart(mailbox):
    message = Message(metadata=Metadata(run_id=RUN, reply_to_message_id=LEAF))
    stale = out_of_scope(PushMessagesRequest(messages_list=[message], message_object_trees=[reply_tree()]), mailbox)
    assert stale is not None
    error = FlowerError.from_json(stale.body.decode())
    assert error is not None
    assert (stale.status, error.code) == (403, ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED), "the site gives it up"
    message.metadata.reply_to_message_id = ROOT
    honest = PushMessagesRequest(messages_list=[message], message_object_trees=[reply_tree()])
    assert out_of_scope(honest, mailbox) is None
    opened(mailbox)
    push = PushObjectRequest(run_id=RUN, object_id=ARRAY, session_id="s", object_content=array_of([0] * 300))
    bomb = out_of_scope(push, mailbox)
    assert bomb is not None
    assert (bomb.status, bomb.body) == (403, b"")
    push.object_content = array_of([0])
    assert out_of_scope(push, mailbox) is None


def test_what_a_site_fetched_is_noted(mailbox):
    pull = PullObjectRequest(run_id=RUN, object_id=LEAF)
    opened(mailbox)
    large = {"session": "s", "name": CHUNK, "content": chunk_of(2 * MEBIBYTE)}
    assert mailbox.odd_object(**large)
    noted(pull, Answer(status=200, body=bytes(MEBIBYTE)), mailbox)
    assert mailbox.odd_object(**large) == ""


def test_only_the_newest_are_kept():
    box = Mailbox()
    for number in range(500):
        box.hand_out(handed(f"{number:064}", run=number, leaf=f"{number:063}x"), connection=1)
    assert not box.may_pull(run=0, name=f"{0:063}x")
    assert box.may_pull(run=499, name=f"{499:063}x")
    assert sum(box.may_know(run) for run in range(500)) == 64


def test_a_message_that_nobody_waited_for_is_handed_out_again(mailbox):
    offer = mailbox.hand_out_again(connection=2)
    assert offer is not None
    mailbox.lose(offer)
    again = mailbox.hand_out_again(connection=3)
    assert again is not None
    assert again.body == handed()


def test_a_message_written_to_a_connection_that_fell_silent_is_handed_out_again(mailbox):
    assert mailbox.hand_out_again(connection=1) is None, "who asks on the same connection has read it"
    assert mailbox.hand_out_again(connection=2) is None, "and that does not change"
    other = Mailbox()
    other.hand_out(handed(), connection=1)
    again = other.hand_out_again(connection=2)
    assert again is not None
    assert again.body == handed()


def test_a_message_of_which_something_was_fetched_has_arrived(mailbox):
    assert mailbox.may_pull(run=RUN, name=LEAF)
    assert mailbox.hand_out_again(connection=2) is None


def test_a_site_that_begins_anew_is_handed_what_it_had_not_finished(mailbox):
    assert mailbox.may_pull(run=RUN, name=LEAF)
    mailbox.lose_all()
    assert mailbox.hand_out_again(connection=2) is not None


def test_what_was_finished_is_not_handed_out_again(mailbox):
    mailbox.finish(ROOT)
    mailbox.lose_all()
    assert mailbox.hand_out_again(connection=2) is None


def test_a_message_is_not_handed_out_for_ever():
    box = Mailbox()
    box.hand_out(handed(), connection=0)
    times = sum(box.hand_out_again(connection=number) is not None for number in range(1, 100))
    assert times == 3


def test_an_answer_without_a_message_is_none():
    assert Mailbox().hand_out(PullMessagesResponse().SerializeToString(), connection=1) is None


def test_quiet_is_since_something_moved():
    now = [10.0]
    box = Mailbox(clock=lambda: now[0])
    now[0] = 40.0
    assert box.quiet_s() == 30.0
    box.hand_out(handed(), connection=1)
    assert box.quiet_s() == 0.0
    now[0] = 41.0
    opened(box)
    assert box.quiet_s() == 0.0


def test_a_newer_question_ends_the_older():
    box = Mailbox()
    first = box.begin_poll()
    assert box.is_latest(first)
    second = box.begin_poll()
    assert not box.is_latest(first)
    assert box.is_latest(second)


def test_what_was_not_handed_to_a_site_does_not_exist_for_it(mailbox):
    foreign = "c" * 64
    pulled = out_of_scope(PullObjectRequest(run_id=RUN, object_id=foreign), mailbox)
    assert pulled is not None
    assert PullObjectResponse.FromString(pulled.body) == PullObjectResponse(object_found=False, object_available=False)
    assert pulled.reason
    pushed = out_of_scope(PushObjectRequest(run_id=RUN, object_id=foreign, session_id="s"), mailbox)
    assert pushed is not None
    assert not PushObjectResponse.FromString(pushed.body).stored
    confirmed = out_of_scope(ConfirmMessageReceivedRequest(run_id=RUN, message_object_id=foreign), mailbox)
    assert confirmed is not None
    assert (confirmed.status, confirmed.body) == (200, b"")
    run = out_of_scope(GetRunRequest(run_id=RUN + 1), mailbox)
    assert run is not None
    assert run.status == 403


def test_what_was_handed_to_a_site_passes(mailbox):
    assert out_of_scope(PullObjectRequest(run_id=RUN, object_id=LEAF), mailbox) is None
    assert out_of_scope(ConfirmMessageReceivedRequest(run_id=RUN, message_object_id=ROOT), mailbox) is None
    assert out_of_scope(GetRunRequest(run_id=RUN), mailbox) is None
    assert out_of_scope(DeactivateNodeRequest(node_id=77), mailbox) is None


def test_consequences_are_noted_only_where_the_superlink_agreed(mailbox):
    confirm = ConfirmMessageReceivedRequest(run_id=RUN, message_object_id=ROOT)
    noted(confirm, Answer(status=503), mailbox)
    assert mailbox.may_finish(run=RUN, message=ROOT)
    noted(confirm, Answer(status=200), mailbox)
    assert not mailbox.may_finish(run=RUN, message=ROOT)


def test_a_reply_opens_its_session_and_its_message_stays_until_it_is_confirmed(mailbox):
    message = Message(metadata=Metadata(run_id=RUN, reply_to_message_id=ROOT))
    body = PushMessagesResponse(session_id="s", objects_to_push=[CHUNK]).SerializeToString()
    request = PushMessagesRequest(messages_list=[message], message_object_trees=[reply_tree()])
    noted(request, Answer(status=200, body=body), mailbox)
    assert mailbox.may_push(run=RUN, session="s", name=CHUNK)
    assert mailbox.may_finish(run=RUN, message=ROOT), "the SuperLink forgets its objects when it is confirmed"
    mailbox.lose_all()
    assert mailbox.hand_out_again(connection=2) is not None, "the objects of the reply may not all have been sent"


def test_activation_means_that_the_site_began_anew(mailbox):
    assert mailbox.may_pull(run=RUN, name=LEAF)
    noted(ActivateNodeRequest(), Answer(status=200), mailbox)
    assert mailbox.hand_out_again(connection=9) is not None
