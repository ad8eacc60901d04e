"""A federation in memory whose sites may fall silent at any stage."""

from collections import defaultdict

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.secure_sum import (
    KeyOffer,
    MaskedInput,
    OfferList,
    Preparation,
    Reveal,
    RoundStart,
    ServerSession,
    SiteSession,
    SumPolicy,
    SumStage,
    SurvivorList,
    SurvivorSignature,
    UnmaskRequest,
)
from protocol.randomness import DeterministicRandom

MODEL = "a" * 64


def carried(message, vector=None):
    """The message as it arrives on the other side of a wire."""
    return type(message).from_mapping(message.to_mapping(), vector=vector)


class Federation:
    """Sites, coordinator, and everything that travels between them in its flat form."""

    def __init__(self, *, sites, coordinates, minimum=3, limit=None, seed="test", before=()):
        random = DeterministicRandom(seed)
        self.names = [f"site-{i:02d}" for i in range(sites)]
        self.identities = {
            name: Ed25519PrivateKey.from_private_bytes(random.child("identity", name).bytes(32)) for name in self.names
        }
        roster = {name: key.public_key().public_bytes_raw().hex() for name, key in self.identities.items()}
        self.policy = SumPolicy(
            run="0" * 64, study="1" * 64, code="2" * 64, roster=roster, minimum_cohort=minimum,
            stages=(*before, SumStage(rounds=1000, coordinates=coordinates, limit=limit or (2**31 - 1) // sites),),
        )  # fmt: skip
        self.sites = {
            name: SiteSession(self.policy, site=name, identity=key, random=random.child("site", name))
            for name, key in self.identities.items()
        }
        self.server = ServerSession(self.policy)
        self.exchanges = 0
        self.sent = defaultdict(int)

    def agree(self, *, absent=(), unprepared=()):
        present = [name for name in self.names if name not in absent]
        for name in present:
            self.server.add_offer(carried(self.sites[name].offer()))
        offers = carried(self.server.close_offers())
        for name in present:
            preparation = self.sites[name].accept_offers(offers)
            if name not in unprepared:
                self.server.add_preparation(carried(preparation))

    def rejoin(self, number, *, absent=()):
        """Sites that were away prepare the round."""
        for name in self.server.unprepared(number):
            if name not in absent:
                self.server.add_preparation(carried(self.sites[name].prepare(number)))

    def mask(self, start, vectors, *, silent=(), model=MODEL):
        self.exchanges += 1
        for key in start.keys:
            if key.site not in silent:
                message = self.sites[key.site].mask(start, model=model, vector=vectors[key.site])
                self.server.add_masked(carried(message, message.vector))

    def unmask(self, *, unsigning=(), unrevealing=()):
        listed = carried(self.server.close_masking())
        if self.server.needs_signatures:
            self.exchanges += 1
            for name in listed.survivors:
                if name not in unsigning:
                    self.server.add_signature(carried(self.sites[name].sign_survivors(listed)))
        self.exchanges += 1
        for name, request in self.server.unmask_requests().items():
            if name not in (*unsigning, *unrevealing):
                self.server.add_reveal(carried(self.sites[name].reveal(carried(request))))
        return self.server.finish_round()

    def round(self, number, vectors, *, silent=(), unsigning=(), unrevealing=()):
        start = carried(self.server.start_round(number, model=MODEL))
        self.mask(start, vectors, silent=silent)
        return self.unmask(unsigning=unsigning, unrevealing=unrevealing)

    def vectors(self, seed, *, extreme=False):
        """int64 [coordinates] for each site, some at the very limit."""
        draw, stage = np.random.default_rng(seed), self.policy.stage(1)
        limit = stage.limit
        vectors = {}
        for name in self.names:
            vectors[name] = draw.integers(-limit, limit, stage.coordinates, endpoint=True)
            if extreme:
                vectors[name][:] = limit if seed % 2 else -limit
        return vectors


@pytest.fixture
def federation():
    return Federation


@pytest.fixture(scope="session")
def message_kinds():
    return (KeyOffer, OfferList, Preparation, RoundStart, MaskedInput, SurvivorList, SurvivorSignature,
            UnmaskRequest, Reveal)  # fmt: skip
