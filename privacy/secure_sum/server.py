"""The coordinator's side of a secure sum: it adds masked vectors and learns their sum, and nothing else."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from privacy.secure_sum import shamir
from privacy.secure_sum.admission import require_offer, require_round_key
from privacy.secure_sum.keys import KEY_BYTES, public_key
from privacy.secure_sum.masks import apply_masks, to_integers
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
)
from privacy.secure_sum.policy import SumPolicy
from privacy.secure_sum.preparation import require_shape, sealed_for, seed_commitment
from privacy.secure_sum.round_masks import remaining_masks
from privacy.secure_sum.server_memory import RoundMemory, ServerMemory
from protocol.errors import FederationError, PrivacyError, WireError

_ASK = "The site is left out of this round; look at its log."
_ORDER = "Follow the order that the class describes."
_FEW = "Nothing was revealed and the model is unchanged. Wait for more sites, then begin another round."


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundSum:
    """What the coordinator learns.

    Attributes:
        round: Number of the round.
        contributors: Whose vectors the sum is over, sorted.
        vector: int32 [coordinates], the exact sum in grid steps.
    """

    round: int
    contributors: tuple[str, ...]
    vector: NDArray[np.int32]


class ServerSession:
    """One run, as the coordinator sees it. Its memory is one vector, whatever the number of sites.

    Once per run: `add_offer` for each, `close_offers`, `add_preparation` for each. Every round: `start_round`,
    `add_masked` for each, `close_masking`; if `needs_signatures`, `add_signature` for each; `unmask_requests`,
    `add_reveal` for each, `finish_round`. A site in `unprepared` was away: ask it to prepare the next round.

    What is wrong with one message raises WireError or PrivacyError and changes nothing: leave that site out. What
    ends a round raises FederationError; another round may follow.

    A process that may end at any moment writes `save` down before each message that it sends, and goes on from
    `restore`: it then sends the same message again, byte for byte, and a site answers a repeated message alike. What
    was decided is thus never decided twice: who is in a round, and whose vectors count.

    Args:
        policy: The same terms as at the sites.

    Attributes:
        policy: As given.
    """

    def __init__(self, policy: SumPolicy) -> None:
        self.policy = policy
        self._memory = ServerMemory()

    def save(self) -> bytes:
        """What the coordinator remembers: nothing that it was not told, and no secret of a site."""
        return self._memory.to_bytes()

    @classmethod
    def restore(cls, saved: bytes, policy: SumPolicy) -> Self:
        """Continue from what `save` returned, under the same policy.

        Raises:
            PrivacyError: If it is damaged, or of another run, study, code, cohort or size.
            WireError: If an offer in it is not its site's.
        """
        session = cls(policy)
        memory = session._memory = ServerMemory.from_bytes(saved)
        for offer in memory.offers.values():
            require_offer(offer, policy=policy)
        current = memory.round
        fits = current is None or current.total.size == policy.stage(current.start.round).coordinates
        if memory.agreement not in ("", agreement_of(tuple(memory.offers.values()))) or not fits:
            raise PrivacyError("the saved memory is of another run.", remedy="Begin a new run of the study.")
        return session

    @property
    def agreed(self) -> bool:
        """Whether the key agreement is over."""
        return bool(self._memory.agreement)

    @property
    def last_round(self) -> int:
        """Number of the last round that was begun; 0 before the first."""
        return self._memory.last_round

    @property
    def under_way(self) -> RoundStart | None:
        """What the sites of the round under way are to be told; None between rounds."""
        return None if self._memory.round is None else self._memory.round.start

    @property
    def offered(self) -> frozenset[str]:
        """Sites whose offers were taken."""
        return frozenset(self._memory.offers)

    @property
    def strangers(self) -> tuple[str, ...]:
        """Sites of the run that have never prepared a round, and so may not know everybody's keys."""
        return tuple(site for site in self._participants() if site not in self._memory.prepared)

    @property
    def counted(self) -> frozenset[str]:
        """Sites whose vectors are in the sum under way."""
        return frozenset(self._current().counted)

    @property
    def masking_closed(self) -> bool:
        """Whether it is decided whose vectors count in the round under way."""
        return self._current().listed is not None

    @property
    def signed(self) -> frozenset[str]:
        """Sites whose signatures of the survivor list were taken."""
        return frozenset(self._current().signatures)

    @property
    def revealed(self) -> frozenset[str]:
        """Sites whose shares were taken."""
        return frozenset(self._current().reveals)

    def end_round(self) -> None:
        """Give up the round under way: nothing of it will ever be opened."""
        self._memory.round = None

    def add_offer(self, offer: KeyOffer) -> None:
        """Take a site's offer."""
        if self._memory.agreement or offer.site in self._memory.offers:
            raise WireError(f"{offer.site} offered too late or twice.", remedy=_ASK)
        require_offer(offer, policy=self.policy)
        self._memory.offers[offer.site] = offer

    def close_offers(self) -> OfferList:
        """End the key agreement; what it returns goes to every site that offered.

        Raises:
            FederationError: If too few sites offered.
        """
        self._require_enough(len(self._memory.offers), "the key agreement")
        listed = self.offer_list()
        self._memory.agreement = agreement_of(listed.offers)
        return listed

    def offer_list(self) -> OfferList:
        """What every site that offered is told; once the offers are closed it is the same for good."""
        return OfferList(offers=tuple(self._memory.offers[site] for site in sorted(self._memory.offers)))

    def add_preparation(self, preparation: Preparation) -> None:
        """Take what a site prepared for a round that has not begun."""
        key = preparation.key
        if key.site not in self._memory.offers or key.round <= self._memory.last_round:
            raise WireError(f"{key.site} prepared round {key.round} too late, or is not in the run.", remedy=_ASK)
        require_round_key(key, policy=self.policy, agreement=self._memory.agreement, round_number=key.round)
        require_shape(preparation, participants=self._participants())
        self._memory.prepared[key.site] = preparation

    def unprepared(self, round_number: int) -> tuple[str, ...]:
        """Sites of the run that would have to prepare this round before they can join it."""
        ready = {site for site, found in self._memory.prepared.items() if found.key.round == round_number}
        return tuple(site for site in self._participants() if site not in ready)

    def start_round(self, round_number: int, *, model: str) -> RoundStart:
        """Begin a round with all sites that have prepared it.

        Args:
            round_number: Greater than that of any round before.
            model: SHA-256 of the model that goes to the sites, 64 hexadecimal digits.

        Raises:
            FederationError: If too few have prepared it.
        """
        if round_number <= self._memory.last_round:
            raise FederationError(f"round {round_number} is over.", remedy="Begin the next one.")
        ready = {site: self._memory.prepared[site] for site in self._participants() if site in self._memory.prepared
                 and self._memory.prepared[site].key.round == round_number}  # fmt: skip
        self._require_enough(len(ready), f"round {round_number}")
        keys = tuple(preparation.key for preparation in ready.values())
        start = RoundStart(agreement=self._memory.agreement, round=round_number, keys=keys)
        self._memory.last_round = round_number
        self._memory.round = RoundMemory(
            start=start,
            context=round_context(start, model=model),
            prepared=ready,
            total=np.zeros(self.policy.stage(round_number).coordinates, dtype=np.uint32),
        )
        return start

    def add_masked(self, message: MaskedInput) -> None:
        """Add a masked vector to the sum, at once; it is not kept."""
        current = self._current()
        site = message.site
        if current.listed is not None or site in current.counted:
            raise WireError(f"the vector of {site} came late or was counted.", remedy=_ASK)
        expected = (self._memory.agreement, current.start.round, current.context)
        if site not in current.prepared or (message.agreement, message.round, message.context) != expected:
            raise WireError(f"the vector of {site} answers another request.", remedy=_ASK)
        if message.vector.shape != current.total.shape:
            raise WireError(f"the vector of {site} has {message.vector.size} coordinates.", remedy=_ASK)
        key = message.following.key
        if (key.site, key.round) != (site, current.start.round + 1):
            raise WireError(f"{site} prepared another round than the next.", remedy=_ASK)
        self.policy.verify(site, signature=message.signature, signed=message.signed_bytes())
        self.add_preparation(message.following)
        current.total += message.vector
        current.counted.add(site)

    def close_masking(self) -> SurvivorList:
        """Decide, once and for all, whose vectors count.

        Raises:
            FederationError: If they are too few; the round is over and nothing can be unmasked.
        """
        current = self._current()
        if current.listed is None:
            self._require_enough(len(current.counted), f"round {current.start.round}", ends_round=True)
            active = [key.site for key in current.start.keys]
            current.listed = SurvivorList(
                agreement=self._memory.agreement,
                round=current.start.round,
                context=current.context,
                survivors=tuple(site for site in active if site in current.counted),
                dropped=tuple(site for site in active if site not in current.counted),
            )
        return current.listed

    @property
    def needs_signatures(self) -> bool:
        """Whether sites dropped out, so that the survivors must sign the list before they open anything."""
        return bool(self._listed().dropped)

    def add_signature(self, signature: SurvivorSignature) -> None:
        """Take a survivor's signature of the list."""
        listed = self._listed()
        found = (signature.agreement, signature.round, signature.list_hash)
        if signature.site not in listed.survivors or found != (listed.agreement, listed.round, listed.hash()):
            raise WireError(f"{signature.site} signed another survivor list.", remedy=_ASK)
        self.policy.verify(signature.site, signature=signature.signature, signed=signature.signed_bytes())
        self._current().signatures[signature.site] = signature

    def unmask_requests(self) -> dict[str, UnmaskRequest]:
        """What each survivor gets: the list, its signatures, and the shares that peers sealed for it.

        Raises:
            FederationError: If too few have signed a list with drop-outs; the round is over.
        """
        current, listed = self._current(), self._listed()
        signatures = tuple(current.signatures[site] for site in sorted(current.signatures))
        if listed.dropped and len(signatures) < self.policy.threshold:
            self._end_round(f"{len(signatures)} sites signed the survivor list of round {listed.round}")
        return {
            site: UnmaskRequest(listed=listed, sealed=self._sealed_for(site), signatures=signatures)
            for site in listed.survivors
        }

    def add_reveal(self, reveal: Reveal) -> None:
        """Take the shares that a survivor tells."""
        current, listed = self._current(), self._listed()
        found = (reveal.agreement, reveal.round, reveal.list_hash)
        if reveal.site not in listed.survivors or found != (listed.agreement, listed.round, listed.hash()):
            raise WireError(f"{reveal.site} reveals for another survivor list.", remedy=_ASK)
        sites = [item.site for item in reveal.shares]
        sizes = {len(item.share) for item in reveal.shares}
        if sorted(sites) != sorted((*listed.survivors, *listed.dropped)) or sizes != {2 * KEY_BYTES}:
            raise WireError(f"{reveal.site} did not tell one share of each site.", remedy=_ASK)
        self.policy.verify(reveal.site, signature=reveal.signature, signed=reveal.signed_bytes())
        current.reveals[reveal.site] = reveal

    def finish_round(self) -> RoundSum:
        """Unmask the sum.

        Raises:
            FederationError: If too few sites revealed, or a wrong share was told; the round is over.
        """
        current, listed = self._current(), self._listed()
        if len(current.reveals) < self.policy.threshold:
            self._end_round(f"{len(current.reveals)} sites revealed their shares in round {listed.round}")
        secrets = self._open_secrets()
        masks = remaining_masks(
            seeds={site: secrets[site] for site in listed.survivors},
            mask_keys={site: secrets[site] for site in listed.dropped},
            public_keys={key.site: key.mask_key for key in current.start.keys},
            agreement=self._memory.agreement,
            context=current.context,
        )
        apply_masks(current.total, **masks)
        self._memory.round = None
        return RoundSum(round=listed.round, contributors=listed.survivors, vector=to_integers(current.total))

    def _open_secrets(self) -> dict[str, bytes]:
        """Each survivor's seed and each dropped site's mask key, checked against what it said in advance."""
        current, listed = self._current(), self._listed()
        active = [key.site for key in current.start.keys]
        rows = {}
        for place, site in enumerate(self._participants(), start=1):
            if site in current.reveals:
                told = {item.site: bytes.fromhex(item.share) for item in current.reveals[site].shares}
                rows[place] = b"".join(told[name] for name in active)
        # All secrets lie in one row, so that the weights of the shares are computed once.
        opened = shamir.open_shares(rows, threshold=self.policy.threshold)
        secrets = {}
        for index, key in enumerate(current.start.keys):
            secret = opened[KEY_BYTES * index : KEY_BYTES * (index + 1)]
            secrets[key.site] = secret
            good = public_key(secret) == key.mask_key if key.site in listed.dropped else (
                key.commitment == seed_commitment(
                    secret, agreement=self._memory.agreement, round_number=listed.round, site=key.site)
            )  # fmt: skip
            if not good:
                self._end_round(f"a share of {key.site}'s secret in round {listed.round} is wrong: shares")
        return secrets

    def _sealed_for(self, receiver: str) -> tuple[ShareOf, ...]:
        participants = self._participants()
        return tuple(
            ShareOf(site=site, share=sealed_for(preparation, receiver, participants=participants))
            for site, preparation in self._current().prepared.items()
            if site != receiver
        )

    def _participants(self) -> tuple[str, ...]:
        return tuple(sorted(self._memory.offers)) if self._memory.agreement else ()

    def _current(self) -> RoundMemory:
        if self._memory.round is None:
            raise FederationError("no round is under way.", remedy=_ORDER)
        return self._memory.round

    def _listed(self) -> SurvivorList:
        listed = self._current().listed
        if listed is None:
            raise FederationError("masking is not closed.", remedy=_ORDER)
        return listed

    def _require_enough(self, sites: int, what: str, *, ends_round: bool = False) -> None:
        try:
            self.policy.require_enough(sites, what=what)
        except PrivacyError as error:
            if ends_round:
                self._memory.round = None
            raise FederationError(error.problem, remedy=_FEW) from error

    def _end_round(self, problem: str) -> None:
        self._memory.round = None
        raise FederationError(f"{problem}, fewer than the {self.policy.threshold} needed.", remedy=_FEW)
