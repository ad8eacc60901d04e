"""The keystream, its keys, and what is drawn from it."""

import copy
import hashlib
import os
import pickle
import signal
import sys
import threading
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from protocol import randomness
from protocol.errors import InputError, PrivacyError
from protocol.randomness import DeterministicRandom, RandomSource, SystemRandom
from protocol.terms import NoiseOrigin

TOP = 2**64


class ZeroKey(RandomSource):
    """The keystream of the all-zero key."""

    origin = NoiseOrigin.DETERMINISTIC

    def child(self, *labels):
        raise NotImplementedError

    def _next_key(self):
        return bytes(32)


class Scripted(ZeroKey):
    """Hands out the given 64-bit words, and counts what is left."""

    def __init__(self, *words):
        super().__init__()
        self.words = list(words)

    def uint64(self, n):
        taken, self.words = self.words[:n], self.words[n:]
        return np.array(taken, dtype=np.uint64)


def test_keystream_is_chacha20():
    # RFC 8439, appendix A.1, test vector 1.
    expected = (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert ZeroKey().bytes(64).hex() == expected
    assert ZeroKey().uint64(1)[0] == int.from_bytes(bytes.fromhex(expected)[:8], "little")


def test_deterministic_stream_equals_a_slow_twin():
    def derive(key, *parts):
        digest = hashlib.blake2b(key=key, digest_size=32, person=b"cloister-random")
        for kind, body in parts:
            digest.update(kind + len(body).to_bytes(8, "big") + body)
        return digest.digest()

    root = derive(b"", (b"s", b"seed"), (b"i", b"7"))
    key = derive(root, (b"s", b"key"), (b"i", b"1"))
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(200_000))
    assert DeterministicRandom(7).bytes(200_000) == stream


def test_stream_does_not_depend_on_how_it_is_read(monkeypatch):
    monkeypatch.setattr(randomness, "_BYTES_PER_KEY", 100)
    whole = DeterministicRandom("x").bytes(1000)
    source = DeterministicRandom("x")
    assert b"".join(source.bytes(n) for n in (1, 99, 0, 100, 301, 499)) == whole
    assert whole[:100] != whole[100:200]


def test_system_source_takes_a_new_key_when_one_is_used_up(monkeypatch):
    taken = []

    def urandom(n):
        taken.append(n)
        return bytes([len(taken)]) * n

    monkeypatch.setattr(randomness, "_BYTES_PER_KEY", 100)
    monkeypatch.setattr(randomness.os, "urandom", urandom)
    source = SystemRandom()
    source.bytes(250)
    assert taken == [32, 32, 32]


def test_origin_says_what_is_private():
    assert SystemRandom().origin is NoiseOrigin.SYSTEM
    assert SystemRandom().private
    assert DeterministicRandom(1).origin is NoiseOrigin.DETERMINISTIC
    assert not DeterministicRandom(1).private
    assert not DeterministicRandom(1).child("a").private


def test_system_sources_are_unrelated():
    source = SystemRandom()
    streams = {
        SystemRandom().bytes(16),
        source.bytes(16),
        source.child("a").bytes(16),
        source.child("a").bytes(16),
    }
    assert len(streams) == 4


def test_seeds_of_different_types_and_lengths_differ():
    seeds = [1, "1", b"1", 12, "12", "", b"", -1, "seed"]
    assert len({DeterministicRandom(seed).bytes(16) for seed in seeds}) == len(seeds)


def test_children_do_not_depend_on_the_order_of_use():
    first, second = DeterministicRandom(3), DeterministicRandom(3)
    first.bytes(1000)
    first.child("noise", 1)
    assert first.child("noise", 2).bytes(32) == second.child("noise", 2).bytes(32)


def test_children_with_different_labels_are_unrelated():
    root = DeterministicRandom(3)
    labels = [("a", "b"), ("ab",), ("a",), ("b", "a"), (1,), ("1",), (1, 2), (12,), ()]
    streams = {root.child(*label).bytes(16) for label in labels} | {root.bytes(16)}
    assert len(streams) == len(labels) + 1


@pytest.mark.parametrize("source", [SystemRandom(), DeterministicRandom(1)])
@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_source_cannot_be_duplicated(source, duplicate):
    with pytest.raises(PrivacyError, match="cannot be copied"):
        duplicate(source)


