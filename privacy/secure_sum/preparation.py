"""The two secrets of a site's round, and their shares.

A site makes both secrets of a round ahead of it and deals them to all peers together with its vector of the round
before, so that the steady state needs no exchange of its own for it:

* the *seed* of its self-mask, opened if the site's vector counts;
* the X25519 private key of its pair masks, opened if it does not.

Pair masks come from fresh keys every round, rather than from one pair secret of the whole run, for the sake of
drop-outs at different stages. If A never sends its vector and B sends one and then falls silent, B's mask with A must
still be removed. Neither is left to tell it, so that it must have been shared in advance. A share of a run's secret
would open all other rounds too; sharing a round's key of each pair would take n^2 shares per site; a round's private
key takes n.

The key that seals shares lasts for the run. Whoever takes a site over during a run can therefore, together with the
coordinator, unmask what that site sent earlier in the same run, but not in earlier runs, and no other site's vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.secure_sum import shamir
from privacy.secure_sum.keys import KEY_BYTES, SEAL_BYTES, commitment, derive, open_sealed, public_key, seal
from privacy.secure_sum.messages import Preparation, RoundKey, sign
from privacy.secure_sum.policy import SumPolicy
from protocol.digest import digest
from protocol.errors import WireError
from protocol.randomness import RandomSource

_SHARE_BYTES = 2 * KEY_BYTES
SEALED_BYTES = _SHARE_BYTES + SEAL_BYTES


@dataclass(frozen=True, kw_only=True)
class RoundSecrets:
    """What a site knows of a round that it has prepared and not yet masked.

    Attributes:
        preparation: The public part.
        mask_key: Private X25519 key of its pair masks.
        seed: Seed of its self-mask.
        own_share: Its own share of the seed.
    """

    preparation: Preparation
    mask_key: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    own_share: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class OpenedShare:
    """Both halves of a share, of which a site may tell one."""

    seed: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)


def prepare(
    *,
    policy: SumPolicy,
    agreement: str,
    round_number: int,
    site: str,
    participants: Sequence[str],
    pair_secrets: Mapping[str, bytes],
    identity: Ed25519PrivateKey,
    random: RandomSource,
) -> RoundSecrets:
    """Make and share the secrets of a round.

    Args:
        policy: Gives the threshold.
        agreement: Hash of the key agreement.
        round_number: The round.
        site: Who prepares.
        participants: All sites of the run, sorted; a site's place in this order is the point of its share.
        pair_secrets: For each peer, the secret that seals what the two tell each other.
        identity: Signs the round's public key.
        random: A source of its own.
    """
    mask_key, seed = random.bytes(KEY_BYTES), random.bytes(KEY_BYTES)
    points = range(1, len(participants) + 1)
    shares = shamir.share(seed + mask_key, points=points, threshold=policy.threshold, random=random)
    at = dict(zip(participants, points, strict=True))
    sealed = b"".join(
        seal(
            _sealing_key(pair_secrets[peer], agreement, round_number, site, peer),
            shares[at[peer]],
            about=_about(policy, agreement, round_number, site, peer),
        )
        for peer in participants
        if peer != site
    ).hex()
    key = RoundKey(
        agreement=agreement,
        round=round_number,
        site=site,
        mask_key=public_key(mask_key),
        commitment=seed_commitment(seed, agreement=agreement, round_number=round_number, site=site),
        shares_hash=digest(sealed),
    )
    return RoundSecrets(
        preparation=Preparation(key=sign(key, identity), shares=sealed),
        mask_key=mask_key,
        seed=seed,
        own_share=shares[at[site]][:KEY_BYTES],
    )


def require_shape(preparation: Preparation, *, participants: Sequence[str]) -> None:
    """Check that the shares are those that the key's signature covers, one for each peer.

    Raises:
        WireError: If they are not.
    """
    expected = 2 * SEALED_BYTES * (len(participants) - 1)
    if len(preparation.shares) != expected or digest(preparation.shares) != preparation.key.shares_hash:
        raise WireError(f"the shares of {preparation.key.site} are not what it signed.", remedy="Ask it again.")


def sealed_for(preparation: Preparation, receiver: str, *, participants: Sequence[str]) -> str:
    """The sealed share of one receiver, in hexadecimal."""
    place = [site for site in participants if site != preparation.key.site].index(receiver)
    return preparation.shares[2 * SEALED_BYTES * place : 2 * SEALED_BYTES * (place + 1)]


def open_share(
    sealed: str,
    *,
    policy: SumPolicy,
    agreement: str,
    round_number: int,
    sender: str,
    receiver: str,
    pair_secret: bytes,
) -> OpenedShare:
    """Open a share that a peer sealed for this site and this round.

    Raises:
        WireError: If it was sealed by somebody else, for somebody else or for another round, or was altered.
    """
    key = _sealing_key(pair_secret, agreement, round_number, sender, receiver)
    about = _about(policy, agreement, round_number, sender, receiver)
    plain = open_sealed(key, bytes.fromhex(sealed), about=about)
    if len(plain) != _SHARE_BYTES:
        raise WireError(f"a share from {sender} has {len(plain)} bytes.", remedy="Exclude that site.")
    return OpenedShare(seed=plain[:KEY_BYTES], mask_key=plain[KEY_BYTES:])


def seed_commitment(seed: bytes, *, agreement: str, round_number: int, site: str) -> str:
    """What a site says in advance of its seed, so that wrong shares are noticed."""
    return commitment(seed, about=[agreement, round_number, site])


def _sealing_key(secret: bytes, agreement: str, round_number: int, sender: str, receiver: str) -> bytes:
    return derive(secret, salt=agreement, purpose="sealed shares", about=[round_number, sender, receiver])


def _about(policy: SumPolicy, agreement: str, round_number: int, sender: str, receiver: str) -> list[str | int]:
    return [policy.run, agreement, round_number, sender, receiver]
