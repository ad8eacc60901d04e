"""Messages: there and back, closed, and signed as a whole."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from privacy.secure_sum import MaskedInput, UnmaskRequest
from protocol.errors import WireError


@pytest.fixture
def exchanged(federation):
    """One of each kind of message, as they occur in a round with a drop-out."""
    world = federation(sites=4, coordinates=5)
    world.agree()
    vectors = world.vectors(1)
    start = world.server.start_round(1, model="a" * 64)
    site = world.sites["site-00"]
    masked = site.mask(start, model="a" * 64, vector=vectors["site-00"])
    world.server.add_masked(masked)
    for name in ("site-01", "site-02"):
        world.server.add_masked(world.sites[name].mask(start, model="a" * 64, vector=vectors[name]))
    listed = world.server.close_masking()
    signatures = [world.sites[name].sign_survivors(listed) for name in listed.survivors]
    for signature in signatures:
        world.server.add_signature(signature)
    request = world.server.unmask_requests()["site-00"]
    found = [site.offer(), masked.following, start, masked, listed, signatures[0], request, site.reveal(request)]
    return world, {type(message).__name__: message for message in found}


def back(message):
    return type(message).from_mapping(message.to_mapping(), vector=getattr(message, "vector", None))


def test_all_kinds_travel_as_text_and_whole_numbers(exchanged, message_kinds):
    _, messages = exchanged
    assert {kind.__name__ for kind in message_kinds} - set(messages) == {"OfferList"}
    for message in messages.values():
        mapping = message.to_mapping()
        assert all(type(value) in (str, int) for value in mapping.values())
        assert back(message).to_mapping() == mapping
        assert back(message).hash() == message.hash()
        json.dumps(mapping)


def test_missing_unknown_and_foreign_fields_are_refused(exchanged):
    _, messages = exchanged
    for message in messages.values():
        vector, mapping = getattr(message, "vector", None), message.to_mapping()
        for name in mapping:
            with pytest.raises(WireError):
                type(message).from_mapping({k: v for k, v in mapping.items() if k != name}, vector=vector)
            for wrong in (None, 1.5, True, b"x", "", "[", "{}", "[1]", '["X Y"]', "g" * 64, -1):
                with pytest.raises(WireError):
                    type(message).from_mapping(mapping | {name: wrong}, vector=vector)
        with pytest.raises(WireError):
            type(message).from_mapping(mapping | {"more": 1}, vector=vector)
        with pytest.raises(WireError):
            type(message).from_mapping(mapping, vector=np.zeros(1, np.uint32) if vector is None else None)


def test_nested_messages_are_closed_too(exchanged):
    _, messages = exchanged
    mapping = messages["UnmaskRequest"].to_mapping()
    listed = json.loads(mapping["listed"])
    for wrong in (listed | {"more": 1}, listed | {"round": 0}, listed | {"survivors": "site-00"}, [listed]):
        with pytest.raises(WireError):
            UnmaskRequest.from_mapping(mapping | {"listed": json.dumps(wrong)})


def test_vector_must_be_words(exchanged):
    _, messages = exchanged
    for wrong in (np.zeros(5, dtype=np.int32), np.zeros((5, 1), dtype=np.uint32)):
        with pytest.raises(WireError, match="vector"):
            MaskedInput.from_mapping(messages["MaskedInput"].to_mapping(), vector=wrong)


@pytest.mark.parametrize("kind", ["KeyOffer", "MaskedInput", "SurvivorSignature", "Reveal"])
def test_signature_covers_every_field(exchanged, kind):
    world, messages = exchanged
    message = messages[kind]
    world.policy.verify(message.site, signature=message.signature, signed=message.signed_bytes())
    changed = {"round": 2, "site": "site-01", "vector": None, "following": None, "shares": ()}
    for part in fields(message):
        if part.name == "signature":
            continue
        other = changed.get(part.name, "f" * 64)
        if part.name == "vector":
            other = message.vector + np.uint32(np.arange(5) == 4)
        if part.name == "following":
            other = replace(message.following, shares="00" + message.following.shares[2:])
        altered = replace(message, **{part.name: other})
        with pytest.raises(WireError):
            world.policy.verify("site-00", signature=message.signature, signed=altered.signed_bytes())


def test_per_peer_overhead_is_below_a_kilobyte(federation):
    for sites in (3, 40):
        world = federation(sites=sites, coordinates=1)
        world.agree()
        start = world.server.start_round(1, model="a" * 64)
        message = world.sites["site-00"].mask(start, model="a" * 64, vector=np.zeros(1, dtype=np.int64))
        assert len(json.dumps(message.to_mapping())) < 1500 + 200 * sites
