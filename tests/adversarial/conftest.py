"""A coordinator that keeps to no rule, and what it can work out from all that it holds."""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.secure_sum import (
    OfferList,
    RoundStart,
    SiteSession,
    SumPolicy,
    SumStage,
    SurvivorList,
    SurvivorSignature,
    UnmaskRequest,
    shamir,
    site,
)
from privacy.secure_sum.keys import agree, public_key
from privacy.secure_sum.masks import apply_masks
from privacy.secure_sum.messages import ShareOf, agreement_of, sign
from privacy.secure_sum.preparation import RoundSecrets, open_share, sealed_for, seed_commitment
from privacy.secure_sum.round_masks import remaining_masks, site_masks
from protocol.errors import PrivacyError, WireError
from protocol.randomness import SystemRandom

SITES = [f"site-{i}" for i in range(10)]
TARGET, COLLUDERS = SITES[0], SITES[7:]
MODEL, ZERO_MODEL = "a" * 64, "b" * 64
SIZE = 50


class MaliciousCoordinator:
    """Ten sites, of which three tell the coordinator everything: as many as the bound allows."""

    def __init__(self):
        self.identities = {name: Ed25519PrivateKey.generate() for name in SITES}
        roster = {name: key.public_key().public_bytes_raw().hex() for name, key in self.identities.items()}
        self.policy = SumPolicy(
            run="0" * 64, study="1" * 64, code="2" * 64, roster=roster,
            minimum_cohort=5, stages=(SumStage(rounds=1000, coordinates=SIZE, limit=2**20),),
        )  # fmt: skip
        self.random = SystemRandom()
        self.sites = {
            name: SiteSession(self.policy, site=name, identity=key, random=self.random)
            for name, key in self.identities.items()
        }
        words = np.random.default_rng(1)
        self.vectors = {name: words.integers(-(2**20), 2**20, SIZE) for name in SITES}
        self.offers = {name: session.offer() for name, session in self.sites.items()}
        self.participants, self.agreement, self.refusals = sorted(SITES), "", []
        self.prepared, self.masked, self.starts, self.contexts = {}, {}, {}, {}
        self.shares = {}  # (seed or key, site, round) to what whoever told of it
        self.private_keys = {}  # public mask key to private, of colluders and of sites that were made up

    def ask(self, what, *arguments, **named):
        """Ask a site for something; a refusal is written down and is no answer."""
        try:
            return what(*arguments, **named)
        except (PrivacyError, WireError) as error:
            self.refusals.append(str(error))
            return None

    def agree_with_all(self):
        """The honest beginning of a run."""
        offers = OfferList(offers=tuple(self.offers.values()))
        self.agreement = agreement_of(offers.offers)
        for name in SITES:
            self._keep_preparation(name, self.sites[name].accept_offers(offers))

    def start(self, number, names=SITES, replaced=None):
        """The start of a round with these sites, some keys being others than they should."""
        keys = {name: self.prepared[name, number].key for name in names} | (replaced or {})
        ordered = tuple(keys[name] for name in sorted(keys))
        return RoundStart(agreement=self.agreement, round=number, keys=ordered)

    def mask(self, name, start, model=MODEL):
        """Send a site a model: one has the site's vector as its gradient, the other has none."""
        vector = self.vectors[name] * (model == MODEL)
        message = self.ask(self.sites[name].mask, start, model=model, vector=vector)
        if message is not None:
            self.masked[name, start.round], self.starts[name, start.round] = message, start
            self.contexts[name, start.round] = site.round_context(start, model=model)
            self._keep_preparation(name, message.following)

    def survivor_list(self, reader, number, *, dropped=(), both=()):
        """A list that fits what this site was told when the round began."""
        start = self.starts[reader, number]
        survivors = tuple(key.site for key in start.keys if key.site not in dropped)
        return SurvivorList(
            agreement=start.agreement, round=number, context=self.contexts[reader, number],
            survivors=survivors, dropped=tuple(sorted((*dropped, *both))),
        )  # fmt: skip

    def signatures(self, listed, honest):
        """What honest sites sign when asked, and what colluders sign anyhow."""
        found = [self.ask(self.sites[name].sign_survivors, listed) for name in honest]
        for name in COLLUDERS:
            unsigned = SurvivorSignature(
                agreement=listed.agreement, round=listed.round, site=name, list_hash=listed.hash()
            )
            found.append(sign(unsigned, self.identities[name]))
        return tuple(signature for signature in found if signature is not None)

    def reveal(self, name, listed, signatures=()):
        """Ask a site for its shares, and keep what it tells."""
        sealed = tuple(
            ShareOf(site=key.site, share=self._sealed(key.site, listed.round, name))
            for key in self.starts[name, listed.round].keys
            if key.site != name
        )
        told = self.ask(self.sites[name].reveal, UnmaskRequest(listed=listed, sealed=sealed, signatures=signatures))
        for item in () if told is None else told.shares:
            seeds = len(self.shares.get(("seed", item.site, listed.round), {}).keys() & {name})
            kind = "seed" if item.site in listed.survivors and not seeds else "key"
            self._keep_share(kind, item.site, listed.round, name, bytes.fromhex(item.share))

    def collude(self, number):
        """Colluders open whatever was sealed for them."""
        for sender in SITES:
            for name in set(COLLUDERS) - {sender}:
                self.open_with(self.sites[name]._pair_secret(sender), sender, number, name)

    def open_with(self, pair_secret, sender, number, receiver):
        """Open a sealed share whose pair secret is known: both halves."""
        share = open_share(
            self._sealed(sender, number, receiver), policy=self.policy, agreement=self.agreement,
            round_number=number, sender=sender, receiver=receiver, pair_secret=pair_secret,
        )  # fmt: skip
        self._keep_share("seed", sender, number, receiver, share.seed)
        self._keep_share("key", sender, number, receiver, share.mask_key)

    def seed(self, name, number):
        """The seed of a site's own mask, if enough shares are known."""
        key = self.prepared[name, number].key
        about = {"agreement": key.agreement, "round_number": number, "site": name}
        return self._opened("seed", name, number, lambda it: seed_commitment(it, **about) == key.commitment)

    def private_key(self, key):
        """The private half of a round key, if it is a colluder's, or enough shares are known."""
        if key.mask_key in self.private_keys:
            return self.private_keys[key.mask_key]
        return self._opened("key", key.site, key.round, lambda it: public_key(it) == key.mask_key)

    def strip(self, name, number):
        """One site's vector, if all of its masks can be computed."""
        seed = self.seed(name, number)
        if (name, number) not in self.masked or seed is None:
            return None
        start, preparation = self.starts[name, number], self.prepared[name, number]
        words, context = self.masked[name, number].vector.copy(), self.contexts[name, number]
        public = {key.site: key.mask_key for key in start.keys}
        own = self.private_key(preparation.key)
        if own is not None:
            secrets = RoundSecrets(preparation=preparation, mask_key=own, seed=seed, own_share=b"")
            masks = site_masks(secrets, public, context=context)
            apply_masks(words, added=masks["subtracted"], subtracted=masks["added"])
            return words.view(np.int32)
        known = {key.site: self.private_key(key) for key in start.keys if key.site != name}
        if None in known.values():
            return None
        masks = remaining_masks(
            seeds={name: seed}, mask_keys=known, public_keys=public, agreement=start.agreement, context=context
        )
        apply_masks(words, **masks)
        return words.view(np.int32)

    def sum_of_all(self, number):
        """The sum of all vectors, if all seeds are known; it is noise where pair masks do not cancel."""
        total = np.zeros(SIZE, dtype=np.uint32)
        for name in SITES:
            seed = self.seed(name, number)
            if seed is None:
                return None
            total += self.masked[name, number].vector
            about = {"agreement": self.agreement, "context": self.contexts[name, number]}
            apply_masks(total, **remaining_masks(seeds={name: seed}, mask_keys={}, public_keys={name: ""}, **about))
        return total.view(np.int32)

    def isolate_target(self, names, identities=None):
        """Present the target with peers whose keys are the coordinator's own, and play a round with it alone."""
        private, real = self.random.bytes(32), self.offers[TARGET]
        self.private_keys[public_key(private)] = private
        offers, keys = [real], {}
        for name in names:
            offer = replace(real, site=name, sealing_key=public_key(private))
            offers.append(sign(offer, identities[name]) if identities else offer)
        offered = OfferList(offers=tuple(offers))
        self.agreement, self.participants = agreement_of(offered.offers), sorted([TARGET, *names])
        self._keep_preparation(TARGET, self.ask(self.sites[TARGET].accept_offers, offered))
        if (TARGET, 1) not in self.prepared:
            return None
        for name in names:
            key = replace(self.prepared[TARGET, 1].key, site=name, mask_key=public_key(private))
            keys[name] = sign(key, identities[name]) if identities else key
            self.open_with(agree(private, real.sealing_key), TARGET, 1, name)
        self.mask(TARGET, self.start(1, [TARGET], keys))
        return self.strip(TARGET, 1)

    def _keep_preparation(self, name, preparation):
        if preparation is not None:
            self.prepared[name, preparation.key.round] = preparation
            if name in COLLUDERS:
                self.private_keys[preparation.key.mask_key] = self.sites[name]._memory.pending.mask_key

    def _sealed(self, sender, number, receiver):
        return sealed_for(self.prepared[sender, number], receiver, participants=self.participants)

    def _keep_share(self, kind, owner, number, teller, share):
        self.shares.setdefault((kind, owner, number), {})[teller] = share

    def _opened(self, kind, owner, number, right):
        """A secret, if there are enough shares of it and they are right."""
        told = self.shares.get((kind, owner, number), {})
        if len(told) < self.policy.threshold:
            return None
        points = {self.participants.index(teller) + 1: share for teller, share in told.items()}
        secret = shamir.open_shares(points, threshold=self.policy.threshold)
        return secret if right(secret) else None


@pytest.fixture
def coordinator():
    return MaliciousCoordinator()