def bytes_after_fork(source: RandomSource) -> tuple[bytes, bytes]:
    """What parent and child draw next from the same object; the lock is held while the process forks."""
    reader, writer = os.pipe()
    source.bytes(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns where threads are running
        with source._lock:
            child = os.fork()
            if child == 0:
                if isinstance(source, DeterministicRandom):
                    source._lock = threading.Lock()
                signal.alarm(20)
                os.write(writer, source.bytes(32))
                os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "the child hung or crashed"
    return source.bytes(32), theirs


def test_parent_and_child_process_never_share_a_keystream():
    ours, theirs = bytes_after_fork(SystemRandom())
    assert len(theirs) == 32
    assert ours != theirs


def test_broken_twin_that_keeps_its_key_repeats_itself_after_fork():
    ours, theirs = bytes_after_fork(DeterministicRandom(1))
    assert ours == theirs


@pytest.fixture
def frequent_switches():
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("frequent_switches")
def test_threads_share_one_stream_without_loss_or_repetition(monkeypatch):
    monkeypatch.setattr(randomness, "_BYTES_PER_KEY", 64)  # a new key often, where a race would do most harm
    count, threads = 2000, 8
    source, drawn = DeterministicRandom(9), [[] for _ in range(threads)]

    def draw(mine):
        mine.extend(source.bytes(8) for _ in range(count))

    workers = [threading.Thread(target=draw, args=(mine,)) for mine in drawn]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    whole = DeterministicRandom(9).bytes(8 * count * threads)
    expected = sorted(whole[start : start + 8] for start in range(0, len(whole), 8))
    assert sorted(word for mine in drawn for word in mine) == expected


@pytest.mark.parametrize("source", [SystemRandom(), DeterministicRandom(5)])
def test_bytes_are_uniform(source):
    counts = np.bincount(np.frombuffer(source.bytes(1_000_000), dtype=np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-9


def test_uniform_is_uniform_on_the_half_open_interval():
    values = DeterministicRandom(6).uniform(100_000)
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert Scripted(TOP - 1).uniform(1)[0] == 1 - 2.0**-53
    assert Scripted(0).uniform(1)[0] == 0.0
    assert Scripted(1 << 11).uniform(1)[0] == 2.0**-53


def test_seed64_suits_a_torch_generator():
    seeds = {Scripted(TOP - 1).seed64(), Scripted(0).seed64(), SystemRandom().seed64()}
    assert {0, TOP - 1} <= seeds
    for seed in seeds:
        assert torch.Generator().manual_seed(seed).initial_seed() % TOP == seed


def bernoulli_by_fractions(rate: float, words: list[int]) -> bool:
    """The obviously right coin: the uniform number with these binary digits, compared as a fraction."""
    return Fraction(int("".join(f"{word:064b}" for word in words), 2), TOP ** len(words)) < Fraction(rate)


@given(
    rate=st.one_of(st.floats(0, 1), st.floats(0, 2.0**-50), st.floats(0, 2.0**-1000)),
    offset=st.integers(-2, 2),
    later=st.lists(st.integers(0, TOP - 1), min_size=17, max_size=17),
)
def test_bernoulli_equals_the_fraction_twin_next_to_the_threshold(rate, offset, later):
    first = min(max(int(Fraction(rate) * TOP) + offset, 0), TOP - 1)
    words = [first, *later]
    assert Scripted(*words).bernoulli(1, rate)[0] == bernoulli_by_fractions(rate, words)


def test_bernoulli_draws_further_digits_only_for_undecided_coins():
    rate = 2.0**-60 + 2.0**-112  # 16 in the first 64 digits, 2^16 in the next
    source = Scripted(15, 16, 17, 16, 65535, 65536, 99)
    assert source.bernoulli(4, rate).tolist() == [True, True, False, False]
    assert source.words == [99]


def test_bernoulli_remembers_which_coins_are_undecided():
    source = Scripted(5, 0, 0, 9, 0, 3)  # the rate is 4096 in the third 64 digits
    assert source.bernoulli(3, 2.0**-180).tolist() == [False, False, True]
    assert source.words == []


def test_broken_twin_that_compares_floats_is_not_exact():
    rate, words = 2.0**-60 + 2.0**-112, [17]
    floats = Scripted(*words).uniform(1) < rate
    assert floats[0] != bernoulli_by_fractions(rate, words)


def test_bernoulli_keeps_its_rate_and_not_another():
    n, rate = 200_000, 0.05
    hits = int(DeterministicRandom(8).bernoulli(n, rate).sum())
    assert stats.binomtest(hits, n, rate).pvalue > 1e-3
    for wrong in (2 / 3, 3 / 2):
        assert stats.binomtest(hits, n, rate * wrong).pvalue < 1e-9


def test_bernoulli_at_the_ends():
    assert SystemRandom().bernoulli(1000, 1.0).all()
    assert not SystemRandom().bernoulli(1000, 0.0).any()
    assert SystemRandom().bernoulli(0, 0.5).shape == (0,)


@pytest.mark.parametrize("rate", [-0.1, 1.0000001, float("nan"), float("inf")])
def test_bernoulli_refuses_what_is_not_a_rate(rate):
    with pytest.raises(InputError, match="rate"):
        SystemRandom().bernoulli(3, rate)


@pytest.mark.parametrize("draw", ["bytes", "uint64", "uniform"])
def test_counts(draw):
    assert len(getattr(SystemRandom(), draw)(0)) == 0
    assert len(getattr(SystemRandom(), draw)(5)) == 5
    with pytest.raises(InputError, match="count"):
        getattr(SystemRandom(), draw)(-1)
