"""The held question for messages: nothing is handed to nobody, and nothing is held for ever."""

import asyncio

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree

from server.deployment.gate.mailbox import Mailbox
from server.deployment.gate.pull import Caller, LongPoll, pause_s
from server.deployment.gate.requests import PROTOBUF, Answer

EMPTY = Answer(status=200, body=b"", media_type=PROTOBUF)


def handed(name="a"):
    response = PullMessagesResponse(
        messages_list=[Message(metadata=Metadata(run_id=5, message_id=name * 64))],
        message_object_trees=[ObjectTree(object_id=name * 64)],
    )
    return Answer(status=200, body=response.SerializeToString(), media_type=PROTOBUF)


class Site:
    """One question, and what became of it."""

    def __init__(self, mailbox, *answers, connection=1, seconds=20.0, closing=None):
        self.left, self.written, self.asked = asyncio.Event(), [], 0
        self.answers = list(answers)
        caller = Caller(connection=connection, closing=closing)
        self.poll = LongPoll(mailbox=mailbox, caller=caller, seconds=seconds, ask=self.ask)

    async def ask(self):
        """The SuperLink: what it gives out, it gives out once."""
        self.asked += 1
        await asyncio.sleep(0)
        return self.answers.pop(0) if self.answers else EMPTY

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def reply(self, answer):
        self.written.append(answer)

    async def run(self):
        return await self.poll.answer(self.receive, self.reply)


def test_a_message_that_waits_comes_at_once():
    async def go():
        site = Site(Mailbox(), handed())
        return await site.run(), site

    rest, site = asyncio.run(go())
    assert rest is None
    assert [answer.body for answer in site.written] == [handed().body]
    assert site.asked == 1


def test_a_message_that_comes_later_is_found_soon():
    async def go():
        site = Site(Mailbox(), EMPTY, EMPTY, handed())
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await site.run()
        return site, loop.time() - begun

    site, seconds = asyncio.run(go())
    assert len(site.written) == 1
    assert site.asked == 3
    assert seconds >= 0.09


def test_a_question_is_not_held_for_ever():
    async def go():
        site = Site(Mailbox(), seconds=0.12)
        return await site.run(), site

    rest, site = asyncio.run(go())
    assert rest is not None
    assert (rest.status, rest.body, site.written) == (200, b"", [])
    assert 1 <= site.asked <= 5


@pytest.mark.parametrize("quiet", [0.0, 0.01, 0.3, 1.0, 5.0, 60.0, 1e6])
def test_waiting_is_prolonged_by_a_tenth_at_most(quiet):
    assert 0.05 <= pause_s(quiet) <= 1.0
    assert pause_s(quiet) <= max(0.05, 0.1 * quiet)


def test_where_nothing_happened_for_long_it_is_not_asked_again_soon():
    async def go():
        now = [0.0]
        mailbox = Mailbox(clock=lambda: now[0])
        now[0] = 1e6
        site = Site(mailbox)
        task = asyncio.create_task(site.run())
        await asyncio.sleep(0.15)
        site.left.set()
        await task
        return site.asked

    assert asyncio.run(go()) == 1


def test_nothing_is_asked_for_a_site_that_has_left():
    async def go():
        site = Site(Mailbox(), *[EMPTY] * 3, handed())
        task = asyncio.create_task(site.run())
        await asyncio.sleep(0.01)
        site.left.set()
        rest = await asyncio.wait_for(task, 5)
        return rest, site

    rest, site = asyncio.run(go())
    assert rest is None
    assert (site.written, site.asked) == ([], 1)
    assert site.answers[-1].body == handed().body, "the message is still the SuperLink's"


def test_a_message_that_came_when_the_site_had_left_is_handed_to_its_next_question():
    async def go():
        mailbox = Mailbox()

        class LeavesMeanwhile(Site):
            async def ask(self):
                self.left.set()
                await asyncio.sleep(0.01)
                return await super().ask()

        gone, back = LeavesMeanwhile(mailbox, handed()), None
        rest = await gone.run()
        back = Site(mailbox, connection=2)
        await back.run()
        return rest, gone, back

    rest, gone, back = asyncio.run(go())
    assert rest is None
    assert gone.written == []
    assert [answer.body for answer in back.written] == [handed().body]
    assert back.asked == 0


def test_without_that_memory_the_message_would_be_lost():
    """The broken twin: a mailbox that remembers nothing."""

    class Forgetful(Mailbox):
        def hand_out_again(self, **_):
            return None

    async def go():
        mailbox = Forgetful()

        class LeavesMeanwhile(Site):
            async def ask(self):
                self.left.set()
                await asyncio.sleep(0.01)
                return await super().ask()

        await LeavesMeanwhile(mailbox, handed()).run()
        back = Site(mailbox, connection=2, seconds=0.1)
        return await back.run(), back

    rest, back = asyncio.run(go())
    assert back.written == []
    assert rest is not None


def test_a_newer_question_ends_the_older_and_gets_what_the_older_was_given():
    async def go():
        mailbox = Mailbox()
        release = asyncio.Event()

        class Slow(Site):
            async def ask(self):
                await release.wait()
                return await super().ask()

        old = Slow(mailbox, handed(), connection=1)
        first = asyncio.create_task(old.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        new = Site(mailbox, connection=2)
        second = asyncio.create_task(new.run())
        await asyncio.sleep(0.01)
        release.set()
        return await first, old, await asyncio.wait_for(second, 5), new

    first, old, _, new = asyncio.run(go())
    assert old.written == []
    assert first is not None
    assert first.body == b""
    assert [answer.body for answer in new.written] == [handed().body]


def test_a_failure_is_passed_on():
    async def go():
        return await Site(Mailbox(), EMPTY, Answer(status=503, reason="away")).run()

    rest = asyncio.run(go())
    assert rest is not None
    assert (rest.status, rest.reason) == (503, "away")


def test_a_signature_that_becomes_too_old_while_it_is_held_is_no_failure():
    async def go():
        late = await Site(Mailbox(), EMPTY, Answer(status=401, reason="x")).run()
        early = await Site(Mailbox(), Answer(status=401, reason="x")).run()
        return late, early

    late, early = asyncio.run(go())
    assert late is not None
    assert (late.status, late.body) == (200, b"")
    assert early is not None
    assert early.status == 401


def test_the_gate_ends_without_waiting():
    async def go():
        closing = asyncio.Event()
        site = Site(Mailbox(), closing=closing)
        task = asyncio.create_task(site.run())
        await asyncio.sleep(0.01)
        closing.set()
        return await asyncio.wait_for(task, 5)

    rest = asyncio.run(go())
    assert rest is not None
    assert (rest.status, rest.body) == (200, b"")
