"""A site's side of a secure sum: it checks everything that it is told, and adds a masked vector."""

import hashlib
from typing import Self, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from numpy.typing import NDArray

from privacy.secure_sum.admission import DIFFERS, require_offers, require_round
from privacy.secure_sum.keys import KEY_BYTES, agree, public_key
from privacy.secure_sum.masks import apply_masks, to_words
from privacy.secure_sum.memory import OpenRound, SiteMemory
from privacy.secure_sum.messages import (
    KeyOffer,
    MaskedInput,
    OfferList,
    Preparation,
    Reveal,
    RoundStart,
    ShareOf,
    SurvivorList,
    SurvivorSignature,
    UnmaskRequest,
    agreement_of,
    round_context,
    sign,
)
from privacy.secure_sum.policy import SumPolicy
from privacy.secure_sum.preparation import RoundSecrets, open_share, prepare
from privacy.secure_sum.round_masks import site_masks
from privacy.secure_sum.survivors import require_partition, require_signatures, require_survivors
from privacy.secure_sum.transcript import Transcript, TranscriptEvent
from protocol.errors import PrivacyError, WireError
from protocol.randomness import RandomSource

Sent = TypeVar("Sent", MaskedInput, Reveal)

_EARLIER = "Nothing was released. The coordinator must follow the protocol's order."


