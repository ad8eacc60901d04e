"""Who may take part: what both sides check of key offers and of round keys before they use any."""

from collections.abc import Sequence

from privacy.secure_sum.keys import agree
from privacy.secure_sum.messages import KeyOffer, RoundKey, RoundStart
from privacy.secure_sum.policy import SumPolicy
from protocol.errors import PrivacyError

_ANY_PRIVATE = bytes(range(32))  # not a secret: only whether the exchange works is of interest
DIFFERS = "Nothing was released. Ask the coordinator why it differs from the approved study."


def require_offer(offer: KeyOffer, *, policy: SumPolicy) -> None:
    """Check that an offer is its site's, for this run, cohort, study and code.

    Raises:
        PrivacyError: If it is for another run, cohort, study or code.
        WireError: If the site is not in the roster, or did not sign it.
    """
    if (offer.run, offer.study, offer.code, offer.cohort) != (
        policy.run,
        policy.study,
        policy.code,
        policy.cohort,
    ):
        raise PrivacyError(f"the offer of {offer.site} is for another run, study, code or cohort.", remedy=DIFFERS)
    policy.verify(offer.site, signature=offer.signature, signed=offer.signed_bytes())
    agree(_ANY_PRIVATE, offer.sealing_key)


def require_offers(offers: Sequence[KeyOffer], *, policy: SumPolicy, own: KeyOffer | None) -> None:
    """Check that enough sites offered, each once, and this site as it did.

    Raises:
        PrivacyError: If there are too few, a site has two offers, or the reader's own is missing or altered.
        WireError: If a site is not in the roster, or did not sign its offer.
    """
    if own is None or own not in offers:
        raise PrivacyError("this site's own offer is missing or altered.", remedy=DIFFERS)
    if len({offer.site for offer in offers}) != len(offers):
        raise PrivacyError("a site has two offers.", remedy=DIFFERS)
    policy.require_enough(len(offers), what="the key agreement")
    for offer in offers:
        require_offer(offer, policy=policy)


def require_round(start: RoundStart, *, policy: SumPolicy, participants: Sequence[str], own: RoundKey) -> None:
    """Check that a round begins with enough sites of the run, each with its key of this very round.

    Raises:
        PrivacyError: If there are too few, one is not in the run or out of order, the reader's own key is
            missing or altered, or a key is of another round.
        WireError: If a key is not signed by its site.
    """
    sites = [key.site for key in start.keys]
    if sites != sorted(set(sites)) or not set(sites) <= set(participants):
        raise PrivacyError(f"the sites of round {start.round} are out of order or not in the run.", remedy=DIFFERS)
    if own not in start.keys:
        raise PrivacyError("this site's own round key is missing or altered.", remedy=DIFFERS)
    policy.require_enough(len(sites), what=f"round {start.round}")
    for key in start.keys:
        require_round_key(key, policy=policy, agreement=start.agreement, round_number=start.round)


def require_round_key(key: RoundKey, *, policy: SumPolicy, agreement: str, round_number: int) -> None:
    """Check that a key is its site's, for this run and this round.

    Raises:
        PrivacyError: If it is of another run or round: its private half may have been opened there.
        WireError: If the site is not in the roster, did not sign it, or the key is degenerate.
    """
    require_same_round(key, agreement=agreement, round_number=round_number)
    policy.verify(key.site, signature=key.signature, signed=key.signed_bytes())
    # With a key of small order every peer would refuse to mask, after it has paid.
    agree(_ANY_PRIVATE, key.mask_key)


def require_same_round(key: RoundKey, *, agreement: str, round_number: int) -> None:
    """Check what a key says it is for.

    Raises:
        PrivacyError: If it is of another run or round.
    """
    if (key.agreement, key.round) != (agreement, round_number):
        raise PrivacyError(f"the key of {key.site} is of another run or round.", remedy=DIFFERS)
