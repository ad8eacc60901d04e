"""Masks: the keystream is ChaCha20's, a masked vector is uniform, and it depends on everything it is bound to."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy import stats

from privacy.secure_sum import SiteSession
from privacy.secure_sum import site as site_module
from privacy.secure_sum.masks import apply_masks, to_integers, to_words
from privacy.secure_sum.messages import round_context
from protocol.errors import PrivacyError
from protocol.randomness import SystemRandom

SIZE = 200_000


def slow_mask(key, words):
    """One keystream, one word at a time."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * len(words)))
    return [(int(word) + int.from_bytes(stream[4 * i : 4 * i + 4], "little")) % 2**32 for i, word in enumerate(words)]


def test_published_keystream():
    """RFC 8439, appendix A.1, test vector 1: key and nonce zero, first block."""
    words = np.zeros(16, dtype=np.uint32)
    apply_masks(words, added=[bytes(32)])
    assert words.tobytes().hex().startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")


@pytest.mark.parametrize("size", [1, 2**14 - 1, 2**14, 2**14 + 1, 40_000])
def test_masks_are_those_of_the_slow_twin(size):
    words = np.arange(size, dtype=np.uint32) * np.uint32(2**31 - 1)
    keys = [bytes([i]) * 32 for i in range(3)]
    expected = slow_mask(keys[1], slow_mask(keys[0], words))
    masked = words.copy()
    apply_masks(masked, added=keys[:2])
    assert masked.tolist() == expected
    apply_masks(masked, added=[keys[2]], subtracted=[keys[1], keys[2], keys[0]])
    assert masked.tolist() == words.tolist()


def test_words_and_integers_are_inverse_at_the_limits():
    vector = np.array([-(2**31) + 1, -1, 0, 1, 2**31 - 1])
    words = to_words(vector, coordinates=5, limit=2**31 - 1)
    assert to_integers(words).tolist() == vector.tolist()
    assert not np.shares_memory(words, vector)
    with pytest.raises(PrivacyError, match="beyond"):
        to_words(vector, coordinates=5, limit=2**31 - 2)


def test_masks_want_words():
    with pytest.raises(PrivacyError, match="float32"):
        apply_masks(np.zeros(3, dtype=np.float32))  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(PrivacyError, match="uint32"):
        apply_masks(np.zeros(6, dtype=np.uint32)[::2])


def uniform_p_values(words):
    """Bytes at each place of a word, and neighbouring words' leading bits, against the uniform distribution."""
    columns = words.view(np.uint8).reshape(-1, 4)
    found = [stats.chisquare(np.bincount(columns[:, place], minlength=256)).pvalue for place in range(4)]
    pairs = (words[:-1] >> 28) * 16 + (words[1:] >> 28)
    return [*found, stats.chisquare(np.bincount(pairs, minlength=256)).pvalue]


def masked_twice(federation, *models):
    """One site's very same vector and secrets in one round, once for each model."""
    world = federation(sites=3, coordinates=SIZE)
    world.agree()
    start = world.server.start_round(1, model=models[0])
    name, found = world.names[1], []
    saved = world.sites[name].save()
    for model in models:
        session = SiteSession.restore(
            saved, world.policy, site=name, identity=world.identities[name], random=SystemRandom()
        )
        found.append(session.mask(start, model=model, vector=np.full(SIZE, 3)).vector)
    return found


def test_masked_vector_is_uniform(federation):
    (masked,) = masked_twice(federation, "a" * 64)
    assert min(uniform_p_values(masked)) > 1e-6


def test_unmasked_vector_is_not_taken_for_uniform(federation, monkeypatch):
    monkeypatch.setattr(site_module, "apply_masks", lambda _words, **_keys: None)
    (masked,) = masked_twice(federation, "a" * 64)
    assert max(uniform_p_values(masked)) < 1e-6


def test_models_give_unrelated_masks(federation):
    first, second = masked_twice(federation, "a" * 64, "b" * 64)
    assert min(uniform_p_values(first - second)) > 1e-6
    same, again = masked_twice(federation, "a" * 64, "a" * 64)
    assert (same == again).all()


def test_context_without_the_model_is_caught(federation, monkeypatch):
    monkeypatch.setattr(site_module, "round_context", lambda start, model: round_context(start, model="0" * len(model)))
    first, second = masked_twice(federation, "a" * 64, "b" * 64)
    assert max(uniform_p_values(first - second)) < 1e-6


def test_rounds_give_unrelated_masks(federation):
    world = federation(sites=3, coordinates=SIZE)
    world.agree()
    found, zeros = [], dict.fromkeys(world.names, np.zeros(SIZE, dtype=np.int64))
    for number in (1, 2):
        start = world.server.start_round(number, model="a" * 64)
        messages = {name: world.sites[name].mask(start, model="a" * 64, vector=zeros[name]) for name in world.names}
        found.append(messages["site-01"].vector)
        for message in messages.values():
            world.server.add_masked(message)
        assert not world.unmask().vector.any()
    assert min(uniform_p_values(found[0] - found[1])) > 1e-6