class SiteSession:
    """One site in one run.

    Not safe for two threads at once. Secrets are dropped as soon as they are not needed; Python cannot promise that
    no copy stays in memory, so that a site's machine must not be swapped or dumped to where others read.

    Args:
        policy: What the site insists on.
        site: The site's own name.
        identity: Its Ed25519 key, as in the roster.
        random: Where all secrets come from.
    """

    def __init__(self, policy: SumPolicy, *, site: str, identity: Ed25519PrivateKey, random: RandomSource) -> None:
        own = identity.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        if policy.roster.get(site) != own:
            raise PrivacyError(f"the roster has another key for {site!r}, or none.", remedy="Ask for a new study.")
        self.policy = policy
        self.site = site
        self._identity = identity
        self._random = random
        self._memory = SiteMemory()
        self._pair_secrets: dict[str, bytes] = {}

    @property
    def agreed(self) -> bool:
        """Whether offers were accepted: from then on the site prepares rounds and offers nothing."""
        return bool(self._memory.agreement)

    def offer(self) -> KeyOffer:
        """Make the site's fresh sealing key for this run; the same one if asked again."""
        if self._memory.offer is None:
            self._memory.sealing_key = self._random.bytes(KEY_BYTES)
            unsigned = KeyOffer(
                run=self.policy.run,
                study=self.policy.study,
                code=self.policy.code,
                cohort=self.policy.cohort,
                site=self.site,
                sealing_key=public_key(self._memory.sealing_key),
            )
            self._memory.offer = sign(unsigned, self._identity)
        return self._memory.offer

    def accept_offers(self, offered: OfferList) -> Preparation:
        """Check everybody's offers, agree on secrets with all, and prepare round 1.

        Raises:
            PrivacyError: If offers were accepted before, there are too few, this site's own is missing or
                altered, or one is for another run, cohort, study or code.
            WireError: If a site is not in the roster, or an offer is not signed by its site.
        """
        offers = tuple(sorted(offered.offers, key=lambda offer: offer.site))
        if self._memory.agreement:
            raise PrivacyError("offers were accepted before in this run.", remedy=_EARLIER)
        require_offers(offers, policy=self.policy, own=self._memory.offer)
        self._memory.offers = offers
        self._memory.agreement = agreement_of(offers)
        self._memory.note(0, TranscriptEvent.AGREED, self._memory.agreement)
        return self.prepare(1)

    def prepare(self, round_number: int) -> Preparation:
        """Prepare a round that this site has not prepared yet, having been away; the same if asked again.

        Raises:
            PrivacyError: If the round, or a later one, was prepared before and its secrets are used or
                dropped.
        """
        if not self._memory.agreement:
            raise PrivacyError("no offers were accepted yet.", remedy=_EARLIER)
        pending = self._memory.pending
        if pending is not None and pending.preparation.key.round == round_number:
            return pending.preparation
        if round_number <= self._memory.prepared:
            raise PrivacyError(f"round {round_number} was prepared before.", remedy="Begin a later round.")
        self._memory.pending = prepare(
            policy=self.policy,
            agreement=self._memory.agreement,
            round_number=round_number,
            site=self.site,
            participants=self._participants(),
            pair_secrets={peer: self._pair_secret(peer) for peer in self._participants() if peer != self.site},
            identity=self._identity,
            random=self._random,
        )
        self._memory.prepared = round_number
        return self._memory.pending.preparation

    def require_start(self, start: RoundStart, *, round_number: int) -> None:
        """Refuse a round that `mask` would refuse, or that is another than its caller pays for.

        Raises:
            PrivacyError: If the round is another, was masked, or begins with too few or wrong keys.
            WireError: If a key is not signed by its site, or is degenerate.
        """
        if start.round != round_number:
            raise PrivacyError(f"round {round_number} begins with keys of round {start.round}.", remedy=_EARLIER)
        self._check_start(start)

    def mask(self, start: RoundStart, *, model: str, vector: NDArray[np.signedinteger]) -> MaskedInput:
        """Add this site's masks to its vector, once per round.

        Args:
            start: Round, and who is in it.
            model: SHA-256 of the model that this site received, 64 hexadecimal digits; computed here, not
                taken from a message.
            vector: int32 or int64 [coordinates of the round's stage], in grid steps, noise included.

        Raises:
            PrivacyError: If the round was masked before or not prepared, too few sites are in it, or the
                vector is of another size or beyond the limit.
            WireError: If a key is not signed by its site for this round.
        """
        secrets = self._check_start(start)
        stage = self.policy.stage(start.round)
        words = to_words(vector, coordinates=stage.coordinates, limit=stage.limit)
        context = round_context(start, model=model)
        publics = {key.site: key.mask_key for key in start.keys}
        apply_masks(words, **site_masks(secrets, publics, context=context))
        self._memory.open = OpenRound(
            round=start.round,
            context=context,
            active=tuple(key.site for key in start.keys),
            own_share=secrets.own_share,
        )
        unsigned = MaskedInput(
            agreement=start.agreement,
            round=start.round,
            site=self.site,
            context=context,
            following=self.prepare(start.round + 1),  # and so the secrets of this round are gone
            vector=words,
        )
        self._memory.note(start.round, TranscriptEvent.STARTED, context)
        return self._sent(sign(unsigned, self._identity), TranscriptEvent.MASKED)

    def sign_survivors(self, listed: SurvivorList) -> SurvivorSignature:
        """Sign the one survivor list of this round that this site acts on.

        Raises:
            PrivacyError: If the list is not acceptable, or another one was signed or acted on before.
        """
        self._check_list(listed)
        self._act_once(listed)
        unsigned = SurvivorSignature(
            agreement=listed.agreement, round=listed.round, site=self.site, list_hash=listed.hash()
        )
        return sign(unsigned, self._identity)

    def reveal(self, request: UnmaskRequest) -> Reveal:
        """Tell a share of each survivor's seed and of each dropped site's mask key, for one list per round.

        Asked again for the same list, it tells the same.

        Raises:
            PrivacyError: If the list is not acceptable, another one was signed or acted on before, or too few
                have signed one with drop-outs.
            WireError: If a signature is not its site's, or a share was not sealed for this site and round.
        """
        listed = request.listed
        opened = self._check_list(listed)
        if listed.dropped:
            require_signatures(listed, request.signatures, policy=self.policy)
        if sorted(item.site for item in request.sealed) != [site for site in opened.active if site != self.site]:
            raise WireError("the sealed shares are not one of each peer.", remedy="The coordinator must send them.")
        self._act_once(listed)
        shares = [ShareOf(site=self.site, share=opened.own_share.hex())]
        for item in request.sealed:
            shares += self._halves(item, listed)
        unsigned = Reveal(
            agreement=listed.agreement,
            round=listed.round,
            site=self.site,
            list_hash=listed.hash(),
            shares=tuple(shares),
        )
        return self._sent(sign(unsigned, self._identity), TranscriptEvent.REVEALED)

    def transcript(self) -> Transcript:
        """The signed evidence so far, for `compare_transcripts`."""
        return Transcript.signed(self._memory.entries, policy=self.policy, site=self.site, identity=self._identity)

    def save(self) -> bytes:
        """What the site remembers, secrets included, for a process that ends between two messages.

        Keep it readable by the site alone, write it before the answer leaves, and never keep two versions: a site
        that goes back to an older one could mask a round twice.
        """
        return self._memory.to_bytes()

    @classmethod
    def restore(
        cls, saved: bytes, policy: SumPolicy, *, site: str, identity: Ed25519PrivateKey, random: RandomSource
    ) -> Self:
        """Continue from what `save` returned, under the same policy.

        Raises:
            PrivacyError: If it is damaged, or of another run, study, code or cohort.
        """
        session = cls(policy, site=site, identity=identity, random=random)
        session._memory = SiteMemory.from_bytes(saved)
        offer = session._memory.offer
        expected = (policy.run, policy.study, policy.code, policy.cohort, site)
        if offer is not None and (offer.run, offer.study, offer.code, offer.cohort, offer.site) != expected:
            raise PrivacyError("the saved memory is of another run.", remedy="Begin a new session.")
        return session

    def _participants(self) -> tuple[str, ...]:
        return tuple(offer.site for offer in self._memory.offers)

    def _pair_secret(self, peer: str) -> bytes:
        """What seals shares between this site and a peer, for the whole run."""
        if peer not in self._pair_secrets:
            keys = {offer.site: offer.sealing_key for offer in self._memory.offers}
            self._pair_secrets[peer] = agree(self._memory.sealing_key, keys[peer])
        return self._pair_secrets[peer]

    def _check_start(self, start: RoundStart) -> RoundSecrets:
        """Refuse a round that was masked, or whose keys are not those of enough sites for this very round."""
        secrets = self._memory.pending
        if secrets is None or (start.agreement, start.round) != (
            self._memory.agreement,
            secrets.preparation.key.round,
        ):
            raise PrivacyError(
                f"round {start.round} was masked before, or this site has not prepared it.", remedy=_EARLIER
            )
        own = secrets.preparation.key
        require_round(start, policy=self.policy, participants=self._participants(), own=own)
        return secrets

    def _check_list(self, listed: SurvivorList) -> OpenRound:
        opened = self._memory.open
        if opened is None or (listed.agreement, listed.round, listed.context) != (
            self._memory.agreement,
            opened.round,
            opened.context,
        ):
            raise PrivacyError(
                f"the survivor list is of round {listed.round} in another context than this site masked.",
                remedy=_EARLIER,
            )
        require_partition(listed, active=opened.active)
        require_survivors(listed, policy=self.policy, site=self.site)
        return opened

    def _act_once(self, listed: SurvivorList) -> None:
        """Commit to this list, and refuse any other in this round."""
        opened = self._memory.open
        if opened is None or opened.list_hash not in ("", listed.hash()):
            raise PrivacyError(f"another survivor list of round {listed.round} was acted on.", remedy=DIFFERS)
        if not opened.list_hash:
            opened.list_hash = listed.hash()
            self._memory.note(listed.round, TranscriptEvent.LISTED, opened.list_hash)

    def _halves(self, item: ShareOf, listed: SurvivorList) -> list[ShareOf]:
        """Of a peer's share, the half that its place on the list calls for."""
        share = open_share(
            item.share,
            policy=self.policy,
            agreement=listed.agreement,
            round_number=listed.round,
            sender=item.site,
            receiver=self.site,
            pair_secret=self._pair_secret(item.site),
        )
        halves = []
        if item.site in listed.survivors:
            halves.append(ShareOf(site=item.site, share=share.seed.hex()))
        if item.site in listed.dropped:
            halves.append(ShareOf(site=item.site, share=share.mask_key.hex()))
        return halves

    def _sent(self, message: Sent, event: TranscriptEvent) -> Sent:
        """Note the signature of what leaves: it stands for the whole message."""
        self._memory.note(message.round, event, hashlib.sha256(bytes.fromhex(message.signature)).hexdigest())
        return message
