"""Token buckets, what a site may have in work, and the log of refusals."""

import logging
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InputError
from server.deployment.gate.limits import Allowance, ConnectionLimits, GateLimits, RefusalLog, TokenBucket


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@given(steps=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 50)), max_size=30))
def test_bucket_equals_its_slow_twin(steps):
    clock, rate, burst = Clock(), 4.0, 20.0
    bucket = TokenBucket(rate=rate, burst=burst, clock=clock)
    tokens = burst
    for seconds, amount in steps:
        clock.now += seconds
        tokens = min(burst, tokens + rate * seconds) - amount
        bucket.spend(amount)
        assert bucket.debt_s() == pytest.approx(max(0.0, -tokens / rate), abs=1e-6)


def test_long_run_is_the_rate_however_much_is_asked():
    clock = Clock()
    bucket = TokenBucket(rate=10.0, burst=50.0, clock=clock)
    spent = 0
    while clock.now < 200.0:
        if bucket.debt_s() == 0:
            bucket.spend(7)
            spent += 7
        clock.now += 0.01
    assert spent == pytest.approx(10.0 * 100 + 50, abs=14)


def test_nothing_is_saved_beyond_the_burst():
    clock = Clock()
    bucket = TokenBucket(rate=10.0, burst=5.0, clock=clock)
    clock.now += 1e6
    bucket.spend(6.0)
    assert bucket.debt_s() == pytest.approx(0.1)


async def use(allowance, times):
    for _ in range(times):
        async with allowance.request():
            pass


def run(coroutine):
    import asyncio

    return asyncio.run(coroutine)


def test_a_site_is_held_back_first_and_refused_later():
    clock = Clock()
    limits = GateLimits(requests_per_second=10.0, request_burst=20, patience_s=1.0)
    allowance = Allowance(limits, clock=clock)
    run(use(allowance, 20))
    assert (allowance.busy(), allowance.hold_s()) == ("", 0.0)
    run(use(allowance, 5))
    assert allowance.busy() == ""
    assert allowance.hold_s() == pytest.approx(0.5)
    run(use(allowance, 6))
    assert allowance.busy() == "too many requests or bytes"
    clock.now += 1.2
    assert (allowance.busy(), allowance.hold_s()) == ("", 0.0)


def test_bytes_count_as_requests_do():
    clock = Clock()
    allowance = Allowance(GateLimits(bytes_per_second=100.0, byte_burst=1_000, patience_s=1.0), clock=clock)
    allowance.moved(1_050)
    assert allowance.hold_s() == pytest.approx(0.5)
    allowance.moved(200)
    assert allowance.busy()


def test_requests_at_once_are_counted_and_given_back():
    async def both():
        allowance = Allowance(GateLimits(site_requests=2))
        async with allowance.request():
            first = allowance.busy()
            async with allowance.request():
                second = allowance.busy()
        return first, second, allowance.busy()

    assert run(both()) == ("", "more than 2 requests at once", "")


def test_defaults_let_a_round_of_100_megabytes_pass_every_second():
    limits, clock = GateLimits(), Clock()
    allowance = Allowance(limits, clock=clock)
    objects = 2 * (100 * 1024 * 1024 // (5 * 1024 * 1024))
    for _ in range(600):
        run(use(allowance, objects + 10))
        allowance.moved(2 * 100 * 1024 * 1024)
        clock.now += 1.0
        assert allowance.hold_s() == 0.0


@pytest.mark.parametrize("kind", [GateLimits, ConnectionLimits])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_that_limit_nothing_are_refused(kind, value):
    for field in fields(kind):
        with pytest.raises(InputError, match=field.name):
            kind(**{field.name: value})


def test_refusals_are_one_line_each(caplog):
    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        RefusalLog().refused(who="north", what="POST /v1/fleet/register-node", reason="not among what passes")
    assert caplog.messages == ["refused north: POST /v1/fleet/register-node: not among what passes"]


@pytest.mark.parametrize("what", ["GET /\nrefused south: forged", "GET /\r", "GET /\x1b[2J", "GET /\u2028x"])
def test_a_stranger_forges_no_line(caplog, what):
    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        RefusalLog().refused(who="10.0.0.1", what=what, reason="x")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].isprintable()
    assert "?" in caplog.messages[0]


def test_a_flood_of_refusals_is_counted_not_listed(caplog):
    clock = Clock()
    log = RefusalLog(rate=1.0, burst=5.0, clock=clock)
    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        for _ in range(1_000):
            log.refused(who="10.0.0.1", what="connection", reason="too many handshakes at once")
        listed = len(caplog.messages)
        clock.now += 10.0
        log.refused(who="10.0.0.1", what="connection", reason="too many handshakes at once")
    assert listed == 6
    assert caplog.messages[-1].endswith("(994 more before it not listed)")


def test_long_paths_are_cut(caplog):
    with caplog.at_level(logging.WARNING, logger="cloister.gate"):
        RefusalLog().refused(who="10.0.0.1", what="GET /" + "a" * 10_000, reason="x")
    assert len(caplog.messages[0]) < 300
